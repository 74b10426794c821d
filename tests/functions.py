"""The operations of `autograd` as functions of tensors alone, and watches on the ops that run."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from cases import F64, Case, case
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

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
            lambda x, f, b: Correlate.call(x, f, b, g),
            (c.input, c.filter, c.filter[-4:-3]),
        ),
        FullConvolve: (
            lambda o, f, b: FullConvolve.call(o, f, b, g, size),
            (c.output, c.filter, c.input[1:2]),
        ),
        CorrelateWeight: (
            lambda x, o: CorrelateWeight.call(x, o, g, kernel, c.segments),
            (c.input, c.output),
        ),
        Gradients: (
            lambda x, f, o: Gradients.call(x, f, o, g),
            (c.input, c.filter, c.output),
        ),
        ChannelSum: (ChannelSum.call, (c.output,)),
    }[operation]


def random(shapes: tuple[tuple[int, ...], ...], dtype=F64, needs_grad=False) -> list[Tensor]:
    generator = torch.Generator(torch.get_default_device()).manual_seed(3)
    tensors = [torch.randn(s, generator=generator, dtype=dtype) for s in shapes]
    return [t.requires_grad_(needs_grad) for t in tensors]


LAYER = case((3, 2, 5, 4), (4, 1, 3, 2), (2, 1), (1, 1, 1, 1))


def ours(x: Tensor, f: Tensor, b: Tensor | None = None) -> Tensor:
    return Correlate.call(x, f, b, LAYER.geometry)


def stock(x: Tensor, f: Tensor, b: Tensor | None = None) -> Tensor:
    return F.conv2d(x, f, b, (2, 1), 1, 1, 2)


class Ops(TorchDispatchMode):
    """Every op that runs, or is to and fails."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[OpOverload] = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        self.seen.append(op)
        return op(*args, **(kwargs or {}))


class Calls(Ops):
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
        return super().__torch_dispatch__(op, types, args, kwargs)
