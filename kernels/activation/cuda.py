"""The activations on a GPU: one kernel each, and a second one for the gradient of a bias."""

import numpy as np

from .. import cuda
from ..cuda import Array
from ..reduce.cuda import LANES, THREADS, Tiling, column_sums, lanes, macros

SOURCE = cuda.Source(
    "activation/activation.cu",
    variants=LANES,
    registers={
        "leaky_relu": 24,
        "leaky_relu_backward": 24,
        "elu": 24,
        "elu_backward": 32,
        "tanh_forward": 32,
        "tanh_backward": 24,
        "sigmoid": 32,
        "sigmoid_backward": 24,
        "softplus": 40,
        "bias_act": 40,
        "bias_act_backward": 64,
    },
)


def leaky_relu(x: Array, slope: float, out: Array | None = None) -> Array:
    """x where x > 0, else slope * x; with slope 0 max(x, 0)."""
    return _map("leaky_relu", "leaky_relu", (x,), out, slope)


def leaky_relu_backward(gy: Array, x: Array, slope: float, out: Array | None = None) -> Array:
    """gy where x > 0, else slope * gy; with slope 0 0, whatever gy is there."""
    return _map("leaky_relu_backward", "leaky_relu_backward", (gy, x), out, slope)


def bias_act(x: Array, b: Array, slope: float, out: Array | None = None) -> Array:
    """x (..., C), b (C,) -> leaky_relu(x + b, slope) (..., C)."""
    op, C = "bias_act", x.shape[-1:]
    check(op, x)
    if b.shape != C or b.dtype != x.dtype:
        raise ValueError(f"{op}: x is {x.dtype} {x.shape}, so b must be {x.dtype} {C}, not {b.dtype} {b.shape}")
    y = cuda.result(op, out, x, x.shape)
    if x.size:
        n, x, b = x.size // C[0], cuda.contiguous(x), cuda.contiguous(b)
        vector = lanes(*C, x, b, y)
        tiling = Tiling.of(1, n, *C, lanes=vector)
        args = x, b, x.dtype.type(slope), y, n, *C, tiling.rows
        SOURCE.launch(op, tiling.grid, tiling.block, args, macros(x.dtype, vector))
    return y


def bias_act_backward(gy: Array, y: Array, slope: float, out: tuple[Array, Array] | None = None) -> tuple[Array, Array]:
    """gy and y = bias_act(x, b, slope) (..., C) -> gx (..., C), gb (C,)."""
    op, C = "bias_act_backward", y.shape[-1:]
    check(op, gy, y)
    shapes = zip(out or (None, None), (y.shape, C), strict=True)
    gx, gb = (cuda.result(op, array, y, shape) for array, shape in shapes)
    if not y.size:
        gb.fill(0)
        return gx, gb
    n, gy, y = y.size // C[0], cuda.contiguous(gy), cuda.contiguous(y)
    vector = lanes(*C, gy, y, gx)
    tiling = Tiling.of(1, n, *C, lanes=vector)
    partial = cuda.device_of(y).xp.empty((1, tiling.strips, *C), np.float64)
    args = gy, y, y.dtype.type(slope), gx, partial, n, *C, tiling.rows
    SOURCE.launch(op, tiling.grid, tiling.block, args, macros(y.dtype, vector))
    column_sums(partial, gb)
    return gx, gb


def elu(x: Array, alpha: float, out: Array | None = None) -> Array:
    """x where x > 0, else alpha * (e^x - 1)."""
    return _map("elu", "elu", (x,), out, alpha)


def elu_backward(gy: Array, x: Array, alpha: float, out: Array | None = None) -> Array:
    """gy where x > 0, else alpha * e^x * gy."""
    return _map("elu_backward", "elu_backward", (gy, x), out, alpha)


def tanh(x: Array, out: Array | None = None) -> Array:
    """tanh(x)."""
    return _map("tanh", "tanh_forward", (x,), out)


def tanh_backward(gy: Array, y: Array, out: Array | None = None) -> Array:
    """gy * (1 - y^2) with y = tanh(x)."""
    return _map("tanh_backward", "tanh_backward", (gy, y), out)


def sigmoid(x: Array, out: Array | None = None) -> Array:
    """1 / (1 + e^-x), by whichever of e^x and e^-x does not overflow."""
    return _map("sigmoid", "sigmoid", (x,), out)


def sigmoid_backward(gy: Array, y: Array, out: Array | None = None) -> Array:
    """gy * y * (1 - y) with y = sigmoid(x)."""
    return _map("sigmoid_backward", "sigmoid_backward", (gy, y), out)


def softplus(x: Array, out: Array | None = None) -> Array:
    """log(1 + e^x), of which max(x, 0) is taken out before it can overflow."""
    return _map("softplus", "softplus", (x,), out)


def _map(op: str, kernel: str, inputs: tuple[Array, ...], out: Array | None, *scalars: float) -> Array:
    """Launches kernel(*inputs, y, size, *scalars): four elements a thread, if every array begins where a float4 can."""
    check(op, *inputs)
    x = inputs[0]
    y = cuda.result(op, out, x, x.shape)
    if not x.size:
        return y
    arrays = *map(cuda.contiguous, inputs), y
    vector = 4 if x.dtype == np.float32 and cuda.aligned(*arrays) else 1
    blocks = cuda.ceil_div(x.size, THREADS * vector)
    args = *arrays, x.size, *map(x.dtype.type, scalars)
    SOURCE.launch(kernel, (blocks,), (THREADS,), args, macros(x.dtype, vector))
    return y


def check(op: str, *arrays: Array) -> None:
    """TypeError unless all are float32 or all float64; ValueError unless all have one shape."""
    dtype, shape = arrays[0].dtype, arrays[0].shape
    for array in arrays:
        if array.dtype not in cuda.C_TYPES or array.dtype != dtype:
            raise TypeError(f"{op}: wants all float32 or all float64, not {', '.join(str(a.dtype) for a in arrays)}")
        if array.shape != shape:
            raise ValueError(f"{op}: wants arrays of one shape, not {', '.join(str(a.shape) for a in arrays)}")


@SOURCE.example(*SOURCE.registers)
def _two_blocks(device: cuda.Device) -> None:
    rng = np.random.default_rng(0)
    x, gy = (device.array(rng.standard_normal((37, 36)).astype(np.float32)) for _ in range(2))
    for forward in (tanh, sigmoid, softplus):
        forward(x)
    for backward in (tanh_backward, sigmoid_backward):
        backward(gy, x)
    for scaled in (leaky_relu, elu):
        scaled(x, 0.2)
    for scaled_backward in (leaky_relu_backward, elu_backward):
        scaled_backward(gy, x, 0.2)
    bias_act(x, device.array(np.ones(36, np.float32)), 0.2)
    bias_act_backward(gy, x, 0.2)
