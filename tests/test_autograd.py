"""Derivatives: the numerical ones; what is computed for them, and what is kept.

The operations are called as `autograd`'s Functions, so that segmented filters and all padding modes
take part; what is computed at all, and what is kept for it, is read off the ops that run.
"""

import weakref
from itertools import product

import pytest
import torch
from cases import C128, F64, ident
from functions import LAYER, LAYERS, OPERATIONS, Calls, function_of, ours, random, stock
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from torch_fullconv.autograd import Correlate, CorrelateWeight, FullConvolve


@pytest.fixture
def xfb() -> list[Tensor]:
    return random((LAYER.input, LAYER.filter, LAYER.filter[:1]))


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


def test_gradient_penalty_is_stocks(xfb):
    found = []
    for conv in (ours, stock):
        x, f, b = (t.clone().requires_grad_() for t in xfb)
        y = conv(x, f, b).tanh()
        (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        (y.mean() + dx.flatten(1).norm(dim=1).sub(1).square().mean()).backward()
        found.append((x.grad, f.grad, b.grad))
    torch.testing.assert_close(*found)


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


@pytest.mark.parametrize(
    ("needs", "kept"),
    [((1, 0, 0), [1]), ((0, 1, 0), [0]), ((1, 1, 0), [0, 1]), ((0, 0, 1), []), ((1, 0, 1), [1])],
    ids=str,
)
@pytest.mark.parametrize("operation", [Correlate, FullConvolve, CorrelateWeight], ids=ident)
def test_only_what_backward_needs_is_kept(operation, needs, kept):
    """By what is saved, and by what is still alive: a frozen filter's input is not."""
    if operation is CorrelateWeight and needs[2]:
        pytest.skip("it has no bias")
    function, shapes = function_of(operation, LAYER)
    tensors = random(shapes)
    for t, n in zip(tensors, needs, strict=False):
        t.requires_grad_(bool(n))
    saved = []
    hooks = lambda t: saved.append(t.shape) or t, lambda t: t
    with torch.autograd.graph.saved_tensors_hooks(*hooks):
        function(*tensors)
    assert saved == [shapes[index] for index in kept]

    tensors = [t * 1 for t in tensors]  # not leaves, which their gradients would keep
    alive = list(map(weakref.ref, tensors))
    y = function(*tensors)
    del tensors
    assert [index for index, tensor in enumerate(alive) if tensor() is not None] == kept
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


def test_a_graph_is_run_twice_only_if_it_is_retained(xfb):
    x, f, b = (t.requires_grad_() for t in xfb)
    y = ours(x, f, b).square().sum()
    first = torch.autograd.grad(y, (x, f, b), retain_graph=True)
    assert all(map(torch.equal, first, torch.autograd.grad(y, (x, f, b))))
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(y, (x, f, b))


def test_gradients_add_up_where_they_meet(xfb):
    x, f, b = (t.requires_grad_() for t in xfb)
    for _ in range(2):
        ours(x, f, b).sum().backward()
    once = torch.autograd.grad(ours(x, f, b).sum(), (x, f, b))
    torch.testing.assert_close([t.grad for t in (x, f, b)], [2 * g for g in once])


def test_hooks_see_and_change_gradients_as_with_stock(xfb):
    found = []
    for conv in (ours, stock):
        x, f, b = (t.clone().requires_grad_() for t in xfb)
        seen = []
        y = conv(x, f, b)
        y.register_hook(lambda g: 3 * g)
        x.register_hook(lambda g: g.clamp(max=1))
        f.register_post_accumulate_grad_hook(lambda t, seen=seen: seen.append(t.grad.sum()))
        y.grad_fn.register_prehook(lambda grads: tuple(g + 1 for g in grads))
        y.grad_fn.register_hook(lambda into, _, seen=seen: seen.extend(g.sum() for g in into[:2]))
        y.sum().backward()
        found.append([x.grad, f.grad, b.grad, *seen])
    assert len(found[0]) == 6
    torch.testing.assert_close(*found)


def test_outputs_may_change_in_place(xfb):
    found = []
    for conv in (ours, stock):
        x, f, b = (t.clone().requires_grad_() for t in xfb)
        y = conv(x, f, b)
        y[:, 1:].mul_(2)
        y.relu_()
        found.append(torch.autograd.grad(y.square().sum(), (x, f, b)))
    torch.testing.assert_close(*found)


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
