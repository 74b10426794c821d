"""The three contractions of one trilinear form, each one's derivatives made of the other two.

    T(X, F, O) = Σ O[n,k,i,j] · F[k,c,r,s] · X[n, c, i·stride + r·dilation - pad, ...]

Leave out one of the three and you have the operation that computes it: `Correlate` gives O,
`CorrelateWeight` gives ∂E/∂F and `FullConvolve` gives ∂E/∂X. T is linear in each argument, so the
derivative of one operation by one argument is another of them; any order of backward, forward mode
and vmap follow without a fourth kernel. `Gradients` is two of them in one call, `ChannelSum` the
gradient of a bias.

vmap never loops: a mapped argument's extra axis joins the axis of T that it may join, the batch N
for X and O, or the channels for a single mapped factor; where both factors are mapped, the batch
falls into segments, each with a filter of its own (the 5-D filters of `ops`).

Gradients of complex tensors are PyTorch's: conjugates of the plain contraction.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import ops
from .operation import InDims, Operation, differentiable, primals, registered_as, to_front
from .ops import Geometry


def _add(*terms: Tensor | None) -> Tensor | None:
    """The sum of those terms that are there."""
    present = [term for term in terms if term is not None]
    return sum(present[1:], start=present[0]) if present else None


def _segments(filter: torch.Size) -> int | None:
    return filter[0] if len(filter) == 5 else None


def _conj(tensor: Tensor | None) -> Tensor | None:
    return tensor.conj() if tensor is not None and tensor.dtype.is_complex else tensor


def _along_channels(bias: Tensor, shape: torch.Size) -> Tensor:
    """(C) repeated over a tensor of shape (N, C, H, W), without a copy."""
    return bias[:, None, None].expand(shape)


def _unmapped(tensor: Tensor, dim: int | None) -> tuple[int, ...]:
    """The shape without the mapped axis."""
    return tuple(length for axis, length in enumerate(tensor.shape) if axis != dim)


def _vmap_by_filter(
    operation: type[Operation],
    channel_axis: int,
    info: Any,
    in_dims: InDims,
    tensor: Tensor,
    filter: Tensor,
    bias: Tensor | None,
    geometry: Geometry,
    *size: Any,
) -> tuple[Tensor, int]:
    """vmap of an operation on (tensor, filter): `Correlate` and `FullConvolve`.

    `channel_axis` is the filter's axis that becomes the result's channels.
    """
    batch, (t_dim, f_dim, b_dim) = info.batch_size, in_dims[:3]
    if bias is not None and b_dim is not None:
        output, dim = _vmap_by_filter(
            operation, channel_axis, info, in_dims, tensor, filter, None, geometry, *size
        )
        return output.movedim(dim, 0) + bias.movedim(b_dim, 0)[:, None, :, None, None], 0
    if t_dim is None and filter.dim() == 5 and f_dim is not None and geometry.groups == 1:
        channels = filter.shape[channel_axis + (f_dim <= channel_axis)]
        filter = filter.movedim(f_dim, channel_axis).flatten(channel_axis, channel_axis + 1)
        bias = None if bias is None else bias.repeat(batch)
        output = operation.call(tensor, filter, bias, geometry, *size)
        return output.unflatten(1, (batch, channels)), 1
    tensor = to_front(tensor, t_dim, batch)
    if f_dim is not None or filter.dim() == 5:
        filter = to_front(filter, f_dim, batch)
        filter = filter.flatten(0, 1) if filter.dim() == 6 else filter
    output = operation.call(tensor.flatten(0, 1), filter, bias, geometry, *size)
    return output.unflatten(0, tensor.shape[:2]), 0


@registered_as("correlate", lambda x, f, b, *g: (x, f, b, Geometry(*g)))
class Correlate(Operation):
    """O = correlation of X and F, plus bias."""

    @staticmethod
    def forward(
        input: Tensor,  # [N, C, H, W]
        filter: Tensor,  # [K, C/groups, R, S] or [B, K, C/groups, R, S]
        bias: Tensor | None,  # [K]
        geometry: Geometry,
    ) -> Tensor:  # [N, K, P, Q]
        return ops.correlate(input, filter, bias, geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, filter, _, ctx.geometry = inputs
        ctx.set_materialize_grads(False)
        ctx.input_shape, ctx.filter_shape = input.shape, filter.shape
        ctx.output_shape = output.shape
        for_input, for_filter, *_ = ctx.needs_input_grad
        ctx.save_for_backward(input if for_filter else None, filter if for_input else None)
        ctx.save_for_forward(input, filter)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return None, None, None, None
        input, filter = map(_conj, ctx.saved_tensors)
        for_input, for_filter, for_bias, _ = ctx.needs_input_grad
        grad_input = grad_filter = None
        if for_input and for_filter:
            grad_input, grad_filter = Gradients.call(input, filter, grad, ctx.geometry)
        elif for_input:
            size = ctx.input_shape[2:]
            grad_input = FullConvolve.call(grad, filter, None, ctx.geometry, size)
        elif for_filter:
            kernel, segments = ctx.filter_shape[-2:], _segments(ctx.filter_shape)
            grad_filter = CorrelateWeight.call(input, grad, ctx.geometry, kernel, segments)
        return grad_input, grad_filter, ChannelSum.call(grad) if for_bias else None, None

    @staticmethod
    @differentiable
    def jvp(ctx: Any, d_input: Any, d_filter: Any, d_bias: Any, _: Any) -> Tensor | None:
        input, filter = primals(ctx)
        return _add(
            None if d_input is None else Correlate.call(d_input, filter, None, ctx.geometry),
            None if d_filter is None else Correlate.call(input, d_filter, None, ctx.geometry),
            None if d_bias is None else _along_channels(d_bias, ctx.output_shape),
        )

    @staticmethod
    def vmap(info: Any, in_dims: InDims, *inputs: Any) -> tuple[Tensor, int]:
        return _vmap_by_filter(Correlate, 0, info, in_dims, *inputs)


@registered_as("full_convolve", lambda o, f, b, *g: (o, f, b, Geometry(*g[:-2]), g[-2:]))
class FullConvolve(Operation):
    """∂E/∂X = full convolution of the output gradient and F, which it rotates, plus bias."""

    @staticmethod
    def forward(
        grad: Tensor,  # [N, K, P, Q]
        filter: Tensor,  # [K, C/groups, R, S] or [B, K, C/groups, R, S]
        bias: Tensor | None,  # [C]
        geometry: Geometry,
        input_size: tuple[int, int],  # H, W
    ) -> Tensor:  # [N, C, H, W]
        return ops.full_convolve(grad, filter, bias, geometry, input_size)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        grad, filter, _, ctx.geometry, ctx.input_size = inputs
        ctx.set_materialize_grads(False)
        ctx.filter_shape, ctx.output_shape = filter.shape, output.shape
        for_grad, for_filter = ctx.needs_input_grad[:2]
        ctx.save_for_backward(grad if for_filter else None, filter if for_grad else None)
        ctx.save_for_forward(grad, filter)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor | None) -> tuple[Tensor | None, ...]:
        if cotangent is None:
            return None, None, None, None, None
        grad, filter = map(_conj, ctx.saved_tensors)
        for_grad, for_filter, for_bias = ctx.needs_input_grad[:3]
        grad_grad = grad_filter = None
        if for_grad:
            grad_grad = Correlate.call(cotangent, filter, None, ctx.geometry)
        if for_filter:
            kernel, segments = ctx.filter_shape[-2:], _segments(ctx.filter_shape)
            grad_filter = CorrelateWeight.call(cotangent, grad, ctx.geometry, kernel, segments)
        return grad_grad, grad_filter, ChannelSum.call(cotangent) if for_bias else None, None, None

    @staticmethod
    @differentiable
    def jvp(ctx: Any, d_grad: Any, d_filter: Any, d_bias: Any, *_: Any) -> Tensor | None:
        grad, filter = primals(ctx)
        rest = ctx.geometry, ctx.input_size
        return _add(
            None if d_grad is None else FullConvolve.call(d_grad, filter, None, *rest),
            None if d_filter is None else FullConvolve.call(grad, d_filter, None, *rest),
            None if d_bias is None else _along_channels(d_bias, ctx.output_shape),
        )

    @staticmethod
    def vmap(info: Any, in_dims: InDims, *inputs: Any) -> tuple[Tensor, int]:
        return _vmap_by_filter(FullConvolve, 1, info, in_dims, *inputs)


@registered_as("correlate_weight", lambda x, o, *g: (x, o, Geometry(*g[:-3]), g[-3:-1], g[-1]))
class CorrelateWeight(Operation):
    """∂E/∂F = correlation of X and the output gradient."""

    @staticmethod
    def forward(
        input: Tensor,  # [N, C, H, W]
        grad: Tensor,  # [N, K, P, Q]
        geometry: Geometry,
        kernel: tuple[int, int],  # R, S
        segments: int | None,  # B
    ) -> Tensor:  # [K, C/groups, R, S], or [B, K, C/groups, R, S] with segments
        return ops.correlate_weight(input, grad, geometry, kernel, segments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, grad, ctx.geometry, ctx.kernel, ctx.segments = inputs
        ctx.set_materialize_grads(False)
        ctx.input_size = input.shape[2:]
        for_input, for_grad = ctx.needs_input_grad[:2]
        ctx.save_for_backward(input if for_grad else None, grad if for_input else None)
        ctx.save_for_forward(input, grad)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor | None) -> tuple[Tensor | None, ...]:
        if cotangent is None:
            return None, None, None, None, None
        input, grad = map(_conj, ctx.saved_tensors)
        grad_input = grad_grad = None
        if ctx.needs_input_grad[0]:
            grad_input = FullConvolve.call(grad, cotangent, None, ctx.geometry, ctx.input_size)
        if ctx.needs_input_grad[1]:
            grad_grad = Correlate.call(input, cotangent, None, ctx.geometry)
        return grad_input, grad_grad, None, None, None

    @staticmethod
    @differentiable
    def jvp(ctx: Any, d_input: Any, d_grad: Any, *_: Any) -> Tensor | None:
        input, grad = primals(ctx)
        rest = ctx.geometry, ctx.kernel, ctx.segments
        return _add(
            None if d_input is None else CorrelateWeight.call(d_input, grad, *rest),
            None if d_grad is None else CorrelateWeight.call(input, d_grad, *rest),
        )

    @staticmethod
    def vmap(
        info: Any,
        in_dims: InDims,
        input: Tensor,
        grad: Tensor,
        geometry: Geometry,
        kernel: tuple[int, ...],
        segments: int | None,
    ) -> tuple[Tensor, int]:
        batch, (x_dim, g_dim) = info.batch_size, in_dims[:2]
        if segments is None and geometry.groups == 1 and None in (x_dim, g_dim):
            if x_dim is not None:  # the mapped axis joins C
                input = input.movedim(x_dim, 1)
                channels, input = input.shape[2], input.flatten(1, 2)
                output = CorrelateWeight.call(input, grad, geometry, kernel, None)
                return output.unflatten(1, (batch, channels)), 1
            grad = grad.movedim(g_dim, 1)  # the mapped axis joins K
            channels, grad = grad.shape[2], grad.flatten(1, 2)
            output = CorrelateWeight.call(input, grad, geometry, kernel, None)
            return output.unflatten(0, (batch, channels)), 0
        input = to_front(input, x_dim, batch).flatten(0, 1)
        grad = to_front(grad, g_dim, batch).flatten(0, 1)
        parts = batch if segments is None else batch * segments
        output = CorrelateWeight.call(input, grad, geometry, kernel, parts)
        return (output if segments is None else output.unflatten(0, (batch, segments))), 0


@registered_as("gradients", lambda x, f, o, *g: (x, f, o, Geometry(*g)))
class Gradients(Operation):
    """(∂E/∂X, ∂E/∂F) of one output gradient: FullConvolve and CorrelateWeight in one call."""

    @staticmethod
    def forward(
        input: Tensor,  # [N, C, H, W]
        filter: Tensor,  # [K, C/groups, R, S] or [B, K, C/groups, R, S]
        grad: Tensor,  # [N, K, P, Q]
        geometry: Geometry,
    ) -> tuple[Tensor, Tensor]:  # shaped as input and filter
        return ops.gradients(input, filter, grad, geometry)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        input, filter, grad, ctx.geometry = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, filter, grad)
        ctx.save_for_forward(input, filter, grad)

    @staticmethod
    def backward(
        ctx: Any, to_input: Tensor | None, to_filter: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        input, filter, grad = (tensor.conj() for tensor in ctx.saved_tensors)
        geometry, sizes = ctx.geometry, (input.shape[2:], filter.shape[-2:])
        for_input, for_filter, for_grad = ctx.needs_input_grad[:3]
        grad_input = grad_filter = grad_grad = None
        if for_input and to_filter is not None:
            grad_input = FullConvolve.call(grad, to_filter, None, geometry, sizes[0])
        if for_filter and to_input is not None:
            grad_filter = CorrelateWeight.call(
                to_input, grad, geometry, sizes[1], _segments(filter.shape)
            )
        if for_grad:
            grad_grad = _add(
                None if to_input is None else Correlate.call(to_input, filter, None, geometry),
                None if to_filter is None else Correlate.call(input, to_filter, None, geometry),
            )
        return grad_input, grad_filter, grad_grad, None

    @staticmethod
    @differentiable
    def jvp(ctx: Any, d_input: Any, d_filter: Any, d_grad: Any, _: Any) -> tuple[Tensor, Tensor]:
        input, filter, grad = primals(ctx)
        size, rest = input.shape[2:], (ctx.geometry, filter.shape[-2:], _segments(filter.shape))
        to_input, to_filter = torch.zeros_like(input), torch.zeros_like(filter)
        if d_grad is not None:
            to_input, to_filter = Gradients.call(input, filter, d_grad, ctx.geometry)
        if d_filter is not None:
            to_input = to_input + FullConvolve.call(grad, d_filter, None, ctx.geometry, size)
        if d_input is not None:
            to_filter = to_filter + CorrelateWeight.call(d_input, grad, *rest)
        return to_input, to_filter

    @staticmethod
    def vmap(
        info: Any, in_dims: InDims, input: Tensor, filter: Tensor, grad: Tensor, geometry: Geometry
    ) -> tuple[tuple[Tensor, Tensor], tuple[int, int | None]]:
        x_dim, f_dim, g_dim, _ = in_dims
        sizes = [_unmapped(*pair) for pair in ((input, x_dim), (filter, f_dim))]
        size, kernel = sizes[0][2:], sizes[1][-2:]
        segments = sizes[1][0] if len(sizes[1]) == 5 else None
        to_input, i_dim = FullConvolve.vmap(
            info, (g_dim, f_dim, None), grad, filter, None, geometry, size
        )
        if x_dim is None and g_dim is None:  # the filter alone is mapped, and not needed here
            to_filter = CorrelateWeight.call(input, grad, geometry, kernel, segments)
            return (to_input, to_filter), (i_dim, None)
        to_filter, o_dim = CorrelateWeight.vmap(
            info, (x_dim, g_dim), input, grad, geometry, kernel, segments
        )
        return (to_input, to_filter), (i_dim, o_dim)


@registered_as("channel_sum", lambda o: (o,))
class ChannelSum(Operation):
    """∂E/∂bias: the output gradient summed over all but its channels."""

    @staticmethod
    def forward(grad: Tensor) -> Tensor:  # [N, K, P, Q] -> [K]
        return ops.channel_sum(grad)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.shape = inputs[0].shape

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> Tensor:
        return _along_channels(cotangent, ctx.shape)

    @staticmethod
    @differentiable
    def jvp(ctx: Any, d_grad: Tensor) -> Tensor:
        return ChannelSum.call(d_grad)

    @staticmethod
    def vmap(info: Any, in_dims: InDims, grad: Tensor) -> tuple[Tensor, int]:
        grad = grad.movedim(in_dims[0], 1)
        return ChannelSum.call(grad.flatten(1, 2)).unflatten(0, grad.shape[1:3]), 0
