"""nn.Module faces of `functional`: drop-in twins of PyTorch's layers.

Each is a subclass of its stock twin and overrides the one call that does the arithmetic, so
constructor, initial weights, state_dict, repr and hooks are stock's own.
"""

from __future__ import annotations

from torch import Tensor, nn

from . import functional


class Conv2d(nn.Conv2d):
    """nn.Conv2d, with this package's forward and gradients; every padding mode without a copy.

    Arguments, attributes, state_dict and errors as torch.nn.Conv2d.

    Shapes: input (N, C, H, W) or (C, H, W); output (N, K, P, Q) or (K, P, Q).

    >>> import torch
    >>> layer = Conv2d(3, 8, 3, padding=1, padding_mode="reflect")
    >>> layer(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 8, 32, 32])
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # As stock, whatever was assigned to either of the two after the layer was made.
        zeros = self.padding_mode == "zeros"
        return functional.conv2d(
            input,
            weight,
            bias,
            self.stride,
            self.padding if zeros else self._reversed_padding_repeated_twice,
            self.dilation,
            self.groups,
            self.padding_mode,
        )


class LazyConv2d(nn.LazyConv2d):
    """A `Conv2d` that takes its in_channels from the first input: torch.nn.LazyConv2d.

    >>> import torch
    >>> layer = LazyConv2d(8, 3)
    >>> layer(torch.zeros(1, 5, 9, 9)).shape, type(layer).__name__
    (torch.Size([1, 8, 7, 7]), 'Conv2d')
    """

    cls_to_become = Conv2d


class ConvTranspose2d(nn.ConvTranspose2d):
    """nn.ConvTranspose2d: the full convolution of an input gradient, as a layer.

    Arguments, attributes, state_dict and errors as torch.nn.ConvTranspose2d.

    Shapes: input (N, C, H, W) or (C, H, W); output (N, K, P, Q) or (K, P, Q).

    >>> import torch
    >>> layer = ConvTranspose2d(8, 3, 4, stride=2, padding=1)
    >>> layer(torch.zeros(1, 8, 5, 5)).shape
    torch.Size([1, 3, 10, 10])
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The output; `output_size` chooses among the sizes that a stride leaves open."""
        if self.padding_mode != "zeros":
            raise ValueError("Only `zeros` padding mode is supported for ConvTranspose2d")
        output_padding = self._output_padding(
            input,
            output_size,
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.kernel_size,  # type: ignore[arg-type]
            2,
            self.dilation,  # type: ignore[arg-type]
        )
        return functional.conv_transpose2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            output_padding,
            self.groups,
            self.dilation,
        )


class LazyConvTranspose2d(nn.LazyConvTranspose2d):
    """A `ConvTranspose2d` that takes its in_channels from the first input.

    >>> import torch
    >>> layer = LazyConvTranspose2d(3, 2, stride=2)
    >>> layer(torch.zeros(1, 5, 4, 4)).shape
    torch.Size([1, 3, 8, 8])
    """

    cls_to_become = ConvTranspose2d


class ReLU(nn.ReLU):
    """nn.ReLU, with this package's forward and gradients.

    >>> import torch
    >>> ReLU()(torch.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.relu(input, self.inplace)


class MaxPool2d(nn.MaxPool2d):
    """nn.MaxPool2d, with this package's forward and gradients.

    Shapes: input (N, C, H, W) or (C, H, W); output (N, C, P, Q) or (C, P, Q).

    >>> import torch
    >>> MaxPool2d(3, stride=2, padding=1)(torch.zeros(2, 8, 32, 32)).shape
    torch.Size([2, 8, 16, 16])
    """

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return functional.max_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
        )


class AvgPool2d(nn.AvgPool2d):
    """nn.AvgPool2d, with this package's forward and gradients.

    Shapes: input (N, C, H, W) or (C, H, W); output (N, C, P, Q) or (C, P, Q).

    >>> import torch
    >>> AvgPool2d(2)(torch.zeros(2, 8, 32, 32)).shape
    torch.Size([2, 8, 16, 16])
    """

    def forward(self, input: Tensor) -> Tensor:
        return functional.avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )
