"""The example's training: stopped anywhere and resumed, it ends bit for bit as if never stopped."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from zipfile import ZipFile

import data
import numpy as np
import pytest
import torch
import train
from matplotlib.image import imread
from models import MODELS, Layers
from torch import Tensor, nn
from trainer import Trainer

import torch_fullconv

EXAMPLE = Path(train.__file__)
EPOCHS, BATCH_SIZE, BATCHES = 3, 24, 8


@pytest.fixture(scope="module")
def digits() -> data.Data:
    return data.load("mnist5k", seed=0)


@pytest.fixture
def few_digits(digits: data.Data, monkeypatch: pytest.MonkeyPatch) -> data.Data:
    """A part of the digits, also for what loads them by name."""
    few = data.Data(*(data.Pictures(x[:200], y[:200]) for x, y in digits))
    monkeypatch.setattr(data, "load", lambda name, seed: few)
    return few


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trainer(few_digits: data.Data, layers: Layers, **options: object) -> Trainer:
    fixed = {"model": "lenet", "dtype": torch.float32, "seed": 3}
    return Trainer(layers, few_digits, epochs=EPOCHS, batch_size=BATCH_SIZE, **{**fixed, **options})


def assert_same(one: object, other: object) -> None:
    """Equal in structure and in every bit; seconds are nobody's."""
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one.keys() - {"seconds"}:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


@pytest.mark.parametrize("layers", [torch_fullconv, nn], ids=["fullconv", "stock"])
@pytest.mark.parametrize("stop", [1, BATCHES - 1, BATCHES, BATCHES + 1])
def test_stopped_and_resumed_is_bit_for_bit_the_same(few_digits, layers, stop, tmp_path):
    whole = trainer(few_digits, layers)
    assert sum(1 for _ in whole.steps()) == EPOCHS * BATCHES

    stopped = trainer(few_digits, layers)
    assert len(list(islice(stopped.steps(), stop))) == stop
    torch.save(stopped.state_dict(), tmp_path / "state.pt")
    resumed = trainer(few_digits, layers)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert sum(1 for _ in resumed.steps()) == EPOCHS * BATCHES - stop

    assert len(whole.progress.history) == EPOCHS
    assert_same(whole.state_dict(), resumed.state_dict())
    start = trainer(few_digits, layers).model.state_dict()
    assert all(not torch.equal(start[k], v) for k, v in resumed.model.state_dict().items())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_layer_is_of_the_package_asked_for(model, channels):
    net = MODELS[model](torch_fullconv, channels)
    output = net(torch.randn(2, channels, 32, 32))
    assert output.shape == (2, 10)
    stock = {type(m) for m in net.modules() if type(m).__module__.startswith("torch.nn")}
    batch_norm = set() if model == "lenet" else {nn.BatchNorm2d, nn.Identity}
    assert stock == {nn.Sequential, nn.Flatten, nn.Linear} | batch_norm
    assert sum(isinstance(m, nn.Linear) for m in net.modules()) == 1  # the last
    # On the tape: what is stock's there is no convolution, no pooling and no ReLU.
    seen, rest = set(), [output.grad_fn]
    while rest:
        node = rest.pop()
        if node not in seen:
            seen.add(node)
            rest += [n for n, _ in node.next_functions if n]
    names = " ".join(node.name() for node in seen)
    assert "CorrelateBackward" in names
    assert "ReluBackward" in names
    assert not re.search(r"ConvolutionBackward|Pool2D|ReluBackward0|MeanBackward", names)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float16"])
def test_other_types_train(few_digits, dtype):
    """The first epochs of each type go the way of float32's."""
    exact, other = (
        trainer(few_digits, torch_fullconv, dtype=d) for d in (torch.float32, getattr(torch, dtype))
    )
    for each in (exact, other):
        assert sum(1 for _ in each.steps()) == EPOCHS * BATCHES
    expected, losses = ([e["loss"] for e in t.progress.history] for t in (exact, other))
    assert losses == pytest.approx(expected, rel=0.02)
    assert losses != expected


def test_digits_are_real_and_split_evenly(digits):
    assert np.bincount(digits.train.labels).tolist() == [400] * 10
    assert np.bincount(digits.held_out.labels).tolist() == [100] * 10
    assert digits.train.images.mean() == pytest.approx(0, abs=1e-4)
    assert digits.train.images.std() == pytest.approx(1, abs=1e-4)
    pictures = {tuple(x) for x in torch.cat([p.images for p in digits]).flatten(1).tolist()}
    assert len(pictures) == 5000


@pytest.mark.parametrize(
    ("name", "shape", "channels"),
    [("mnist", (28, 28), 1), ("fashion", (28, 28), 1), ("cifar10", (32, 32, 3), 3)],
)
def test_torchvision_sets(name, shape, channels, monkeypatch):
    def dataset(root: str, train: bool, download: bool) -> SimpleNamespace:
        count = 12 if train else 4
        pixels = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
        return SimpleNamespace(data=pixels, targets=[k % 10 for k in range(count)])

    sets = SimpleNamespace(MNIST=dataset, FashionMNIST=dataset, CIFAR10=dataset)
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(datasets=sets))
    loaded = data.load(name, seed=0)
    assert loaded.train.images.shape == (12, channels, *shape[:2])
    assert loaded.held_out.images.shape == (4, channels, *shape[:2])
    assert loaded.held_out.labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["mnist", "fashion", "cifar10"])
def test_without_torchvision_one_sentence(name, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    sentence = rf"^--data {name} needs a torchvision .*\(.+\); --data mnist5k needs none\.$"
    with pytest.raises(SystemExit, match=sentence):
        train.main(["--data", name, "--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--resume"], "error: --resume found no .*checkpoint.pt$"),
        (["--epochs", "0"], "error: argument --epochs: 0 is not positive$"),
        (["--model", "vgg"], "error: argument --model: invalid choice: 'vgg'"),
    ],
)
def test_wrong_options_one_sentence(arguments, sentence, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        train.main([*arguments, "--out", str(tmp_path)])
    assert re.search(sentence, capsys.readouterr().err.splitlines()[-1])


class Runs:
    """Unpickled, it would call print."""

    def __reduce__(self) -> tuple:
        return print, ("run",)


def flip_a_bit(path: Path) -> None:
    """In the middle of the largest tensor's bytes."""
    with ZipFile(path) as file:
        largest = max(file.infolist(), key=lambda entry: entry.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + largest.file_size // 2] ^= 4
    path.write_bytes(content)


DAMAGE = {
    "bit": (flip_a_bit, "is not what was written"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-100]), "not a zip file"),
    "text": (lambda path: path.write_text("a git-lfs pointer"), "not a zip file"),
    "code": (lambda path: torch.save({"options": Runs()}, path), "Unsupported global"),
    "other": (lambda path: torch.save(nn.Linear(2, 2).state_dict(), path), "other contents"),
}


@pytest.mark.parametrize(("damage", "sentence"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_checkpoint_is_not_used(few_digits, damage, sentence, tmp_path, capsys):
    options = ["--layers", "fullconv", "--epochs", "1", "--threads", "1", "--out", str(tmp_path)]
    path = tmp_path / "checkpoint.pt"
    parsed = train.parse(options)
    train.save(path, parsed, train.make_trainers(parsed))
    assert train.read(path).keys() == {"options", "trainers"}
    damage(path)
    with pytest.raises(SystemExit, match=rf"(?s)checkpoint of this program: .*{sentence}"):
        train.main(["--resume", "--out", str(tmp_path)])
    assert "run" not in capsys.readouterr().out


def test_batch_larger_than_the_data(few_digits, tmp_path):
    with pytest.raises(SystemExit, match=r"^--batch-size 300 is more than all 200 images\.$"):
        train.main(["--batch-size", "300", "--out", str(tmp_path)])


def test_command_compares_and_draws(few_digits, tmp_path, capsys):
    options = ["--epochs", "2", "--batch-size", "20", "--threads", "1", "--out", str(tmp_path)]
    torch.set_num_threads(2)
    assert train.main(options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["layers", "fullconv", "stock"]
    assert torch.get_num_threads() == 1

    for name in ("curves.png", "filters.png", "input_gradient.png"):
        picture = imread(tmp_path / name)
        assert min(picture.shape[:2]) > 200
        assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 20

    trained = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["trainers"]
    assert trained.keys() == {"fullconv", "stock"}
    for ours, stock in zip(*(t["model"].values() for t in trained.values()), strict=True):
        torch.testing.assert_close(ours, stock, rtol=1e-3, atol=1e-3)

    with pytest.raises(SystemExit, match="2"):
        train.main(["--resume", "--epochs", "3", "--out", str(tmp_path)])
    assert "--resume continues with --epochs 2" in capsys.readouterr().err
    assert train.main(["--resume", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == lines


def test_control_c_saves_and_resumes_exactly(digits, monkeypatch, tmp_path):
    """The real program, interrupted by a real signal soon after it began."""
    options = ["--layers", "fullconv", "--epochs", "2", "--batch-size", "8", "--threads", "1"]
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    process = subprocess.Popen(
        [sys.executable, EXAMPLE, *options, "--out", cut], stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:  # universal newlines: the bar's \r ends a line
        if "accuracy" in line:
            process.send_signal(signal.SIGINT)
            break
    assert process.stderr.read().endswith(f"continue with --resume --out {cut}\n")
    assert process.wait() == 128 + signal.SIGINT

    stopped = torch.load(cut / "checkpoint.pt", weights_only=True)["trainers"]["fullconv"]
    assert stopped["progress"]["epoch"] < 2
    monkeypatch.setattr(data, "load", lambda name, seed: digits)
    assert train.main(["--resume", "--out", str(cut)]) == 0
    assert train.main([*options, "--out", str(whole)]) == 0
    once, twice = (torch.load(out / "checkpoint.pt", weights_only=True) for out in (whole, cut))
    assert_same(once, twice)
