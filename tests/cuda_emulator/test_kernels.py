"""The CUDA kernels on the emulated GPU against the reference: bit for bit on integers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cases import DTYPES, EDGES, Case, Operands, assert_bits, expected, ident, operands
from emulator import Call, Program, build
from layouts import channels_last
from torch import Tensor


@pytest.fixture(scope="module")
def plain() -> Program:
    return build("plain")


def results_like(shape: tuple[int, ...], dtype: torch.dtype, layout: Callable) -> Tensor:
    """NaN in memory of a layout."""
    return layout(torch.full(shape, torch.nan, dtype=dtype))


def calls_of(case: Case, t: Operands, layout: Callable = torch.Tensor.contiguous) -> dict:
    """The calls of a case, by the names of `cases.by_reference`."""
    g, size, kernel = case.geometry, case.input[2:], case.filter[-2:]
    dtype, segments = t.input.dtype, case.segments if case.segments is not None else 1

    def call(operation: str, first: Tensor, second: Tensor | None, bias: Tensor | None, shape):
        place = layout if len(shape) > 1 else torch.Tensor.contiguous
        result = results_like(shape, dtype, place)
        return Call(operation, g, size, kernel, first, second, bias, result, segments)

    return {
        "correlate": call("correlate", t.input, t.filter, t.bias, case.output),
        "full_convolve": call("full_convolve", t.grad, t.filter, t.input_bias, case.input),
        "correlate_weight": call("correlate_weight", t.input, t.grad, None, case.filter),
        "channel_sum": call("channel_sum", t.grad, None, None, case.filter[-4:-3]),
    }


@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last], ids=ident)
@pytest.mark.parametrize("dtype", DTYPES, ids=ident)
def test_edges_are_exact(plain, dtype, layout):
    calls, exact = {}, {}
    for name, case in EDGES.items():
        t = operands(case, dtype)
        t = Operands(*(layout(v) if v.dim() > 1 else v for v in t))
        for operation, call in calls_of(case, t, layout).items():
            calls[name, operation] = call
            exact[name, operation] = expected(name, dtype.is_complex)[operation]
    for key, result in zip(calls, plain.run(list(calls.values())), strict=True):
        assert not isinstance(result, str), (key, result)
        assert_bits(result, exact[key], key)
