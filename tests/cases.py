"""Geometries and tolerances as data, and the three contractions of a case by `reference`.

A `Case` is a layer: the shapes of input and filter, and a `Geometry`. Operands are small integers:
their sums are exact in every dtype's accumulator, so direct results must equal the reference bit
for bit (16-bit ones after one rounding). Minimal filtering rounds: it has bounds on its error.
"""

from __future__ import annotations

import platform
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torch_fullconv import ops, reference
from torch_fullconv.ops import ALGORITHMS, PADDING_MODES, Geometry

F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16
F16, C64, C128 = torch.float16, torch.complex64, torch.complex128
DTYPES = (F32, F64, BF16, F16, C64, C128)
X86 = platform.machine() == "x86_64"


class Rounding(NamedTuple):
    """Unit roundoff of a dtype's results, and of its sums; its smallest subnormal's half."""

    result: float
    sum: float
    tiny: float = 0.0


ROUNDING = {
    F32: Rounding(2**-24, 2**-24),
    F64: Rounding(2**-53, 2**-53),
    BF16: Rounding(2**-8, 2**-24),
    F16: Rounding(2**-11, 2**-24, 2**-25),
    C64: Rounding(2**-24, 2**-23),  # a complex product is itself a sum
    C128: Rounding(2**-53, 2**-52),
}
# Norm of the error against float64, as a multiple of stock's.
DIRECT_ERROR, WINOGRAD_ERROR = 2.0, 4.0


def ident(value: object) -> str:
    """A readable test id for dtypes, modules' functions and names."""
    return str(getattr(value, "__name__", value)).removeprefix("torch.")


class Case(NamedTuple):
    input: tuple[int, ...]  # N, C, H, W
    filter: tuple[int, ...]  # K, C/groups, R, S, or B, K, C/groups, R, S
    geometry: Geometry = Geometry()

    @property
    def output(self) -> tuple[int, ...]:
        p, q = self.geometry.output_size(*self.input[2:], *self.filter[-2:])
        return self.input[0], self.filter[-4], p, q

    @property
    def segments(self) -> int | None:
        return self.filter[0] if len(self.filter) == 5 else None


def case(
    input: tuple[int, ...],
    filter: tuple[int, ...],
    stride: tuple[int, int] = (1, 1),
    pad: tuple[int, int, int, int] = (0, 0, 0, 0),  # top, bottom, left, right
    dilation: tuple[int, int] = (1, 1),
    mode: str = "zeros",
    algorithm: str = "direct",
) -> Case:
    """groups follow from the channels."""
    groups = input[1] // filter[-3] if filter[-3] else 1
    choices = PADDING_MODES.index(mode), ALGORITHMS.index(algorithm)
    geometry = Geometry(groups, *stride, *pad, *dilation, *choices)
    return Case(input, filter, geometry)


ALL = (1, 1, 1, 1)
# Channels and positions one off the micro-kernel's tiles: 14x32, 6x16 and 6x8 of float.
TILES = {
    f"tile_{c}x{q}": case((1, c, 1, q), (k, c, 1, 1))
    for c, k, q in (
        *((1, 5, 15), (5, 6, 16), (6, 7, 17), (7, 13, 31), (13, 14, 32), (15, 15, 33)),
        *((16, 17, 7), (17, 31, 8), (31, 32, 9), (33, 33, 13), (32, 29, 14), (3, 28, 63)),
    )
}
# Few channels: rows of up to four vectors, read as shifted lines.
LINES = {
    f"line_{k}x{q}": case((1, c, 2, q), (k, c, 2, 3), (1, stride), (1, 0, 1, 1))
    for c, k, q, stride in (
        *((1, 1, 15, 1), (2, 2, 16, 1), (1, 3, 17, 1), (3, 4, 31, 1), (1, 5, 33, 2)),
        *((2, 8, 48, 1), (1, 9, 49, 1), (1, 3, 64, 1), (2, 2, 65, 1), (1, 1, 97, 3), (1, 2, 8, 1)),
    )
}
# Where a filter's columns may be channels: those of patches, in some with padded rows, of windows
# that overlap or lie apart, and of a single channel. The last columns may meet nothing.
PATCHES = {
    "patches": case((2, 3, 17, 23), (33, 3, 4, 5), (4, 5)),
    "patches_padded": case((2, 5, 9, 12), (18, 5, 3, 3), (3, 3), (2, 1, 0, 0)),
    "patches_overlap": case((1, 3, 21, 19), (17, 3, 7, 5), (2, 2)),
    "patches_apart": case((2, 4, 11, 16), (9, 4, 2, 2), (3, 4), dilation=(2, 1)),
    "patches_of_columns": case((2, 6, 9, 11), (18, 6, 3, 1), (2, 3), (1, 1, 0, 0)),
    "patches_of_one": case((1, 1, 16, 16), (24, 1, 8, 8), (8, 8)),
    "patches_mirrored": case((2, 2, 16, 32), (16, 2, 8, 16), (8, 16), mode="reflect"),
    "patches_segments": case((4, 2, 8, 6), (2, 4, 2, 2, 2), (2, 2)),
}
EDGES = {
    **TILES,
    **LINES,
    **PATCHES,
    "post": case((1, 1, 3, 3), (1, 1, 2, 2)),
    "one_element": case((1, 1, 1, 1), (1, 1, 1, 1)),
    "rest_rows": case((2, 3, 8, 9), (4, 3, 3, 3), (3, 2), (1, 1, 0, 1)),
    "rest_all": case((1, 2, 11, 13), (3, 2, 2, 4), (4, 5), (1, 0, 2, 1), (2, 1)),
    "stride_beyond_kernel": case((2, 3, 11, 10), (5, 3, 2, 1), (4, 3)),
    "stride_beyond_input": case((2, 2, 4, 3), (3, 2, 2, 2), (9, 7)),
    "kernel_beyond_input": case((2, 3, 2, 1), (4, 3, 5, 5), (1, 1), (2, 2, 3, 3)),
    "only_padding": case((1, 2, 1, 1), (2, 2, 2, 2), (1, 1), (3, 3, 3, 3)),
    "dilation_beyond_input": case((2, 2, 3, 4), (3, 2, 3, 2), (1, 1), (4, 4, 3, 2), (5, 6)),
    "dilation_shares_stride": case((1, 2, 14, 15), (3, 2, 3, 3), (2, 3), (2, 1, 3, 0), (4, 6)),
    "stride_meets_dilation": case((1, 2, 14, 15), (3, 2, 3, 3), (4, 6), (2, 1, 3, 0), (2, 3)),
    "row": case((2, 3, 1, 40), (4, 3, 1, 5), (1, 2), (0, 0, 2, 2), (1, 3)),
    "column": case((2, 3, 40, 1), (4, 3, 5, 1), (3, 1), (2, 1, 0, 0), (2, 1)),
    "pointwise": case((2, 19, 5, 7), (23, 19, 1, 1)),
    "pointwise_strided": case((2, 5, 7, 8), (3, 5, 1, 1), (2, 3), ALL),
    "pointwise_row": case((2, 3, 1, 31), (16, 3, 1, 1), (1, 2)),
    # A few dot products a position: parts of vectors, of blocks and of tasks, groups, segments.
    "dots": case((2, 35, 6, 7), (3, 35, 1, 1)),
    "dots_of_a_vector": case((1, 16, 33, 35), (8, 16, 1, 1)),
    "dots_of_groups": case((2, 80, 5, 5), (10, 40, 1, 1)),
    "dots_of_segments": case((4, 17, 3, 6), (2, 2, 17, 1, 1)),
    "dots_of_a_row": case((3, 20, 1, 9), (2, 20, 1, 1)),
    # One position a sample: parts of squares, of panels, of tasks, groups, segments, chunks.
    "linear": case((45, 131, 1, 1), (267, 131, 1, 1)),
    "linear_deep": case((3, 2100, 1, 1), (5, 2100, 1, 1)),
    "linear_whole": case((5, 45, 3, 2), (140, 45, 3, 2)),
    "linear_groups": case((4, 266, 1, 1), (260, 133, 1, 1)),
    "linear_segments": case((4, 130, 1, 1), (2, 129, 130, 1, 1)),
    "big_kernel": case((1, 3, 16, 15), (4, 3, 11, 11), (1, 1), (5, 5, 5, 5)),
    "four_sided": case((2, 3, 6, 5), (4, 3, 3, 2), (2, 1), (0, 3, 2, 1)),
    "full": case((2, 8, 9, 6), (2, 8, 5, 5), (1, 1), (4, 4, 4, 4)),
    "cropped": case((2, 3, 9, 8), (4, 3, 3, 2), (2, 1), (1, -2, 0, -3)),
    "shifted": case((2, 2, 3, 2), (3, 2, 3, 2), (1, 1), (1, -1, 1, -1)),
    "stride_huge": case((2, 3, 4, 5), (4, 3, 3, 2), (2**62, 2**40), ALL),
    "stem": case((2, 3, 21, 19), (16, 3, 7, 7), (2, 2), (3, 3, 3, 3)),
    # More than one block of the depth (256), the positions (192), the filters (256, 128).
    "deep": case((1, 300, 4, 5), (3, 300, 1, 1)),
    "deep_taps": case((1, 70, 6, 5), (3, 70, 3, 3), (1, 1), ALL),
    "many_taps": case((1, 2, 20, 18), (2, 2, 17, 16), (1, 1), (2, 2, 2, 2)),
    "many_positions": case((3, 2, 30, 29), (3, 2, 3, 3), (1, 1), ALL),
    "many_filters": case((1, 3, 5, 4), (270, 3, 2, 2)),
    "many_blocks": case((4, 2, 29, 28), (15, 2, 1, 2)),
    # Lines in several blocks of rows, or too long to be lines; a scatter's bands and blocks.
    "many_lines": case((1, 21, 34, 50), (3, 21, 2, 3), (1, 1), ALL),
    "long_lines": case((1, 43, 3, 1100), (2, 43, 3, 1)),
    "bands": case((1, 71, 17, 130), (3, 71, 3, 2), (2, 1), ALL, mode="circular"),
    "few_from_many": case((1, 3, 9, 8), (261, 3, 4, 4)),
    # Groups: equal ones, one channel each, one input channel for several filters, many.
    "groups": case((2, 6, 7, 6), (9, 2, 3, 3), (2, 1), ALL),
    "groups_of_eights": case((2, 144, 9, 8), (16, 72, 3, 2), (2, 1), ALL),
    "groups_wide": case((1, 34, 5, 6), (30, 17, 3, 3), (1, 1), ALL),
    "depthwise": case((2, 19, 9, 8), (19, 1, 3, 3), (1, 1), ALL),
    "depthwise_33": case((1, 33, 4, 35), (33, 1, 3, 5), (1, 1), (1, 1, 2, 2)),
    "depthwise_83": case((2, 83, 6, 23), (83, 1, 3, 5), (1, 1), (1, 1, 2, 2)),
    "depthwise_beyond": case((1, 37, 3, 2), (37, 1, 5, 5), (1, 1), (2, 2, 2, 2)),
    "depthwise_strided": case((2, 17, 9, 10), (17, 1, 3, 5), (2, 3), (1, 1, 2, 2)),
    "depthwise_dilated": case((2, 4, 11, 12), (4, 1, 3, 3), (1, 1), (2, 2, 2, 2), (2, 3)),
    "depthwise_7": case((2, 16, 6, 17), (16, 1, 7, 7), (1, 1), (3, 3, 3, 3)),
    "depthwise_doubled": case((2, 5, 8, 7), (10, 1, 3, 3), (2, 1), ALL),
    "depthwise_reflect": case((2, 18, 7, 9), (18, 1, 5, 3), (1, 1), (2, 2, 1, 1), mode="reflect"),
    "depthwise_circular": case((2, 6, 5, 4), (6, 1, 3, 3), (2, 1), (4, 4, 1, 1), mode="circular"),
    "depthwise_segments": case((4, 6, 6, 5), (2, 6, 1, 3, 3), (1, 2), ALL),
    # Filters of their own for parts of the batch.
    "segments": case((6, 3, 6, 5), (3, 4, 3, 3, 2), (1, 2), (1, 0, 1, 1)),
    "segments_each": case((3, 4, 5, 5), (3, 6, 2, 2, 2), (2, 2), ALL, mode="replicate"),
    "segments_one": case((2, 3, 5, 4), (1, 2, 3, 2, 2)),
    "segments_many_positions": case((2, 1, 40, 30), (2, 2, 1, 2, 2)),
    # Padding by mirrored elements, as much of it as there is.
    "reflect": case((2, 3, 5, 6), (4, 3, 3, 3), (2, 1), (1, 2, 0, 3), mode="reflect"),
    "reflect_most": case((1, 2, 4, 5), (3, 2, 3, 2), (3, 2), (3, 3, 4, 4), (2, 3), "reflect"),
    "reflect_two": case((1, 2, 2, 2), (2, 2, 3, 3), (1, 1), ALL, mode="reflect"),
    "replicate": case((2, 3, 5, 6), (4, 3, 3, 3), (2, 1), (1, 2, 0, 3), mode="replicate"),
    "replicate_most": case((1, 2, 3, 1), (3, 2, 4, 5), (2, 3), (7, 9, 6, 8), (2, 1), "replicate"),
    "circular": case((2, 3, 5, 6), (4, 3, 3, 3), (2, 1), (1, 2, 0, 3), mode="circular"),
    "circular_most": case((1, 2, 4, 3), (3, 2, 3, 2), (3, 2), (4, 4, 3, 3), (2, 3), "circular"),
    "circular_one": case((1, 2, 1, 1), (2, 2, 3, 3), (1, 1), ALL, mode="circular"),
    # Nothing of something: a sum of no terms is zero (and the bias).
    "no_samples": case((0, 3, 5, 4), (2, 3, 3, 3)),
    "no_channels": case((2, 0, 5, 4), (3, 0, 3, 3), (1, 1), ALL),
    "no_filters": case((2, 3, 5, 4), (0, 3, 3, 3), (2, 1), ALL),
    "no_rows": case((2, 3, 0, 4), (2, 3, 2, 3), (1, 1), (1, 2, 0, 0)),
    "no_columns": case((2, 3, 4, 0), (2, 3, 2, 3), (1, 1), (0, 0, 1, 2)),
    "no_outputs": case((2, 6, 2, 4), (4, 3, 3, 5), (1, 2)),
    "no_pixels": case((2, 17, 0, 5), (16, 17, 1, 1)),
    "no_segments": case((0, 3, 5, 4), (0, 2, 3, 3, 3)),
    "no_samples_in_segments": case((0, 3, 5, 4), (2, 2, 3, 3, 3)),
}


class Operands(NamedTuple):
    input: Tensor  # X
    filter: Tensor  # F
    grad: Tensor  # O
    bias: Tensor  # along K
    input_bias: Tensor  # along C


def integers(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """-3..3, and i times as much for complex dtypes; the same for all dtypes of a kind."""
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    real, imaginary = (torch.randint(-3, 4, shape, generator=generator).double() for _ in "ri")
    return (torch.complex(real, imaginary) if dtype.is_complex else real).to(dtype)


def operands(case: Case, dtype: torch.dtype, seed: int = 0) -> Operands:
    shapes = case.input, case.filter, case.output, case.filter[-4:-3], case.input[1:2]
    return Operands(*(integers(s, dtype, 10 * seed + i) for i, s in enumerate(shapes)))


def by_ops(case: Case, t: Operands) -> dict[str, Tensor]:
    """Every raw op's result. The ops are plain contractions: nothing is conjugated."""
    geometry, size, kernel = case.geometry, case.input[2:], case.filter[-2:]
    both = ops.gradients(t.input, t.filter, t.grad, geometry)
    return {
        "correlate": ops.correlate(t.input, t.filter, t.bias, geometry),
        "full_convolve": ops.full_convolve(t.grad, t.filter, t.input_bias, geometry, size),
        "correlate_weight": ops.correlate_weight(t.input, t.grad, geometry, kernel, case.segments),
        "channel_sum": ops.channel_sum(t.grad),
        "gradients_input": both[0],
        "gradients_filter": both[1],
    }


def by_reference(case: Case, t: Operands) -> dict[str, Tensor]:
    """The same by loops, in float64 or complex128, segment by segment."""
    x, f, o, bias, input_bias = (v.to("cpu", C128 if v.is_complex() else F64).numpy() for v in t)
    g, parts = case.geometry, case.segments
    layer = reference.Layer(
        case.input[2:],
        case.filter[-2:],
        (g.stride_h, g.stride_w),
        (g.pad_left, g.pad_right, g.pad_top, g.pad_bottom),
        (g.dilation_h, g.dilation_w),
        g.groups,
        PADDING_MODES[g.padding_mode],
    )
    xs, os, filters = np.split(x, parts or 1), np.split(o, parts or 1), f if parts else f[None]
    if parts == 0:
        xs = os = filters = ()
    y = [reference.correlate(layer, *t) for t in zip(xs, filters, strict=True)]
    dx = [reference.full_convolve(layer, *t) for t in zip(os, filters, strict=True)]
    df = [reference.correlate_weight(layer, *t) for t in zip(xs, os, strict=True)]
    if parts == 0:
        y, dx, df = [o], [x], [f]  # empty, all of them
    found = {
        "correlate": np.concatenate(y) + bias[:, None, None],
        "full_convolve": np.concatenate(dx) + input_bias[:, None, None],
        "correlate_weight": df[0] if parts is None else np.stack(df) if parts else f,
        "channel_sum": o.sum((0, 2, 3)),
        "gradients_input": np.concatenate(dx),
    }
    found["gradients_filter"] = found["correlate_weight"]
    return {name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in found.items()}


@cache
def expected(name: str, complex: bool) -> dict[str, Tensor]:
    """`by_reference` for an edge's operands."""
    return by_reference(EDGES[name], operands(EDGES[name], C128 if complex else F64))


def assert_bits(actual: Tensor, exact: Tensor, what: object = "") -> None:
    """Equal to the exact result rounded once."""
    torch.testing.assert_close(
        actual,
        exact.to(actual),
        rtol=0,
        atol=0,
        msg=lambda text: f"{what}: {text}\n{actual}\nexpected\n{exact}",
    )


def assert_within(actual: Tensor, exact: Tensor, magnitude: Tensor, terms: int) -> None:
    """The error bound of a sum of `terms` products in any order, and of the result's rounding.

    `magnitude` is the same contraction of the operands' absolute values.
    """
    rounding = ROUNDING[actual.dtype]
    bound = 2 * terms * rounding.sum * magnitude
    bound = bound + rounding.result * (exact.abs() + bound) + rounding.tiny
    error = (actual.to(exact.dtype) - exact).abs()
    assert actual.shape == exact.shape
    assert (error <= bound).all(), f"error {error.max()}, {(error / bound).max()} of its bound"
