"""Arrays in, arrays out: every array operation that minigan performs, by name.

The table below is the whole list. One folder is one story: `reference.py` specifies, `cpu.py` is fast.
Shape letters, the same in every kernel: N batch, H W image, C channels in, O channels out, KH KW window, S stride,
P padding. Images are NHWC, weights (KH, KW, C, O), gradients `gx gw gy`. Every kernel takes `out=`, a writable
C-contiguous array of the result's shape and dtype that is overwritten whole, and returns it; without it the result
is a new array. The optimizers' kernels work in place instead. All convolutions but conv2d_weight take `prepared=`, room
beside a weight for what they make of it. Kernels never see a Tensor.
"""

from .conv2d.algorithm import conv_algorithm, explain_conv, set_conv_algorithm
from .conv2d.geometry import Geometry
from .conv2d.precision import conv_precision, set_conv_precision
from .device import (
    DEVICES,
    as_array,
    beside,
    checked,
    connect,
    empty,
    host_copy,
    is_array,
    move,
    name_of,
    operand,
    places,
    read_only,
    synchronize,
    to_host,
)
from .dispatch import KERNELS, Kernel, backend, changed_layout, first_run, layout, own, threads, use
from .prepared import Prepared
from .recording import CaptureError, ahead, branch, early, left, listening, live, made, read, written

# name, folder, compiled implementations beside reference.py
add = Kernel("add", "elementwise")
subtract = Kernel("subtract", "elementwise")
multiply = Kernel("multiply", "elementwise")
divide = Kernel("divide", "elementwise")
negative = Kernel("negative", "elementwise")
power = Kernel("power", "elementwise")
exp = Kernel("exp", "elementwise")
log = Kernel("log", "elementwise")
sqrt = Kernel("sqrt", "elementwise")
absolute = Kernel("absolute", "elementwise")
sign = Kernel("sign", "elementwise")
minimum = Kernel("minimum", "elementwise")
maximum = Kernel("maximum", "elementwise")
clip = Kernel("clip", "elementwise", "cuda")
where = Kernel("where", "elementwise")
greater_share = Kernel("greater_share", "elementwise", "cuda")
inside = Kernel("inside", "elementwise")
less = Kernel("less", "elementwise")
less_equal = Kernel("less_equal", "elementwise")
greater = Kernel("greater", "elementwise")
greater_equal = Kernel("greater_equal", "elementwise")
equal = Kernel("equal", "elementwise")
not_equal = Kernel("not_equal", "elementwise")
cast = Kernel("cast", "elementwise")

leaky_relu = Kernel("leaky_relu", "activation", "cpu", "cuda")
leaky_relu_backward = Kernel("leaky_relu_backward", "activation", "cpu", "cuda")
bias_act = Kernel("bias_act", "activation", "cpu", "cuda")
bias_act_backward = Kernel("bias_act_backward", "activation", "cpu", "cuda")
elu = Kernel("elu", "activation", "cpu", "cuda")
elu_backward = Kernel("elu_backward", "activation", "cpu", "cuda")
tanh = Kernel("tanh", "activation", "cuda")
tanh_backward = Kernel("tanh_backward", "activation", "cpu", "cuda")
sigmoid = Kernel("sigmoid", "activation", "cpu", "cuda")
sigmoid_backward = Kernel("sigmoid_backward", "activation", "cpu", "cuda")
softplus = Kernel("softplus", "activation", "cpu", "cuda")

sum = Kernel("sum", "reduce", "cuda")
amax = Kernel("amax", "reduce", "cuda")
amax_share = Kernel("amax_share", "reduce", "cuda")
logsumexp = Kernel("logsumexp", "reduce", "cuda")

copy = Kernel("copy", "indexing", "cuda")
reshape = Kernel("reshape", "indexing", "cuda")
take = Kernel("take", "indexing", "cuda")
scatter_add = Kernel("scatter_add", "indexing", "cuda")
concatenate = Kernel("concatenate", "indexing", "cuda")
pad = Kernel("pad", "indexing", "cuda")
max_pool2d_index = Kernel("max_pool2d_index", "indexing", "cuda")

matmul = Kernel("matmul", "linear", "cpu", "cuda")

conv2d = Kernel("conv2d", "conv2d", "cpu", "cuda")
conv_transpose2d = Kernel("conv_transpose2d", "conv2d", "cpu", "cuda")
conv2d_weight = Kernel("conv2d_weight", "conv2d", "cpu", "cuda")
conv2d_bias_act = Kernel("conv2d_bias_act", "conv2d", "cpu", "cuda")
conv_transpose2d_bias_act = Kernel("conv_transpose2d_bias_act", "conv2d", "cpu", "cuda")
conv2d_statistics = Kernel("conv2d_statistics", "conv2d", "cpu", "cuda")
conv_transpose2d_statistics = Kernel("conv_transpose2d_statistics", "conv2d", "cpu", "cuda")

batch_norm_statistics = Kernel("batch_norm_statistics", "batch_norm", "cpu", "cuda")
batch_norm_rstd = Kernel("batch_norm_rstd", "batch_norm", "cuda")
batch_norm_running = Kernel("batch_norm_running", "batch_norm", "cuda")
batch_norm_apply = Kernel("batch_norm_apply", "batch_norm", "cpu", "cuda")
batch_norm_backward = Kernel("batch_norm_backward", "batch_norm", "cpu", "cuda")

sigmoid_cross_entropy = Kernel("sigmoid_cross_entropy", "loss", "cuda")
sigmoid_cross_entropy_backward = Kernel("sigmoid_cross_entropy_backward", "loss", "cuda")
mean_difference = Kernel("mean_difference", "loss", "cuda")
mean_difference_backward = Kernel("mean_difference_backward", "loss", "cuda")
row_squares = Kernel("row_squares", "loss", "cuda")
row_squares_backward = Kernel("row_squares_backward", "loss", "cuda")
slope_penalty = Kernel("slope_penalty", "loss", "cuda")
slope_penalty_backward = Kernel("slope_penalty_backward", "loss", "cuda")
interpolate = Kernel("interpolate", "loss", "cuda")

sgd = Kernel("sgd", "optimizer", "cpu", "cuda")
rmsprop = Kernel("rmsprop", "optimizer", "cpu", "cuda")
adam = Kernel("adam", "optimizer", "cpu", "cuda")
clip_weights = Kernel("clip_weights", "optimizer", "cpu", "cuda")
moving_average = Kernel("moving_average", "optimizer", "cuda")

dropout_mask = Kernel("dropout_mask", "random", "cuda")
philox = Kernel("philox", "random", "cpu", "cuda")
uniform = Kernel("uniform", "random", "cpu", "cuda")
normal = Kernel("normal", "random", "cpu", "cuda")

__all__ = [
    "DEVICES",
    "KERNELS",
    "CaptureError",
    "Geometry",
    "Kernel",
    "Prepared",
    "ahead",
    "as_array",
    "backend",
    "beside",
    "branch",
    "changed_layout",
    "checked",
    "connect",
    "early",
    "empty",
    "conv_algorithm",
    "conv_precision",
    "explain_conv",
    "first_run",
    "host_copy",
    "is_array",
    "layout",
    "left",
    "listening",
    "live",
    "made",
    "move",
    "name_of",
    "operand",
    "own",
    "places",
    "read",
    "read_only",
    "set_conv_algorithm",
    "set_conv_precision",
    "synchronize",
    "threads",
    "to_host",
    "use",
    "written",
    *KERNELS,
]
