"""`python -m torch_fullconv bench`: measures what was asked for, shows and saves it."""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch

from .. import ops
from . import derivatives, measure, peers, plots, report
from .layers import ACTIVATIONS, LAYERS, Activation, Layer
from .models import MODELS, Model

DTYPES = ("float32", "float64", "bfloat16", "float16")
Item = TypeVar("Item")
Named = TypeVar("Named", Layer, Activation, Model)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        nargs="+",
        choices=DTYPES,
        default=["float32"],
        help="of layers; models are float32 (default float32)",
    )
    parser.add_argument(
        "--threads",
        nargs="+",
        type=positive,
        default=[torch.get_num_threads()],
        metavar="N",
        help="numbers of threads, one after the other (default torch's)",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where layers and models are (default %(default)s)",
    )
    parser.add_argument(
        "--layers",
        default="*",
        metavar="PATTERN",
        help="those whose names match, as 'ResNet-18*' (default all; '' for none)",
    )
    parser.add_argument(
        "--batches",
        type=positive,
        default=1,
        metavar="FACTOR",
        help="layers' batches times this (default %(default)s)",
    )
    parser.add_argument(
        "--models", default="*", metavar="PATTERN", help="the same for models (default all)"
    )
    parser.add_argument(
        "--passes",
        nargs="+",
        choices=measure.PASSES,
        default=measure.PASSES,
        help="of layers (default all)",
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=0.3,
        metavar="SECONDS",
        help="for a layer and pass (default %(default)s)",
    )
    parser.add_argument("--peers", action="store_true", help="onnxruntime, OpenVINO, JAX as well")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save every figure")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="save the tables")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="save pictures")


def positive(text: str) -> int:
    """A number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


class Suite(NamedTuple):
    """What is measured."""

    layers: list[Layer]
    activations: list[Activation]
    models: list[Model]
    derivatives: list[str]


class Figures(NamedTuple):
    """What was measured, in the order in which `report` takes it."""

    layers: list[measure.Measurement]
    models: list[measure.Measurement]
    machines: report.Machines
    peers: report.Peers
    activations: list[measure.Measurement]


def run(arguments: argparse.Namespace) -> None:
    missing = [name for name in ("rich", "matplotlib") if not importlib.util.find_spec(name)]
    if missing:
        raise SystemExit(
            f"the benchmark needs {' and '.join(missing)}: pip install 'torch_fullconv[bench]'"
        )
    if arguments.device == "cuda":
        prepare_cuda()
    suite = select(arguments)
    if not any(suite):
        raise SystemExit("no layer and no model has such a name")
    for file in (arguments.json, arguments.markdown):  # before minutes are spent on what goes there
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
    if arguments.plots:
        arguments.plots.mkdir(parents=True, exist_ok=True)
    show_and_save(measure_suite(suite, arguments), arguments)


def select(arguments: argparse.Namespace) -> Suite:
    """What has the names asked for, in batches of the size asked for."""

    def named(items: Iterable[Named], pattern: str) -> list[Named]:
        return [item for item in items if fnmatch.fnmatch(item.name, pattern)]

    factor = arguments.batches
    critic = fnmatch.fnmatch("critic", arguments.models)
    return Suite(
        [layer._replace(batch=factor * layer.batch) for layer in named(LAYERS, arguments.layers)],
        [
            layer._replace(input=(factor * layer.input[0], *layer.input[1:]))
            for layer in named(ACTIVATIONS, arguments.layers)
        ],
        named(MODELS, arguments.models),
        list(derivatives.DERIVATIVES) if critic else [],
    )


def measure_suite(suite: Suite, arguments: argparse.Namespace) -> Figures:
    """With each number of threads; peers with the last."""
    figures = Figures([], [], {}, {}, [])
    before = torch.get_num_threads()
    try:
        for threads in arguments.threads:
            torch.set_num_threads(threads)
            measure_with_threads(suite, arguments, figures)
        if arguments.peers:
            for layer in progress("peers", suite.layers):
                figures.peers[layer.name] = peers.measure_peers(layer, arguments.budget)
    finally:
        torch.set_num_threads(before)
    return figures


def measure_with_threads(suite: Suite, arguments: argparse.Namespace, figures: Figures) -> None:
    """With those that are set."""
    where = arguments.budget, arguments.device
    threads = torch.get_num_threads()
    of = f"{threads} thread{'s' if threads > 1 else ''}"
    of += "" if arguments.device == "cpu" else f", {arguments.device}"
    layers = list(product(suite.layers, arguments.passes))
    passes = [what for what in arguments.passes if what != "filter gradient"]
    activations = list(product(suite.activations, passes))
    for name in arguments.dtype:
        dtype = getattr(torch, name)
        figures.machines[name, threads] = measure.machine(dtype, arguments.device)
        for layer, what in progress(f"layers, {name}, {of}", layers):
            figures.layers.append(measure.measure_layer(layer, what, dtype, *where))
        for activation, what in progress(f"ReLU and pooling, {name}, {of}", activations):
            figures.activations.append(measure.measure_activation(activation, what, dtype, *where))
    for model in progress(f"models, {of}", suite.models):
        figures.models.append(measure.measure_model(*model, *where))
    for what in progress(f"derivatives, {of}", suite.derivatives):
        figures.models.append(derivatives.measure_derivative(what, *where))
    if suite.models:
        figures.models.append(measure.measure_latency(*where))


def show_and_save(figures: Figures, arguments: argparse.Namespace) -> None:
    tables = report.tables(*figures)
    report.show(tables)
    if arguments.json:
        report.save_json(arguments.json, *figures)
    if arguments.markdown:
        arguments.markdown.write_text(report.markdown(tables))
    if arguments.plots:
        for (dtype, threads), group in report.by_run(figures.layers):
            run = f"{dtype}-{threads}.png"
            plots.plot_ratios(arguments.plots / f"ratios-{run}", group)
            machine = figures.machines[dtype, threads]
            plots.plot_roofline(arguments.plots / f"roofline-{run}", group, machine)


def prepare_cuda() -> None:
    """cuDNN by the best of its algorithms; the peak with TF32 where convolutions may use it."""
    if not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device here")
    torch.cuda.init()
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = ops.allow_tf32()


def progress(what: str, items: Iterable[Item]) -> Iterator[Item]:
    """The items, with a progress bar on the terminal's error stream."""
    from rich.console import Console
    from rich.progress import track

    return iter(track(list(items), what, console=Console(stderr=True), transient=True))
