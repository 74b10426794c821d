"""Coverage-guided fuzzing of the ops: `python tests/stress/schema.py -max_total_time=60`.

libFuzzer's bytes, by way of Atheris, are the integers of the raw ops' schemas, the shapes, dtypes
and strides of the tensors, and which op is called: any bytes give a result or a Python exception.
Whatever kills or stops the process is a finding, which libFuzzer writes to a file; that file's name
as the argument runs it again. Options are libFuzzer's: -runs=, -max_total_time=, -seed=.
"""

from __future__ import annotations

import random
import resource
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["torch_fullconv"]):
    import torch

    import torch_fullconv as tfc
    from torch_fullconv import functional, ops, pool_ops

ROOM = 1 << 29  # bytes: a result that is larger must be an error, and takes no time
RAW = torch.ops.torch_fullconv
RESULTS = Counter[str]()  # calls that gave one, not an exception
DTYPES = (
    *(torch.float32, torch.float64, torch.bfloat16, torch.float16),
    *(torch.complex64, torch.complex128, torch.int64, torch.uint8, torch.bool),
)
WIDE = (-(2**63), -(2**62), -(2**31), -1, 0, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1)


class Bytes(atheris.FuzzedDataProvider):
    """The fuzzer's bytes as arguments; what they are too few for is random, with them as the seed.

    libFuzzer prefers short inputs, which otherwise would be layers of nothing.
    """

    def __init__(self, given: bytes) -> None:
        super().__init__(given)
        self.rest = random.Random(given)

    def small(self, most: int) -> int:
        if self.remaining_bytes():
            return self.ConsumeIntInRange(0, most)
        return self.rest.randint(0, most)

    def number(self, likely: int) -> int:
        """Mostly up to `likely`; else any 64 bits, or where sums overflow."""
        kind = self.small(63)
        if kind == 0:
            return self.small(2**64 - 1) - 2**63
        return WIDE[self.small(len(WIDE) - 1)] if kind == 1 else self.small(likely)

    def tensor(self, axes: int, shape: tuple[int, ...] = (), sizes: int = 7) -> torch.Tensor:
        """Mostly float32 and of the shape, where one is given; in any strides."""
        if not shape or self.small(15) == 0:
            axes = axes if self.small(15) else self.small(6)
            shape = tuple(self.small(sizes) for _ in range(axes))
        dtype = DTYPES[0 if self.small(7) else self.small(len(DTYPES) - 1)]
        if self.small(3):
            return torch.ones(shape, dtype=dtype)
        strides = [self.small(9) for _ in shape]
        reach = sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if n)
        return torch.ones(1 + max(0, reach), dtype=dtype).as_strided(shape, strides)

    def geometry(self) -> tuple[int, ...]:
        pads = [self.number(4) for _ in range(4)]
        return (
            *(self.number(3), self.number(4), self.number(4), *pads),
            *(self.number(4), self.number(4), self.number(3), self.number(2), self.number(1)),
        )

    def size(self) -> tuple[int, int]:
        return self.number(9), self.number(9)

    def windows(self) -> tuple[int, ...]:
        return tuple(self.number(4) for _ in pool_ops.Windows._fields)


class Layer:
    """What may fit together: input, filter, bias, output gradient, and the geometry."""

    def __init__(self, data: Bytes) -> None:
        self.geometry = data.geometry()
        groups = self.geometry[0] if 0 < self.geometry[0] < 9 else 1
        n, c, k, height, width, r, s = (data.small(6) for _ in range(7))
        parts = (data.small(3),) if data.small(3) == 0 else ()
        n = n * parts[0] if parts else n
        filter = *parts, k * groups, c, r, s
        try:
            size = ops.Geometry(*self.geometry).output_size(height, width, r, s)
        except ZeroDivisionError:
            size = 1, 1
        size = tuple(q if 0 <= q < 99 else 1 for q in size)
        self.input, self.filter = (
            data.tensor(4, (n, c * groups, height, width)),
            data.tensor(4, filter),
        )
        self.grad = data.tensor(4, (n, k * groups, *size))
        bias = k * groups if data.small(1) else c * groups
        self.bias = data.tensor(1, (bias,)) if data.small(1) else None
        likely = data.small(7)
        self.size = (height, width) if likely else data.size()
        self.kernel = (r, s) if likely else data.size()
        self.segments = (*parts, None)[0] if likely else data.number(3)


class Pool:
    """The same of a pooling layer."""

    def __init__(self, data: Bytes) -> None:
        self.windows = data.windows()
        n, c, *size = (data.small(7) for _ in range(4))
        try:
            outputs = pool_ops.Windows(*self.windows).output_size(*size)
        except ZeroDivisionError:
            outputs = 1, 1
        small = tuple(q if 0 <= q < 99 else 1 for q in outputs)
        self.input, self.grad = data.tensor(4, (n, c, *size)), data.tensor(4, (n, c, *small))
        self.size = size if data.small(7) else data.size()
        self.indices = data.tensor(4, (n, c, *small))
        if data.small(7):
            self.indices = torch.full(self.indices.shape, data.number(30))
        self.divisor = data.small(1), data.number(4)


def layer(data: Bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """functional.conv2d's arguments, of types that may be wrong."""

    def pair() -> Any:
        kind = data.small(9)
        if kind == 0:
            return [data.number(4) for _ in range(data.small(5))]
        if kind == 1:
            return [None, 1.5, "same", "valid", "x", True, (1, "y"), b""][data.small(7)]
        return (data.number(4), data.number(4)) if kind < 6 else data.number(4)

    made = Layer(data)
    tensors = made.input, made.filter, made.bias
    mode = [*ops.PADDING_MODES, "none", None][data.small(5)]
    groups = made.geometry[0] if data.small(7) else data.number(3)
    return (*tensors, pair(), pair(), pair(), groups), {"padding_mode": mode}


def conv2d(data: Bytes) -> Any:
    arguments, options = layer(data)
    with tfc.algorithm(ops.ALGORITHMS[data.small(2)]):
        return functional.conv2d(*arguments, **options)


def convolution(call: Callable[[Layer], Any]) -> Callable[[Bytes], Any]:
    return lambda data: call(Layer(data))


def pooling(call: Callable[[Pool], Any]) -> Callable[[Bytes], Any]:
    return lambda data: call(Pool(data))


CALLS: dict[str, Callable[[Bytes], Any]] = {
    "conv2d": conv2d,
    "correlate": convolution(lambda t: RAW.correlate(t.input, t.filter, t.bias, *t.geometry)),
    "full_convolve": convolution(
        lambda t: RAW.full_convolve(t.grad, t.filter, t.bias, *t.geometry, *t.size)
    ),
    "correlate_weight": convolution(
        lambda t: RAW.correlate_weight(t.input, t.grad, *t.geometry, *t.kernel, t.segments)
    ),
    "gradients": convolution(lambda t: RAW.gradients(t.input, t.filter, t.grad, *t.geometry)),
    "channel_sum": convolution(lambda t: RAW.channel_sum(t.grad)),
    "ways": convolution(lambda t: RAW.ways(t.input, t.filter, *t.geometry)),
    "meetings": convolution(lambda t: RAW.meetings(*t.geometry, *t.size, *t.kernel, True)),
    "relu": pooling(lambda t: RAW.relu(t.input)),
    "relu_": pooling(lambda t: RAW.relu_(t.input)),
    "relu_grad": pooling(lambda t: RAW.relu_grad(t.grad, t.grad)),
    "max_pool2d": pooling(lambda t: RAW.max_pool2d(t.input, *t.windows)),
    "max_pool2d_indices": pooling(lambda t: RAW.max_pool2d_indices(t.input, *t.windows)),
    "max_gather": pooling(lambda t: RAW.max_gather(t.input, t.indices, *t.windows)),
    "max_scatter": pooling(lambda t: RAW.max_scatter(t.grad, t.indices, *t.windows, *t.size)),
    "avg_pool2d": pooling(lambda t: RAW.avg_pool2d(t.input, *t.windows, *t.divisor)),
    "avg_pool2d_adjoint": pooling(
        lambda t: RAW.avg_pool2d_adjoint(t.grad, *t.windows, *t.divisor, *t.size)
    ),
}


def run(given: bytes) -> None:
    data = Bytes(given)
    name = list(CALLS)[data.small(len(CALLS) - 1)]
    try:
        CALLS[name](data)
        RESULTS[name] += 1
        if RESULTS.total() % 100_000 == 0:
            print("calls with a result:", dict(RESULTS), flush=True)
    except (RuntimeError, ValueError, TypeError, OverflowError, MemoryError):
        pass


def main() -> None:
    torch.set_num_threads(1)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    limits = ["-timeout=30", "-rss_limit_mb=4096", "-max_len=400", "-len_control=0"]
    atheris.Setup([sys.argv[0], *limits, *sys.argv[1:]], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
