"""What a captured step shows of itself: every call, every result where it lies, and a picture of that."""

import re
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox
from on_device import DEVICE, needs_device

import minigan as mg
from minigan import kernels, nn, optim, recorded
from minigan.capture import Captured
from minigan.random import Generator
from minigan.tensor import Tensor


def weights() -> np.ndarray[Any, Any]:
    return np.arange(32, dtype=np.float32).reshape(4, 8)


total = mg.zeros((4, 8))


def small(x: mg.Tensor) -> mg.Tensor:
    """A view, a live call, one written in place, one that nobody reads, and a result that is kept."""
    y = mg.exp(x)
    w = kernels.live(weights)
    mg.tanh(y)
    z = y.reshape((8, 4)) @ Tensor.of(w)
    with total.writing() as array:
        kernels.add(array, w, out=array)
    return z.sum(axis=0)


SMALL = """\
#  call                  from                  makes             KB     at KB  line
0  exp                   (4, 8)                (4, 8)           0.1       0.3  N: y = mg.exp(x)
1  weights (live)                              (4, 8)           0.1       0.4  N: w = kernels.live(weights)
2  tanh                  #0 (4, 8)             nothing: unread                 N: mg.tanh(y)
3  reshape               #0 (4, 8)             a view                          N: z = y.reshape((8, 4)) @ Tensor.of(w)
4  matmul                #0 (8, 4), #1 (4, 8)  (8, 8)           0.3       0.0
5  add                   (4, 8), #1 (4, 8)     into (4, 8)                     N: kernels.add(array, w, out=array)
6  Tensor._count (live)                                                        N: with total.writing() as array:
7  sum                   #4 (8, 8)             (8,)             0.1  kept 0.0  N: return z.sum(axis=0)

calls of a replay                           6
of them live                                2
of them ahead of kernels                    0
memory that the results share, KB         0.5
the least that they need at once, KB      0.5
what they would take without sharing, KB  0.6
kept after the step, KB                   0.1
given ahead, KB                           0.0"""


def recorded_step(step: Any, *inputs: Any, calls: int = 2) -> Captured:
    captured = mg.capture(step)
    for _ in range(calls):
        captured(*inputs)
    return captured


@pytest.fixture(scope="module")
def gan() -> Captured:
    """A critic's update, with the derivative of a derivative."""
    mg.manual_seed(0)
    D, z = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1)), Generator(0, "z")
    optimizer = optim.Adam(D.parameters(), 1e-3)

    def step() -> mg.Tensor:
        x = mg.Tensor(z.normal((16, 2)), requires_grad=True)
        slope = mg.grad(D(x).sum(), x, create_graph=True)
        loss = D(x.detach()).mean() + ((slope * slope).sum(axis=1) - 1).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return recorded_step(step)


def test_the_list_of_a_small_step() -> None:
    step = recorded_step(small, mg.ones((4, 8)))
    assert re.sub(r"test_recorded.py:\d+", "N", str(step)) == SMALL


def test_many_arrays_and_several_results_have_short_names(gan: Captured) -> None:
    (line,) = (line for line in str(gan).splitlines() if "Optimizer._step" in line)
    assert re.search(r"Optimizer\._step \(live\) +4 arrays  ", line)
    assert re.search(r"bias_act_backward .* \(16, 8\), \(8,\) ", str(gan))
    assert re.search(r"copy +#\d+\[1\] \(8,\) +nothing: #\d+\[1\] will do", str(gan))
    assert f"memory that the results share, KB         {gan.plans[0].peak / 1e3:.1f}" in str(gan)


def test_each_way_of_a_step_has_a_list_and_a_map(tmp_path: Path) -> None:
    way = True
    step = mg.capture(lambda: mg.exp(mg.ones(2)) if mg.branch(lambda: way) else mg.log(mg.ones(2)))
    assert str(step) == "a captured step, not recorded yet"
    for way in (True, False):  # noqa: B007 (the branch asks for it)
        step()
    lists = str(step).split("\n\n")[::2]
    assert [[line.split()[1] for line in text.splitlines()[1:]] for text in lists] == [["copy", "exp"], ["copy", "log"]]
    step.draw(tmp_path / "both.png")
    both = imread(tmp_path / "both.png")
    recorded_step(lambda: mg.exp(mg.ones(2))).draw(tmp_path / "one.png")
    assert both.shape[0] == 2 * imread(tmp_path / "one.png").shape[0]


def drawn_axes(step: Captured, path: Path) -> Axes:
    """What `draw` draws of a step that goes one way."""
    figures: list[Figure] = []
    save = Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda f, *args, **options: (figures.append(f), save(f, *args, **options)))
        step.draw(path)
    (axes,) = figures[0].axes
    return axes


def rectangles(axes: Axes) -> list[Bbox]:
    """Of the results. No two overlap."""
    found = [patch.get_bbox() for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_zorder() >= 0]
    for a, b in combinations(found, 2):
        apart = a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 + 1e-9 or b.y1 <= a.y0 + 1e-9
        assert apart, (a, b)
    return found


def test_the_map_shows_each_result_at_its_place(gan: Captured, tmp_path: Path) -> None:
    axes, (plan,) = drawn_axes(gan, tmp_path / "map.png"), gan.plans
    assert [file.name for file in tmp_path.iterdir()] == ["map.png"]
    drawn = rectangles(axes)
    inside = [v for v in plan.tape.values if v.alias is None and v.block == "shared"]
    values = [v for v in inside if not plan.tape.calls[v.born].idle]
    heights, places = ([v.nbytes / 1e3 for v in values], [v.offset / 1e3 for v in values])
    assert [box.height for box in drawn] == pytest.approx(heights)
    assert [box.y0 for box in drawn] == pytest.approx(places)
    assert max(box.y1 for box in drawn) == pytest.approx(plan.peak / 1e3)
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == [f"{call.name} {n}" for n, call in enumerate(plan.tape.calls) if call.replayed]
    extents = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert all(a.x1 <= b.x0 for a, b in pairwise(extents)), "names overlap"


@needs_device
def test_each_device_has_memory_of_its_own(tmp_path: Path) -> None:
    def step(x: mg.Tensor) -> mg.Tensor:
        y, z = mg.exp(x), mg.exp(x.to(DEVICE))
        return mg.exp(y) * mg.exp(z).to("cpu")

    captured = recorded_step(step, mg.ones(100))
    (plan,) = captured.plans
    here = sum(value.device == DEVICE for value in plan.tape.values)
    assert 0 < here == len(re.findall(rf"  {DEVICE} \d+\.\d", str(captured))) < len(plan.tape.values)
    drawn = rectangles(drawn_axes(captured, tmp_path / "map.png"))
    assert max(box.y1 for box in drawn) == pytest.approx(plan.peak / 1e3)


def test_every_kernel_has_a_colour() -> None:
    assert {kernel.folder for kernel in kernels.KERNELS.values()} | {"live", "ahead"} == recorded.FAMILIES.keys()
    colours = [colour for _, colour in recorded.FAMILIES.values()]
    assert len({*colours}) == len(colours)


def test_nothing_to_draw_and_nowhere_to_draw_it(gan: Captured, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^draw: nothing is recorded yet; call the step once more than its warmup$"):
        mg.capture(lambda: None).draw(tmp_path / "map.png")
    missing = tmp_path / "missing" / "map.png"
    with pytest.raises(OSError, match=rf"^cannot write {re.escape(str(missing))}: No such file or directory; "):
        gan.draw(missing)
    assert not list(tmp_path.iterdir())
