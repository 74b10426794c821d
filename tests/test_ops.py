"""The raw ops against the reference: bit for bit on integers, within bounds on floats.

Also what they refuse.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases import (
    BF16,
    C64,
    DIRECT_ERROR,
    DTYPES,
    EDGES,
    F32,
    F64,
    Case,
    Operands,
    assert_bits,
    assert_within,
    by_ops,
    by_reference,
    case,
    expected,
    ident,
    operands,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import (
    LAYOUTS,
    cases,
    channels_last,
    dtypes,
    layouts,
)
from torch import Tensor

from torch_fullconv import ops
from torch_fullconv.ops import ALGORITHMS, Geometry

pytestmark = pytest.mark.usefixtures("poisoned_results")


def assert_ops_equal(case: Case, t: Operands, exact: dict[str, Tensor]) -> None:
    for name, result in by_ops(case, t).items():
        assert_bits(result, exact[name], f"{name} of {case}")


@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last], ids=ident)
@pytest.mark.parametrize("dtype", DTYPES, ids=ident)
@pytest.mark.parametrize("name", EDGES)
def test_edges_are_exact(name, dtype, layout):
    exact = expected(name, dtype.is_complex)
    assert all(v.any() for v in exact.values() if v.numel() and "no_" not in name)
    t = Operands(*(layout(v) if v.dim() > 1 else v for v in operands(EDGES[name], dtype)))
    assert_ops_equal(EDGES[name], t, exact)


@pytest.mark.parametrize("dtype", [F32, BF16, C64], ids=ident)
@pytest.mark.parametrize("layout", LAYOUTS, ids=ident)
@pytest.mark.parametrize("operand", ["input", "filter", "grad"])
def test_layouts_are_exact(operand, layout, dtype):
    for name in ("four_sided", "depthwise", "tile_7x31", "reflect", "segments"):
        t = operands(EDGES[name], dtype)
        if operand == "bias":
            t = t._replace(
                bias=t.bias.expand(3, -1).t()[:, 1],
                input_bias=t.input_bias[:1].expand(t.input_bias.shape),
            )
        else:
            t = t._replace(**{operand: layout(getattr(t, operand))})
        assert_ops_equal(EDGES[name], t, by_reference(EDGES[name], t))


@settings(max_examples=400)
@given(cases(), dtypes, st.tuples(layouts, layouts, layouts), st.integers(0, 999))
def test_any_geometry_is_exact(case, dtype, layout, seed):
    t = operands(case, dtype, seed)
    t = Operands(*(place(v) for place, v in zip(layout, t[:3], strict=True)), *t[3:])
    assert_ops_equal(case, t, by_reference(case, t))


@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last], ids=ident)
@pytest.mark.parametrize("channels", [(3, 3, 3), (1, 3, 3), (1, 16, 16), (9, 1, 1), (1, 40, 2)])
def test_padding_and_dilation_whose_areas_pass_64_bits(channels, layout, request):
    """The taps beside the middle one meet zeros only, billions of elements away."""
    groups, c, k = channels
    far = 2**31 - 1
    layer = case((2, groups * c, 3, 2), (groups * k, c, 3, 3), pad=(far,) * 4, dilation=(far, far))
    point = case((2, groups * c, 3, 2), (groups * k, c, 1, 1))
    if request.config.getoption("--device") != "cpu":
        with pytest.raises(RuntimeError, match=r"on CUDA, an axis .* must be shorter than 2\^29"):
            by_ops(layer, operands(layer, F32))
        return
    for name in ("auto", "direct", "winograd"):
        g = layer.geometry._replace(algorithm=ALGORITHMS.index(name))
        t = operands(layer, F32)
        t = Operands(*map(layout, t[:3]), *t[3:])
        results = by_ops(layer._replace(geometry=g), t)
        exact = by_reference(point, t._replace(filter=t.filter[..., 1:2, 1:2].contiguous()))
        for op in ("correlate_weight", "gradients_filter"):
            centre = torch.zeros_like(results[op], dtype=F64)
            centre[..., 1:2, 1:2] = exact[op]
            exact[op] = centre
        for op, result in results.items():
            if name == "winograd":
                torch.testing.assert_close(result.double(), exact[op], rtol=1e-4, atol=1e-3)
            else:
                assert_bits(result, exact[op], f"{op} by {name}")


# Layers of well-known networks, smaller: what is summed is as deep as there.
LAYERS = {
    "stem": case((1, 3, 56, 56), (64, 3, 7, 7), (2, 2), (3, 3, 3, 3)),
    "middle": case((2, 128, 14, 14), (128, 128, 3, 3), (1, 1), (1, 1, 1, 1)),
    "strided": case((1, 64, 28, 28), (128, 64, 3, 3), (2, 2), (1, 1, 1, 1)),
    "pointwise": case((2, 256, 14, 14), (64, 256, 1, 1)),
    "depthwise": case((2, 96, 28, 28), (96, 1, 7, 7), (1, 1), (3, 3, 3, 3)),
    "groups": case((1, 128, 14, 14), (128, 4, 3, 3), (1, 1), (1, 1, 1, 1)),
    "few_filters": case((2, 1, 120, 110), (4, 1, 5, 5)),
    "large_depthwise": case((1, 12, 112, 112), (12, 1, 3, 3), (1, 1), (1, 1, 1, 1)),
}


def floats(case: Case, dtype: torch.dtype) -> Operands:
    generator = torch.Generator(torch.get_default_device()).manual_seed(7)
    shapes = case.input, case.filter, case.output, case.filter[:1], case.input[1:2]
    wide = torch.complex128 if dtype.is_complex else F64
    return Operands(*(torch.randn(s, generator=generator, dtype=wide).to(dtype) for s in shapes))


def by_stock(case: Case, t: Operands) -> dict[str, Tensor]:
    g = case.geometry
    stride, padding, dilation = g[1:3], (g.pad_top, g.pad_left), g[7:9]
    x, f = (v.detach().requires_grad_() for v in t[:2])
    y = F.conv2d(x, f, t.bias, stride, padding, dilation, g.groups)
    (dx,) = torch.autograd.grad(y, x, t.grad, retain_graph=True)
    (df,) = torch.autograd.grad(y, f, t.grad)
    return {
        "correlate": y.detach(),
        "full_convolve": dx + t.input_bias[:, None, None],
        "correlate_weight": df,
        "channel_sum": t.grad.sum((0, 2, 3)),
        "gradients_input": dx,
        "gradients_filter": df,
    }


@pytest.mark.parametrize("place", [torch.Tensor.contiguous, channels_last], ids=ident)
@pytest.mark.parametrize("name", LAYERS)
def test_error_of_float32_is_within_twice_stock(name, place):
    t = floats(LAYERS[name], F32)
    exact = by_stock(LAYERS[name], Operands(*(v.double() for v in t)))
    t = Operands(*map(place, t[:3]), *t[3:])
    stock = by_stock(LAYERS[name], t)
    for op, result in by_ops(LAYERS[name], t).items():
        ours, theirs = ((v.double() - exact[op]).norm() for v in (result, stock[op]))
        assert ours <= DIRECT_ERROR * theirs, (op, ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES, ids=ident)
@pytest.mark.parametrize("name", LAYERS)
def test_errors_are_within_the_bound(name, dtype):
    """16-bit results are float32 sums rounded once; float32's are no better than they say."""
    layer = LAYERS[name]
    t = floats(layer, dtype)
    wide = Operands(*(v.to(torch.complex128) if v.is_complex() else v.double() for v in t))
    if dtype.is_complex:  # plain contractions, where autograd has conjugates
        exact = by_stock(layer, wide._replace(input=wide.input.conj(), filter=wide.filter.conj()))
        exact["correlate"] = by_stock(layer, wide)["correlate"]
    else:
        exact = by_stock(layer, wide)
    magnitude = by_stock(layer, Operands(*(v.abs() for v in wide)))
    for op, result in by_ops(layer, t).items():
        n, k, p, q = layer.output
        terms = layer.filter[1:] if op == "correlate" else (n, p, q)
        if op in ("full_convolve", "gradients_input"):
            terms = k // layer.geometry.groups, *layer.filter[2:]
        assert_within(result, exact[op], magnitude[op], 1 + int(np.prod(terms)))


# Misuse: what functional.py would have refused must not crash below it.
X, W, G = torch.ones(2, 4, 5, 5), torch.ones(6, 4, 3, 3), torch.ones(2, 6, 3, 3)
PLAIN, SIZE, KERNEL = Geometry(), (5, 5), (3, 3)
WRONG_GEOMETRIES = {
    f"{k}={v}": Geometry(**{k: v})
    for k, values in {
        "groups": (0, -1, 3, 2**62),
        "stride_h": (0, -1),
        "stride_w": (0, -2),
        "dilation_h": (0, -1, 2**62),
        "dilation_w": (0, -2),
        "pad_top": (-1, 2**62),
        "pad_bottom": (-6, -(2**62)),
        "pad_left": (-1,),
        "pad_right": (-6,),
        "padding_mode": (-1, 4),
        "algorithm": (-1, 3),
    }.items()
    for v in values
} | {
    "reflect": Geometry(pad_top=5, padding_mode=1),
    "circular": Geometry(pad_right=6, padding_mode=3),
    "replicate": Geometry(pad_bottom=-1, padding_mode=2),
}
MISUSES = {
    "dtypes": lambda: ops.correlate(X, W.double(), None, PLAIN),
    "integers": lambda: ops.correlate(X.int(), W.int(), None, PLAIN),
    "input_axes": lambda: ops.correlate(X[0], W, None, PLAIN),
    "input_axes_5": lambda: ops.correlate(X[None], W, None, PLAIN),
    "filter_axes": lambda: ops.correlate(X, W[0], None, PLAIN),
    "filter_axes_6": lambda: ops.correlate(X, W[None, None], None, PLAIN),
    "channels": lambda: ops.correlate(X[:, :3], W, None, PLAIN),
    "filters": lambda: ops.correlate(X, W[:5, :2], None, Geometry(groups=2)),
    "empty_kernel": lambda: ops.correlate(X, W[:, :, :0], None, PLAIN),
    "bias_size": lambda: ops.correlate(X, W, torch.ones(5), PLAIN),
    "bias_axes": lambda: ops.correlate(X, W, torch.ones(6, 1), PLAIN),
    "bias_dtype": lambda: ops.correlate(X, W, torch.ones(6).double(), PLAIN),
    "segments": lambda: ops.correlate(X, W.expand(3, -1, -1, -1, -1), None, PLAIN),
    "no_segments": lambda: ops.correlate(X, W.expand(0, -1, -1, -1, -1), None, PLAIN),
    "grad_size": lambda: ops.correlate_weight(X, G[..., :2], PLAIN, KERNEL, None),
    "grad_batch": lambda: ops.correlate_weight(X, G[:1], PLAIN, KERNEL, None),
    "grad_axes": lambda: ops.correlate_weight(X[0], G[0], PLAIN, KERNEL, None),
    "grad_axes_5": lambda: ops.correlate_weight(X, G[None], PLAIN, KERNEL, None),
    "grad_dtype": lambda: ops.correlate_weight(X, G.double(), PLAIN, KERNEL, None),
    "kernel": lambda: ops.correlate_weight(X, G, PLAIN, (4, 3), None),
    "kernel_0": lambda: ops.correlate_weight(X, G, PLAIN, (0, 3), None),
    "kernel_negative": lambda: ops.correlate_weight(X, G, PLAIN, (-1, 3), None),
    "weight_segments": lambda: ops.correlate_weight(X, G, PLAIN, KERNEL, 3),
    "weight_segments_0": lambda: ops.correlate_weight(X, G, PLAIN, KERNEL, 0),
    "weight_segments_negative": lambda: ops.correlate_weight(X, G, PLAIN, KERNEL, -2),
    "size": lambda: ops.full_convolve(G, W, None, PLAIN, (6, 5)),
    "size_negative": lambda: ops.full_convolve(G, W, None, PLAIN, (-1, 5)),
    "size_huge": lambda: ops.full_convolve(G, W, None, PLAIN, (2**62, 5)),
    "full_channels": lambda: ops.full_convolve(G[:, :5], W, None, PLAIN, SIZE),
    "full_bias": lambda: ops.full_convolve(G, W, torch.ones(6), PLAIN, SIZE),
    "both_grad_size": lambda: ops.gradients(X, W, G[..., :2], PLAIN),
    "both_grad_channels": lambda: ops.gradients(X, W, G[:, :2], PLAIN),
    "both_channels": lambda: ops.gradients(X[:, :3], W, G, PLAIN),
    "sum_axes": lambda: ops.channel_sum(G[0]),
    "sum_integers": lambda: ops.channel_sum(G.int()),
    "sparse": lambda: ops.correlate(X.to_sparse(), W, None, PLAIN),
}


@pytest.mark.parametrize("call", MISUSES.values(), ids=MISUSES)
def test_misuse_is_an_error(call):
    with pytest.raises(RuntimeError, match="torch_fullconv"):
        call()


@pytest.mark.parametrize("geometry", WRONG_GEOMETRIES.values(), ids=WRONG_GEOMETRIES)
def test_wrong_geometry_is_an_error(geometry):
    calls = {
        "correlate": lambda: ops.correlate(X, W, None, geometry),
        "weight": lambda: ops.correlate_weight(X, G, geometry, KERNEL, None),
        "full": lambda: ops.full_convolve(G[:, :5], W[:5], None, geometry, SIZE),
        "gradients": lambda: ops.gradients(X, W, G, geometry),
    }
    for call in calls.values():
        with pytest.raises(RuntimeError, match=r"^torch_fullconv: "):
            call()
