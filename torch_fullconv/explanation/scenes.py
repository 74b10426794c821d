"""What a picture shows, without drawing it: grids of numbers, which cells meet, and the equation.

Each of the three operations is a scene for one element of its result; the input gradient is two:

    scatter  an output's gradient times F, as it is, is added where that output came from;
    gather   an input's gradient collects what all outputs send it: F laid rotated over ∂E/∂O,
             which has zeros around it and, for a stride, between its elements.

Scenes are of one channel and one filter. Their numbers are an `Explanation`'s, so the kernels'.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

from torch import Tensor

from ..functional import conv2d_input_grad, convolve2d, correlate2d, rotate180
from ..ops import PADDING_MODES
from .equations import Equation, Equations, number
from .layer import Explanation
from .symbols import Symbol

Place = tuple[int, int]  # row and column, from 0; what lies around a tensor is below 0 or beyond it
Badge = tuple[str, str]  # a symbol in LaTeX, and its role
Line = list[tuple[str, str | None]]  # LaTeX of symbols with their roles, and what stands between


@dataclass
class Grid:
    """A tensor's cells."""

    title: str
    role: str
    numbers: dict[Place, str]  # of every cell that is drawn
    names: dict[Place, str] = field(default_factory=dict)
    lit: set[Place] = field(default_factory=set)
    badges: dict[Place, Badge] = field(default_factory=dict)  # what is laid over a cell
    ghosts: set[Place] = field(default_factory=set)  # no elements: padding, zeros between


@dataclass
class Scene:
    """Grids beside each other, with lines below."""

    title: str
    note: str
    grids: list[Grid]
    lines: list[Line]


class Stage:
    """The scenes of one layer, of one channel and one filter.

    >>> from torch_fullconv.explanation import Shape, explain
    >>> stage = Stage(explain(Shape((3, 3), (2, 2))))
    >>> scene = stage.gather((1, 2))  # ∂E/∂X23
    >>> [grid.title for grid in scene.grids]
    ['δO, zeros around it', 'F rotated by 180°', 'input gradient δX']
    """

    def __init__(self, explanation: Explanation) -> None:
        if explanation.names.channels:
            raise ValueError("pictures show layers of one channel and one filter")
        self.explanation, self.geometry = explanation, explanation.geometry
        self.padding_mode = PADDING_MODES[self.geometry.padding_mode]
        self.inputs = _places(explanation.input)
        self.taps = _places(explanation.filter)
        self.outputs = _places(explanation.grad)

    def correlation(self, output: Place, reveal: bool = False) -> Scene:
        """Forward: the window of X that an output sees. `reveal` leaves later outputs empty."""
        e = self.explanation
        x = self._input()
        x.badges = {self._met(output, tap): self._badge("F", tap) for tap in self.taps}
        x.lit = set(x.badges)
        f = self._grid("filter F", "F", e.filter)
        f.lit = set(self.taps)
        o = self._grid("output O", "O", e.output.tensor)
        _light(o, output, reveal)
        lines = self._equation(_of(e.output, output))
        return self._scene("O is the correlation of X and F", [x, f, o], lines)

    def filter_gradient(self, tap: Place, reveal: bool = False) -> Scene:
        """∂E/∂F: the inputs that a tap meets, one for each output."""
        e = self.explanation
        x = self._input()
        x.badges = {self._met(o, tap): self._badge("O", o, True) for o in self.outputs}
        x.lit = set(x.badges)
        g = self._grid("output gradient δO", "O", e.grad, True)
        g.lit = set(self.outputs)
        df = self._grid("filter gradient δF", "F", e.filter_gradient.tensor, True)
        _light(df, tap, reveal)
        lines = self._equation(_of(e.filter_gradient, tap))
        return self._scene("δF is the correlation of X and δO", [x, g, df], lines)

    def gather(self, input: Place, reveal: bool = False) -> Scene:
        """∂E/∂X from the input's side: F rotated, over the gradient with zeros around it."""
        self._only_zeros()
        e = self.explanation
        g = self._spread_gradient()
        g.badges = {self._gathered(input, tap): self._badge("F", tap) for tap in self.taps}
        g.lit = set(g.badges)
        f = self._rotated(e.filter)
        dx = self._grid("input gradient δX", "X", e.input_gradient.tensor, True)
        _light(dx, input, reveal)
        lines = self._equation(_of(e.input_gradient, input))
        return self._scene("δX, gathered: F rotated by 180° lies over δO", [g, f, dx], lines)

    def scatter(self, output: Place) -> Scene:
        """∂E/∂X from an output's side: F as it is, times δO, added to the window it came from."""
        self._only_zeros()
        e = self.explanation
        g = self._grid("output gradient δO", "O", e.grad, True)
        g.lit = {output}
        f = self._grid("filter F, not rotated", "F", e.filter)
        f.lit = set(self.taps)
        dx = self._grid("input gradient δX so far", "X", self._gradient_until(output), True)
        window = {self._met(output, tap): self._badge("F", tap) for tap in self.taps}
        dx.badges = {place: badge for place, badge in window.items() if place in dx.numbers}
        dx.lit = set(dx.badges)
        line: Line = [
            ("the window of ", None),
            self._badge("O", output),
            (" in ", None),
            (r"\delta X", "gradient"),
            (" gets ", None),
            self._badge("O", output, True),
            (" times ", None),
            ("F", "filter"),
            (f":  {g.numbers[output]} times ", None),
            ("F", "filter"),
            (" is added", None),
        ]
        return self._scene(
            "δX, scattered: each output adds F where it came from", [g, f, dx], [line]
        )

    def windows_around(self, input: Place) -> Scene:
        """Why rotate: the windows of the outputs that an input is in, each with its tap there."""
        grids: list[Grid] = []
        line: Line = []
        for o, f in _of(self.explanation.input_gradient, input).terms:
            output = self._badge("O", _place(o))
            grid = self._input()
            grid.title = f"the window of ${output[0]}$"
            met = {self._met(_place(o), tap): self._badge("F", tap) for tap in self.taps}
            grid.badges, grid.lit = met, {input}
            grids.append(grid)
            line += [output, (" through ", None), (self._latex(f), f.role), (",   ", None)]
        name, _ = self._badge("X", input)
        return self._scene(f"Which tap of each output meets ${name}$", grids, [line[:-1]])

    def convolution(self) -> list[Scene]:
        """Correlation, and true convolution: the correlation with the filter rotated."""
        e = self.explanation
        x, f = e.input[0], e.filter[0, 0]
        with_filter = [
            self._grid("input X", "X", x),
            self._grid("filter F", "F", f),
            self._grid("correlation", "O", correlate2d(x, f)),
        ]
        with_rotated = [
            self._grid("input X", "X", x),
            self._rotated(f),
            self._grid("convolution", "O", convolve2d(x, f)),
        ]
        scenes = []
        for title, grids in (
            ("Correlation: the filter as it is", with_filter),
            ("True convolution: the filter rotated by 180°, then the same", with_rotated),
        ):
            names = list(grids[1].names.values())
            grids[0].badges = {
                tap: (name, "filter") for tap, name in zip(self.taps, names, strict=True)
            }
            grids[0].lit, grids[1].lit, grids[2].lit = set(self.taps), set(self.taps), {(0, 0)}
            line: Line = []
            for tap, name in zip(self.taps, names, strict=True):
                line += [(" + " if line else " = ", None), (name, "filter"), self._badge("X", tap)]
            first: Line = [(grids[2].names[0, 0], "output"), (" ", None), *line]
            scenes.append(
                self._scene(title, grids, [[*first, (f" = {grids[2].numbers[0, 0]}", None)]])
            )
        return scenes

    # The layout of pictures: where tap (r, s) of output (i, j) lies in the input, and where it lies
    # over the gradient, spread by the stride, when input (y, x) gathers.

    def _met(self, output: Place, tap: Place) -> Place:
        (i, j), (r, s), g = output, tap, self.geometry
        return (
            i * g.stride_h + r * g.dilation_h - g.pad_top,
            j * g.stride_w + s * g.dilation_w - g.pad_left,
        )

    def _gathered(self, input: Place, tap: Place) -> Place:
        (y, x), (r, s), g = input, tap, self.geometry
        return y + g.pad_top - r * g.dilation_h, x + g.pad_left - s * g.dilation_w

    def _scene(self, title: str, grids: list[Grid], lines: list[Line]) -> Scene:
        layer, _ = self.explanation.title().split(": ")
        return Scene(title, f"{layer}; δ is ∂E/∂" if "δ" in title else layer, grids, lines)

    def _input(self) -> Grid:
        """X with its padding around it."""
        grid, g = self._grid("input X", "X", self.explanation.input), self.geometry
        shown = {
            self._met(_place(equation.left), _place(term[0])): _place(term[1])
            for equation in self.explanation.output.values()
            for term in equation.terms
            if len(term) == 2
        }
        height, width = self.explanation.input.shape[-2:]
        rows = range(-g.pad_top, height + g.pad_bottom)
        for place in product(rows, range(-g.pad_left, width + g.pad_right)):
            if place not in grid.numbers:
                grid.ghosts.add(place)
        for place in grid.ghosts:
            grid.numbers[place] = "0"
            if place in shown:
                grid.numbers[place] = grid.numbers[shown[place]]
                grid.names[place] = grid.names[shown[place]]
        return grid

    def _spread_gradient(self) -> Grid:
        """∂E/∂O with zeros between its elements and around it."""
        g = self._grid("δO, zeros around it", "O", self.explanation.grad, True)
        stride = self.geometry.stride_h, self.geometry.stride_w
        if stride != (1, 1):
            g.title = "δO, zeros around and between"
        spread = {(i, j): (i * stride[0], j * stride[1]) for i, j in self.outputs}
        g.numbers = {spread[place]: text for place, text in g.numbers.items()}
        g.names = {spread[place]: text for place, text in g.names.items()}
        reached = [self._gathered(x, tap) for x in self.inputs for tap in self.taps]
        rows, columns = zip(*reached, *g.numbers, strict=True)
        for place in product(
            range(min(rows), max(rows) + 1), range(min(columns), max(columns) + 1)
        ):
            if place not in g.names:
                g.ghosts.add(place)
                g.numbers[place] = "0"
        return g

    def _rotated(self, filter: Tensor) -> Grid:
        grid = self._grid("F rotated by 180°", "F", rotate180(filter))
        grid.names = dict(zip(grid.names, reversed(grid.names.values()), strict=True))
        grid.lit = set(self.taps)
        return grid

    def _gradient_until(self, last: Place) -> Tensor:
        """δX of the outputs up to one of them."""
        e = self.explanation
        grad = e.grad.clone().flatten()
        grad[self.outputs.index(last) + 1 :] = 0
        size = 1, *e.input.shape
        return conv2d_input_grad(size, e.filter, grad.view_as(e.grad)[None], **e.options)

    def _grid(self, title: str, letter: str, tensor: Tensor, gradient: bool = False) -> Grid:
        matrix = tensor.reshape(tensor.shape[-2:])
        numbers = {place: number(matrix[place].item()) for place in _places(tensor)}
        names = {place: self._badge(letter, place, gradient) for place in numbers}
        role = names[0, 0][1]
        return Grid(title, role, numbers, {place: name for place, (name, _) in names.items()})

    def _badge(self, letter: str, place: Place, gradient: bool = False) -> Badge:
        symbol = Symbol(letter, (0, 0, *place) if letter == "F" else (0, *place), gradient)
        return self._latex(symbol), symbol.role

    def _latex(self, symbol: Symbol) -> str:
        return self.explanation.names.latex(symbol, delta=True)

    def _equation(self, equation: Equation) -> list[Line]:
        """The equation in letters and in numbers."""
        line: Line = [(self._latex(equation.left), equation.left.role)]
        for i, term in enumerate(equation.ordered("delta")):
            line.append((" + " if i else " = ", None))
            line += [(self._latex(f), f.role) for f in term]
        if not equation.terms:
            line.append((" = 0", None))
        return [line, [(f"= {equation.numbers('delta')}", None)]]

    def _only_zeros(self) -> None:
        if self.padding_mode != "zeros":
            raise ValueError(f"there is no picture of δX for padding_mode={self.padding_mode!r}")


def _places(tensor: Tensor) -> list[Place]:
    return [(row, column) for row, column in product(*map(range, tensor.shape[-2:]))]


def _of(equations: Equations, place: Place) -> Equation:
    return equations[(0,) * (equations.tensor.dim() - 2) + place]


def _place(symbol: Symbol) -> Place:
    *_, row, column = symbol.index
    return row, column


def _light(grid: Grid, place: Place, reveal: bool) -> None:
    grid.lit = {place}
    if reveal:
        grid.numbers |= {p: "" for p in grid.numbers if p > place}
