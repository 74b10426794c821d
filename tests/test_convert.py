"""A model's layers are swapped in place, and nothing else about them changes."""

import gc
import pickle
import time
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
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


class Plain(nn.Conv2d):
    """Derived, with the forward of stock's."""

    def __init__(self, *arguments, **keywords):
        super().__init__(*arguments, **keywords)
        self.calls = 0

    def __getstate__(self):
        return {**self.__dict__, "pickled": True}


class Scaled(nn.Conv2d):
    def forward(self, input):
        return 2 * super().forward(input)


class Standardized(nn.ConvTranspose2d):
    def _conv_forward(self, input, weight, bias):
        raise NotImplementedError


class Doubled(nn.Conv2d):
    def __call__(self, input):
        return 2 * super().__call__(input)


class Reduced(nn.Conv2d):
    def __reduce__(self):
        return nn.Conv2d, (1, 1, 1)


class Grown(nn.LazyConv2d):
    cls_to_become = Plain


class Final(type):
    def __new__(meta, name, bases, names):
        if any(isinstance(base, meta) for base in bases):
            raise TypeError(f"{bases} have no subclasses")
        return super().__new__(meta, name, bases, names)


class Sealed(nn.Conv2d, metaclass=Final):
    pass


class Mixin:
    pass


class Mixed(Mixin, nn.Conv2d):
    pass


class OurOwn(tfc.Conv2d):
    pass


def replaced_forward() -> nn.Conv2d:
    layer = nn.Conv2d(1, 1, 1)
    layer.forward = lambda x: x
    return layer


def test_subclass_with_the_forward_of_stock_is_converted_and_stays_one():
    m, x = nn.Sequential(Plain(3, 4, 3), nn.ReLU(), Plain(4, 4, 3)), torch.randn(1, 3, 8, 8)
    m[0].calls = 5
    expected = m(x)
    tfc.convert(m)
    assert type(m[0]) is type(m[2])
    assert isinstance(m[0], tfc.Conv2d)
    assert isinstance(m[0], Plain)
    assert repr(m[0]).startswith("Plain(3, 4,")
    torch.testing.assert_close(m(x), expected)
    for copied in (deepcopy(m), pickle.loads(pickle.dumps(m))):
        assert type(copied[0]) is type(m[0])
        assert copied[0].calls == 5
        assert copied[0].pickled
        assert torch.equal(copied(x), m(x))
    parametrized = weight_norm(deepcopy(m)[0])
    assert isinstance(parametrized, tfc.Conv2d)
    assert not isinstance(tfc.revert(parametrized), tfc.Conv2d)
    assert isinstance(parametrized, Plain)
    assert [type(layer) for layer in tfc.revert(m)] == [Plain, nn.ReLU, Plain]


def test_layers_that_compute_in_their_own_way_are_left_and_named():
    m = nn.Sequential(
        Scaled(1, 1, 1),
        nn.Conv2d(1, 1, 1),
        nn.Sequential(Scaled(1, 1, 1), Standardized(1, 1, 1)),
        weight_norm(Scaled(1, 1, 1)),
        replaced_forward(),
        Mixed(1, 1, 1),
        Doubled(1, 1, 1),
        Reduced(1, 1, 1),
        Grown(1, 1),
        Sealed(1, 1, 1),
    )
    kinds = [type(layer) for layer in m.modules()]
    names = (
        r"Scaled \(0, 2\.0\); Standardized \(2\.1\); ParametrizedScaled \(3\); Conv2d \(4\); "
        r"Mixed \(5\); Doubled \(6\); Reduced \(7\); Grown \(8\); Sealed \(9\)\."
    )
    with pytest.warns(UserWarning, match=names) as caught:
        tfc.convert(m)
    assert caught[0].filename == __file__
    changed = [i for i, layer in enumerate(m.modules()) if type(layer) is not kinds[i]]
    assert changed == [2]
    with pytest.warns(UserWarning, match=r"Scaled \(the model itself\)\."):
        tfc.convert(m[0])
    tfc.revert(m)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning):
            tfc.convert(m)
    assert [type(layer) for layer in m.modules()] == kinds, "all or nothing"
    m[8](torch.zeros(1, 1, 1, 1))
    assert isinstance(tfc.convert(m[8]), tfc.Conv2d)
    assert type(tfc.revert(m[8])) is Plain


def test_a_class_that_watches_its_subclasses_sees_none_of_ours():
    watched = []

    class Watching(nn.Conv2d):
        __slots__ = ("slot",)

        def __init_subclass__(cls, *, key):
            watched.append(key)

    class Watched(Watching, key=1):
        pass

    m = nn.Sequential(Watching(1, 1, 1), Watched(1, 1, 1))
    tfc.convert(m)
    assert all(isinstance(layer, tfc.Conv2d) for layer in m)
    for name in ("__name__", "__qualname__", "__module__"):
        assert getattr(type(m[0]), name) == getattr(Watching, name)
    assert [type(layer) for layer in tfc.revert(m)] == [Watching, Watched]
    assert watched == [1]


def test_threads_make_one_class_and_nothing_keeps_it():
    class Slow(type):
        def __new__(meta, *arguments):
            time.sleep(0.05)
            return super().__new__(meta, *arguments)

    def kinds() -> list[weakref.ref]:
        class Own(nn.Conv2d, metaclass=Slow):
            pass

        with ThreadPoolExecutor() as pool:
            layers = list(pool.map(lambda _: tfc.convert(Own(1, 1, 1)), range(3)))
        assert len({type(layer) for layer in layers}) == 1
        return [weakref.ref(kind) for kind in (Own, type(layers[0]))]

    left = kinds()
    gc.collect()  # what was made of the class
    gc.collect()  # the class itself
    assert [kind() for kind in left] == [None, None]


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation.*deprecated")
def test_nothing_is_said_of_what_is_no_layer_of_stocks():
    quantized = torch.ao.nn.quantized.Conv2d(1, 1, 1)
    layers = [quantized, OurOwn(1, 1, 1), nn.Conv1d(1, 1, 1), nn.Linear(1, 1)]
    kinds = [type(layer) for layer in layers]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [type(tfc.convert(layer)) for layer in layers] == kinds
        assert [type(tfc.revert(layer)) for layer in layers] == kinds


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated")
def test_old_normalisations_and_pruning_are_kept():
    """They are hooks before the forward, and buffers."""

    def made() -> nn.Module:
        torch.manual_seed(1)
        m = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)))
        nn.utils.weight_norm(m[0])
        nn.utils.spectral_norm(m[1])
        prune.l1_unstructured(m[2], "weight", 0.5)
        return m

    x = torch.randn(1, 4, 8, 8)
    ours, stock = tfc.convert(made()), made()
    assert all(type(layer) is tfc.Conv2d for layer in ours)
    assert ours.state_dict().keys() == stock.state_dict().keys()
    torch.testing.assert_close(ours(x), stock(x))
    for m in (ours, stock):
        m(x).square().sum().backward()
    for a, b in zip(ours.parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.eval()(x), stock.eval()(x))
    for m in (ours, stock):
        nn.utils.remove_weight_norm(m[0])
        nn.utils.remove_spectral_norm(m[1])
        prune.remove(m[2], "weight")
    torch.testing.assert_close(ours(x), stock(x))
    assert (ours[2].weight == 0).sum() == 72


def test_parametrized_layers_are_swapped_but_not_their_copies():
    original = nn.Sequential(weight_norm(nn.Conv2d(3, 4, 3)), spectral_norm(nn.Conv2d(4, 4, 3)))
    original.eval()
    m, x = deepcopy(original), torch.randn(1, 3, 8, 8)
    tfc.convert(m)
    ours = [isinstance(layer, tfc.Conv2d) for layer in (*m, *original)]
    assert ours == [True, True, False, False]
    torch.testing.assert_close(m(x), original(x))
    assert [*m.state_dict()] == [*original.state_dict()]
    tfc.revert(m)
    assert not isinstance(m[0], tfc.Conv2d)
    remove_parametrizations(tfc.convert(m)[0], "weight")
    assert type(m[0]) is tfc.Conv2d


def test_dtype_layout_and_device_are_kept():
    m = model()
    m(torch.zeros(1, 3, 9, 9))
    m.to(dtype=torch.bfloat16, memory_format=torch.channels_last)
    state = {name: (t.data_ptr(), t.stride(), t.dtype) for name, t in m.state_dict().items()}
    tfc.convert(m)
    assert state == {n: (t.data_ptr(), t.stride(), t.dtype) for n, t in m.state_dict().items()}
    assert tfc.convert(nn.Conv2d(1, 1, 1, device="meta")).weight.is_meta
