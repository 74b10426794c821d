"""Bad calls: each raises the exception type that stock raises, and leaves its arguments unharmed.

Where stock accepts what this package rejects, the expected type is given with the case.
"""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from functions import Ops
from torch.func import grad, jvp, vmap

import torch_fullconv as tfc

X, W, B = torch.randn(2, 4, 6, 5), torch.randn(6, 4, 3, 3), torch.randn(6)
V = torch.randn(4, 6, 3, 3)  # a transposed convolution's weight

SIDES = ((-1, 0, 0, 0), (0, -1, 0, 0), (0, 0, -1, 0), (0, 0, 0, -1), (0, 0, 0, 2**40))  # of padding


def quantized(tensor, dtype):
    return torch._empty_affine_quantized(tensor.shape, scale=0.1, zero_point=0, dtype=dtype)


CONV2D = {  # arguments, keyword arguments
    "input a list": (([1.0], W), {}),
    "input None": ((None, W), {}),
    "weight None": ((X, None), {}),
    "weight a float": ((X, 1.0), {}),
    "bias a float": ((X, W, 1.0), {}),
    "no weight": ((X,), {}),
    "unknown keyword": ((X, W), {"strides": 1}),
    "input 2-D": ((X[0, 0], W), {}),
    "input 5-D": ((X[None], W), {}),
    "weight 3-D": ((X, W[0]), {}),
    "weight 5-D": ((X, W[None]), {}),
    "weight float64": ((X, W.double()), {}),
    "bias float64": ((X, W, B.double()), {}),
    "input int64": ((X.long(), W), {}),
    "bool": ((X.bool(), W.bool()), {}),
    "float8": ((X.to(torch.float8_e4m3fn), W.to(torch.float8_e4m3fn)), {}),
    "input complex": ((X + 0j, W), {}),
    "weight complex": ((X, W + 0j), {}),
    "bias complex": ((X, W, B + 0j), {}),
    "3 channels": ((X[:, :3], W), {}),
    "channels last axis": ((X.permute(0, 2, 3, 1), W), {}),
    "unbatched, 3 channels": ((X[0, :3], W), {}),
    "groups 3 of 4 channels": ((X, W), {"groups": 3}),
    "groups 4 of 6 filters": ((X, W[:, :1]), {"groups": 4}),
    "groups 0": ((X, W), {"groups": 0}),
    "groups -1": ((X, W), {"groups": -1}),
    "groups bool": ((X, W), {"groups": True}),
    "groups float": ((X, W), {"groups": 1.0}),
    "groups str": ((X, W), {"groups": "1"}),
    "groups None": ((X, W), {"groups": None}),
    "no filters": ((X, W[:0]), {}),
    "no filters, groups 2": ((X, W[:0, :2]), {"groups": 2}),
    "bias 2-D": ((X, W, B[:, None]), {}),
    "bias 0-D": ((X, W, B[0]), {}),
    "bias short": ((X, W, B[:5]), {}),
    "sparse input": ((X.to_sparse(), W), {}),
    "sparse weight": ((X, W.to_sparse()), {}),
    "sparse bias": ((X, W, B.to_sparse()), {}),
    "mkldnn weight": ((X, W.to_mkldnn()), {}),
    "quantised input": ((quantized(X, torch.quint8), W), {}),
    "quantised weight": ((X, quantized(W, torch.qint8)), {}),
    "kernel larger": ((X, torch.randn(6, 4, 7, 3)), {}),
    "kernel wider": ((X, torch.randn(6, 4, 1, 6)), {}),
    "dilated kernel larger": ((X, W), {"dilation": 3}),
    "dilation huge": ((X, W), {"dilation": 2**40}),
    "dilation overflowing": ((X, W), {"dilation": 2**62}),
    "kernel empty": ((X, torch.randn(6, 4, 0, 3)), {}),
    "kernel without columns": ((X, torch.randn(6, 4, 3, 0)), {}),
    "no rows": ((X[:, :, :0], W), {}),
    "no rows, padded": ((X[:, :, :0], W), {"padding": 1}),
    "no rows, padded enough": ((X[:, :, :0], W), {"padding": 2}),
    "no columns, unbatched": ((X[0, :, :, :0], W), {"padding": 2}),
    "no samples, no rows": ((X[:0, :, :0], W), {"padding": 1}),
    "same, stride 2": ((X, W), {"padding": "same", "stride": 2}),
    "same, stride (1, 2)": ((X, W), {"padding": "same", "stride": (1, 2)}),
    "padding full": ((X, W), {"padding": "full"}),
    "padding empty string": ((X, W), {"padding": ""}),
    "padding beyond memory": ((X, W), {"padding": 2**40}),
    "padding overflowing": ((X, W), {"padding": 2**62}),
    "stride beyond 64 bits": ((X, W), {"stride": 2**63}),
    "one stride beyond 64 bits": ((X, W), {"stride": (2**63, 1)}),
    "least stride": ((X, W), {"stride": -(2**63)}),
    "least groups": ((X, W), {"groups": -(2**63)}),
    "stride a range": ((X, W), {"stride": range(1, 3)}),
    "stride bytes": ((X, W), {"stride": b"1"}),
    "dilation an array": ((X, W), {"dilation": np.array([1, 2])}),
    "nested input": ((torch.nested.nested_tensor([X[0], X[1]]), W), {}),
    **{
        f"{name} {value!r}": ((X, W), {name: value})
        for name, values in {
            "stride": (0, -1, (0, 1), (1, -2), 1.5, (1.0, 1), "2", None, (1, 1, 1), (), True),
            "padding": (-1, (1, -1), (-1, 1), 1.5, None, (1, 1, 1), (), (0.5, 1), *SIDES),
            "dilation": (0, -1, (1, 0), (0, 1), 1.5, None, (1, 1, 1), (), "1"),
        }.items()
        for value in values
    },
}

CONV_TRANSPOSE2D = {
    "input None": ((None, V), {}),
    "weight a list": ((X, [1.0]), {}),
    "input 2-D": ((X[0, 0], V), {}),
    "weight float64": ((X, V.double()), {}),
    "bool": ((X.bool(), V.bool()), {}),
    "input int32": ((X.int(), V), {}),
    "3 channels": ((X[:, :3], V), {}),
    "channels last axis": ((X.permute(0, 2, 3, 1), V), {}),
    "bias short": ((X, V, B[:4]), {}),
    "output_padding of a stride": ((X, V), {"output_padding": 1}),
    "output_padding of two strides": ((X, V), {"stride": 2, "output_padding": 2}),
    "output_padding negative": ((X, V), {"stride": 2, "output_padding": -1}),
    "rows of output_padding": ((X, V), {"output_padding": (1, 0)}),
    "columns of output_padding": ((X, V), {"output_padding": (0, 1)}),
    "rows of output_padding negative": ((X, V), {"output_padding": (-1, 0)}),
    "columns of output_padding negative": ((X, V), {"output_padding": (0, -1)}),
    "output_padding float": ((X, V), {"stride": 2, "output_padding": 0.5}),
    "output_padding a range": ((X, V), {"stride": 2, "output_padding": range(2)}),
    "output_padding long": ((X, V), {"stride": 2, "output_padding": (1, 1, 1)}),
    "padding eats all": ((X, V), {"padding": 4}),
    "padding eats more": ((X, V), {"padding": 5}),
    "padding negative": ((X, V), {"padding": -1}),
    "padding same": ((X, V), {"padding": "same"}),
    "stride 0": ((X, V), {"stride": 0}),
    "stride -1": ((X, V), {"stride": -1}),
    "dilation 0": ((X, V), {"dilation": 0}),
    "groups 0": ((X, V), {"groups": 0}),
    "groups 3": ((X, V), {"groups": 3}),
    "no rows": ((X[:, :, :0], V), {}),
    "no channels": ((X[:, :0], V[:0]), {}),
    "no filters": ((X, V[:, :0]), {}),
    "kernel empty": ((X, torch.randn(4, 6, 0, 3)), {}),
    "sparse input": ((X.to_sparse(), V), {}),
    "quantised weight": ((X, quantized(V, torch.qint8)), {}),
}


def exception(function, arguments, keywords):
    try:
        function(*arguments, **keywords)
    except Exception as error:
        return error
    return None


def tensors(arguments):
    dense = [t for t in arguments if isinstance(t, torch.Tensor) and t.layout == torch.strided]
    return [t for t in dense if not t.is_quantized and not t.is_nested]


BAD_CALLS = {
    f"{name}: {label}": (name, *case)
    for name, cases in (("conv2d", CONV2D), ("conv_transpose2d", CONV_TRANSPOSE2D))
    for label, case in cases.items()
}
each_bad_call = pytest.mark.parametrize(
    ("name", "arguments", "keywords"), BAD_CALLS.values(), ids=BAD_CALLS
)


@each_bad_call
def test_same_exception_as_stock(name, arguments, keywords):
    before = [t.clone() for t in tensors(arguments)]
    stock = exception(getattr(F, name), arguments, keywords)
    with Ops() as ops:
        ours = exception(getattr(tfc.functional, name), arguments, keywords)
    assert not ops.seen, "found before anything is computed"
    assert stock is not None, "stock accepts this"
    assert ours is not None
    assert isinstance(ours, type(stock))
    assert len(str(ours)) > 15
    assert all(torch.equal(a, b) for a, b in zip(before, tensors(arguments), strict=True))


TRANSFORMS = {
    "grad": lambda f, t: grad(lambda t: f(t).sum())(t),
    "jvp": lambda f, t: jvp(f, (t,), (t,)),
    "vmap": lambda f, t: vmap(f)(torch.stack([t, t])),
    "vmap of grad": lambda f, t: vmap(grad(lambda t: f(t).sum()))(torch.stack([t, t])),
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@each_bad_call
def test_same_exception_under_transforms(name, arguments, keywords, transform):
    """Of the first dense tensor; type and message are eager's."""
    function = getattr(tfc.functional, name)
    eager = exception(function, arguments, keywords)
    dense = tensors(arguments)
    if not dense or not dense[0].is_floating_point():
        return  # there is nothing to transform

    def of(tensor):
        return function(*(tensor if t is dense[0] else t for t in arguments), **keywords)

    found = exception(transform, (of, dense[0]), {})
    assert type(found) is type(eager)
    assert str(found) == str(eager)


def assert_compiled_raises(name, arguments, keywords):
    torch._dynamo.reset()
    function = getattr(tfc.functional, name)
    eager = exception(function, arguments, keywords)
    compiled = torch.compile(lambda *a: function(*a, **keywords), backend="eager")
    assert type(exception(compiled, arguments, {})) is type(eager)


@pytest.mark.parametrize("label", ["3 channels", "stride 0", "weight float64", "input None"])
def test_same_exception_when_compiled(label):
    assert_compiled_raises("conv2d", *CONV2D[label])


@pytest.mark.slow
@pytest.mark.compiler
@each_bad_call
def test_same_exception_of_all_bad_calls_when_compiled(name, arguments, keywords):
    if any(isinstance(value, np.ndarray) for value in keywords.values()):
        pytest.skip("Dynamo takes arrays for tensors, and fails by itself")
    assert_compiled_raises(name, arguments, keywords)


def test_one_graph_of_a_bad_call_is_an_error_with_eagers_message():
    """Dynamo wraps an error that it meets in a full graph, with stock's convolution too."""
    compiled = torch.compile(tfc.functional.conv2d, fullgraph=True, backend="eager")
    with pytest.raises(RuntimeError, match="to have 4 channels, but got 3 channels instead"):
        compiled(X[:, :3], W)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [(9, 1), (1, 9)])
def test_padding_beyond_what_the_input_shows(mode, padding):
    layer = torch.nn.Conv2d(4, 2, 3, padding=padding, padding_mode=mode)
    twin = tfc.Conv2d(4, 2, 3, padding=padding, padding_mode=mode)
    for x in (X, X[:0, :, :0]):
        stock, ours = exception(layer, (x,), {}), exception(twin, (x,), {})
        assert type(ours) is type(stock)


@pytest.mark.parametrize("mode", ["reflect", "circular"])
@pytest.mark.parametrize("side", range(4))
def test_padding_of_one_side_beyond_what_the_input_shows(mode, side):
    """Of the layer and of its gradients; of an output that would be right."""
    f, padding = tfc.functional, [9 * (i == side) for i in range(4)]
    height, width = 4 + padding[2] + padding[3], 3 + padding[0] + padding[1]
    grad, how = X.new_ones(2, 6, height, width), {"padding": padding, "padding_mode": mode}
    for call in (
        lambda: f.conv2d(X, W, **how),
        lambda: f.conv2d_input_grad(X.shape, W, grad, **how),
        lambda: f.conv2d_weight_grad(X, W.shape, grad, **how),
    ):
        with pytest.raises(RuntimeError, match="Padding size should be at most"):
            call()


STRICTER = {  # stock accepts these
    "integers": ((X.long(), W.long()), {}, NotImplementedError, "int64 is not supported"),
    "meta and CPU": ((X, W.to("meta")), {}, RuntimeError, "same device"),
    "mkldnn input": ((X.to_mkldnn(), W), {}, NotImplementedError, "only dense tensors"),
    "half complex": ((X.to(torch.complex32),) * 2, {}, NotImplementedError, "not supported"),
    "padding_mode": ((X, W), {"padding_mode": "mirror"}, ValueError, "padding_mode must be"),
    "padding bytes": ((X, W), {"padding": b"same"}, TypeError, "padding must be an int"),
    "empty kernel of no channels": ((X[:, :0], W[:, :0, :0]), {}, RuntimeError, "not be empty"),
    "crop": ((X, W), {"padding": -1, "padding_mode": "reflect"}, RuntimeError, "crop the input"),
}


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize(
    ("arguments", "keywords", "error", "message"), STRICTER.values(), ids=STRICTER
)
def test_stricter_than_stock(arguments, keywords, error, message):
    with pytest.raises(error, match=message):
        tfc.functional.conv2d(*arguments, **keywords)


def test_nhwc_input_is_recognised():
    with pytest.raises(RuntimeError, match=re.escape("use input.permute(0, 3, 1, 2)")):
        tfc.functional.conv2d(X.permute(0, 2, 3, 1), W)
    with pytest.raises(RuntimeError, match=re.escape("use input.permute(2, 0, 1)")):
        tfc.functional.conv2d(X[0].permute(1, 2, 0), W)


@pytest.mark.parametrize(("name", "weight"), [("conv2d", W), ("conv_transpose2d", V)])
def test_autocast_casts_nothing_of_a_bad_call(name, weight):
    function, narrow = getattr(tfc.functional, name), X[:, :3]
    with torch.autocast("cpu", dtype=torch.bfloat16), Ops() as ops:
        with pytest.raises(RuntimeError, match="channels"):
            function(narrow, weight)
        assert not ops.seen
        function(X, weight)
    assert ops.seen


def test_only_layers_are_autocast():
    grad = X.new_ones(2, 6, 4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert tfc.functional.conv2d_input_grad(X.shape, W, grad).dtype == torch.float32
        with pytest.raises(RuntimeError, match="should be the same"):
            tfc.functional.conv2d_input_grad(X.shape, W.bfloat16(), grad)


G = torch.ones(2, 6, 4, 3)
GRADIENTS = {
    "grad of another size": (
        lambda f: f.conv2d_input_grad(X.shape, W, X),
        RuntimeError,
        "expected grad_output to have the output's size [2, 6, 4, 3], but got [2, 4, 6, 5]",
    ),
    "size of 3 axes": (
        lambda f: f.conv2d_input_grad((4, 6, 5), W, G),
        RuntimeError,
        "expected input_size to be the sizes of 4 axes",
    ),
    "weight 3-D": (
        lambda f: f.conv2d_input_grad(X.shape, W[0], G),
        RuntimeError,
        "Expected weight of 4 dimensions",
    ),
    "grad None": (
        lambda f: f.conv2d_input_grad(X.shape, W, None),
        TypeError,
        "argument 'grad_output' must be a Tensor",
    ),
    "size a float": (
        lambda f: f.conv2d_input_grad((2, 4, 6.0, 5), W, G),
        TypeError,
        "input_size must be an int, but got float",
    ),
    "size negative": (
        lambda f: f.conv2d_input_grad((2, 4, -6, 5), W, G),
        RuntimeError,
        "input_size must not be negative",
    ),
    "channels": (
        lambda f: f.conv2d_weight_grad(X, (6, 3, 3, 3), G),
        RuntimeError,
        "to have 3 channels, but got 4",
    ),
    "batch": (
        lambda f: f.conv2d_weight_grad(X, W.shape, G[:1]),
        RuntimeError,
        "the output's size [2, 6, 4, 3]",
    ),
    "kernel larger": (
        lambda f: f.conv2d_weight_grad(X, (6, 4, 3, 6), G),
        RuntimeError,
        "Kernel size can't be greater than actual input size",
    ),
    "grad dtype": (
        lambda f: f.conv2d_weight_grad(X, W.shape, G.double()),
        RuntimeError,
        "should be the same; convert one",
    ),
    "stride 0": (
        lambda f: f.conv2d_weight_grad(X, W.shape, G, stride=0),
        RuntimeError,
        "non-positive stride",
    ),
    "mode": (
        lambda f: f.correlate2d(X, X[0, 0], "wrap"),
        ValueError,
        "mode must be 'valid', 'same' or 'full'",
    ),
    "filter larger": (
        lambda f: f.correlate2d(X, X.new_ones(7, 2)),
        ValueError,
        "must not be larger than the input",
    ),
    "filter 3-D": (
        lambda f: f.convolve2d(X, X[0]),
        RuntimeError,
        "expects an input of (..., H, W) and a filter of (R, S)",
    ),
    "vector": (
        lambda f: f.convolve2d(X[0, 0, 0], X[0, 0]),
        RuntimeError,
        "expects an input of (..., H, W) and a filter of (R, S)",
    ),
    "empty filter": (
        lambda f: f.correlate2d(X, X.new_ones(0, 2)),
        RuntimeError,
        "expects matrices that are not empty",
    ),
    "empty matrix": (
        lambda f: f.convolve2d(X[..., :0], X[0, 0], "full"),
        RuntimeError,
        "expects matrices that are not empty",
    ),
    "matrix a list": (
        lambda f: f.correlate2d([[1.0]], X[0, 0]),
        TypeError,
        "argument 'input' must be a Tensor",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), GRADIENTS.values(), ids=GRADIENTS)
def test_gradients_and_matrices(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call(tfc.functional)
