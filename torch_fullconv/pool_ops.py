"""The native ops of ReLU and pooling: what each computes, and its fake kernel, as in `ops`.

A pooling layer is its tensors and `Windows`. `max_pool2d` and its derivatives meet in the indices
of the elements chosen: `max_gather` takes these elements of another input, `max_scatter` adds a
gradient to them; each is the other's transpose. `avg_pool2d` is linear, and has a transpose.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .ops import _empty, _ops


class Windows(NamedTuple):
    """The windows of a pooling layer; the fields are the op schemas' integers, in their order."""

    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    pad_h: int = 0
    pad_w: int = 0
    dilation_h: int = 1
    dilation_w: int = 1
    ceil_mode: int = 0

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """(P, Q) for an (height, width) input."""
        return (
            self._outputs(height, self.kernel_h, self.stride_h, self.pad_h, self.dilation_h),
            self._outputs(width, self.kernel_w, self.stride_w, self.pad_w, self.dilation_w),
        )

    def _outputs(self, size: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
        span = size + 2 * pad - dilation * (kernel - 1) - 1
        if not self.ceil_mode:
            return span // stride + 1
        count = (span + stride - 1) // stride + 1
        return count - 1 if (count - 1) * stride >= size + pad else count


class Divisor(NamedTuple):
    """What an average divides by: the window's elements, or `override` where that is not 0."""

    count_include_pad: bool = True
    override: int = 0


def relu(input: Tensor) -> Tensor:
    """Each element that is below 0 set to 0; -0 and NaN stay."""
    return _ops.relu.default(input)


def relu_(input: Tensor) -> None:
    """`relu` in place."""
    _ops.relu_.default(input)


def relu_grad(grad: Tensor, output: Tensor) -> Tensor:
    """grad where output is above 0 or NaN, else 0."""
    return _ops.relu_grad.default(grad, output)


def max_pool2d(input: Tensor, windows: Windows) -> Tensor:
    """(N, C, H, W) to (N, C, P, Q): the largest element of each window."""
    return _ops.max_pool2d.default(input, *windows)


def max_pool2d_indices(input: Tensor, windows: Windows) -> tuple[Tensor, Tensor]:
    """The largest elements, and their indices y·W + x in the input's planes."""
    return _ops.max_pool2d_indices.default(input, *windows)


def max_gather(input: Tensor, indices: Tensor, windows: Windows) -> Tensor:
    """(N, C, H, W) to (N, C, P, Q): the element of each window that `indices` names."""
    return _ops.max_gather.default(input, indices, *windows)


def max_scatter(
    grad: Tensor, indices: Tensor, windows: Windows, input_size: tuple[int, int]
) -> Tensor:
    """(N, C, P, Q) to (N, C, *input_size): each element added where `indices` names."""
    return _ops.max_scatter.default(grad, indices, *windows, *input_size)


def avg_pool2d(input: Tensor, windows: Windows, divisor: Divisor) -> Tensor:
    """(N, C, H, W) to (N, C, P, Q): the mean of each window."""
    return _ops.avg_pool2d.default(input, *windows, *divisor)


def avg_pool2d_adjoint(
    grad: Tensor, windows: Windows, divisor: Divisor, input_size: tuple[int, int]
) -> Tensor:
    """(N, C, P, Q) to (N, C, *input_size): each element, divided, added all over its window."""
    return _ops.avg_pool2d_adjoint.default(grad, *windows, *divisor, *input_size)


def _output(input: Tensor, windows: Windows) -> Tensor:
    size = windows.output_size(input.shape[2], input.shape[3])
    return _empty((*input.shape[:2], *size), input, input)


@torch.library.register_fake("torch_fullconv::relu")
def _(input: Tensor) -> Tensor:
    return torch.empty_like(input)


@torch.library.register_fake("torch_fullconv::relu_")
def _(input: Tensor) -> None:
    return None


@torch.library.register_fake("torch_fullconv::relu_grad")
def _(grad: Tensor, output: Tensor) -> Tensor:
    return torch.empty_like(output)


@torch.library.register_fake("torch_fullconv::max_pool2d")
def _(input: Tensor, *integers: int) -> Tensor:
    return _output(input, Windows(*integers))


@torch.library.register_fake("torch_fullconv::max_pool2d_indices")
def _(input: Tensor, *integers: int) -> tuple[Tensor, Tensor]:
    output = _output(input, Windows(*integers))
    return output, torch.empty_like(output, dtype=torch.int64)


@torch.library.register_fake("torch_fullconv::max_gather")
def _(input: Tensor, indices: Tensor, *integers: int) -> Tensor:
    return _output(input, Windows(*integers))


@torch.library.register_fake("torch_fullconv::max_scatter")
def _(grad: Tensor, indices: Tensor, *integers: int) -> Tensor:
    return _empty((*grad.shape[:2], *integers[-2:]), grad, indices)


@torch.library.register_fake("torch_fullconv::avg_pool2d")
def _(input: Tensor, *integers: int) -> Tensor:
    return _output(input, Windows(*integers[:-2]))


@torch.library.register_fake("torch_fullconv::avg_pool2d_adjoint")
def _(grad: Tensor, *integers: int) -> Tensor:
    return _empty((*grad.shape[:2], *integers[-2:]), grad, grad)
