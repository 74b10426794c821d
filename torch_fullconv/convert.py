"""A whole model's convolution layers, swapped for this package's and back, in place.

Our modules are subclasses of stock's that hold nothing more, so a swap is a change of class:
parameters, buffers, hooks, sharing, dtype, layout and training mode are not touched.
"""

from __future__ import annotations

import threading
import warnings
from collections import defaultdict
from collections.abc import Callable
from typing import Any, SupportsIndex, TypeVar
from weakref import WeakValueDictionary

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from .modules import Conv2d, ConvTranspose2d, LazyConv2d, LazyConvTranspose2d

Model = TypeVar("Model", bound=nn.Module)
Kind = type[nn.Module]

_TWINS: dict[Kind, Kind] = {
    nn.Conv2d: Conv2d,
    nn.ConvTranspose2d: ConvTranspose2d,
    nn.LazyConv2d: LazyConv2d,
    nn.LazyConvTranspose2d: LazyConvTranspose2d,
}
_STOCK = {ours: stock for stock, ours in _TWINS.items()}
# What has any of these of its own computes, becomes or is copied as it alone knows.
_OWN_WAYS = {
    "forward",
    "_conv_forward",
    "__call__",
    "cls_to_become",
    "__reduce__",
    "__reduce_ex__",
}


def convert(model: Model) -> Model:
    """Makes every nn.Conv2d and nn.ConvTranspose2d of a model, or its lazy twin, one of ours.

    In place: a layer keeps all it has, and one that is used twice is still one. A layer of a
    subclass that does not touch the forward becomes ours and stays an instance of its class. A
    layer whose class, or whoever replaced its `forward`, computes in another way is left alone
    (quantisation-aware layers, layers that FSDP wraps), and so is one whose class says itself how
    it is pickled, what it becomes when it is no longer lazy, or that nothing derives from it: one
    warning names them all.

    Returns:
        The model itself.

    Raises:
        TypeError: not a module.

    >>> model = convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()))
    >>> type(model[0])
    <class 'torch_fullconv.modules.Conv2d'>
    """
    _check_module("convert", model)
    twins: list[tuple[nn.Module, Kind]] = []
    left: dict[str, list[str]] = defaultdict(list)
    for name, module in model.named_modules():
        kind = type(module)
        if issubclass(kind, tuple(_TWINS)) and not issubclass(kind, tuple(_STOCK)):
            twin = None if _OWN_WAYS & vars(module).keys() else _twin(module, _ours)
            if twin is None:
                left[kind.__name__].append(name or "the model itself")
            else:
                twins.append((module, twin))
    if left:  # said first: where warnings are errors, nothing is changed
        warnings.warn(
            "torch_fullconv.convert leaves layers alone that compute, or are copied or derived, in "
            "a way of their own: "
            + "; ".join(f"{name} ({', '.join(names)})" for name, names in left.items())
            + ". `with torch_fullconv.enabled():` reaches the convolutions that they call.",
            stacklevel=2,
        )
    _swap(twins)
    return model


def revert(model: Model) -> Model:
    """Undoes `convert`: every layer of ours becomes its stock twin, in place.

    >>> type(revert(convert(nn.Conv2d(3, 8, 3))))
    <class 'torch.nn.modules.conv.Conv2d'>
    """
    _check_module("revert", model)
    ours = [module for module in model.modules() if isinstance(module, tuple(_STOCK))]
    twins = [(module, _twin(module, _stocks)) for module in ours]
    _swap([(module, twin) for module, twin in twins if twin is not None])
    return model


def _swap(twins: list[tuple[nn.Module, Kind]]) -> None:
    for module, twin in twins:
        module.__class__ = twin


def _check_module(function: str, model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"{function}(): argument 'model' must be an nn.Module, but got {type(model).__name__}"
        )


def _twin(module: nn.Module, twin_of: Callable[[Kind], Kind | None]) -> Kind | None:
    """What takes the place of the module's class; None where nothing does."""
    kind = type(module)
    if not is_parametrized(module):
        return twin_of(kind)
    # parametrize made a class for this module, its parametrized parameters as properties. A copy
    # of the module shares that class, so it is not changed, but made once more.
    base = twin_of(kind.__bases__[0])
    return None if base is None else type(kind.__name__, (base,), dict(vars(kind)))


def _ours(kind: Kind) -> Kind | None:
    if kind in _TWINS:
        return _TWINS[kind]
    stock = next((base for base in kind.__mro__ if base in _TWINS), None)
    if stock is None:
        return None
    own = kind.__mro__[: kind.__mro__.index(stock)]
    if not all(issubclass(base, stock) and not _OWN_WAYS & vars(base).keys() for base in own):
        return None
    with _joining:
        joined = _joined.get(kind)
        if joined is None:
            try:
                joined = _joined[kind] = _join(kind, _TWINS[stock])
            except Exception:  # whatever a metaclass raises that allows no subclass
                return None
        return joined


def _stocks(kind: Kind) -> Kind | None:
    return _STOCK.get(kind) or vars(kind).get("_made_of")


# Subclasses of stock's, and what `_join` made of them, which live as long as a layer of theirs.
_joined: WeakValueDictionary[Kind, Kind] = WeakValueDictionary()
_joining = threading.Lock()


class _Joined:
    """The first base of a class that `_join` made of another, `_made_of`."""

    _made_of: Kind

    def __init_subclass__(cls) -> None:
        """Nothing: the other bases neither learn of the class nor ask anything of it."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> tuple[Any, ...]:
        """Pickled as what it was made of, which can be imported."""
        return _new_joined, (self._made_of,), *object.__reduce_ex__(self, 2)[2:]


def _join(kind: Kind, ours: Kind) -> Kind:
    """A class like `kind`, with the forward of ours."""
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "_made_of": kind}
    return type(kind.__name__, (_Joined, kind, ours), names)


def _new_joined(kind: Kind) -> nn.Module:
    joined = _ours(kind)
    assert joined is not None
    return joined.__new__(joined)
