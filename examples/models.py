"""Three classic nets, written once for any layers.

Every net takes where its layers come from, `torch.nn` or a package with the same `Conv2d`, `ReLU`,
`MaxPool2d` and `AvgPool2d`, and the number of input channels, 1 or 3; each returns the logits of
ten classes. LeNet is made of these layers up to its last one, which is linear; the ResNets have
batch normalisation besides.
"""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor, nn

CLASSES = 10


class Layers(Protocol):
    """The layers that a package has."""

    @property
    def Conv2d(self) -> type[nn.Conv2d]: ...  # noqa: N802
    @property
    def ReLU(self) -> type[nn.ReLU]: ...  # noqa: N802
    @property
    def MaxPool2d(self) -> type[nn.MaxPool2d]: ...  # noqa: N802
    @property
    def AvgPool2d(self) -> type[nn.AvgPool2d]: ...  # noqa: N802


class Mean(nn.Module):
    """The mean of each channel, as an average over a window of the image's size."""

    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.pool = layers.AvgPool2d

    def forward(self, x: Tensor) -> Tensor:  # [N, C, H, W] -> [N, C, 1, 1]
        return self.pool((x.shape[2], x.shape[3]))(x)


def lenet(layers: Layers, channels: int) -> nn.Module:
    """LeNet-5 (LeCun et al., 1998), with ReLU and max pooling; C5 and F6 are convolutions."""
    return nn.Sequential(
        layers.Conv2d(channels, 6, 5, padding=2),
        layers.ReLU(),
        layers.MaxPool2d(2),
        layers.Conv2d(6, 16, 5),
        layers.ReLU(),
        layers.MaxPool2d(2),
        layers.Conv2d(16, 120, 5),
        layers.ReLU(),
        Mean(layers),  # 1x1 already where the images are 28x28
        layers.Conv2d(120, 84, 1),
        layers.ReLU(),
        nn.Flatten(),
        nn.Linear(84, CLASSES),
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, a 1x1 convolution where the shape changes."""

    def __init__(self, layers: Layers, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            layers.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            layers.ReLU(),
            layers.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                layers.Conv2d(inputs, outputs, 1, stride=stride, bias=False),
                nn.BatchNorm2d(outputs),
            )
        self.relu = layers.ReLU()

    def forward(self, x: Tensor) -> Tensor:  # [N, inputs, H, W] -> [N, outputs, H/stride, W/stride]
        return self.relu(self.residual(x) + self.shortcut(x))


def _resnet(layers: Layers, stem: list[nn.Module], widths: list[int], blocks: int) -> nn.Module:
    """Stages of residual blocks on a stem; each stage but the first halves the image."""
    net, inputs = list(stem), widths[0]
    for stage, outputs in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            net.append(ResidualBlock(layers, inputs, outputs, stride))
            inputs = outputs
    head = [Mean(layers), nn.Flatten(), nn.Linear(inputs, CLASSES)]
    return nn.Sequential(*net, *head)


def resnet20(layers: Layers, channels: int) -> nn.Module:
    """ResNet-20 as for CIFAR-10 (He et al., 2016): stages of 16, 32 and 64 channels."""
    stem = [
        layers.Conv2d(channels, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        layers.ReLU(),
    ]
    return _resnet(layers, stem, [16, 32, 64], blocks=3)


def resnet18(layers: Layers, channels: int) -> nn.Module:
    """ResNet-18 as for ImageNet (He et al., 2016): a 7x7 stem, stages of 64 to 512 channels."""
    stem = [
        layers.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        layers.ReLU(),
        layers.MaxPool2d(3, stride=2, padding=1),
    ]
    return _resnet(layers, stem, [64, 128, 256, 512], blocks=2)


MODELS: dict[str, Callable[[Layers, int], nn.Module]] = {
    "lenet": lenet,
    "resnet20": resnet20,
    "resnet18": resnet18,
}
