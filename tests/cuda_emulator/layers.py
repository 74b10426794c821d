"""ReLU and pooling on the emulated GPU: the calls of a layer, and what `reference` has for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from cases import BF16, F16, F32, F64
from contractions import assert_rest_untouched
from emulator import LayerCall, Program
from hypothesis import assume
from hypothesis import strategies as st
from layouts import channels_last, channels_sliced, layouts, odd_strides, sliced
from torch import Tensor

from torch_fullconv import reference
from torch_fullconv.pool_ops import Divisor, Windows

FLOATS = (F32, F64, BF16, F16)
Layout = Callable[[Tensor], Tensor]


class Layer(NamedTuple):
    input: tuple[int, ...]  # N, C, H, W
    windows: Windows
    divisor: Divisor = Divisor()

    @property
    def output(self) -> tuple[int, ...]:
        return *self.input[:2], *self.windows.output_size(*self.input[2:])


# Whole and broken vectors of channels, overlap and gaps, every option.
LAYERS = {
    "quarters": Layer((2, 16, 8, 8), Windows(2, 2, 2, 2)),
    "overlap": Layer((2, 8, 9, 7), Windows(3, 3, 2, 2, 1, 1)),
    "dense": Layer((1, 6, 7, 21), Windows(3, 2, 1, 1, 1, 0), Divisor(False)),
    "gaps": Layer((2, 3, 11, 10), Windows(2, 1, 3, 4), Divisor(override=-3)),
    "ceil": Layer((3, 24, 8, 6), Windows(3, 4, 2, 3, 1, 2, 1, 1, 1), Divisor(False)),
    "ceil_padding": Layer((1, 5, 6, 9), Windows(3, 2, 2, 2, 1, 1, 1, 1, 1)),
    "dilation": Layer((2, 8, 13, 12), Windows(3, 2, 2, 3, 1, 1, 3, 2)),
    "dilation_ceil": Layer((1, 3, 12, 15), Windows(2, 3, 4, 6, 0, 1, 6, 4, 1)),
    "global": Layer((2, 17, 5, 6), Windows(5, 6, 2**31 - 1, 1)),
    "row": Layer((1, 1, 1, 700), Windows(1, 3, 1, 1, 0, 1)),
}


def integers(shape: Sequence[int], dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    least = -3 if dtype.is_signed else 0
    return torch.randint(least, 4, tuple(shape), generator=generator).to(dtype)


def transposed_average(layer: Layer, grad: Tensor) -> Tensor:
    """The average as a matrix, from what it does to each single pixel, transposed."""
    h, w = layer.input[2:]
    pixels = torch.eye(h * w, dtype=F64).view(h * w, 1, h, w)
    matrix = torch.from_numpy(average(layer, pixels)).flatten(1)  # [HW, PQ]
    return (grad.to(F64).flatten(2) @ matrix.T).view(layer.input)


def average(layer: Layer, input: Tensor) -> Any:
    w, (count_include_pad, override) = layer.windows, layer.divisor
    axes = w[0:2], w[2:4], w[4:6]
    return reference.avg_pool2d(
        input.to(F64).numpy(), *axes, bool(w.ceil_mode), count_include_pad, override or None
    )


Calls = dict[str, tuple[LayerCall, Tensor]]  # and what each must answer


def calls_of(
    layer: Layer, dtype: torch.dtype, place: Layout, results: Layout, seed: int = 0
) -> Calls:
    """All operations that the dtype has, of operands in one layout and results in another."""
    w, size = layer.windows, layer.input[2:]
    x, other = (place(integers(layer.input, dtype, seed + i)) for i in range(2))
    g = place(integers(layer.output, dtype, seed + 2))
    axes = w[0:2], w[2:4], w[4:6], w[6:8]
    largest, chosen = map(
        torch.from_numpy, reference.max_pool2d(x.to(F64).numpy(), *axes, bool(w.ceil_mode))
    )
    calls: Calls = {}

    def enter(name: str, first: Tensor, second: Tensor | None, expected: Tensor) -> None:
        operation = name.removesuffix("_grad")
        empty = results(torch.full_like(expected, 99, dtype=dtype))
        if operation == "max_indices":
            second = results(torch.full_like(expected, -99))
        call = LayerCall(operation, first, second, empty, size, w, layer.divisor)
        calls[name] = call, expected

    nothing = torch.zeros((), dtype=dtype)
    enter("relu", x, None, x.clamp(min=0))
    enter("relu_grad", x, other, torch.where(x > 0, other, nothing))
    enter("max", x, None, largest.to(dtype))
    enter("max_indices", x, None, chosen)
    if w.dilation_h == w.dilation_w == 1 and (dtype.is_floating_point or dtype == torch.int64):
        exact = torch.from_numpy(average(layer, x))
        narrow = dtype if dtype.itemsize == 8 else F32  # the quotient's own type, to round in
        enter("average", x, None, exact.to(narrow).to(dtype))
    if not dtype.is_floating_point:
        return calls
    flat, chosen = chosen.flatten(2), results(chosen)
    enter("max_gather", other, chosen, other.flatten(2).gather(2, flat).view(layer.output))
    scattered = torch.zeros(*layer.input[:2], size[0] * size[1], dtype=F64)
    scattered.scatter_add_(2, flat, g.to(F64).flatten(2))
    enter("max_scatter", g, chosen, scattered.view(layer.input).to(dtype))
    if "average" in calls:
        enter("average_adjoint", g, None, transposed_average(layer, g).to(dtype))
    return calls


def assert_answers(
    program: Program, calls: Calls, seed: int = 1, environment: Mapping[str, str] | None = None
) -> None:
    """Exact, but for the averages' adjoint: its sums' terms are quotients."""
    given = [call for call, _ in calls.values()]
    for (name, (call, expected)), found in zip(
        calls.items(), program.run(given, seed, environment), strict=True
    ):
        bounds = {"rtol": 0.0, "atol": 0.0}
        if call.operation == "average_adjoint":
            sums = torch.finfo(F64 if found.dtype == F64 else F32)
            bounds = {"rtol": 2 * torch.finfo(found.dtype).eps, "atol": 8 * sums.eps}
        torch.testing.assert_close(found, expected, **bounds, msg=lambda m, n=name: f"{n}: {m}")
        assert_rest_untouched(call.result, found)


@st.composite
def random_layers(draw: Any) -> Layer:
    """Any layer of up to 9x20 pixels whose windows all have an element."""
    shape = [draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3, 8, 12, 16]))]
    dilated = draw(st.booleans())
    axes = []
    for most in (9, 20):
        size, kernel = draw(st.integers(1, most)), draw(st.integers(1, 5))
        dilation = draw(st.integers(1, 4)) if dilated else 1
        pad = draw(st.integers(0, kernel // 2))
        assume(size + 2 * pad > dilation * (kernel - 1))
        shape.append(size)
        axes.append((kernel, draw(st.integers(1, 6)), pad, dilation))
    windows = Windows(
        *(v for pair in zip(*axes, strict=True) for v in pair), draw(st.integers(0, 1))
    )
    for size, (kernel, stride, pad, dilation), outputs in zip(
        shape[2:], axes, windows.output_size(*shape[2:]), strict=True
    ):
        taps = [(outputs - 1) * stride - pad + r * dilation for r in range(kernel)]
        assume(any(0 <= x < size for x in taps))
    divisor = Divisor(draw(st.booleans()), draw(st.sampled_from([0, 0, 1, -3, 4])))
    return Layer(tuple(shape), windows, divisor)


random_calls = st.builds(
    calls_of,
    random_layers(),
    st.sampled_from(FLOATS),
    layouts,
    st.sampled_from([torch.Tensor.contiguous, channels_last, channels_sliced, odd_strides, sliced]),
    st.integers(0, 999),
)
