"""Activations and their derivatives.

A backward kernel takes whichever of input x and output y makes it cheap, and is elementwise:

    leaky    x > 0: x, else slope x        x > 0: gy, else slope gy
    bias_act leaky of x + b, b a channel   the same, and its sum over all axes but the last
    elu      x > 0: x, else alpha(e^x - 1) x > 0: gy, else alpha e^x gy
    tanh     tanh x                        gy (1 - y^2)
    sigmoid  1 / (1 + e^-x)                gy y (1 - y)
    softplus log(1 + e^x)                  gy sigmoid(x)

A ReLU is a leaky one of slope 0, which makes 0 of everything that is not positive, -inf too. At x = 0 the derivative is
the one from the left: slope, alpha. A NaN stays NaN on the way forward. With a bias the derivative goes by the sign of
y, which is that of x + b as long as slope >= 0; so x need not be kept.
Sources: Maas et al. 2013 (leaky ReLU), Clevert et al. 2016 (ELU).
"""
