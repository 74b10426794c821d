"""What can be wrong with a convolution's arguments, told as stock PyTorch tells it, or better.

Good arguments cost a few comparisons; each check names what it found only once it has failed. The
exception types are stock's: TypeError for what is no tensor or no integer, RuntimeError for numbers
and shapes that do not fit, NotImplementedError for dtypes and devices that are not supported.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from .ops import PADDING_MODES, Geometry, load_cuda

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
DEVICES = frozenset(("cpu", "cuda", "meta"))
_INT64_MIN, _INT64_MAX = -(2**63), 2**63 - 1
SIZE_LIMIT = 2**40  # far above any tensor, so that sums of sizes stay below 2^63


def _index(name: str, value: Any) -> int:
    """An int; what acts as one (a NumPy integer, a tensor of one integer) is taken as one."""
    if type(value) is int:
        return value
    if not isinstance(value, torch.SymInt):
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{name} must be an int, but got {type(value).__name__} {value!r}")
        value = operator.index(value)
    return value


def integer(name: str, value: Any, too_large: type[Exception] = ValueError) -> int:
    """An int of 64 bits."""
    if type(value) is not int:
        value = _index(name, value)
    if not _INT64_MIN <= value <= _INT64_MAX:
        raise too_large(f"{name}={value} does not fit into 64 bits")
    return value


def _beyond_64_bits(height: int, width: int) -> bool:
    """Whether no op can take these. Of a graph's sizes, which may be symbolic, nobody asks."""
    return not torch.compiler.is_compiling() and (
        (type(height) is int and height > _INT64_MAX) or (type(width) is int and width > _INT64_MAX)
    )


def boolean(name: str, value: Any) -> bool:
    """A bool, and nothing that acts as one: stock takes no int, no NumPy bool and no SymBool."""
    if type(value) is not bool:
        raise TypeError(f"{name} must be a bool, but got {type(value).__name__} {value!r}")
    return value


def _integers(name: str, value: Any, lengths: tuple[int, ...]) -> Sequence[int]:
    if not isinstance(value, (tuple, list)):
        return (integer(name, value),)
    values = [integer(name, element, TypeError) for element in value]  # as stock
    if len(values) not in lengths:
        raise RuntimeError(
            f"expected {name} to be a single integer or a list of "
            f"{' or '.join(map(str, lengths[1:]))} values, but got {name}={values}"
        )
    return values


def pair(name: str, value: Any) -> tuple[int, int]:
    """One value for each axis: of an int, or of one or two of them."""
    first, last = value if type(value) is tuple and len(value) == 2 else (value, value)
    if (
        type(first) is int
        and type(last) is int
        and _INT64_MIN <= first <= _INT64_MAX
        and _INT64_MIN <= last <= _INT64_MAX
    ):
        return first, last
    values = _integers(name, value, (1, 2))
    return values[0], values[-1]


def four_sides(padding: Any) -> tuple[int, int, int, int]:
    """(left, right, top, bottom) of an int, one for each axis (rows first), or these four."""
    if isinstance(padding, (tuple, list)) and len(padding) != 2:
        values = _integers("padding", padding, (1, 2, 4))
        if len(values) == 4:
            left, right, top, bottom = values
            return left, right, top, bottom
        padding = values[0]
    rows, columns = pair("padding", padding)
    return columns, columns, rows, rows


def sizes(name: str, value: Any) -> tuple[int, int, int, int]:
    """The four sizes of a tensor."""
    elements = value if isinstance(value, (tuple, list)) else (value,)
    values = [_index(name, element) for element in elements]
    if len(values) != 4:
        raise RuntimeError(f"expected {name} to be the sizes of 4 axes, but got {values}")
    if min(values) < 0:
        raise RuntimeError(f"{name} must not be negative, but got {values}")
    n, c, h, w = values
    if _beyond_64_bits(h, w):
        raise RuntimeError(f"{name}={values} does not fit into 64 bits")
    return n, c, h, w


def check_tensors(function: str, *, autocast: bool = False, **tensors: Any) -> None:
    """All are dense tensors of one supported dtype and device; a bias may be None.

    Where `autocast` is to make the dtypes one, they may differ as far as it will.
    """
    dtype: torch.dtype | None = None
    for name, tensor in tensors.items():
        if tensor is None and name == "bias":
            continue
        if not (
            isinstance(tensor, Tensor)
            and tensor.is_cpu
            and tensor.dtype in DTYPES
            and (dtype is None or tensor.dtype == dtype)
            and tensor.layout == torch.strided
            and not tensor.is_nested
        ):
            return _check_each_tensor(function, autocast, tensors)
        dtype = tensor.dtype


def _check_each_tensor(function: str, autocast: bool, tensors: Mapping[str, Any]) -> None:
    first: Tensor | None = None
    for name, tensor in tensors.items():
        if tensor is None and name == "bias":
            continue
        check_dense(function, name, tensor)
        if first is None:
            first = tensor
        if tensor.device != first.device:
            raise RuntimeError(
                f"{function}(): expected all tensors to be on the same device, but {name} is on "
                f"{tensor.device} and others are on {first.device}"
            )
        if autocast and is_autocast(first) and is_autocast(tensor):
            continue
        if tensor.dtype != first.dtype:
            supported = first.dtype in DTYPES and tensor.dtype in DTYPES
            raise (RuntimeError if supported else NotImplementedError)(
                f"{function}(): input type ({first.dtype}) and {name} type ({tensor.dtype}) should "
                "be the same; convert one with .to()"
            )
    if first is None or (autocast and is_autocast(first)):
        return
    if first.dtype not in DTYPES:
        raise NotImplementedError(
            f"{function}(): {first.dtype} is not supported; convert the tensors to float32, "
            "float64, bfloat16, float16, complex64 or complex128"
        )


def check_dense(function: str, name: str, tensor: Any) -> None:
    """A dense tensor on a device that we have."""
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"{function}(): argument {name!r} must be a Tensor, but got {type(tensor).__name__}"
        )
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        raise NotImplementedError(
            f"{function}(): {name} is {_kind(tensor)}; only dense tensors are supported "
            "(use .to_dense(), .dequantize() or torch.nested.to_padded_tensor())"
        )
    if tensor.device.type not in DEVICES:
        raise NotImplementedError(
            f"{function}(): torch_fullconv has no kernels for {tensor.device.type} tensors in "
            "this build; move them to the CPU"
        )
    if tensor.is_cuda:
        try:
            load_cuda()
        except ImportError as error:
            raise NotImplementedError(f"{function}(): {error}") from None


def _kind(tensor: Tensor) -> str:
    if tensor.is_nested:
        return "nested"
    return "quantized" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")


def is_autocast(tensor: Tensor) -> bool:
    """Whether autocast is on and casts this tensor: a real one, but float64."""
    device = "cpu" if tensor.is_cpu else tensor.device.type
    return (
        device != "meta"
        and torch.is_autocast_enabled(device)
        and tensor.is_floating_point()
        and tensor.dtype != torch.float64
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
    if not (
        0 <= geometry.pad_top < SIZE_LIMIT
        and 0 <= geometry.pad_bottom < SIZE_LIMIT
        and 0 <= geometry.pad_left < SIZE_LIMIT
        and 0 <= geometry.pad_right < SIZE_LIMIT
    ):
        pads = geometry.pad_top, geometry.pad_bottom, geometry.pad_left, geometry.pad_right
        if min(pads) < 0:
            raise RuntimeError("negative padding is not supported; crop the input instead")
        raise RuntimeError(f"padding must be less than {SIZE_LIMIT}, but got {max(pads)}")


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


def _check_image(input: Sequence[int], geometry: Geometry) -> None:
    """Rows and columns, which padding alone may make up for where there is no sum to take."""
    if (input[-2] == 0 or input[-1] == 0) and (
        0 not in input[:-2] or PADDING_MODES[geometry.padding_mode] != "zeros"
    ):
        raise RuntimeError(
            "Only zero batch or zero channel inputs are supported, but got input shape: "
            f"{list(input)}"
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
    rows = height + geometry.pad_top + geometry.pad_bottom
    columns = width + geometry.pad_left + geometry.pad_right
    kernel_rows = geometry.dilation_h * (r - 1) + 1
    kernel_columns = geometry.dilation_w * (s - 1) + 1
    if kernel_rows > rows or kernel_columns > columns:
        raise RuntimeError(
            f"Calculated padded input size per channel: ({rows} x {columns}). Kernel size: "
            f"({kernel_rows} x {kernel_columns}). Kernel size can't be greater than actual input "
            "size"
        )


def check_correlation(
    input: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry
) -> None:
    """Shapes of a convolution layer's forward pass."""
    image, kernel = input.shape, weight.shape
    _check_kernel(kernel, geometry.groups)
    channels = kernel[1] * geometry.groups
    if image[-3] != channels:
        _wrong_channels(f"groups={geometry.groups}", input, weight, channels)
    _check_bias(kernel, bias, kernel[0])
    _check_extent(geometry, image[-2], image[-1], kernel[2], kernel[3])
    _check_image(image, geometry)
    _check_padding(geometry, image[-2], image[-1])


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
    _check_image(input.shape, geometry)
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
    if _beyond_64_bits(rows, columns):
        raise RuntimeError(
            f"Given input size per channel: ({height} x {width}). Calculated output size per "
            f"channel: ({rows} x {columns}), which does not fit into 64 bits"
        )
    fields = geometry._asdict()
    fields["pad_bottom"] -= extra[0] // geometry.stride_h * geometry.stride_h
    fields["pad_right"] -= extra[1] // geometry.stride_w * geometry.stride_w
    # Not by _replace: what that makes, torch 2.11's compiler hands on to no op.
    return Geometry(**fields), (rows, columns)


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
