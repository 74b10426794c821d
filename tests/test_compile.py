"""torch.compile: one graph, the same gradients, alone and over torch.func's transforms."""

import pytest
import torch
from torch import nn
from torch.func import grad, jvp, vmap

import torch_fullconv as tfc

X, W = torch.randn(2, 4, 6, 5).double(), torch.randn(6, 4, 3, 3).double()
LAYERS = {
    "convolution": nn.Sequential(
        tfc.Conv2d(4, 6, 3, padding=1),
        nn.ReLU(),
        tfc.Conv2d(6, 4, 3, stride=2, padding=1, padding_mode="reflect"),
    ),
    "transposed": tfc.ConvTranspose2d(4, 6, 3, stride=2),
}


def loss(x, w):
    return tfc.functional.conv2d(x, w, padding=1).square().sum()


TRANSFORMS = {
    "grad": lambda w: grad(loss, 1)(X, w),
    "jvp": lambda w: jvp(lambda w: loss(X, w), (w,), (w,))[1],
    "grad of grad": lambda w: grad(lambda w: grad(loss, 1)(X, w).square().sum())(w),
    "vmap": lambda w: vmap(lambda x: tfc.functional.conv2d(x, w))(X),
    "vmap of grad": lambda w: vmap(lambda x: grad(loss, 1)(x, w))(X),
}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_one_graph_trains(layer, dynamic):
    layer = layer.double()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    results = []
    for module in (layer, compiled):
        layer.zero_grad()
        x = X.clone().requires_grad_()
        module(x).square().sum().backward()
        results.append([x.grad, *(p.grad.clone() for p in layer.parameters())])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_transforms_inside_a_graph(transform):
    compiled = torch.compile(transform, fullgraph=True, backend="aot_eager")
    expected = transform(W)
    assert expected.abs().max() > 1
    torch.testing.assert_close(compiled(W), expected)
