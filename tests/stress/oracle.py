"""The three contractions in float64 by gathering: quick enough for 100,000 layers.

Along each axis a table says which element of the input output i sees through tap r; the element
behind the last is a zero. With them a layer is one gather and one sum of products, `torch.einsum`,
and nothing of the compiled library. test_stress.py holds it against `reference`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from cases import Case
from torch import Tensor

from torch_fullconv.ops import PADDING_MODES


def seen(
    size: int, kernel: int, outputs: int, stride: int, pad: int, dilation: int, mode: str
) -> Tensor:
    """[outputs, kernel] indices of the input; `size` for a zero beyond the edges."""
    q = torch.arange(outputs)[:, None] * stride + torch.arange(kernel) * dilation - pad
    if mode == "replicate":
        return q.clamp(0, size - 1)
    if mode == "circular":
        return q % size
    if mode == "reflect":
        q = q.abs()
        return torch.where(q < size, q, 2 * (size - 1) - q)
    return torch.where((q >= 0) & (q < size), q, size)


class Oracle:
    """A case's contractions, of float64 or complex128 tensors; nothing is conjugated."""

    def __init__(self, case: Case) -> None:
        n, c, self.height, self.width = case.input
        _, k, self.p, self.q = case.output
        self.r, self.s = case.filter[-2:]
        g, mode = case.geometry, PADDING_MODES[case.geometry.padding_mode]
        rows = seen(self.height, self.r, self.p, g.stride_h, g.pad_top, g.dilation_h, mode)
        columns = seen(self.width, self.s, self.q, g.stride_w, g.pad_left, g.dilation_w, mode)
        self.index = (rows[:, :, None, None] * (self.width + 1) + columns).flatten()  # P, R, Q, S
        parts = case.segments or 1
        self.input = parts, n // parts, g.groups, c // g.groups  # b n g c
        self.output = parts, n // parts, g.groups, k // g.groups, self.p, self.q
        self.filter = parts, g.groups, k // g.groups, c // g.groups, self.r, self.s
        self.shapes = case.input, case.filter

    def patches(self, input: Tensor) -> Tensor:
        flat = F.pad(input, (0, 1, 0, 1)).flatten(2)
        return flat[:, :, self.index].view(*self.input, self.p, self.r, self.q, self.s)

    def correlate(self, input: Tensor, filter: Tensor) -> Tensor:
        output = torch.einsum(
            "bngcprqs,bgkcrs->bngkpq", self.patches(input), filter.reshape(self.filter)
        )
        return output.flatten(0, 1).flatten(1, 2)

    def correlate_weight(self, input: Tensor, grad: Tensor) -> Tensor:
        filter = torch.einsum(
            "bngcprqs,bngkpq->bgkcrs", self.patches(input), grad.reshape(self.output)
        )
        return filter.reshape(self.shapes[1])

    def full_convolve(self, grad: Tensor, filter: Tensor) -> Tensor:
        patches = torch.einsum(
            "bngkpq,bgkcrs->bngcprqs", grad.reshape(self.output), filter.reshape(self.filter)
        )
        (n, c, height, width), _ = self.shapes
        flat = patches.new_zeros(n, c, (height + 1) * (width + 1))
        flat.index_add_(2, self.index, patches.reshape(n, c, len(self.index)))
        return flat.view(n, c, height + 1, width + 1)[..., :-1, :-1]
