"""Bad calls of what test_errors.py leaves: pooling, gradients, modules, raw ops and all the rest.

Each raises the type that stock raises, where stock has the function, and leaves its arguments as
they were and the process able to make the next call.
"""

import resource
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from functions import Ops
from torch import Tensor, nn

import torch_fullconv as tfc
from torch_fullconv.explanation import Shape

X, W, G = torch.randn(2, 4, 6, 5), torch.randn(6, 4, 3, 3), torch.randn(2, 6, 4, 3)
OPS = torch.ops.torch_fullconv
FREED_STORAGE = "a tensor's storage was freed or is too small for it"


def exception(call: Callable[[], object]) -> Exception | None:
    try:
        call()
    except Exception as error:
        return error
    return None


def dense(arguments: tuple) -> list[Tensor]:
    tensors = [t for t in arguments if isinstance(t, Tensor)]
    return [t for t in tensors if t.layout == torch.strided and not t.is_nested]


def assert_raises(expected: type[Exception], call: Callable[..., object], *args: object, **kwargs):
    """That exception, by our checks; the arguments' bits and versions stay; then a good call works.

    The ops would find most of it too, in other words; a storage that was freed only they see.
    """
    tensors = dense(args)
    before = [(t.detach().clone(), t._version) for t in tensors]
    with Ops() as ops:
        found = exception(lambda: call(*args, **kwargs))
    assert isinstance(found, expected), repr(found)
    if FREED_STORAGE not in str(found):
        assert not any(op.namespace == "torch_fullconv" for op in ops.seen)
    assert len(str(found)) > 15
    for t, (copy, version) in zip(tensors, before, strict=True):
        assert torch.equal(t, copy)
        assert t._version == version
    assert torch.equal(tfc.functional.conv2d(torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2)), FOUR)


FOUR = torch.full((1, 1, 1, 1), 4.0)

# Sizes: none, negative, of the wrong type or number, beyond 31, 40 and 64 bits.
NUMBERS = (0, -1, 1.5, "2", (1, 2, 3), (0, 1), 2**31, 2**40, 2**62, 2**63, -(2**63))
POOLING = {
    f"{name}: {label}": (name, arguments, keywords)
    for name in ("max_pool2d", "avg_pool2d")
    for label, arguments, keywords in (
        ("None", (None, 2), {}),
        ("a list", ([[1.0]], 2), {}),
        ("no kernel", (X,), {}),
        ("unknown keyword", (X, 2), {"strides": 1}),
        ("5-D", (X[None], 2), {}),
        ("no channels", (X[:, :0], 2), {}),
        ("no rows", (X[:, :, :0], 2), {}),
        ("bool", (X.bool(), 2), {}),
        ("complex", (X + 0j, 2), {}),
        ("float8", (X.to(torch.float8_e4m3fn), 2), {}),
        ("sparse", (X.to_sparse(), 2), {}),
        ("nested", (torch.nested.nested_tensor([X[0], X[1]]), 2), {}),
        ("larger", (X, 7), {}),
        ("padding beyond half", (X, 2), {"padding": 2}),
        *((f"kernel {n!r}", (X, n), {}) for n in NUMBERS),
        *((f"stride {n!r}", (X, 2), {"stride": n}) for n in NUMBERS),
        *((f"padding {n!r}", (X, 2), {"padding": n}) for n in NUMBERS if n not in (0, (0, 1))),
        *((f"dilation {n!r}", (X, 2), {"dilation": n}) for n in NUMBERS if name == "max_pool2d"),
    )
}
POOLING |= {
    f"{name}: {keyword} {value!r}": (name, (X, 2), {keyword: value})
    for name, keyword in (
        ("max_pool2d", "ceil_mode"),
        ("avg_pool2d", "ceil_mode"),
        ("avg_pool2d", "count_include_pad"),
    )
    for value in ("False", 1, None, np.bool_(True), torch.tensor(True))
}
POOLING |= {
    "avg_pool2d: divisor 0": ("avg_pool2d", (X, 2), {"divisor_override": 0}),
    "avg_pool2d: divisor float": ("avg_pool2d", (X, 2), {"divisor_override": 1.5}),
    "avg_pool2d: divisor 2^63": ("avg_pool2d", (X, 2), {"divisor_override": 2**63}),
    "relu: None": ("relu", (None,), {}),
    "relu: a float": ("relu", (1.0,), {}),
    "relu: bool": ("relu", (X.bool(),), {}),
    "relu: complex": ("relu", (X + 0j,), {}),
    "relu: in place, a leaf": ("relu", (X.clone().requires_grad_(), True), {}),
    "relu: in place, expanded": ("relu", (X[:1].expand(3, 4, 6, 5), True), {}),
    "relu: unknown keyword": ("relu", (X,), {"in_place": True}),
}
# A stride that no image is as long as leaves one window: stock's is a 32-bit number.
LONG_STRIDES = {f"{n}: stride {s}" for n in ("max_pool2d", "avg_pool2d") for s in (2**31, 2**40)}
LONG_STRIDES |= {f"{n}: stride {2**62}" for n in ("max_pool2d", "avg_pool2d")}


@pytest.mark.parametrize("case", [c for c in POOLING if c not in LONG_STRIDES])
def test_pooling_raises_stocks_type(case):
    name, arguments, keywords = POOLING[case]
    stock = exception(lambda: getattr(F, name)(*arguments, **keywords))
    assert stock is not None, "stock accepts this"
    assert_raises(type(stock), getattr(tfc.functional, name), *arguments, **keywords)


GRADIENTS = {
    "weight None": ("conv2d_input", (X.shape, None, G), {}),
    "grad a list": ("conv2d_input", (X.shape, W, [1.0]), {}),
    "weight float64": ("conv2d_input", (X.shape, W.double(), G), {}),
    "grad sparse": ("conv2d_input", (X.shape, W, G.to_sparse()), {}),
    "grad of a row more": ("conv2d_input", ((2, 4, 7, 5), W, G), {}),
    "grad of a channel less": ("conv2d_input", (X.shape, W, G[:, :5]), {}),
    "grad of a sample less": ("conv2d_input", (X.shape, W, G[:1]), {}),
    "groups 3": ("conv2d_input", (X.shape, W, G), {"groups": 3}),
    "groups 0": ("conv2d_input", (X.shape, W, G), {"groups": 0}),
    "stride 0": ("conv2d_input", (X.shape, W, G), {"stride": 0}),
    "stride None": ("conv2d_input", (X.shape, W, G), {"stride": None}),
    "padding -1": ("conv2d_input", (X.shape, W, G), {"padding": -1}),
    "dilation 0": ("conv2d_input", (X.shape, W, G), {"dilation": 0}),
    "input None": ("conv2d_weight", (None, W.shape, G), {}),
    "input sparse": ("conv2d_weight", (X.to_sparse(), W.shape, G), {}),
    "input long": ("conv2d_weight", (X.long(), W.shape, G), {}),
    "input 3-D": ("conv2d_weight", (X[0], W.shape, G), {}),
    "input of a channel less": ("conv2d_weight", (X[:, :3], W.shape, G), {}),
    "weight_size of a row more": ("conv2d_weight", (X, (6, 4, 4, 3), G), {}),
    "weight_size of a kernel beyond": ("conv2d_weight", (X, (6, 4, 7, 3), G), {}),
    "grad float64": ("conv2d_weight", (X, W.shape, G.double()), {}),
    "stride -1": ("conv2d_weight", (X, W.shape, G), {"stride": -1}),
    "groups -1": ("conv2d_weight", (X, W.shape, G), {"groups": -1}),
    "dilation a float": ("conv2d_weight", (X, W.shape, G), {"dilation": 1.5}),
}


# torch.nn.grad calls an internal op, which takes a dilation of 0, and whose schema's errors are
# all RuntimeErrors. Here these are the errors of the layer itself.
AS_THE_LAYER = {
    "weight None": TypeError,
    "grad a list": TypeError,
    "input None": TypeError,
    "stride None": TypeError,
    "dilation a float": TypeError,
    "dilation 0": RuntimeError,
}


@pytest.mark.parametrize("per_sample", [False, True])
@pytest.mark.parametrize("case", GRADIENTS)
def test_gradients_raise_stocks_type(case, per_sample):
    name, arguments, keywords = GRADIENTS[case]
    stock = exception(lambda: getattr(torch.nn.grad, name)(*arguments, **keywords))
    expected = AS_THE_LAYER.get(case) or type(stock)
    if per_sample and name == "conv2d_weight":
        keywords = {**keywords, "per_sample": True}
    assert_raises(expected, getattr(tfc.functional, name + "_grad"), *arguments, **keywords)


MODULES = {
    "3 channels": lambda m: m.Conv2d(4, 2, 3)(X[:, :3]),
    "float64": lambda m: m.Conv2d(4, 2, 3)(X.double()),
    "None": lambda m: m.Conv2d(4, 2, 3)(None),
    "no argument": lambda m: m.Conv2d(4, 2, 3)(),
    "kernel beyond": lambda m: m.Conv2d(4, 2, 9)(X),
    "reflect beyond": lambda m: m.Conv2d(4, 2, 3, padding=7, padding_mode="reflect")(X),
    "groups of 3": lambda m: m.Conv2d(4, 2, 3, groups=3),
    "groups of filters": lambda m: m.Conv2d(4, 3, 3, groups=2),
    "groups 0": lambda m: m.Conv2d(4, 2, 3, groups=0),
    "padding word": lambda m: m.Conv2d(4, 2, 3, padding="full"),
    "same of stride 2": lambda m: m.Conv2d(4, 2, 3, stride=2, padding="same"),
    "padding_mode": lambda m: m.Conv2d(4, 2, 3, padding_mode="mirror"),
    "channels negative": lambda m: m.Conv2d(-4, 2, 3),
    "channels a float": lambda m: m.Conv2d(4.0, 2, 3),
    "kernel negative": lambda m: m.Conv2d(4, 2, -3),
    "device": lambda m: m.Conv2d(4, 2, 3, device="nowhere"),
    "dtype int": lambda m: m.Conv2d(4, 2, 3, dtype=torch.int32),
    "too much memory": lambda m: m.Conv2d(2**30, 2**30, 3),
    "too many bytes": lambda m: m.Conv2d(2**40, 2**40, 3),
    "state_dict of another": lambda m: m.Conv2d(4, 2, 3).load_state_dict(
        nn.Linear(2, 2).state_dict()
    ),
    "lazy, 2-D": lambda m: m.LazyConv2d(2, 3)(X[0, 0]),
    "lazy, unused": lambda m: m.LazyConv2d(2, 3).weight.shape,
    "transposed, 3 channels": lambda m: m.ConvTranspose2d(4, 2, 3)(X[:, :3]),
    "transposed, padding_mode": lambda m: m.ConvTranspose2d(4, 2, 3, padding_mode="reflect"),
    "transposed, output_padding": lambda m: m.ConvTranspose2d(4, 2, 3, output_padding=2)(X),
    "transposed, output_size": lambda m: m.ConvTranspose2d(4, 2, 3)(X, output_size=(99, 99)),
    "transposed, sizes": lambda m: m.ConvTranspose2d(4, 2, 3)(X, output_size=(9,)),
    "pooling, kernel 0": lambda m: m.MaxPool2d(0)(X),
    "pooling, None": lambda m: m.AvgPool2d(2)(None),
    "pooling, no kernel": lambda m: m.MaxPool2d(),
    "pooling, long": lambda m: m.AvgPool2d(2)(X.int()),
    "relu, bool": lambda m: m.ReLU()(X.bool()),
    "relu, list": lambda m: m.ReLU()([1.0]),
}


@pytest.mark.parametrize("call", MODULES.values(), ids=MODULES)
def test_modules_raise_stocks_type(call):
    stock = exception(lambda: call(nn))
    assert stock is not None, "stock accepts this"
    assert_raises(type(stock), lambda: call(tfc))


OTHERS = {
    **{f"convert {m!r}": (TypeError, tfc.convert, m) for m in (None, 3, "m", [nn.ReLU()])},
    **{f"revert {m!r}": (TypeError, tfc.revert, m) for m in (None, 3, "m", {})},
    "convert a class": (TypeError, tfc.convert, nn.Conv2d),
    "algorithm": (ValueError, tfc.algorithm, "fft"),
    "algorithm None": (ValueError, tfc.algorithm, None),
    "explain None": (TypeError, tfc.explain, None),
    "explain Linear": (TypeError, tfc.explain, nn.Linear(2, 2), X),
    "explain a class": (TypeError, tfc.explain, nn.Conv2d, X),
    "explain floats": (TypeError, tfc.explain, nn.Conv2d(1, 1, 2), [1.0]),
    "explain two images": (ValueError, tfc.explain, nn.Conv2d(4, 1, 2), X),
    "explain channels": (RuntimeError, tfc.explain, nn.Conv2d(3, 1, 2), X[0]),
    "explain kernel": (RuntimeError, tfc.explain, nn.Conv2d(4, 1, 9), X[0]),
    "explain a ConvTranspose2d": (TypeError, tfc.explain, nn.ConvTranspose2d(4, 1, 2), X[0]),
    "explain sparse": (RuntimeError, tfc.explain, nn.Conv2d(4, 1, 2), X[0].to_sparse()),
    "shape": (ValueError, Shape, (5,), (3, 3)),
    "shape of filter": (ValueError, Shape, (5, 5), (3, 3, 3)),
    "shape of groups": (ValueError, Shape, (5, 5, 5), (1, 2, 3, 3)),
    "average of a matrix": (
        RuntimeError,
        tfc.functional.avg_pool2d,
        X[0, 0],
        2,
    ),  # stock: IndexError
    "maximum of a matrix": (RuntimeError, tfc.functional.max_pool2d, X[0, 0], 2),
}


@pytest.mark.parametrize(
    ("error", "call", "arguments"), [(e, c, a) for e, c, *a in OTHERS.values()], ids=OTHERS
)
def test_other_functions(error, call, arguments):
    assert_raises(error, call, *arguments)


def test_bad_calls_of_other_code_are_ours_in_an_enabled_block():
    with tfc.enabled():
        assert_raises(RuntimeError, F.conv2d, X[:, :3], W)
        assert_raises(TypeError, F.conv_transpose2d, None, W)
    assert_raises(RuntimeError, F.conv2d, X[:, :3], W)


def freed(tensor: Tensor, left: int = 0) -> Tensor:
    """A tensor whose memory was given back, as FSDP does between uses, but for `left` bytes."""
    tensor = tensor.clone()
    tensor.untyped_storage().resize_(left)
    return tensor


LAYER = (1, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0)  # groups, stride, padding, dilation, mode, algorithm
POOL = (2, 2, 2, 2, 0, 0, 1, 1, 0)
P, I = torch.randn(2, 4, 3, 2), torch.zeros(2, 4, 3, 2, dtype=torch.int64)  # noqa: E741
RAW = {
    "correlate": (X, W, W[:, 0, 0, 0].contiguous(), *LAYER),
    "full_convolve": (G, W, X[0, :, 0, 0].contiguous(), *LAYER, 6, 5),
    "correlate_weight": (X, G, *LAYER, 3, 3, None),
    "gradients": (X, W, G, *LAYER),
    "channel_sum": (G,),
    "ways": (X, W, *LAYER),
    "relu": (X,),
    "relu_": (X.clone(),),
    "relu_grad": (X, X),
    "max_pool2d": (X, *POOL),
    "max_pool2d_indices": (X, *POOL),
    "max_gather": (X, I, *POOL),
    "max_scatter": (P, I, *POOL, 6, 5),
    "avg_pool2d": (X, *POOL, True, 0),
    "avg_pool2d_adjoint": (P, *POOL, True, 0, 6, 5),
}
WRONG_TENSORS = {
    "freed": freed,
    "nearly freed": lambda t: freed(t, 8),
    "cut by a byte": lambda t: freed(t, t.untyped_storage().nbytes() - 1),
    "bool": lambda t: t.bool(),
    "sparse": Tensor.to_sparse,
    "a list": lambda t: [1.0],
}
RAW_CASES = [
    (name, at, label)
    for name, arguments in RAW.items()
    for at, argument in enumerate(arguments)
    if isinstance(argument, Tensor)
    for label in WRONG_TENSORS
]


@pytest.mark.parametrize(("name", "at", "label"), RAW_CASES)
def test_raw_ops_refuse_tensors(name, at, label):
    """Above all those that are not what their sizes say: stock reads the memory behind some."""
    arguments = list(RAW[name])
    getattr(OPS, name)(*arguments)  # a good call
    whole = arguments[at]
    arguments[at] = WRONG_TENSORS[label](whole)
    found = exception(lambda: getattr(OPS, name)(*arguments))
    assert isinstance(found, (RuntimeError, NotImplementedError)), repr(found)
    if "freed" in label or "cut" in label:
        assert FREED_STORAGE in str(found)


@pytest.mark.parametrize("name", [n for n in RAW if len(RAW[n]) > 4])
@pytest.mark.parametrize("value", [-1, -(2**63), 2**63 - 1, 2**62, 2**40, 2**63, 1.5, None, "1"])
def test_raw_ops_take_any_number(name, value):
    """Every integer of every op: a result or an exception, soon, and never another's memory."""
    arguments = RAW[name]
    accepted = 0
    for at, argument in enumerate(arguments):
        if isinstance(argument, int):
            call = [*arguments[:at], value, *arguments[at + 1 :]]
            accepted += exception(lambda call=call: getattr(OPS, name)(*call)) is None
    assert accepted < len(arguments) - 2, "what is wrong is found"


FREED = {
    "conv2d": lambda f: f.conv2d(freed(X), W),
    "conv2d, weight": lambda f: f.conv2d(X, freed(W)),
    "conv2d, bias": lambda f: f.conv2d(X, W, freed(W[:, 0, 0, 0])),
    "conv_transpose2d": lambda f: f.conv_transpose2d(freed(G), W),
    "max_pool2d": lambda f: f.max_pool2d(freed(X), 2),
    "avg_pool2d": lambda f: f.avg_pool2d(freed(X), 2),
}


@pytest.mark.parametrize("call", FREED.values(), ids=FREED)
def test_freed_storage_is_stocks_error(call):
    stock = exception(lambda: call(F))
    assert_raises(type(stock), lambda: call(tfc.functional))


def test_freed_storage_where_stock_crashes():
    assert_raises(RuntimeError, lambda: tfc.functional.relu(freed(X)))
    assert_raises(RuntimeError, lambda: tfc.functional.relu(freed(X), inplace=True))


def test_a_parameter_freed_before_its_backward():
    layer, x = tfc.Conv2d(4, 6, 3), X.clone().requires_grad_()
    y = layer(x)
    layer.weight.untyped_storage().resize_(0)
    assert_raises(RuntimeError, lambda: y.sum().backward())


BEYOND_64_BITS = {  # stock makes something of what is left of these numbers
    "dilation": lambda f: f.conv_transpose2d(G, W, dilation=2**63 - 1),
    "stride": lambda f: f.conv_transpose2d(G[:0], W, stride=(1, 2**62)),
    "input_size": lambda f: f.conv2d_input_grad((2, 4, 2**63, 2**63), W, G, stride=2**62),
    "weight_size": lambda f: f.conv2d_weight_grad(X, (6, 4, 3, 2**63), G),
}


@pytest.mark.parametrize("call", BEYOND_64_BITS.values(), ids=BEYOND_64_BITS)
def test_sizes_beyond_64_bits_are_named(call):
    with pytest.raises(RuntimeError, match=r"size.*\d{19}.* does not fit into 64 bits"):
        call(tfc.functional)


EMPTY = {  # stock takes no time for these
    "padding": lambda f: f.conv2d(X[:0], W, padding=(2**28, 0)),
    "one padding": lambda f: f.conv2d(X[:0], W, padding=(0, 2**39)),
    "transposed": lambda f: f.conv_transpose2d(G[:0], W, stride=(2**39, 1)),
    "transposed, dilation": lambda f: f.conv_transpose2d(G[:0], W, dilation=(1, 2**39)),
    "average": lambda f: f.avg_pool2d(X[:0], 2**29, 1, 2**28),
    "average of all": lambda f: f.avg_pool2d(X, 2**29, 2**29, 2**28, divisor_override=7),
    "maximum": lambda f: f.max_pool2d(X[:0], 2**29, 1, 2**28),
}


@pytest.mark.parametrize("call", EMPTY.values(), ids=EMPTY)
def test_large_numbers_over_few_elements_take_no_time(call):
    torch.testing.assert_close(call(tfc.functional), call(F))


def test_gradients_of_no_samples_take_no_time():
    f, one = tfc.functional, torch.ones(1, 1, 1, 1)
    assert f.conv2d_input_grad((0, 1, 2**40, 1), one, one[:0], stride=2**41).shape[2] == 2**40
    wide = one[:0].expand(0, 1, 2**40 + 1, 1)
    assert torch.equal(f.conv2d_weight_grad(one[:0], one.shape, wide, padding=(2**39, 0)), 0 * one)


@pytest.mark.parametrize("stride", [2**42, 2**62])
def test_strides_beyond_the_padded_input_leave_one_output(stride):
    f, one = tfc.functional, torch.ones(1, 1, 1, 1)
    x, pad = torch.ones(1, 1, 4, 4), 2**40 - 1
    assert f.conv2d(x, one, stride=stride, padding=pad).shape == (1, 1, 1, 1)
    tall = one.expand(1, 1, 2**42, 1)
    for result in (
        f.conv2d(tall, one, stride=(stride, 1)),
        f.max_pool2d(tall, 1, (stride, 1)),
        f.avg_pool2d(tall, 1, (stride, 1)),
        f.max_pool2d(tall, 1, (stride, 1), ceil_mode=True),
    ):
        assert torch.equal(result, one)
    assert f.conv2d(tall, one, stride=(2**41 + 1, 1)).shape == (1, 1, 2, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="limits address space")
def test_results_beyond_memory_name_their_size():
    """Of a process that may have 64 GiB of addresses, so that no machine has the memory."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 36, before[1]))
    try:
        f, one = tfc.functional, torch.ones(1, 1, 1, 1)
        size = r"can't allocate memory for a tensor of \[1, 1, "
        with pytest.raises(RuntimeError, match=size + "262145, 262145]"):
            f.conv2d(one, one, padding=2**17)
        with pytest.raises(RuntimeError, match=size + "1099511627776, 1]"):
            f.conv2d_input_grad((1, 1, 2**40, 1), one, one, stride=2**41)
        with pytest.raises(RuntimeError, match=rf"\[2, {2**20}, {2**31}, {2**31 - 1}]"):
            f.conv2d(one.expand(2, 1, 2**31, 2**31 - 1), one.expand(2**20, 1, 1, 1))
        with pytest.raises(RuntimeError, match=str(2**63 + 1)):
            f.conv_transpose2d(torch.ones(1, 1, 3, 2), one, stride=2**62)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
