"""Tensors of more than 2^31 elements.

Memory that is never touched is never there (calloc's zeros, stride 0), so most need little of it;
the two marked slow write 4 and 6 GiB.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import BF16, Case, assert_bits, by_reference, case, integers, operands
from torch import Tensor

from torch_fullconv import ops
from torch_fullconv.ops import Geometry

pytestmark = pytest.mark.usefixtures("poisoned_results")
PLAIN = Geometry()


def need(gibibytes: int) -> None:
    """Skips the test where the system would end the process for want of memory."""
    if sys.platform == "linux":
        lines = Path("/proc/meminfo").read_text().splitlines()
        (free,) = (int(line.split()[1]) >> 20 for line in lines if line.startswith("MemAvailable"))
        if free < gibibytes:
            pytest.skip(f"needs {gibibytes} GiB of memory, and {free} are free")


def untouched_zeros(*shape: int) -> Tensor:
    """bfloat16 zeros that take memory only where they are written."""
    try:
        return torch.from_numpy(np.zeros(shape, np.int16)).view(BF16)
    except MemoryError:
        pytest.skip(f"this machine promises no {np.prod(shape) >> 29} GiB")


# An index beyond 2^31 - 1 by the sample, the channel or the row alone. The filter meets the corners
# of the images only: the same as on 4x4 pixels, with less between.
HUGE = {
    "samples": (3, 2, 2**15, 2**14),
    "channels": (1, 6, 2**15, 2**14),
    "rows": (1, 1, 2**17, 2**15),
}


def huge_and_small(which: str, filters: int) -> tuple[Case, Case]:
    n, c, h, w = HUGE[which]
    huge = case((n, c, h, w), (filters, c, 2, 2), (h - 2, w - 2))
    return huge, case((n, c, 4, 4), huge.filter, (2, 2))


def corners(c: Case) -> tuple:
    return (..., slice(None, None, c.input[2] - 1), slice(None, None, c.input[3] - 1))


def test_stride_0_input_beyond_2_to_31_elements():
    x = torch.ones(1).expand(1, 1, 65536, 40000)
    y = ops.correlate(x, torch.ones(1, 1, 2, 2), None, Geometry(1, 9000, 9000))
    assert_bits(y, torch.full((1, 1, 8, 5), 4.0))
    df = ops.correlate_weight(x, y, Geometry(1, 9000, 9000), (2, 2), None)
    assert_bits(df, torch.full((1, 1, 2, 2), 160.0))


@pytest.mark.parametrize("last", [False, True], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("filters", [2, 40])
@pytest.mark.parametrize("which", HUGE)
def test_input_beyond_2_to_31_elements(which, filters, last):
    huge, small = huge_and_small(which, filters)
    n, c, h, w = huge.input
    x = untouched_zeros(n, h, w, c).movedim(-1, 1) if last else untouched_zeros(n, c, h, w)
    t = operands(small, BF16)
    x[corners(huge)] = t.input[corners(small)]
    image = torch.zeros_like(t.input)
    image[corners(small)] = x[corners(huge)]
    exact = by_reference(small, t._replace(input=image))
    y = ops.correlate(x, t.filter, t.bias, huge.geometry)
    assert_bits(y, exact["correlate"])
    df = ops.correlate_weight(x, t.grad, huge.geometry, (2, 2), None)
    assert_bits(df, exact["correlate_weight"])


def test_gradient_beyond_2_to_31_elements():
    """Of a 1x1 filter: both operands are as large, and all but a few products are zero."""
    o, x = untouched_zeros(1, 1, 2**16, 2**15 + 1), untouched_zeros(1, 1, 2**16, 2**15 + 1)
    marks = integers((7,), BF16, 1) + 4
    at = [(0, 0, i * (2**16 - 1) // 6, i * 2**15 // 6) for i in range(7)]
    for place, mark in zip(at, marks, strict=True):
        o[place], x[place] = mark, 2
    assert_bits(ops.channel_sum(o), marks.double().sum()[None])
    df = ops.correlate_weight(x, o, PLAIN, (1, 1), None)
    assert_bits(df.flatten(), 2 * marks.double().sum()[None])


@pytest.mark.slow
def test_output_beyond_2_to_31_elements():
    need(5)
    k, h, w = 64, 2**10 + 1, 2**15
    x, f = integers((1, 1, h, w), BF16, 1), integers((k, 1, 1, 1), BF16, 2)
    y = ops.correlate(x, f, None, PLAIN)
    for channel in (0, 1, k - 1):
        assert torch.equal(y[0, channel], x[0, 0] * f[channel, 0])
    assert_bits(ops.channel_sum(y), x.double().sum() * f.double().flatten())


@pytest.mark.slow
def test_input_gradient_beyond_2_to_31_elements():
    need(7)
    huge, small = huge_and_small("samples", 2)
    t = operands(small, BF16)
    exact = by_reference(small, t)["gradients_input"]
    dx = ops.full_convolve(t.grad, t.filter, None, huge.geometry, huge.input[2:])
    assert_bits(dx[corners(huge)], exact[corners(small)])
    assert dx.count_nonzero() == exact.count_nonzero()
