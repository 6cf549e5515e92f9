"""Arrays in, arrays out: every array operation that minigan performs, by name.

The table below is the whole list. One folder is one story: `reference.py` specifies, `cpu.py` is fast.
Shape letters, the same in every kernel: N batch, H W image, C channels in, O channels out, KH KW window, S stride,
P padding. Images are NHWC, weights (KH, KW, C, O), gradients `gx gw gy`. Every kernel takes `out=`, a writable
C-contiguous array of the result's shape and dtype that is overwritten whole, and returns it; without it the result
is a new array. The optimizers' kernels work in place instead. Two convolutions take `prepared=`, room beside a weight
for what they make of it. Kernels never see a Tensor.
"""

from .conv2d.algorithm import conv_algorithm, explain_conv, set_conv_algorithm
from .conv2d.geometry import Geometry
from .dispatch import KERNELS, Kernel, backend, first_run, use
from .prepared import Prepared

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
clip = Kernel("clip", "elementwise")
where = Kernel("where", "elementwise")
greater_share = Kernel("greater_share", "elementwise")
inside = Kernel("inside", "elementwise")
cast = Kernel("cast", "elementwise")

leaky_relu = Kernel("leaky_relu", "activation", "cpu")
leaky_relu_backward = Kernel("leaky_relu_backward", "activation", "cpu")
bias_act = Kernel("bias_act", "activation", "cpu")
bias_act_backward = Kernel("bias_act_backward", "activation", "cpu")
elu = Kernel("elu", "activation", "cpu")
elu_backward = Kernel("elu_backward", "activation", "cpu")
tanh = Kernel("tanh", "activation")
tanh_backward = Kernel("tanh_backward", "activation", "cpu")
sigmoid = Kernel("sigmoid", "activation")
sigmoid_backward = Kernel("sigmoid_backward", "activation", "cpu")
softplus = Kernel("softplus", "activation")

sum = Kernel("sum", "reduce")
amax = Kernel("amax", "reduce")
amax_share = Kernel("amax_share", "reduce")
logsumexp = Kernel("logsumexp", "reduce")

copy = Kernel("copy", "indexing")
take = Kernel("take", "indexing")
scatter_add = Kernel("scatter_add", "indexing")
concatenate = Kernel("concatenate", "indexing")
pad = Kernel("pad", "indexing")
max_pool2d_index = Kernel("max_pool2d_index", "indexing")

matmul = Kernel("matmul", "linear", "cpu")

conv2d = Kernel("conv2d", "conv2d", "cpu")
conv_transpose2d = Kernel("conv_transpose2d", "conv2d", "cpu")
conv2d_weight = Kernel("conv2d_weight", "conv2d", "cpu")

batch_norm_statistics = Kernel("batch_norm_statistics", "batch_norm", "cpu")
batch_norm_apply = Kernel("batch_norm_apply", "batch_norm", "cpu")
batch_norm_backward = Kernel("batch_norm_backward", "batch_norm", "cpu")

sgd = Kernel("sgd", "optimizer", "cpu")
rmsprop = Kernel("rmsprop", "optimizer", "cpu")
adam = Kernel("adam", "optimizer", "cpu")
clip_weights = Kernel("clip_weights", "optimizer", "cpu")

dropout_mask = Kernel("dropout_mask", "random")
philox = Kernel("philox", "random", "cpu")
uniform = Kernel("uniform", "random", "cpu")
normal = Kernel("normal", "random", "cpu")

__all__ = [
    "KERNELS",
    "Geometry",
    "Kernel",
    "Prepared",
    "backend",
    "conv_algorithm",
    "explain_conv",
    "first_run",
    "set_conv_algorithm",
    "use",
    *KERNELS,
]
