"""The convolution trio: three gradients of one trilinear form.

    T(x, w, y) = sum over n, i, j, u, v, c, o of  x[n, S i + u - P, S j + v - P, c]  w[u, v, c, o]  y[n, i, j, o]

    conv2d(x, w)           = dT/dy   (N, OH, OW, O)
    conv_transpose2d(y, w) = dT/dx   (N, H, W, C)     also the gradient of conv2d with respect to its input
    conv2d_weight(x, y)    = dT/dw   (KH, KW, C, O)   the gradient of both with respect to their weight

T is linear in each argument, so each operation's two gradients are the other two operations, and three kernels serve
every order of differentiation.

The first two have forms that do more with a result, for nets on a device: conv2d_bias_act adds a bias and takes a leaky
ReLU of that, conv2d_statistics returns mean and variance of each channel, too.

Read geometry.py, reference.py and cpu.py; then the algorithms: direct.py, which serves every geometry, few_channels.py,
and algebra.py, transform.py, winograd.py, in this order. algorithm.py chooses among them.
"""
