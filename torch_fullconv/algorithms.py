"""The choice of algorithm: by the layer's geometry, or one for all that can be done by it."""

from __future__ import annotations

from types import TracebackType

from .ops import ALGORITHMS

current = 0  # index into ALGORITHMS


class algorithm:  # noqa: N801, named as torch.no_grad is
    """Sets how convolutions are computed, for good or, as a context manager, for blocks.

    A layer's gradients go the way that its forward went. The setting is the process's, for all
    threads, like `torch.backends.cudnn.benchmark`.

    Args:
        name: 'auto', the cheapest for the layer's shape (never for its batch or the threads);
            'direct', which adds the products of the definition and rounds least; 'winograd',
            minimal filtering, wherever there is a way for it: filters of 2x2 taps and more that
            are larger than the stride (not for complex numbers).

    Raises:
        ValueError: another name.

    >>> with algorithm("direct"):
    ...     pass
    """

    def __init__(self, name: str) -> None:
        global current
        if name not in ALGORITHMS:
            raise ValueError(f"algorithm must be one of {ALGORITHMS}, but got {name!r}")
        self.index = ALGORITHMS.index(name)
        self.entered = False
        self.previous = [current]  # what its blocks end in, the innermost last
        current = self.index

    def __enter__(self) -> None:
        global current
        if self.entered:  # else it is the constructor that changed the setting for this block
            self.previous.append(current)
        self.entered = True
        current = self.index

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        global current
        current = self.previous.pop()
