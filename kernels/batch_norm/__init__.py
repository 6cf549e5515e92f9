"""Batch normalisation of x (..., C): one mean and variance a channel, over all axes but the last.

    mean = sum x / n,   var = sum (x - mean)^2 / n,   rstd = 1 / sqrt(var + eps),   n = x.size / C
    y = gamma xhat + beta,   xhat = (x - mean) rstd

In training, mean and var depend on x, and the gradient has three parts: through x itself, through the mean, and
through the variance. With gbeta = sum gy and ggamma = sum gy xhat they come to

    gx = gamma rstd (gy - gbeta / n - xhat ggamma / n)

Ioffe and Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate
shift", 2015.
"""
