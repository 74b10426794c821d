"""ReLU and pooling on the emulated GPU against the reference.

Their ops on it are tested by test_cuda.py, with stock's NaN and ties.
"""

from __future__ import annotations

import pytest
import torch
from cases import F32, ident
from emulator import ELEMENTS, EmulatorError, Fault, LayerCall, Program, build, build_faulty
from hypothesis import given, settings
from layers import LAYERS, Calls, Layer, Layout, assert_answers, calls_of, random_calls
from layouts import channels_last, offset, sliced
from torch import Tensor

from torch_fullconv.pool_ops import Windows

LAYOUTS = (Tensor.contiguous, channels_last)


@pytest.fixture(scope="module")
def plain() -> Program:
    return build("plain")


def all_calls(dtype: torch.dtype) -> Calls:
    found = {}
    for name, layer in LAYERS.items():
        for layout in LAYOUTS:
            for key, call in calls_of(layer, dtype, layout, layout).items():
                found[key, name, ident(layout)] = call
    return found


@pytest.mark.parametrize("dtype", [e for e in ELEMENTS if e != F32], ids=ident)
def test_layers_are_exact(plain, dtype):
    assert_answers(plain, all_calls(dtype))


@settings(max_examples=60)
@given(random_calls)
def test_any_layer_is_exact(plain, calls):
    assert_answers(plain, calls)


def test_memory_is_used_as_it_may():
    """And float32's results are exact."""
    assert_answers(build("address", ()), all_calls(F32))


def calls_with_wrong_indices(layout: Layout) -> Calls:
    """Six of no element, which show a zero; the window's own, and the plane's last."""
    wrong = torch.tensor([-1, 2**62, -(2**63), 2**63 - 1, 72, 10**6, 0, 71])
    indices = wrong.view(1, 8, 1, 1).expand(1, 8, 4, 4).contiguous()
    indices[:, 6] = torch.arange(4).view(4, 1) * 18 + torch.arange(4) * 2 + 10
    indices, exact = layout(indices), torch.zeros(1, 8, 4, 4)
    exact[:, 6:] = 1
    ones, values = layout(torch.ones(1, 8, 8, 9)), layout(torch.full((1, 8, 4, 4), torch.nan))
    windows = Windows(2, 2, 2, 2)
    call = LayerCall("max_gather", ones, indices, values, (8, 9), windows)
    return {f"wrong indices, {ident(layout)}": (call, exact)}


@pytest.mark.parametrize("layout", LAYOUTS, ids=ident)
def test_wrong_indices_reach_no_memory(plain, layout):
    assert_answers(plain, calls_with_wrong_indices(layout))


def test_too_long_an_axis_is_an_error(plain):
    windows = Windows(1, 2, 1, 1, 0, 2**28, 1, 2**28)
    call = LayerCall("max", torch.ones(1, 1, 1, 3), None, torch.ones(1, 1, 1, 3), (1, 3), windows)
    with pytest.raises(EmulatorError, match="shorter than 2\\^28"):
        plain.run([call])


# Faults that must be noticed.
FAULTS = {
    "late_window": Fault(
        "windows.h", "by_stride(last + stride - 1)", "by_stride(last + stride - (PLANTED ? 0 : 1))"
    ),
    "covered_by_dilation": Fault(
        "windows.h", "if (dilation > 1) {\n", "if (dilation > 1 && !PLANTED) {\n"
    ),
    "past_the_window": Fault(
        "windows.h", "i * stride - pad + reach() + 1)", "i * stride - pad + reach() + 1 + PLANTED)"
    ),
    "last_of_equals": Fault(
        "cuda/pool.cuh",
        "if (met[i] > value[i]",
        "if ((PLANTED && met[i] == value[i]) || met[i] > value[i]",
    ),
    "wrong_division": Fault("cuda/places.cuh", "(by, 1) + 1)", "(by, 1) + !PLANTED)"),
    "broken_vectors": Fault(
        "cuda/host.h", "if (step * scalar % 16 != 0)", "if (!PLANTED && step * scalar % 16 != 0)"
    ),
    "lost_tail": Fault("cuda/relu.cuh", "i < job.elements;", "i < job.elements - PLANTED;"),
    "outside_the_plane": Fault(
        "cuda/pool.cuh", "if (rows >= h.size - top ||", "if ((rows >= h.size - top && !PLANTED) ||"
    ),
}
# More threads than a launch takes are started in parts: with few a launch, nothing may change.
SMALL_LAUNCHES = Fault(
    "cuda/layers.cu",
    "constexpr int64_t kMostThreads = int64_t{1} << 30;",
    "const int64_t kMostThreads = PLANTED ? 60 : int64_t{1} << 30;",
)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory) -> Program:
    faults = [SMALL_LAUNCHES, *FAULTS.values()]
    return build_faulty(tmp_path_factory.mktemp("faulty"), faults, kernels=())


def run_faulty(program: Program, fault: int) -> None:
    calls = all_calls(F32)
    calls |= calls_of(Layer((3, 5, 4, 7), Windows(2, 2, 1, 1)), F32, offset, sliced)
    calls |= calls_with_wrong_indices(Tensor.contiguous)
    assert_answers(program, calls, environment={"FAULT": str(fault)})


@pytest.mark.parametrize("fault", [-1, 0], ids=["none", "small_launches"])
def test_without_its_faults_the_faulty_program_is_right(faulty, fault):
    run_faulty(faulty, fault)


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_noticed(faulty, name):
    with pytest.raises((AssertionError, EmulatorError)):
        run_faulty(faulty, 1 + list(FAULTS).index(name))
