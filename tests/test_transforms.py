"""Every derivative and transform in every way to run it: eager, compiled, exported.

Each is held to stock's in eager mode. Where torch itself cannot do a combination, the test says so:
it fails with an error (or, strictly, as expected), and a plain function fails the same way.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.autograd import forward_ad
from torch.func import functionalize, grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap

import torch_fullconv as tfc

GENERATOR = torch.Generator().manual_seed(5)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=GENERATOR)


X, W, B = random(5, 2, 4, 3), random(2, 1, 2, 2), random(2)
LARGER = random(7, 2, 4, 3)
Transform = Callable[[Tensor, Tensor], object]


def transforms(conv2d: Callable[..., Tensor]) -> dict[str, Transform]:
    """By name, of a grouped, strided, padded layer and what is not linear behind it."""

    def f(x: Tensor, w: Tensor) -> Tensor:
        return conv2d(x, w, B, (2, 1), 1, 1, 2).sin()

    def loss(x: Tensor, w: Tensor) -> Tensor:
        return f(x, w).square().sum()

    def penalty(x: Tensor, w: Tensor) -> Tensor:
        return grad(loss)(x, w).square().sum()

    def along(g: Transform) -> Transform:
        return lambda x, w: jvp(g, (x, w), (x.cos(), w.cos()))[1]

    def backward(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
        return torch.autograd.grad(loss(x, w), (x, w))

    def double_backward(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
        (d_x,) = torch.autograd.grad(loss(x, w), x, create_graph=True)
        return torch.autograd.grad(d_x.square().sum(), (x, w))

    def dual(x: Tensor, w: Tensor) -> Tensor | None:
        with forward_ad.dual_level():
            return forward_ad.unpack_dual(f(forward_ad.make_dual(x, x.cos()), w)).tangent

    return {
        "backward": backward,
        "double backward": double_backward,
        "dual": dual,
        "grad": grad(loss, (0, 1)),
        "vjp": lambda x, w: vjp(f, x, w)[1](f(x, w).cos()),
        "jvp": along(f),
        "vmap": lambda x, w: vmap(f, (0, None))(x[:, None], w),
        "vmap of grad": lambda x, w: vmap(grad(loss, (0, 1)), (0, None))(x[:, None], w),
        "jacrev": jacrev(f, (0, 1)),
        "jacfwd": jacfwd(f, 1),
        "hessian": hessian(loss, 1),
        "linearize": lambda x, w: linearize(f, x, w)[1](x.cos(), w.cos()),
        "reverse over reverse": grad(penalty, (0, 1)),
        "forward over reverse": along(grad(loss, (0, 1))),
        "forward over forward": along(along(f)),
        "reverse over forward": grad(lambda x, w: along(f)(x, w).square().sum(), (0, 1)),
    }


OURS, STOCK = transforms(tfc.functional.conv2d), transforms(F.conv2d)
SPECIALISED = "hessian", "forward over reverse"  # by Dynamo, with stock's convolution too
NO_TRACING = "linearize", "backward", "double backward"  # by Dynamo, of any function


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


@pytest.mark.parametrize("name", OURS)
def test_eager(name):
    expected = STOCK[name](X, W)
    torch.testing.assert_close(OURS[name](X, W), expected)
    first = expected[0] if isinstance(expected, tuple) else expected
    assert first.abs().max() > 0.1


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", [name for name in OURS if name not in NO_TRACING])
def test_compiled(name, dynamic):
    """In one graph, which serves other batches too where it is dynamic."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(OURS[name], fullgraph=True, backend=counter, dynamic=dynamic)
    for x in (X, LARGER) if dynamic else (X,):
        torch.testing.assert_close(compiled(x, W), STOCK[name](x, W))
    assert counter.frame_count == 1 or (dynamic and name in SPECIALISED)


@pytest.mark.parametrize("name", NO_TRACING)
def test_what_dynamo_cannot_trace_is_an_error(name):
    for function in (OURS[name], STOCK[name]):
        with pytest.raises(torch._dynamo.exc.Unsupported):
            torch.compile(function, fullgraph=True, backend="aot_eager")(X, W)


class Of(nn.Module):
    def __init__(self, function: Transform) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, w: Tensor) -> object:
        return self.function(x, w)


EXPORTED = "backward", "double backward", "dual", "vmap", "jvp", "forward over forward"


@pytest.mark.parametrize("name", EXPORTED)
def test_exported(name):
    program = torch.export.export(Of(OURS[name]), (X, W), strict=False)
    torch.testing.assert_close(program.module()(X, W), STOCK[name](X, W))


NOT_EXPORTED = """
import warnings
warnings.simplefilter("ignore")
from test_transforms import *
torch.set_num_threads(1)
for name in sorted(OURS.keys() - set(EXPORTED)):
    for function in (OURS[name], STOCK[name]):
        sys.stdout.flush()
        if os.fork() == 0:  # what fails leaves torch's tracing modes on
            try:
                program = torch.export.export(Of(function), (X, W), strict=False)
                torch.testing.assert_close(program.module()(X, W), STOCK[name](X, W))
                print(function is OURS[name], name, flush=True)
            finally:
                os._exit(0)
        os.wait()
"""


@pytest.mark.slow
@pytest.mark.compiler
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_what_cannot_be_exported_is_an_error():
    """With stock's convolution too: no combination is silently another function."""
    done = subprocess.run(
        [sys.executable, "-c", NOT_EXPORTED],
        cwd=__file__.rpartition("/")[0],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout == ""


@pytest.mark.xfail(strict=True, reason="torch 2.13: zeros for all arguments but one")
@pytest.mark.parametrize("of", [tfc.functional.conv2d, F.conv2d, lambda x, w, *_: x * w.sum()])
def test_jacfwd_by_two_arguments_compiled_with_dynamic_shapes(of):
    transform = jacfwd(lambda x, w: of(x, w, B, 1, 1, 1, 2), (0, 1))
    compiled = torch.compile(transform, fullgraph=True, backend="aot_eager", dynamic=True)
    torch.testing.assert_close(compiled(X, W), transform(X, W))


@pytest.mark.xfail(strict=True, reason="torch 2.13: compiled code drops tangents from outside it")
@pytest.mark.parametrize("of", [tfc.functional.conv2d])
def test_tangents_from_outside_a_compiled_function(of):
    compiled = torch.compile(lambda x: of(x, W, B, 1, 1, 1, 2), fullgraph=True, backend="aot_eager")
    with forward_ad.dual_level():
        y = compiled(forward_ad.make_dual(X, X.cos()))
        assert forward_ad.unpack_dual(y).tangent is not None


def test_transforms_around_a_compiled_function_are_an_error():
    compiled = torch.compile(OURS["vmap"], fullgraph=True, backend="aot_eager")
    with pytest.raises(torch._dynamo.exc.Unsupported):
        jvp(compiled, (X, W), (X, W))


class Double(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def setup_context(ctx: object, inputs: tuple[Tensor], output: Tensor) -> None:
        pass


@pytest.mark.parametrize(
    "function", [tfc.functional.conv2d, lambda x, _: Double.apply(x)], ids=["ours", "any"]
)
def test_functionalize_is_an_error_of_every_function(function):
    with pytest.raises(RuntimeError, match="NYI: Functionalize rule for custom_function_call"):
        functionalize(function)(X, random(2, 2, 2, 2))
