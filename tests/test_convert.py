"""A model's layers are swapped in place, and nothing else about them changes."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.parametrize import remove_parametrizations

import torch_fullconv as tfc


def model() -> nn.Module:
    shared = nn.Conv2d(4, 4, 3, padding=1)
    return nn.Sequential(
        nn.LazyConv2d(4, 3, stride=2),
        nn.Sequential(shared, nn.ReLU(), shared),
        nn.ConvTranspose2d(4, 3, 2, 2),
        nn.LazyConvTranspose2d(2, 3),
    )


def test_every_layer_is_swapped_and_back():
    m = model()
    names = [type(layer).__name__ for layer in m.modules()]
    assert tfc.convert(m) is m
    assert [type(layer).__name__ for layer in m.modules()] == names
    convolutions = [layer for layer in m.modules() if "Conv" in type(layer).__name__]
    assert len(convolutions) == 4
    assert all(type(layer).__module__ == "torch_fullconv.modules" for layer in convolutions)
    assert m[1][0] is m[1][2]
    m(torch.zeros(1, 3, 9, 9))
    assert type(m[0]) is tfc.Conv2d  # no longer lazy
    assert tfc.revert(m) is m
    assert {type(layer).__module__ for layer in m.modules()} <= {
        f"torch.nn.modules.{name}" for name in ("conv", "activation", "container")
    }


def test_outputs_gradients_and_state_stay():
    torch.manual_seed(0)
    m, x = model(), torch.randn(2, 3, 9, 9)
    m(x)
    state, calls = m.state_dict(), []
    m[1].eval()
    m[2].double()
    m[2].register_forward_pre_hook(
        lambda layer, inputs: calls.append(layer) or (inputs[0].double(),)
    )
    m[3].double()
    parameters = list(m.parameters())
    found = []
    for swap in (tfc.revert, tfc.convert):
        swap(m)
        y = m(x)
        m.zero_grad()
        y.square().sum().backward()
        found.append([y.detach(), *(p.grad.clone() for p in m.parameters())])
    assert calls == [m[2], m[2]]
    assert all(a is b for a, b in zip(m.parameters(), parameters, strict=True))
    assert m.state_dict().keys() == state.keys()
    assert (m[1].training, m[0].training) == (False, True)
    for ours, stock in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("swap", [tfc.convert, tfc.revert], ids=["convert", "revert"])
def test_subclasses_are_left_alone(swap):
    class Own(nn.Conv2d):
        pass

    class OurOwn(tfc.Conv2d):
        pass

    for kind in (Own, OurOwn):
        assert type(swap(kind(1, 1, 1))) is kind


def test_parametrized_layers_are_swapped_but_not_their_copies():
    class Own(nn.Conv2d):
        pass

    original = nn.Sequential(weight_norm(nn.Conv2d(3, 4, 3)), weight_norm(Own(3, 4, 3)))
    m, x = deepcopy(original), torch.randn(1, 3, 8, 8)
    tfc.convert(m)
    assert [isinstance(layer, tfc.Conv2d) for layer in (*m, *original)] == [True, *[False] * 3]
    torch.testing.assert_close(m[0](x), original[0](x))
    assert [*m.state_dict()] == [*original.state_dict()]
    tfc.revert(m)
    assert not isinstance(m[0], tfc.Conv2d)
    remove_parametrizations(tfc.convert(m)[0], "weight")
    assert type(m[0]) is tfc.Conv2d
