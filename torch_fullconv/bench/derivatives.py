"""Derivatives beyond a backward pass, of a critic as GANs have it, against stock.

Gradient penalties and Hessian-vector products differentiate a backward pass; per-sample gradients
map one over the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap

from ..convert import convert
from .measure import LAYOUTS, Call, Measurement, by_layout

Derivative = Callable[[nn.Module, Tensor], object]
INPUT = (32, 3, 32, 32)


def critic() -> nn.Module:
    """DCGAN's discriminator (Radford et al., 2015), for 32x32 images, and a 3x3 layer a stage."""
    layers: list[nn.Module] = []
    c = 3
    for k in (64, 128, 256):
        layers += [nn.Conv2d(c, k, 4, 2, 1), nn.LeakyReLU(0.2)]
        layers += [nn.Conv2d(k, k, 3, padding=1), nn.LeakyReLU(0.2)]
        c = k
    return nn.Sequential(*layers, nn.Conv2d(c, 1, 4), nn.Flatten(0))


def _input_gradients(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.detach().requires_grad_()
    y = net(x)
    (gradients,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    return y.mean(), gradients.flatten(1)


def gradient_penalty(net: nn.Module, x: Tensor) -> object:
    """WGAN-GP's (Gulrajani et al., 2017): norms of 1."""
    mean, gradients = _input_gradients(net, x)
    loss = mean + 10 * (gradients.norm(dim=1) - 1).square().mean()
    return torch.autograd.grad(loss, list(net.parameters()))


def r1_penalty(net: nn.Module, x: Tensor) -> object:
    """Norms of 0 (Mescheder et al., 2018)."""
    mean, gradients = _input_gradients(net, x)
    loss = mean + 10 * gradients.square().sum(1).mean()
    return torch.autograd.grad(loss, list(net.parameters()))


def _of_parameters(net: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in net.named_parameters()}


def _loss(net: nn.Module, x: Tensor) -> Callable[[dict[str, Tensor]], Tensor]:
    return lambda parameters: functional_call(net, parameters, (x,)).square().mean()


def hessian_vector_product(net: nn.Module, x: Tensor) -> object:
    """Of the parameters with themselves, reverse over reverse."""
    parameters = list(net.parameters())
    first = torch.autograd.grad(net(x).square().mean(), parameters, create_graph=True)
    return torch.autograd.grad(first, parameters, [p.detach() for p in parameters])


def hessian_vector_product_forward(net: nn.Module, x: Tensor) -> object:
    """The same, forward over reverse."""
    parameters = _of_parameters(net)
    return jvp(grad(_loss(net, x)), (parameters,), (parameters,))[1]


def per_sample_gradients(net: nn.Module, x: Tensor) -> object:
    """As DP-SGD needs them."""
    each = grad(lambda parameters, x: _loss(net, x[None])(parameters))
    return vmap(each, (None, 0))(_of_parameters(net), x)


DERIVATIVES: dict[str, Derivative] = {
    "WGAN-GP penalty": gradient_penalty,
    "R1 penalty": r1_penalty,
    "Hessian-vector product": hessian_vector_product,
    "Hessian-vector product, forward over reverse": hessian_vector_product_forward,
    "per-sample gradients": per_sample_gradients,
}


def measure_derivative(what: str, budget: float, device: str = "cpu") -> Measurement:
    calls: dict[str, dict[str, Call]] = {"ours": {}, "stock": {}}
    for who in calls:
        for layout, memory_format in LAYOUTS.items():
            torch.manual_seed(0)
            net = critic() if who == "stock" else convert(critic())
            net = net.to(device, memory_format=memory_format)  # type: ignore[call-overload]
            x = torch.randn(INPUT, device=device).contiguous(memory_format=memory_format)
            calls[who][layout] = lambda net=net, x=x: DERIVATIVES[what](net, x)  # type: ignore[misc]
    ours, stock = by_layout(calls, budget)
    threads = torch.get_num_threads()
    return Measurement("critic", what, "float32", threads, ours, stock, device=device)
