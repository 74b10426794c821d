"""The command line: the suite is what it should be, and figures are consistent."""

import argparse
import json
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from torch_fullconv import ops
from torch_fullconv.__main__ import add_info_arguments
from torch_fullconv.bench import measure, run
from torch_fullconv.bench.derivatives import DERIVATIVES, measure_derivative
from torch_fullconv.bench.layers import ACTIVATIONS, LAYERS
from torch_fullconv.bench.measure import (
    LAYOUTS,
    PASSES,
    measure_activation,
    measure_latency,
    measure_layer,
    measure_model,
)
from torch_fullconv.bench.models import MODELS
from torch_fullconv.bench.peers import measure_peers
from torch_fullconv.explanation import command as explain

pytest.importorskip("rich")
pytest.importorskip("matplotlib")


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "torch_fullconv", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_suite():
    assert len(LAYERS) >= 30
    assert len({layer.name for layer in LAYERS}) == len(LAYERS)
    for layer in LAYERS:
        x = torch.empty(layer.input_shape, device="meta")
        f = torch.empty(layer.filter_shape, device="meta")
        geometry = layer.stride, layer.padding, layer.dilation, layer.groups
        y = F.conv2d(x, f, None, *geometry)
        assert y.shape == layer.output_shape
        assert layer.flops == 2 * y.numel() * f[0].numel()


@pytest.mark.parametrize("model", [m for m in MODELS if m.training], ids=lambda m: m.name)
def test_the_models(model):
    _, c, h, w = model.input
    y = model.build()(torch.zeros(2, c, h // 2, w // 2))
    assert y.shape[0] == 2
    assert y.isfinite().all()


def test_bench(tmp_path):
    results = tmp_path / "results"  # is made
    saved, text, plots = results / "figures.json", results / "tables.md", results / "plots"
    arguments = "--layers", "post*", "--models", "", "--threads", "1", "2", "--budget", "0.01"
    arguments += "--batches", "3"
    files = "--json", saved, "--markdown", text, "--plots", plots
    done = command("bench", *arguments, *map(str, files))
    assert done.returncode == 0, done.stderr
    assert "post 3x3 by 2x2" in done.stdout
    found = json.loads(saved.read_text())
    assert [(m["what"], m["threads"]) for m in found["layers"]] == [
        (what, threads) for threads in (1, 2) for what in PASSES
    ]
    for m in found["layers"]:
        assert set(m["ours"]) == set(m["stock"]) == set(LAYOUTS)
        assert m["ratio"] == min(m["stock"].values()) / min(m["ours"].values())
        assert m["flops"] == 3 * 2 * 4 * 4
    assert "| layer | pass |" in text.read_text()
    pictures = {f"{kind}-float32-{n}.png" for kind in ("ratios", "roofline") for n in (1, 2)}
    assert {p.name for p in plots.iterdir()} == pictures


def test_activations(tmp_path):
    saved = tmp_path / "figures.json"
    arguments = "--layers", "global*", "--models", "", "--threads", "1", "--budget", "0.01"
    done = command("bench", *arguments, "--json", str(saved))
    assert done.returncode == 0, done.stderr
    found = json.loads(saved.read_text())["activations"]
    assert [m["what"] for m in found] == ["forward", "input gradient"]
    assert all(set(m["ours"]) == set(m["stock"]) == set(LAYOUTS) for m in found)
    assert "ReLU and pooling" in done.stdout


MEASURES = {
    "layer": lambda *to: measure_layer(LAYERS[0], PASSES[0], torch.float32, *to),
    "ReLU": lambda *to: measure_activation(ACTIVATIONS[0], PASSES[1], torch.float32, *to),
    "model": lambda *to: measure_model(*MODELS[0], *to),
    "latency": measure_latency,
    **{name: lambda *to, name=name: measure_derivative(name, *to) for name in DERIVATIVES},
}


@pytest.mark.parametrize("call", MEASURES.values(), ids=MEASURES)
def test_everything_is_measured_on_the_device_asked_for(call):
    """Not a model's weights here and its input there; meta, which is quick, stands for CUDA."""
    measured = call(0.0, "meta")
    assert measured.device == "meta"
    assert min(measured.ours.values()) > 0


def test_peers_stand_beside_ours_and_stock():
    times = measure_peers(LAYERS[0], budget=0.01)  # also where no peer is installed
    assert list(times)[:2] == ["ours", "stock"]
    assert min(times.values()) > 0


def test_bench_of_nothing_is_an_error():
    done = command("bench", "--layers", "", "--models", "")
    assert done.returncode == 1
    assert done.stderr.strip() == "no layer and no model has such a name"
    for option in ("--batches", "--threads"):
        done = command("bench", "--layers", "post*", option, "0")
        assert done.returncode == 2
        assert done.stderr.strip().endswith(f"argument {option}: '0' is not a number from 1 on")


def test_an_error_leaves_the_threads_as_they_were(monkeypatch):
    def fail(*_: object) -> None:
        raise MemoryError(torch.get_num_threads())

    monkeypatch.setattr(measure, "machine", fail)
    parser = argparse.ArgumentParser()
    run.add_arguments(parser)
    before = torch.get_num_threads()
    with pytest.raises(MemoryError, match=str(before + 1)):
        run.run(parser.parse_args(["--threads", str(before + 1)]))
    assert torch.get_num_threads() == before


def test_info():
    stem = "--input", "8x3x224x224", "--filter", "64x3x7x7", "--stride", "2", "--padding", "3"
    done = command("info", *stem)
    assert done.returncode == 0, done.stderr
    assert f"torch {torch.__version__}" in done.stdout
    assert f"instruction set {ops.instruction_set()}" in done.stdout
    assert "input gradient  scatter" in done.stdout
    assert "winograd" in command("info").stdout
    assert "four sizes" in command("info", "--input", "8x64").stderr


def test_info_takes_the_options_of_explain():
    small = "--input", "2x2x2x2", "--filter", "2x2x3x3"
    done = command("info", *small, "--padding", "same", "--dilation", "1x2")
    assert done.returncode == 0, done.stderr
    layer = "stride 1, padding same, dilation 1x2, padding mode zeros"
    assert f"float32 2x2x2x2 with 2x2x3x3, {layer}:" in done.stdout
    done = command("info", *small)  # no padding, as explain
    assert done.returncode == 1
    assert done.stderr.startswith("there is no such layer: ")
    assert "greater than actual input size" in done.stderr
    done = command("info", *small, "--padding", "2", "--padding-mode", "reflect")
    assert "there is no such layer: Padding size should be" in done.stderr


@pytest.mark.parametrize(
    "add_arguments", [run.add_arguments, explain.add_arguments, add_info_arguments]
)
def test_every_option_is_explained(add_arguments):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert [action.dest for action in parser._actions if not action.help] == []
