"""ReLU and pooling, each derivative made of the operations here: as `autograd`, by the chain rule.

    relu        y = max(x, 0):      δx = δy where y > 0, which is linear in δy with the same mask
    max_pool2d  y = x[indices]:     δx = δy scattered to the indices; transposed, a gather by them
    avg_pool2d  y = A x:            δx = Aᵀ δy, and (Aᵀ)ᵀ = A

The mask and the indices are constant wherever there is a derivative, so these close under
differentiation to any order. vmap joins the mapped axis to the batch; nothing loops.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from . import ops, pool_ops
from .operation import (
    InDims,
    Operation,
    differentiable,
    primals,
    registered_as,
    surrounded,
    to_front,
)
from .pool_ops import Divisor, Windows


@registered_as("relu", lambda x: (x,))
class Relu(Operation):
    """x where it is not below 0, else 0."""

    @staticmethod
    def forward(input: Tensor) -> Tensor:
        return pool_ops.relu(input)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> Tensor | None:
        (output,) = ctx.saved_tensors
        return None if grad is None else ReluGrad.call(grad, output)

    @staticmethod
    @differentiable
    def jvp(ctx: Any, d_input: Tensor) -> Tensor:
        (output,) = primals(ctx)
        return ReluGrad.call(d_input, output)

    @staticmethod
    def vmap(info: Any, in_dims: InDims, input: Tensor) -> tuple[Tensor, int]:
        return Relu.call(input), in_dims[0]


class ReluInPlace(Relu):
    """The same, written over x."""

    @staticmethod
    def forward(input: Tensor) -> Tensor:
        pool_ops.relu_(input)
        return input

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.mark_dirty(output)
        Relu.setup_context(ctx, inputs, output)


def relu_(input: Tensor) -> Tensor:
    """`Relu` in place; torch.func, forward mode, graphs and negative views see a copy.

    So do tensors of other classes: torch 2.10 runs no op on DTensors that returns nothing.
    """
    if surrounded() or input.is_neg() or type(input) not in (Tensor, Parameter):
        return input.copy_(Relu.call(input))
    if torch.is_grad_enabled() and input.requires_grad:
        return ReluInPlace.call(input)
    ops.prepare()
    pool_ops.relu_(input)
    torch.autograd.graph.increment_version(input)
    return input


@registered_as("relu_grad", lambda g, y: (g, y))
class ReluGrad(Operation):
    """A gradient where the output is above 0, else 0."""

    @staticmethod
    def forward(grad: Tensor, output: Tensor) -> Tensor:  # of one shape
        return pool_ops.relu_grad(grad, output)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor | None) -> tuple[Tensor | None, None]:
        (output,) = ctx.saved_tensors
        return None if cotangent is None else ReluGrad.call(cotangent, output), None

    @staticmethod
    @differentiable
    def jvp(ctx: Any, d_grad: Tensor | None, _: Any) -> Tensor:
        (output,) = primals(ctx)
        return torch.zeros_like(output) if d_grad is None else ReluGrad.call(d_grad, output)

    @staticmethod
    def vmap(info: Any, in_dims: InDims, grad: Tensor, output: Tensor) -> tuple[Tensor, int]:
        pairs = zip((grad, output), in_dims, strict=True)
        return ReluGrad.call(*(to_front(t, dim, info.batch_size) for t, dim in pairs)), 0


def _vmap(operation: type[Operation], info: Any, in_dims: InDims, *inputs: Any) -> tuple[Any, Any]:
    """vmap of an operation on tensors of four axes: the mapped axis joins the batch."""
    fronts = [
        to_front(value, dim, info.batch_size) if isinstance(value, Tensor) else value
        for value, dim in zip(inputs, in_dims, strict=True)
    ]
    batches = fronts[0].shape[:2]
    results = operation.call(*(f.flatten(0, 1) if isinstance(f, Tensor) else f for f in fronts))
    if isinstance(results, Tensor):
        return results.unflatten(0, batches), 0
    return tuple(r.unflatten(0, batches) for r in results), (0,) * len(results)


@registered_as("max_pool2d_indices", lambda x, *w: (x, Windows(*w)))
class MaxPool(Operation):
    """The largest elements of all windows, and their indices."""

    @staticmethod
    def forward(
        input: Tensor,  # [N, C, H, W]
        windows: Windows,
    ) -> tuple[Tensor, Tensor]:  # [N, C, P, Q] both
        return pool_ops.max_pool2d_indices(input, windows)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        input, ctx.windows = inputs
        ctx.set_materialize_grads(False)
        ctx.input_size = input.shape[2:]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])
        ctx.save_for_forward(output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, None]:
        if grad is None:
            return None, None
        (indices,) = ctx.saved_tensors
        return MaxScatter.call(grad, indices, ctx.windows, ctx.input_size), None

    @staticmethod
    @differentiable
    def jvp(ctx: Any, d_input: Tensor, _: Any) -> tuple[Tensor, None]:
        (indices,) = ctx.saved_tensors
        return MaxGather.call(d_input, indices, ctx.windows), None

    @staticmethod
    def vmap(info: Any, in_dims: InDims, *inputs: Any) -> tuple[Any, Any]:
        return _vmap(MaxPool, info, in_dims, *inputs)


def max_pool2d(input: Tensor, windows: Windows) -> Tensor:
    """`MaxPool` without the indices, which are found only where a derivative may want them."""
    wanted = torch.is_grad_enabled() and input.requires_grad
    if wanted or surrounded():
        return MaxPool.call(input, windows)[0]
    ops.prepare()
    return pool_ops.max_pool2d(input, windows)


@registered_as("max_gather", lambda x, i, *w: (x, i, Windows(*w)))
class MaxGather(Operation):
    """The elements of an input at the indices: the transpose of `MaxScatter`."""

    @staticmethod
    def forward(
        input: Tensor,  # [N, C, H, W]
        indices: Tensor,  # [N, C, P, Q]
        windows: Windows,
    ) -> Tensor:  # [N, C, P, Q]
        return pool_ops.max_gather(input, indices, windows)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, indices, ctx.windows = inputs
        ctx.set_materialize_grads(False)
        ctx.input_size = input.shape[2:]
        ctx.save_for_backward(indices)
        ctx.save_for_forward(indices)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor | None) -> tuple[Tensor | None, None, None]:
        if cotangent is None:
            return None, None, None
        (indices,) = ctx.saved_tensors
        return MaxScatter.call(cotangent, indices, ctx.windows, ctx.input_size), None, None

    @staticmethod
    @differentiable
    def jvp(ctx: Any, d_input: Tensor, *_: Any) -> Tensor:
        (indices,) = ctx.saved_tensors
        return MaxGather.call(d_input, indices, ctx.windows)

    @staticmethod
    def vmap(info: Any, in_dims: InDims, *inputs: Any) -> tuple[Any, Any]:
        return _vmap(MaxGather, info, in_dims, *inputs)


@registered_as("max_scatter", lambda g, i, *w: (g, i, Windows(*w[:-2]), w[-2:]))
class MaxScatter(Operation):
    """A gradient added to the elements at the indices: the transpose of `MaxGather`."""

    @staticmethod
    def forward(
        grad: Tensor,  # [N, C, P, Q]
        indices: Tensor,  # [N, C, P, Q]
        windows: Windows,
        input_size: tuple[int, int],  # H, W
    ) -> Tensor:  # [N, C, H, W]
        return pool_ops.max_scatter(grad, indices, windows, input_size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, indices, ctx.windows, ctx.input_size = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(indices)
        ctx.save_for_forward(indices)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        if cotangent is None:
            return None, None, None, None
        (indices,) = ctx.saved_tensors
        return MaxGather.call(cotangent, indices, ctx.windows), None, None, None

    @staticmethod
    @differentiable
    def jvp(ctx: Any, d_grad: Tensor, *_: Any) -> Tensor:
        (indices,) = ctx.saved_tensors
        return MaxScatter.call(d_grad, indices, ctx.windows, ctx.input_size)

    @staticmethod
    def vmap(info: Any, in_dims: InDims, *inputs: Any) -> tuple[Any, Any]:
        return _vmap(MaxScatter, info, in_dims, *inputs)


@registered_as("avg_pool2d", lambda x, *w: (x, Windows(*w[:-2]), Divisor(*w[-2:])))
class AvgPool(Operation):
    """The mean of each window: the transpose of `AvgPoolAdjoint`."""

    @staticmethod
    def forward(
        input: Tensor,  # [N, C, H, W]
        windows: Windows,
        divisor: Divisor,
    ) -> Tensor:  # [N, C, P, Q]
        return pool_ops.avg_pool2d(input, windows, divisor)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, *ctx.layer = inputs
        ctx.set_materialize_grads(False)
        ctx.input_size = input.shape[2:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, None, None]:
        if grad is None:
            return None, None, None
        return AvgPoolAdjoint.call(grad, *ctx.layer, ctx.input_size), None, None

    @staticmethod
    @differentiable
    def jvp(ctx: Any, d_input: Tensor, *_: Any) -> Tensor:
        return AvgPool.call(d_input, *ctx.layer)

    @staticmethod
    def vmap(info: Any, in_dims: InDims, *inputs: Any) -> tuple[Any, Any]:
        return _vmap(AvgPool, info, in_dims, *inputs)


@registered_as(
    "avg_pool2d_adjoint",
    lambda g, *w: (g, Windows(*w[:-4]), Divisor(*w[-4:-2]), w[-2:]),
)
class AvgPoolAdjoint(Operation):
    """A gradient, divided, added all over each window: the transpose of `AvgPool`."""

    @staticmethod
    def forward(
        grad: Tensor,  # [N, C, P, Q]
        windows: Windows,
        divisor: Divisor,
        input_size: tuple[int, int],  # H, W
    ) -> Tensor:  # [N, C, H, W]
        return pool_ops.avg_pool2d_adjoint(grad, windows, divisor, input_size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, *ctx.layer, ctx.input_size = inputs
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor | None) -> tuple[Tensor | None, None, None, None]:
        if cotangent is None:
            return None, None, None, None
        return AvgPool.call(cotangent, *ctx.layer), None, None, None

    @staticmethod
    @differentiable
    def jvp(ctx: Any, d_grad: Tensor, *_: Any) -> Tensor:
        return AvgPoolAdjoint.call(d_grad, *ctx.layer, ctx.input_size)

    @staticmethod
    def vmap(info: Any, in_dims: InDims, *inputs: Any) -> tuple[Any, Any]:
        return _vmap(AvgPoolAdjoint, info, in_dims, *inputs)
