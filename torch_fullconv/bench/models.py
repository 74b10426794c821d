"""Models of the benchmark, in plain torch.nn: what convolution layers are used in."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn


def _conv(c: int, k: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(c, k, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(k)]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., 2015)."""

    def __init__(self, c: int, k: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_conv(c, k, 3, stride), nn.ReLU(), *_conv(k, k, 3))
        plain = c == k and stride == 1
        self.shortcut = nn.Identity() if plain else nn.Sequential(*_conv(c, k, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def _stages(widths: tuple[int, ...], blocks: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    c = widths[0]
    for stage, k in enumerate(widths):
        for block in range(blocks):
            layers.append(BasicBlock(c, k, 2 if stage > 0 and block == 0 else 1))
            c = k
    return [*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()]


def resnet18() -> nn.Module:
    stem = [*_conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*stem, *_stages((64, 128, 256, 512), 2), nn.Linear(512, 1000))


def resnet20() -> nn.Module:
    return nn.Sequential(*_conv(3, 16, 3), nn.ReLU(), *_stages((16, 32, 64), 3), nn.Linear(64, 10))


class InvertedResidual(nn.Module):
    """Expand by 1x1, filter each channel, project by 1x1 (Sandler et al., 2018)."""

    def __init__(self, c: int, k: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = c * expansion
        expand = [*_conv(c, wide, 1), nn.ReLU6()] if expansion > 1 else []
        depthwise = [*_conv(wide, wide, 3, stride, wide), nn.ReLU6()]
        self.body = nn.Sequential(*expand, *depthwise, *_conv(wide, k, 1))
        self.adds = c == k and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


def mobilenet_v2() -> nn.Module:
    layers: list[nn.Module] = [*_conv(3, 32, 3, 2), nn.ReLU6()]
    c = 32
    for expansion, k, blocks, stride in (
        *((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)),
        *((6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)),
    ):
        for block in range(blocks):
            layers.append(InvertedResidual(c, k, stride if block == 0 else 1, expansion))
            c = k
    layers += [*_conv(320, 1280, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(1280, 1000))


class UNet(nn.Module):
    """Three levels down and up again, with what was seen on the way (Ronneberger et al., 2015)."""

    def __init__(self, width: int = 32, levels: int = 3) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels + 1)]
        self.down = nn.ModuleList(
            self._pair(c, k) for c, k in zip([3, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * k, k, 2, stride=2) for k in reversed(widths[:-1])
        )
        self.join = nn.ModuleList(self._pair(2 * k, k) for k in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, 2, 1)

    @staticmethod
    def _pair(c: int, k: int) -> nn.Module:
        return nn.Sequential(*_conv(c, k, 3), nn.ReLU(), *_conv(k, k, 3), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        seen: list[Tensor] = []
        for level in self.down:
            x = level(nn.functional.max_pool2d(x, 2) if seen else x)
            seen.append(x)
        for up, join, before in zip(self.up, self.join, reversed(seen[:-1]), strict=True):
            x = join(torch.cat([before, up(x)], 1))
        return self.head(x)


class Model(NamedTuple):
    name: str
    build: Callable[[], nn.Module]
    input: tuple[int, int, int, int]
    training: bool


MODELS = (
    Model("ResNet-18", resnet18, (8, 3, 224, 224), True),
    Model("ResNet-18", resnet18, (8, 3, 224, 224), False),
    Model("ResNet-18, batch 1", resnet18, (1, 3, 224, 224), False),
    Model("ResNet-20", resnet20, (128, 3, 32, 32), True),
    Model("ResNet-20", resnet20, (128, 3, 32, 32), False),
    Model("MobileNetV2", mobilenet_v2, (8, 3, 224, 224), True),
    Model("MobileNetV2", mobilenet_v2, (8, 3, 224, 224), False),
    Model("U-Net", UNet, (2, 3, 128, 128), True),
    Model("U-Net", UNet, (2, 3, 128, 128), False),
)
