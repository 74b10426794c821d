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
    parser.add_argument(
        "--input",
        type=sizes,
        default="3x3",
        metavar="SIZE",
        help="HxW or CxHxW (default %(default)s)",
    )
    parser.add_argument(
        "--filter",
        type=sizes,
        default="2x2",
        metavar="SIZE",
        help="RxS for one channel, or KxCxRxS; groups = input channels / C (default %(default)s)",
    )
    add_layer_arguments(parser)
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the interactive page")


def add_layer_arguments(parser: argparse.ArgumentParser) -> None:
    """What a layer has beside its sizes; `layer_options` gives it to `functional.conv2d`."""
    pair = "a number, or rows x columns, as 2x1"
    parser.add_argument(
        "--stride", type=sizes, default=1, metavar="N", help=f"{pair} (default %(default)s)"
    )
    parser.add_argument(
        "--padding",
        type=padding,
        default=0,
        metavar="N",
        help=f"{pair}, or 'same' or 'valid' (default %(default)s)",
    )
    parser.add_argument(
        "--dilation", type=sizes, default=1, metavar="N", help=f"{pair} (default %(default)s)"
    )
    parser.add_argument(
        "--padding-mode",
        default="zeros",
        choices=ops.PADDING_MODES,
        help="what the padding shows (default %(default)s)",
    )


def layer_options(arguments: argparse.Namespace) -> dict[str, Any]:
    names = "stride", "padding", "dilation", "padding_mode"
    return {name: getattr(arguments, name) for name in names}


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
        shape = Shape(arguments.input, arguments.filter, **layer_options(arguments))
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
    if explanation.names.channels:
        filters, channels = shape.filter_size[:2]
        print(f"it shows filter 1 of {filters} on channel 1 of {channels}")


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
