"""How the ops run on DTensors: which of their tensors may be in parts, and along which axis.

Importing this module registers the rules with torch.distributed.tensor; the first operation after
the import of that does it (`ops.prepare`).

A rule cuts one index of T(X, F, O) (`autograd`): the batch n, the output channels k or the input
channels c. A tensor that has the index is sharded along it. One that has not is whole on every rank
as a factor, and as the result each rank has a term of its sum, which is Partial.

| cut | X | F | O | forward gives | ∂E/∂X | ∂E/∂F |
|---|---|---|---|---|---|---|
| n | Shard(0) | Replicate | Shard(0) | Shard(0) | Shard(0) | Partial |
| k | Replicate | Shard(0) | Shard(1) | Shard(1) | Partial | Shard(0) |
| c | Shard(1) | Shard(1) | Replicate | Partial | Shard(1) | Shard(1) |

No cut needs a halo: images stay whole. Channels in groups and a batch in segments are not cut, as
a rank would have fewer of them than its op is told.

Pooling may cut n or c, the same of all its tensors, and ReLU any axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor.experimental import register_sharding
from torch.distributed.tensor.placement_types import Placement

Axes = dict[str, int]  # the axis of each index that a tensor has
Rule = tuple[list[Placement], list[Placement]]  # of the results, of the operands

INPUT: Axes = {"n": 0, "c": 1}
OUTPUT: Axes = {"n": 0, "k": 1}
FILTER: Axes = {"k": 0, "c": 1}
SEGMENTED_FILTER: Axes = {"k": 1, "c": 2}

_ops = torch.ops.torch_fullconv
# The bias of an operation, by what each cut makes of its result.
BIAS: dict[Placement, Placement] = {
    Replicate(): Replicate(),
    Shard(0): Replicate(),
    Shard(1): Shard(0),
    Partial(): Partial(),  # a term of the sum as well
}


def _cuts(groups: int, segmented: bool) -> str:
    return ("" if segmented else "n") + ("kc" if groups == 1 else "")


def _filter(segmented: bool) -> Axes:
    return SEGMENTED_FILTER if segmented else FILTER


def _placement(axes: Axes, index: str, without: Placement) -> Placement:
    return Shard(axes[index]) if index in axes else without


def _rules(results: Sequence[Axes], factors: Sequence[Axes], cuts: str) -> list[Rule]:
    """All that results and factors may be: whole, or cut along one index."""
    whole: Rule = [Replicate() for _ in results], [Replicate() for _ in factors]
    return [whole] + [
        (
            [_placement(axes, index, Partial()) for axes in results],
            [_placement(axes, index, Replicate()) for axes in factors],
        )
        for index in cuts
    ]


def _with_bias(rules: list[Rule], bias: Any) -> list[Rule]:
    if bias is None:
        return rules
    return [(results, [*factors, BIAS[results[0]]]) for results, factors in rules]


@register_sharding(_ops.correlate.default)
def _(input: Any, filter: Any, bias: Any, groups: int, *rest: int) -> list[Rule]:
    segmented = filter.ndim == 5
    rules = _rules([OUTPUT], [INPUT, _filter(segmented)], _cuts(groups, segmented))
    return _with_bias(rules, bias)


@register_sharding(_ops.full_convolve.default)
def _(grad: Any, filter: Any, bias: Any, groups: int, *rest: int) -> list[Rule]:
    segmented = filter.ndim == 5
    rules = _rules([INPUT], [OUTPUT, _filter(segmented)], _cuts(groups, segmented))
    return _with_bias(rules, bias)


@register_sharding(_ops.correlate_weight.default)
def _(input: Any, grad: Any, groups: int, *rest: int | None) -> list[Rule]:
    segmented = rest[-1] is not None
    return _rules([_filter(segmented)], [INPUT, OUTPUT], _cuts(groups, segmented))


@register_sharding(_ops.gradients.default)
def _(input: Any, filter: Any, grad: Any, groups: int, *rest: int) -> list[Rule]:
    segmented = filter.ndim == 5
    axes = _filter(segmented)
    return _rules([INPUT, axes], [INPUT, axes, OUTPUT], _cuts(groups, segmented))


@register_sharding(_ops.channel_sum.default)
def _(grad: Any) -> list[Rule]:
    return _rules([{"k": 0}], [OUTPUT], "nk")


def _pointwise(tensor: Any, operands: int) -> list[Rule]:
    cuts = [Replicate(), *map(Shard, range(tensor.ndim))]
    return [([cut], [cut] * operands) for cut in cuts]


@register_sharding(_ops.relu.default)
def _(input: Any) -> list[Rule]:
    return _pointwise(input, 1)


@register_sharding(_ops.relu_grad.default)
def _(grad: Any, output: Any) -> list[Rule]:
    return _pointwise(grad, 2)


def _register_pooling(op: Any, results: int, operands: int) -> None:
    rules = _rules([INPUT] * results, [INPUT] * operands, "nc")
    register_sharding(op.default)(lambda *_: rules)


_register_pooling(_ops.max_pool2d, 1, 1)
_register_pooling(_ops.max_pool2d_indices, 2, 1)
_register_pooling(_ops.max_gather, 1, 2)
_register_pooling(_ops.max_scatter, 1, 2)
_register_pooling(_ops.avg_pool2d, 1, 1)
_register_pooling(_ops.avg_pool2d_adjoint, 1, 1)
