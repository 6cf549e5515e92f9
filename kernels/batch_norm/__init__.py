"""Batch normalisation of x (..., C): one mean and variance a channel, over all axes but the last.

    mean = sum x / n,   var = sum (x - mean)^2 / n,   rstd = 1 / sqrt(var + eps),   n = x.size / C
    y = gamma xhat + beta,   xhat = (x - mean) rstd

In training, mean and var depend on x, and the gradient has three parts: through x itself, through the mean, and
through the variance. With gbeta = sum gy and ggamma = sum gy xhat they come to

    gx = gamma rstd (gy - gbeta / n - xhat ggamma / n)

An activation that follows is part of both kernels, which saves a pass over memory each way and the array between: with
z = gamma xhat + beta the output is z where z > 0, else slope z, and gy above stands for gy where z > 0, else slope gy.
Slope 0 is a ReLU, 0.2 a leaky one, and 1 none.

Ioffe and Szegedy, "Batch normalization: accelerating deep network training by reducing internal covariate
shift", 2015.
"""
