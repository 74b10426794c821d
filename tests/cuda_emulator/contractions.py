"""The calls of a `cases.Case`, and what tests of the emulated GPU share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from cases import EDGES, Case, Operands, assert_bits, by_reference, expected, operands
from emulator import Call, Program, storage_of
from hypothesis import strategies as st
from layouts import cases, channels_last, channels_sliced, dtypes, layouts, odd_strides, sliced
from torch import Tensor

Layout = Callable[[Tensor], Tensor]


def calls_of(case: Case, t: Operands, layout: Layout = torch.Tensor.contiguous) -> dict[str, Call]:
    """The calls of a case, by the names of `cases.by_reference`; results lie in `layout`."""
    g, size, kernel = case.geometry, case.input[2:], case.filter[-2:]
    segments = 1 if case.segments is None else case.segments

    def call(operation, first, second, bias, shape, place=layout):
        result = place(torch.full(shape, torch.nan, dtype=first.dtype))
        return Call(operation, g, size, kernel, first, second, bias, result, segments)

    contiguous = torch.Tensor.contiguous
    return {
        "correlate": call("correlate", t.input, t.filter, t.bias, case.output),
        "full_convolve": call("full_convolve", t.grad, t.filter, t.input_bias, case.input),
        "correlate_weight": call("correlate_weight", t.input, t.grad, None, case.filter),
        "channel_sum": call("channel_sum", t.grad, None, None, case.filter[-4:-3], contiguous),
    }


def edge_calls(
    names: Iterable[str], dtype: torch.dtype, layout: Layout
) -> dict[tuple[str, str], Call]:
    """All calls of some of `cases.EDGES`, everything in one layout."""
    calls = {}
    for name in names:
        t = operands(EDGES[name], dtype)
        t = Operands(*(layout(v) if v.dim() > 1 else v for v in t))
        for operation, call in calls_of(EDGES[name], t, layout).items():
            calls[name, operation] = call
    return calls


def assert_edges_exact(
    program: Program,
    dtype: torch.dtype,
    layouts: Iterable[Layout] = (torch.Tensor.contiguous, channels_last),
) -> None:
    """All of `cases.EDGES`, in layouts that run side by side."""
    by_layout = [edge_calls(EDGES, dtype, layout) for layout in layouts]
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(program.run, [list(calls.values()) for calls in by_layout]))
    for calls, results in zip(by_layout, answers, strict=True):
        for key, result in zip(calls, results, strict=True):
            assert_bits(result, expected(key[0], dtype.is_complex)[key[1]], key)


random_calls = st.tuples(
    cases(),
    dtypes,
    st.tuples(layouts, layouts, layouts),
    st.sampled_from([torch.Tensor.contiguous, channels_last, channels_sliced, odd_strides, sliced]),
    st.integers(0, 999),
)


def assert_random_calls_exact(
    program: Program, case: Case, dtype: torch.dtype, places: tuple, layout: Layout, seed: int
) -> None:
    """One of `random_calls`: operands in any layout, results in one without repeated elements."""
    t = operands(case, dtype, seed)
    t = Operands(*(place(v) for place, v in zip(places, t[:3], strict=True)), *t[3:])
    calls, exact = calls_of(case, t, layout), by_reference(case, t)
    results = program.run(list(calls.values()), seed)
    for (name, call), result in zip(calls.items(), results, strict=True):
        assert_bits(result, exact[name], f"{name} of {case}")
        assert_rest_untouched(call.result, result)


def assert_rest_untouched(before: Tensor, after: Tensor) -> None:
    """The storages differ only where the tensors are."""
    storages = []
    for tensor in (before, after):
        bytes = storage_of(tensor).clone()
        place = tensor.shape, tensor.stride(), tensor.storage_offset()
        bytes.view(tensor.dtype).as_strided(*place).zero_()
        storages.append(bytes)
    assert torch.equal(*storages)
