"""What docs/performance.md promises about time and memory, measured here.

Timings are ratios of medians, interleaved; another load on the machine can spoil a measurement but
not make one, so a ratio has three tries.
"""

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from torch_fullconv import ops
from torch_fullconv.ops import Geometry

pytestmark = pytest.mark.usefixtures("threads")
PADDED = Geometry(1, 1, 1, 1, 1, 1, 1)
# input, filter, geometry
LAYERS = {
    "winograd": ((2, 64, 28, 28), (64, 64, 3, 3), PADDED),
    "pointwise": ((2, 128, 28, 28), (128, 128, 1, 1), Geometry()),
    "stem": ((1, 3, 96, 96), (64, 3, 7, 7), Geometry(1, 2, 2, 3, 3, 3, 3)),
    "depthwise": ((2, 64, 56, 56), (64, 1, 3, 3), PADDED._replace(groups=64)),
}
SCRATCH = 10 * 2**20  # bytes a thread


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def passes(x: torch.Tensor, f: torch.Tensor, geometry: Geometry) -> list[Callable[[], object]]:
    """The three operations, as calls; none of them has run yet."""
    size = geometry.output_size(*x.shape[2:], *f.shape[2:])
    o = torch.randn(x.shape[0], f.shape[0], *size) * x.abs().max()  # as large or small as x
    return [
        lambda: ops.correlate(x, f, None, geometry),
        lambda: ops.full_convolve(o, f, None, geometry, x.shape[2:]),
        lambda: ops.correlate_weight(x, o, geometry, f.shape[2:], None),
    ]


def within(limit: float, ratio: Callable[[], float]) -> bool:
    return any(ratio() <= limit for _ in range(3))


@pytest.mark.parametrize("name", LAYERS)
def test_subnormal_numbers_slow_nothing_by_a_fifth(name):
    torch.set_num_threads(1)
    shape, kernel, geometry = LAYERS[name]
    g = torch.Generator().manual_seed(0)
    x, f = torch.randn(shape, generator=g), torch.randn(kernel, generator=g)
    assert 0 < (x * 1e-40).abs().max() < 2**-126
    for scales in ((1e-40, 1.0), (1.0, 1e-40), (1e-20, 1e-20)):
        pairs = zip(
            passes(x, f, geometry), passes(x * scales[0], f * scales[1], geometry), strict=True
        )
        for plain, subnormal in pairs:

            def ratio(plain=plain, subnormal=subnormal) -> float:
                times = [(seconds(plain), seconds(subnormal)) for _ in range(15)]
                return statistics.median(s for _, s in times) / statistics.median(
                    p for p, _ in times
                )

            assert within(1.2, ratio)


@pytest.mark.parametrize("index", range(3), ids=["forward", "input_gradient", "filter_gradient"])
def test_a_new_shape_costs_as_much_as_a_known_one(index):
    """Nothing is compiled, tuned or cached for a shape."""
    torch.set_num_threads(1)
    f = torch.randn(64, 64, 3, 3)
    sizes = iter(range(24, 69))
    for _ in range(2):  # memory that stays with the process: a result's page faults are no part
        torch.ones(30 << 18)

    def ratio() -> float:
        ratios = []
        for size in (next(sizes) for _ in range(15)):
            call = passes(torch.randn(2, 64, size, size + 1 + index), f, PADDED)[index]
            first = seconds(call)
            ratios.append(first / seconds(call))
        return statistics.median(ratios)

    assert within(1.2, ratio)


PEAK = """
import torch, torch_fullconv as tfc
from torch.nn.functional import conv2d
torch.set_num_threads({threads})
conv2d = tfc.functional.conv2d if {ours} else conv2d
x = torch.randn({input}, requires_grad=True)
f = torch.randn({filter}, requires_grad=True)
y = conv2d(x, f, None, 1, {padding}, 1, {groups})
y.backward(y.detach())
print(next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith("VmHWM")) * 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("input", "filter", "padding", "groups"),
    [
        ((8, 64, 112, 112), (64, 64, 3, 3), 1, 1),
        ((16, 512, 14, 14), (512, 512, 3, 3), 1, 1),
        ((16, 256, 56, 56), (64, 256, 1, 1), 0, 1),
        ((16, 96, 112, 112), (96, 1, 7, 7), 3, 96),
    ],
    ids=["wide", "deep", "pointwise", "depthwise"],
)
def test_peak_memory_is_stocks_and_scratch(input, filter, padding, groups):
    threads = 2

    def peak(ours: bool) -> int:
        code = PEAK.format(
            threads=threads, ours=ours, input=input, filter=filter, padding=padding, groups=groups
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
        )
        return int(done.stdout)

    packed = 4 * 4 * torch.Size(filter).numel()  # 36 numbers for 9
    assert peak(True) <= peak(False) + threads * SCRATCH + packed


HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(not HUGE_PAGES.exists(), reason="Linux's huge pages")
def test_large_results_come_in_huge_pages():
    """At most a tenth of the page faults that small pages would take."""
    if "[never]" in HUGE_PAGES.read_text():
        pytest.skip("huge pages are turned off")
    x, f = torch.randn(8, 16, 112, 112), torch.randn(160, 16, 1, 1)
    results = []

    def ratio() -> float:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        results.append(ops.correlate(x, f, None, Geometry()))  # kept: the next one's is fresh
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        return faults / (results[-1].nbytes / resource.getpagesize())

    assert within(0.1, ratio)


LONG_WINDOW = """
import torch, torch_fullconv as tfc
torch.set_num_threads(1)
def status(name):
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(name)) * 1024
x = torch.ones(1, 1, 1, 2**15)
tfc.functional.avg_pool2d(x[..., :8], (1, 2), 1)
before = status("VmHWM")
tfc.functional.avg_pool2d(x, (1, 2**13), 1)
print(status("VmHWM") - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_long_window_takes_no_memory_for_each_of_its_elements():
    done = subprocess.run(
        [sys.executable, "-c", LONG_WINDOW], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) <= SCRATCH


PER_SAMPLE = """
import torch, torch_fullconv as tfc
torch.set_num_threads({threads})
def status(name):
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(name)) * 1024
x, o = torch.randn({input}), torch.randn({output})
before, code = status("VmRSS"), status("RssFile")
layer = dict(padding={padding}, groups={groups}, per_sample=True)
result = tfc.functional.conv2d_weight_grad(x, {filter}, o, **layer)
code = status("RssFile") - code  # pages of libraries, as many as the system maps at once
print(status("VmHWM") - before - code - result.nbytes)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("input", "filter", "padding", "groups"),
    [
        ((32, 256, 14, 14), (256, 256, 3, 3), 1, 1),
        ((64, 512, 7, 7), (512, 512, 1, 1), 0, 1),
        ((64, 512, 14, 14), (512, 16, 3, 3), 1, 32),
        ((64, 960, 14, 14), (960, 1, 5, 5), 2, 960),
    ],
    ids=["dense", "pointwise", "groups", "depthwise"],
)
def test_per_sample_gradients_take_the_memory_of_their_result(input, filter, padding, groups):
    threads = 2
    output = (input[0], filter[0], *input[2:])
    code = PER_SAMPLE.format(
        threads=threads, input=input, output=output, filter=filter, padding=padding, groups=groups
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= threads * SCRATCH
