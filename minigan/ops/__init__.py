"""Everything that can be computed on tensors. One op is one readable unit; none fails at any order of derivative."""

from .activation import bias_act, elu, leaky_relu, relu, sigmoid, softplus, tanh
from .conv import conv2d, conv2d_weight, conv_transpose2d
from .elementwise import (
    abs,
    add,
    astype,
    clip,
    compare,
    divide,
    exp,
    log,
    maximum,
    minimum,
    multiply,
    negative,
    power,
    sqrt,
    subtract,
    to,
    where,
)
from .linear import linear, matmul
from .loss import binary_cross_entropy_with_logits, cross_entropy, mean_difference, row_squares, slope_penalty
from .norm import batch_norm, instance_norm, layer_norm
from .pool import avg_pool2d, max_pool2d, upsample_nearest
from .random import dropout
from .reduce import log_softmax, logsumexp, max, mean, softmax, sum, var
from .shape import (
    as_index,
    assign,
    broadcast_to,
    concatenate,
    embedding,
    flip,
    getitem,
    pad,
    reshape,
    scatter_add,
    stack,
    transpose,
)

__all__ = [
    "abs", "add", "as_index", "assign", "astype", "avg_pool2d", "batch_norm", "bias_act",
    "binary_cross_entropy_with_logits", "broadcast_to", "clip", "compare", "concatenate", "conv2d", "conv2d_weight",
    "conv_transpose2d", "cross_entropy", "divide", "dropout", "elu", "embedding", "exp", "flip", "getitem",
    "instance_norm", "layer_norm", "leaky_relu", "linear", "log", "log_softmax", "logsumexp", "matmul", "max",
    "max_pool2d", "maximum", "mean", "mean_difference", "minimum", "multiply", "negative", "pad", "power", "relu",
    "reshape", "row_squares", "scatter_add", "sigmoid", "slope_penalty", "softmax", "softplus", "sqrt", "stack",
    "subtract", "sum", "tanh", "to", "transpose", "upsample_nearest", "var", "where",
]  # fmt: skip
