"""The example under torchrun: two processes train as one does."""

import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import data
import pytest
import torch
import train_distributed
import train_in_float64

EXAMPLE = Path(train_distributed.__file__)
PATH = os.pathsep.join((str(EXAMPLE.parent), os.environ.get("PYTHONPATH", "")))
OPTIONS = {"epochs": 1, "batch_size": 250, "seed": 4}


@pytest.fixture(scope="module")
def alone() -> tuple[dict[str, torch.Tensor], list[float]]:
    """One process's weights and accuracies, no torch.distributed."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with train_in_float64.float64():
        net = train_distributed.make("lenet", OPTIONS["seed"])
        loaded = data.load("mnist5k", OPTIONS["seed"])
        accuracies = train_distributed.train(net, loaded, Namespace(**OPTIONS), rank=0, processes=1)
    torch.set_num_threads(before)
    return net.state_dict(), accuracies


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_train_as_one(parallel, alone, tmp_path):
    options = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *(
                train_in_float64.__file__,
                f"--parallel={parallel}",
                f"--out={tmp_path / 'weights.pt'}",
                *options,
            ),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": PATH},
    )
    assert done.returncode == 0, done.stderr
    weights, accuracies = alone
    assert done.stdout == f"epoch 1: held-out accuracy {accuracies[0]:.2%}\n"
    assert accuracies[0] > 0.2
    found = torch.load(tmp_path / "weights.pt", weights_only=True)
    with train_in_float64.float64():
        start = train_distributed.make("lenet", OPTIONS["seed"]).state_dict()
    assert found.keys() == weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-9, atol=1e-11)
        assert not torch.equal(found[name], start[name])
