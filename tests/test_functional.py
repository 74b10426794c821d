"""What a user calls, against stock PyTorch and SciPy."""

import inspect
import itertools

import numpy as np
import pytest
import scipy.signal
import torch
import torch.nn.functional as F

import torch_fullconv.functional as fullconv


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def double(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype)


# The post's example: a 3x3 input, a 2x2 filter.
X = torch.tensor([[1.0, 2.0, -3.0], [4.0, 0.5, 6.0], [-7.0, 8.0, 9.0]])
W = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
D = torch.tensor([[2.0, 3.0], [5.0, -7.0]])


def test_the_posts_equations():
    (x11, x12, x13), (x21, x22, x23), (x31, x32, x33) = X.tolist()
    (f11, f12), (f21, f22) = W.tolist()
    (d11, d12), (d21, d22) = D.tolist()
    output = [
        [
            f11 * x11 + f12 * x12 + f21 * x21 + f22 * x22,
            f11 * x12 + f12 * x13 + f21 * x22 + f22 * x23,
        ],
        [
            f11 * x21 + f12 * x22 + f21 * x31 + f22 * x32,
            f11 * x22 + f12 * x23 + f21 * x32 + f22 * x33,
        ],
    ]
    filter_gradient = [
        [
            d11 * x11 + d12 * x12 + d21 * x21 + d22 * x22,
            d11 * x12 + d12 * x13 + d21 * x22 + d22 * x23,
        ],
        [
            d11 * x21 + d12 * x22 + d21 * x31 + d22 * x32,
            d11 * x22 + d12 * x23 + d21 * x32 + d22 * x33,
        ],
    ]
    input_gradient = [
        [f11 * d11, f12 * d11 + f11 * d12, f12 * d12],
        [
            f21 * d11 + f11 * d21,
            f22 * d11 + f21 * d12 + f12 * d21 + f11 * d22,
            f22 * d12 + f12 * d22,
        ],
        [f21 * d21, f22 * d21 + f21 * d22, f22 * d22],
    ]
    assert fullconv.correlate2d(X, W).tolist() == output
    assert fullconv.correlate2d(X, D).tolist() == filter_gradient
    assert fullconv.convolve2d(D, W, "full").tolist() == input_gradient
    assert fullconv.correlate2d(D, fullconv.rotate180(W), "full").tolist() == input_gradient
    x, w = X[None, None].requires_grad_(), W[None, None].requires_grad_()
    fullconv.conv2d(x, w).backward(D[None, None])
    assert x.grad[0, 0].tolist() == input_gradient
    assert w.grad[0, 0].tolist() == filter_gradient


FORMS = [
    {},
    {"stride": 2},
    {"stride": (2,)},
    {"stride": [1, 2]},
    {"stride": np.int64(2)},
    {"padding": 1},
    {"padding": (2, 0)},
    {"padding": torch.Size([1, 2])},
    {"padding": "valid"},
    {"padding": "same"},
    {"padding": "same", "dilation": (1, 2)},
    {"dilation": 2, "padding": 2},
    {"stride": 2**62},
    {"groups": 2, "padding": 1, "stride": (3, 2)},
]


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
@pytest.mark.parametrize("keywords", FORMS, ids=str)
def test_conv2d_forms(keywords, batched):
    x, w, b = double(2, 4, 9, 8), double(6, 4 // keywords.get("groups", 1), 3, 2), double(6)
    x = x if batched else x[0]
    stock = F.conv2d(x.cpu(), w.cpu(), b.cpu(), **keywords)  # cuDNN refuses a stride of 2**62
    close(fullconv.conv2d(x, w, b, **keywords).cpu(), stock)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
def test_four_sided_padding(mode):
    x, w = double(2, 3, 5, 6), double(4, 3, 3, 3)
    padded = F.pad(x, (1, 3, 0, 2), mode={"zeros": "constant"}.get(mode, mode))
    actual = fullconv.conv2d(x, w, padding=(1, 3, 0, 2), padding_mode=mode)
    close(actual, F.conv2d(padded, w))


def test_no_channels_leave_the_bias():
    # Stock returns no filters here, whatever the weight's.
    bias = double(6)
    output = fullconv.conv2d(double(2, 0, 5, 5), double(6, 0, 3, 3), bias)
    assert torch.equal(output, bias[:, None, None].expand(2, 6, 3, 3))
    padded = fullconv.conv2d(double(2, 0, 0, 5), double(6, 0, 1, 3), bias, padding=1)
    assert torch.equal(padded, bias[:, None, None].expand(2, 6, 2, 5))


@pytest.mark.parametrize(
    ("name", "kernel", "padding"), [("conv2d", 1, 1), ("conv2d", 2, 1), ("conv_transpose2d", 3, 0)]
)
def test_no_samples_of_no_rows(name, kernel, padding):
    """Padding, or the kernel's reach, makes rows of none."""
    found = []
    for module in (fullconv, F):
        x, w = double(0, 2, 0, 5).requires_grad_(), double(2, 2, kernel, kernel).requires_grad_()
        y = getattr(module, name)(x, w, padding=padding)
        found.append((y, *torch.autograd.grad(y.sum(), (x, w))))
    close(*found)


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "unbatched"])
@pytest.mark.parametrize(
    "keywords",
    [
        {},
        {"stride": 2, "output_padding": 1},
        {"stride": (3, 2), "padding": (2, 1), "output_padding": (2, 0)},
        {"dilation": 3, "output_padding": 2},
        {"stride": 2, "dilation": 4, "output_padding": (3, 2), "padding": 1},
        {"groups": 2, "padding": 1, "stride": 4},
    ],
    ids=str,
)
def test_conv_transpose2d_forms(keywords, batched):
    x, w, b = double(2, 4, 5, 4), double(4, 3, 3, 2), double(3 * keywords.get("groups", 1))
    x = (x if batched else x[0]).requires_grad_()
    ours, stock = (f(x, w, b, **keywords) for f in (fullconv.conv_transpose2d, F.conv_transpose2d))
    close(ours, stock)
    weights = torch.randn_like(stock)
    close(*(torch.autograd.grad(y, x, weights)[0] for y in (ours, stock)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(
    "layer",
    [{}, {"stride": 2}, {"stride": (3, 2), "padding": (2, 1)}, {"dilation": 2, "groups": 2}],
    ids=str,
)
def test_gradients_alone(layer, dtype):
    x = double(2, 4, 8, 9, dtype=dtype).requires_grad_()
    w = double(6, 4 // layer.get("groups", 1), 3, 2, dtype=dtype).requires_grad_()
    y = F.conv2d(x, w, **layer)
    g = torch.randn_like(y)
    by_input, by_weight = torch.autograd.grad(y, (x, w), g, retain_graph=True)
    close(fullconv.conv2d_input_grad(x.shape, w, g, **layer), by_input)
    close(fullconv.conv2d_weight_grad(x, w.shape, g, **layer), by_weight)
    each = fullconv.conv2d_weight_grad(x, w.shape, g, per_sample=True, **layer)
    assert each.shape == (2, *w.shape)
    for n in range(2):
        alone = torch.zeros_like(g)
        alone[n] = g[n]
        close(each[n], torch.autograd.grad(y, w, alone, retain_graph=True)[0])


def test_per_sample_gradients_of_no_samples():
    each = fullconv.conv2d_weight_grad(
        double(0, 4, 5, 5), (6, 4, 3, 3), double(0, 6, 3, 3), per_sample=True
    )
    assert each.shape == (0, 6, 4, 3, 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("mode", ["valid", "same", "full"])
@pytest.mark.parametrize("shape", list(itertools.product((1, 2, 3, 4), (1, 3, 4))), ids=str)
def test_scipy(shape, mode, dtype):
    x, w = double(5, 6, dtype=dtype), double(*shape, dtype=dtype)
    for name in ("correlate2d", "convolve2d"):
        expected = getattr(scipy.signal, name)(x.numpy(force=True), w.numpy(force=True), mode)
        actual = getattr(fullconv, name)(x, w, mode)
        close(actual, torch.asarray(np.ascontiguousarray(expected)))
        batch = torch.stack([x, 2 * x])[:, None]
        close(getattr(fullconv, name)(batch, w, mode)[1, 0], 2 * actual)


@pytest.mark.parametrize("mode", ["same", "full"])
def test_scipy_filter_larger_than_the_matrix(mode):
    x, w = double(2, 3), double(4, 5)
    expected = scipy.signal.convolve2d(x.numpy(force=True), w.numpy(force=True), mode)
    close(fullconv.convolve2d(x, w, mode), torch.asarray(expected))


def test_matrices_are_differentiable():
    x, w = double(4, 5).requires_grad_(), double(2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: fullconv.convolve2d(x, w, "same"), (x, w))


@pytest.mark.parametrize("function", ["conv2d", "conv_transpose2d"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_as_stock(function, dtype):
    ours, stock = getattr(fullconv, function), getattr(F, function)
    x, w, b = torch.randn(2, 4, 6, 5), torch.randn(4, 4, 3, 3, requires_grad=True), torch.randn(4)
    with torch.autocast(torch.get_default_device().type, dtype=dtype):
        for arguments in (
            (x, w, b),
            (x.half(), w, b),
            (x.to(torch.float8_e4m3fn), w, b),
            (x.double(), w.double()),
            (x + 0j, w + 0j),
        ):
            assert ours(*arguments).dtype == stock(*arguments).dtype
        with pytest.raises(RuntimeError):
            ours(x.double(), w)
        result = ours(x, w, b)
    result.float().sum().backward()
    assert w.grad.dtype == torch.float32
    assert result.isclose(stock(x, w, b).to(dtype), rtol=0.05, atol=0.05).all()


@pytest.mark.parametrize("function", ["conv2d", "conv_transpose2d"])
def test_autocast_leaves_meta_tensors_as_stock(function):
    x, w = torch.empty(2, 4, 6, 5, device="meta"), torch.empty(4, 4, 3, 3, device="meta")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, stock = getattr(fullconv, function)(x, w), getattr(F, function)(x, w)
    assert (ours.dtype, ours.shape) == (stock.dtype, stock.shape)


EXPORTED = {
    "conv2d": lambda x, w: fullconv.conv2d(x, w, padding="same", padding_mode="reflect"),
    "conv_transpose2d": lambda x, w: fullconv.conv_transpose2d(x, w, stride=2, output_padding=1),
    "conv2d_input_grad": lambda x, w: fullconv.conv2d_input_grad(x.shape, w, x[:, :, 2:, 2:]),
}


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "lax"])
@pytest.mark.parametrize("name", EXPORTED)
def test_sizes_stay_free_in_an_export(name, strict):
    class Layer(torch.nn.Module):
        def forward(self, x, w):
            return EXPORTED[name](x, w)

    free = {0: torch.export.Dim("n"), 2: torch.export.Dim("height", min=4)}
    x, w = double(2, 4, 9, 8), double(4, 4, 3, 3)
    program = torch.export.export(Layer(), (x, w), dynamic_shapes=(free, None), strict=strict)
    x = double(3, 4, 12, 8)
    close(program.module()(x, w), EXPORTED[name](x, w))


class Seen(torch.Tensor):
    """Gives what it is asked to do."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return function, inspect.signature(function).bind(*args, **(kwargs or {})).arguments


SEEN = double(1, 1, 3, 3).as_subclass(Seen)
EVERY_ARGUMENT = {
    "conv2d": (SEEN, W, D, (2, 1), (1, 2), (1, 3), 2, "circular"),
    "conv_transpose2d": (SEEN, W, D, (2, 1), (1, 2), (1, 0), 2, (1, 3)),
    "relu": (SEEN, True),
    "max_pool2d": (SEEN, 3, 2, 1, (1, 3), True, True),
    "avg_pool2d": (SEEN, 3, 2, 1, True, False, 5),
}


@pytest.mark.parametrize("name", EVERY_ARGUMENT)
def test_a_subclass_of_tensor_gets_every_argument(name):
    function, arguments = getattr(fullconv, name), EVERY_ARGUMENT[name]
    asked, found = function(*arguments)
    assert asked is function
    assert [*found] == [*inspect.signature(function).parameters]
    assert all(a is b for a, b in zip(found.values(), arguments, strict=True))
