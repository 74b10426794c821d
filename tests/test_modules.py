"""The modules are their stock twins in everything but the arithmetic."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

import torch_fullconv as tfc

CONFIGURATIONS = [
    ((3, 8, 3), {}),
    ((4, 6, (3, 2)), {"stride": 2, "padding": (1, 0), "bias": False}),
    ((4, 8, 3), {"groups": 4, "padding": "same", "padding_mode": "circular"}),
    ((4, 8, 3), {"padding": (2, 1), "padding_mode": "reflect", "dilation": 2}),
    ((4, 8, 4), {"padding": "same", "padding_mode": "replicate"}),
    ((4, 8, 3), {"padding": 1, "dtype": torch.float64}),
]
TRANSPOSED = [
    ((3, 8, 3), {}),
    ((4, 6, (3, 2)), {"stride": 2, "output_padding": 1, "bias": False}),
    ((4, 8, 3), {"groups": 2, "padding": 1, "dilation": 2}),
]
LAYERS = [
    *(pytest.param("Conv2d", *c, id=f"Conv2d {c}") for c in CONFIGURATIONS),
    *(pytest.param("ConvTranspose2d", *c, id=f"ConvTranspose2d {c}") for c in TRANSPOSED),
]


def twins(name, arguments, keywords):
    made = []
    for package in (tfc, nn):
        torch.manual_seed(3)
        made.append(getattr(package, name)(*arguments, **keywords))
    return made


def image(layer):
    return torch.randn(2, layer.in_channels, 9, 8, dtype=layer.weight.dtype)


@pytest.mark.parametrize(("name", "arguments", "keywords"), LAYERS)
def test_drop_in(name, arguments, keywords):
    ours, stock = twins(name, arguments, keywords)
    assert isinstance(ours, type(stock))
    assert repr(ours) == repr(stock)
    assert ours.state_dict().keys() == stock.state_dict().keys()
    for key, value in stock.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), "initial weights"
    assert stock.load_state_dict(ours.state_dict())
    assert ours.load_state_dict(stock.state_dict())
    x = image(stock)
    torch.testing.assert_close(ours(x), stock(x))
    torch.testing.assert_close(ours(x[0]), stock(x[0]))
    grads = [torch.autograd.grad(m(x).square().sum(), list(m.parameters())) for m in (ours, stock)]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("_reversed_padding_repeated_twice", [1, 1, 0, 0]),
        ("padding", (0, 0)),
        ("stride", (2, 1)),
        ("dilation", (1, 2)),
    ],
)
def test_attributes_set_afterwards_count_as_stocks(mode, name, value):
    """Above all the padding of one axis, by which images are made to fit themselves as tiles."""
    ours, stock = twins("Conv2d", (3, 4, 3), {"padding": 2})
    x = image(stock)
    for layer in (ours, stock):
        setattr(layer, name, value)
        layer.padding_mode = mode
    torch.testing.assert_close(ours(x), stock(x))


def test_a_padding_mode_set_afterwards_is_stocks_error():
    for layer in twins("ConvTranspose2d", (3, 4, 3), {}):
        layer.padding_mode = "reflect"
        with pytest.raises(ValueError, match="Only `zeros` padding mode is supported for"):
            layer(image(layer))


def test_same_errors_from_the_constructor():
    for bad in ({"groups": 3}, {"padding": "same", "stride": 2}, {"padding_mode": "mirror"}):
        for package in (tfc, nn):
            with pytest.raises(ValueError):  # noqa: PT011
                package.Conv2d(4, 6, 3, **bad)


@pytest.mark.parametrize(
    ("name", "twin"), [("LazyConv2d", "Conv2d"), ("LazyConvTranspose2d", "ConvTranspose2d")]
)
def test_lazy_twin(name, twin):
    ours, stock = twins(name, (6, 3), {"padding": 1})
    x = torch.randn(2, 5, 7, 7)
    for layer in (ours, stock):
        torch.manual_seed(5)
        layer(x)
    assert type(ours) is getattr(tfc, twin)
    torch.testing.assert_close(ours(x), stock(x))


def test_output_size():
    ours, stock = twins("ConvTranspose2d", (4, 6, 3), {"stride": 2, "padding": 1})
    x = torch.randn(1, 4, 5, 5)
    for size in ([9, 10], [10, 9]):
        torch.testing.assert_close(ours(x, output_size=size), stock(x, output_size=size))


def test_copies():
    layer = tfc.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    loaded = tfc.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
    loaded.load_state_dict(torch.load(buffer, weights_only=True))
    x = image(layer)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded):
        assert type(copied) is tfc.Conv2d
        assert torch.equal(copied(x), layer(x))


def test_functional_call_hooks_and_parametrizations():
    layer = tfc.Conv2d(3, 4, 3)
    x = image(layer)
    doubled = {name: 2 * value for name, value in layer.named_parameters()}
    assert torch.equal(torch.func.functional_call(layer, doubled, x), 2 * layer(x))
    expected = layer(x)
    handle = layer.register_forward_hook(lambda module, inputs, output: output + 1)
    assert torch.equal(layer(x), expected + 1)
    handle.remove()
    nn.utils.parametrizations.weight_norm(layer)
    torch.testing.assert_close(layer(x), expected)
    layer(x).sum().backward()
    assert layer.parametrizations.weight.original0.grad is not None


def test_meta_device():
    with torch.device("meta"):
        layer = tfc.Conv2d(3, 4, 3)
        assert layer(torch.empty(2, 3, 8, 8)).shape == (2, 4, 6, 6)
    assert layer.to_empty(device="cpu").weight.device.type == "cpu"


def test_channels_last_is_kept():
    layer = tfc.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    assert layer(torch.randn(2, 3, 8, 8)).is_contiguous(memory_format=torch.channels_last)
