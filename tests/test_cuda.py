"""What of CUDA can be tested without a GPU: the way of a CUDA tensor to its kernels.

The kernels themselves are tested by cuda_emulator, their machine code by cuda_check.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from functions import Calls
from torch._subclasses import FakeTensorMode

import torch_fullconv as tfc
from torch_fullconv import _checks, ops

HERE = Path(__file__).parent


def cuda_tensors() -> tuple[torch.Tensor, torch.Tensor]:
    """An input and a filter without values."""
    return torch.empty(2, 3, 5, 4, device="cuda"), torch.empty(4, 3, 3, 3, device="cuda")


CALLS = {
    "conv2d": lambda x, w: tfc.functional.conv2d(x, w),
    "relu": lambda x, _: tfc.functional.relu(x),
    "max_pool2d": lambda x, _: tfc.functional.max_pool2d(x, 2),
    "avg_pool2d": lambda x, _: tfc.functional.avg_pool2d(x, 2),
}


@pytest.mark.parametrize("name", CALLS)
def test_without_the_library_a_cuda_tensor_is_told_what_to_do(name, monkeypatch, tmp_path):
    monkeypatch.setattr(ops, "__file__", str(tmp_path / "ops.py"))
    ops._load_library.cache_clear()
    with FakeTensorMode(), pytest.raises(NotImplementedError) as error:
        CALLS[name](*cuda_tensors())
    assert "\n" not in str(error.value)
    message = "_C_cuda.abi3.so is missing", "TORCH_FULLCONV_CUDA=1", "to the CPU"
    for part in (f"{name}(): ", *message):
        assert part in str(error.value)


def test_devices_must_be_one(monkeypatch):
    monkeypatch.setattr(_checks, "load_cuda", lambda: None)
    with FakeTensorMode():
        x, w = cuda_tensors()[0], torch.empty(4, 3, 3, 3)
        with pytest.raises(RuntimeError, match="same device"):
            tfc.functional.conv2d(x, w)


@pytest.fixture(params=["tf32", "ieee"])
def precision(request) -> Iterator[str]:
    """What torch lets convolutions on CUDA do with float32."""
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = request.param
    yield request.param
    torch.backends.cudnn.conv.fp32_precision = before


def test_tf32_is_torchs_choice(precision, monkeypatch):
    """It is part of the geometry, so that a backward pass goes the way of its forward."""
    monkeypatch.setattr(_checks, "load_cuda", lambda: None)
    with FakeTensorMode(), Calls() as calls:
        x, w = cuda_tensors()
        y = tfc.functional.conv2d(x, w)
        tfc.functional.conv2d_input_grad(x.shape, w, y)
        tfc.functional.conv2d_weight_grad(x, w.shape, y)
        tfc.functional.conv2d(x.to("cpu"), w.to("cpu"))
    at = ops.Geometry._fields.index("allow_tf32")
    found = [[v for v in a if isinstance(v, int)][at] for a in calls.arguments]
    assert found == [precision == "tf32"] * 3 + [False]


# Of each file, what goes ways of its own from a tensor to a kernel.
EMULATED = {
    "test_ops": "test_edges and (segments_each or reflect_two or no_segments)"
    " or twice_stock and (middle or groups or few_filters)",
    "test_large": "test_input_beyond and 40",
    "test_pooling": "wrong_indices or meet_no_element and float32",
    "test_relu": "special_values or in_place",
}


@pytest.mark.skipif(not shutil.which("g++"), reason="there is no g++")
def test_ops_on_the_emulated_gpu():
    """A process of its own, in which the ops of CPU tensors are those of csrc/cuda."""
    selected = " or ".join(f"{file} and ({names})" for file, names in EMULATED.items())
    command = [sys.executable, "-m", "pytest", "--device", "emulator", "-v", "-k", selected]
    command += [str(HERE / f"{file}.py") for file in EMULATED]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    for file in EMULATED:
        assert re.search(rf"{file}\.py::.* PASSED", done.stdout), file
    assert "SKIPPED" not in done.stdout
    assert "previous kernel" in done.stderr + done.stdout  # torch says that CPU's are replaced
