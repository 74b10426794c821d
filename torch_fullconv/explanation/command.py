"""`python -m torch_fullconv explain`: a layer's equations, or its page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .. import ops
from .layer import Shape, explain
from .palette import COLOURS
from .symbols import ROLES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    size: dict[str, Any] = {"type": sizes, "metavar": "SIZE"}
    parser.add_argument("--input", **size, default=(3, 3), help="HxW or CxHxW (default 3x3)")
    parser.add_argument("--filter", **size, default=(2, 2), help="RxS or KxCxRxS (default 2x2)")
    size = {"metavar": "N", "help": "or rows x columns, as 2x1"}
    parser.add_argument("--stride", type=sizes, default=1, **size)
    parser.add_argument(
        "--padding",
        type=padding,
        default=0,
        metavar="N",
        help="or rows x columns, as 2x1, or 'same' or 'valid'",
    )
    parser.add_argument("--dilation", type=sizes, default=1, **size)
    parser.add_argument("--padding-mode", default="zeros", choices=ops.PADDING_MODES)
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the interactive page")


def sizes(text: str) -> tuple[int, ...]:
    """Sizes, as 2x5x5."""
    try:
        return tuple(map(int, text.split("x")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of whole numbers, as 5x5") from None


def padding(text: str) -> tuple[int, ...] | str:
    """Sizes, or nn.Conv2d's words for some."""
    return text if text in ("same", "valid") else sizes(text)


def run(arguments: argparse.Namespace) -> None:
    try:  # says what is wrong with the layer, if anything is
        shape = Shape(
            arguments.input,
            arguments.filter,
            arguments.stride,
            arguments.padding,
            arguments.dilation,
            arguments.padding_mode,
        )
        explanation = explain(shape)
    except (RuntimeError, ValueError) as error:
        raise SystemExit(f"there is no such layer: {error}") from None
    if arguments.html is None:
        show(str(explanation))
        return
    try:
        page = explanation.html()
        arguments.html.write_text(page, "utf-8")
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from None
    print(f"open {arguments.html} in a browser")


def show(text: str) -> None:
    """Prints it; in a terminal, with each role's colour where rich is installed."""
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        print(text)
        return
    coloured = Text(text)
    for letter, role in ROLES.items():
        name = rf"{letter}(\([\d,]+\))?(\d+,\d+|\d\d)?"
        coloured.highlight_regex(rf"\b{name}(?![\w(])", COLOURS[role])
        coloured.highlight_regex(f"∂E/∂{name}", COLOURS["gradient"])
    Console().print(coloured, soft_wrap=True)
