"""Each way of the engine gives the reference's bits wherever it can be, cheapest or not.

TORCH_FULLCONV_WAY names a way that does all the jobs it can. It is read once a process, so each way
has one of its own. Winograd's, which round, have tests of their own (test_winograd.py).
"""

from itertools import product
from pathlib import Path

import pytest
import torch
from cases import BF16, EDGES, F32, F64, PATCHES, case, operands
from layouts import LAYOUTS, channels_last
from test_instruction_sets import check_exact, edges, run, saved, sweep  # noqa: F401, a fixture
from test_reproducible import SPECIAL_LAYERS
from test_reproducible import test_special_values_stay_where_they_belong as check_special_values

from torch_fullconv import ops

BOTH = {"forward", "input gradient"}
ALL = {*BOTH, "filter gradient"}
WAYS = {
    "amx": ALL,
    "channels": ALL,
    "depthwise": ALL,
    "direct": ALL,
    "dots": BOTH,
    "gemm": ALL,
    "linear": BOTH,
    "lines": ALL,
    "pointwise": BOTH,
    "scatter": {"input gradient"},
}


UNPADDED = (case((2, 8, 6, 5), (8, 8, 1, 1)), case((2, 32, 9, 7), (33, 32, 3, 3)))
# A block of it has more rows than its taps meet, and is cut by rows or channels.
FAR = case((1, 512, 28, 28), (8, 512, 3, 3), pad=(12, 12, 12, 12), dilation=(12, 12))
# Groups of which several share a vector, of any width, and their lanes pick the channel they meet.
NARROW = [
    case((1, 16 * width, 5, 9), (16 * width, width, 3, 3), pad=(1, 1, 1, 1)) for width in (2, 4, 8)
]
# Rows of the filter in pieces, vectors that overlap, rows and columns in the padding, segments.
DEPTHWISE = [
    case((2, 40, 9, 11), (40, 1, 5, 5), (1, 2), (2, 3, 4, 1)),
    case((1, 24, 13, 12), (24, 1, 7, 7), pad=(3, 3, 3, 3)),
    case((1, 19, 4, 90), (19, 1, 2, 7), pad=(9, 0, 2, 2), dilation=(3, 2)),
    case((4, 18, 6, 5), (2, 18, 1, 3, 3), (2, 1), (1, 1, 1, 1)),
]


def taken(way: str, dtype: torch.dtype) -> set[str]:
    """The passes that a layer of the edges goes that way."""
    passes = set()
    for layer in EDGES.values():
        t = operands(layer, dtype)
        if t.filter.dim() == 4 and t.input.numel() * t.grad.numel() > 0:
            for x in (t.input, channels_last(t.input)):
                names = ops.ways(x, t.filter, layer.geometry)
                passes |= {what for what, found in names.items() if found == way}
    return passes


def check(way: str, path: str) -> None:
    dtypes = (BF16,) if way == "amx" else (F32, F64, BF16)
    assert taken(way, dtypes[0]) == WAYS[way]
    edges(path, dtypes[:1])
    sweep(dtypes)
    in_place = (*UNPADDED, *PATCHES.values())  # views of these may be read where they lie
    for layer, dtype, place in product(in_place, dtypes, LAYOUTS):
        check_exact(layer, dtype, (place, place, place), 0)
    for dtype, place in product(dtypes, (torch.Tensor.contiguous, channels_last)):
        for layer in (FAR, *NARROW, *DEPTHWISE):
            check_exact(layer, dtype, (place, place, place), 0)
    if way in ("amx", "depthwise"):  # which do not add all products, or do a sample again
        for name, operand in product(SPECIAL_LAYERS, ("input", "filter", "grad")):
            check_special_values(name, operand)


@pytest.mark.parametrize("way", WAYS)
def test_exact_wherever_it_can_be(way: str, saved: Path) -> None:  # noqa: F811
    if way == "amx" and ops.instruction_set() != "amx":
        pytest.skip("this processor has no matrix unit, or TORCH_FULLCONV_ISA names another set")
    code = f"import test_ways as t; t.check({way!r}, {str(saved)!r})"
    done = run(code, TORCH_FULLCONV_WAY=way)
    assert done.returncode == 0, done.stderr[-4000:]
