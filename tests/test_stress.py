"""What `make stress` is made of: a slice of it, and that it finds what is planted."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cases import C128, EDGES, F64, expected, operands

TESTS = Path(__file__).parent
STRESS = TESTS / "stress"
sys.path.insert(0, str(STRESS))

from oracle import Oracle  # noqa: E402


@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("program", ["stress/threads/threads.cpp", "engine/engine.cpp"])
def test_programs_without_torch_compile(program):
    """Those of `make sanitize` and `make aarch64`, which are not built at each change."""
    source = TESTS / program
    command = ["c++", "-std=c++20", "-fsyntax-only", "-Wno-psabi"]
    command += [f"-I{TESTS.parent / 'csrc'}", f"-I{source.parent}", str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("complex", [False, True], ids=["real", "complex"])
def test_the_oracle_is_the_reference(complex):
    for name, case in EDGES.items():
        if case.segments == 0 or name == "stride_huge":  # beyond what the fuzzer draws
            continue
        t = operands(case, C128 if complex else F64)
        oracle, exact = Oracle(case), expected(name, complex)
        found = {
            "correlate": oracle.correlate(t.input, t.filter) + t.bias[:, None, None],
            "gradients_input": oracle.full_convolve(t.grad, t.filter),
            "correlate_weight": oracle.correlate_weight(t.input, t.grad),
        }
        for op, result in found.items():
            assert torch.equal(result, exact[op]), (op, name)


def test_random_layers_between_guard_pages():
    """A few of either kind on every instruction set."""
    command = [sys.executable, str(STRESS / "fuzz.py"), "--guard"]
    command += ["--examples", "120", "--pooling", "40"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    sets = re.findall("instruction sets: (.*);", output)[0].split()
    assert "baseline" in sets
    for name in sets:
        assert int(re.findall(rf"(\d+)  {name}: examples", output)[0]) >= 30, output
    assert "120  convolution examples" in output
    assert re.search("^0 of .* chunks failed", output, re.M)


# Tensors that say one element more than they have, behind their last or before their first.
PLANTED = """
import ctypes, sys
sys.path.insert(0, {folder!r})
import fuzz
real, kept = fuzz.tight, []
for before in (0, 1):
    def wrong(tensor):
        if tensor.dim() != 4 or tensor.dtype != fuzz.torch.float32:
            return real(tensor)
        kept.append(real(tensor.flatten())[1:].clone())
        start = kept[-1].data_ptr() - 4 * before
        memory = (ctypes.c_float * tensor.numel()).from_address(start)
        return fuzz.torch.frombuffer(memory, dtype=tensor.dtype).view(tensor.shape)
    fuzz.tight = wrong
    fuzz.run([fuzz.Chunk("convolution", "baseline", before, 40)], 1, float("inf"))
"""


def test_one_element_beyond_is_a_fault_that_names_its_layer(tmp_path):
    import fuzz

    done = subprocess.run(
        [sys.executable, "-c", PLANTED.format(folder=str(STRESS))],
        env=fuzz.guarded_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.count("exit status -11") == 2, done.stdout + done.stderr
    assert done.stdout.count("died in Case(input=") == 2
