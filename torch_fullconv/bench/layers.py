"""The suite: layers of well-known networks, as data.

Batches are such that one forward pass takes some milliseconds on one core.
"""

from __future__ import annotations

from math import prod
from typing import NamedTuple

from .._checks import pair

Pair = tuple[int, int]


class Layer(NamedTuple):
    """A convolution layer and its input: sizes, kernels and paddings of both axes, or of each."""

    name: str
    batch: int
    channels: int  # C
    size: int | Pair  # H, W
    filters: int  # K
    kernel: int | Pair  # R, S
    stride: int = 1
    padding: int | Pair = 0
    dilation: int = 1
    groups: int = 1

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        return self.batch, self.channels, *pair("size", self.size)

    @property
    def filter_shape(self) -> tuple[int, int, int, int]:
        return self.filters, self.channels // self.groups, *pair("kernel", self.kernel)

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        padding = pair("padding", self.padding)
        axes = zip(self.input_shape[2:], self.filter_shape[2:], padding, strict=True)
        spans = (h + 2 * pad - self.dilation * (r - 1) - 1 for h, r, pad in axes)
        p, q = (span // self.stride + 1 for span in spans)
        return self.batch, self.filters, p, q

    @property
    def flops(self) -> int:
        """Of the definition: a multiplication and an addition for each term."""
        return 2 * prod(self.output_shape) * prod(self.filter_shape[1:])


LAYERS = (
    Layer("post 3x3 by 2x2", 1, 1, 3, 1, 2),
    Layer("LeNet 1", 128, 1, 28, 6, 5, padding=2),
    Layer("LeNet 2", 128, 6, 14, 16, 5),
    Layer("MNIST 1", 128, 1, 28, 32, 3),
    Layer("CIFAR 1", 64, 3, 32, 64, 3, padding=1),
    Layer("ResNet-20 stage 1", 64, 16, 32, 16, 3, padding=1),
    Layer("ResNet-20 stage 2", 64, 32, 16, 32, 3, padding=1),
    Layer("ResNet-20 stage 3", 64, 64, 8, 64, 3, padding=1),
    Layer("ResNet-20 stride 2", 64, 16, 32, 32, 3, 2, 1),
    Layer("ResNet stem", 4, 3, 224, 64, 7, 2, 3),
    Layer("ResNet-18 stage 1", 8, 64, 56, 64, 3, padding=1),
    Layer("ResNet-18 stage 2", 8, 128, 28, 128, 3, padding=1),
    Layer("ResNet-18 stage 3", 8, 256, 14, 256, 3, padding=1),
    Layer("ResNet-18 stage 4", 8, 512, 7, 512, 3, padding=1),
    Layer("ResNet-18 stride 2 a", 8, 64, 56, 128, 3, 2, 1),
    Layer("ResNet-18 stride 2 b", 8, 256, 14, 512, 3, 2, 1),
    Layer("ResNet-18 shortcut", 8, 64, 56, 128, 1, 2),
    Layer("ResNet-18 stage 2, batch 1", 1, 128, 28, 128, 3, padding=1),
    Layer("ResNet-18 stage 4, batch 1", 1, 512, 7, 512, 3, padding=1),
    Layer("ResNet-50 1x1 64-256", 8, 64, 56, 256, 1),
    Layer("ResNet-50 1x1 256-64", 8, 256, 56, 64, 1),
    Layer("ResNet-50 1x1 256-1024", 8, 256, 14, 1024, 1),
    Layer("ResNet-50 1x1 2048-512", 8, 2048, 7, 512, 1),
    Layer("VGG-16 1", 1, 3, 224, 64, 3, padding=1),
    Layer("VGG-16 3", 1, 64, 112, 128, 3, padding=1),
    Layer("VGG-16 8", 1, 256, 28, 512, 3, padding=1),
    Layer("ResNeXt 4 a group", 4, 128, 56, 128, 3, padding=1, groups=32),
    Layer("ResNeXt 8 a group", 8, 256, 28, 256, 3, padding=1, groups=32),
    Layer("ResNeXt stride 2", 8, 256, 56, 256, 3, 2, 1, groups=32),
    Layer("MobileNetV2 stem", 8, 3, 224, 32, 3, 2, 1),
    Layer("MobileNetV2 expand", 8, 24, 56, 144, 1),
    Layer("MobileNetV2 project", 8, 144, 56, 24, 1),
    Layer("MobileNetV2 depthwise", 8, 144, 56, 144, 3, padding=1, groups=144),
    Layer("MobileNetV2 depthwise, stride 2", 8, 96, 112, 96, 3, 2, 1, groups=96),
    Layer("MobileNetV2 depthwise, 7x7 image", 8, 960, 7, 960, 3, padding=1, groups=960),
    Layer("EfficientNet depthwise 5x5", 8, 240, 28, 240, 5, padding=2, groups=240),
    Layer("EfficientNet depthwise 5x5, stride 2", 8, 144, 56, 144, 5, 2, 2, groups=144),
    Layer("ConvNeXt depthwise 7x7", 8, 96, 56, 96, 7, padding=3, groups=96),
    Layer("ConvNeXt depthwise 7x7, deep", 8, 384, 14, 384, 7, padding=3, groups=384),
    Layer("ConvNeXt stem", 8, 3, 224, 96, 4, 4),
    Layer("ViT patches", 8, 3, 224, 768, 16, 16),
    Layer("DeepLab dilation 2", 2, 256, 28, 256, 3, padding=2, dilation=2),
    Layer("DeepLab dilation 12", 1, 512, 28, 256, 3, padding=12, dilation=12),
    Layer("U-Net down", 2, 64, 128, 64, 3, padding=1),
    Layer("U-Net up", 2, 128, 64, 64, 3, padding=1),
    Layer("U-Net head", 2, 64, 128, 2, 1),
    Layer("PatchGAN 4x4", 2, 256, 32, 512, 4, padding=1),
    Layer("image compression 5x5, stride 2", 2, 128, 64, 128, 5, 2, 2),
    Layer("Inception 1x7", 8, 192, 17, 192, (1, 7), padding=(0, 3)),
    Layer("ERFNet 3x1", 2, 128, (64, 128), 128, (3, 1), padding=(1, 0)),
    Layer("Tacotron 2 conv1d", 4, 512, (1, 160), 512, (1, 5), padding=(0, 2)),
    Layer("super-resolution 9x9", 2, 1, 128, 64, 9, padding=4),
    Layer("super-resolution 5x5", 2, 64, 128, 32, 5, padding=2),
    Layer("super-resolution 5x5, last", 2, 32, 128, 1, 5, padding=2),
)


class Activation(NamedTuple):
    """A ReLU or pooling layer and its input: a function of both packages, and its arguments."""

    name: str
    function: str  # of functional
    input: tuple[int, int, int, int]
    arguments: tuple[int, ...] = ()


ACTIVATIONS = (
    Activation("ReLU 64x32²", "relu", (64, 16, 32, 32)),
    Activation("ReLU 64x56²", "relu", (8, 64, 56, 56)),
    Activation("LeNet max pool", "max_pool2d", (128, 6, 28, 28), (2,)),
    Activation("ResNet max pool", "max_pool2d", (8, 64, 112, 112), (3, 2, 1)),
    Activation("VGG-16 max pool", "max_pool2d", (8, 512, 14, 14), (2,)),
    Activation("SPP max pool 5x5", "max_pool2d", (8, 256, 13, 13), (5, 1, 2)),
    Activation("DenseNet average", "avg_pool2d", (8, 128, 56, 56), (2,)),
    Activation("Inception average", "avg_pool2d", (8, 192, 35, 35), (3, 1, 1)),
    Activation("global average", "avg_pool2d", (8, 512, 7, 7), (7,)),
)
