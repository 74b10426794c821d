"""relu, max_pool2d and avg_pool2d: stock's values, formats, errors and derivatives, to the bit.

Forward results are stock's own bits, indices too (but the signs of averages' zeros). Gradients of
small integers are exact sums, in every dtype but averages' 16-bit ones, where stock rounds each
addition: those are compared with stock's in float64, rounded once.
"""

import pickle
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import BF16, F16, F32, F64, ident
from functions import Calls
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from layouts import channels_last, layouts, on_cpu
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, jacfwd, jacrev, jvp, vmap
from torch.testing._internal.common_methods_invocations import op_db

import torch_fullconv as tfc
from torch_fullconv import functional, pool_ops, reference

NAMES = ("relu", "max_pool2d", "avg_pool2d")
OPS = {name: next(op for op in op_db if op.name == f"nn.functional.{name}") for name in NAMES}
FLOATS = (F32, F64, BF16, F16)
DEVICE = torch.get_default_device().type
pytestmark = pytest.mark.usefixtures("poisoned_results")


def assert_same_bits(ours: Any, stock: Any) -> None:
    """Equal also in the sign of a zero; any NaN equals any other."""
    pairs = zip(ours, stock, strict=True) if isinstance(ours, tuple) else ((ours, stock),)
    for a, b in pairs:
        assert (a.dtype, a.stride()) == (b.dtype, b.stride())
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        number = ~b.isnan()
        assert torch.equal(a.signbit() & number, b.signbit() & number)


def last(value: Any) -> Any:
    return channels_last(value) if isinstance(value, Tensor) and value.dim() == 4 else value


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(n, d) for n in NAMES for d in sorted(OPS[n].supported_dtypes(DEVICE), key=str)],
    ids=ident,
)
def test_samples_are_stocks_to_the_bit(name, dtype):
    for index, sample in enumerate(OPS[name].sample_inputs(DEVICE, dtype)):
        if index % 11 and name == "max_pool2d":  # there are 1440
            continue
        for placed in (sample, sample.noncontiguous(), sample.transform(last)):
            arguments = placed.input, *placed.args
            assert_same_bits(
                getattr(functional, name)(*arguments, **placed.kwargs),
                getattr(F, name)(*arguments, **placed.kwargs),
            )


def test_what_ships():
    """Floors: more samples or errors in a later torch are taken up by themselves."""
    assert len(list(OPS["max_pool2d"].sample_inputs(DEVICE, F32))) >= 1000
    assert len(list(OPS["avg_pool2d"].sample_inputs(DEVICE, F32))) >= 7
    assert len(list(OPS["max_pool2d"].error_inputs(DEVICE))) >= 7
    assert len(list(OPS["avg_pool2d"].error_inputs(DEVICE))) >= 5


@pytest.mark.parametrize(
    ("name", "error"),
    [
        pytest.param(name, error, id=f"{name}-{i}")
        for name in NAMES[1:]
        for i, error in enumerate(OPS[name].error_inputs(DEVICE))
    ],
)
def test_error_inputs(name, error):
    sample = error.sample_input
    for function in (getattr(F, name), getattr(functional, name)):
        with pytest.raises(error.error_type, match=error.error_regex):
            function(sample.input, *sample.args, **sample.kwargs)


BAD = [
    ("relu", (torch.ones(3, dtype=torch.bool),)),
    ("relu", (torch.ones(3, dtype=torch.complex64),)),
    ("relu", ([1.0],)),
    ("relu", (torch.ones(2, requires_grad=True), True)),
    ("relu", (torch.ones(1).expand(3), True)),
    ("max_pool2d", (torch.ones(1, 2, 4, 4, dtype=torch.complex64), 2)),
    ("max_pool2d", (torch.ones(1, 2, 4, 4, dtype=torch.bool), 2)),
    ("avg_pool2d", (torch.ones(1, 2, 4, 4, dtype=torch.int32), 2)),
    ("max_pool2d", (torch.ones(4, 4), 2)),
    ("max_pool2d", (torch.ones(1, 2, 4, 4), 0)),
    ("max_pool2d", (torch.ones(1, 2, 4, 4), -1)),
    ("max_pool2d", (torch.ones(1, 2, 4, 4), 2, 0)),
    ("max_pool2d", (torch.ones(1, 2, 4, 4), 2, 1, 0, 0)),
    ("max_pool2d", (torch.ones(1, 2, 4, 4), 2, 1, 2)),
    ("max_pool2d", (torch.ones(1, 1, 8, 8), 2, 1, 2, 3)),  # half of the kernel's reach
    ("max_pool2d", (torch.ones(1, 2, 4, 4), (1, 2, 3))),
    ("max_pool2d", (torch.ones(1, 2, 4, 4), 2.0)),
    ("max_pool2d", (torch.ones(1, 2, 4, 4), 2, None, 0, 9)),
    ("avg_pool2d", (torch.ones(1, 2, 4, 4), 5)),
    ("avg_pool2d", (torch.ones(2, 0, 4, 4), 2)),
    ("avg_pool2d", (torch.ones(1, 2, 4, 4), 2, None, 0, False, True, 0)),
]


@pytest.mark.parametrize(("name", "arguments"), BAD, ids=str)
def test_errors_are_stocks(name, arguments):
    with pytest.raises(Exception) as stock:  # noqa: PT011
        getattr(F, name)(*arguments)
    with pytest.raises(type(stock.value)):
        getattr(functional, name)(*arguments)
    if isinstance(arguments[0], Tensor):
        assert not arguments[0].isnan().any()


# Ties, NaN, infinities, zeros of both signs: all of them among neighbours.
SPECIAL = [0.0, -0.0, 1.0, 1.0, -1.0, float("nan"), float("inf"), -float("inf")]


def special(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    values = torch.tensor(SPECIAL, dtype=F64).to(dtype)
    return values[torch.randint(len(SPECIAL), shape, generator=generator)]


def integers(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator(torch.get_default_device()).manual_seed(seed)
    return torch.randint(-3, 4, shape, generator=generator).to(dtype)


@st.composite
def windows(draw: Any, dilated: bool) -> tuple[tuple[int, ...], dict[str, Any]]:
    """An input's shape and a layer's options, with some output."""
    n, c = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 5, 16, 17, 35, 70]))
    options: dict[str, tuple[int, int]] = {}
    size, axes = [], []
    for _ in "hw":
        length = draw(st.integers(1, 12) | st.sampled_from([17, 33, 50]))
        dilation = draw(st.integers(1, 3)) if dilated else 1
        kernel = draw(st.integers(1, 5))
        pad = draw(st.integers(0, kernel // 2))
        if dilated and draw(st.integers(0, 7)) == 0:  # taps on both sides of all elements
            kernel, pad, dilation = 2, 1, length + 1
        assume(length + 2 * pad > dilation * (kernel - 1))
        size.append(length)
        axes.append((kernel, draw(st.sampled_from([1, 2, 3, 4, 2**31 - 1])), pad, dilation))
    for index, key in enumerate(("kernel_size", "stride", "padding", "dilation")[: 3 + dilated]):
        options[key] = (axes[0][index], axes[1][index])
    return (n, c, *size), {**options, "ceil_mode": draw(st.booleans())}


@settings(max_examples=250)
@given(windows(True), layouts, st.sampled_from(FLOATS), st.integers(0, 99))
def test_max_pool2d_is_stocks_to_the_bit(layer, layout, dtype, seed):
    """Values, indices and gradients, of any layer, with ties and NaN."""
    shape, options = layer
    x = layout(special(shape, dtype, seed))
    stock = F.max_pool2d(on_cpu(x), **options, return_indices=True)
    ours = functional.max_pool2d(x, **options, return_indices=True)
    assert_same_bits(tuple(map(on_cpu, ours)), stock)
    assert_same_bits(on_cpu(functional.max_pool2d(x, **options)), stock[0])
    assume(int(stock[1].min()) >= 0 and int(stock[1].max()) < shape[2] * shape[3])
    g = integers(stock[0].shape, dtype, seed)
    leaf = x.detach().requires_grad_()
    found = torch.autograd.grad(functional.max_pool2d(leaf, **options), leaf, layout(g))[0]
    expected = torch.zeros(shape[0], shape[1], shape[2] * shape[3], dtype=F64)
    expected.scatter_add_(2, ours[1].flatten(2), layout(g).to(F64).flatten(2))
    assert torch.equal(found, expected.view(shape).to(dtype))


@pytest.mark.parametrize("dtype", FLOATS, ids=ident)
@pytest.mark.parametrize("size", [(61, 45), (300, 7), (5, 1200), (4, 5000)], ids=str)
def test_large_planes_are_cut_anywhere(dtype, size):
    """Into bands of rows, down to one, whose windows reach into the next."""
    x = special((3, 11, *size), dtype)
    for layer in ((3, 2, 1), (2, 1, 1), ((3, 2), (1, 2), (1, 0), (2, 1), True)):
        stock = F.max_pool2d(on_cpu(x), *layer, return_indices=True)
        ours = functional.max_pool2d(x, *layer, return_indices=True)
        assert_same_bits(tuple(map(on_cpu, ours)), stock)
        assert_same_bits(on_cpu(functional.max_pool2d(x, *layer)), stock[0])
    x = integers((3, 11, *size), F32).to(dtype)
    for layer in ((2, 2), (4, 2, 1), (4, 2, 1, True, False)):
        stock = F.avg_pool2d(on_cpu(x), *layer)
        torch.testing.assert_close(on_cpu(functional.avg_pool2d(x, *layer)), stock, rtol=0, atol=0)
        if layer[-1] is False:
            continue  # whose gradients are rounded before they are added
        found, g = [], integers(stock.shape, F32).to(dtype)
        for module, device in ((functional, DEVICE), (F, "cpu")):
            leaf = x.detach().to(device).requires_grad_()
            y = module.avg_pool2d(leaf, *layer)
            found.append(torch.autograd.grad(y, leaf, g.to(device))[0].cpu())
        torch.testing.assert_close(*found, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("size", "padding", "dilation"),
    [((17, 1), (0, 1), (1, 2)), ((9, 3), (0, 1), (2, 4)), ((1, 5), (1, 0), (2, 1)), ((1, 1), 1, 2)],
    ids=["columns", "strided", "rows", "both"],
)
@pytest.mark.parametrize("place", [Tensor.contiguous, channels_last], ids=ident)
@pytest.mark.parametrize(
    "dtype", sorted(OPS["max_pool2d"].supported_dtypes(DEVICE), key=str), ids=ident
)
def test_windows_that_meet_no_element(dtype, place, size, padding, dilation):
    """Stock gives them the lowest number and an index counted on: another window's, or nobody's.

    On CUDA it gives 0 in channels_last.
    """
    layer = 2, 1, padding, dilation, False, True
    for channels in (1, 6, 16, 35):
        x = place(integers((2, channels, *size), dtype))
        stock = F.max_pool2d(on_cpu(x), *layer)
        assert_same_bits(tuple(map(on_cpu, functional.max_pool2d(x, *layer))), stock)
        assert_same_bits(on_cpu(functional.max_pool2d(x, *layer[:-1])), stock[0])
        if not dtype.is_floating_point or int(stock[1].max()) >= size[0] * size[1]:
            continue  # without gradients, or such that stock writes outside the tensor
        g, u = place(integers(stock[0].shape, dtype, 1)), place(integers(x.shape, dtype, 2))
        found = []
        for module, device in ((functional, DEVICE), (F, "cpu")):
            leaf, weights = (t.detach().to(device).requires_grad_() for t in (x, g))
            y, _ = module.max_pool2d(leaf, *layer)
            first = torch.autograd.grad(y, leaf, weights, create_graph=True)[0]
            second = torch.autograd.grad(first, weights, u.to(device))[0]
            found.append((first.detach().cpu(), second.cpu()))
        torch.testing.assert_close(*found, rtol=0, atol=0)
        assert found[0][0].count_nonzero() > 0


@settings(max_examples=250)
@given(
    windows(False),
    layouts,
    st.sampled_from(FLOATS),
    st.booleans(),
    st.sampled_from([None, 1, -3, 4]),
)
def test_avg_pool2d_is_stocks(layer, layout, dtype, count_include_pad, divisor):
    shape, options = layer
    options = {
        **options,
        "count_include_pad": count_include_pad,
        "divisor_override": divisor,
    }
    x = layout(integers(shape, dtype))
    output, stock = functional.avg_pool2d(x, **options), F.avg_pool2d(on_cpu(x), **options)
    assert output.stride() == stock.stride()
    torch.testing.assert_close(output.cpu(), stock, rtol=0, atol=0)
    g, found = layout(integers(tuple(output.shape), dtype)), []
    for module, leaf, weights in (
        (functional, x.detach(), g),
        # On CUDA stock's gradient is wrong in channels_last with padding (pytorch #188344).
        (F, on_cpu(x.detach()).to(F64), on_cpu(g).to(F64)),
    ):
        y = module.avg_pool2d(leaf.requires_grad_(), **options)
        found.append(torch.autograd.grad(y, leaf, weights)[0].cpu())
    exact = found[1].to(dtype)
    spacing = torch.finfo(dtype).eps
    torch.testing.assert_close(found[0], exact, rtol=2 * spacing, atol=8 * torch.finfo(F32).eps)


@pytest.mark.parametrize("dtype", [F32, F64], ids=ident)
def test_pooling_is_the_references(dtype):
    for kernel, stride, pad in product((1, 2, 3), (1, 2), (0, 1)):
        if pad > kernel // 2:
            continue
        x = integers((2, 3, 7, 6), dtype)
        pairs = (kernel, kernel), (stride, stride), (pad, pad)
        output, indices = functional.max_pool2d(x, *pairs, return_indices=True)
        exact = reference.max_pool2d(x.cpu().numpy(), *pairs)
        assert torch.equal(output.to("cpu", F64), torch.from_numpy(exact[0]))
        assert torch.equal(indices.cpu(), torch.from_numpy(exact[1]))
        mean = torch.from_numpy(reference.avg_pool2d(x.cpu().numpy(), *pairs))
        torch.testing.assert_close(functional.avg_pool2d(x, *pairs).to("cpu", F64), mean)


LAYERS: dict[str, Any] = {
    "relu": lambda x: functional.relu(x),
    "max": lambda x: functional.max_pool2d(x, (3, 2), (2, 1), 1, (1, 2), True),
    "max_overlapping": lambda x: functional.max_pool2d(x, 3, 1, 1),
    "average": lambda x: functional.avg_pool2d(x, (3, 2), (2, 1), 1, True, False),
    "average_of_gaps": lambda x: functional.avg_pool2d(x, 2, 3, divisor_override=-3),
}
STOCK: dict[str, Any] = {
    "relu": lambda x: F.relu(x),
    "max": lambda x: F.max_pool2d(x, (3, 2), (2, 1), 1, (1, 2), True),
    "max_overlapping": lambda x: F.max_pool2d(x, 3, 1, 1),
    "average": lambda x: F.avg_pool2d(x, (3, 2), (2, 1), 1, True, False),
    "average_of_gaps": lambda x: F.avg_pool2d(x, 2, 3, divisor_override=-3),
}
each_layer = pytest.mark.parametrize("name", LAYERS)


def image(*shape: int) -> Tensor:
    return torch.randn(
        shape, generator=torch.Generator(torch.get_default_device()).manual_seed(3), dtype=F64
    )


@each_layer
def test_derivatives_are_the_numerical_ones(name):
    x = image(2, 2, 5, 4).requires_grad_()
    checks = {"check_batched_grad": True}
    assert gradcheck(
        LAYERS[name], x, check_forward_ad=True, check_batched_forward_grad=True, **checks
    )
    assert gradgradcheck(LAYERS[name], x, check_fwd_over_rev=True, **checks)


@each_layer
def test_transforms_are_stocks_and_loop_nowhere(name):
    x = image(3, 2, 2, 5, 4)

    def each(f: Any) -> tuple[Tensor, ...]:
        def loss(x: Tensor) -> Tensor:
            return (f(x).sin() * f(x)).sum()

        third = grad(lambda x: grad(lambda x: grad(loss)(x).sin().sum())(x).sin().sum())
        return (
            vmap(f)(x),
            vmap(f, in_dims=2, out_dims=1)(x.movedim(0, 2)),
            vmap(grad(loss))(x),
            vmap(vmap(lambda x: f(x[None])))(x),
            jvp(grad(loss), (x[0],), (x[1],))[1],
            jvp(lambda x: jvp(lambda x: f(x * x), (x,), (x,))[1], (x[0],), (x[1],))[1],
            third(x[0]),
            jacrev(f)(x[0, :1, :1]),
            jacfwd(f)(x[0, :1, :1]),
        )

    with Calls() as calls:
        vmap(LAYERS[name])(x)
    assert len(calls.names) == 1
    torch.testing.assert_close(each(LAYERS[name]), each(STOCK[name]))


@each_layer
def test_vectorized_jacobians_of_torch_autograd_keep_their_graph(name):
    """They are torch.func's, and so are their derivatives."""
    x = image(1, 1, 4, 3).requires_grad_()

    def loss(jacobian: Any) -> Tensor:
        return (jacobian.square() * x.cos()).sum()

    f = lambda x: LAYERS[name](x.sin()).sin()  # noqa: E731
    found = torch.autograd.functional.jacobian(f, x, vectorize=True, create_graph=True)
    with Calls() as calls:
        slope = torch.autograd.grad(loss(found), x)
    assert len(calls.names) == 2
    expected = jacrev(f)(x)
    torch.testing.assert_close((found, slope), (expected, torch.autograd.grad(loss(expected), x)))


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@each_layer
def test_compiled_in_one_graph(name, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(LAYERS[name], fullgraph=True, backend="aot_eager", dynamic=dynamic)
    found = []
    for function in (compiled, STOCK[name]):
        x = image(2, 3, 6, 5).requires_grad_()
        y = function(x)
        found.append((y, *torch.autograd.grad(y.square().sum(), x)))
    torch.testing.assert_close(*found)
    weights = image(2, 3, 6, 5)

    def both(f: Any) -> Any:
        return lambda w: grad(lambda w: f(w).square().sum())(w)

    transformed = torch.compile(both(LAYERS[name]), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(transformed(weights), both(STOCK[name])(weights))


@pytest.mark.parametrize("place", [Tensor.contiguous, channels_last], ids=ident)
def test_opcheck(place):
    raw = torch.ops.torch_fullconv
    x = place(image(2, 17, 6, 5).float())
    layer = (3, 2, 2, 1, 1, 1, 1, 1, 1)
    y, indices = raw.max_pool2d_indices(x, *layer)
    g = place(torch.ones_like(y))
    for op, arguments in (
        (raw.relu, (x,)),
        (raw.relu_, (x.clone(),)),
        (raw.relu_grad, (x, x)),
        (raw.max_pool2d, (x, *layer)),
        (raw.max_pool2d_indices, (x, *layer)),
        (raw.max_gather, (x, indices, *layer)),
        (raw.max_scatter, (g, indices, *layer, 6, 5)),
        (raw.avg_pool2d, (x, *layer, True, 0)),
        (raw.avg_pool2d_adjoint, (g, *layer, False, 0, 6, 5)),
    ):
        found = torch.library.opcheck(op.default, arguments)
        assert set(found.values()) == {"SUCCESS"}, op


def test_no_division_stops_the_process():
    """Stock's average of the lowest integer, divided by -1, does."""
    lowest = torch.full((1, 1, 4, 40), -(2**63))
    for x in (lowest, lowest.transpose(1, 3)):
        assert torch.equal(functional.avg_pool2d(x, 1, divisor_override=-1), x)
        assert torch.equal(functional.avg_pool2d(x + 1, 1, divisor_override=-1), -x - 1)
    windows = pool_ops.Windows(1, 1, 1, 1, 3, 3)
    with pytest.raises(RuntimeError, match="a window must meet the input"):
        pool_ops.avg_pool2d(lowest, windows, pool_ops.Divisor(count_include_pad=False))


def test_wrong_indices_reach_no_memory():
    raw, layer = torch.ops.torch_fullconv, (2, 2, 2, 2, 0, 0, 1, 1, 0)
    wrong = torch.tensor([-1, 2**62, -(2**63), 16]).view(1, 1, 2, 2)
    ones = torch.ones(1, 1, 4, 4)
    assert raw.max_gather(ones, wrong, *layer).abs().sum() == 0
    assert raw.max_scatter(ones[..., :2, :2], wrong, *layer, 4, 4).abs().sum() == 0
    for bad in ((0, 2, 2, 2, 0, 0, 1, 1, 0), (9, 9, 2, 2, 0, 0, 1, 1, 0)):
        with pytest.raises(RuntimeError, match="torch_fullconv: "):
            raw.max_pool2d(ones, *bad)


MODULES = [
    ("ReLU", (), {}),
    ("ReLU", (), {"inplace": True}),
    ("MaxPool2d", (2,), {}),
    ("MaxPool2d", (3,), {"stride": 2, "padding": 1, "dilation": 1, "ceil_mode": True}),
    ("MaxPool2d", ((2, 3),), {"return_indices": True}),
    ("AvgPool2d", (2,), {}),
    ("AvgPool2d", (3,), {"stride": 1, "padding": 1, "count_include_pad": False}),
    ("AvgPool2d", (2,), {"ceil_mode": True, "divisor_override": 3}),
]


@pytest.mark.parametrize(("name", "arguments", "keywords"), MODULES, ids=str)
def test_modules_are_drop_in(name, arguments, keywords):
    ours, stock = (getattr(m, name)(*arguments, **keywords) for m in (tfc, nn))
    assert isinstance(ours, type(stock))
    assert repr(ours) == repr(stock)
    assert {k for k in vars(ours) if k != "training"} == {k for k in vars(stock) if k != "training"}
    for x in (image(2, 3, 9, 8), image(3, 9, 8)):
        assert_same_bits(ours(x.clone()), stock(x.clone()))
    assert type(pickle.loads(pickle.dumps(ours))) is type(ours)


@pytest.mark.parametrize("place", [Tensor.contiguous, channels_last], ids=ident)
@pytest.mark.parametrize("dtype", FLOATS, ids=ident)
def test_any_threads_and_any_batch_give_the_same_bits(dtype, place, threads):
    def run(x: Tensor) -> list[Tensor]:
        found = []
        for f in LAYERS.values():
            leaf = x.detach().requires_grad_()
            y = f(leaf)
            g = (y.detach() * 3).sin()
            found += [y.detach(), torch.autograd.grad(y, leaf, g)[0]]
        return found

    for channels in (33, 5):
        x = place(image(6, channels, 40, 37).to(dtype))
        torch.set_num_threads(1)
        expected = run(x)
        for count in (2, 5):
            torch.set_num_threads(count)
            for a, b in zip(run(x), expected, strict=True):
                assert torch.equal(a, b)
        for a, b in zip(run(x[4:5]), expected, strict=True):
            assert torch.equal(a, b[4:5])


def test_empty_batches_and_indices_only_where_they_are_wanted():
    for f, s in zip(LAYERS.values(), STOCK.values(), strict=True):
        x = torch.zeros(0, 3, 6, 5, requires_grad=True)
        assert f(x).shape == s(x).shape
        assert torch.autograd.grad(f(x).sum(), x)[0].shape == x.shape
    assert functional.relu(torch.zeros(0)).shape == (0,)
    assert functional.relu(torch.tensor(-2.0)).item() == 0
    with Calls() as calls:
        functional.max_pool2d(image(1, 1, 4, 4), 2)
        functional.max_pool2d(image(1, 1, 4, 4).requires_grad_(), 2)
    assert calls.names == ["max_pool2d", "max_pool2d_indices"]
