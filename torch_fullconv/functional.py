"""What a user calls: argument forms, padding and dtype rules; the work is `autograd`'s.

Functions named as in torch.nn.functional take its arguments and raise its errors.
`conv2d_input_grad` and `conv2d_weight_grad` are the two gradients of a convolution layer alone,
`correlate2d`, `convolve2d` and `rotate180` the operations of scipy.signal on plain matrices.
`relu`, `max_pool2d` and `avg_pool2d` are in `pooling`. All are differentiable to any order.

dtypes: float32, float64, bfloat16, float16 (both accumulated in float32), complex64, complex128.
Everything that is wrong with the arguments is found before anything is computed (`_checks`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from . import _checks, algorithms
from .autograd import Correlate, CorrelateWeight, FullConvolve
from .ops import PADDING_MODES, Geometry, allow_tf32
from .pooling import avg_pool2d, max_pool2d, relu

Size2 = int | Sequence[int]
Mode = Literal["valid", "same", "full"]

__all__ = [
    "avg_pool2d",
    "conv2d",
    "conv2d_input_grad",
    "conv2d_weight_grad",
    "conv_transpose2d",
    "convolve2d",
    "correlate2d",
    "max_pool2d",
    "relu",
    "rotate180",
]


def _autocast(
    input: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The tensors in the dtype that autocast wants a convolution's in."""
    if not _checks.is_autocast(input):
        return input, weight, bias
    dtype = torch.get_autocast_dtype(input.device.type)
    return input.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def _geometry(
    tensor: Tensor,
    stride: Size2,
    padding: Size2 | str,
    dilation: Size2,
    groups: int,
    kernel: Sequence[int],
    padding_mode: str = "zeros",
) -> Geometry:
    """The layer's geometry, with 'same' and 'valid' worked out as stock does."""
    stride_h, stride_w = _checks.pair("stride", stride)
    dilation_h, dilation_w = _checks.pair("dilation", dilation)
    if isinstance(padding, str):
        if padding == "valid":
            padding = 0
        elif padding != "same":
            raise RuntimeError(f"Invalid padding string: {padding!r}; use 'same' or 'valid'")
        elif (stride_h, stride_w) != (1, 1):
            raise RuntimeError("padding='same' is not supported for strided convolutions")
        else:
            rows, columns = dilation_h * (kernel[0] - 1), dilation_w * (kernel[1] - 1)
            padding = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    left, right, top, bottom = _checks.four_sides(padding)
    if padding_mode not in PADDING_MODES:
        raise ValueError(f"padding_mode must be one of {PADDING_MODES}, but got {padding_mode!r}")
    geometry = Geometry(
        _checks.integer("groups", groups),
        stride_h,
        stride_w,
        top,
        bottom,
        left,
        right,
        dilation_h,
        dilation_w,
        PADDING_MODES.index(padding_mode),
        algorithms.current,
        int(tensor.is_cuda and allow_tf32()),
    )
    _checks.check_geometry(geometry)
    return geometry


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size2 = 1,
    padding: Size2 | str = 0,
    dilation: Size2 = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    """Correlation of input and weight, plus bias: torch.nn.functional.conv2d.

    O[n,k,i,j] = bias[k] + Σ_crs weight[k,c,r,s] · input[n,c,i·stride+r·dilation-padding, ...],
    the first equations of the post in `docs`.

    Args:
        input: (N, C, H, W) or (C, H, W).
        weight: (K, C/groups, R, S).
        bias: (K).
        stride, dilation: an int, or one for each axis.
        padding: an int, one for each axis, the four sides (left, right, top, bottom) in
            `torch.nn.functional.pad`'s order, 'valid' or, for stride 1, 'same'.
        groups: number of parts of the channels that are convolved apart.
        padding_mode: what the padding shows: 'zeros', 'reflect', 'replicate' or 'circular'.

    Returns:
        (N, K, P, Q) or (K, P, Q); channels_last where input or weight is.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an unknown padding_mode, or a number that does not fit into 64 bits.
        RuntimeError: shapes, dtypes, devices or numbers do not fit each other.
        NotImplementedError: a dtype, layout or device that is not supported.

    >>> x = torch.arange(9.0).reshape(1, 1, 3, 3)
    >>> conv2d(x, torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
    tensor([[[[27., 37.],
              [57., 67.]]]])
    """
    if has_torch_function((input, weight, bias)):
        return handle_torch_function(
            conv2d,
            (input, weight, bias),
            input,
            weight,
            bias,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            padding_mode=padding_mode,
        )
    _checks.check_tensors("conv2d", autocast=True, input=input, weight=weight, bias=bias)
    _checks.check_dims("conv2d", input, weight)
    geometry = _geometry(weight, stride, padding, dilation, groups, weight.shape[2:], padding_mode)
    _checks.check_correlation(input, weight, bias, geometry)
    input, weight, bias = _autocast(input, weight, bias)
    if input.dim() == 4:
        return Correlate.call(input, weight, bias, geometry)
    return Correlate.call(input[None], weight, bias, geometry)[0]


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size2 = 1,
    padding: Size2 = 0,
    output_padding: Size2 = 0,
    groups: int = 1,
    dilation: Size2 = 1,
) -> Tensor:
    """Full convolution of input and weight: torch.nn.functional.conv_transpose2d.

    It is what a convolution layer does to its output gradient (`conv2d_input_grad`), as a layer.

    Args:
        input: (N, C, H, W) or (C, H, W).
        weight: (C, K/groups, R, S).
        bias: (K).
        stride, padding, dilation: of the convolution that this transposes.
        output_padding: rows and columns added at the end, less than stride or dilation.
        groups: number of parts of the channels that are convolved apart.

    Returns:
        (N, K, P, Q) or (K, P, Q) with
        P = (H-1)·stride - 2·padding + dilation·(R-1) + output_padding + 1.

    Raises:
        TypeError, ValueError, RuntimeError, NotImplementedError: as `conv2d`.

    >>> x = torch.ones(1, 1, 2, 2)
    >>> conv_transpose2d(x, torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
    tensor([[[[ 1.,  3.,  2.],
              [ 4., 10.,  6.],
              [ 3.,  7.,  4.]]]])
    """
    if has_torch_function((input, weight, bias)):
        return handle_torch_function(
            conv_transpose2d,
            (input, weight, bias),
            input,
            weight,
            bias,
            stride=stride,
            padding=padding,
            output_padding=output_padding,
            groups=groups,
            dilation=dilation,
        )
    _checks.check_tensors("conv_transpose2d", autocast=True, input=input, weight=weight, bias=bias)
    _checks.check_dims("conv_transpose2d", input, weight)
    padding = _checks.pair("padding", padding)
    geometry = _geometry(weight, stride, padding, dilation, groups, weight.shape[2:])
    extra = _checks.pair("output_padding", output_padding)
    _checks.check_output_padding(extra, geometry)
    geometry, size = _checks.check_transposed(input, weight, bias, geometry, extra)
    input, weight, bias = _autocast(input, weight, bias)
    if input.dim() == 4:
        return FullConvolve.call(input, weight, bias, geometry, size)
    return FullConvolve.call(input[None], weight, bias, geometry, size)[0]


def conv2d_input_grad(
    input_size: Sequence[int],
    weight: Tensor,
    grad_output: Tensor,
    stride: Size2 = 1,
    padding: Size2 | str = 0,
    dilation: Size2 = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    """∂E/∂X of a convolution layer alone: torch.nn.grad.conv2d_input.

    The full convolution of grad_output and weight (which slides rotated by 180°), the post's
    equations for δX. No input is needed, only its size; zeros are never inserted for a stride.

    Args:
        input_size: (N, C, H, W).
        weight: (K, C/groups, R, S).
        grad_output: (N, K, P, Q), ∂E/∂O.
        stride, padding, dilation, groups, padding_mode: the layer's, as in `conv2d`.

    Returns:
        (N, C, H, W).

    Raises:
        TypeError, ValueError, RuntimeError, NotImplementedError: as `conv2d`; RuntimeError also
            where grad_output is not of the size that the layer's output has.

    >>> weight = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    >>> conv2d_input_grad((1, 1, 3, 3), weight, torch.ones(1, 1, 2, 2))
    tensor([[[[ 1.,  3.,  2.],
              [ 4., 10.,  6.],
              [ 3.,  7.,  4.]]]])
    """
    _checks.check_tensors("conv2d_input_grad", weight=weight, grad_output=grad_output)
    _checks.check_batches("conv2d_input_grad", weight=weight, grad_output=grad_output)
    geometry = _geometry(weight, stride, padding, dilation, groups, weight.shape[2:], padding_mode)
    size = _checks.sizes("input_size", input_size)
    _checks.check_gradient(size, weight.shape, grad_output, geometry)
    return FullConvolve.call(grad_output, weight.conj(), None, geometry, size[2:])


def conv2d_weight_grad(
    input: Tensor,
    weight_size: Sequence[int],
    grad_output: Tensor,
    stride: Size2 = 1,
    padding: Size2 | str = 0,
    dilation: Size2 = 1,
    groups: int = 1,
    per_sample: bool = False,
    padding_mode: str = "zeros",
) -> Tensor:
    """∂E/∂F of a convolution layer alone: torch.nn.grad.conv2d_weight.

    The correlation of input and grad_output, the post's equations for ∂E/∂F.

    Args:
        input: (N, C, H, W).
        weight_size: (K, C/groups, R, S).
        grad_output: (N, K, P, Q), ∂E/∂O.
        stride, padding, dilation, groups, padding_mode: the layer's, as in `conv2d`.
        per_sample: leave out the sum over the batch.

    Returns:
        (K, C/groups, R, S), or (N, K, C/groups, R, S) with per_sample.

    Raises:
        TypeError, ValueError, RuntimeError, NotImplementedError: as `conv2d_input_grad`.

    >>> x = torch.arange(9.0).reshape(1, 1, 3, 3)
    >>> conv2d_weight_grad(x, (1, 1, 2, 2), torch.ones(1, 1, 2, 2))
    tensor([[[[ 8., 12.],
              [20., 24.]]]])
    >>> conv2d_weight_grad(x, (1, 1, 2, 2), torch.ones(1, 1, 2, 2), per_sample=True).shape
    torch.Size([1, 1, 1, 2, 2])
    """
    _checks.check_tensors("conv2d_weight_grad", input=input, grad_output=grad_output)
    _checks.check_batches("conv2d_weight_grad", input=input, grad_output=grad_output)
    size = _checks.sizes("weight_size", weight_size)
    geometry = _geometry(input, stride, padding, dilation, groups, size[2:], padding_mode)
    _checks.check_gradient(input.shape, size, grad_output, geometry)
    segments = input.shape[0] if per_sample else None
    return CorrelateWeight.call(input.conj(), grad_output, geometry, size[2:], segments)


def rotate180(filter: Tensor) -> Tensor:
    """The last two axes reversed: the rotation by 180° that turns a correlation into a convolution.

    >>> rotate180(torch.tensor([[1, 2], [3, 4]]))
    tensor([[4, 3],
            [2, 1]])
    """
    return filter.flip(-2, -1)


def correlate2d(input: Tensor, filter: Tensor, mode: Mode = "valid") -> Tensor:
    """Correlation of a matrix and a filter: scipy.signal.correlate2d.

    O[i,j] = Σ_rs conj(filter[r,s]) · input[i+r, j+s], the input beyond its edges being zero.

    Args:
        input: (..., H, W): one matrix, or a batch of them.
        filter: (R, S).
        mode: 'valid' where the filter lies inside the input, 'full' where they overlap at all,
            'same' for the middle of 'full', as large as the input.

    Returns:
        (..., P, Q).

    Raises:
        TypeError, RuntimeError, NotImplementedError: as `conv2d`.
        ValueError: another mode, or a filter larger than the input in mode 'valid' (SciPy swaps
            the two where the filter is the larger in both axes).

    >>> x = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    >>> correlate2d(x, torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
    tensor([[-4., -4.],
            [-4., -4.]])
    """
    _checks.check_matrices("correlate2d", input, filter, mode)
    return _correlate(input, filter.conj(), *(_margins(length, mode) for length in filter.shape))


def convolve2d(input: Tensor, filter: Tensor, mode: Mode = "valid") -> Tensor:
    """True convolution of a matrix and a filter: scipy.signal.convolve2d.

    The correlation with the filter rotated by 180°: O[i,j] = Σ_rs filter[r,s] · input[i-r, j-s].

    Args, returns and raises as `correlate2d`.

    >>> x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> convolve2d(x, torch.tensor([[1.0, 10.0]]), mode="full")
    tensor([[ 1., 12., 20.],
            [ 3., 34., 40.]])
    """
    _checks.check_matrices("convolve2d", input, filter, mode)
    # What comes before a filter comes behind the rotated one.
    margins = (_margins(length, mode)[::-1] for length in filter.shape)
    return _correlate(input, rotate180(filter), *margins)


def _margins(kernel: int, mode: Mode) -> tuple[int, int]:
    """Rows of zeros before and after the input."""
    if mode == "valid":
        return 0, 0
    if mode == "full":
        return kernel - 1, kernel - 1
    return (kernel - 1) // 2, kernel // 2


def _correlate(
    input: Tensor, filter: Tensor, rows: tuple[int, int], columns: tuple[int, int]
) -> Tensor:
    geometry = Geometry(
        pad_top=rows[0],
        pad_bottom=rows[1],
        pad_left=columns[0],
        pad_right=columns[1],
        algorithm=algorithms.current,
    )
    matrices = input.reshape(-1, 1, *input.shape[-2:])
    output = Correlate.call(matrices, filter[None, None], None, geometry)
    return output.reshape(*input.shape[:-2], *output.shape[-2:])
