"""A whole model's convolution layers, swapped for this package's and back, in place.

Our modules are subclasses of stock's that hold nothing more, so a swap is a change of class:
parameters, buffers, hooks, sharing, dtype, layout and training mode are not touched.
"""

from __future__ import annotations

from typing import TypeVar

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from .modules import Conv2d, ConvTranspose2d, LazyConv2d, LazyConvTranspose2d

Model = TypeVar("Model", bound=nn.Module)

_TWINS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: Conv2d,
    nn.ConvTranspose2d: ConvTranspose2d,
    nn.LazyConv2d: LazyConv2d,
    nn.LazyConvTranspose2d: LazyConvTranspose2d,
}


def convert(model: Model) -> Model:
    """Makes every nn.Conv2d and nn.ConvTranspose2d of a model, or its lazy twin, one of ours.

    In place; layers of a subclass, which may do something else, are left alone. A layer keeps its
    parametrizations (`torch.nn.utils.parametrize`).

    Returns:
        The model itself.

    >>> model = convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()))
    >>> type(model[0])
    <class 'torch_fullconv.modules.Conv2d'>
    """
    return _swap(model, _TWINS)


def revert(model: Model) -> Model:
    """Undoes `convert`: every layer of ours becomes its stock twin, in place.

    >>> type(revert(convert(nn.Conv2d(3, 8, 3))))
    <class 'torch.nn.modules.conv.Conv2d'>
    """
    return _swap(model, {ours: stock for stock, ours in _TWINS.items()})


def _swap(model: Model, twins: dict[type[nn.Module], type[nn.Module]]) -> Model:
    for module in model.modules():
        kind = type(module)
        if kind in twins:
            module.__class__ = twins[kind]
        elif is_parametrized(module) and kind.__bases__[0] in twins:
            # parametrize made a class for this module, its parametrized parameters as properties.
            # A copy of the module shares that class, so it is not changed, but made once more.
            module.__class__ = type(kind.__name__, (twins[kind.__bases__[0]],), dict(vars(kind)))
    return model
