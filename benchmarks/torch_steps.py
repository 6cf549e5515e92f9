"""The step as PyTorch takes it: the same nets layer for layer, the same losses, the same updates.

The fair rival does as minigan.gan does: D's fakes are made without a graph, and D is frozen in G's step. `as_written`
does as PyTorch's own DCGAN example does, and most people after it: one G(z) a step, with its graph, serves both
players; D's loss gets it detached, and G's loss computes gradients of D's weights that nobody wants.

The losses alone are read back; ours logs a few probabilities besides.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from typing import Any

from rival import IMAGE, torch
from step_rows import Row

OPTIMIZERS = {"fused": {"fused": True}, "foreach": {"foreach": True}, "for-loop": {"foreach": False}, "default": {}}
CAPTURABLE = {"fused": True, "capturable": True}
"""Adam whose count of steps is in the GPU's memory, so that a CUDA graph can replay its step."""
EPS = 1e-12  # inside the penalty's square root
REPEATS = 5

nn = torch.nn
softplus = nn.functional.softplus
Draw = Callable[[tuple[int, ...]], Any]


class Rival:
    """PyTorch's G, D and their optimizers, of one row, images in one of its memory formats.

    optimizer: a key of OPTIMIZERS, or "capturable". compiled: both nets by torch.compile. bf16: forward passes under
    autocast. normal, uniform: what z and the penalty's points are drawn from; by default PyTorch's own on `device`,
    "cpu" or "cuda".
    """

    def __init__(
        self,
        row: Row,
        layout: str = "nchw",
        optimizer: str = "default",
        as_written: bool = False,
        compiled: bool = False,
        bf16: bool = False,
        normal: Draw | None = None,
        uniform: Draw | None = None,
        device: str = "cpu",
    ) -> None:
        self.row, self.as_written = row, as_written
        self.normal = normal or partial(torch.randn, device=device)
        self.uniform = uniform or partial(torch.rand, device=device)
        self.precision = torch.autocast(device, torch.bfloat16) if bf16 else nullcontext()
        nets = (mlp(row.width, 2), mlp(row.width, 1)) if row.size is None else (generator(row), discriminator(row))
        real = torch.from_numpy(row.real())
        if real.ndim == 4:
            real = real.permute(IMAGE)
        memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        self.real = real.contiguous(memory_format=memory_format).to(device)
        self.G, self.D = (net.to(device, memory_format=memory_format) for net in nets)
        if compiled:
            self.G, self.D = torch.compile(self.G), torch.compile(self.D)
        self.set_optimizer(optimizer)

    def set_optimizer(self, name: str) -> None:
        """New optimizers: RMSprop where weights are clipped, otherwise Adam."""
        row, how = self.row, CAPTURABLE if name == "capturable" else OPTIMIZERS[name]
        self.g_optimizer, self.d_optimizer = (
            torch.optim.RMSprop(net.parameters(), row.lr, **how)
            if row.clip
            else torch.optim.Adam(net.parameters(), row.lr, row.betas, **how)
            for net in (self.G, self.D)
        )

    def take_fastest_optimizer(self) -> str:
        """Its name. To be called after a step, which leaves gradients."""
        seconds = {}
        for name in OPTIMIZERS:
            if name == "default" or (name == "fused" and self.row.clip):  # RMSprop has no fused one
                continue
            self.set_optimizer(name)
            seconds[name] = min(self._time_optimizers() for _ in range(REPEATS))
        best = min(seconds, key=seconds.__getitem__)
        self.set_optimizer(best)
        return best

    def _time_optimizers(self) -> float:
        start = time.perf_counter()
        self.d_optimizer.step()
        if self.row.objective == "gan":
            self.g_optimizer.step()
        return time.perf_counter() - start

    def step(self) -> list[float]:
        """The players' losses, before their updates."""
        return [loss.item() for loss in self.losses()]

    def losses(self) -> list[Any]:
        """The same step, its losses left where they are: nobody waits for a GPU."""
        with self.precision:
            with nullcontext() if self.as_written else torch.no_grad():
                fake = self.G(self.z())
            loss = self.d_loss(fake.detach())
        losses = [update(self.d_optimizer, loss)]
        if self.row.clip:
            with torch.no_grad():
                for p in self.D.parameters():
                    p.clamp_(-self.row.clip, self.row.clip)
        if self.row.objective == "gan":
            self.D.requires_grad_(self.as_written)
            with self.precision:
                loss = softplus(-self.D(fake if self.as_written else self.G(self.z()))).mean()
            losses.append(update(self.g_optimizer, loss))
            self.D.requires_grad_(True)
        return losses

    def z(self) -> Any:
        return self.normal((self.row.batch, self.row.latent))

    def d_loss(self, fake: Any) -> Any:
        if self.row.penalty is None:
            real_score, fake_score = self.D(self.real), self.D(fake)
        else:  # no batch norm: one batch, as ours
            real_score, fake_score = self.D(torch.cat([self.real, fake])).chunk(2)
        if self.row.objective == "gan":
            return softplus(-real_score).mean() + softplus(fake_score).mean()
        loss = fake_score.mean() - real_score.mean()
        return loss + self.row.penalty * self.penalty(fake) if self.row.penalty else loss

    def penalty(self, fake: Any) -> Any:
        """E (|d D(x) / d x| - 1)^2 at points between real images and fakes."""
        e = self.uniform((self.row.batch, *[1] * (self.real.ndim - 1)))
        x = (e * self.real + (1 - e) * fake).requires_grad_()
        (slope,) = torch.autograd.grad(self.D(x).sum(), x, create_graph=True)
        norm = (slope.flatten(1).square().sum(1) + EPS).sqrt()
        return ((norm - 1) ** 2).mean()


def update(optimizer: Any, loss: Any) -> Any:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def levels(row: Row) -> tuple[int, int]:
    """(pixels of the smallest feature map, convolutions of stride 2)."""
    return {28: (7, 2), 64: (4, 4)}[row.size or 0]


def generator(row: Row) -> Any:
    base, doublings = levels(row)
    c = row.width << (doublings - 1)
    layers = [nn.Unflatten(1, (row.latent, 1, 1)), nn.ConvTranspose2d(row.latent, c, base, bias=False)]
    for _ in range(doublings - 1):
        layers += [nn.BatchNorm2d(c), nn.ReLU(True), nn.ConvTranspose2d(c, c // 2, 4, 2, 1, bias=False)]
        c //= 2
    layers += [nn.BatchNorm2d(c), nn.ReLU(True), nn.ConvTranspose2d(c, 1, 4, 2, 1, bias=False), nn.Tanh()]
    return nn.Sequential(*layers)


def discriminator(row: Row) -> Any:
    base, doublings = levels(row)
    c, bias = row.width, row.penalty is not None  # the penalty forbids batch norm, whose place biases take
    layers = [nn.Conv2d(1, c, 4, 2, 1, bias=bias), nn.LeakyReLU(0.2, True)]
    for _ in range(doublings - 1):
        layers.append(nn.Conv2d(c, 2 * c, 4, 2, 1, bias=bias))
        if not bias:
            layers.append(nn.BatchNorm2d(2 * c))
        layers.append(nn.LeakyReLU(0.2, True))
        c *= 2
    return nn.Sequential(*layers, nn.Conv2d(c, 1, base, bias=False), nn.Flatten())


def mlp(width: int, outputs: int) -> Any:
    layers = []
    for c_in, c_out in pairwise((2, width, width, width, outputs)):
        layers += [nn.Linear(c_in, c_out), nn.ReLU(True)]
    return nn.Sequential(*layers[:-1])
