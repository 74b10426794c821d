"""`explain`: a layer's three operations as equations, with the numbers that its kernels compute."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice, product, zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from .. import functional, ops
from ..functional import Size2, _geometry
from . import page
from .equations import MOST_TERMS, Equation, Equations, Layer, Values, number
from .symbols import Symbol

# Small whole numbers for tensors of which only the size is known, in the tensors' order, again and
# again: sums stay exact, and no row or column is its own mirror image.
INPUTS = range(1, 10)
FILTERS = 1, 2, 3, 4, -1, -2, 5
GRADIENTS = 1, -1, 2, 3, -2, 1, 0

MEANINGS = {
    "O": "the correlation of X and F",
    "∂E/∂F": "the correlation of X and ∂E/∂O",
    "∂E/∂X": "the full convolution of ∂E/∂O and F: F, rotated by 180°, over ∂E/∂O",
    "∂E/∂b": "the sum of ∂E/∂O",
}
DEFAULTS = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "padding_mode": "zeros"}
MOST_NUMBERS = 12  # rows, columns or matrices of a print


@dataclass(frozen=True)
class Shape:
    """A convolution layer and its input, as sizes alone; `explain` gives them whole numbers.

    Args:
        input: (H, W) or (C, H, W).
        filter: (R, S) or (K, C/groups, R, S).
        stride, padding, dilation, padding_mode: as in `functional.conv2d`.

    >>> print(explain(Shape((5, 5), (3, 3), stride=2)).input_gradient[0, 1, 2])
    ∂E/∂X23 = ∂E/∂O11 F23 + ∂E/∂O12 F21
    """

    input: tuple[int, ...]
    filter: tuple[int, ...]
    stride: Size2 = 1
    padding: Size2 | str = 0
    dilation: Size2 = 1
    padding_mode: str = "zeros"

    def __post_init__(self) -> None:
        if len(self.input) not in (2, 3):
            raise ValueError(f"input must be (H, W) or (C, H, W), but got {self.input}")
        if len(self.filter) not in (2, 4):
            raise ValueError(f"filter must be (R, S) or (K, C/groups, R, S), but got {self.filter}")
        if len(self.filter) == 2 and self.channels != 1:
            raise ValueError(
                f"a {self.channels}-channel input needs a filter KxCxRxS, C = input channels / "
                f"groups, but got {sizes_text(self.filter)}"
            )
        depth = self.filter_size[1]
        if depth == 0 or self.channels % depth:
            raise ValueError(
                f"an input of {self.channels} channels does not fall into groups of the filter's "
                f"{depth}"
            )

    @property
    def filter_size(self) -> tuple[int, ...]:
        """(K, C/groups, R, S)."""
        return (1,) * (4 - len(self.filter)) + tuple(self.filter)

    @property
    def channels(self) -> int:
        return self.input[0] if len(self.input) == 3 else 1

    @property
    def groups(self) -> int:
        """As many as the filter's channels make of the input's."""
        return self.channels // self.filter_size[1]


class Explanation:
    """A layer's equations, and their numbers for one image.

    Attributes:
        output: O, the correlation of input and filter (and bias).
        filter_gradient: ∂E/∂F, the correlation of input and output gradient.
        input_gradient: ∂E/∂X, the full convolution of output gradient and filter.
        bias_gradient: ∂E/∂b, the sum of the output gradient, or None.
        input, filter, bias, grad: X (C, H, W), F (K, C/groups, R, S), b (K) or None and ∂E/∂O
            (K, P, Q), which the equations' numbers are made from.
        options: stride, padding, dilation, groups and padding_mode, as `functional.conv2d`'s.
        geometry: the same as the kernels have it.
        names: how elements are written.

    `explanation["∂E/∂X23"]`, or "dE/dX23", is an equation by the name that it is printed with.
    """

    def __init__(
        self,
        input: Tensor,  # [C, H, W]
        filter: Tensor,  # [K, C/groups, R, S]
        bias: Tensor | None,  # [K]
        grad: Tensor | None,  # [K, P, Q]
        **options: Any,
    ) -> None:
        if filter.is_complex():
            raise NotImplementedError("explain() shows layers of real numbers")
        output = functional.conv2d(input, filter, bias, **options)
        if grad is None:
            grad = _whole(GRADIENTS, output.shape, output)
        for_filter = functional.conv2d_weight_grad(input[None], filter.shape, grad[None], **options)
        for_input = functional.conv2d_input_grad((1, *input.shape), filter, grad[None], **options)
        tensors = {
            ("X", False): input,
            ("F", False): filter,
            ("O", False): output,
            ("O", True): grad,
            ("F", True): for_filter,
            ("X", True): for_input[0],
        }
        if bias is not None:
            tensors |= {("b", False): bias, ("b", True): ops.channel_sum(grad[None])}
        values = Values(tensors)
        self.geometry = _geometry(filter, kernel=filter.shape[2:], **options)
        layer = Layer(self.geometry, tuple(input.shape), tuple(filter.shape), bias is not None)
        self.input, self.filter, self.bias, self.grad = input, filter, bias, grad
        self.options, self.names = options, layer.names
        self.output = Equations(layer, "O", False, values)
        self.filter_gradient = Equations(layer, "F", True, values)
        self.input_gradient = Equations(layer, "X", True, values)
        self.bias_gradient = None if bias is None else Equations(layer, "b", True, values)

    def __getitem__(self, name: str) -> Equation:
        symbol = self.names.symbol(name)
        for equations in self.parts().values():
            if equations.of == replace(symbol, index=()):
                return equations[symbol.index]
        raise KeyError(f"{name} is given; the equations are of {', '.join(self.parts())}")

    def parts(self) -> dict[str, Equations]:
        """The equations by what they compute: 'O', '∂E/∂F', '∂E/∂X' and '∂E/∂b'."""
        parts = {
            "O": self.output,
            "∂E/∂F": self.filter_gradient,
            "∂E/∂X": self.input_gradient,
        }
        if self.bias_gradient is not None:
            parts["∂E/∂b"] = self.bias_gradient
        return parts

    def pair(self, filter: int = 0, channel: int = 0) -> Explanation:
        """The equations of one filter on one of the channels that it sees, without bias.

        Raises:
            IndexError: there is no such filter or channel.
        """
        filters, channels = self.filter.shape[:2]
        for name, index, count in (("filter", filter, filters), ("channel", channel, channels)):
            if not -count <= index < count:
                raise IndexError(f"{name} {index} of {count}: count from 0")
        filter, channel = filter % filters, channel % channels
        group = filter // (filters // self.options["groups"])
        return Explanation(
            self.input[None, group * channels + channel],
            self.filter[None, None, filter, channel],
            None,
            self.grad[None, filter],
            **self.options | {"groups": 1},
        )

    def html(self, filter: int = 0, channel: int = 0) -> str:
        """The interactive page of such a pair, a file that needs nothing else.

        Raises:
            IndexError: there is no such filter or channel.
            ValueError: sizes for which the page has no room (explain the layer with a smaller x),
                or padding that is not of zeros and the same on both sides.
        """
        pair, (filters, channels) = self.pair(filter, channel), self.filter.shape[:2]
        numbers = filter % filters + 1, channel % channels + 1
        title = f"Filter {numbers[0]} of {filters} on channel {numbers[1]} of {channels}."
        return page.html(pair, title if filters * channels > 1 else "")

    def title(self) -> str:
        """The layer in a line."""
        settings = [
            f", {name.replace('_', ' ')} {setting_text(value)}"
            for name, value in self.options.items()
            if value not in (DEFAULTS[name], (DEFAULTS[name],) * 2)
        ]
        input, filter, output = map(self._size, (self.input, self.filter, self.output.tensor))
        return f"{input} input, {filter} filter{''.join(settings)}: {output} output"

    def _size(self, tensor: Tensor) -> str:
        return sizes_text(tensor.shape if self.names.channels else tensor.shape[-2:])

    def _matrices(self) -> tuple[list[tuple[Symbol, Tensor]], str]:
        """Rows and columns of what is given, a channel at a time, and what to say of the rest."""
        matrices, left_out = [], []
        for letter, gradient, tensor in (
            ("X", False, self.input),
            ("F", False, self.filter),
            ("O", True, self.grad),
        ):
            channels, (rows, columns) = tensor.shape[:-2], tensor.shape[-2:]
            if max(channels.numel(), rows, columns) <= MOST_NUMBERS:
                for index in product(*map(range, channels)):
                    matrices.append((Symbol(letter, index, gradient), tensor[index]))
            else:
                name = self.names.text(Symbol(letter, (), gradient))
                left_out.append(f"{name} ({self._size(tensor)})")
        return matrices, f"not shown: {', '.join(left_out)}" if left_out else ""

    def __repr__(self) -> str:
        return f"<Explanation of {self.title()}>"

    def __str__(self) -> str:
        lines = [self.title(), ""]
        matrices, left_out = self._matrices()
        if matrices:
            lines += [*_beside([_block(self.names.text(s), m) for s, m in matrices]), ""]
        if left_out:
            lines += [f"  {left_out}", ""]
        for name, equations in self.parts().items():
            lines += [f"{name}, {MEANINGS[name]}", ""]
            shown, more = equations.shown()
            for equation in shown:
                indent = " " * str(equation).index("=")
                lines += [f"  {equation}", f"  {indent}= {equation.numbers(most=MOST_TERMS)}"]
            lines += [f"  {more}", ""] if more else [""]
        return "\n".join(lines[:-1])

    def _repr_markdown_(self) -> str:
        matrices, left_out = self._matrices()
        lines = [f"**{self.title()}**"]
        lines += [f"$${self.names.latex(s, colour=True)} = {_matrix(m)}$$" for s, m in matrices]
        lines += [left_out] if left_out else []
        for name, equations in self.parts().items():
            lines += [f"**{name}, {MEANINGS[name]}**", equations._repr_latex_()]
        return "\n\n".join(lines)


def sizes_text(sizes: Iterable[int]) -> str:
    """In the style of 2x5x5."""
    return "x".join(map(str, sizes))


def setting_text(value: Any) -> str:
    """A setting; a pair of equals is one."""
    if not isinstance(value, (tuple, list)):
        return str(value)
    return str(value[0]) if len(set(value)) == 1 else sizes_text(value)


def _block(name: str, matrix: Tensor) -> list[str]:
    """A matrix as lines of one width, under its name."""
    cells = [[number(value) for value in row] for row in matrix.tolist()]
    width = max((len(cell) for row in cells for cell in row), default=0)
    lines = [name, *("  ".join(cell.rjust(width) for cell in row) for row in cells)]
    return [line.ljust(max(map(len, lines))) for line in lines]


def _beside(blocks: list[list[str]]) -> list[str]:
    """Blocks of lines beside each other, a few in a row."""
    lines = []
    for first in range(0, len(blocks), 4):
        row = blocks[first : first + 4]
        for line in zip_longest(*row):
            parts = (part or " " * len(block[0]) for part, block in zip(line, row, strict=True))
            lines.append(("  " + "     ".join(parts)).rstrip())
        lines.append("")
    return lines[:-1]


def _matrix(matrix: Tensor) -> str:
    rows = (" & ".join(map(number, row)) for row in matrix.tolist())
    return r"\begin{pmatrix}" + r" \\ ".join(rows) + r"\end{pmatrix}"


def _whole(numbers: Sequence[int], shape: Sequence[int], like: Tensor) -> Tensor:
    """A tensor of these numbers, again and again, of the dtype and device of another."""
    count = torch.Size(shape).numel()
    return like.new_tensor(list(islice(cycle(numbers), count))).reshape(shape)


def explain(
    layer: nn.Conv2d | Shape,
    x: Tensor | Sequence[int] | None = None,
    grad: Tensor | None = None,
) -> Explanation:
    """The equations of a layer's output and gradients, term by term, with their numbers.

    Each term is read from the index maps that the kernels walk, and each number is a kernel's.

    Args:
        layer: a Conv2d, this package's or torch's; or a `Shape`, for sizes alone.
        x: an input of (C, H, W) or (1, C, H, W), or only its size, (H, W) or (C, H, W), for whole
            numbers. If left out, the smallest input that gives 2x2 outputs.
        grad: ∂E/∂O, (K, P, Q) or (1, K, P, Q). If left out, whole numbers.

    Returns:
        an `Explanation`: prints as text, shows as formulas in a notebook, and has every equation
        by index and by name.

    Raises:
        TypeError: the layer is neither; RuntimeError, NotImplementedError: as
            `functional.conv2d`; ValueError: more than one image.

    >>> layer = nn.Conv2d(1, 1, 2, bias=False)
    >>> equations = explain(layer, (3, 3))
    >>> print(equations.input_gradient)
    ∂E/∂X11 = ∂E/∂O11 F11
    ∂E/∂X12 = ∂E/∂O11 F12 + ∂E/∂O12 F11
    ∂E/∂X13 = ∂E/∂O12 F12
    ∂E/∂X21 = ∂E/∂O11 F21 + ∂E/∂O21 F11
    ∂E/∂X22 = ∂E/∂O11 F22 + ∂E/∂O12 F21 + ∂E/∂O21 F12 + ∂E/∂O22 F11
    ∂E/∂X23 = ∂E/∂O12 F22 + ∂E/∂O22 F12
    ∂E/∂X31 = ∂E/∂O21 F21
    ∂E/∂X32 = ∂E/∂O21 F22 + ∂E/∂O22 F21
    ∂E/∂X33 = ∂E/∂O22 F22
    >>> equations["O12"].latex()
    'O_{12} = F_{11} X_{12} + F_{12} X_{13} + F_{21} X_{22} + F_{22} X_{23}'
    """
    if isinstance(layer, Shape):
        like = x if isinstance(x, Tensor) else torch.empty(0)
        filter, bias = _whole(FILTERS, layer.filter_size, like), None
        x = layer.input if x is None else x
    elif isinstance(layer, nn.Conv2d) and not nn.parameter.is_lazy(layer.weight):
        filter = layer.weight.detach()
        bias = None if layer.bias is None else layer.bias.detach()
    else:
        raise TypeError(
            f"explain() takes a Conv2d that has its weights, or a Shape, but got "
            f"{type(layer).__name__}; what a ConvTranspose2d computes is the input gradient of "
            "the Conv2d that it transposes"
        )
    options = {name: getattr(layer, name) for name in DEFAULTS}
    if x is None:
        x = _smallest(_geometry(filter, kernel=filter.shape[2:], **options), filter.shape[2:])
    if not isinstance(x, Tensor):
        x = _whole(INPUTS, (filter.shape[1] * layer.groups, *x[-2:]), filter)
    return Explanation(
        _image("x", x), filter, bias, grad if grad is None else _image("grad", grad), **options
    )


def _image(name: str, tensor: Tensor) -> Tensor:
    """A single image as (C, H, W)."""
    if not 2 <= tensor.dim() <= 4 or (tensor.dim() == 4 and tensor.shape[0] != 1):
        raise ValueError(
            f"explain() shows one image: {name} must be (C, H, W) or (1, C, H, W), but got "
            f"{list(tensor.shape)}"
        )
    return tensor.detach().reshape(tensor.shape[-3:] if tensor.dim() > 2 else (1, *tensor.shape))


def _smallest(geometry: ops.Geometry, kernel: Sequence[int]) -> tuple[int, int]:
    """The smallest input that gives two outputs along each axis; padding that mirrors shows no more
    than there is."""
    g = geometry
    least = 1 if ops.PADDING_MODES[g.padding_mode] in ("zeros", "replicate") else 1 + max(g[3:7])
    rows = g.stride_h + g.dilation_h * (kernel[0] - 1) + 1 - g.pad_top - g.pad_bottom
    columns = g.stride_w + g.dilation_w * (kernel[1] - 1) + 1 - g.pad_left - g.pad_right
    return max(rows, least), max(columns, least)
