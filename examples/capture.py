"""A GAN's step, recorded and replayed: python examples/capture.py

Captures the step of a tiny GAN, whose real data are points on a circle, and prints what was recorded: the kernels that
the step calls, first D's and then G's, and where in one block of memory each result lies. --png FILE draws that memory.
docs/capture.md explains both.
"""

import argparse
from pathlib import Path

import numpy as np

import minigan as mg
from minigan import nn, optim
from minigan.gan.train import frozen
from minigan.random import Generator

BATCH, WIDTH, STEPS = 64, 16, 200


def mlp(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(2, WIDTH), nn.LeakyReLU(0.2), nn.Linear(WIDTH, outputs))


def make_step() -> mg.Captured:
    """A step as it would be without `capture`, which is the last word."""
    G, D = mlp(2), mlp(1)
    g_optimizer, d_optimizer = optim.Adam(G.parameters(), 1e-3), optim.Adam(D.parameters(), 1e-3)
    random = Generator(0, "latent")

    def step(real: mg.Tensor) -> tuple[mg.Tensor, mg.Tensor]:
        fake = G(mg.Tensor.of(random.normal((BATCH, 2))))
        score, fake_score = D(real), D(fake.detach())
        d_loss = mg.softplus(-score).mean() + mg.softplus(fake_score).mean()
        d_loss.backward()
        d_optimizer.step()
        d_optimizer.zero_grad()

        with frozen(D.parameters()):
            g_loss = mg.softplus(-D(fake)).mean()
            g_loss.backward()
        g_optimizer.step()
        g_optimizer.zero_grad()
        return d_loss, g_loss

    return mg.capture(step)


def main() -> None:
    parser = argparse.ArgumentParser(description="Capture the step of a tiny GAN, and show what was recorded.")
    parser.add_argument("--png", type=Path, default=None, metavar="FILE", help="draw the planned memory")
    args = parser.parse_args()

    mg.manual_seed(0)
    step, angles = make_step(), np.random.default_rng(0)
    for _ in range(STEPS):  # the first is recorded, the second rehearses, all others are replays
        angle = angles.uniform(0, 2 * np.pi, BATCH)
        d_loss, g_loss = step(mg.Tensor(np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)))
    print(step)
    print(f"\nafter {STEPS} steps the loss of D is {d_loss:.4f}, that of G {g_loss:.4f}")
    if args.png is not None:
        step.draw(args.png)
        print(f"drawn in {args.png}")


if __name__ == "__main__":
    main()
