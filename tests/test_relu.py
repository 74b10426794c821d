"""relu of special values and in place: stock's bits, gradients and errors.

What it has in common with pooling is tested in test_pooling.py.
"""

import pytest
import torch
import torch.nn.functional as F
from cases import F32, ident
from layouts import LAYOUTS, on_cpu
from test_pooling import FLOATS, assert_same_bits, image, integers, special
from torch.func import vmap

from torch_fullconv import functional

pytestmark = pytest.mark.usefixtures("poisoned_results")


@pytest.mark.parametrize("layout", LAYOUTS, ids=ident)
@pytest.mark.parametrize("dtype", FLOATS, ids=ident)
def test_relu_of_special_values(dtype, layout):
    """As stock on the CPU: on CUDA stock makes 0 of -0 in float32 and float64."""
    x = layout(special((3, 5, 7, 70), dtype))
    assert_same_bits(on_cpu(functional.relu(x)), F.relu(on_cpu(x)))
    g = layout(integers((3, 5, 7, 70), dtype))
    found = [
        torch.autograd.grad(function(leaf), leaf, g)[0].contiguous()
        for function in (functional.relu, F.relu)
        for leaf in [x.detach().requires_grad_()]
    ]
    assert_same_bits(*found)


def test_relu_in_place():
    """Stock's values and gradients, and its errors before anything is written."""
    found = []
    for function in (functional.relu, F.relu):
        leaf = image(2, 3, 4, 5).requires_grad_()
        x = leaf * 1
        version = x._version
        y = function(x, inplace=True)
        assert y is x
        assert x._version > version
        found.append((y, *torch.autograd.grad(y.square().sum(), leaf)))
        part = leaf * 2
        function(part[:, 1:], inplace=True)
        found.append((part, *torch.autograd.grad(part.square().sum(), leaf)))
    torch.testing.assert_close(found[:2], found[2:])
    with torch.no_grad():
        x = image(7, 9)[:, ::2]
        assert functional.relu(x, inplace=True) is x
        assert torch.equal(x, F.relu(image(7, 9)[:, ::2]))
    x = -torch.ones(3)
    torch.testing.assert_close(vmap(lambda t: functional.relu(t * 1, inplace=True))(x), x * 0)
    product = x * x.clone().requires_grad_()  # keeps x
    functional.relu(x, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()
    leaf = -torch.ones(2, requires_grad=True)
    y = leaf.square().exp()  # which saves its result
    functional.relu(y, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_relu_in_place_of_nothing_expanded():
    x = torch.empty(0, 3, 1).expand(0, 3, 4)
    for function in (F.relu, functional.relu):
        assert function(x, inplace=True) is x


def test_relu_in_place_of_negative_views():
    """As what they show; the tensor that they negate gets the result."""
    found = []
    for function in (functional.relu, F.relu):
        base = torch.complex(torch.zeros(3, 70), special((3, 70), F32))
        view = base.conj().imag
        assert view.is_neg()
        assert function(view, inplace=True) is view
        leaf = image(2, 5).to(torch.complex128).mul(1j).requires_grad_()
        part = (leaf * 1).conj().imag
        function(part, inplace=True).square().sum().backward()
        found.append((view.resolve_neg(), base.imag, part.detach().resolve_neg(), leaf.grad))
    torch.testing.assert_close(*found, rtol=0, atol=0, equal_nan=True)


def test_relu_in_place_of_inference_tensors():
    """An error outside inference mode; stock raises it when it has written."""
    with torch.inference_mode():
        x = -torch.ones(2, 3)
        assert functional.relu(x[:1], inplace=True).sum() == 0
        rest = x[1:]
    for tensor in (x, rest):
        before = tensor.tolist()
        with pytest.raises(RuntimeError, match="Inplace update to inference tensor outside"):
            functional.relu(tensor, inplace=True)
        assert tensor.tolist() == before
    compiled = torch.compile(functional.relu, backend="aot_eager")
    for function in (F.relu, compiled):
        with pytest.raises(RuntimeError, match="Inplace update to inference tensor outside"):
            function(rest, inplace=True)
