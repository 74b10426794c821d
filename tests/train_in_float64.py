"""examples/train_distributed.py in float64, where another order of sums makes no visible change."""

from collections.abc import Iterator
from contextlib import contextmanager

import data
import torch
import train_distributed


@contextmanager
def float64() -> Iterator[None]:
    """New weights and loaded pictures are float64."""
    load, dtype = data.load, torch.get_default_dtype()

    def double(*arguments: object) -> data.Data:
        parts = load(*arguments)
        return data.Data(*(part._replace(images=part.images.double()) for part in parts))

    data.load = double
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        data.load = load
        torch.set_default_dtype(dtype)


if __name__ == "__main__":
    with float64():
        train_distributed.main()
