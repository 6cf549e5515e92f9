"""minigan: a small autograd engine that trains GANs on hand-written kernels.

Read in this order: tensor.py, autograd.py, ops/, then kernels/, nn/, optim.py, gan/.
"""

from .tensor import Tensor  # isort: skip - first, see the end of tensor.py

from . import graph, kernels, nn, ops, optim, random
from ._version import __version__
from .autograd import Function, backward, detect_anomaly, grad, is_recording, no_grad, rederive
from .capture import Captured, CaptureError, MemoryPool, branch, capture, live
from .creation import from_dlpack, ones, zeros
from .gradcheck import check_recorded, gradcheck, gradgradcheck
from .kernels import set_conv_algorithm
from .ops import *  # noqa: F403 - the table of contents of ops/ is ops.__all__
from .ops.conv import explain_conv
from .profile import profile
from .random import manual_seed

__all__ = [
    "CaptureError",
    "Captured",
    "Function",
    "MemoryPool",
    "Tensor",
    "__version__",
    "backward",
    "branch",
    "capture",
    "check_recorded",
    "detect_anomaly",
    "explain_conv",
    "from_dlpack",
    "grad",
    "gradcheck",
    "gradgradcheck",
    "graph",
    "is_recording",
    "kernels",
    "live",
    "manual_seed",
    "nn",
    "no_grad",
    "ones",
    "optim",
    "profile",
    "random",
    "rederive",
    "set_conv_algorithm",
    "zeros",
    "ops",
    *ops.__all__,
]
