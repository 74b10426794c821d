"""relu, max_pool2d and avg_pool2d as a user calls them; `functional` shows them beside the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from . import _checks, _pool_checks, autograd_pool
from .autograd_pool import AvgPool, MaxPool, Relu
from .pool_ops import Divisor

Size2 = int | Sequence[int]


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0), element by element: torch.nn.functional.relu.

    By the chain rule ∂E/∂x = ∂E/∂y where y > 0, else 0. -0 and NaN stay what they are, and a NaN's
    gradient passes, as stock has it.

    Args:
        input: any shape; float32, float64, bfloat16, float16, or (without gradients) integers.
        inplace: write the result over the input.

    Returns:
        The input's shape and memory layout.

    Raises:
        TypeError: the input is not a tensor.
        RuntimeError: an input that may not be written over.
        NotImplementedError: a dtype (as booleans), layout or device that is not supported.

    >>> import torch
    >>> relu(torch.tensor([-1.0, 0.0, 2.0]))
    tensor([0., 0., 2.])
    """
    if has_torch_function((input,)):
        return handle_torch_function(relu, (input,), input, inplace=inplace)
    _pool_checks.check_tensor("relu", input, _pool_checks.REAL)
    if not inplace:
        return Relu.call(input)
    _pool_checks.check_in_place(input)
    return autograd_pool.relu_(input)


@overload
def max_pool2d(
    input: Tensor,
    kernel_size: Size2,
    stride: Size2 | None = None,
    padding: Size2 = 0,
    dilation: Size2 = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
) -> Tensor: ...


@overload
def max_pool2d(
    input: Tensor,
    kernel_size: Size2,
    stride: Size2 | None = None,
    padding: Size2 = 0,
    dilation: Size2 = 1,
    ceil_mode: bool = False,
    *,
    return_indices: Literal[True],
) -> tuple[Tensor, Tensor]: ...


@overload
def max_pool2d(
    input: Tensor,
    kernel_size: Size2,
    stride: Size2 | None = None,
    padding: Size2 = 0,
    dilation: Size2 = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]: ...


def max_pool2d(
    input: Tensor,
    kernel_size: Size2,
    stride: Size2 | None = None,
    padding: Size2 = 0,
    dilation: Size2 = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The largest element of each window: torch.nn.functional.max_pool2d.

    y[n,c,i,j] = max_rs x[n,c, i·stride + r·dilation - padding, ...] over the taps that lie in the
    input. Of equal elements the first is taken, of NaNs the last. By the chain rule ∂E/∂y belongs
    to the element taken.

    Args:
        input: (N, C, H, W) or (C, H, W); float32, float64, bfloat16, float16, or (without
            gradients) integers.
        kernel_size, stride, padding, dilation: an int, or one for each axis; stride is kernel_size
            if it is left out.
        ceil_mode: also take windows that end behind the padding, if they start before it.
        return_indices: return the indices y·W + x of the elements taken as well, as int64.

    Returns:
        (N, C, P, Q) or (C, P, Q), or a pair of them; channels_last where the input is.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a number does not fit into 64 bits.
        RuntimeError: shapes or numbers do not fit each other.
        NotImplementedError: a dtype, layout or device that is not supported.

    >>> import torch
    >>> x = torch.tensor([[[1.0, 3.0, 2.0, 2.0], [4.0, 0.0, 2.0, 1.0]]])
    >>> max_pool2d(x, 2, return_indices=True)
    (tensor([[[4., 2.]]]), tensor([[[4, 2]]]))
    """
    if has_torch_function((input,)):
        return handle_torch_function(
            max_pool2d,
            (input,),
            input,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            ceil_mode=ceil_mode,
            return_indices=return_indices,
        )
    _pool_checks.check_tensor("max_pool2d", input, _pool_checks.REAL)
    windows = _pool_checks.windows(kernel_size, stride, padding, dilation, ceil_mode)
    _pool_checks.check_windows("max_pool2d", input, windows)
    # Without a batch the channels are one, so that results are contiguous, as stock's.
    batch = input if input.dim() == 4 else input.unsqueeze(1)
    if not return_indices:
        output = autograd_pool.max_pool2d(batch, windows)
        return output if input.dim() == 4 else output.squeeze(1)
    output, indices = MaxPool.call(batch, windows)
    return (output, indices) if input.dim() == 4 else (output.squeeze(1), indices.squeeze(1))


def avg_pool2d(
    input: Tensor,
    kernel_size: Size2,
    stride: Size2 | None = None,
    padding: Size2 = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of each window: torch.nn.functional.avg_pool2d.

    y[n,c,i,j] = Σ_rs x[n,c, i·stride + r - padding, ...] / divisor. By the chain rule each element
    of a window gets ∂E/∂y / divisor.

    Args:
        input: (N, C, H, W) or (C, H, W); float32, float64, bfloat16, float16, or (without
            gradients) int64.
        kernel_size, stride, padding, ceil_mode: as `max_pool2d`.
        count_include_pad: divide by the elements of the window in the padded input, else by those
            in the input.
        divisor_override: divide by this instead.

    Returns:
        (N, C, P, Q) or (C, P, Q); channels_last where the input is.

    Raises:
        TypeError, ValueError, RuntimeError, NotImplementedError: as `max_pool2d`; RuntimeError also
            for a divisor_override of 0.

    >>> import torch
    >>> avg_pool2d(torch.tensor([[[1.0, 3.0, 2.0, 2.0], [4.0, 0.0, 2.0, 1.0]]]), 2)
    tensor([[[2.0000, 1.7500]]])
    """
    if has_torch_function((input,)):
        return handle_torch_function(
            avg_pool2d,
            (input,),
            input,
            kernel_size,
            stride=stride,
            padding=padding,
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
            divisor_override=divisor_override,
        )
    _pool_checks.check_tensor("avg_pool2d", input, _pool_checks.AVERAGED)
    windows = _pool_checks.windows(kernel_size, stride, padding, 1, ceil_mode)
    divisor = Divisor(_checks.boolean("count_include_pad", count_include_pad))
    if divisor_override is not None:
        divisor = Divisor(override=_checks.integer("divisor_override", divisor_override))
        if divisor.override == 0:
            raise RuntimeError("divisor must be not zero")
    _pool_checks.check_windows("avg_pool2d", input, windows)
    if input.dim() == 4:
        return AvgPool.call(input, windows, divisor)
    return AvgPool.call(input.unsqueeze(1), windows, divisor).squeeze(1)
