"""Activations and their derivatives.

A backward kernel takes whichever of input x and output y makes it cheap, and is elementwise:

    relu     max(x, 0)                     gy [x > 0]
    leaky    x > 0: x, else slope x        x > 0: gy, else slope gy
    elu      x > 0: x, else alpha(e^x - 1) x > 0: gy, else alpha e^x gy
    tanh     tanh x                        gy (1 - y^2)
    sigmoid  1 / (1 + e^-x)                gy y (1 - y)
    softplus log(1 + e^x)                  gy sigmoid(x)

At x = 0 the derivative is the one from the left: 0, slope, alpha. A NaN stays NaN on the way forward.
Sources: Maas et al. 2013 (leaky ReLU), Clevert et al. 2016 (ELU).
"""
