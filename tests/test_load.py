"""Many callers at once, forked processes, regions inside regions, threads that are set anew.

Whoever calls, and from wherever, gets the bits of one thread alone.
"""

import ctypes
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import F32, by_ops
from test_reproducible import LAYERS, floats
from torch import Tensor, nn
from torch.utils.data import DataLoader

import torch_fullconv as tfc

pytestmark = [
    pytest.mark.usefixtures("threads"),
    pytest.mark.skipif(sys.platform != "linux", reason="forks, and calls the OpenMP of Linux"),
]
NAMES = ("winograd", "winograd_5", "winograd_segments", "chosen", "stem", "dilated", "pointwise")
NAMES += ("deep", "one_filter", "depthwise", "groups", "reflect", "training")
OPERANDS = {name: floats(LAYERS[name], F32, Tensor.contiguous) for name in NAMES[:-1]}


def training() -> list[Tensor]:
    """Two steps of a small net."""
    generator = torch.Generator().manual_seed(1)
    net = nn.Sequential(
        tfc.Conv2d(3, 16, 3), tfc.ReLU(), tfc.MaxPool2d(2), tfc.Conv2d(16, 32, 3), tfc.AvgPool2d(2)
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 5)
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    for _ in range(2):
        optimizer.zero_grad()
        net(torch.randn(8, 3, 32, 32, generator=generator)).square().mean().backward()
        optimizer.step()
    return [parameter.detach() for parameter in net.parameters()]


def digest(name: str) -> str:
    """Of a layer's results."""
    found = training() if name == "training" else by_ops(LAYERS[name], OPERANDS[name]).values()
    return sha256(b"".join(t.numpy().tobytes() for t in found)).hexdigest()


def digests() -> dict[str, str]:
    return {name: digest(name) for name in NAMES}


@pytest.fixture(scope="module")
def alone() -> dict[str, str]:
    """The digests by one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    found = digests()
    torch.set_num_threads(before)
    return found


def test_callers_at_once_with_threads_of_their_own(alone):
    """Eight of them, each with its own number of threads and its own order of layers."""

    def call(number: int) -> None:
        torch.set_num_threads(1 + number % 4)
        for name in random.Random(number).sample(NAMES, len(NAMES)):
            assert digest(name) == alone[name], name

    with ThreadPoolExecutor(8) as callers:
        for done in [callers.submit(call, number) for number in range(8)]:
            done.result()


def openmp() -> ctypes.CDLL:
    """The OpenMP runtime that torch uses."""
    paths = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    found = [path for path in sorted(paths) if re.match("lib[gi]?omp", Path(path).name)]
    return ctypes.CDLL(found[0])


def test_threads_set_anew_between_calls(alone):
    omp = openmp()
    settings = {
        "more threads": lambda: torch.set_num_threads(7),
        "OpenMP's, behind torch's back": lambda: omp.omp_set_num_threads(3),
        "as many as OpenMP likes": lambda: omp.omp_set_dynamic(1),
        "regions inside regions": lambda: omp.omp_set_max_active_levels(3),
        "no regions at all": lambda: omp.omp_set_max_active_levels(0),
        "regions again": lambda: omp.omp_set_max_active_levels(1),
        "one thread": lambda: torch.set_num_threads(1),
        "two": lambda: (omp.omp_set_dynamic(0), torch.set_num_threads(2)),
    }
    for name, change in settings.items():
        change()
        assert digests() == alone, name


ENVIRONMENTS = (
    {"OMP_NUM_THREADS": "5", "OMP_DYNAMIC": "true", "OMP_STACKSIZE": "256k"},
    {"OMP_NUM_THREADS": "4", "OMP_THREAD_LIMIT": "2", "MKL_NUM_THREADS": "3"},
)
PRINT = "import json, test_load; print(json.dumps(test_load.digests()))"


def test_threads_set_by_the_environment(alone):
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PRINT],
            cwd=Path(__file__).parent,
            env=os.environ | environment | {"OMP_WAIT_POLICY": "passive"},
            stdout=subprocess.PIPE,
        )
        for environment in ENVIRONMENTS
    ]
    for environment, process in zip(ENVIRONMENTS, running, strict=True):
        assert json.loads(process.communicate()[0]) == alone, environment


def region_of_torch(call: Callable[[int], None]) -> None:
    """at::parallel_for over the layers, by torch's C interface."""
    torch_cpu = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
    integer, pointer = ctypes.c_int64, ctypes.c_void_p
    body = ctypes.CFUNCTYPE(None, integer, integer, pointer)
    arguments = map(integer, (0, len(NAMES), 1))

    def chunk(begin: int, end: int, _: Any) -> None:
        for index in range(begin, end):
            call(index)

    torch_cpu.torch_parallel_for(*arguments, body(chunk), None)


def region_of_openmp(call: Callable[[int], None]) -> None:
    """Two threads that torch knows nothing of; each computes all layers."""
    body = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    openmp().GOMP_parallel(body(lambda _: [call(i) for i in range(len(NAMES))]), None, 2, 0)


@pytest.mark.parametrize("region", [region_of_torch, region_of_openmp])
def test_calls_inside_a_parallel_region(alone, region):
    torch.set_num_threads(2)
    found: list[tuple[str, str]] = []
    threads = set()

    def call(index: int) -> None:
        threads.add(threading.get_ident())
        found.append((NAMES[index], digest(NAMES[index])))

    region(call)
    assert len(threads) == 2
    assert set(found) == set(alone.items())
    assert len(found) == len(NAMES) * (1 if region is region_of_torch else 2)


def test_calls_by_threads_of_torchscript():
    x, f, *_ = OPERANDS["winograd"]

    def layer(x: Tensor, f: Tensor) -> Tensor:
        return torch.ops.torch_fullconv.correlate(x, f, None, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0)

    def many(x: Tensor, f: Tensor) -> list[Tensor]:
        calls = [torch.jit.fork(layer, x, f) for _ in range(8)]
        return [torch.jit.wait(call) for call in calls]

    exact = layer(x, f)
    assert all(y.equal(exact) for y in torch.jit.script(many)(x, f))


class Digests:
    """A data set whose items are computed by layers."""

    def __len__(self) -> int:
        return len(NAMES)

    def __getitem__(self, index: int) -> tuple[str, str]:
        return NAMES[index], digest(NAMES[index])


def items(threads: int) -> Iterator[tuple[str, str]]:
    return iter(
        DataLoader(
            Digests(),
            batch_size=None,
            num_workers=2,
            worker_init_fn=lambda _: torch.set_num_threads(threads),
            multiprocessing_context="fork",
            timeout=30,
        )
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_workers_of_a_data_loader(alone, threads):
    torch.set_num_threads(2)
    assert digests() == alone
    assert dict(items(threads)) == alone


def in_child(call: Callable[[], dict[str, str]]) -> dict[str, str]:
    """What it returns in a child of fork(), which has half a minute for it."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            os.write(write, json.dumps(call()).encode())
        except BaseException:
            traceback.print_exc()
        os._exit(0)
    os.close(write)
    with open(read) as pipe:
        text = pipe.read()
    assert os.waitpid(child, 0)[1] == 0, "the child hung or died"
    return json.loads(text)


def by_new_thread() -> dict[str, str]:
    with ThreadPoolExecutor(1) as caller:
        return caller.submit(digests).result()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("call", [digests, by_new_thread, lambda: in_child(digests)])
def test_parent_and_child_compute_after_a_fork(alone, call):
    """While another thread of the parent is computing, too."""
    torch.set_num_threads(2)
    forked = threading.Event()

    def compute() -> None:
        while not forked.is_set():
            assert digests() == alone

    with ThreadPoolExecutor(1) as other:
        computing = other.submit(compute)
        try:
            assert digests() == alone
            assert in_child(call) == alone
        finally:
            forked.set()
        computing.result()
    assert digests() == alone
