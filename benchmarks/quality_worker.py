"""A process of benchmarks/quality.py: python quality_worker.py TASK

TASK is JSON: what `main` takes. The process builds its nets, takes a few steps of others to have everything compiled,
and answers "built". Then it reads lines, each a number of seconds; trains until it has trained so long in all, saves
what its nets are then, and answers with a line of JSON. Only training counts: the clock stands still while it waits
and saves. It ends with its standard input.
"""

import json
import sys
import time
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

WARM = 3  # steps
STEPS = 1_000_000
"""More than any run takes here: seconds end it."""


class Run(Protocol):
    """A training. step() returns the losses; images: how many real ones D sees in a step."""

    images: int

    def step(self) -> list[float]: ...
    def nets(self) -> dict[str, Any]: ...


def settings_of(recipe: str, seed: int) -> Any:
    """The recipe's own, but for the seed."""
    from minigan.gan.recipes import RECIPES

    return RECIPES[recipe].parse([f"seed={seed}", f"steps={STEPS}"], "quality")


class Ours:
    """A recipe of minigan."""

    def __init__(self, recipe: str, seed: int, data: Any) -> None:
        from minigan.gan.recipes import RECIPES
        from minigan.gan.run import Training
        from minigan.gan.train import Turns

        self.training = Training(RECIPES[recipe], settings_of(recipe, seed), data)
        self.images, self.done = self.training.images[0], 0
        self.turns = Turns(self.training.game, self.training.parts.players)

    def step(self) -> list[float]:
        self.done += 1
        return [value for key, value in self.turns.step(self.done).items() if key.endswith("_loss")]

    def nets(self) -> dict[str, Any]:
        return self.training.parts.nets


class Theirs:
    """PyTorch's: the same nets from the same first weights, its images as it likes them, its random numbers."""

    def __init__(self, recipe: str, seed: int, data: Any, options: dict[str, Any]) -> None:
        from rival import torch
        from step_rows import Row
        from torch_steps import Rival

        from minigan.gan.recipes import RECIPES
        from minigan.interop.torch import to_torch

        s = settings_of(recipe, seed)
        self.twins = RECIPES[recipe].build(s, data.images.shape[3]).nets
        row = Row("gan", s.image_size, s.width, s.batch_size, s.lr, (s.beta1, s.beta2))
        self.rival = Rival(row, **options)
        self.rival.G.load_state_dict(to_torch(self.twins["G"]))
        self.rival.D.load_state_dict(to_torch(self.twins["D"]))
        torch.manual_seed(seed)
        pixels = torch.from_numpy(data.images).permute(0, 3, 1, 2).float() / 127.5 - 1
        self.pixels, self.order, self.torch = pixels, torch.zeros(0, dtype=torch.long), torch
        self.format = torch.channels_last if options["layout"] == "channels_last" else torch.contiguous_format
        self.images = s.batch_size

    def step(self) -> list[float]:
        if len(self.order) < self.images:
            self.order = self.torch.randperm(len(self.pixels))
        rows, self.order = self.order[: self.images], self.order[self.images :]
        self.rival.real = self.pixels[rows].contiguous(memory_format=self.format)
        losses = self.rival.step()
        if not all(map(isfinite, losses)):
            raise FloatingPointError(f"the losses are {losses}")
        return losses

    def nets(self) -> dict[str, Any]:
        from minigan.interop.torch import from_torch

        from_torch(self.twins["G"], self.rival.G.state_dict())
        from_torch(self.twins["D"], self.rival.D.state_dict())
        return self.twins


def fastest(recipe: str, data: Any) -> dict[str, Any]:
    """The options of Rival with which PyTorch is quickest here: of two memory formats and its kinds of Adam."""
    found = {}
    for layout in ("nchw", "channels_last"):
        run = Theirs(recipe, 0, data, {"layout": layout})
        run.step()
        optimizer = run.rival.take_fastest_optimizer()
        for _ in range(WARM):
            run.step()
        seconds = min(timed(run) for _ in range(2 * WARM))
        found[seconds] = {"layout": layout, "optimizer": optimizer}
    return found[min(found)]


def timed(run: Run) -> float:
    start = time.perf_counter()
    run.step()
    return time.perf_counter() - start


def build(framework: str, recipe: str, seed: int, data: str | None) -> tuple[Run, dict[str, Any]]:
    """A run that has compiled what it needs, and the options that it took."""
    if framework == "torch":
        import rival  # noqa: F401 - before Numba, see there
    from minigan.data import load

    images = load(data)
    if framework == "torch":
        options = fastest(recipe, images)
        return Theirs(recipe, seed, images, options), options
    other = Ours(recipe, seed, images)
    for _ in range(WARM):
        other.step()
    return Ours(recipe, seed, images), {}


def main(framework: str, recipe: str, seed: int, data: str | None, folder: str) -> None:
    run, options = build(framework, recipe, seed, data)
    answer({"built": True, **options})
    seconds, steps, failed = 0.0, 0, None
    for point, line in enumerate(sys.stdin, 1):
        while seconds < float(line) and failed is None:
            start = time.perf_counter()
            try:
                run.step()
                steps += 1
            except FloatingPointError as error:
                failed = f"after {steps} steps: {error}"
            seconds += time.perf_counter() - start
        if failed is None:
            save(Path(folder) / f"{point:03d}.safetensors", run.nets())
        answer({"seconds": seconds, "step": steps, "images": steps * run.images, "failed": failed})


def save(path: Path, nets: dict[str, Any]) -> None:
    from minigan.files import replace
    from minigan.gan.run_folder import to_safetensors

    replace(path, lambda part: Path(part).write_bytes(to_safetensors(nets)))


def answer(value: Any) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
