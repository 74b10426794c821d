"""`import torch_fullconv.opacus` makes `Conv2d` known to Opacus, which finds a layer by its type.

Opacus' own sampler for nn.Conv2d unfolds the input, multiplies all groups with all, and pads with
zeros only; this one is the native filter gradient without its sum over the batch. Without it
Opacus takes the way of functorch for these layers, `vmap(grad)` of one more forward pass.

https://opacus.ai/api/grad_sample_module.html
"""

from __future__ import annotations

from opacus.grad_sample import register_grad_sampler
from torch import Tensor

from . import functional
from .modules import Conv2d

__all__ = ["conv2d_grad_sample"]


@register_grad_sampler(Conv2d)
def conv2d_grad_sample(
    layer: Conv2d,
    activations: list[Tensor],  # of one: [N, C, H, W]
    backprops: Tensor,  # [N, K, P, Q]
) -> dict[Tensor, Tensor]:
    """The gradient of each sample by weight, (N, K, C/groups, R, S), and bias, (N, K)."""
    gradients: dict[Tensor, Tensor] = {}
    if layer.weight.requires_grad:
        gradients[layer.weight] = functional.conv2d_weight_grad(
            activations[0].to(backprops.dtype),
            layer.weight.shape,
            backprops,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            per_sample=True,
            padding_mode=layer.padding_mode,
        )
    if layer.bias is not None and layer.bias.requires_grad:
        gradients[layer.bias] = backprops.sum((2, 3))
    return gradients
