"""Equations term by term, made from what the kernels' index maps say meets (`ops.meetings`).

The trilinear form is a sum of products O·F·X. An equation leaves one of the three out and sums over
all meetings that its element takes part in:

    O11 = F11 X11 + F12 X12 + …         ∂E/∂F11 = ∂E/∂O11 X11 + ∂E/∂O12 X12 + …
    ∂E/∂X12 = ∂E/∂O11 F12 + ∂E/∂O12 F11

Zeros that padding shows are left out; padding that mirrors the input is another element of X.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice, product
from typing import Literal

from torch import Tensor

from .. import ops
from .symbols import Names, Symbol

Form = Literal["short", "long", "chain", "delta"]
Term = tuple[Symbol, ...]  # a product
Meetings = Mapping[int, list[tuple[int, int]]]

MOST_EQUATIONS, MOST_TERMS = 36, 36  # of a print; where there are more, a few stand for them
FEW = 4
DOTS = r"\dots"


class Layer:
    """Which elements of X, F and O meet, looked up from any of the three.

    Sizes: input (C, H, W); filter (K, C/groups, R, S).
    """

    def __init__(
        self, geometry: ops.Geometry, input: tuple[int, ...], filter: tuple[int, ...], bias: bool
    ) -> None:
        output = (filter[0], *geometry.output_size(*input[1:], *filter[2:]))
        self.sizes = {"X": input, "F": filter, "O": output}
        if bias:
            self.sizes["b"] = filter[:1]
        self.names = Names(self.sizes)
        (_, height, width), (_, _, *kernel) = input, filter
        forward = ops.meetings(geometry, (height, width), kernel)
        gather = ops.meetings(geometry, (height, width), kernel, gather=True)
        self._outputs = [_by(axis, 0) for axis in forward]  # (tap, input) at each output
        self._taps = [_by(axis, 1) for axis in forward]  # (output, input) at each tap
        self._inputs = [_by(axis, 2) for axis in gather]  # (output, tap) at each input
        self._depth, self._rows = filter[1], filter[0] // geometry.groups  # channels of a group

    def _input_channel(self, k: int, c: int) -> int:
        return k // self._rows * self._depth + c

    def terms(self, left: Symbol) -> Iterator[Term]:
        """The products that sum to an element, in the order of the post."""
        letter, index = left.letter, left.index
        if letter == "O":
            k, i, j = index
            rows, columns = self._outputs[0][i], self._outputs[1][j]
            for c, (r, y), (s, x) in product(range(self._depth), rows, columns):
                yield Symbol("F", (k, c, r, s)), Symbol("X", (self._input_channel(k, c), y, x))
            if "b" in self.sizes:
                yield (Symbol("b", (k,)),)
        elif letter == "F":
            k, c, r, s = index
            channel = self._input_channel(k, c)
            for (i, y), (j, x) in product(self._taps[0][r], self._taps[1][s]):
                yield Symbol("O", (k, i, j), True), Symbol("X", (channel, y, x))
        elif letter == "X":
            channel, y, x = index
            c = channel % self._depth
            for k in self.filters_of(channel):
                for (i, r), (j, s) in product(self._inputs[0][y], self._inputs[1][x]):
                    yield Symbol("O", (k, i, j), True), Symbol("F", (k, c, r, s))
        else:
            for place in product(*map(range, self.sizes["O"][1:])):
                yield (Symbol("O", index + place, True),)

    def filters_of(self, channel: int) -> range:
        """The filters that see an input channel."""
        group = channel // self._depth
        return range(group * self._rows, (group + 1) * self._rows)

    def gradients_seen_by(self, left: Symbol) -> Iterator[Symbol]:
        """∂E/∂ of the outputs that the chain rule goes through, also of those without a part."""
        channels = self.filters_of(left.index[0]) if left.letter == "X" else left.index[:1]
        for index in product(channels, *map(range, self.sizes["O"][1:])):
            yield Symbol("O", index, True)


def _by(axis: Tensor, key: int) -> Meetings:
    """One axis's (output, tap, input) triples, sorted, by one of the three."""
    table: Meetings = defaultdict(list)
    for triple in sorted(axis.tolist()):
        found = triple.pop(key)
        table[found].append(tuple(triple))
    return table


class Values:
    """The number behind each symbol: tensors of one image by letter and whether it is ∂E/∂."""

    def __init__(self, tensors: Mapping[tuple[str, bool], Tensor]) -> None:
        self.tensors = tensors
        self._arrays = {key: tensor.cpu().double().numpy() for key, tensor in tensors.items()}

    def __getitem__(self, symbol: Symbol) -> float:
        return float(self._arrays[symbol.letter, symbol.gradient][symbol.index])


class Equation:
    """One element of O, ∂E/∂F, ∂E/∂X or ∂E/∂b as a sum of products.

    Attributes:
        left: the element.
        terms: the products of two symbols (of one where the bias takes part) that sum to it.
        value: the element as the kernel computed it.
    """

    def __init__(self, layer: Layer, left: Symbol, values: Values) -> None:
        self.left = left
        self.terms = tuple(layer.terms(left))
        self.value = values[left]
        self._layer, self._values = layer, values

    def text(self, form: Form = "short", most: int | None = None) -> str:
        """The equation in plain text, its middle left out where it has more terms than `most`.

        `form` is 'short'; 'long', with a 0 at each output that the element has no part in;
        'chain', the chain rule before anything is worked out; or 'delta', 'short' with δ for ∂E/∂.
        """
        sign = "δ" if form == "delta" else "∂E/∂"

        def name(symbol: Symbol) -> str:
            return self._layer.names.text(symbol, sign)

        return f"{name(self.left)} = {_sum(self._parts(form, name, '∂{}/∂{}'), most)}"

    def latex(
        self,
        form: Form = "short",
        colour: bool = False,
        equals: str = "=",
        most: int | None = None,
    ) -> str:
        """The equation in LaTeX, `form` and `most` as for `text`; `colour` shows symbols' roles."""

        def name(symbol: Symbol) -> str:
            return self._layer.names.latex(symbol, form == "delta", colour)

        parts = self._parts(form, name, r"\frac{{\partial {}}}{{\partial {}}}")
        return f"{name(self.left)} {equals} {_sum(parts, most, DOTS)}"

    def numbers(self, form: Form = "short", most: int | None = None) -> str:
        """The right side in numbers, and the kernel's result: '1·2 + 2·3 + 3·5 + 4·6 = 47'.

        `form` is 'short' or, for its order of factors, 'delta'.
        """
        products = ["·".join(_factor(self._values[f]) for f in t) for t in self.ordered(form)]
        return f"{_sum(products, most)} = {number(self.value)}"

    def _parts(self, form: Form, name: Callable[[Symbol], str], derivative: str) -> list[str]:
        """The terms as the form has them."""
        seen = self._layer.gradients_seen_by(self.left)
        if form == "chain" and self.left.gradient:
            below = name(replace(self.left, gradient=False))
            return [
                f"{name(g)} {derivative.format(name(replace(g, gradient=False)), below)}"
                for g in seen
            ]
        if form == "long" and self.left.gradient:
            at: dict[Symbol, list[str]] = {}
            for term in self.terms:
                at.setdefault(term[0], []).append(" ".join(map(name, term)))
            return [part for g in seen for part in at.get(g, [f"{name(g)} 0"])]
        return [" ".join(map(name, term)) for term in self.ordered(form)]

    def ordered(self, form: Form) -> Iterator[Term]:
        """The terms; with δ the post has F before δO."""
        turn = form == "delta" and self.left.letter == "X"
        return (term[::-1] if turn else term for term in self.terms)

    def __str__(self) -> str:
        return self.text(most=MOST_TERMS)

    def __repr__(self) -> str:
        return f"<Equation {self}>"

    def _repr_latex_(self) -> str:
        return f"${self.latex(colour=True, most=MOST_TERMS)}$"


def number(value: float) -> str:
    """A number as equations and pictures show it."""
    return f"{value + 0.0:.5g}"  # -0 is 0


def _factor(value: float) -> str:
    return f"({number(value)})" if value < 0 else number(value)


def _sum(parts: list[str], most: int | None, dots: str = "…") -> str:
    """The parts added; without those in the middle if they are more than `most`."""
    if most is not None and len(parts) > most:
        parts = [*parts[:FEW], dots, parts[-1]]
    return " + ".join(parts) or "0"


class Equations(Mapping[tuple[int, ...], Equation]):
    """The equations of one tensor, O, ∂E/∂F, ∂E/∂X or ∂E/∂b, by an element's index from 0.

    They are made when they are asked for, so that any layer has them.

    Attributes:
        of: the tensor's symbol, without an index.
        tensor: the elements as their kernel computed them, without the batch's axis.
    """

    def __init__(self, layer: Layer, letter: str, gradient: bool, values: Values) -> None:
        self.of = Symbol(letter, (), gradient)
        self.tensor = values.tensors[letter, gradient]
        self._layer, self._values = layer, values

    def __getitem__(self, index: tuple[int, ...]) -> Equation:
        if len(index) != self.tensor.dim() or not all(
            0 <= i < size for i, size in zip(index, self.tensor.shape, strict=True)
        ):
            raise KeyError(index)
        return Equation(self._layer, Symbol(self.of.letter, index, self.of.gradient), self._values)

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        return product(*map(range, self.tensor.shape))

    def __len__(self) -> int:
        return self.tensor.numel()

    def shown(self) -> tuple[list[Equation], str]:
        """All equations, or the first and what to say of the rest."""
        few = FEW if len(self) > MOST_EQUATIONS else len(self)
        rest = f"… {len(self) - few:,} more" if few < len(self) else ""
        return [self[index] for index in islice(self, few)], rest

    def __str__(self) -> str:
        equations, more = self.shown()
        return "\n".join([*map(str, equations), *([more] if more else [])])

    def __repr__(self) -> str:
        return f"<{len(self)} Equations, the first {next(iter(self.values()), None)}>"

    def latex(self, form: Form = "short", colour: bool = False) -> str:
        """All of them in LaTeX, aligned at their equals signs."""
        return _aligned([e.latex(form, colour, "&=") for e in self.values()])

    def _repr_latex_(self) -> str:
        equations, more = self.shown()
        lines = [e.latex(colour=True, equals="&=", most=MOST_TERMS) for e in equations]
        if more:
            lines.append(rf"&\text{{{more}}}")
        return f"$${_aligned(lines)}$$"


def _aligned(lines: list[str]) -> str:
    return "\\begin{aligned}\n" + " \\\\\n".join(lines) + "\n\\end{aligned}"
