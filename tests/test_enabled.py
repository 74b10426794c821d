"""Inside the block convolution calls are this package's, whoever makes them; outside, stock's."""

import threading
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from functions import Ops
from torch import Tensor, nn
from torch.func import grad, vmap
from torch.utils.checkpoint import checkpoint

import torch_fullconv as tfc

X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
W = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1))
B = torch.randn(6, generator=torch.Generator().manual_seed(2))


def made_of(call: Callable[[], Tensor]) -> tuple[int, int]:
    """How many convolutions of ours and of stock's a call consists of."""
    with Ops() as ops:
        call()
    names = [str(op) for op in ops.seen]
    return sum("torch_fullconv" in n for n in names), sum("convolution" in n for n in names)


class Scaled(nn.Conv2d):
    """A layer that `convert` leaves alone."""

    def forward(self, input):
        return F.conv2d(input, 2 * self.weight, self.bias)


CALLS = {
    "F.conv2d": lambda: F.conv2d(X, W, B, 2, (1, 0), 1),
    "keywords": lambda: F.conv2d(input=X, weight=W, padding="same", dilation=(1, 2)),
    "torch.conv2d": lambda: torch.conv2d(X, W, B, stride=[2, 1], groups=1),
    "unbatched": lambda: F.conv2d(X[0], W),
    "F.conv_transpose2d": lambda: F.conv_transpose2d(X, W.transpose(0, 1), B, 2, 1, 1),
    "torch.conv_transpose2d": lambda: torch.conv_transpose2d(X, W.transpose(0, 1), dilation=2),
    "nn.Conv2d": nn.Conv2d(4, 6, 3, padding=1),
    "reflect": nn.Conv2d(4, 6, 3, padding=2, padding_mode="reflect"),
    "circular": nn.Conv2d(4, 6, 4, padding="same", padding_mode="circular"),
    "nn.ConvTranspose2d": nn.ConvTranspose2d(4, 6, 3, stride=2),
    "subclass": Scaled(4, 6, 3),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_call_is_ours_inside_and_stocks_outside(name):
    call = CALLS[name]
    if isinstance(call, nn.Module):
        call = lambda layer=call: layer(X)  # noqa: E731
    expected = call()
    assert made_of(call) == (0, 1)
    with tfc.enabled():
        assert made_of(call) == (1, 0)
        torch.testing.assert_close(call(), expected)
    assert made_of(call) == (0, 1)


def test_gradients_go_the_way_of_their_forward():
    x = X.clone().requires_grad_()
    with tfc.enabled():
        inside = F.conv2d(x, W).sum()
    outside = F.conv2d(x, W).sum()
    assert made_of(lambda: inside.backward(retain_graph=True)) == (1, 0)
    with tfc.enabled():
        assert made_of(lambda: outside.backward(retain_graph=True)) == (0, 1)


def test_blocks_nest_and_end_with_an_error():
    call = CALLS["F.conv2d"]
    block = tfc.enabled()
    with block, tfc.enabled(), block:
        assert made_of(call) == (1, 0)
    assert made_of(call) == (0, 1)
    with tfc.enabled():
        with tfc.enabled():
            pass
        assert made_of(call) == (1, 0)
        assert made_of(lambda: tfc.Conv2d(4, 2, 1)(X)) == (1, 0)
    with pytest.raises(RuntimeError, match="channels"), tfc.enabled():
        F.conv2d(X[:, :3], W)
    assert made_of(call) == (0, 1)


def test_a_block_is_its_threads():
    found = []
    with tfc.enabled():
        thread = threading.Thread(target=lambda: found.append(made_of(CALLS["F.conv2d"])))
        thread.start()
        thread.join()
    assert found == [(0, 1)]


def test_what_is_not_supported_does_not_go_to_stock():
    with tfc.enabled(), pytest.raises(NotImplementedError, match="int64 is not supported"):
        F.conv2d(X.long(), W.long())


def test_subclasses_that_see_functions_still_do():
    seen = []

    class Traced(Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            seen.append(function)
            return super().__torch_function__(function, types, args, kwargs)

    with tfc.enabled():
        result = F.conv2d(X.as_subclass(Traced), W)
    assert isinstance(result, Traced)
    assert tfc.functional.conv2d in seen


def test_transforms_and_autocast_inside():
    per_sample = vmap(grad(lambda w, x: F.conv2d(x, w).square().sum()), (None, 0))
    expected = per_sample(W, X)
    with tfc.enabled():
        assert made_of(lambda: per_sample(W, X))[1] == 0
        torch.testing.assert_close(per_sample(W, X), expected, rtol=1e-4, atol=1e-3)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert F.conv2d(X, W).dtype == torch.bfloat16


@pytest.mark.parametrize("inside", [True, False], ids=["block inside", "block outside"])
def test_compiled_with_the_block(inside):
    """In one graph; a function that was compiled without the block is compiled again within."""

    def function(x: Tensor) -> Tensor:
        with tfc.enabled() if inside else nullcontext():
            return F.conv2d(x, W).relu()

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> torch.fx.GraphModule:
        stocks.append(any(node.target is F.conv2d for node in graph.graph.nodes))
        return graph

    stocks: list[bool] = []
    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend=backend)
    x = X.clone().requires_grad_()
    results = []
    for block in (nullcontext, tfc.enabled, nullcontext):
        with block():
            results.append(torch.autograd.grad(compiled(x).sum(), x)[0])
    assert stocks == ([False, False] if inside else [True, False])
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)


def test_a_checkpoint_repeats_the_forward_as_it_was():
    """Modes are off inside a backward pass; a checkpoint takes those that it shall turn on."""
    x, layer = X.clone().requires_grad_(), nn.Conv2d(4, 6, 3).requires_grad_(False)
    blocks = {"context_fn": lambda: (tfc.enabled(), tfc.enabled()), "early_stop": False}
    with tfc.enabled():
        layer(x).sum().backward()
        expected, x.grad = x.grad, None
        y = checkpoint(layer, x, use_reentrant=False, **blocks).sum()
    assert made_of(y.backward) == (2, 0)
    assert torch.equal(x.grad, expected)
