"""Losses of few numbers, and the penalty on D's slope: what a GAN computes beside its nets, each in one pass.

Beside a batch's images its scores are nothing, 128 numbers say. But a loss of ten ops is ten launches each way. Over n
scores l, s the sigmoid, and with sp(l) = log(1 + e^l), which is -log(1 - s(l)):

    sigmoid_cross_entropy   y = mean(t sp(-l) + (1 - t) sp(l))           gl = g / n (s(l) - t)
    mean_difference         y = mean(a) - mean(b)                        ga = g / n,  gb = -g / m

t, the target, is an array or one number: 1 for real, 0 for fake. sp(-l) = sp(l) - l, so that y is mean(sp(l) - t l).

The gradient of D by each of N samples, g (N, ...), is as long as images, and read once each way. Of its norms only N
squares v, one a sample, are needed:

    row_squares             v = sum g^2, of each sample                  gg = 2 gv g
    slope_penalty           y = weight mean((r - 1)^2), r = sqrt(v + eps)    gv = gy weight / N (r - 1) / r
    interpolate             e a + (1 - e) b, one e a sample: where WGAN-GP looks at the slope

One-sided, max(0, r - 1) stands for r - 1.
"""
