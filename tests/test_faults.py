"""Memory that runs out at every place, interrupts in the middle of a step, and very many calls.

test_build.py has libraries that are missing, cut short or another processor's, and test_train.py
the example's training, stopped by Ctrl-C and resumed.
"""

import ctypes
import gc
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch
from cases import F32, case
from test_reproducible import ONES, floats
from torch import Tensor, nn

import torch_fullconv as tfc
from torch_fullconv import functional, ops

pytestmark = [
    pytest.mark.usefixtures("threads"),
    pytest.mark.skipif(sys.platform != "linux", reason="glibc's and Linux's limits and figures"),
]
STRESS = Path(__file__).parent / "stress"
OUT_OF_MEMORY = RuntimeError, MemoryError
# torch's C++ interface puts arguments and results into boxes of up to so many bytes; where it does
# not get another, it loses those that it has, and with them the tensors that they hold.
BOX = 48
NOISE = 16_000  # of live_bytes, where threads come and go


def live_bytes() -> int:
    """What malloc has given out and not yet got back, by any thread."""

    class Info(ctypes.Structure):
        names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
        _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

    gc.collect()
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = Info
    info = mallinfo()
    return info.uordblks + info.hblkhd


def net() -> nn.Sequential:
    """With the same weights each time."""
    torch.manual_seed(1)
    return nn.Sequential(
        tfc.Conv2d(3, 16, 3), tfc.ReLU(), tfc.MaxPool2d(2), tfc.Conv2d(16, 32, 3), tfc.AvgPool2d(2)
    )


def gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(model(x).square().mean(), list(model.parameters())))


# Every way of a contraction, with work for two threads.
LAYERS = {
    "direct": case((2, 24, 20, 21), (25, 24, 3, 3), (1, 1), ONES),
    "winograd": case((2, 24, 20, 21), (25, 24, 3, 3), (1, 1), ONES, algorithm="winograd"),
    "phases": case((2, 24, 28, 27), (25, 24, 4, 4), (2, 2), ONES, algorithm="winograd"),
    "strided": case((2, 24, 28, 27), (25, 24, 3, 3), (2, 2), ONES),
    "stem": case((2, 3, 40, 44), (16, 3, 7, 7), (2, 2), (3, 3, 3, 3)),
    "lines": case((2, 2, 60, 120), (2, 2, 5, 5)),
    "pointwise": case((2, 70, 20, 21), (65, 70, 1, 1)),
    "depthwise": case((2, 48, 40, 41), (48, 1, 3, 3), (1, 1), ONES),
    "circular": case((2, 10, 24, 25), (12, 10, 3, 3), (1, 1), (3, 3, 3, 3), mode="circular"),
}


def calls(name: str) -> tuple[list[Tensor], list[Callable[[], list[Tensor]]]]:
    """The tensors that a layer's calls read, and the calls."""
    if name == "training":
        model, x = net(), torch.randn(8, 3, 32, 32)
        return [x, *model.parameters()], [lambda: gradients(model, x)]
    c = LAYERS[name]
    x, f, o, bias, _ = t = floats(c, F32, Tensor.contiguous)
    return list(t), [
        lambda: [ops.correlate(x, f, bias, c.geometry)],
        lambda: list(ops.gradients(x, f, o, c.geometry)),
        lambda: [ops.channel_sum(o)],
    ]


def in_new_thread(call: Callable[[], list[Tensor]]) -> list[Tensor]:
    """Which has no scratch yet."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def failures(
    read: list[Tensor], call: Callable[[], list[Tensor]], limited: Callable[[int], bool]
) -> int:
    """How many limits a call does not get by with: each one an exception that harms nothing.

    `limited(n)` runs the call under the n-th limit and says whether memory ran out.
    """
    before, exact = [t.detach().clone() for t in read], call()
    for number in count():
        try:
            enough = limited(number)
        except OUT_OF_MEMORY:
            enough = False
        assert same(read, before), number
        assert same(call(), exact), number
        if enough:
            return number


def fail_each_allocation(layers: list[tuple[str, int]]) -> None:
    """In a process with scarce.cpp: prints how many allocations the layers' calls make, of those
    from a size on."""
    library = ctypes.CDLL(None)
    torch.set_num_threads(2)
    for name, least in layers:
        read, each = calls(name)
        for call in each:

            def limited(number: int, call: Callable = call, least: int = least) -> bool:
                library.scarce_after(number, least)
                try:
                    in_new_thread(call)
                finally:
                    enough = library.scarce_left() >= 0
                return enough

            sweep = partial(failures, read, partial(in_new_thread, call), limited)
            for _ in range(
                3
            ):  # a leak is there each time; what threads and first errors keep is not
                before = live_bytes()
                in_all = sweep()
                more = live_bytes() - before
                if more < NOISE or least <= BOX:
                    break
            print(f"{name} from {least}: {in_all} allocations, {more} bytes more", flush=True)


def run_alone(call: str, **environment: str) -> str:
    """The output of a call of this module in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", f"import test_faults; test_faults.{call}"],
        cwd=Path(__file__).parent,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def scarce(tmp_path_factory) -> str:
    """scarce.cpp, compiled."""
    library = tmp_path_factory.mktemp("scarce") / "scarce.so"
    flags = ["-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-std=c++17"]
    compiler = os.environ.get("CXX", "c++")
    subprocess.run([compiler, *flags, STRESS / "scarce.cpp", "-o", library], check=True)
    return str(library)


EVERY = [(name, least) for name in (*LAYERS, "training") for least in (BOX + 1, 0)]


@pytest.mark.parametrize(
    "layers",
    [
        pytest.param([("strided", BOX + 1), ("pointwise", 0)], id="two"),
        pytest.param(EVERY, id="all", marks=pytest.mark.stress),
    ],
)
def test_memory_that_runs_out_at_any_allocation(scarce, layers):
    output = run_alone(
        f"fail_each_allocation({layers})", LD_PRELOAD=scarce, OMP_WAIT_POLICY="passive"
    )
    print(output)
    line = r"^(.*) from (\d+): (\d+) allocations, (-?\d+) bytes more$"
    found = re.findall(line, output, re.MULTILINE)
    assert {(name, int(least)) for name, least, *_ in found} == set(layers)
    assert sum(int(number) for _, _, number, _ in found) > 40 * len(layers)
    for name, least, _, more in found:
        assert int(more) < NOISE or int(least) <= BOX, name


def run_out_of_addresses() -> None:
    """A layer of large tensors, with a little more room each time."""
    c = case((1, 64, 160, 160), (64, 64, 3, 3), (1, 1), ONES, algorithm="auto")
    x, f, o, bias, _ = t = floats(c, F32, Tensor.contiguous)
    torch.set_num_threads(2)

    def call() -> list[Tensor]:
        return [ops.correlate(x, f, bias, c.geometry), *ops.gradients(x, f, o, c.geometry)]

    def limited(number: int) -> bool:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        room = pages * resource.getpagesize() + number * 2**21
        resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
        try:
            call()
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        return True

    print(failures(list(t), call, limited))


def test_a_limit_on_memory_is_an_exception():
    assert int(run_alone("run_out_of_addresses()", MALLOC_MMAP_THRESHOLD_="65536")) > 5


class Interrupts:
    """A KeyboardInterrupt some seconds later, as Ctrl-C brings one, unless it is called off."""

    def __enter__(self) -> "Interrupts":
        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        self.before = signal.signal(signal.SIGALRM, interrupt)
        return self

    def after(self, seconds: float) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def __exit__(self, *_: object) -> None:
        self.after(0)
        signal.signal(signal.SIGALRM, self.before)


def train(
    steps: int, interrupts: Interrupts | None = None, longest: float = 0.0
) -> tuple[list[Tensor], int]:
    """The weights, and how many steps were cut short and made again from the state before."""
    model, cut = net(), 0
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    delays, x = random.Random(3), torch.randn(8, 3, 32, 32)
    for _ in range(steps):
        state = deepcopy((model.state_dict(), optimizer.state_dict()))
        for attempt in count(1):
            try:
                if interrupts:
                    interrupts.after(delays.uniform(1e-5, longest * attempt))
                optimizer.zero_grad()
                model(x).square().mean().backward()
                optimizer.step()
                if interrupts:
                    interrupts.after(0)
                break
            except KeyboardInterrupt:
                cut += 1
                torch.set_grad_enabled(True)  # an optimizer's `finally`, cut short, leaves it off
                model.load_state_dict(state[0])
                optimizer.load_state_dict(deepcopy(state[1]))  # which it goes on with
    return list(model.parameters()), cut


def test_interrupts_inside_a_step_leave_nothing_behind():
    """The last good state, trained on, ends with the bits of a training that had no interrupt."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    whole, _ = train(20)
    step = (time.perf_counter() - start) / 20
    with Interrupts() as interrupts:
        found, cut = train(20, interrupts, step)
    assert cut > 5
    assert same(found, whole)


@pytest.mark.parametrize("steps", [1_000, pytest.param(100_000, marks=pytest.mark.stress)])
def test_memory_is_flat_over_calls_and_errors(steps):
    """Layers of any size with their gradients and pooling, by one thread or two; one in ten is bad.

    test_reproducible.py has the same for the raw operations alone.
    """

    def some(count: int) -> None:
        choice = random.Random(7)
        for number in range(count):
            torch.set_num_threads(choice.choice((1, 2)))
            n, c, k, size, r = (choice.randint(1, most) for most in (3, 12, 12, 16, 3))
            x = torch.randn(n, c, size + 4, size + 2, requires_grad=True)
            f = torch.randn(k, c, r, r, requires_grad=True)
            if number % 10 == 0:
                with pytest.raises(RuntimeError):
                    functional.conv2d(x[:, :, :1, :1], f.new_ones(k, c + 1, r, r))
            y = functional.conv2d(x, f, None, choice.choice((1, 2)), choice.choice((0, 1)))
            functional.max_pool2d(functional.relu(y), 2, 1, 1).sum().backward()

    some(min(steps, 20_000))  # the largest layers have their scratch, which is kept
    before = live_bytes()
    some(steps)
    assert live_bytes() - before < 3 * NOISE
