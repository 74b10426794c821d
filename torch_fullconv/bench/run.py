"""`python -m torch_fullconv bench`: measures what was asked for, shows and saves it."""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

from .. import ops
from . import derivatives, measure, peers, plots, report
from .layers import ACTIVATIONS, LAYERS
from .models import MODELS

DTYPES = ("float32", "float64", "bfloat16", "float16")
Item = TypeVar("Item")


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
        help="cuda: no ReLU and pooling, no derivatives (default %(default)s)",
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


def run(arguments: argparse.Namespace) -> None:
    missing = [name for name in ("rich", "matplotlib") if not importlib.util.find_spec(name)]
    if missing:
        raise SystemExit(
            f"the benchmark needs {' and '.join(missing)}: pip install 'torch_fullconv[bench]'"
        )
    if arguments.device == "cuda":
        prepare_cuda()
    layers = [
        layer._replace(batch=layer.batch * arguments.batches)
        for layer in LAYERS
        if fnmatch.fnmatch(layer.name, arguments.layers)
    ]
    activations = [
        layer._replace(input=(layer.input[0] * arguments.batches, *layer.input[1:]))
        for layer in ACTIVATIONS
        if fnmatch.fnmatch(layer.name, arguments.layers)
    ]
    models = [model for model in MODELS if fnmatch.fnmatch(model.name, arguments.models)]
    critic = fnmatch.fnmatch("critic", arguments.models)
    if not layers and not activations and not models and not critic:
        raise SystemExit("no layer and no model has such a name")
    for file in (arguments.json, arguments.markdown):  # before minutes are spent on what goes there
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
    if arguments.plots:
        arguments.plots.mkdir(parents=True, exist_ok=True)
    machines: report.Machines = {}
    of_layers: list[measure.Measurement] = []
    of_activations: list[measure.Measurement] = []
    of_models: list[measure.Measurement] = []
    of_peers: dict[str, dict[str, float]] = {}
    before = torch.get_num_threads()
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        of = f"{threads} thread{'s' if threads > 1 else ''}"
        of += "" if arguments.device == "cpu" else f", {arguments.device}"
        for dtype in arguments.dtype:
            machines[dtype, threads] = measure.machine(getattr(torch, dtype), arguments.device)
            for layer, what in progress(
                f"layers, {dtype}, {of}", [(lr, w) for lr in layers for w in arguments.passes]
            ):
                of_layer = layer, what, getattr(torch, dtype), arguments.budget, arguments.device
                of_layers.append(measure.measure_layer(*of_layer))
            passes = [what for what in arguments.passes if what != "filter gradient"]
            for activation, what in progress(
                f"ReLU and pooling, {dtype}, {of}", [(a, w) for a in activations for w in passes]
            ):
                of_activations.append(
                    measure.measure_activation(
                        *(activation, what, getattr(torch, dtype)),
                        *(arguments.budget, arguments.device),
                    )
                )
        for model in progress(f"models, {of}", models):
            of_models.append(measure.measure_model(*model, arguments.budget, arguments.device))
        for what in progress(f"derivatives, {of}", derivatives.DERIVATIVES if critic else ()):
            case = what, arguments.budget, arguments.device
            of_models.append(derivatives.measure_derivative(*case))
        if models:
            of_models.append(measure.measure_latency(arguments.budget, arguments.device))
    if arguments.peers:
        of_peers = {
            layer.name: peers.measure_peers(layer, arguments.budget)
            for layer in progress("peers", layers)
        }
    torch.set_num_threads(before)
    tables = report.tables(of_layers, of_models, machines, of_peers, of_activations)
    report.show(tables)
    if arguments.json:
        report.save_json(arguments.json, of_layers, of_models, machines, of_peers, of_activations)
    if arguments.markdown:
        arguments.markdown.write_text(report.markdown(tables))
    if arguments.plots:
        for (dtype, threads), group in report.by_run(of_layers):
            run = f"{dtype}-{threads}.png"
            plots.plot_ratios(arguments.plots / f"ratios-{run}", group)
            plots.plot_roofline(
                arguments.plots / f"roofline-{run}", group, machines[dtype, threads]
            )


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
