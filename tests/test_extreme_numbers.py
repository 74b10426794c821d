"""The largest and the smallest numbers of each type, subnormal ones, and sums that are infinite.

Operands are small integers times powers of two. So a result is the integers', which test_ops.py
compares with the reference, times two powers of two and rounded once, wherever no sum leaves the
type's range. test_reproducible.py is about NaN and Inf among the operands.
"""

from functools import cache
from math import frexp, log2

import pytest
import torch
from cases import (
    BF16,
    C128,
    DTYPES,
    EDGES,
    F16,
    F32,
    F64,
    X86,
    Case,
    Operands,
    assert_bits,
    by_ops,
    case,
    ident,
    operands,
)
from layouts import channels_last
from test_winograd import assert_errors
from torch import Tensor

from torch_fullconv import ops
from torch_fullconv.ops import Geometry

REAL = (F32, F64, BF16, F16)
NAMES = ("rest_rows", "tile_15x33", "pointwise", "deep_taps", "stem", "line_1x97", "circular_most")
NAMES += ("depthwise", "depthwise_strided", "groups", "segments")
ONES = (1, 1, 1, 1)
MINIMAL = {
    "3x3": case((2, 20, 14, 17), (35, 20, 3, 3), (1, 1), ONES, algorithm="winograd"),
    "5x5": case((2, 17, 13, 12), (19, 17, 5, 5), (1, 1), ONES, algorithm="winograd"),
    "4x4": case((2, 20, 14, 18), (35, 20, 4, 4), (2, 2), ONES, algorithm="winograd"),
    "7x5": case((2, 20, 14, 18), (35, 20, 7, 5), (2, 1), ONES, algorithm="winograd"),
    "segments": case((4, 6, 12, 12), (2, 8, 6, 3, 3), algorithm="winograd"),
}
each_layout = pytest.mark.parametrize("place", [Tensor.contiguous, channels_last], ids=ident)


def smallest(dtype: torch.dtype) -> int:
    """Its exponent. On x86 what is below the normal numbers of a type's sums counts as zero."""
    info = torch.finfo(dtype)
    normal = X86 and dtype != F16
    return round(log2(info.smallest_normal if normal else info.smallest_normal * info.eps))


def beyond(dtype: torch.dtype) -> int:
    """The exponent of the first power of two that is infinite."""
    return frexp(torch.finfo(dtype).max)[1]


def scaled(t: Operands, dtype: torch.dtype, x: int, f: int, o: int, place=Tensor.contiguous):
    """Operands times 2^x, 2^f and 2^o, the biases as their results."""
    powers = (x, 0), (f, 0), (o, 0), (x, f), (o, f)
    wide = (v * 2.0 ** min(p) * 2.0 ** max(p) for v, p in zip(t, powers, strict=True))
    found = Operands(*(v.to(dtype) for v in wide))
    return Operands(*map(place, found[:3]), *found[3:])


def results(exact: dict[str, Tensor], x: int, f: int, o: int) -> dict[str, Tensor]:
    """What the operations then give, or with the signs turned, the integers again."""
    powers = {"correlate": (x, f), "full_convolve": (o, f), "correlate_weight": (x, o)}
    powers |= {"channel_sum": (o, 0), "gradients_input": (o, f), "gradients_filter": (x, o)}
    factors = {op: (2.0 ** min(pair), 2.0 ** max(pair)) for op, pair in powers.items()}
    return {op: v * factors[op][0] * factors[op][1] for op, v in exact.items()}


@cache
def integers(c: Case, complex: bool) -> tuple[Operands, dict[str, Tensor], int]:
    """Operands and results, and the exponent of a power of two above all partial sums."""
    wide = C128 if complex else F64
    direct = c._replace(geometry=c.geometry._replace(algorithm=1))
    t = operands(c, wide)
    size = Operands(*(v.abs().to(wide) for v in t))
    most = max(v.abs().max().item() for v in by_ops(direct, size).values())
    return t, by_ops(direct, t), frexp(2 * most)[1]


def assert_scaled(c: Case, dtype: torch.dtype, powers: tuple[int, int, int], place) -> None:
    t, exact, _ = integers(c, dtype.is_complex)
    found = by_ops(c, scaled(t, dtype, *powers, place))
    for op, result in results(exact, *powers).items():
        assert_bits(found[op], result, f"{op} of {c}, {powers}")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=ident)
@each_layout
def test_the_smallest_numbers(name, dtype, place):
    """Products that are one to nine times the smallest number; then each operand in turn."""
    least = smallest(dtype)
    half = -(-least // 2)
    for powers in ((half, least - half, half), (least, 0, 0), (0, least, 0), (0, 0, least)):
        assert_scaled(EDGES[name], dtype, powers, place)


def large(dtype: torch.dtype, sums: int) -> list[tuple[int, int, int]]:
    """Powers for sums just below infinity, of operands alike and with one near infinity itself."""
    most = beyond(dtype)
    top = most - sums
    half, rest = top // 2, top - (most - 2)
    return [(half, top - half, half), (most - 2, rest, rest), (rest, most - 2, rest)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=ident)
@each_layout
def test_the_largest_numbers(name, dtype, place):
    _, _, sums = integers(EDGES[name], dtype.is_complex)
    for powers in large(dtype, sums):
        assert_scaled(EDGES[name], dtype, powers, place)


@pytest.mark.parametrize("name", MINIMAL)
@pytest.mark.parametrize("dtype", REAL, ids=ident)
@each_layout
def test_the_largest_numbers_by_minimal_filtering(name, dtype, place):
    """Its transforms leave the range before the definition's sums do: then it gives way to them."""
    c = MINIMAL[name]
    t, exact, sums = integers(c, dtype.is_complex)
    alike, *unlike = large(dtype, sums)
    for powers in [alike] if dtype == F16 else [alike, *unlike]:  # whose other results are tiny
        found = by_ops(c, scaled(t, dtype, *powers, place))
        assert_errors(c, results(found, *(-p for p in powers)), exact)


@pytest.mark.parametrize("name", [*NAMES, *MINIMAL])
@pytest.mark.parametrize("dtype", REAL, ids=ident)
@each_layout
def test_sums_beyond_the_largest_are_infinite(name, dtype, place):
    """And not NaN, and not where a sum has no terms."""
    c = (EDGES | MINIMAL)[name]
    positive = Operands(*(v.abs() + 1 for v in operands(c, F64)))
    powers = (beyond(dtype) // 2 + 1,) * 3
    found = by_ops(c, scaled(positive, dtype, *powers, place))
    direct = c._replace(geometry=c.geometry._replace(algorithm=1))
    for op, result in results(by_ops(direct, positive), *powers).items():
        assert_bits(found[op], result, f"{op} of {c}")
    assert found["correlate"].isinf().all()


@pytest.mark.parametrize("groups", [1, 24])
@pytest.mark.parametrize("dtype", REAL, ids=ident)
@each_layout
def test_a_filter_of_one_1_copies_any_finite_number(groups, dtype, place):
    info = torch.finfo(dtype)
    numbers = [info.max, info.smallest_normal, 1 + info.eps, 1 - info.eps / 2]
    if smallest(dtype) < log2(info.smallest_normal):
        numbers += [info.smallest_normal * info.eps, info.smallest_normal * (1 - info.eps)]
    c = case((2, 24, 11, 19), (24, 24 // groups, 3, 3), (1, 1), ONES)
    chosen = torch.randint(2 * len(numbers), c.input, generator=torch.Generator().manual_seed(2))
    x = place(torch.tensor(numbers + [-v for v in numbers], dtype=F64)[chosen].to(dtype))
    f = torch.zeros(c.filter, dtype=dtype)
    f[:, :, 1, 1] = torch.eye(24) if groups == 1 else 1
    o = torch.zeros_like(x)
    o[0, :, 4, 5] = 1
    assert_bits(ops.correlate(x, f, None, c.geometry), x)
    assert_bits(ops.full_convolve(x, f, None, c.geometry, x.shape[2:]), x)
    window = x[0, :, 3:6, 4:7]
    exact = window.unsqueeze(1) if groups > 1 else window.expand(24, 24, 3, 3)
    assert_bits(ops.correlate_weight(x, o, c.geometry, (3, 3), None), exact)


@pytest.mark.skipif(not X86, reason="subnormal numbers are kept")
def test_subnormal_numbers_are_zeros_in_a_call_and_nowhere_else():
    """In all threads: also those that work for a call keep them afterwards."""
    x = torch.full((64, 16, 32, 32), 2.0**-130)
    f = torch.ones(16, 16, 3, 3)
    assert ops.correlate(x, f, None, Geometry()).count_nonzero() == 0
    assert torch.equal(x * 0.5, torch.full_like(x, 2.0**-131))
