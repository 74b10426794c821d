"""How it is measured: ours and stock by turns in one process, medians, through the public API.

A time alone says little on a machine that others use too, so every figure is a ratio of medians of
calls that alternate. What the machine can do, the rate of a large matrix product and of a copy, is
measured in the same run.

On a GPU a call only puts work on the stream: a measurement lasts until all of its work is done.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import functional
from .._checks import pair
from ..convert import convert
from .layers import Activation, Layer

PASSES = ("forward", "input gradient", "filter gradient")
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
Call = Callable[[], object]


class Machine(NamedTuple):
    """What a dtype and a number of threads can reach here, measured."""

    flops: float  # of the fastest of some matrix products, stock's and ours, a second
    bandwidth: float  # bytes read and written by a large copy, a second


class Measurement(NamedTuple):
    """Medians of one pass of a layer, or of a model's step, in seconds."""

    name: str
    what: str  # a pass, "training step" or "inference"
    dtype: str
    threads: int
    ours: dict[str, float]  # by layout
    stock: dict[str, float]
    flops: int = 0
    bytes: int = 0
    device: str = "cpu"

    @property
    def place(self) -> str:
        """'1 thread', '2 threads' or 'cuda'."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return threads if self.device == "cpu" else self.device

    @property
    def ratio(self) -> float:
        """Stock's best layout over our best."""
        return min(self.stock.values()) / min(self.ours.values())

    def same_layout(self, layout: str) -> float:
        return self.stock[layout] / self.ours[layout]

    def of_peak(self, machine: Machine) -> float:
        return self.flops / min(self.ours.values()) / machine.flops

    def of_roofline(self, machine: Machine) -> float:
        """Of the time that products and traffic take at the machine's rates, whichever is more."""
        bound = max(self.flops / machine.flops, self.bytes / machine.bandwidth)
        return bound / min(self.ours.values())


def now() -> float:
    """Seconds on a clock, when all work that was begun is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def medians(calls: Sequence[Call], budget: float, rounds: int = 5) -> list[float]:
    """Seconds a call, the calls taking turns for `budget` seconds and at least some rounds.

    Each round has its own order, so that what a call leaves in the caches, or gives back to the
    system for the next one to ask for again, meets each of the others as often.
    """
    grain = 2e-3 if torch.cuda.is_initialized() else 100e-6  # the clock's; waiting costs some 10 µs
    repeats = []
    for call in calls:
        call()
        start = now()
        call()
        repeats.append(max(1, round(grain / max(now() - start, 1e-7))))
    times: list[list[float]] = [[] for _ in calls]
    order, turns = random.Random(0), list(range(len(calls)))
    end = time.perf_counter() + budget
    while len(times[0]) < rounds or time.perf_counter() < end:
        order.shuffle(turns)
        for i in turns:
            start = now()
            for _ in range(repeats[i]):
                calls[i]()
            times[i].append((now() - start) / repeats[i])
    return [statistics.median(found) for found in times]


def machine(dtype: torch.dtype, device: str = "cpu") -> Machine:
    """The best of some matrix products, stock's and our 1x1 layers, and a copy of 256 MB."""
    rates = []
    for size in (256, 512, 1024) if device == "cpu" else (2048, 4096, 8192):
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in "ab")
        pixels = a.view(1, 32, -1, size).permute(0, 3, 1, 2)  # channels_last, as a's rows
        ours = partial(functional.conv2d, pixels, b.view(size, size, 1, 1))
        for product in (partial(torch.mm, a, b), ours):
            rates.append(2 * size**3 / medians([product], 0.3)[0])
    source = torch.zeros(2**26, device=device)
    target = torch.empty_like(source)
    copy = medians([lambda: target.copy_(source)], 0.3)[0]
    return Machine(max(rates), 2 * source.nbytes / copy)


def by_layout(
    calls: Mapping[str, Mapping[str, Call]], budget: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Medians of {"ours" or "stock": {layout: call}}, all taking turns."""
    flat = [(who, layout, call) for who in calls for layout, call in calls[who].items()]
    found: dict[str, dict[str, float]] = {"ours": {}, "stock": {}}
    for (who, layout, _), median in zip(
        flat, medians([call for *_, call in flat], budget), strict=True
    ):
        found[who][layout] = median
    return found["ours"], found["stock"]


def _ours(what: str, layer: Layer, x: Tensor, f: Tensor, o: Tensor) -> Call:
    geometry = layer.stride, layer.padding, layer.dilation, layer.groups
    return {
        "forward": lambda: functional.conv2d(x, f, None, *geometry),
        "input gradient": lambda: functional.conv2d_input_grad(x.shape, f, o, *geometry),
        "filter gradient": lambda: functional.conv2d_weight_grad(x, f.shape, o, *geometry),
    }[what]


def _stock(what: str, layer: Layer, x: Tensor, f: Tensor, o: Tensor) -> Call:
    geometry = layer.stride, layer.padding, layer.dilation, layer.groups
    if what == "forward":
        return lambda: F.conv2d(x, f, None, *geometry)
    mask = [what == "input gradient", what == "filter gradient", False]
    stride, dilation = [layer.stride] * 2, [layer.dilation] * 2
    padding = pair("padding", layer.padding)
    return lambda: torch.ops.aten.convolution_backward(
        o, x, f, None, stride, padding, dilation, False, [0, 0], layer.groups, mask
    )


def measure_layer(
    layer: Layer, what: str, dtype: torch.dtype, budget: float, device: str = "cpu"
) -> Measurement:
    g = torch.Generator().manual_seed(0)
    shapes = layer.input_shape, layer.filter_shape, layer.output_shape
    tensors = [torch.randn(shape, generator=g).to(device, dtype) for shape in shapes]
    calls: dict[str, dict[str, Call]] = {"ours": {}, "stock": {}}
    for name, layout in LAYOUTS.items():
        x, f, o = (t.to(memory_format=layout) for t in tensors)
        calls["ours"][name] = _ours(what, layer, x, f, o)
        calls["stock"][name] = _stock(what, layer, x, f, o)
    with torch.no_grad():
        ours, stock = by_layout(calls, budget)
    traffic = sum(t.nbytes for t in tensors)
    name, threads = str(dtype).removeprefix("torch."), torch.get_num_threads()
    return Measurement(layer.name, what, name, threads, ours, stock, layer.flops, traffic, device)


def measure_activation(
    layer: Activation, what: str, dtype: torch.dtype, budget: float, device: str = "cpu"
) -> Measurement:
    """A forward pass, or the whole of a backward pass, which is the input gradient."""
    x = torch.randn(layer.input, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    calls: dict[str, dict[str, Call]] = {"ours": {}, "stock": {}}
    for who, module in (("ours", functional), ("stock", F)):
        for name, layout in LAYOUTS.items():
            leaf = x.to(memory_format=layout).requires_grad_()
            function = partial(getattr(module, layer.function), leaf, *layer.arguments)
            calls[who][name] = (
                _forward(function) if what == "forward" else _backward(function, leaf)
            )
    ours, stock = by_layout(calls, budget)
    name, threads = str(dtype).removeprefix("torch."), torch.get_num_threads()
    return Measurement(layer.name, what, name, threads, ours, stock, 0, 2 * x.nbytes, device)


def _forward(function: Call) -> Call:
    def forward() -> object:
        with torch.no_grad():
            return function()

    return forward


def _backward(function: Callable[[], Tensor], leaf: Tensor) -> Call:
    output = function()
    grad = torch.ones_like(output)
    return lambda: torch.autograd.grad(output, leaf, grad, retain_graph=True)


def measure_model(
    name: str,
    build: Callable[[], nn.Module],
    shape: tuple[int, ...],
    training: bool,
    budget: float,
    device: str = "cpu",
) -> Measurement:
    """A whole training step (forward, backward, SGD), or a forward pass in eval mode."""
    calls: dict[str, dict[str, Call]] = {"ours": {}, "stock": {}}
    for who in calls:
        for layout, memory_format in LAYOUTS.items():
            torch.manual_seed(0)
            model = build().train(training)
            if who == "ours":
                convert(model)
            model = model.to(device, memory_format=memory_format)  # type: ignore[call-overload]
            x = torch.randn(shape, device=device).contiguous(memory_format=memory_format)
            calls[who][layout] = _step(model, x) if training else _inference(model, x)
    ours, stock = by_layout(calls, budget)
    what = "training step" if training else "inference"
    threads = torch.get_num_threads()
    return Measurement(name, what, "float32", threads, ours, stock, device=device)


def _step(model: nn.Module, x: Tensor) -> Call:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    return step


def _inference(model: nn.Module, x: Tensor) -> Call:
    def infer() -> Any:
        with torch.no_grad():
            return model(x)

    return infer


def measure_latency(budget: float, device: str = "cpu") -> Measurement:
    """The post's example, 3x3 by 2x2, forward and backward."""
    x = torch.arange(9.0, device=device).reshape(1, 1, 3, 3).requires_grad_()
    f = torch.arange(4.0, device=device).reshape(1, 1, 2, 2).requires_grad_()
    o = torch.ones(1, 1, 2, 2, device=device)

    def both(conv2d: Callable[[Tensor, Tensor], Tensor]) -> Call:
        return lambda: torch.autograd.grad(conv2d(x, f), (x, f), o)

    calls = {"ours": {"NCHW": both(functional.conv2d)}, "stock": {"NCHW": both(F.conv2d)}}
    ours, stock = by_layout(calls, budget)
    name, what, threads = "post 3x3 by 2x2", "forward and backward", torch.get_num_threads()
    return Measurement(name, what, "float32", threads, ours, stock, device=device)
