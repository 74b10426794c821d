"""Three classic nets, written once for any convolution layer.

Every net takes the class of its convolution layers, `nn.Conv2d` or one with the same constructor,
and the number of input channels, 1 or 3; each returns the logits of ten classes.
"""

from collections.abc import Callable

from torch import Tensor, nn

CLASSES = 10
Conv = type[nn.Conv2d]


def lenet(conv: Conv, channels: int) -> nn.Module:
    """LeNet-5 (LeCun et al., 1998), with ReLU and max pooling; its layer C5 is a convolution."""
    return nn.Sequential(
        conv(channels, 6, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        conv(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        conv(16, 120, 5),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),  # 1x1 already where the images are 28x28
        nn.Flatten(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, CLASSES),
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, a 1x1 convolution where the shape changes."""

    def __init__(self, conv: Conv, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            conv(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            conv(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                conv(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:  # [N, inputs, H, W] -> [N, outputs, H/stride, W/stride]
        return self.relu(self.residual(x) + self.shortcut(x))


def _resnet(conv: Conv, stem: list[nn.Module], widths: list[int], blocks: int) -> nn.Module:
    """Stages of residual blocks on a stem; each stage but the first halves the image."""
    layers, inputs = list(stem), widths[0]
    for stage, outputs in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage > 0 and block == 0 else 1
            layers.append(ResidualBlock(conv, inputs, outputs, stride))
            inputs = outputs
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, CLASSES)]
    return nn.Sequential(*layers, *head)


def resnet20(conv: Conv, channels: int) -> nn.Module:
    """ResNet-20 as for CIFAR-10 (He et al., 2016): stages of 16, 32 and 64 channels."""
    stem = [conv(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return _resnet(conv, stem, [16, 32, 64], blocks=3)


def resnet18(conv: Conv, channels: int) -> nn.Module:
    """ResNet-18 as for ImageNet (He et al., 2016): a 7x7 stem, stages of 64 to 512 channels."""
    stem = [
        conv(channels, 64, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
    ]
    return _resnet(conv, stem, [64, 128, 256, 512], blocks=2)


MODELS: dict[str, Callable[[Conv, int], nn.Module]] = {
    "lenet": lenet,
    "resnet20": resnet20,
    "resnet18": resnet18,
}
