"""Convolutions on tensor cores: what the reference makes of rounded factors, whatever the tile; and the epilogues."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cubins import compiled, instructions
from on_device import CHECKED, DEVICE, WAYS, fetch, needs_device, only_emulated, run, send
from test_cuda_conv import GEOMETRIES, OPS

import minigan as mg
from minigan import kernels
from minigan.kernels import Geometry, cuda, emulator, nvrtc
from minigan.kernels.batch_norm import reference as batch_norm
from minigan.kernels.batch_norm.cuda import combine
from minigan.kernels.conv2d import cuda as conv
from minigan.kernels.conv2d import cuda_tensor, reference
from minigan.kernels.emulator.report import costs
from minigan.kernels.linear import cuda_tensor as linear

PRECISIONS = ("tf32", "bf16")
TILES = {
    "large": linear.LARGE, "small": linear.SMALL, "narrow": linear.NARROW,
    "small by ones": linear.SMALL_BY_ONES, "narrow by ones": linear.NARROW_BY_ONES,
}  # fmt: skip
BITS = {"tf32": 10, "bf16": 7}

each_precision = pytest.mark.parametrize("precision", PRECISIONS)
each_op = pytest.mark.parametrize("op", OPS)


def rounded(x: np.ndarray, precision: str) -> np.ndarray:
    """The nearest number with so many bits behind the first; of two, tf32 takes the larger, bf16 the even one."""
    lost = 23 - BITS[precision]
    bits = x.view(np.uint32)
    half = np.uint32(1 << (lost - 1))
    if precision == "bf16":
        half = half - np.uint32(1) + (bits >> np.uint32(lost) & np.uint32(1))
    moved = (bits + half) & np.uint32(0xFFFFFFFF << lost & 0xFFFFFFFF)
    return np.where(np.isfinite(x), moved.view(np.float32), x)


def operands(op: str, g: Geometry, n: int, c: int, o: int) -> list[np.ndarray]:
    shapes = {"x": (n, *g.x_size, c), "w": (*g.window, c, o), "y": (n, *g.y_size, o)}
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shapes[letter]).astype(np.float32) for letter in OPS[op]]


def expected(op: str, arrays: list[np.ndarray], g: Geometry, precision: str) -> np.ndarray:
    result: np.ndarray = getattr(reference, op)(*[rounded(a, precision).astype(np.float64) for a in arrays], g)
    return result


def computed(op: str, arrays: list[np.ndarray], g: Geometry, precision: str) -> np.ndarray:
    with kernels.set_conv_precision(precision):
        result: np.ndarray = fetch(getattr(conv, op)(*send(arrays), g))
    return result


def assert_close(actual: np.ndarray, desired: np.ndarray, tolerance: float = 3e-6) -> None:
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, desired, rtol=tolerance, atol=tolerance * float(np.abs(desired).max(initial=0)))


@pytest.fixture
def tile(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes the host code choose one."""

    def choose(chosen: linear.Tile) -> None:
        for module in (cuda_tensor, linear):
            monkeypatch.setattr(module, "choose_tile", lambda *args, **options: chosen)

    return choose


# ---- results --------------------------------------------------------------------------------------------------------


@needs_device
@each_precision
@each_op
@pytest.mark.parametrize("name", [name for name in GEOMETRIES if name != "to one pixel"])
def test_products_are_those_of_rounded_factors(op: str, name: str, precision: str) -> None:
    g, n, c, o = GEOMETRIES[name]
    arrays = operands(op, g, n, c if c > 4 else 8, o)  # few channels have kernels of their own
    in_each_order = []
    for way in CHECKED:
        with run(way):
            in_each_order.append(computed(op, arrays, g, precision))
    assert_close(in_each_order[0], expected(op, arrays, g, precision))
    np.testing.assert_array_equal(*in_each_order)


@needs_device
@each_precision
@each_op
@pytest.mark.parametrize("name", TILES)
def test_every_tile(op: str, name: str, precision: str, tile: Any) -> None:
    """More than one in each direction, with edges; and more terms than the pipeline has stages."""
    tile(TILES[name])
    g = Geometry((2, 2), (1, 1), (3, 4), (11, 13))
    arrays = operands(op, g, 4, 12, 136 if name == "large" else 20)
    with run(WAYS[-1]):
        found = computed(op, arrays, g, precision)
    assert_close(found, expected(op, arrays, g, precision))


@needs_device
@each_op
def test_long_sums_are_split_and_added_in_one_order(op: str, launched: list[tuple[str, Any]]) -> None:
    g = Geometry((1, 1), (1, 1), (4, 4), (13, 13))
    arrays = operands(op, g, 4, 36, 36)
    in_each_order = []
    for way in CHECKED:
        with run(way):
            in_each_order.append(computed(op, arrays, g, "tf32"))
    assert [name for name, _ in launched] == [f"{op}_mma", "add_splits"] * 2
    assert_close(in_each_order[0], expected(op, arrays, g, "tf32"))
    np.testing.assert_array_equal(*in_each_order)


@needs_device
@each_precision
@each_op
def test_what_is_not_finite_stays_what_it_is(op: str, precision: str) -> None:
    g = Geometry((2, 2), (1, 1), (4, 4), (8, 8))
    arrays = operands(op, g, 2, 8, 8)
    arrays[0][0, 1, 1, 3] = np.nan
    arrays[0][1, 2, 2, 5] = np.inf
    with np.errstate(invalid="ignore"):
        desired = expected(op, arrays, g, precision)
    assert np.isnan(desired).any()
    assert np.isinf(desired).any()
    np.testing.assert_array_equal(np.isnan(computed(op, arrays, g, precision)), np.isnan(desired))
    np.testing.assert_array_equal(np.isinf(computed(op, arrays, g, precision)), np.isinf(desired))


ROUND = """
#include "../cuda.cuh"
#include "../mma.cuh"
extern "C" __global__ void round_all(const float* x, unsigned* tf32, unsigned* bf16, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  tf32[i] = to_tf32(__float_as_uint(x[i])) & 0xffffe000;
  bf16[i] = pack_bf16(0, __float_as_uint(x[i]));
}"""


@needs_device
def test_rounding() -> None:
    """Of ties, of numbers that are nearly too large or nearly zero, of infinities and NaN."""
    rng = np.random.default_rng(0)
    edges = np.array([0x3F800FFF, 0x3F801000, 0x3F803000, 0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x7F7FE000], np.uint32)
    specials = np.array([0, -0.0, 1, np.inf, -np.inf, 1e-38, 3e38], np.float32)
    x = np.concatenate([rng.integers(0, 1 << 32, 5000, np.uint32).view(np.float32), edges.view(np.float32), specials])
    x = x[~np.isnan(x) & ((np.abs(x) > 2e-38) | (x == 0))]  # GPUs may take tiny numbers for zero
    device = cuda.connect(DEVICE)
    text = "\n".join(
        (cuda.KERNELS_FOLDER / line.split('"')[1].removeprefix("../")).read_text() if "#include" in line else line
        for line in ROUND.splitlines()
    )
    kernel = device.load(code=text, options=cuda.options({"REAL": "float"})).get_function("round_all")
    tf32, bf16 = (device.xp.zeros(x.size, np.uint32) for _ in range(2))
    kernel((x.size // 256 + 1,), (256,), (send(x), tf32, bf16, np.int32(x.size)))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(fetch(tf32).view(np.float32), rounded(x, "tf32"))
        np.testing.assert_array_equal(fetch(bf16).view(np.float32), rounded(x, "bf16"))
    nan = send(np.array([0x7FFFFFFF], np.uint32).view(np.float32))  # half a unit more would make -0 of it
    kernel((1,), (32,), (nan, tf32, bf16, np.int32(1)))
    assert np.isnan(fetch(tf32).view(np.float32)[0])
    assert np.isnan(fetch(bf16).view(np.float32)[0])


# ---- which kernel ---------------------------------------------------------------------------------------------------


def test_the_precision_that_is_set() -> None:
    assert kernels.conv_precision() == "fp32"  # as tests are run
    with kernels.set_conv_precision("bf16"):
        assert kernels.conv_precision() == "bf16"
    with pytest.raises(ValueError, match=r"there is no 'fp16'; choose one of tf32, bf16, fp32"):
        kernels.set_conv_precision("fp16")


@needs_device
def test_fp32_is_computed_without_tensor_cores(launched: list[tuple[str, Any]]) -> None:
    g, n, c, o = GEOMETRIES["k3 s1 p1"]
    arrays = operands("conv2d", g, n, c, o)
    assert_close(computed("conv2d", arrays, g, "fp32"), reference.conv2d(*arrays, g))
    computed("conv2d", arrays, g, "bf16")
    computed("conv2d", [a.astype(np.float64) for a in arrays], g, "tf32")
    assert [name for name, _ in launched] == ["conv2d_tiled", "conv2d_mma", "conv2d_naive"]
    assert launched[1][1]["BF16"] == 1


@needs_device
def test_a_window_as_large_as_the_image_is_a_matrix_product(launched: list[tuple[str, Any]]) -> None:
    g = Geometry((1, 1), (0, 0), (4, 4), (4, 4))
    for op in OPS:
        arrays = operands(op, g, 20, 16, 20)
        assert_close(computed(op, arrays, g, "tf32"), expected(op, arrays, g, "tf32"))
    names = [name for name, _ in launched if name != "add_splits"]
    assert names == ["matmul_mma", "matmul_mma_right_transposed", "matmul_mma_left_transposed"]


@needs_device
def test_a_captured_step_is_recorded_anew_for_another_precision() -> None:
    rng = np.random.default_rng(0)
    x, w = (mg.Tensor(rng.standard_normal(s).astype(np.float32)).to(DEVICE) for s in ((2, 8, 8, 8), (3, 3, 8, 8)))
    step, found = mg.capture(lambda: mg.conv2d(x, w)), {}
    for precision in ("tf32", "fp32", "bf16", "tf32"):
        with kernels.set_conv_precision(precision):
            assert [len(step.plans) for _ in range(3) if step() is not None] == [1, 1, 1]
            recorded = step.recordings[0]
            assert all(recorded is not other for other in found.values())
            found[precision] = recorded
            np.testing.assert_array_equal(fetch(step().array), fetch(mg.conv2d(x, w).array))


@needs_device
@pytest.mark.parametrize("which", ["first", "second", "out"])
@each_op
def test_bits_do_not_depend_on_where_arrays_begin(op: str, which: str) -> None:
    whole_image = Geometry((1, 1), (0, 0), (4, 4), (4, 4))
    for g, n, c, o in ((Geometry((2, 2), (1, 1), (4, 4), (8, 8)), 5, 16, 8), (whole_image, 20, 16, 20)):
        arrays = operands(op, g, n, c, o)
        with kernels.set_conv_precision("tf32"):
            desired = getattr(conv, op)(*send(arrays), g)
            names = zip(("first", "second"), arrays, strict=True)
            given = [shifted(array) if which == name else send(array) for name, array in names]
            out = shifted(np.zeros(desired.shape, np.float32)) if which == "out" else None
            found = getattr(conv, op)(*given, g, out=out)
        assert out is None or found is out
        np.testing.assert_array_equal(fetch(found), fetch(desired))


def shifted(array: np.ndarray) -> Any:
    """On the device, where no access of 16 bytes may begin."""
    memory = cuda.connect(DEVICE).xp.zeros(array.size + 1, array.dtype)
    memory[1:] = send(array.reshape(-1))
    return memory[1:].reshape(array.shape)


def test_sums_are_split_only_where_blocks_are_few() -> None:
    for columns, rows, terms in [(128, 32768, 1024), (512, 2048, 4096), (16, 12544, 256), (1024, 128, 100)]:
        tile = linear.choose_tile(rows, columns, terms, 1, vectors=True)
        blocks = -(-rows // tile.BM) * -(-columns // tile.BN)
        splits, chunk = linear.split(blocks, terms, tile)
        assert chunk % linear.BK == 0
        assert (splits - 1) * chunk < terms <= splits * chunk
        assert splits == 1 or blocks < linear.PROCESSORS
        assert splits * blocks <= 2 * linear.PROCESSORS * tile.BLOCKS


# ---- what is done before sums are stored ---------------------------------------------------------------------------


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No sum is split among blocks."""
    monkeypatch.setattr(cuda_tensor, "split", lambda blocks, terms, tile: (1, -(-terms // linear.BK) * linear.BK))
    with kernels.set_conv_precision("tf32"):
        yield


def computes(op: str, arrays: list[Any], g: Geometry, epilogue: cuda_tensor.Epilogue) -> tuple[Any, Any]:
    """The result and its moments."""
    if op == "conv2d":
        out = conv.room_for_y(op, *arrays, g, None)
        return out, conv.compute_y(*arrays, out, g, epilogue)
    out = conv.room_for_x(op, *arrays, g, None)
    return out, conv.compute_x(*arrays, out, g, epilogue)


@needs_device
@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("op", ["conv2d", "conv_transpose2d"])
@pytest.mark.parametrize("name", TILES)
@pytest.mark.parametrize("slope", [1.0, 0.2, 0.0])
def test_a_bias_and_a_slope(op: str, name: str, slope: float, tile: Any) -> None:
    tile(TILES[name])
    g = Geometry((2, 2), (1, 1), (4, 4), (9, 11))
    arrays = send(operands(op, g, 2, 8, 12))
    plain, _ = computes(op, arrays, g, cuda_tensor.NO_EPILOGUE)
    b = send(np.random.default_rng(1).standard_normal(plain.shape[3]).astype(np.float32))
    with run(WAYS[-1]):
        found, _ = computes(op, arrays, g, cuda_tensor.Epilogue(b, slope))
    np.testing.assert_array_equal(fetch(found), fetch(kernels.bias_act(plain, b, slope)))


@needs_device
@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("op", ["conv2d", "conv_transpose2d"])
@pytest.mark.parametrize("name", TILES)
@pytest.mark.parametrize("mean", [0, 1024])
def test_moments(op: str, name: str, mean: float, tile: Any) -> None:
    """Of tiles with edges in both directions, and where the mean is large against the deviation."""
    tile(TILES[name])
    g = Geometry((2, 2), (0, 0), (2, 2), (14, 10))
    arrays = operands(op, g, 7, 20, 20)
    arrays[0][..., 0] = mean  # times the weights of that channel: in each sum once
    arrays[1][:, :, :, 0] = arrays[1][:, :, 0, :] = 0
    arrays[1][0, 0, 0, :] = 1 if op == "conv2d" else 0
    arrays[1][:, :, :, 0] = 1 if op == "conv_transpose2d" else 0
    with run(WAYS[-1]):
        out, moments = computes(op, send(arrays), g, cuda_tensor.Epilogue(moments=True))
    assert moments is not None
    found = [conv.device_of(out).xp.empty(out.shape[3:], np.float32) for _ in range(2)]
    combine(moments.means, moments.squares, moments.rows, moments.per_group, *found)
    desired = batch_norm.batch_norm_statistics(fetch(out).astype(np.float64))
    assert np.abs(desired[0]).max() > 0.99 * mean
    np.testing.assert_allclose(fetch(found[0]), desired[0], rtol=1e-6, atol=1e-6 * np.sqrt(desired[1].max()))
    np.testing.assert_allclose(fetch(found[1]), desired[1], rtol=1e-5)


@needs_device
@pytest.mark.usefixtures("whole")
def test_no_moments_of_phases_that_differ() -> None:
    g = Geometry((2, 2), (1, 1), (4, 4), (9, 10))
    _, moments = computes("conv_transpose2d", send(operands("conv_transpose2d", g, 2, 8, 8)), g,
                          cuda_tensor.Epilogue(moments=True))  # fmt: skip
    assert moments is None


# ---- what the compiler and the emulator say of them ------------------------------------------------------------------

@only_emulated
@needs_device
@pytest.mark.parametrize("name", TILES)
def test_there_are_no_bank_conflicts_but_the_one_that_is_explained(name: str, tile: Any) -> None:
    tile(TILES[name])
    sources = [cuda_tensor.SOURCE, *([linear.SOURCE] if name in ("large", "small") else [])]
    conflicts, seen = set(), 0
    with emulator.running(check=True, log_block=0) as found:
        for source in sources:
            for example in dict.fromkeys(source.examples.values()):
                example(cuda.connect("emulator"))
    for launch in found.launches:
        shared = [cost for cost in costs(launch) if cost.memory == "shared"]
        seen += len(shared)
        conflicts |= {cost.line for cost in shared if cost.cost > cost.best}
    assert seen > 10
    explained = {line for line in conflicts if "pixels[row].to" in text_of(line)}
    assert conflicts == explained


def text_of(line: str) -> str:
    file, number = line.rsplit(":", 1)
    return (cuda.KERNELS_FOLDER / file).read_text().splitlines()[int(number) - 1]


@pytest.mark.parametrize("source", [cuda_tensor.SOURCE, linear.SOURCE], ids=lambda source: source.file.parent.name)
def test_products_are_made_by_tensor_cores_and_tiles_by_asynchronous_copies(source: cuda.Source) -> None:
    try:
        nvrtc.disassemble(compiled(source, 0, 90).cubin)
    except nvrtc.CompilerNotFound as missing:
        pytest.skip(str(missing))
    for number, variant in enumerate(source.variants):
        shape = "16816.F32.BF16" if variant["BF16"] else "1688.F32.TF32"
        for kernel, found in instructions(source, number, 90).items():
            count = {
                start: sum(n for name, n in found.items() if name.startswith(start))
                for start in ("HMMA", f"HMMA.{shape}", "LDSM.16.M88.4", "LDGSTS", "LDGSTS.E.BYPASS.128", "STG.E.128",
                              "LDL", "STL")
            }  # fmt: skip
            of_warp = variant["WM"] // 16 * variant["WN"] // 8 * 2  # and two steps are unrolled
            assert count["HMMA"] == count[f"HMMA.{shape}"] == of_warp, kernel
            assert count["LDL"] == count["STL"] == 0, kernel
            both_across_k = kernel in ("conv2d_weight_mma", "matmul_mma_left_transposed")
            assert (count["LDSM.16.M88.4"] > 0) == (not both_across_k), kernel
            if variant["VEC"] == 4:
                assert count["LDGSTS"] == count["LDGSTS.E.BYPASS.128"] > 0, kernel
                assert count["STG.E.128"] > 0, kernel
