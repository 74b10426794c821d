"""The native ops: loads the library, and says what each op returns when there is only a shape.

Here a convolution layer is what its trilinear form needs: tensors and a `Geometry`. Each op has a
fake kernel, the rule for the shape, dtype and memory format of its result, which the C++ side
(`csrc/ops.cpp`) follows for real tensors, and a formula for torch.utils.flop_counter.
"""

from __future__ import annotations

import functools
import importlib.machinery
import math
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
ALGORITHMS = ("auto", "direct", "winograd")

T = TypeVar("T")


class Geometry(NamedTuple):
    """Where a filter meets its input; the fields are the op schemas' integers, in their order."""

    groups: int = 1
    stride_h: int = 1
    stride_w: int = 1
    pad_top: int = 0
    pad_bottom: int = 0
    pad_left: int = 0
    pad_right: int = 0
    dilation_h: int = 1
    dilation_w: int = 1
    padding_mode: int = 0  # index into PADDING_MODES
    algorithm: int = 0  # index into ALGORITHMS
    allow_tf32: int = 0  # whether CUDA may round float32 to TF32

    def output_size(self, height: int, width: int, r: int, s: int) -> tuple[int, int]:
        """(P, Q) of the correlation of an (height, width) input with an (r, s) filter."""
        rows = height + self.pad_top + self.pad_bottom - self.dilation_h * (r - 1) - 1
        columns = width + self.pad_left + self.pad_right - self.dilation_w * (s - 1) - 1
        return rows // self.stride_h + 1, columns // self.stride_w + 1


@functools.cache
def _load_library(name: str, build: str) -> None:
    """Registers the ops of a library; an ImportError says why it does not load and what to do."""
    folder = Path(__file__).parent
    suffixes = importlib.machinery.EXTENSION_SUFFIXES
    found = [p for p in (folder / (name + suffix) for suffix in suffixes) if p.exists()]
    if not found:
        raise ImportError(
            f"torch_fullconv: its native library {name}.abi3.so is missing from {folder}. {build}"
        )
    try:
        _check_whole(found[0])
        torch.ops.load_library(str(found[0]))
    except (OSError, RuntimeError) as error:
        raise ImportError(
            f"torch_fullconv: its native library {found[0].name} does not load under torch "
            f"{torch.__version__}: {error}. It needs torch >= 2.10 and the processor it was built "
            "for; reinstall with 'pip install --force-reinstall --no-build-isolation .'."
        ) from error


def _constant_in_graphs(function: Callable[[], T]) -> Callable[[], T]:
    """torch.compiler.assume_constant_result, without its import of Dynamo, which takes a second."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@_constant_in_graphs
def load_cuda() -> None:
    """Registers the kernels for CUDA tensors. `functional` does so at the first of them."""
    _load_library(
        "_C_cuda",
        "Build it with 'TORCH_FULLCONV_CUDA=1 pip install --no-build-isolation .' where nvcc is, "
        "or move the layer and its input to the CPU.",
    )


@_constant_in_graphs
def allow_tf32() -> bool:
    """Whether torch lets convolutions on CUDA round float32 to TF32 (by default it does)."""
    return torch.backends.cudnn.conv.fp32_precision == "tf32"  # type: ignore[attr-defined]


def _check_whole(library: Path) -> None:
    """An OSError for an ELF file that was cut short, of which the loader would die."""
    with library.open("rb") as file:
        header = file.read(64)
    if header[:5] == b"\x7fELF\x02" and len(header) == 64:
        (table,) = struct.unpack_from("<Q", header, 40)  # e_shoff, where the last part starts
        entry_size, entries = struct.unpack_from("<HH", header, 58)  # e_shentsize, e_shnum
        if library.stat().st_size < table + entry_size * entries:
            raise OSError("the file is cut short")


_load_library(
    "_C",
    "Build it with 'pip install --no-build-isolation .' in a checkout, or reinstall the wheel.",
)

_ops = torch.ops.torch_fullconv


def prepare() -> None:
    """Registers the sharding rules once there may be DTensors, whose module costs a second."""
    if "torch.distributed.tensor" in sys.modules:
        _register_sharding()


@functools.cache
def _register_sharding() -> None:
    from . import sharding  # noqa: F401


def correlate(input: Tensor, filter: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """O[n,k,i,j] = bias[k] + Σ_crs F[k,c,r,s] · X[n,c,i·stride+r·dilation-pad, ...].

    Shapes: input (N, C, H, W); filter (K, C/groups, R, S), or (B, K, C/groups, R, S) for one
    filter for each of B equal segments of the batch; bias (K); result (N, K, P, Q).
    """
    return _ops.correlate.default(input, filter, bias, *geometry)


def correlate_weight(
    input: Tensor, grad: Tensor, geometry: Geometry, kernel: tuple[int, int], segments: int | None
) -> Tensor:
    """∂E/∂F[k,c,r,s] = Σ_nij O[n,k,i,j] · X[n,c,i·stride+r·dilation-pad, ...].

    Shapes: input (N, C, H, W); grad (N, K, P, Q); result (K, C/groups, *kernel), or with
    `segments=B` (B, K, C/groups, *kernel): one sum for each of B equal segments of the batch.
    """
    return _ops.correlate_weight.default(input, grad, *geometry, *kernel, segments)


def full_convolve(
    grad: Tensor,
    filter: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    input_size: tuple[int, int],
) -> Tensor:
    """∂E/∂X: the full convolution of grad and the filter, which slides rotated (plus bias[c]).

    Shapes: grad (N, K, P, Q); filter as for `correlate`; bias (C); result (N, C, *input_size).
    """
    return _ops.full_convolve.default(grad, filter, bias, *geometry, *input_size)


def gradients(
    input: Tensor, filter: Tensor, grad: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """(full_convolve(grad, filter), correlate_weight(input, grad)) in one call."""
    return _ops.gradients.default(input, filter, grad, *geometry)


def channel_sum(grad: Tensor) -> Tensor:
    """∂E/∂bias: (N, K, P, Q) summed to (K)."""
    return _ops.channel_sum.default(grad)


def ways(input: Tensor, filter: Tensor, geometry: Geometry) -> dict[str, str]:
    """How the three operations of a layer are computed: their algorithms' names."""
    names = _ops.ways.default(input, filter, *geometry).splitlines()
    return dict(zip(("forward", "input gradient", "filter gradient"), names, strict=True))


def meetings(
    geometry: Geometry, input_size: Sequence[int], kernel: Sequence[int], gather: bool = False
) -> tuple[Tensor, Tensor]:
    """What meets along the rows and along the columns: (output, tap, input) indices, (T, 3) each.

    Read from the index maps that the kernels walk: those of forward and filter gradient or, with
    `gather`, those of the input gradient, which may list the same meetings in another order.
    """
    return _ops.meetings.default(*geometry, *input_size, *kernel, gather)


def instruction_set() -> str:
    """The instruction set in use: 'amx', 'avx512_bf16', 'avx512', 'avx2' or 'baseline'."""
    name: str = _ops.instruction_set.default()
    return name


def _is_channels_last(tensor: Tensor) -> bool:
    """Whether stock PyTorch takes the strides for channels_last (suggest_memory_format).

    Ambiguous strides, as of one channel or of one pixel, count as contiguous.
    """
    if tensor.dim() != 4 or tensor.stride(1) == 0:
        return False
    least = 0
    for dim in (1, 3, 2, 0):
        size, stride = tensor.size(dim), tensor.stride(dim)
        if size == 0 or stride < least or (dim == 0 and least == tensor.stride(1)):
            return False
        least = stride * size if size > 1 else stride
    return True


def _empty(shape: tuple[int, ...], like: Tensor, *formats: Tensor) -> Tensor:
    """An empty result: channels_last where it is 4-D and one of `formats` is, else contiguous."""
    channels_last = len(shape) == 4 and any(_is_channels_last(t) for t in formats)
    return torch.empty(
        shape,
        dtype=like.dtype,
        device=like.device,
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )


@torch.library.register_fake("torch_fullconv::correlate")
def _(input: Tensor, filter: Tensor, bias: Tensor | None, *integers: int) -> Tensor:
    k, _, r, s = filter.shape[-4:]
    p, q = Geometry(*integers).output_size(input.shape[2], input.shape[3], r, s)
    return _empty((input.shape[0], k, p, q), input, input, filter)


@torch.library.register_fake("torch_fullconv::correlate_weight")
def _(input: Tensor, grad: Tensor, *integers: int) -> Tensor:
    *geometry, r, s, segments = integers
    shape = (grad.shape[1], input.shape[1] // Geometry(*geometry).groups, r, s)
    return _empty(shape if segments is None else (segments, *shape), input, input, grad)


@torch.library.register_fake("torch_fullconv::full_convolve")
def _(grad: Tensor, filter: Tensor, bias: Tensor | None, *integers: int) -> Tensor:
    *geometry, height, width = integers
    channels = filter.shape[-3] * Geometry(*geometry).groups
    return _empty((grad.shape[0], channels, height, width), grad, grad, filter)


@torch.library.register_fake("torch_fullconv::gradients")
def _(input: Tensor, filter: Tensor, grad: Tensor, *integers: int) -> tuple[Tensor, Tensor]:
    return (
        _empty(tuple(input.shape), input, input, filter),
        _empty(tuple(filter.shape), input, input, filter),
    )


@torch.library.register_fake("torch_fullconv::channel_sum")
def _(grad: Tensor) -> Tensor:
    return grad.new_empty(grad.shape[1])


def _flops(grad: torch.Size, filter: torch.Size) -> int:
    """A multiplication and an addition for each term of the sum."""
    n, _, p, q = grad
    return 2 * n * p * q * math.prod(filter[-4:])


@register_flop_formula(_ops.correlate)
def _(*args: Any, out_shape: torch.Size) -> int:
    return _flops(out_shape, args[1])


@register_flop_formula(_ops.full_convolve)
def _(grad: torch.Size, filter: torch.Size, *_: Any, out_shape: torch.Size) -> int:
    return _flops(grad, filter)


# As for stock's filter gradient, channels of different groups count as if they met.
@register_flop_formula(_ops.correlate_weight)
def _(input: torch.Size, grad: torch.Size, groups: int, *_: Any, out_shape: torch.Size) -> int:
    return _flops(grad, out_shape) * groups


@register_flop_formula(_ops.gradients)
def _(
    input: torch.Size, filter: torch.Size, grad: torch.Size, groups: int, *_: Any, out_shape: Any
) -> int:
    return _flops(grad, filter) * (1 + groups)
