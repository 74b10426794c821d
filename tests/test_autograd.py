"""Derivatives of any order and mode: numerically, against stock, and how they are found.

The operations are called as `autograd`'s Functions, so that segmented filters and all padding modes
take part; what is computed at all, and what is kept for it, is read off the ops that run.
"""

import weakref
from collections.abc import Callable
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from cases import C128, F64, Case, case, ident
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import torch_fullconv
from torch_fullconv.autograd import (
    ChannelSum,
    Correlate,
    CorrelateWeight,
    FullConvolve,
    Gradients,
)

LAYERS = {
    "plain": case((2, 2, 4, 3), (3, 2, 2, 2)),
    "strided": case((2, 1, 6, 5), (2, 1, 2, 2), (3, 2), (1, 0, 2, 1), (1, 2)),
    "groups": case((1, 4, 4, 3), (6, 2, 3, 2), (1, 2), (1, 1, 1, 1)),
    "depthwise": case((2, 3, 4, 3), (3, 1, 3, 2), (2, 1), (1, 1, 0, 1)),
    "reflect": case((1, 2, 3, 4), (2, 2, 2, 3), (1, 2), (2, 1, 1, 3), mode="reflect"),
    "replicate": case((1, 2, 3, 2), (2, 2, 2, 3), (2, 1), (2, 1, 1, 2), mode="replicate"),
    "circular": case((1, 2, 3, 3), (2, 1, 2, 2), (2, 2), (3, 1, 1, 2), (2, 1), "circular"),
    "segments": case((4, 2, 3, 3), (2, 2, 2, 2, 2), (1, 2), (1, 0, 0, 1)),
    "segments_groups": case((2, 2, 3, 3), (2, 2, 1, 2, 2), (2, 1), (1, 1, 1, 1), mode="replicate"),
}
OPERATIONS = (Correlate, FullConvolve, CorrelateWeight, Gradients, ChannelSum)


def function_of(operation: type, c: Case) -> tuple[Callable, tuple[tuple[int, ...], ...]]:
    """The operation as a function of tensors alone, and these tensors' shapes."""
    g, size, kernel = c.geometry, c.input[2:], c.filter[-2:]
    return {
        Correlate: (
            lambda x, f, b: Correlate.apply(x, f, b, g),
            (c.input, c.filter, c.filter[-4:-3]),
        ),
        FullConvolve: (
            lambda o, f, b: FullConvolve.apply(o, f, b, g, size),
            (c.output, c.filter, c.input[1:2]),
        ),
        CorrelateWeight: (
            lambda x, o: CorrelateWeight.apply(x, o, g, kernel, c.segments),
            (c.input, c.output),
        ),
        Gradients: (
            lambda x, f, o: Gradients.apply(x, f, o, g),
            (c.input, c.filter, c.output),
        ),
        ChannelSum: (ChannelSum.apply, (c.output,)),
    }[operation]


def random(shapes: tuple[tuple[int, ...], ...], dtype=F64, needs_grad=False) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    tensors = [torch.randn(s, generator=generator, dtype=dtype) for s in shapes]
    return [t.requires_grad_(needs_grad) for t in tensors]


@pytest.mark.parametrize("dtype", [F64, C128], ids=ident)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("operation", OPERATIONS, ids=ident)
def test_derivatives_are_the_numerical_ones(operation, layer, dtype):
    """Backward, forward and batched; then of each of these, backward and forward over backward."""
    function, shapes = function_of(operation, LAYERS[layer])
    tensors = random(shapes, dtype, needs_grad=True)
    assert gradcheck(
        function,
        tensors,
        check_forward_ad=True,
        check_batched_grad=True,
        check_batched_forward_grad=True,
        fast_mode=False,
    )
    assert gradgradcheck(
        function,
        tensors,
        check_fwd_over_rev=True,
        check_batched_grad=True,
        fast_mode=True,
    )


def stack(results: list) -> Tensor | tuple[Tensor, ...]:
    if isinstance(results[0], tuple):
        return tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    return torch.stack(results)


BATCH = 3


@pytest.mark.parametrize("layer", ["strided", "groups", "segments", "segments_groups"])
@pytest.mark.parametrize("operation", OPERATIONS, ids=ident)
def test_vmap_over_any_arguments_is_a_loop(operation, layer):
    """Every subset of the arguments, mapped along every one of its axes; gradients too."""
    function, shapes = function_of(operation, LAYERS[layer])

    def gradients(*tensors: Tensor) -> tuple[Tensor, ...]:
        def loss(*tensors: Tensor) -> Tensor:
            result = function(*tensors)
            parts = result if isinstance(result, tuple) else (result,)
            return sum((part**3).sum() for part in parts)

        return grad(loss, tuple(range(len(tensors))))(*tensors)

    for axes in product((None, 0, 1, -1), repeat=len(shapes)):
        if axes == (None,) * len(shapes):
            continue
        single = random(
            tuple(s if a is None else (BATCH, *s) for a, s in zip(axes, shapes, strict=True))
        )
        loop = [
            [t if a is None else t[i] for a, t in zip(axes, single, strict=True)]
            for i in range(BATCH)
        ]
        mapped = [t if a is None else t.movedim(0, a) for a, t in zip(axes, single, strict=True)]
        for f in (function, gradients):
            torch.testing.assert_close(
                vmap(f, in_dims=axes)(*mapped), stack([f(*tensors) for tensors in loop])
            )


def test_nested_vmap_is_stocks():
    x, f, b = random(((3, 2, 1, 4, 5, 5), (3, 6, 2, 3, 3), (3, 6)))
    geometry = case((1, 4, 5, 5), (6, 2, 3, 3), (1, 2), (1, 1, 1, 1)).geometry
    ours, stock = (
        vmap(vmap(inner, (0, None, None)))(x, f, b)
        for inner in (
            lambda x, f, b: Correlate.apply(x, f, b, geometry),
            lambda x, f, b: F.conv2d(x, f, b, (1, 2), 1, 1, 2),
        )
    )
    torch.testing.assert_close(ours, stock)


LAYER = case((3, 2, 5, 4), (4, 1, 3, 2), (2, 1), (1, 1, 1, 1))


def ours(x: Tensor, f: Tensor, b: Tensor | None = None) -> Tensor:
    return Correlate.apply(x, f, b, LAYER.geometry)


def stock(x: Tensor, f: Tensor, b: Tensor | None = None) -> Tensor:
    return F.conv2d(x, f, b, (2, 1), 1, 1, 2)


@pytest.fixture
def xfb() -> list[Tensor]:
    return random((LAYER.input, LAYER.filter, LAYER.filter[:1]))


@pytest.mark.parametrize("argument", [0, 1, 2])
@pytest.mark.parametrize("transform", [jacrev, jacfwd], ids=ident)
def test_jacobians_are_stocks(transform, argument, xfb):
    torch.testing.assert_close(transform(ours, argument)(*xfb), transform(stock, argument)(*xfb))


@pytest.mark.parametrize("outer", [jacrev, jacfwd], ids=ident)
@pytest.mark.parametrize("inner", [jacrev, jacfwd], ids=ident)
def test_hessians_are_stocks(outer, inner, xfb):
    x, f, b = xfb[0][:1, :, :3, :3], xfb[1][:2], xfb[2][:2]

    def second(conv: Callable) -> Tensor:
        return outer(inner(lambda x, f: conv(x, f, b).sin().sum(), 1), 0)(x, f)

    exact = hessian(lambda x, f: stock(x, f, b).sin().sum(), (0, 1))(x, f)
    torch.testing.assert_close(second(ours).movedim((0, 1, 2, 3), (-4, -3, -2, -1)), exact[0][1])


def forward(f: Callable) -> Callable:
    return lambda *t: jvp(f, t, tuple(v.cos() for v in t))[1]


def backward(f: Callable) -> Callable:
    """Of the first argument's part, so that it has as many arguments as results."""

    def pulled(*t: Tensor) -> Tensor:
        output, pull = vjp(f, *t)
        return pull(output.cos())[0]

    return pulled


FORWARD_TWICE = pytest.mark.xfail(
    strict=True, reason="torch.func's forward over forward drops an autograd.Function's (pt#197867)"
)


@pytest.mark.parametrize(
    "modes",
    [
        (backward, backward, backward),
        (forward, backward, backward),
        (backward, forward, backward),
        (backward, backward, forward),
        pytest.param((forward, forward), marks=FORWARD_TWICE),
        pytest.param((forward, backward, forward), marks=FORWARD_TWICE),
    ],
    ids=lambda modes: "_".join(mode.__name__ for mode in modes),
)
def test_higher_orders_are_stocks(modes, xfb):
    """Of a function that is not linear; the outermost mode first."""
    found = []
    for conv in (ours, stock):
        f = lambda *t, conv=conv: conv(*t).sin()  # noqa: E731
        for mode in reversed(modes):
            f = mode(f)
        found.append(f(*xfb))
    assert found[1].abs().max() > 1
    torch.testing.assert_close(*found)


def test_gradient_penalty_is_stocks(xfb):
    found = []
    for conv in (ours, stock):
        x, f, b = (t.clone().requires_grad_() for t in xfb)
        y = conv(x, f, b).tanh()
        (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        (y.mean() + dx.flatten(1).norm(dim=1).sub(1).square().mean()).backward()
        found.append((x.grad, f.grad, b.grad))
    torch.testing.assert_close(*found)


def test_functional_call_and_grad_are_stocks():
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 1, 2)).double()
    twin = nn.Sequential(
        torch_fullconv.Conv2d(2, 3, 3, padding=1), nn.Tanh(), torch_fullconv.Conv2d(3, 1, 2)
    ).double()
    parameters = {k: v.detach() for k, v in net.named_parameters()}
    (x,) = random(((4, 2, 5, 5),))
    for each in (
        lambda net: grad(lambda p: functional_call(net, p, (x,)).square().sum())(parameters),
        lambda net: vmap(
            grad(lambda p, x: functional_call(net, p, (x[None],)).square().sum()), (None, 0)
        )(parameters, x),
    ):
        torch.testing.assert_close(each(twin), each(net))


class Calls(TorchDispatchMode):
    """The names of this package's ops that run and their arguments; ATen's convolution must not."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.arguments: list[tuple] = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        assert "convolution" not in str(op)
        if op.namespace == "torch_fullconv":
            self.names.append(op._opname)
            self.arguments.append(args)
        return op(*args, **(kwargs or {}))


@pytest.mark.parametrize("needs", list(product((False, True), repeat=3)), ids=str)
def test_only_the_gradients_asked_for_are_computed(needs, xfb):
    tensors = [t.requires_grad_(n) for t, n in zip(xfb, needs, strict=True)]
    y = ours(*tensors)
    assert y.requires_grad == any(needs)
    with Calls() as calls:
        if any(needs):
            y.sum().backward()
    wanted = {(1, 1): ["gradients"], (1, 0): ["full_convolve"], (0, 1): ["correlate_weight"]}
    assert calls.names == wanted.get(needs[:2], []) + ["channel_sum"] * needs[2]
    assert [t.grad is not None for t in tensors] == list(needs)


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("arguments", [(1,), (0, 1)], ids=["filter", "both"])
def test_gradients_per_sample_are_one_native_call(arguments, samples):
    """A filter gradient for each sample by segments of the batch: no loop, no grouped trick."""
    x, f = random(((5, samples, *LAYER.input[1:]), LAYER.filter))

    def each(conv: Callable) -> tuple[Tensor, ...]:
        return vmap(grad(lambda x, f: conv(x, f).square().sum(), arguments), (0, None))(x, f)

    with Calls() as calls:
        result = each(ours)
    made = zip(calls.names, calls.arguments, strict=True)
    weights = [a for name, a in made if name == "correlate_weight"]
    assert len(weights) == 1
    assert weights[0][0].shape == (5 * samples, *LAYER.input[1:])
    assert weights[0][2] == LAYER.geometry.groups
    assert weights[0][-1] == 5
    torch.testing.assert_close(result, each(stock))


@pytest.mark.parametrize(
    ("needs", "kept"),
    [((1, 0, 0), "f"), ((0, 1, 0), "x"), ((1, 1, 0), "xf"), ((0, 0, 1), ""), ((1, 0, 1), "f")],
    ids=str,
)
def test_only_what_backward_needs_is_kept(needs, kept, xfb):
    """By what is saved, and by what is still alive: a frozen filter's input is not."""
    tensors = [t.clone() for t in xfb]
    for t, n in zip(tensors, needs, strict=True):
        t.requires_grad_(bool(n))
    saved = []
    hooks = lambda t: saved.append(t.shape) or t, lambda t: t
    with torch.autograd.graph.saved_tensors_hooks(*hooks):
        ours(*tensors)
    assert saved == [tensors["xf".index(name)].shape for name in kept]

    tensors = [t * 1 for t in tensors]  # not leaves, which their gradients would keep
    alive = dict(zip("xfb", map(weakref.ref, tensors), strict=True))
    y = ours(*tensors)
    del tensors
    assert "".join(name for name in "xfb" if alive[name]() is not None) == kept
    y.sum().backward()


@pytest.mark.parametrize(("changed", "needs"), [(0, 1), (1, 0)], ids=["input", "filter"])
def test_a_saved_tensor_changed_in_place_is_an_error(changed, needs, xfb):
    xfb[needs].requires_grad_()
    y = ours(*xfb)
    xfb[changed].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_tensors_that_are_not_saved_may_change(xfb):
    x, f, b = xfb
    y = ours(x, f.requires_grad_(), b.requires_grad_())
    expected = torch.autograd.grad(y, (f, b), torch.ones_like(y), retain_graph=True)
    with torch.no_grad():
        f.add_(1)
        b.add_(1)
    torch.testing.assert_close(torch.autograd.grad(y, (f, b), torch.ones_like(y)), expected)


@pytest.mark.parametrize(
    "reduce",
    [
        lambda y: y.sum(),  # the gradient is one element, expanded
        lambda y: y.transpose(2, 3).flip(3).cumsum(2).square().sum(),
        lambda y: y[:, ::2, 1:].mean((0, 2)).exp().sum(),
        lambda y: y.to(memory_format=torch.channels_last).square().unfold(3, 2, 1).sum(),
    ],
    ids=["sum", "transposed", "sliced", "unfolded"],
)
def test_gradients_of_any_layout_are_stocks(reduce, xfb):
    found = []
    for conv in (ours, stock):
        tensors = [t.clone().requires_grad_() for t in xfb]
        reduce(conv(*tensors)).backward()
        found.append([t.grad for t in tensors])
    torch.testing.assert_close(*found)


def test_conjugate_and_negative_views_are_what_they_show():
    """Lazy conj and neg bits reach the ops resolved."""
    x, f = random((LAYER.input, LAYER.filter), C128)
    torch.testing.assert_close(ours(x.conj(), f), stock(x.conj(), f))
    torch.testing.assert_close(ours(x, f.mH.mT), stock(x, f.conj()))
    negative = x.conj().imag
    assert negative.is_neg()
    torch.testing.assert_close(ours(negative, f.real), stock(negative, f.real))
