"""What can be wrong with the arguments of relu and pooling, told as stock PyTorch tells it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import _checks
from ._checks import SIZE_LIMIT
from .pool_ops import Windows

FLOATS = frozenset((torch.float32, torch.float64, torch.bfloat16, torch.float16))
INTEGERS = frozenset((torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64))
REAL = FLOATS | INTEGERS
AVERAGED = FLOATS | {torch.int64}


def check_tensor(function: str, input: Any, dtypes: frozenset[torch.dtype]) -> None:
    """A dense tensor on a device that we have, of one of the dtypes."""
    if (
        isinstance(input, Tensor)
        and input.is_cpu
        and input.dtype in dtypes
        and input.layout is torch.strided
        and not input.is_nested
    ):
        return
    _checks.check_dense(function, "input", input)
    if input.dtype == torch.bool and function == "relu":
        raise NotImplementedError("Boolean inputs not supported for relu")
    if input.dtype not in dtypes:
        names = sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise NotImplementedError(
            f'"{function}" not implemented for {input.dtype}; convert the input to one of '
            f"{', '.join(names)}"
        )


def windows(kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: Any) -> Windows:
    """The layer's windows; a stride of None or () is the kernel's size."""
    kernel = _checks.pair("kernel_size", kernel_size)
    stride_given = not (stride is None or (isinstance(stride, (tuple, list)) and not stride))
    return Windows(
        *kernel,
        *(_checks.pair("stride", stride) if stride_given else kernel),
        *_checks.pair("padding", padding),
        *_checks.pair("dilation", dilation),
        int(_checks.boolean("ceil_mode", ceil_mode)),
    )


def check_windows(function: str, input: Tensor, windows: Windows) -> None:
    """The windows' numbers, the input's axes, and that an output is left."""
    if _fit(input.shape, windows):  # else it is told what is wrong, if anything is
        return
    kernel, stride = windows[0:2], windows[2:4]
    pad, dilation = windows[4:6], windows[6:8]
    if min(kernel) <= 0:
        raise RuntimeError(
            f"kernel size should be greater than zero, but got kH: {kernel[0]} kW: {kernel[1]}"
        )
    if min(stride) <= 0:
        zero = "stride should not be zero; " if 0 in stride else ""
        raise RuntimeError(
            f"{zero}stride should be greater than zero, but got dH: {stride[0]} dW: {stride[1]}"
        )
    if min(dilation) <= 0:
        raise RuntimeError(
            "dilation should be greater than zero, but got dilationH: "
            f"{dilation[0]} dilationW: {dilation[1]}"
        )
    for k, p, d in zip(kernel, pad, dilation, strict=True):
        if p < 0:
            raise RuntimeError(f"pad must be non-negative, but got pad: {p}")
        if p > (d * (k - 1) + 1) // 2:
            raise RuntimeError(
                f"pad should be at most half of effective kernel size, but got pad={p}, "
                f"kernel_size={k} and dilation={d}"
            )
        if p > k // 2:
            raise RuntimeError(
                "pad should be smaller than or equal to half of kernel size, but got padW = "
                f"{pad[1]}, padH = {pad[0]}, kW = {kernel[1]}, kH = {kernel[0]}"
            )
        if max(k, d, d * (k - 1)) >= SIZE_LIMIT:
            raise RuntimeError(f"kernel size and dilation must span less than {SIZE_LIMIT}")
    _check_image(function, input)
    rows, columns = input.shape[-2:]
    outputs = windows.output_size(rows, columns)
    if min(outputs) < 1:
        c = input.shape[-3]
        raise RuntimeError(
            f"Given input size: ({c}x{rows}x{columns}). Calculated output size: "
            f"({c}x{outputs[0]}x{outputs[1]}). Output size is too small"
        )


def _fit(shape: torch.Size, windows: Windows) -> bool:
    """Whether all numbers are good, and no window is larger than the padded input."""
    r, s, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, _ = windows
    return (
        len(shape) in (3, 4)
        and shape[-3] > 0
        and _axis_fits(shape[-2], r, stride_h, pad_h, dilation_h)
        and _axis_fits(shape[-1], s, stride_w, pad_w, dilation_w)
    )


def _axis_fits(size: int, kernel: int, stride: int, pad: int, dilation: int) -> bool:
    return (
        size > 0
        and 0 < kernel < SIZE_LIMIT
        and stride > 0
        and 0 <= pad <= kernel // 2
        and 0 < dilation < SIZE_LIMIT
        and dilation * (kernel - 1) < SIZE_LIMIT
        and dilation * (kernel - 1) < size + 2 * pad
    )


def _check_image(function: str, input: Tensor) -> None:
    axes = input.shape if input.dim() == 3 else input.shape[1:]
    if input.dim() not in (3, 4) or 0 in axes:
        raise RuntimeError(
            "Expected 3D or 4D (batch mode) tensor with optional 0 dim batch size for input, but "
            f"got: {list(input.shape)} for {function}"
        )


def check_in_place(input: Tensor) -> None:
    """That the input may be written over: an error before anything is."""
    if torch.is_grad_enabled() and input.requires_grad and input.is_leaf:
        raise RuntimeError(
            "a leaf Variable that requires grad is being used in an in-place operation."
        )
    if (
        not torch.compiler.is_compiling()  # Dynamo cannot ask; there the copy raises this error
        and input.is_inference()
        and not torch.is_inference_mode_enabled()
    ):
        raise RuntimeError(
            "Inplace update to inference tensor outside InferenceMode is not allowed. You can make "
            "a clone to get a normal tensor before doing inplace update."
        )
    overlaps = any(s == 0 and n > 1 for n, s in zip(input.shape, input.stride(), strict=True))
    if overlaps and input.numel() > 0:
        raise RuntimeError(
            "unsupported operation: more than one element of the written-to tensor refers to a "
            "single memory location. Please clone() the tensor before performing the operation."
        )
