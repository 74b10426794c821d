"""The command line: `python -m torch_fullconv bench`, `explain` and `info`."""

from __future__ import annotations

import argparse

import torch

from . import __version__, functional, ops
from .bench import run as bench
from .explanation import command as explain


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
    parser.add_argument("--input", type=sizes, default=(8, 64, 56, 56), metavar="NxCxHxW")
    parser.add_argument("--filter", type=sizes, default=(64, 64, 3, 3), metavar="KxCxRxS")
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--padding", type=int, default=1)
    parser.add_argument("--dilation", type=int, default=1)
    parser.add_argument("--dtype", default="float32", choices=bench.DTYPES)
    parser.add_argument("--channels-last", action="store_true")


def sizes(text: str) -> tuple[int, ...]:
    """Four sizes, as 8x64x56x56."""
    found = tuple(int(part) for part in text.split("x"))
    if len(found) != 4 or min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not four sizes, as 8x64x56x56")
    return found


def info(arguments: argparse.Namespace) -> None:
    layout = torch.channels_last if arguments.channels_last else torch.contiguous_format
    x, f = (
        torch.zeros(shape, dtype=getattr(torch, arguments.dtype)).to(memory_format=layout)
        for shape in (arguments.input, arguments.filter)
    )
    padding = arguments.padding
    geometry = ops.Geometry(
        arguments.input[1] // arguments.filter[1],
        *(arguments.stride, arguments.stride),
        *(padding, padding, padding, padding),
        *(arguments.dilation, arguments.dilation),
    )
    try:  # says what is wrong with the layer, if anything is
        functional.conv2d(
            *(x.to("meta"), f.to("meta"), None),
            *(arguments.stride, padding, arguments.dilation, geometry.groups),
        )
    except RuntimeError as error:
        raise SystemExit(f"there is no such layer: {error}") from None
    print(f"torch_fullconv {__version__}, torch {torch.__version__}")
    print(f"instruction set {ops.instruction_set()}, {torch.get_num_threads()} threads")
    shape = f"{arguments.input} with {arguments.filter}, stride {arguments.stride}"
    print(f"{arguments.dtype} {shape}, padding {padding}, dilation {arguments.dilation}:")
    for what, way in ops.ways(x, f, geometry).items():
        print(f"  {what:16}{way}")


if __name__ == "__main__":
    main()
