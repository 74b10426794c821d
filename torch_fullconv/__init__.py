"""A drop-in nn.Conv2d whose training is three explicit operations; see `functional`."""

from importlib.metadata import version

from . import functional
from .algorithms import algorithm
from .convert import convert, revert
from .enabled import enabled
from .explanation import explain
from .modules import (
    AvgPool2d,
    Conv2d,
    ConvTranspose2d,
    LazyConv2d,
    LazyConvTranspose2d,
    MaxPool2d,
    ReLU,
)

__version__ = version("torch_fullconv")

__all__ = [
    "AvgPool2d",
    "Conv2d",
    "ConvTranspose2d",
    "LazyConv2d",
    "LazyConvTranspose2d",
    "MaxPool2d",
    "ReLU",
    "__version__",
    "algorithm",
    "convert",
    "enabled",
    "explain",
    "functional",
    "revert",
]
