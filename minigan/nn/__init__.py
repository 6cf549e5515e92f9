"""Neural networks: Module, the layers, those that GANs brought, and how weights start."""

from . import init
from .attention import SelfAttention
from .batchwise import (
    MinibatchDiscrimination,
    MinibatchStdDev,
    VirtualBatch,
    VirtualBatchNorm1d,
    VirtualBatchNorm2d,
)
from .layers import (
    ELU,
    AvgPool2d,
    BatchNorm1d,
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Dropout,
    Embedding,
    Flatten,
    InstanceNorm2d,
    LayerNorm,
    LeakyReLU,
    Linear,
    MaxPool2d,
    PixelNorm,
    ReLU,
    Sequential,
    Sigmoid,
    Softplus,
    Tanh,
    Unflatten,
    Upsample,
)
from .modulated import Conditioned, ModulatedBatchNorm2d
from .module import Module, Parameter
from .noise import Anneal, GaussianNoise
from .reparametrized import EqualizedLR, Reparametrized, SpectralNorm, wrap_layers

__all__ = [
    "ELU", "Anneal", "AvgPool2d", "BatchNorm1d", "BatchNorm2d", "Conditioned", "Conv2d", "ConvTranspose2d", "Dropout",
    "Embedding", "EqualizedLR", "Flatten", "GaussianNoise", "InstanceNorm2d", "LayerNorm", "LeakyReLU", "Linear",
    "MaxPool2d", "MinibatchDiscrimination", "MinibatchStdDev", "ModulatedBatchNorm2d", "Module", "Parameter",
    "PixelNorm", "ReLU", "Reparametrized", "SelfAttention", "Sequential", "Sigmoid", "Softplus", "SpectralNorm", "Tanh",
    "Unflatten", "Upsample", "VirtualBatch", "VirtualBatchNorm1d", "VirtualBatchNorm2d", "init", "wrap_layers",
]  # fmt: skip
