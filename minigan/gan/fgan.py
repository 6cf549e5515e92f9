"""f-GAN: for every divergence of a family an objective that estimates it (Nowozin et al. 2016).

For a convex f the divergence is D_f(P || Q) = E_Q f(p(x) / q(x)), P of real and Q of fake samples: f(1), mostly 0, for
P = Q, and more for others. With the conjugate f*(t) = sup_u (u t - f(u)), every T into the domain of f* gives a bound

    D_f(P || Q) >= E_P T(x) - E_Q f*(T(x)),    an equation at T(x) = f'(p(x) / q(x)).

D's output V(x) may be any number; the activation g_f maps it into that domain: T(x) = g_f(V(x)). All activations rise
(reverse KL's is -exp(-v), not -exp(v)), so real samples score high here as everywhere; T above f'(1) says "real".

D maximises the bound, so minus its loss estimates the divergence, from below but for the noise of a batch. Some of the
divergences have no upper limit, and their f* grows exponentially: too bold a V ends in an infinite loss.
"""

from collections.abc import Callable
from difflib import get_close_matches
from math import inf, log
from typing import NamedTuple

import numpy as np

from ..ops import exp, softplus, tanh
from ..tensor import Array, Tensor
from .objectives import Objective

LOG2 = log(2)


class Divergence(NamedTuple):
    """A row of the table. f and conjugate take and return arrays; the other two are what training computes, of Tensors.

    f: the generator function, of a density ratio u > 0.
    conjugate: f*(t), for t in `domain`, (low, high), whose ends may or may not belong to it.
    threshold: f'(1), the T of a sample that is as likely real as fake.
    activation: g_f(v), for any v.
    conjugate_of_activation: f*(g_f(v)), simplified, since g_f(v) is soon rounded to where f* is infinite.
    """

    name: str
    f: Callable[[Array], Array]
    conjugate: Callable[[Array], Array]
    domain: tuple[float, float]
    threshold: float
    activation: Callable[[Tensor], Tensor]
    conjugate_of_activation: Callable[[Tensor], Tensor]


_TABLE = [
    Divergence(
        "kl", lambda u: u * np.log(u), lambda t: np.exp(t - 1), (-inf, inf), 1.0, lambda v: v, lambda v: exp(v - 1)
    ),
    Divergence(
        "reverse-kl", lambda u: -np.log(u), lambda t: -1 - np.log(-t), (-inf, 0.0), -1.0,
        lambda v: -exp(-v), lambda v: v - 1,
    ),
    Divergence(  # f* takes f as (u - 1)^2 for u < 0, too; with u > 0 only it would be -1 below t = -2
        "pearson", lambda u: (u - 1) ** 2, lambda t: t**2 / 4 + t, (-inf, inf), 0.0,
        lambda v: v, lambda v: v**2 / 4 + v,
    ),
    Divergence(
        "neyman", lambda u: (1 - u) ** 2 / u, lambda t: 2 - 2 * np.sqrt(1 - t), (-inf, 1.0), 0.0,
        lambda v: 1 - exp(-v), lambda v: 2 - 2 * exp(-v / 2),
    ),
    Divergence(
        "hellinger", lambda u: (np.sqrt(u) - 1) ** 2, lambda t: t / (1 - t), (-inf, 1.0), 0.0,
        lambda v: 1 - exp(-v), lambda v: exp(v) - 1,
    ),
    Divergence(  # twice what others call Jensen-Shannon
        "js", lambda u: u * np.log(u) - (u + 1) * np.log((u + 1) / 2), lambda t: -np.log(2 - np.exp(t)), (-inf, LOG2),
        0.0, lambda v: LOG2 - softplus(-v), lambda v: softplus(v) - LOG2,
    ),
    Divergence(  # js - log 4. V is the logit of an ordinary GAN, and D's loss is that of one
        "gan", lambda u: u * np.log(u) - (u + 1) * np.log(u + 1), lambda t: -np.log(1 - np.exp(t)), (-inf, 0.0), -LOG2,
        lambda v: -softplus(-v), softplus,
    ),
    Divergence(
        "tv", lambda u: abs(u - 1) / 2, lambda t: t, (-0.5, 0.5), 0.0, lambda v: tanh(v) / 2, lambda v: tanh(v) / 2
    ),
]  # fmt: skip

DIVERGENCES = {row.name: row for row in _TABLE}
"""Nowozin et al. 2016, tables 1, 2 and 6: Kullback-Leibler, its reverse, Pearson's and Neyman's chi^2, squared
Hellinger, Jensen-Shannon, the GAN's own, and total variation."""


def f_gan(name: str, saturating: bool = False) -> Objective:
    """The objective of one of DIVERGENCES. Minus D's loss is the lower bound.

    G's loss is -E g_f(V(G(z))) (section 3.2), whose pull on fakes that D is sure of does not vanish, but for tv;
    `saturating`: what the bound itself says, -E f*(g_f(V(G(z)))). Of pearson that turns round below V = -2, and drives
    such fakes further away.
    ValueError for an unknown name.
    """
    if name not in DIVERGENCES:
        near = get_close_matches(str(name), DIVERGENCES, 1)
        advice = f"did you mean {near[0]!r}? There are" if near else "there are"
        raise ValueError(f"f_gan: there is no divergence {name!r}; {advice} {', '.join(DIVERGENCES)}")
    row = DIVERGENCES[name]

    def d(real: Tensor, fake: Tensor) -> Tensor:
        return row.conjugate_of_activation(fake).mean() - row.activation(real).mean()

    def g(fake: Tensor) -> Tensor:
        return -(row.conjugate_of_activation if saturating else row.activation)(fake).mean()

    return Objective(f"f-gan {name}" + (", saturating" if saturating else ""), d, g, output="score")
