"""What takes too long for every run of the tests: `make cuda-emulator`.

Every kernel under AddressSanitizer with UndefinedBehaviorSanitizer and under ThreadSanitizer, to
which each CUDA thread is a thread of its own; and many random layers.
"""

import pytest
import test_layers
from cases import DTYPES, ident
from contractions import assert_edges_exact, assert_random_calls_exact, random_calls
from emulator import ELEMENTS, EmulatorError, build, build_faulty
from hypothesis import given, settings
from layers import assert_answers
from layers import random_calls as random_layers
from test_kernels import FAULTS, run_layers


@pytest.mark.parametrize("dtype", DTYPES, ids=ident)
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_sanitized_edges_are_exact(sanitizer, dtype):
    assert_edges_exact(build(sanitizer), dtype)


@settings(max_examples=1000)
@given(random_calls)
def test_any_geometry_is_exact(calls):
    assert_random_calls_exact(build("address"), *calls)


@pytest.mark.parametrize(
    ("sanitizer", "name", "said"),
    [
        ("thread", "removed_barrier", "ThreadSanitizer: data race"),
        ("thread", "lax_wait", "ThreadSanitizer: data race"),
        ("address", "past_the_edge", "AddressSanitizer: heap-buffer-overflow"),
    ],
)
def test_sanitizers_report_faults(tmp_path, sanitizer, name, said):
    program = build_faulty(tmp_path, list(FAULTS.values()), sanitizer)
    with pytest.raises(EmulatorError, match=said):
        run_layers(program, list(FAULTS).index(name))
    run_layers(program, -1)


@pytest.mark.parametrize("dtype", ELEMENTS, ids=ident)
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_sanitized_layers_are_exact(sanitizer, dtype):
    assert_answers(build(sanitizer, ()), test_layers.all_calls(dtype))


@settings(max_examples=1000)
@given(random_layers)
def test_any_layer_is_exact(calls):
    assert_answers(build("address", ()), calls)
