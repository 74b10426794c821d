"""A Function that costs little to call where nothing is around it.

What may be around it is a graph that is made, by torch.compile, torch.export or torch.jit.trace, or
what differentiates or maps: torch.func's transforms, a level of dual tensors, or the vmap of
torch.autograd. There each Function is called as an op that does nothing but apply it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._C import (
    _are_functorch_transforms_active,
    _dispatch_tls_is_dispatch_key_included,
    _is_tracing,
)
from torch._C._functorch import is_legacy_batchedtensor
from torch._functorch.autograd_function import VmapInfo
from torch._functorch.utils import unwrap_dead_wrappers
from torch.autograd import Function, forward_ad
from torch.compiler import is_compiling

from . import ops

InDims = tuple[Any, ...]

_VMAP_OF_AUTOGRAD = torch._C._parse_dispatch_key("VmapMode")


def surrounded() -> bool:
    """Whether anything is around a call."""
    return (
        is_compiling()
        or _is_tracing()
        or _are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or _dispatch_tls_is_dispatch_key_included(_VMAP_OF_AUTOGRAD)  # type: ignore[arg-type]
    )


class Operation(Function):
    """A Function of tensors, tuples of numbers, and numbers; `call` is what its users call.

    Where something is around, that is an op. A graph keeps ops alone, and those of `ops` have no
    derivatives; Dynamo would trace into `apply`, of any class, and refuse one that has a jvp.
    """

    _op: Callable[..., Any]

    @classmethod
    def call(cls, *args: Any) -> Any:
        if surrounded():
            return cls._op(*_flat(args))
        ops.prepare()
        if torch.is_grad_enabled():
            for arg in args:
                if isinstance(arg, Tensor) and arg.requires_grad:
                    # As cls.apply, which binds the arguments to forward's signature each time.
                    alive = unwrap_dead_wrappers(args)
                    return super(Function, cls).apply(*alive)  # type: ignore[misc]
        return cls.forward(*args)


_library = torch.library.Library("torch_fullconv", "FRAGMENT")


def registered_as(name: str, arguments: Callable[..., tuple[Any, ...]]) -> Callable[[type], type]:
    """Gives a Function its op, `name`_autograd; `arguments` makes its arguments of the op's."""

    def register(operation: Any) -> Any:
        def apply(*flat: Any) -> Any:
            ops.prepare()
            return operation.apply(*arguments(*flat))

        schema = str(getattr(torch.ops.torch_fullconv, name).default._schema)
        op = f"{name}_autograd"
        _library.define(schema.replace(f"torch_fullconv::{name}", op))
        for key in ("CompositeImplicitAutograd", "FuncTorchDynamicLayerFrontMode"):
            _library.impl(op, apply, key)
        _library.impl(op, lambda *flat: _vmap_of_autograd(operation, arguments(*flat)), "Batched")
        operation._op = staticmethod(getattr(torch.ops.torch_fullconv, op).default)
        return operation

    return register


def _vmap_of_autograd(operation: type[Operation], args: tuple[Any, ...]) -> Any:
    """A Function under the vmap of torch.autograd, which would loop, and lose the graph.

    `is_grads_batched` of torch.autograd.grad and `vectorize` of torch.autograd.functional use it. A
    tensor has an axis of its own for each level of it that it is mapped at.
    """
    depth = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    for level in range(depth, 0, -1):
        fronts = [_mapped_axis_first(arg, level) for arg in args]
        sizes = [len(front) for front in fronts if front is not None]
        if sizes:
            break
    else:  # mapped along an axis of length 0, which is torch's error
        return operation.apply(*args)

    def mapped(result: Tensor, dim: int | None) -> Tensor:
        if dim is None:
            return result
        # That vmap refuses as_strided where the mapped axis is not the outermost in memory.
        return torch._add_batch_dim(result.movedim(dim, 0).contiguous(), 0, level)

    results, dims = operation.vmap(
        VmapInfo(sizes[0], "error"),
        tuple(None if front is None else 0 for front in fronts),
        *(arg if front is None else front for arg, front in zip(args, fronts, strict=True)),
    )
    if isinstance(results, Tensor):
        return mapped(results, dims)
    return tuple(map(mapped, results, dims))


def _mapped_axis_first(arg: Any, level: int) -> Tensor | None:
    """The tensor with the axis that it is mapped along at a level; None where it is not mapped."""
    if isinstance(arg, Tensor) and is_legacy_batchedtensor(arg):
        front = torch._remove_batch_dim(arg, level, 0, 0)  # of length 0 where it is not
        return front if len(front) else None
    return None


def _flat(args: tuple[Any, ...]) -> Iterator[Any]:
    """A Function's arguments as an op's, which has no tuples."""
    for arg in args:
        if isinstance(arg, tuple):
            yield from arg
        else:
            yield arg


def differentiable(jvp: Callable[..., Any]) -> Callable[..., Any]:
    """With `primals`, a jvp that the forward modes around its own can differentiate.

    PyTorch turns forward mode off for a Function's jvp, and so for all that are around it (issue
    197867). It does that because saved tensors still have their tangents.
    """

    @functools.wraps(jvp)
    def differentiated(ctx: Any, *tangents: Any) -> Any:
        with forward_ad._set_fwd_grad_enabled(True):
            return jvp(ctx, *tangents)

    return differentiated


def primals(ctx: Any) -> list[Tensor]:
    """The saved tensors without the tangents that jvp is called for."""
    return [forward_ad.unpack_dual(tensor, level=0).primal for tensor in ctx.saved_tensors]


def to_front(tensor: Tensor, dim: int | None, batch: int) -> Tensor:
    """The mapped axis first; an argument that is not mapped is repeated along it."""
    return tensor.expand(batch, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
