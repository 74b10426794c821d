"""Minimal filtering: within bounds of the reference, special values in place, chosen to win."""

from collections.abc import Callable, Sequence
from itertools import product
from math import prod

import pytest
import torch
import torch.nn.functional as F
from cases import (
    BF16,
    F16,
    F32,
    F64,
    WINOGRAD_ERROR,
    Case,
    Operands,
    assert_within,
    by_ops,
    by_reference,
    case,
    ident,
    operands,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import channels_last, layouts, winograd_cases
from torch import Tensor

import torch_fullconv as tfc
from torch_fullconv import algorithms, ops
from torch_fullconv.ops import Geometry

pytestmark = pytest.mark.usefixtures("poisoned_results")
ONES = (1, 1, 1, 1)


def assert_errors(case: Case, results: dict[str, Tensor], exact: dict[str, Tensor]) -> None:
    """Of integers up to 3. A tile's large elements blur its small ones, so each product counts as
    the largest, 9, and the absolute values of the transforms make up to 64 times as much of it."""
    (n, _, p, q), (k, *depth) = case.output, case.filter[-4:]
    terms = {"correlate": prod(depth), "channel_sum": n * p * q}
    terms |= dict.fromkeys(("full_convolve", "gradients_input"), k * prod(depth[1:]))
    terms |= dict.fromkeys(("correlate_weight", "gradients_filter"), (n + 1) * (p + 5) * (q + 5))
    for op, result in results.items():
        magnitude = torch.full_like(exact[op], 64 * 9.0, dtype=F64)
        assert_within(result, exact[op].double(), magnitude, terms[op])


def assert_winograd(case: Case, dtype: torch.dtype, places: Sequence[Callable]) -> None:
    t = operands(case, dtype)
    t = Operands(*(place(v) for place, v in zip(places, t[:3], strict=True)), *t[3:])
    assert_errors(case, by_ops(case, t), by_reference(case, t))


@settings(max_examples=100)
@given(
    winograd_cases(), st.sampled_from([F32, F64, BF16, F16]), st.tuples(layouts, layouts, layouts)
)
def test_any_geometry(case, dtype, places):
    assert_winograd(case, dtype, places)


# Several blocks of tiles, of channels and of filters, each with a rest; parts of the sum.
@pytest.mark.parametrize("place", [Tensor.contiguous, channels_last], ids=ident)
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [(s, 1) for s in ((2, 2), (3, 3), (4, 4), (5, 5), (8, 3), (1, 3), (7, 1), (3, 2), (1, 4))]
    + [(s, 2) for s in ((3, 3), (4, 4), (5, 5), (1, 5))],
)
@pytest.mark.parametrize("dtype", [F32, F64], ids=ident)
def test_many_blocks(dtype, kernel, stride, place):
    filters, strides = (170, 150, *kernel), (stride, stride)
    layer = case((3, 150, 18, 45), filters, strides, ONES, algorithm="winograd")
    t = operands(layer, dtype)
    t = Operands(*map(place, t[:3]), *t[3:])
    direct = layer._replace(geometry=layer.geometry._replace(algorithm=1))
    assert_errors(layer, by_ops(layer, t), by_ops(direct, t))


LAYERS = {
    "wide": (8, 64, 56, 64, (3, 3), 1),
    "middle": (4, 128, 28, 128, (3, 3), 1),
    "deep": (2, 512, 7, 512, (3, 3), 1),
    "few": (2, 16, 32, 16, (3, 3), 1),
    "five": (2, 64, 32, 32, (5, 5), 1),
    "two": (2, 64, 32, 64, (2, 2), 1),
    "four": (2, 64, 32, 64, (4, 4), 1),
    "seven": (2, 64, 28, 64, (7, 7), 1),
    "strided three": (2, 128, 28, 128, (3, 3), 2),
    "strided four": (2, 64, 64, 128, (4, 4), 2),
    "strided five": (2, 64, 32, 128, (5, 5), 2),
    "row": (4, 128, 28, 128, (1, 3), 1),
    "column": (2, 64, 56, 64, (3, 1), 1),
    "long row": (2, 64, 28, 64, (1, 7), 1),
}


@pytest.mark.parametrize("name", LAYERS)
def test_error_is_within_four_times_stock(name):
    n, c, size, k, (r, s), stride = LAYERS[name]
    g = torch.Generator().manual_seed(5)
    pad = (r - 1) // 2, (s - 1) // 2
    geometry = Geometry(1, stride, stride, pad[0], pad[0], pad[1], pad[1], algorithm=2)
    x = torch.randn(n, c, size, size, generator=g)
    f = torch.randn(k, c, r, s, generator=g) / (c * r * s) ** 0.5
    o = torch.randn(n, k, *geometry.output_size(size, size, r, s), generator=g)

    def stock(x: Tensor, f: Tensor, o: Tensor) -> tuple[Tensor, ...]:
        x, f = x.clone().requires_grad_(), f.clone().requires_grad_()
        y = F.conv2d(x, f, None, stride, pad)
        return y.detach(), *torch.autograd.grad(y, (x, f), o)

    exact = stock(x.double(), f.double(), o.double())
    ours = ops.correlate(x, f, None, geometry), *ops.gradients(x, f, o, geometry)
    for a, b, e in zip(ours, stock(x, f, o), exact, strict=True):
        error, limit = ((v.double() - e).norm() for v in (a, b))
        assert error <= WINOGRAD_ERROR * limit, error / limit


@pytest.mark.parametrize("operand", ["input", "filter", "grad"])
@pytest.mark.parametrize("special", [torch.nan, torch.inf])
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [((s, s), t) for s, t in ((3, 1), (4, 1), (4, 2), (3, 2), (5, 2))] + [((1, 5), 1), ((4, 1), 1)],
)
def test_special_values_do_not_spread_over_a_tile(kernel, stride, special, operand):
    """NaN and Inf are where the direct sums have them, and nowhere else."""
    layer = case((2, 3, 13, 14), (4, 3, *kernel), (stride, stride), ONES, algorithm="winograd")
    direct = layer._replace(geometry=layer.geometry._replace(algorithm=1))
    for place, dtype in product((Tensor.contiguous, channels_last), (F32, F64, BF16)):
        t = operands(layer, dtype)
        t = Operands(*map(place, t[:3]), *t[3:])
        getattr(t, operand)[1, 2, -1, -1] = special
        results, exact = by_ops(layer, t), by_ops(direct, t)
        for op in results:
            special_at = ~exact[op].isfinite()
            torch.testing.assert_close(
                results[op][special_at], exact[op][special_at], equal_nan=True, rtol=0, atol=0
            )
            results[op], exact[op] = (v.where(~special_at, 0) for v in (results[op], exact[op]))
        assert_errors(layer, results, exact)


def test_what_overflows_only_in_the_transforms_does_not_show():
    x, f = torch.full((2, 3, 9, 9), 3e38), torch.full((4, 3, 3, 3), 0.01)
    x[1] = 1.0  # in a sample of its own nothing overflows
    direct, winograd = (Geometry(1, 1, 1, *ONES, algorithm=a) for a in (1, 2))
    y = ops.correlate(x, f, None, winograd)
    assert torch.equal(y[0], ops.correlate(x, f, None, direct)[0])
    assert torch.equal(y[1:], ops.correlate(x[1:], f, None, winograd))
    df = ops.correlate_weight(x[:1], torch.full_like(y[:1], 1e-3), winograd, (3, 3), None)
    assert df.isfinite().all()


def ways(
    n: int, c: int, size: int, k: int, kernel: int | tuple[int, int] = 3, **geometry: int
) -> set[str]:
    g = Geometry(**geometry)
    r, s = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    pads = [(r - 1) // 2 * g.dilation_h, (s - 1) // 2 * g.dilation_w]
    x, f = torch.zeros(n, c, size, size), torch.zeros(k, c, r, s)
    sides = zip(("pad_top", "pad_left", "pad_bottom", "pad_right"), pads * 2, strict=True)
    return set(ops.ways(x, f, g._replace(**dict(sides))).values())


def test_it_is_chosen_where_it_can_win():
    assert ways(2, 64, 56, 64) == ways(1, 128, 28, 128) == {"winograd"}
    assert ways(2, 64, 56, 128, 4, stride_h=2, stride_w=2) == {"winograd"}
    assert {"winograd", "direct+winograd"} <= ways(2, 128, 56, 128, stride_h=2, stride_w=2)
    assert ways(2, 64, 64, 128, 5, stride_h=2, stride_w=2) == {"winograd"}
    assert ways(2, 64, 28, 64, 4) == ways(2, 64, 56, 64, 7) == {"winograd"}
    assert ways(2, 64, 28, 64, 2) == ways(2, 64, 56, 64, 6, stride_h=2, stride_w=2) == {"winograd"}
    assert ways(2, 64, 56, 64, dilation_h=2, dilation_w=2) == {"winograd"}
    assert ways(2, 64, 56, 64, (1, 3)) == ways(2, 64, 56, 64, (3, 1)) == {"winograd"}
    assert "winograd" not in ways(2, 64, 28, 64, dilation_h=12, dilation_w=12)  # much padding
    assert "winograd" not in ways(2, 64, 1, 64) | ways(2, 64, 56, 64, 1)
    assert "winograd" not in ways(2, 3, 56, 4)
    assert "winograd" not in ways(2, 64, 56, 64, algorithm=1)
    assert ways(2, 3, 56, 4, algorithm=2) == {"winograd"}


@pytest.mark.parametrize("dtype", [F32, BF16], ids=ident)
def test_the_choice_of_forward_and_input_gradient_is_not_the_batchs(dtype):
    zero, g = torch.zeros(1, dtype=dtype), Geometry(1, 1, 1, *ONES)
    for size, c in product(range(2, 20), (16, 24, 48, 64, 128)):
        x, f = zero.expand(64, c, size, size), zero.expand(c, c, 3, 3)
        one, many = ops.ways(x[:1], f, g), ops.ways(x, f, g)
        assert [one[k] == many[k] for k in ("forward", "input gradient")] == [True, True]


def test_the_switch_sets_and_restores():
    layer = tfc.Conv2d(32, 32, 3, padding=1, bias=False)
    x = torch.randn(2, 32, 16, 16, requires_grad=True)
    direct, winograd = (Geometry(1, 1, 1, *ONES, algorithm=a) for a in (1, 2))
    f = layer.weight.detach()
    with torch.no_grad():
        assert torch.equal(layer(x), ops.correlate(x, f, None, winograd))
    with tfc.algorithm("direct"):
        with tfc.algorithm("winograd"):
            pass
        y = layer(x)
        assert torch.equal(y, ops.correlate(x, f, None, direct))
    y.backward(y.detach())  # goes the forward's way
    assert torch.equal(x.grad, ops.full_convolve(y.detach(), f, None, direct, (16, 16)))
    tfc.algorithm("direct")
    try:
        assert torch.equal(layer(x), y)
        with pytest.raises(ValueError, match="algorithm must be one of"):
            tfc.algorithm("fft")
        assert torch.equal(layer(x), y)
    finally:
        tfc.algorithm("auto")


def test_a_switch_is_used_again():
    """Also inside itself, where what it then changes is undone step by step; and in a graph."""
    try:
        direct = tfc.algorithm("direct")
        tfc.algorithm("auto")
        for before in ("auto", "winograd"):
            with tfc.algorithm(before), direct:
                assert algorithms.current == 1
                with tfc.algorithm("winograd"):
                    with direct, direct:
                        assert algorithms.current == 1
                    assert algorithms.current == 2
                assert algorithms.current == 1
            assert algorithms.current == 0
    finally:
        tfc.algorithm("auto")

    @torch.compile(fullgraph=True, backend="eager")
    def both(x: Tensor, f: Tensor) -> list[Tensor]:
        results = []
        for switch in 2 * [tfc.algorithm("direct")]:
            with switch:
                results.append(tfc.functional.conv2d(x, f))
        return results

    x, f = torch.randn(1, 32, 16, 16), torch.randn(32, 32, 3, 3)
    expected = ops.correlate(x, f, None, Geometry(algorithm=1))
    assert all(torch.equal(y, expected) for y in both(x, f))
    assert algorithms.current == 0


def test_matrices_go_the_way_that_is_set():
    x, f = torch.randn(32, 33), torch.randn(3, 3)
    for index, name in enumerate(("auto", "direct", "winograd")):
        alone = ops.correlate(x[None, None], f[None, None], None, Geometry(algorithm=index))
        with tfc.algorithm(name):
            assert torch.equal(tfc.functional.correlate2d(x, f), alone[0, 0])
    assert not torch.equal(tfc.functional.correlate2d(x, f), alone[0, 0])
