"""What can be wrong with a convolution's arguments, told as stock PyTorch tells it, or better.

Good arguments cost a few comparisons; each check names what it found only once it has failed. The
exception types are stock's: TypeError for what is no tensor or no integer, RuntimeError for numbers
and shapes that do not fit, NotImplementedError for dtypes and devices that are not supported.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from .ops import PADDING_MODES, Geometry

DTYPES = frozenset(
    (
        torch.float32,
        torch.float64,
        torch.bfloat16,
        torch.float16,
        torch.complex64,
        torch.complex128,
    )
)
DEVICES = frozenset(("cpu", "meta"))
_INT64_MAX = 2**63 - 1


def integer(name: str, value: Any) -> int:
    """An int; what acts as one (a NumPy integer, a tensor of one integer) is taken as one."""
    if type(value) is not int and not isinstance(value, torch.SymInt):
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{name} must be an int, but got {type(value).__name__} {value!r}")
        value = operator.index(value)
    if value > _INT64_MAX or value < -_INT64_MAX:
        raise ValueError(f"{name}={value} does not fit into 64 bits")
    return value


def _integers(name: str, value: Any, lengths: tuple[int, ...]) -> tuple[int, ...]:
    if type(value) is int or isinstance(value, torch.SymInt):
        return (integer(name, value),)
    if not isinstance(value, Sequence) or isinstance(value, str):
        return (integer(name, value),)
    values = tuple(integer(name, element) for element in value)
    if len(values) not in lengths:
        raise RuntimeError(
            f"expected {name} to be a single integer or a list of "
            f"{' or '.join(map(str, lengths[1:]))} values, but got {name}={list(values)}"
        )
    return values


def pair(name: str, value: Any) -> tuple[int, int]:
    """One value for each axis: of an int, or of one or two of them."""
    values = _integers(name, value, (1, 2))
    return values[0], values[-1]


def four_sides(padding: Any) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) of an int, one for each axis (rows first), or these four."""
    values = _integers("padding", padding, (1, 2, 4))
    if len(values) == 4:
        left, right, top, bottom = values
        return left, right, top, bottom
    return values[-1], values[-1], values[0], values[0]


def sizes(name: str, value: Any) -> tuple[int, int, int, int]:
    """The four sizes of a tensor."""
    values = _integers(name, value, (1, 4))
    if len(values) != 4:
        raise RuntimeError(f"expected {name} to be the sizes of 4 axes, but got {list(values)}")
    if min(values) < 0:
        raise RuntimeError(f"{name} must not be negative, but got {list(values)}")
    n, c, h, w = values
    return n, c, h, w


def check_tensors(function: str, **tensors: Any) -> None:
    """All are dense tensors of one supported dtype and device; a bias may be None.

    Under autocast the dtypes may differ, as far as autocast makes them one.
    """
    first: Tensor | None = None
    for name, tensor in tensors.items():
        if tensor is None and name == "bias":
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(
                f"{function}(): argument {name!r} must be a Tensor, but got {type(tensor).__name__}"
            )
        if first is None:
            first = tensor
        if tensor.layout != torch.strided or tensor.is_quantized:
            kind = "quantized" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
            raise NotImplementedError(
                f"{function}(): {name} is {kind}; only dense tensors are supported "
                "(use .to_dense() or .dequantize())"
            )
        if tensor.device != first.device:
            raise RuntimeError(
                f"{function}(): expected all tensors to be on the same device, but {name} is on "
                f"{tensor.device} and others are on {first.device}"
            )
        if tensor.device.type not in DEVICES:
            raise NotImplementedError(
                f"{function}(): torch_fullconv has no kernels for {tensor.device.type} tensors in "
                "this build; move the layer and its input to the CPU"
            )
        if tensor.dtype != first.dtype and not (is_autocast(tensor) and is_autocast(first)):
            raise RuntimeError(
                f"{function}(): input type ({first.dtype}) and {name} type ({tensor.dtype}) should "
                "be the same; convert one with .to()"
            )
    if first is not None and first.dtype not in DTYPES:
        raise NotImplementedError(
            f"{function}(): {first.dtype} is not supported; convert the tensors to float32, "
            "float64, bfloat16, float16, complex64 or complex128"
        )


def is_autocast(tensor: Tensor) -> bool:
    """Whether autocast is on and casts this tensor: a real one, but float64."""
    return (
        tensor.is_floating_point()
        and tensor.dtype != torch.float64
        and tensor.device.type != "meta"
        and torch.is_autocast_enabled(tensor.device.type)
    )


def check_geometry(geometry: Geometry) -> None:
    """The geometry's numbers by themselves."""
    if geometry.stride_h <= 0 or geometry.stride_w <= 0:
        raise RuntimeError(
            f"non-positive stride is not supported: {(geometry.stride_h, geometry.stride_w)}"
        )
    if geometry.dilation_h <= 0 or geometry.dilation_w <= 0:
        raise RuntimeError(
            "dilation should be greater than zero, but got "
            f"{(geometry.dilation_h, geometry.dilation_w)}"
        )
    if geometry.groups <= 0:
        raise RuntimeError(f"non-positive groups is not supported: {geometry.groups}")
    if (
        geometry.pad_top < 0
        or geometry.pad_bottom < 0
        or geometry.pad_left < 0
        or geometry.pad_right < 0
    ):
        raise RuntimeError("negative padding is not supported; crop the input instead")


def _check_kernel(weight: Sequence[int], groups: int) -> None:
    if weight[0] < groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be at least {groups} at dimension 0, but "
            f"got weight of size {list(weight)} instead"
        )
    if weight[0] % groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be divisible by {groups} at dimension 0, "
            f"but got weight of size {list(weight)} instead"
        )
    if weight[2] == 0 or weight[3] == 0:
        raise RuntimeError(f"the kernel must not be empty, but got weight of size {list(weight)}")


def _check_bias(weight: Sequence[int], bias: Tensor | None, channels: int) -> None:
    if bias is not None and (bias.dim() != 1 or bias.shape[0] != channels):
        raise RuntimeError(
            f"Given weight of size {list(weight)}, expected bias to be 1-dimensional with "
            f"{channels} elements, but got bias of size {list(bias.shape)} instead"
        )


def check_dims(function: str, input: Tensor, weight: Tensor) -> None:
    """A batch of images or one image, and a filter of four axes."""
    if input.dim() not in (3, 4):
        raise RuntimeError(
            f"Expected 3D (unbatched) or 4D (batched) input to {function}, but got input of size: "
            f"{list(input.shape)}"
        )
    if weight.dim() != 4:
        raise RuntimeError(
            f"Expected {weight.dim()}-dimensional input for {weight.dim()}-dimensional weight "
            f"{list(weight.shape)}; {function} takes a weight of 4 dimensions"
        )


def _wrong_channels(kind: str, input: Tensor, weight: Tensor, channels: int) -> NoReturn:
    hint = ""
    if input.shape[-1] == channels:
        order = (0, 3, 1, 2) if input.dim() == 4 else (2, 0, 1)
        hint = (
            f". The last axis has {channels}: the input looks like NHWC, and the layer wants "
            f"NCHW; use input.permute{order}"
        )
    raise RuntimeError(
        f"Given {kind}, weight of size {list(weight.shape)}, expected input{list(input.shape)} to "
        f"have {channels} channels, but got {input.shape[-3]} channels instead{hint}"
    )


def _check_image(input: Tensor) -> None:
    if input.shape[-2] == 0 or input.shape[-1] == 0:
        raise RuntimeError(
            "Only zero batch or zero channel inputs are supported, but got input shape: "
            f"{list(input.shape)}"
        )


def _check_padding(geometry: Geometry, height: int, width: int) -> None:
    """Padding that mirrors or repeats the input shows no more than there is of it."""
    mode = PADDING_MODES[geometry.padding_mode]
    if mode in ("zeros", "replicate"):
        return
    most_h, most_w = (height, width) if mode == "circular" else (height - 1, width - 1)
    if (
        max(geometry.pad_top, geometry.pad_bottom) > most_h
        or max(geometry.pad_left, geometry.pad_right) > most_w
    ):
        raise RuntimeError(
            f"Padding size should be at most {(most_h, most_w)} for padding_mode={mode!r} and an "
            f"input of ({height} x {width}), but got top and bottom "
            f"{geometry.pad_top, geometry.pad_bottom}, left and right "
            f"{geometry.pad_left, geometry.pad_right}"
        )


def _check_extent(geometry: Geometry, height: int, width: int, r: int, s: int) -> None:
    """The kernel fits into the padded input."""
    padded = (
        height + geometry.pad_top + geometry.pad_bottom,
        width + geometry.pad_left + geometry.pad_right,
    )
    kernel = geometry.dilation_h * (r - 1) + 1, geometry.dilation_w * (s - 1) + 1
    if kernel[0] > padded[0] or kernel[1] > padded[1]:
        raise RuntimeError(
            f"Calculated padded input size per channel: ({padded[0]} x {padded[1]}). Kernel size: "
            f"({kernel[0]} x {kernel[1]}). Kernel size can't be greater than actual input size"
        )
    if padded[0] > _INT64_MAX or padded[1] > _INT64_MAX:
        raise RuntimeError(f"the padded input ({padded[0]} x {padded[1]}) is too large")


def check_correlation(
    input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
) -> None:
    """Shapes of a convolution layer's forward pass."""
    _check_kernel(weight.shape, geometry.groups)
    channels = weight.shape[1] * geometry.groups
    if input.shape[-3] != channels:
        _wrong_channels(f"groups={geometry.groups}", input, weight, channels)
    _check_bias(weight.shape, bias, weight.shape[0])
    height, width = input.shape[-2:]
    _check_extent(geometry, height, width, weight.shape[2], weight.shape[3])
    _check_image(input)
    _check_padding(geometry, height, width)


def check_batches(function: str, **tensors: Tensor) -> None:
    """All have four axes."""
    for name, tensor in tensors.items():
        if tensor.dim() != 4:
            raise RuntimeError(
                f"Expected {name} of 4 dimensions for {function}, but got size {list(tensor.shape)}"
            )


def check_output_padding(extra: tuple[int, int], geometry: Geometry) -> None:
    """Rows and columns added to a transposed convolution's output."""
    if extra[0] < 0 or extra[1] < 0:
        raise RuntimeError("negative output_padding is not supported")
    if extra[0] >= max(geometry.stride_h, geometry.dilation_h) or extra[1] >= max(
        geometry.stride_w, geometry.dilation_w
    ):
        raise RuntimeError(
            f"output padding must be smaller than either stride or dilation, but got output_padding"
            f" {extra}, stride {(geometry.stride_h, geometry.stride_w)} and dilation "
            f"{(geometry.dilation_h, geometry.dilation_w)}"
        )


def check_transposed(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    extra: tuple[int, int],
) -> tuple[Geometry, tuple[int, int]]:
    """Shapes of a transposed convolution; the geometry that gives its output size, and that size.

    With output_padding of a stride or more (dilation allows it), the layer that this transposes
    leaves the last rows of its input alone: its padding at the end is that much smaller.
    """
    _check_kernel(weight.shape, geometry.groups)
    if input.shape[-3] != weight.shape[0]:
        _wrong_channels("transposed=1", input, weight, weight.shape[0])
    channels = weight.shape[1] * geometry.groups
    if channels == 0:
        raise RuntimeError(
            f"expected weight to be at least 1 at dimension 1, but got {list(weight.shape)}"
        )
    _check_bias(weight.shape, bias, channels)
    _check_image(input)
    (height, width), (r, s) = input.shape[-2:], weight.shape[2:]
    rows = (height - 1) * geometry.stride_h + geometry.dilation_h * (r - 1) + 1 + extra[0]
    columns = (width - 1) * geometry.stride_w + geometry.dilation_w * (s - 1) + 1 + extra[1]
    rows -= geometry.pad_top + geometry.pad_bottom
    columns -= geometry.pad_left + geometry.pad_right
    if rows <= 0 or columns <= 0:
        raise RuntimeError(
            f"Given input size per channel: ({height} x {width}). Calculated output size per "
            f"channel: ({rows} x {columns}). Output size is too small"
        )
    if rows > _INT64_MAX or columns > _INT64_MAX:
        raise RuntimeError(f"Calculated output size per channel: ({rows} x {columns}) is too large")
    geometry = geometry._replace(
        pad_bottom=geometry.pad_bottom - extra[0] // geometry.stride_h * geometry.stride_h,
        pad_right=geometry.pad_right - extra[1] // geometry.stride_w * geometry.stride_w,
    )
    return geometry, (rows, columns)


def check_gradient(
    input: Sequence[int],
    weight: Sequence[int],
    grad_output: Tensor,
    geometry: Geometry,
) -> None:
    """Sizes of a convolution layer's two gradients."""
    _check_kernel(weight, geometry.groups)
    if input[1] != weight[1] * geometry.groups:
        raise RuntimeError(
            f"Given groups={geometry.groups}, weight of size {list(weight)}, expected input "
            f"{list(input)} to have {weight[1] * geometry.groups} channels, but got {input[1]}"
        )
    _check_extent(geometry, input[2], input[3], weight[2], weight[3])
    _check_padding(geometry, input[2], input[3])
    expected = (input[0], weight[0], *geometry.output_size(input[2], input[3], *weight[2:]))
    if tuple(grad_output.shape) != expected:
        raise RuntimeError(
            f"expected grad_output to have the output's size {list(expected)}, but got "
            f"{list(grad_output.shape)}"
        )


def check_matrices(function: str, input: Any, filter: Any, mode: Any) -> None:
    """A matrix or a batch of them, a filter, and a mode of scipy.signal."""
    check_tensors(function, input=input, filter=filter)
    if mode not in ("valid", "same", "full"):
        raise ValueError(f"mode must be 'valid', 'same' or 'full', but got {mode!r}")
    if input.dim() < 2 or filter.dim() != 2:
        raise RuntimeError(
            f"{function}() expects an input of (..., H, W) and a filter of (R, S), but got "
            f"{list(input.shape)} and {list(filter.shape)}"
        )
    if 0 in (*filter.shape, *input.shape[-2:]):
        raise RuntimeError(
            f"{function}() expects matrices that are not empty, but got {list(input.shape)} and "
            f"{list(filter.shape)}"
        )
    if mode == "valid" and (filter.shape[0] > input.shape[-2] or filter.shape[1] > input.shape[-1]):
        raise ValueError(
            f"in mode 'valid' the filter {list(filter.shape)} must not be larger than the input "
            f"{list(input.shape[-2:])}; use mode 'full' or 'same'"
        )
