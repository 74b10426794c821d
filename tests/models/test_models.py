"""Whole models of torchvision and timm after `convert`, and layers that it leaves, in `enabled`.

Run by `make models` alone: they need a torchvision, and so a torch, of their own. The library is
the one that was built for another torch.
"""

from collections.abc import Callable
from copy import deepcopy
from functools import partial

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

import torch_fullconv as tfc
from torch_fullconv.bench.models import UNet

CLASSES = 7
OURS = (tfc.Conv2d, tfc.ConvTranspose2d)
STOCK = (nn.Conv2d, nn.ConvTranspose2d)
TORCHVISION = (
    "resnet18",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "convnext_tiny",
    "regnet_y_400mf",
)
TIMM = ("resnet26d", "mobilenetv3_small_100", "efficientnet_b0", "convnext_atto", "regnety_002")
MODELS: dict[str, Callable[[], nn.Module]] = {
    **{
        f"torchvision {name}": partial(torchvision.models.get_model, name, num_classes=CLASSES)
        for name in TORCHVISION
    },
    **{f"timm {name}": partial(timm.create_model, name, num_classes=CLASSES) for name in TIMM},
    "torchvision LR-ASPP": partial(
        torchvision.models.segmentation.lraspp_mobilenet_v3_large,
        weights_backbone=None,
        num_classes=CLASSES,
    ),
    "torchvision mask head": lambda: nn.Sequential(
        nn.Conv2d(3, 16, 1), MaskRCNNHeads(16, (32, 32), 1), MaskRCNNPredictor(32, 32, CLASSES)
    ),
    "U-Net": UNet,
}
# Layers that pad, or make their filter, in a forward of their own.
LEFT = {"tf_efficientnet_b0": "Conv2dSame", "nf_resnet26": "ScaledStdConv2d"}

Results = dict[str, Tensor]


def image(dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 64, 64, dtype=torch.float64, generator=generator).to(dtype)


def train(model: nn.Module, dtype: torch.dtype = torch.float32) -> Results:
    """A step's output and gradients; layers that drop something drop the same each time."""
    torch.manual_seed(2)
    x = image(dtype).requires_grad_()
    output = model(x)
    output = output["out"] if isinstance(output, dict) else output
    output.square().mean().backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"output": output.detach(), "input": x.grad, **grads}


def assert_same(ours: Results, stock: Results) -> None:
    assert ours.keys() == stock.keys()
    largest = max(tensor.abs().max().item() for tensor in stock.values())
    for name in stock:
        torch.testing.assert_close(ours[name], stock[name], rtol=1e-6, atol=1e-10 * largest)


def error(found: Tensor, exact: Tensor) -> float:
    return ((found - exact).norm() / exact.norm().clamp_min(1e-300)).item()


def layer_steps(model: nn.Module) -> list[tuple[nn.Module, Tensor, Tensor]]:
    """Every convolution of a step, with the input and output gradient that it had there."""
    steps = []

    def note(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        output.register_hook(lambda grad: steps.append((layer, inputs[0].detach(), grad)))

    handles = [m.register_forward_hook(note) for m in model.modules() if isinstance(m, STOCK)]
    train(model)
    for handle in handles:
        handle.remove()
    return steps


def run(layer: nn.Module, x: Tensor, grad: Tensor) -> list[Tensor]:
    """Output, input gradient and filter gradient, in float64."""
    x = x.detach().requires_grad_()
    output = layer(x)
    gradients = torch.autograd.grad(output, (x, layer.weight), grad)
    return [tensor.detach().double() for tensor in (output, *gradients)]


@pytest.mark.parametrize("name", MODELS)
def test_converted_model_trains_as_before(name):
    """The same in float64; in float32 each layer is as exact as docs/algorithms.md says.

    Not the whole model: one ReLU that falls to the other side of zero changes its gradients by far
    more than rounding does, with any two libraries.
    """
    torch.manual_seed(0)
    stock = MODELS[name]()
    ours = tfc.convert(deepcopy(stock))
    layers = [m for m in ours.modules() if isinstance(m, STOCK)]
    assert layers
    assert all(isinstance(layer, OURS) for layer in layers)
    assert_same(
        train(deepcopy(ours).double(), torch.float64),
        train(deepcopy(stock).double(), torch.float64),
    )
    steps = layer_steps(stock)
    assert len(steps) == len(layers)
    ratios = []
    for layer, x, grad in steps:
        exact = run(deepcopy(layer).double(), x.double(), grad.double())
        near = run(tfc.convert(deepcopy(layer)), x, grad)
        for found, other, true in zip(near, run(layer, x, grad), exact, strict=True):
            ratios.append((error(found, true) / max(error(other, true), 5e-8), str(layer)))
    assert max(ratios)[0] <= 5, max(ratios)


@pytest.mark.parametrize("name", ["torchvision resnet18", "timm efficientnet_b0", "U-Net"])
def test_state_goes_both_ways(name, tmp_path):
    torch.manual_seed(0)
    stock, ours = MODELS[name](), tfc.convert(MODELS[name]())
    torch.save(stock.state_dict(), tmp_path / "stock.pt")
    ours.load_state_dict(torch.load(tmp_path / "stock.pt", weights_only=True))
    expected = train(deepcopy(ours))
    torch.save(ours.state_dict(), tmp_path / "ours.pt")
    other = tfc.convert(MODELS[name]())
    tfc.revert(other).load_state_dict(torch.load(tmp_path / "ours.pt", weights_only=True))
    assert not any(isinstance(m, OURS) for m in other.modules())
    found = train(tfc.convert(other))
    assert all(torch.equal(found[n], expected[n]) for n in expected)


@pytest.mark.parametrize(("name", "kind"), LEFT.items())
def test_layers_that_convert_leaves_are_named_and_reached_in_a_block(name, kind):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=CLASSES).double()
    expected = train(deepcopy(model), torch.float64)
    with pytest.warns(UserWarning, match=rf"{kind} \(.*stem.*\)"):
        tfc.convert(model)
    with tfc.enabled():
        output = model(image(torch.float64))
        assert "Convolution" not in nodes_of(output)
        assert "Correlate" in nodes_of(output)
        assert_same(train(model, torch.float64), expected)


def nodes_of(output: Tensor) -> str:
    """The names of all that a backward pass from `output` goes through."""
    seen, waiting = set(), [output.grad_fn]
    while waiting:
        if (node := waiting.pop()) is not None and node not in seen:
            seen.add(node)
            waiting.extend(following for following, _ in node.next_functions)
    return " ".join(sorted({type(node).__name__ for node in seen}))
