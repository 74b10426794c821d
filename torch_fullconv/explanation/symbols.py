"""The letters of the equations: elements of X, F, O and b, and how they are written.

As in the post, rows and columns are counted from 1 and stand behind the letter: X23. Names tell
any two elements apart: a comma parts indices beyond 9 (X3,12), and a layer with channels has them
in parentheses (X(2)23, F(5,2)11).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from .palette import COLOURS

NAME = re.compile(
    r"(?P<sign>∂E/∂|dE/d|δ)?"
    r"(?P<letter>[XFOb])"
    r"(\((?P<channels>\d+(,\d+)*)\))?"
    r"(?P<place>\d+,\d+|\d\d|)"
)
ROLES = {"X": "input", "F": "filter", "b": "filter", "O": "output"}


@dataclass(frozen=True)
class Symbol:
    """An element of X (c, y, x), F (k, c, r, s), O (k, i, j) or b (k), or ∂E/∂ of it."""

    letter: str
    index: tuple[int, ...]  # from 0, as the tensors' own
    gradient: bool = False

    @property
    def role(self) -> str:
        """Its colour's name in the palette."""
        return "gradient" if self.gradient else ROLES[self.letter]


class Names:
    """How symbols are written, given the sizes of X (C, H, W), F (K, C, R, S), O (K, P, Q), b (K).

    >>> names = Names({"X": (1, 3, 12), "F": (1, 1, 2, 2), "O": (1, 2, 11)})
    >>> names.text(Symbol("X", (0, 2, 11))), names.text(Symbol("F", (0, 0, 1, 0)))
    ('X3,12', 'F21')
    >>> names = Names({"X": (2, 3, 3), "F": (5, 2, 2, 2), "O": (5, 2, 2)})
    >>> names.text(Symbol("F", (4, 1, 0, 1))), names.latex(Symbol("O", (4, 1, 1), gradient=True))
    ('F(5,2)12', '\\\\frac{\\\\partial E}{\\\\partial O^{(5)}_{22}}')
    """

    def __init__(self, sizes: Mapping[str, tuple[int, ...]]) -> None:
        self.sizes = dict(sizes)
        self.channels = sizes["X"][0] > 1 or sizes["O"][0] > 1
        self._channel_axes = {"X": 1, "F": 2, "O": 1, "b": 1}
        self._commas = {
            letter: "," if max(s[self._channel_axes[letter] :], default=0) > 9 else ""
            for letter, s in sizes.items()
        }

    def _parts(self, symbol: Symbol) -> tuple[str, str]:
        """Channels and place."""
        axes = self._channel_axes[symbol.letter]
        from_one = [str(i + 1) for i in symbol.index]
        channels = ",".join(from_one[:axes]) if self.channels else ""
        return channels, self._commas[symbol.letter].join(from_one[axes:])

    def text(self, symbol: Symbol, sign: str = "∂E/∂") -> str:
        """The name in plain text; `sign` is what a gradient starts with."""
        channels, place = self._parts(symbol)
        name = symbol.letter + (f"({channels})" if channels else "") + place
        return sign + name if symbol.gradient else name

    def symbol(self, name: str) -> Symbol:
        """What a name in plain text stands for; dE/d and δ are ∂E/∂ too. A KeyError for no name."""
        found = NAME.fullmatch(name)
        if not found or found["letter"] not in self.sizes:
            raise self._no_element(name)
        letter, channels, place = found.group("letter", "channels", "place")
        written = channels.split(",") if channels else ["1"] * self._channel_axes[letter]
        written += place.split(",") if "," in place else list(place)
        index = tuple(int(i) - 1 for i in written)
        symbol = Symbol(letter, index, found["sign"] is not None)
        sizes = self.sizes[letter]
        if (
            len(index) != len(sizes)
            or not all(0 <= i < size for i, size in zip(index, sizes, strict=True))
            or self.text(symbol, found["sign"] or "") != name
        ):
            raise self._no_element(name)
        return symbol

    def _no_element(self, name: str) -> KeyError:
        o, f, x = (
            Symbol(letter, (0,) * len(self.sizes[letter]), letter != "O") for letter in "OFX"
        )
        names = f"{self.text(o)}, {self.text(f)} or {self.text(x, 'δ')}"
        return KeyError(f"no element {name!r}; names are like {names}")

    def latex(self, symbol: Symbol, delta: bool = False, colour: bool = False) -> str:
        """The name in LaTeX: ∂E/∂ as a fraction or, with `delta`, as the post's δ."""
        channels, place = self._parts(symbol)
        name = symbol.letter
        name += f"^{{({channels})}}" if channels else ""
        name += f"_{{{place}}}" if place else ""
        if symbol.gradient:
            name = rf"\delta {name}" if delta else rf"\frac{{\partial E}}{{\partial {name}}}"
        # Braced twice, so that \color works as a switch and as a macro of two arguments.
        return rf"{{\color{{{COLOURS[symbol.role]}}}{{{name}}}}}" if colour else name
