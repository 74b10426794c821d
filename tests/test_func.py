"""torch.func's transforms against stock's, a loop, and each other; also which ops they run."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from cases import case, ident
from functions import LAYER, LAYERS, OPERATIONS, Calls, function_of, ours, random, stock
from torch import Tensor, nn
from torch.autograd.functional import hessian as hessian_of_autograd
from torch.autograd.functional import jacobian
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import torch_fullconv
from torch_fullconv.autograd import ChannelSum, Correlate


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
            lambda x, f, b: Correlate.call(x, f, b, geometry),
            lambda x, f, b: F.conv2d(x, f, b, (1, 2), 1, 1, 2),
        )
    )
    torch.testing.assert_close(ours, stock)


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


@pytest.mark.parametrize(
    "modes",
    [
        (backward, backward, backward),
        (forward, backward, backward),
        (backward, forward, backward),
        (backward, backward, forward),
        (forward, forward, forward),
        (forward, backward, forward),
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


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("operation", OPERATIONS, ids=ident)
def test_forward_over_forward(operation, layer):
    """Along a line each operation is a polynomial of degree 2: its second difference is exact."""
    function, shapes = function_of(operation, LAYERS[layer])
    start = random(shapes)
    direction = [t.cos() for t in start]

    def along(t: Tensor) -> Tensor | tuple[Tensor, ...]:
        return function(*(s + t * d for s, d in zip(start, direction, strict=True)))

    def slope(f: Callable) -> Callable:
        return lambda t: jvp(f, (t,), (torch.ones_like(t),))[1]

    def flat(result: Tensor | tuple[Tensor, ...]) -> Tensor:
        return torch.cat(
            [r.flatten() for r in ([result] if isinstance(result, Tensor) else result)]
        )

    zero = torch.zeros((), dtype=start[0].dtype)
    before, here, after = (flat(along(zero + h)) for h in (-1, 0, 1))
    found = flat(slope(slope(along))(zero))
    assert operation is ChannelSum or found.abs().max() > 1
    torch.testing.assert_close(found, after - 2 * here + before)


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


@pytest.mark.filterwarnings("ignore:.*batching rule for aten")
@pytest.mark.parametrize("strategy", ["reverse-mode", "forward-mode"])
@pytest.mark.parametrize("name", ["conv2d", "conv_transpose2d"])
def test_vectorized_jacobians_of_torch_autograd_are_stocks(name, strategy):
    """Their vmap is not torch.func's, nor is it known to Functions; hessians nest the two modes."""
    x, f, b = random(((1, 2, 4, 3), (2, 2, 3, 2), (2,)))
    found = []
    for of in (torch_fullconv.functional, F):
        conv = lambda *t, of=of: getattr(of, name)(*t).sin()  # noqa: E731
        jacobians = jacobian(conv, (x, f, b), vectorize=True, strategy=strategy)
        second = hessian_of_autograd(
            lambda *t, conv=conv: conv(*t).square().sum(),
            (x, f, b),
            vectorize=True,
            outer_jacobian_strategy=strategy,
        )
        found.append((*jacobians, *second))
    torch.testing.assert_close(*found)


@pytest.mark.filterwarnings("ignore:.*batching rule for aten")
def test_batched_gradients_of_torch_autograd_keep_their_graph():
    """And they loop nowhere."""
    xfb = random(((1, 2, 4, 4), (2, 2, 3, 3), (2,)), needs_grad=True)

    def slopes(conv: Callable) -> tuple[Tensor, ...]:
        y = conv(*xfb)
        each = torch.eye(y.numel(), dtype=y.dtype).view(-1, *y.shape)
        return torch.autograd.grad(y.sin(), xfb, each, is_grads_batched=True, create_graph=True)

    with Calls() as calls:
        slopes(torch_fullconv.functional.conv2d)
    assert sorted(calls.names) == [
        "channel_sum",
        "correlate",
        "correlate_weight",
        "full_convolve",
    ]
    found = []
    for conv in (torch_fullconv.functional.conv2d, F.conv2d):
        first = slopes(conv)
        second = torch.autograd.grad(sum(slope.square().sum() for slope in first), xfb)
        found.append((*first, *second))
    torch.testing.assert_close(*found)


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
