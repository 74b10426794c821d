"""The CUDA kernels on the emulated GPU against the reference: bit for bit on integers.

`sweep.py` has what takes longer.
"""

from __future__ import annotations

import subprocess
from dataclasses import replace
from functools import cache

import pytest
import torch
from cases import (
    BF16,
    C64,
    C128,
    EDGES,
    F16,
    F32,
    F64,
    Case,
    Operands,
    assert_bits,
    assert_within,
    by_reference,
    case,
    ident,
    operands,
)
from contractions import (
    assert_edges_exact,
    assert_random_calls_exact,
    calls_of,
    random_calls,
)
from emulator import EmulatorError, Fault, Program, build, build_faulty, build_instructions
from hypothesis import given, settings
from layouts import channels_last, channels_sliced, odd_strides, sliced
from test_reproducible import SPECIAL_LAYERS, by_definition, with_special
from torch import Tensor

ALL = (1, 1, 1, 1)
RESULTS = (torch.Tensor.contiguous, channels_last, channels_sliced, odd_strides, sliced)


@pytest.fixture(scope="module")
def plain() -> Program:
    return build("plain")


# Not every dtype in both layouts: complex numbers take the kernels of their parts, and float16 is
# as bfloat16. `sweep.py` has all. Float32 is below, under a sanitizer.
EDGE_LAYOUTS = {
    F64: [Tensor.contiguous, channels_last],
    BF16: [Tensor.contiguous, channels_last],
    F16: [channels_last],
    C64: [Tensor.contiguous],
    C128: [channels_last],
}


@pytest.mark.parametrize("dtype", EDGE_LAYOUTS, ids=ident)
def test_edges_are_exact(plain, dtype):
    assert_edges_exact(plain, dtype, EDGE_LAYOUTS[dtype])


@settings(max_examples=40)
@given(random_calls)
def test_any_geometry_is_exact(plain, calls):
    assert_random_calls_exact(plain, *calls)


def test_memory_is_used_as_it_may():
    """Nothing reads or writes where it must not, nothing overflows, and results are exact."""
    assert_edges_exact(build("address", ("f32",)), F32)


# With several tiles of everything, and sums that are split.
LAYERS = {
    "plain": case((3, 20, 14, 13), (40, 20, 3, 3), (1, 1), ALL),
    "strided": case((2, 16, 19, 17), (33, 16, 3, 3), (2, 2), ALL),
    "pointwise": case((2, 40, 12, 12), (130, 40, 1, 1)),
    "groups": case((2, 24, 11, 11), (36, 6, 3, 3), (1, 1), ALL),
    "depthwise": case((5, 34, 11, 10), (34, 1, 3, 3), (1, 1), ALL),
    "depthwise vectors": case((2, 40, 9, 10), (40, 1, 4, 3), (2, 1), ALL),
    "circular": case((2, 6, 12, 13), (12, 6, 3, 3), (1, 1), (3, 3, 3, 3), mode="circular"),
}


def floats(case: Case, dtype: torch.dtype) -> Operands:
    generator = torch.Generator().manual_seed(7)
    shapes = case.input, case.filter, case.output, case.filter[:1], case.input[1:2]
    return Operands(*(torch.randn(s, generator=generator, dtype=F64).to(dtype) for s in shapes))


@pytest.mark.parametrize("dtype", [F32, "tf32", BF16], ids=ident)
@pytest.mark.parametrize("name", LAYERS)
def test_errors_are_within_the_bound(plain, name, dtype):
    """16-bit results are float32 sums rounded once; TF32 rounds factors, and only if allowed."""
    layer, tf32 = LAYERS[name], dtype == "tf32"
    t = floats(layer, F32 if tf32 else dtype)
    exact = by_reference(layer, t)
    magnitude = by_reference(layer, Operands(*(v.abs() for v in t)))
    calls = {key: replace(call, allow_tf32=tf32) for key, call in calls_of(layer, t).items()}
    for key, result in zip(calls, plain.run(list(calls.values())), strict=True):
        n, k, p, q = layer.output
        terms = 2 + max(n * p * q, k * 9, layer.input[1] * 9)
        if tf32 and key != "channel_sum" and "depthwise" not in name:
            error = (result.double() - exact[key]).abs() / magnitude[key]
            assert 2.0**-17 < error.max() < 2.0**-10  # two factors, rounded to 11 bits each
        else:
            assert_within(result, exact[key], magnitude[key], terms)


@pytest.mark.parametrize(("sign", "part"), [("any", 1 / 200), ("one", 1 / 8)])
def test_rounding_of_tensor_cores_sums_is_little(plain, sign, part):
    """Of the error of TF32, nearly all is the rounding of factors: so sums need not start anew."""
    layer = case((1, 512, 7, 7), (32, 512, 3, 3), (1, 1), ALL)
    t = floats(layer, F32)
    if sign == "one":
        t = Operands(*(v.abs() for v in t))
    bits = [(v.view(torch.int32) + 2**12) & -(2**13) for v in t[:3]]  # halves go away from zero
    exact = by_reference(layer, t)
    of_rounded = by_reference(layer, Operands(*(v.view(F32) for v in bits), *t[3:]))
    calls = {key: replace(call, allow_tf32=True) for key, call in calls_of(layer, t).items()}
    del calls["channel_sum"]
    for key, result in zip(calls, plain.run(list(calls.values())), strict=True):
        whole, sums = ((result.double() - e[key]).norm() for e in (exact, of_rounded))
        assert 0 < sums < part * whole, key


@pytest.mark.parametrize("name", LAYERS)
def test_results_are_the_same_in_any_order_of_threads_and_blocks(plain, name):
    for dtype in (F32, BF16):
        calls = list(calls_of(LAYERS[name], floats(LAYERS[name], dtype)).values())
        first, *others = (plain.run(calls, seed) for seed in (1, 2, 3))
        for other in others:
            assert all(map(torch.equal, first, other))


@pytest.mark.parametrize("name", LAYERS)
def test_a_sample_is_the_same_alone_and_in_a_batch(plain, name):
    layer, t = LAYERS[name], floats(LAYERS[name], F32)
    alone = layer._replace(input=(1, *layer.input[1:]))
    own = Operands(t.input[1:2], t.filter, t.grad[1:2], t.bias, t.input_bias)
    keys = "correlate", "full_convolve"
    batch, one = (
        plain.run([calls_of(*of)[key] for key in keys]) for of in ((layer, t), (alone, own))
    )
    assert all(torch.equal(b[1:2], o) for b, o in zip(batch, one, strict=True))


@pytest.mark.parametrize("operand", ["input", "filter", "grad"])
@pytest.mark.parametrize("name", SPECIAL_LAYERS)
def test_special_values_stay_where_they_belong(plain, name, operand):
    """Results are NaN, Inf or exact, each where the definition says."""
    layer, calls, exact = EDGES[name], [], []
    for special, dtype in ((torch.nan, F32), (-torch.inf, F32), (torch.nan, BF16)):
        t = with_special(layer, operand, 0.4, special, dtype)
        by_name = by_definition(layer, with_special(layer, operand, 0.4, special))
        for key, call in calls_of(layer, t).items():
            calls.append(call)
            exact.append(by_name[key].to(dtype))
    for result, value in zip(plain.run(calls), exact, strict=True):
        torch.testing.assert_close(result, value, rtol=0, atol=0, equal_nan=True)


def test_too_long_an_axis_is_an_error(plain):
    layer = case((1, 1, 1, 3), (1, 1, 1, 2), (1, 2**35), (0, 0, 2**35, 0), (1, 2**35))
    with pytest.raises(EmulatorError, match="shorter than 2\\^29"):
        plain.run([calls_of(layer, operands(layer, F32))["correlate"]])


def test_instructions_are_as_documented():
    done = subprocess.run([build_instructions().path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("right") == 9


# Faults that must be noticed, and what the emulator says where it isn't luck how they show.
FAULTS = {
    "removed_barrier": Fault(
        "cuda/tiles.cuh",
        "__syncthreads();\n      start(chunk + STAGES - 1);",
        "if (!PLANTED) __syncthreads();\n      start(chunk + STAGES - 1);",
    ),
    "lax_wait": Fault(
        "cuda/tiles.cuh",
        "gpu::wait_for_copies<STAGES - 2>();",
        "PLANTED ? gpu::wait_for_copies<STAGES - 1>() : gpu::wait_for_copies<STAGES - 2>();",
    ),
    "uncommitted_copies": Fault(
        "cuda/tiles.cuh", "gpu::commit_copies();", "if (!PLANTED) gpu::commit_copies();"
    ),
    "unwritten_zeros": Fault(
        "cuda/tiles.cuh",
        "else\n        gpu::copy_async",
        "else if (shown.any || !PLANTED)\n        gpu::copy_async",
    ),
    "off_by_one": Fault(
        "cuda/correlate.cuh",
        "(patches.terms() + BY::kDepth - 1) / BY::kDepth",
        "(patches.terms() + BY::kDepth - (PLANTED ? BY::kDepth : 1)) / BY::kDepth",
    ),
    "past_the_edge": Fault(
        "cuda/places.cuh",
        "static_cast<unsigned>(w) < static_cast<unsigned>(width))",
        "static_cast<unsigned>(w) < static_cast<unsigned>(width) + (PLANTED ? 1 : 0))",
    ),
    "wrong_phase": Fault(
        "geometry.h",
        "position(positions > 0 ? map.position[0] : 0)",
        "position(positions > 0 && !PLANTED ? map.position[0] : 0)",
    ),
    "lost_total": Fault(
        "cuda/multiply.cuh",
        "return total[i][j] + sum[i][j];",
        "return PLANTED ? sum[i][j] : total[i][j] + sum[i][j];",
    ),
    "lost_split": Fault(
        "cuda/correlate_weight.cuh",
        "split < job.splits;",
        "split < job.splits - (PLANTED ? 1 : 0);",
    ),
    "divergent_barrier": Fault(
        "cuda/depthwise.cuh",
        "half /= 2) {\n      __syncthreads();",
        "half /= 2) {\n      if (!PLANTED || thread < half) __syncthreads();",
    ),
    "misaligned_copies": Fault(
        "cuda/host.h",
        "if (step * scalar % 16 != 0)",
        "if (!PLANTED && step * scalar % 16 != 0)",
    ),
    "too_much_shared_memory": Fault(
        "cuda/host.h", "if (shared > 48 << 10)", "if (!PLANTED && shared > 48 << 10)"
    ),
}
SAID = {
    "uncommitted_copies": "ends with asynchronous copies",
    "divergent_barrier": "threads meet at different barriers|wait for ever",
    "misaligned_copies": "misaligned address",
    "too_much_shared_memory": "invalid argument",
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory) -> Program:
    return build_faulty(tmp_path_factory.mktemp("faulty"), list(FAULTS.values()))


def run_layers(program: Program, fault: int) -> None:
    calls, exact = {}, {}
    for name, layer in LAYERS.items():
        t = operands(layer, F32)
        for layout in (torch.Tensor.contiguous, channels_last):
            placed = Operands(*(layout(v) for v in t[:3]), *t[3:])
            for key, call in calls_of(layer, placed, layout).items():
                where = name, key, ident(layout)
                calls[where] = replace(call, allow_tf32=name == "pointwise")
                exact[where] = by_reference_once(name)[key]
    results = program.run(list(calls.values()), environment={"FAULT": str(fault)})
    for where, result in zip(calls, results, strict=True):
        assert_bits(result, exact[where], where)


@cache
def by_reference_once(name: str) -> dict[str, Tensor]:
    return by_reference(LAYERS[name], operands(LAYERS[name], F64))


def test_without_its_faults_the_faulty_program_is_right(faulty):
    run_layers(faulty, -1)


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_noticed(faulty, name):
    errors = EmulatorError if name in SAID else (EmulatorError, AssertionError)
    with pytest.raises(errors, match=SAID.get(name)):
        run_layers(faulty, list(FAULTS).index(name))
