"""Where a tensor's values can lie in memory, and Hypothesis strategies for layers and layouts.

A layout keeps the values (`repeated` and `one_element` their first ones) and puts NaN between them,
or 99.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from cases import DTYPES, Case
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor

from torch_fullconv.ops import ALGORITHMS, PADDING_MODES, Geometry


def on_cpu(t: Tensor) -> Tensor:
    """The tensor, with its strides, on the CPU: stock does not do the same on every device."""
    if t.device.type == "cpu":
        return t
    whole = torch.empty(0, dtype=t.dtype, device=t.device).set_(t.untyped_storage())
    return whole.cpu().as_strided(t.size(), t.stride(), t.storage_offset())


def gaps(t: Tensor, shape: Sequence[int]) -> Tensor:
    """What lies between the values."""
    return t.new_full(shape, torch.nan if t.is_floating_point() or t.is_complex() else 99)


def channels_last(t: Tensor) -> Tensor:
    return t.movedim(-3, -1).contiguous().movedim(-1, -3)


def permuted(t: Tensor) -> Tensor:
    order = tuple(reversed(range(t.dim())))
    return t.permute(order).contiguous().permute(order)


def rows_inside(t: Tensor) -> Tensor:
    return t.transpose(-1, -2).contiguous().transpose(-1, -2)


def sliced(t: Tensor) -> Tensor:
    """Every second or third element of a larger tensor, from the second one on."""
    steps = (2, 1, 2, 3, 2)[-t.dim() :]
    larger = gaps(t, [n * s + 1 for n, s in zip(t.shape, steps, strict=True)])
    view = larger[tuple(slice(1, 1 + n * s, s) for n, s in zip(t.shape, steps, strict=True))]
    return view.copy_(t)


def channels_sliced(t: Tensor) -> Tensor:
    """A part of the channels of a larger channels_last tensor."""
    shape = list(t.shape)
    shape[-3] += 3
    larger = channels_last(gaps(t, shape))
    return larger.narrow(-3, 2, t.shape[-3]).copy_(t)


def offset(t: Tensor) -> Tensor:
    """Behind three elements, so aligned to nothing."""
    larger = gaps(t, (t.numel() + 7,))
    return larger[3 : 3 + t.numel()].view(t.shape).copy_(t)


def odd_strides(t: Tensor) -> Tensor:
    """Axes of one element, which no one steps along, have strides out of order."""
    odd = (0, 1, 7919, 3, 10**15)
    strides = [
        odd[i] if n == 1 else s for i, (n, s) in enumerate(zip(t.shape, t.stride(), strict=True))
    ]
    return t.as_strided(t.shape, strides)


def repeated(t: Tensor) -> Tensor:
    """Stride 0 along the batch or filters and along the columns."""
    return t[:1, ..., :1].expand(t.shape) if t.numel() else t


def overlapping(t: Tensor) -> Tensor:
    """In channels_last, each row beginning a pixel behind the one before it."""
    last = channels_last(t)
    return last.as_strided(t.shape, (*last.stride()[:-2], last.stride(-1), last.stride(-1)))


def one_pixel(t: Tensor) -> Tensor:
    """In channels_last, stride 0 along rows and columns."""
    return channels_last(t)[..., :1, :1].expand(t.shape) if t.numel() else t


def one_element(t: Tensor) -> Tensor:
    return t.flatten()[:1].view([1] * t.dim()).expand(t.shape) if t.numel() else t


LAYOUTS: tuple[Callable[[Tensor], Tensor], ...] = (
    torch.Tensor.contiguous,
    channels_last,
    permuted,
    rows_inside,
    sliced,
    channels_sliced,
    offset,
    odd_strides,
    overlapping,
    one_pixel,
    repeated,
    one_element,
)


SHORT, LONG = st.integers(1, 14), st.sampled_from([17, 31, 33, 50, 66])


@st.composite
def axes(draw: Any, mode: str, sizes: st.SearchStrategy[int]) -> tuple[int, ...]:
    """size, kernel, stride, pad before, pad after, dilation of an axis with some output."""
    size = draw(sizes)
    most = {"reflect": size - 1, "circular": size}.get(mode, 4)
    before, after = draw(st.integers(0, min(4, most))), draw(st.integers(0, min(4, most)))
    dilation = draw(st.integers(1, 4))
    kernel = draw(st.integers(1, min(5, (size + before + after - 1) // dilation + 1)))
    return size, kernel, draw(st.integers(1, 5)), before, after, dilation


@st.composite
def cases(draw: Any) -> Case:
    """Any layer of up to 14x66 pixels, with one filter or one for each part of the batch."""
    mode = draw(st.sampled_from(PADDING_MODES))
    h, w = draw(axes(mode, SHORT)), draw(axes(mode, SHORT | LONG))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 5]))
    channels = draw(st.sampled_from([1, 2, 3, 5, 8, 17]))
    filters = draw(st.sampled_from([1, 2, 3, 7, 16, 33])) * groups
    parts = draw(st.sampled_from([None, None, 1, 2, 3]))
    n = draw(st.integers(1, 3)) * (parts or 1)
    filter = (() if parts is None else (parts,)) + (filters, channels, h[1], w[1])
    pads = (*h[3:5], *w[3:5])
    choices = PADDING_MODES.index(mode), ALGORITHMS.index("direct")
    geometry = Geometry(groups, h[2], w[2], *pads, h[5], w[5], *choices)
    return Case((n, channels * groups, h[0], w[0]), filter, geometry)


@st.composite
def winograd_cases(draw: Any) -> Case:
    """Any layer of up to 14x66 pixels, by minimal filtering where it can be: of filters whose
    phases have one part an axis or several, of equally many rows and columns or not."""
    mode, taps = draw(st.sampled_from(PADDING_MODES)), st.sampled_from([1, 2, 3, 3, 4, 5, 7, 9])
    pads: list[int] = []
    kernel: list[int] = []
    sizes = draw(SHORT), draw(SHORT | LONG)
    stride = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (2, 2), (2, 1), (1, 3)]))
    dilation = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (1, 3), (2, 2), (4, 5)]))
    square = draw(st.none() | taps)
    for size, step in zip(sizes, dilation, strict=True):
        kernel.append(square or draw(taps))
        span = step * (kernel[-1] - 1) + 1
        far = span // 2 + 2
        most = min(far, {"reflect": size - 1, "circular": size}.get(mode, far))
        before = draw(st.integers(0, most))
        after = draw(st.integers(0, most))
        assume(size + before + after >= span)
        pads += before, after
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    channels = draw(st.sampled_from([1, 3, 16, 17, 33, 130]))
    filters = draw(st.sampled_from([1, 2, 16, 33, 131])) * groups
    parts = draw(st.sampled_from([None, None, 1, 2]))
    n = draw(st.integers(1, 3)) * (parts or 1)
    filter = (() if parts is None else (parts,)) + (filters, channels, *kernel)
    choices = PADDING_MODES.index(mode), ALGORITHMS.index("winograd")
    geometry = Geometry(groups, *stride, *pads, *dilation, *choices)
    return Case((n, channels * groups, *sizes), filter, geometry)


layouts = st.sampled_from(LAYOUTS)
dtypes = st.sampled_from(DTYPES)
