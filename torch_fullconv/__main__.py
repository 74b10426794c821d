"""The command line: `python -m torch_fullconv bench`, `explain` and `info`."""

from __future__ import annotations

import argparse

import torch

from . import __version__, functional, ops
from .bench import run as bench
from .explanation import command as explain
from .explanation.layer import setting_text, sizes_text


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m torch_fullconv", description=__doc__)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("bench", help="time layers and models against stock PyTorch")
    bench.add_arguments(command)
    command.set_defaults(run=bench.run)
    command = commands.add_parser("explain", help="write out a layer's equations, with numbers")
    explain.add_arguments(command)
    command.set_defaults(run=explain.run)
    command = commands.add_parser("info", help="say what runs here, and how it computes a layer")
    add_info_arguments(command)
    command.set_defaults(run=info)
    arguments = parser.parse_args()
    arguments.run(arguments)


def add_info_arguments(parser: argparse.ArgumentParser) -> None:
    for name, default, size in (
        ("--input", "8x64x56x56", "NxCxHxW"),
        ("--filter", "64x64x3x3", "KxCxRxS"),
    ):
        parser.add_argument(
            name, type=four_sizes, default=default, metavar=size, help="(default %(default)s)"
        )
    explain.add_layer_arguments(parser)
    parser.add_argument(
        "--dtype", default="float32", choices=bench.DTYPES, help="(default %(default)s)"
    )
    parser.add_argument(
        "--channels-last", action="store_true", help="input and filter in channels_last"
    )


def four_sizes(text: str) -> tuple[int, ...]:
    """Four sizes, as 8x64x56x56."""
    found = explain.sizes(text)
    if len(found) != 4 or min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not four sizes, as 8x64x56x56")
    return found


def info(arguments: argparse.Namespace) -> None:
    layout = torch.channels_last if arguments.channels_last else torch.contiguous_format
    x, f = (
        torch.zeros(shape, dtype=getattr(torch, arguments.dtype)).to(memory_format=layout)
        for shape in (arguments.input, arguments.filter)
    )
    options = explain.layer_options(arguments)
    groups = arguments.input[1] // arguments.filter[1]
    try:  # says what is wrong with the layer, if anything is
        functional.conv2d(x.to("meta"), f.to("meta"), groups=groups, **options)
    except RuntimeError as error:
        raise SystemExit(f"there is no such layer: {error}") from None
    geometry = functional._geometry(f, groups=groups, kernel=f.shape[2:], **options)
    print(f"torch_fullconv {__version__}, torch {torch.__version__}")
    print(f"instruction set {ops.instruction_set()}, {torch.get_num_threads()} threads")
    sizes = f"{sizes_text(arguments.input)} with {sizes_text(arguments.filter)}"
    settings = ", ".join(f"{n.replace('_', ' ')} {setting_text(v)}" for n, v in options.items())
    print(f"{arguments.dtype} {sizes}, {settings}:")
    for what, way in ops.ways(x, f, geometry).items():
        print(f"  {what:16}{way}")


if __name__ == "__main__":
    main()
