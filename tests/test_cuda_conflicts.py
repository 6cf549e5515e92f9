"""The emulator's report on every kernel shows no bank conflict but those that a comment in the kernel's text explains.

The examples of all .cu files are what it is made of: a new one needs nothing here. Other tests ask the same of sizes
that matter, and of global memory: test_cuda_tensor.py, test_cuda_few.py, test_cuda_reduce.py, test_cuda_loss.py.
"""

import re
from collections.abc import Iterator

from on_device import needs_device, only_emulated

from minigan.kernels import cuda, emulator
from minigan.kernels.emulator.report import Cost, costs

pytestmark = [needs_device, only_emulated]

EXPLAINED = {
    "linear/tiles.cuh": {"tile[p.k + e][p.at] = vectors[i].v[e]": "now no more than two do"},
    "conv2d/conv2d.cu": {
        "image + p.from": "lanes do not ask for `from`",
        "pixels[thread_row() + i].to": "A warp's are TM x 16 bytes apart",
    },
    "conv2d/tensor.cu": {"pixels[row].to": "which are 16 bytes apart"},
    "conv2d/few_channels.cu": {"products[k * PITCH": "lanes still meet in a bank"},
}
"""By file: a part of a line with conflicts, and words of the comment that explains them."""


def lines_of(file: str) -> list[str]:
    return (cuda.KERNELS_FOLDER / file).read_text().splitlines()


def conflicts(source: cuda.Source) -> Iterator[tuple[str, int, Cost]]:
    """(file, line, cost) of each, in the first block of what the examples launch."""
    with emulator.running(check=True, log_block=0) as run:
        for example in dict.fromkeys(source.examples.values()):
            example(cuda.connect("emulator"))
    assert {launch.kernel for launch in run.launches} >= set(source.kernels)
    for cost in (cost for launch in run.launches for cost in costs(launch)):
        if cost.memory == "shared" and cost.cost > cost.best:
            file, line = cost.line.rsplit(":", 1)
            yield file, int(line), cost


def test_bank_conflicts_are_explained() -> None:
    found: dict[str, set[str]] = {}
    for source in cuda.sources():
        for file, line, cost in conflicts(source):
            text = lines_of(file)[line - 1].strip()
            parts = {part for part in EXPLAINED.get(file, {}) if part in text}
            assert parts, f"{file}:{line}   {text}   {cost.cost} wavefronts where {cost.best} would do"
            found.setdefault(file, set()).update(parts)
    assert found == {file: set(parts) for file, parts in EXPLAINED.items()}
    for file, parts in EXPLAINED.items():
        comments = " ".join(re.sub(r"^.*?(//|$)", "", line).strip() for line in lines_of(file))
        for words in parts.values():
            assert words in comments, (file, words)
