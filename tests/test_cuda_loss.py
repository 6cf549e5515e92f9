"""Losses and penalties on a device: digits that the formulas would lose, launches, and how rows are read.

test_cuda_kernels.py compares them with their references on the calls that all kernels are tried on.
"""

import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from on_device import DEVICE, fetch, needs_device, only_emulated, send

import minigan as mg
from minigan import kernels, nn
from minigan.gan import NON_SATURATING, WASSERSTEIN
from minigan.gan.penalties import gradient_penalty
from minigan.kernels import cuda, emulator, nvrtc
from minigan.kernels.emulator.report import costs
from minigan.kernels.loss.cuda import SOURCE
from minigan.random import Generator

pytestmark = needs_device


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_losses_of_sure_scores_keep_their_digits(dtype: Any) -> None:
    """Where D is right by 20 the loss is e^-20, and so is its gradient; a difference from 1 would have lost both."""
    tiny, one = math.exp(-20), send(np.ones((), dtype))
    for t, l, loss, gradient in (
        (1.0, 20, math.log1p(tiny), -tiny / (1 + tiny)), (0.0, -20, math.log1p(tiny), tiny / (1 + tiny)),
        (1.0, -20, 20 + tiny, -1 / (1 + tiny)), (0.0, 1000, 1000, 1), (1.0, 1000, 0, 0), (0.0, np.inf, np.inf, 1),
        (1.0, np.inf, 0, 0), (0.0, np.nan, np.nan, np.nan),
    ):  # fmt: skip
        scores = send(np.array([l], dtype))
        tolerance = 4 * float(np.finfo(dtype).eps)
        np.testing.assert_allclose(fetch(kernels.sigmoid_cross_entropy(scores, t)), loss, rtol=tolerance)
        found = fetch(kernels.sigmoid_cross_entropy_backward(one, scores, t))
        np.testing.assert_allclose(found, [gradient], rtol=tolerance, atol=1e-300 if l == 1000 else 0)


def test_means_of_many_scores_are_right_to_the_last_place() -> None:
    """Two hundred thousand, in strips; one behind the other they would lose three digits."""
    l = np.random.default_rng(0).standard_normal(200_003).astype(np.float32) + 10
    exact = np.logaddexp(0, l.astype(np.float64)).mean()
    np.testing.assert_allclose(fetch(kernels.sigmoid_cross_entropy(send(l), 0.0)), exact, rtol=1e-7)
    a, b = l * 1000, l[::2] * 1000
    exact = a.astype(np.float64).mean() - b.astype(np.float64).mean()
    np.testing.assert_allclose(fetch(kernels.mean_difference(send(a), send(b))), exact, rtol=1e-6)


def test_refused_arrays() -> None:
    x, v = send(np.ones((2, 3))), send(np.ones(3))
    with pytest.raises(ValueError, match=r"^sigmoid_cross_entropy: wants arrays of one shape, not \(2, 3\), \(3,\)$"):
        kernels.sigmoid_cross_entropy(x, v)
    with pytest.raises(TypeError, match=r"^mean_difference: wants all float32 or all float64, not float64, float32$"):
        kernels.mean_difference(x, send(np.ones(3, np.float32)))
    refused = r"^interpolate: arrays are float64 \(2, 3\), so there must be float64 \(2,\) numbers, one a row, not "
    with pytest.raises(ValueError, match=refused):
        kernels.interpolate(v, x, x)
    refused = r"^slope_penalty_backward: the gradient of a float64 number must be one, not float64 \(3,\)$"
    with pytest.raises(ValueError, match=refused):
        kernels.slope_penalty_backward(v, v, 0.0, 1.0, False)


def test_integers_are_refused_as_on_the_cpu() -> None:
    for device in ("cpu", DEVICE):
        n = mg.Tensor(np.arange(3)).to(device)
        for name, call in {
            "mean_difference": lambda n=n: mg.mean_difference(n, n),
            "row_squares": lambda n=n: mg.row_squares(n),
            "slope_penalty": lambda n=n: mg.slope_penalty(n, 10, 1e-12),
            "binary_cross_entropy_with_logits": lambda n=n: mg.binary_cross_entropy_with_logits(n, 1),
        }.items():
            with pytest.raises(TypeError, match=rf"^{name}: wants all float32 or all float64, not int64(, int64)?$"):
                call()


# ---- launches --------------------------------------------------------------------------------------------------------


def launches(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Any]) -> tuple[list[str], Counter[str]]:
    """Kernels that `run` launches, in order, and rows of the table that it calls."""
    launched: list[str] = []
    rows: Counter[str] = Counter()
    launch, call = cuda.Source.launch, kernels.Kernel.__call__

    def note_launch(self: Any, kernel: str, *args: Any, **options: Any) -> None:
        launched.append(kernel)
        launch(self, kernel, *args, **options)

    def note_call(self: Any, *args: Any, **options: Any) -> Any:
        rows[self.name] += 1
        return call(self, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(cuda.Source, "launch", note_launch)
        patch.setattr(kernels.Kernel, "__call__", note_call)
        run()
    return launched, rows


def scores(n: int = 128) -> mg.Tensor:
    return mg.Tensor.of(send(np.random.default_rng(n).standard_normal((n, 1)).astype(np.float32)))


def test_a_loss_is_one_launch_each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = scores(128), scores(129)
    for tensor in (real, fake):
        tensor.requires_grad = True
    d, g, w = NON_SATURATING.d(real, fake), NON_SATURATING.g(fake), WASSERSTEIN.d(real, fake)
    for make, forward, backward in (
        (lambda: NON_SATURATING.d(real, fake), ["cross_entropy_all"] * 2, ["cross_entropy_backward"] * 2),
        (lambda: NON_SATURATING.g(fake), ["cross_entropy_all"], ["cross_entropy_backward"]),
        (lambda: WASSERSTEIN.d(real, fake), ["mean_difference"], ["mean_difference_backward"]),
    ):
        launched, rows = launches(monkeypatch, make)
        assert launched == forward
        assert rows.total() == len(forward) + (len(forward) - 1)  # and the addition of two losses
        loss = make()
        launched, rows = launches(monkeypatch, loss.backward)
        assert launched == backward
    assert np.isfinite([t.item() for t in (d, g, w)]).all()


def test_a_penalty_on_the_slope_is_two_launches_each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a linear critic, whose gradient is its weight: nothing else is in the way."""
    D = nn.Sequential(nn.Linear(36, 1, bias=False)).to(DEVICE)
    real, fake = (send(np.random.default_rng(i).standard_normal((5, 36)).astype(np.float32)) for i in (0, 1))
    kept = []
    launched, _ = launches(monkeypatch, lambda: kept.append(gradient_penalty(D, real, fake, Generator(0, "e"))[0]))
    assert launched[-2:] == ["row_squares", "slope_penalty"]
    assert "interpolate" in launched
    launched, _ = launches(monkeypatch, kept[0].backward)
    assert launched[:2] == ["slope_penalty_backward", "row_squares_backward"]
    w = D[0].weight
    slope = np.sqrt((fetch(w.array).astype(np.float64) ** 2).sum())
    expected = 20 * (slope - 1) / slope * fetch(w.array)
    np.testing.assert_allclose(fetch(w.grad), expected, rtol=1e-4, atol=1e-6)


# ---- how rows are read -----------------------------------------------------------------------------------------------


@only_emulated
@pytest.mark.parametrize("M", [2, 3, 36, 784, 4096])
def test_rows_go_by_whole_sectors_and_no_bank_is_asked_twice(M: int) -> None:
    x, e = send(np.ones((70, M), np.float32)), send(np.ones(70, np.float32))
    with emulator.running(check=True, log_block=0) as run:
        kernels.slope_penalty_backward(kernels.slope_penalty(e, 0.0, 1.0, False)[0], e, 0.0, 1.0, False)
        kernels.row_squares_backward(kernels.row_squares(x), x)
        kernels.interpolate(e, x, x)
        kernels.mean_difference_backward(kernels.mean_difference(x, e), (70,), (70,))
        kernels.sigmoid_cross_entropy_backward(kernels.sigmoid_cross_entropy(e, 1.0), x, x)
    assert {launch.kernel for launch in run.launches} >= set(SOURCE.kernels) - {"cross_entropy_strips"}
    for launch in run.launches:
        for cost in costs(launch):
            if cost.memory == "shared" or (cost.bytes == 16 and M % 8 == 0):
                assert cost.cost == cost.best, cost


@pytest.mark.parametrize("arch", [75, 80, 90, 100])
def test_rows_are_streamed_by_wide_loads_and_stores(arch: int) -> None:
    try:
        compiled = nvrtc.compile_for(SOURCE, {"REAL": "float", "VECTOR": 4}, arch)
        instructions = nvrtc.instructions(compiled.cubin)
    except nvrtc.CompilerNotFound as missing:
        pytest.skip(str(missing))
    for kernel, loads, stores in (("row_squares", 4, 0), ("row_squares_backward", 4, 4), ("interpolate", 8, 4)):
        found = instructions[kernel]
        for start, least in (("LDG", loads), ("STG", stores)):
            assert sum(n for i, n in found.items() if re.match(rf"{start}\.E\.128", i)) >= least, (kernel, start)
        assert sum(n for i, n in found.items() if re.match(r"STG\.E(\.SYS)?$", i)) == (kernel == "row_squares"), kernel
        assert not any(i.startswith(("LDL", "STL")) for i in found), kernel
