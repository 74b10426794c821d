"""Convolution calls of any code, done by this package for as long as a block lasts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from . import functional

_ROUTES: dict[Callable[..., Any], Callable[..., Any]] = {
    F.conv2d: functional.conv2d,  # torch.conv2d is the same object
    F.conv_transpose2d: functional.conv_transpose2d,
}


class enabled(TorchFunctionMode):  # noqa: N801, named as torch.no_grad is
    """While it lasts, the convolutions that this thread calls are ours, whatever code calls them.

    These are `conv2d` and `conv_transpose2d` of torch and torch.nn.functional, so also nn.Conv2d,
    nn.ConvTranspose2d and what is derived from them. What this package does not support raises
    its error; nothing goes to stock without a word.

    A backward pass goes the way that its forward went, wherever it runs. PyTorch turns such blocks
    off inside it, so torch.utils.checkpoint, which repeats a forward there, must be told to enter
    one again: `context_fn=lambda: (enabled(), enabled())`. A converted model (`convert`) needs no
    such care.

    >>> import torch
    >>> layer = torch.nn.Conv2d(3, 8, 3)
    >>> with enabled():
    ...     y = layer(torch.zeros(1, 3, 9, 9))
    >>> type(y.grad_fn).__name__
    'CorrelateBackward'
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return _ROUTES.get(function, function)(*args, **(kwargs or {}))
