"""The same bits for any number of threads and any batch; NaN and Inf where the definition has them.

Floats, whose sums tell in which order they were added.
"""

import ctypes
import gc
import random
from collections.abc import Callable
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from cases import (
    BF16,
    C64,
    C128,
    DTYPES,
    EDGES,
    F32,
    F64,
    Case,
    Operands,
    by_ops,
    by_reference,
    case,
    ident,
    operands,
)
from layouts import (
    channels_last,
)
from torch import Tensor

from torch_fullconv import ops

THREADS = (2, 3, 5)  # against 1; more than there are processors, too
ONES = (1, 1, 1, 1)
# With enough work for several tasks and threads, and sums that are cut into parts.
LAYERS = {
    "plain": case((4, 16, 20, 20), (24, 16, 3, 3), (1, 1), ONES),
    "strided": case((3, 8, 33, 31), (17, 8, 5, 3), (2, 3), (2, 1, 0, 1)),
    "dilated": case((2, 7, 30, 30), (9, 7, 3, 3), (1, 2), (2, 2, 2, 2), (2, 3)),
    "pointwise": case((3, 65, 23, 21), (40, 65, 1, 1)),
    "deep": case((1, 400, 9, 9), (35, 400, 3, 3), (1, 1), ONES),
    "wide": case((2, 5, 16, 16), (300, 5, 3, 3), (1, 1), ONES),
    "stem": case((2, 3, 64, 60), (32, 3, 7, 7), (2, 2), (3, 3, 3, 3)),
    "one_channel": case((6, 1, 40, 40), (8, 1, 5, 5)),
    "bands": case((9, 2, 64, 45), (16, 2, 3, 3), (1, 1), ONES),  # of few samples, finer ones
    "one_filter": case((3, 20, 30, 30), (1, 20, 3, 3), (1, 1), ONES),
    "long": case((1, 4, 1, 6000), (6, 4, 1, 9), (1, 2), (0, 0, 4, 4)),
    "large": case((1, 2, 150, 140), (3, 2, 3, 3), (1, 1), ONES),
    "many_samples": case((64, 3, 8, 8), (5, 3, 3, 3), (1, 1), ONES),
    "groups": case((3, 24, 20, 18), (36, 6, 3, 3), (1, 1), ONES),
    "depthwise": case((3, 40, 20, 20), (40, 1, 7, 7), (1, 1), (3, 3, 3, 3)),
    "depthwise_strided": case((3, 33, 29, 31), (33, 1, 3, 3), (2, 2), ONES),
    "reflect": case((2, 10, 24, 25), (12, 10, 5, 5), (2, 1), (2, 2, 2, 2), mode="reflect"),
    "circular": case((2, 10, 24, 25), (12, 10, 3, 3), (1, 1), (3, 3, 3, 3), mode="circular"),
    "replicate": case((2, 10, 24, 25), (12, 10, 3, 3), (1, 3), (3, 0, 1, 2), mode="replicate"),
    "linear": case((90, 300, 1, 1), (180, 300, 1, 1)),
    "linear_whole": case((5, 40, 6, 6), (140, 40, 6, 6)),
    "head": case((4, 48, 12, 10), (3, 48, 1, 1)),
    "segments": case((6, 6, 20, 20), (3, 8, 6, 3, 3), (1, 1), ONES),
    "winograd": case((9, 40, 21, 30), (70, 40, 3, 3), (1, 1), ONES, algorithm="winograd"),
    "winograd_deep": case((2, 270, 9, 7), (140, 270, 3, 3), (1, 1), ONES, algorithm="winograd"),
    "winograd_5": case((3, 20, 17, 19), (33, 20, 5, 5), (1, 1), ONES, algorithm="winograd"),
    "winograd_4": case((5, 40, 22, 26), (70, 40, 4, 4), (2, 2), ONES, algorithm="winograd"),
    "winograd_parts": case((3, 40, 17, 19), (33, 40, 7, 5), (1, 2), ONES, algorithm="winograd"),
    "winograd_phase": case((5, 40, 22, 26), (70, 40, 3, 3), (2, 2), ONES, algorithm="winograd"),
    "winograd_segments": case((6, 6, 20, 20), (3, 8, 6, 3, 3), algorithm="winograd"),
    "chosen": case((5, 64, 14, 14), (64, 64, 3, 3), (1, 1), ONES, algorithm="auto"),
    "big_kernel": case((2, 6, 26, 26), (6, 6, 11, 11), (1, 1), (5, 5, 5, 5)),
}


def floats(c: Case, dtype: torch.dtype, place: Callable) -> Operands:
    generator = torch.Generator().manual_seed(11)
    wide = torch.complex128 if dtype.is_complex else F64
    t = (torch.randn(v.shape, generator=generator, dtype=wide) for v in operands(c, dtype))
    return Operands(*(place(v.to(dtype)) if v.dim() > 1 else v.to(dtype) for v in t))


def assert_same_bits(a: Tensor, b: Tensor, what: str) -> None:
    assert torch.equal(*(torch.view_as_real(v) if v.is_complex() else v for v in (a, b))), what


each_layer = pytest.mark.parametrize("name", LAYERS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=ident)
each_layout = pytest.mark.parametrize("place", [Tensor.contiguous, channels_last], ids=ident)


@each_layer
@each_dtype
@each_layout
def test_any_number_of_threads_gives_the_same_bits(name, dtype, place, threads):
    t = floats(LAYERS[name], dtype, place)
    torch.set_num_threads(1)
    alone = by_ops(LAYERS[name], t)
    for count in THREADS:
        torch.set_num_threads(count)
        for op, result in by_ops(LAYERS[name], t).items():
            assert_same_bits(result, alone[op], f"{op}, {count} threads")


@each_layer
@each_dtype
@each_layout
def test_a_sample_is_the_same_in_any_batch(name, dtype, place):
    c = LAYERS[name]
    t = floats(c, dtype, place)
    geometry, size, parts = c.geometry, c.input[2:], c.segments or 1
    y = ops.correlate(t.input, t.filter, t.bias, geometry)
    dx = ops.full_convolve(t.grad, t.filter, None, geometry, size)
    both = ops.gradients(t.input, t.filter, t.grad, geometry)[0]
    assert_same_bits(both, dx, "gradients")
    length = c.input[0] // parts
    for part in range(parts):  # a segment's samples are those of a batch with its filter
        f = t.filter[part] if c.segments else t.filter
        for i in (*range(length), slice(1, length)) if length < 5 else (0, 1, 5, slice(3, length)):
            at = slice(i, i + 1) if isinstance(i, int) else i
            at = slice(part * length + at.start, part * length + at.stop)
            x, o = t.input[at], t.grad[at]
            assert_same_bits(ops.correlate(x, f, t.bias, geometry), y[at], f"output {at}")
            alone = ops.full_convolve(o, f, None, geometry, size)
            assert_same_bits(alone, dx[at], f"input gradient {at}")


def with_special(c: Case, operand: str, place: float, special: float, dtype=F64) -> Operands:
    """Integers with one NaN or Inf: at the operand's first element, its last, or between."""
    t = operands(c, dtype)
    value = getattr(t, operand).view(-1)
    value[int(place * (len(value) - 1))] = special
    return t


def by_definition(c: Case, t: Operands) -> dict[str, Tensor]:
    """The zeros of the padding are factors, as stock has it: times NaN or Inf they are NaN."""
    exact = by_reference(c, t)
    g, (n, channels, h, w) = c.geometry, c.input
    if g.padding_mode == 0:
        sides = g.pad_left, g.pad_right, g.pad_top, g.pad_bottom
        padded = c._replace(
            input=(n, channels, h + g.pad_top + g.pad_bottom, w + g.pad_left + g.pad_right),
            geometry=g._replace(pad_top=0, pad_bottom=0, pad_left=0, pad_right=0),
        )
        shown = by_reference(padded, t._replace(input=F.pad(t.input, sides)))
        exact |= {k: shown[k] for k in ("correlate", "correlate_weight", "gradients_filter")}
    return exact


SPECIAL_LAYERS = ("rest_rows", "tile_15x33", "deep_taps", "four_sided", "depthwise", "groups")
SPECIAL_LAYERS += ("depthwise_strided", "reflect", "circular_most", "segments", "stem")
SPECIAL_LAYERS += ("row", "full")


@pytest.mark.parametrize("operand", ["input", "filter", "grad"])
@pytest.mark.parametrize("name", SPECIAL_LAYERS)
def test_special_values_stay_where_they_belong(name, operand):
    """Results are NaN, Inf or exact, each where the definition says."""
    c = EDGES[name]
    for special, where in product((torch.nan, -torch.inf), (0, 0.4, 1)):
        exact = by_definition(c, with_special(c, operand, where, special))
        for dtype, place in product((F32, F64, BF16), (Tensor.contiguous, channels_last)):
            t = with_special(c, operand, where, special, dtype)
            t = Operands(*map(place, t[:3]), *t[3:])
            for op, result in by_ops(c, t).items():
                torch.testing.assert_close(
                    result, exact[op].to(dtype), rtol=0, atol=0, equal_nan=True
                )


@pytest.mark.parametrize("name", SPECIAL_LAYERS)
def test_special_values_of_complex_tensors_stay_where_they_belong(name):
    """Which of NaN and Inf a complex product makes of them is the compiler's choice."""
    c = EDGES[name]
    for operand in ("input", "filter", "grad"):
        exact = by_definition(c, with_special(c, operand, 0.4, torch.nan, C128))
        for op, result in by_ops(c, with_special(c, operand, 0.4, torch.nan, C64)).items():
            finite = exact[op].isfinite()
            assert torch.equal(result.isfinite(), finite), (op, operand)
            assert torch.equal(result[finite], exact[op][finite].to(C64)), (op, operand)


def test_special_values_of_a_filter_reach_no_input_gradient_without_an_output():
    """The padding's zeros are factors of T; outputs beyond the edge are not even terms."""
    c = case((1, 1, 4, 4), (1, 1, 3, 3))
    t = with_special(c, "filter", 0, torch.nan)
    exact = by_reference(c, t)["gradients_input"]
    assert exact.isnan().sum() == 4
    torch.testing.assert_close(by_ops(c, t)["gradients_input"], exact, equal_nan=True)


class Mallinfo2(ctypes.Structure):
    """What glibc's malloc tells of itself."""

    _fields_ = (("numbers", ctypes.c_size_t * 10),)


def allocated_bytes() -> int:
    """Those given out and not given back; the process' size would tell of holes between too."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo2
    numbers = mallinfo2().numbers
    return numbers[4] + numbers[7]  # hblkhd, in mappings of their own, and uordblks


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="asks glibc >= 2.33")
def test_memory_stays_flat():
    """Random shapes over and over: no call leaves anything behind."""

    def some(count: int) -> None:
        choice = random.Random(5)
        for _ in range(count):
            n, ch, k, h, w = (choice.randint(1, m) for m in (4, 40, 40, 24, 24))
            r, s, stride = (choice.randint(1, m) for m in (min(3, h), min(3, w), 3))
            c = case((n, ch, h, w), (k, ch, r, s), (stride, 1))
            by_ops(c, operands(c, choice.choice(DTYPES)))
        gc.collect()

    some(500)
    before = allocated_bytes()
    some(500)
    assert allocated_bytes() - before < 500 * 100
