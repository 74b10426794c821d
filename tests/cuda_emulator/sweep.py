"""What takes too long for every run of the tests: `make cuda-emulator`.

Every kernel under AddressSanitizer with UndefinedBehaviorSanitizer and under ThreadSanitizer, to
which each CUDA thread is a thread of its own; and many random layers.
"""

import pytest
import torch
from cases import DTYPES, EDGES, ident
from contractions import assert_edges_exact, assert_random_calls_exact, random_calls
from emulator import build
from hypothesis import given, settings
from layouts import channels_last


@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last], ids=ident)
@pytest.mark.parametrize("dtype", DTYPES, ids=ident)
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_sanitized_edges_are_exact(sanitizer, dtype, layout):
    assert_edges_exact(build(sanitizer), EDGES, dtype, layout)


@settings(max_examples=1000)
@given(random_calls)
def test_any_geometry_is_exact(calls):
    assert_random_calls_exact(build("address"), *calls)
