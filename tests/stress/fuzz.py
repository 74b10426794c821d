"""Random layers against the float64 oracle: `python tests/stress/fuzz.py --examples 100000`.

Every example is a layer of any geometry, padding mode, algorithm and dtype, whose operands lie in
memory in any way; its three operations and their double backward are compared, bit for bit where
sums of small integers are exact. Or it is ReLU and pooling, compared with stock's. Chunks of 500
run in processes of their own, each with a seed and an instruction set; Hypothesis shrinks what
fails. With --guard all memory lies between pages that may not be touched (guard.c), and a fault is
told with the layer that was being computed.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import product
from math import ceil
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import torch
import torch.nn.functional as F
from cases import C128, DTYPES, F64, Case, assert_bits, integers, operands
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from layouts import LAYOUTS, cases, winograd_cases
from oracle import Oracle
from test_pooling import FLOATS, assert_same_bits, special, windows
from test_winograd import assert_errors
from torch import Tensor

from torch_fullconv import functional, ops
from torch_fullconv.autograd import Correlate
from torch_fullconv.ops import ALGORITHMS

INSTRUCTION_SETS = ("baseline", "avx2", "avx512", "avx512_bf16", "amx")
CHUNK = 500
Place = Callable[[Tensor], Tensor]


def tight(t: Tensor) -> Tensor:
    """The same strides in a storage that begins with the first element and ends with the last."""
    if not t.numel():
        return t
    reach = sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
    storage = t.new_full((1 + reach,), torch.nan)
    view = storage.as_strided(t.shape, t.stride())
    once = tuple(slice(None, 1 if s == 0 else None) for s in t.stride())
    view[once].copy_(t[once])
    return view


def strided(order: list[int], gaps: list[int], start: int, fixed: int, t: Tensor) -> Tensor:
    """Axes in that order in memory, gaps between their elements; one does not move at all."""
    strides, step = [0] * t.dim(), 1
    for axis in order:
        if axis < t.dim() and axis != fixed:
            strides[axis] = step * gaps[axis]
            step = strides[axis] * t.shape[axis] + gaps[-1] - 1
    place = t.new_full((start + step + 1,), torch.nan).as_strided(t.shape, strides, start)
    first = (slice(None),) * fixed + (slice(0, 1),) if fixed < t.dim() else ()
    place[first].copy_(t[first])
    return place


any_strides = st.builds(
    lambda *layout: partial(strided, *layout),
    st.permutations(range(5)),
    st.lists(st.integers(1, 3), min_size=6, max_size=6),
    st.integers(0, 9),
    st.integers(0, 15),  # above 4: none
)
places = st.sampled_from(LAYOUTS) | any_strides


def work(case: Case) -> int:
    n, k, p, q = case.output
    c, r, s = case.filter[-3:]
    return n * k * p * q * c * r * s


@st.composite
def layers(draw: Any) -> Case:
    """Up to some million multiply-adds; padding below zero crops."""
    case = draw((cases() | winograd_cases()).filter(lambda c: work(c) <= 2_000_000))
    g = case.geometry._replace(algorithm=draw(st.integers(0, len(ALGORITHMS) - 1)))
    if g.padding_mode == 0 and draw(st.integers(0, 7)) == 0:
        cropped = g._replace(pad_bottom=-1, pad_right=-min(2, case.input[3] - 1))
        if min(cropped.output_size(*case.input[2:], *case.filter[-2:])) > 0 < case.input[2] - 1:
            g = cropped
    return case._replace(geometry=g)


class Guard:
    """guard.c in this process, where it is preloaded."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self.here = hasattr(library, "guard_side")
        self.side = library.guard_side if self.here else lambda start: None


GUARD = Guard()


def fresh(call: Callable[[], Any]) -> Any:
    """Under guards in a thread of its own: a thread keeps its scratch, which then is too large."""
    if not GUARD.here:
        return call()
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(call())
        except Exception as error:
            found.append(error)

    thread = Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


class Tally:
    """What was computed, and in a file what is being computed now."""

    def __init__(self, note: int) -> None:
        self.note, self.counts = note, Counter[str]()

    def start(self, what: str) -> None:
        self.counts["examples"] += 1
        os.ftruncate(self.note, 0)
        os.pwrite(self.note, what.encode(), 0)


def contractions(x: Tensor, f: Tensor, bias: Any, o: Tensor, g: Any, size: Any) -> dict:
    """by_ops, each in memory of its own."""
    segments = f.shape[0] if f.dim() == 5 else None
    calls = {
        "correlate": lambda: ops.correlate(x, f, bias, g),
        "full_convolve": lambda: ops.full_convolve(o, f, None, g, size),
        "correlate_weight": lambda: ops.correlate_weight(x, o, g, f.shape[-2:], segments),
        "channel_sum": lambda: ops.channel_sum(o),
    }
    return {name: fresh(call) for name, call in calls.items()}


def assert_equal(case: Case, inexact: set[str], results: dict, exact: dict) -> None:
    assert_errors(case, {name: results[name] for name in results.keys() & inexact}, exact)
    for name in results.keys() - inexact:
        assert_bits(results[name], exact[name], f"{name} of {case}")


def grads(outputs: Any, inputs: Any, given: Any, **options: Any) -> tuple[Tensor, ...]:
    return torch.autograd.grad(outputs, inputs, given, **options)


def minimal(case: Case) -> set[str]:
    """The operations that minimal filtering may take, where all others are exact.

    It needs two taps an axis, or three along one of at most two rows or columns, and a phase of the
    stride that has them; for a filter gradient parts of about as many rows as columns, or of one.
    """
    g, (rows, columns) = case.geometry, case.filter[-2:]
    if ALGORITHMS[g.algorithm] == "direct":
        return set()
    axes = (rows, g.stride_h, g.dilation_h), (columns, g.stride_w, g.dilation_w)
    h, w = (set(Counter(r * step % s for r in range(n)).values()) for n, s, step in axes)

    def parts(taps: int) -> set[int]:
        count = ceil(taps / 4)
        return {taps // count, ceil(taps / count)}

    def fits(pair: tuple[int, int]) -> bool:
        return min(pair) > 1 or max(pair) > 2

    found = set()
    if fits((rows, columns)) and max(h | w) > 1:
        found.add("correlate")
    if any(map(fits, product(h, w))):
        found.add("full_convolve")
    pairs = product(set().union(*map(parts, h)), set().union(*map(parts, w)))
    if any(max(pair) > 1 and (min(pair) == 1 or abs(pair[0] - pair[1]) < 2) for pair in pairs):
        found.add("correlate_weight")
    return found


def check_convolution(
    tally: Tally, case: Case, dtype: torch.dtype, layout: list[Place], number: int
) -> None:
    tally.start(f"{case}, {dtype}, {layout}, {number}")
    t = operands(case, dtype, number)
    more = integers(case.input, dtype, number + 7), integers(case.filter, dtype, number + 8)
    x, f, o, u, v = (tight(place(w)) for place, w in zip(layout, (*t[:3], *more), strict=True))
    bias = t.bias.repeat_interleave(2)[::2] if number % 2 else tight(t.bias)
    tally.counts.update(
        f"{operation} by {way}"
        for operation, found in ops.ways(x, f, case.geometry).items()
        for way in found.split("+")
    )
    g, oracle = case.geometry, Oracle(case)
    inexact = set() if dtype.is_complex else minimal(case)
    wide = C128 if dtype.is_complex else F64
    X, A, O, U, V, B = (w.to(wide) for w in (x, f, o, u, v, bias))  # noqa: E741
    exact = {
        "correlate": oracle.correlate(X, A) + B[:, None, None],
        "full_convolve": oracle.full_convolve(O, A),
        "correlate_weight": oracle.correlate_weight(X, O),
        "channel_sum": O.sum((0, 2, 3)),
    }
    assert_equal(case, inexact, contractions(x, f, bias, o, g, case.input[2:]), exact)

    # The same by autograd, with the gradients of <u, dE/dx> and <v, dE/df>.
    X, A, O = (w.conj().resolve_conj() for w in (X, A, O))  # noqa: E741
    first = {
        "full_convolve": oracle.full_convolve(O.conj(), A),
        "correlate_weight": oracle.correlate_weight(X, O.conj()),
    }
    to_x, to_f, to_both = fresh(partial(double_backward, g, x, f, o, u, v))
    assert_equal(case, inexact, dict(zip(first, to_both[:2], strict=True)), first)
    second = {
        "correlate": oracle.correlate(U, A.conj()),
        "correlate_weight": oracle.correlate_weight(U.conj(), O.conj()),
    }
    assert_equal(case, inexact, dict(zip(second, to_x, strict=True)), second)
    third = {
        "correlate": oracle.correlate(X.conj(), V),
        "full_convolve": oracle.full_convolve(O.conj(), V.conj()),
    }
    assert_equal(case, inexact, dict(zip(third, to_f, strict=True)), third)
    together = to_both[2:]
    for found, apart in zip(together, (to_x[0] + to_f[0], to_x[1], to_f[1]), strict=True):
        assert_bits(found, apart, f"double backward of {case}")


def double_backward(g: Any, *operands: Tensor) -> tuple[tuple[Tensor, ...], ...]:
    """(grad, filter) gradients of <u, dx>, (grad, input) ones of <v, df>; dx, df and of both."""
    x, f, o, u, v = operands
    x, f, o = (w.detach().requires_grad_() for w in (x, f, o))
    dx, df = grads(Correlate.call(x, f, None, g), (x, f), o, create_graph=True)
    keep = {"retain_graph": True}
    return (
        grads(dx, (o, f), u, **keep),
        grads(df, (o, x), v, **keep),
        (dx.detach(), df.detach(), *grads((dx, df), (o, f, x), (u, v))),
    )


def check_pooling(
    tally: Tally,
    layer: Any,
    dtype: torch.dtype,
    layout: list[Place],
    number: int,
    include: bool,
    divisor: int | None,
) -> None:
    shape, options = layer
    tally.start(f"{layer}, {dtype}, {layout}, {number}, {include}, {divisor}")
    x = tight(layout[0](special(shape, dtype, number)))
    torch.testing.assert_close(
        fresh(lambda: functional.relu(x)), F.relu(x), rtol=0, atol=0, equal_nan=True
    )
    values, indices = F.max_pool2d(x, **options, return_indices=True)
    found = fresh(lambda: functional.max_pool2d(x, **options, return_indices=True))
    assert_same_bits(found, (values, indices))
    assert_same_bits(fresh(lambda: functional.max_pool2d(x, **options)), values)
    o = tight(layout[1](integers(tuple(values.shape), dtype, number)))
    u = tight(layout[2](integers(shape, dtype, number + 1)))

    def derivatives(pool: Callable, x: Tensor, o: Tensor, u: Tensor) -> tuple[Tensor, ...]:
        x, o = (w.detach().requires_grad_() for w in (x, o))
        (dx,) = grads(pool(x), x, o, create_graph=True)
        return dx.detach(), grads(dx, o, u)[0]

    def compare(pool: Callable, stock: Callable, x: Tensor, o: Tensor, bound: float) -> None:
        ours = fresh(lambda: derivatives(pool, x, o, u))
        exact = derivatives(stock, x.double(), o.double(), u.double())
        for a, b in zip(ours, exact, strict=True):
            rounding = 2 * torch.finfo(dtype).eps if bound else 0
            torch.testing.assert_close(a, b.to(dtype), rtol=rounding, atol=bound)

    compare(functional.relu, F.relu, x, tight(layout[1](integers(shape, dtype, number))), 0)
    # A window that meets no element may name one outside the plane, where stock's gradient writes.
    if int(indices.max()) < shape[2] * shape[3]:

        def chosen(x: Tensor) -> Tensor:
            return x.flatten(2).gather(2, indices.flatten(2)).view_as(indices)

        compare(partial(functional.max_pool2d, **options), chosen, x, o, 0)
    options = {k: v for k, v in options.items() if k != "dilation"}
    options |= {"count_include_pad": include, "divisor_override": divisor}
    ours, stock = (partial(m.avg_pool2d, **options) for m in (functional, F))
    x = tight(layout[0](integers(shape, dtype, number)))
    mean = fresh(lambda: ours(x))
    torch.testing.assert_close(mean, stock(x), rtol=0, atol=0)
    o = tight(layout[1](integers(tuple(mean.shape), dtype, number)))
    # An element is in no more windows than a window has elements; each adds up to 3.
    area = options["kernel_size"][0] * options["kernel_size"][1]
    sums = torch.promote_types(dtype, torch.float32)
    compare(ours, stock, x, o, 3 * area**2 * torch.finfo(sums).eps / 2)


numbers = st.integers(0, 999)
CHECKS: dict[str, tuple[Callable, tuple]] = {
    "convolution": (
        check_convolution,
        (layers(), st.sampled_from(DTYPES), st.lists(places, min_size=5, max_size=5), numbers),
    ),
    "pooling": (
        check_pooling,
        (
            windows(True),
            st.sampled_from(FLOATS),
            st.lists(places, min_size=3, max_size=3),
            numbers,
            st.booleans(),
            st.sampled_from([None, 1, -3, 4]),
        ),
    ),
}


class Chunk(NamedTuple):
    kind: str
    instruction_set: str
    seed: int
    examples: int


def run_chunk(chunk: Chunk, note: int, results: Any) -> None:
    """In a process of its own, which has called no op yet."""
    os.environ["TORCH_FULLCONV_ISA"] = chunk.instruction_set
    torch.set_num_threads(1)
    GUARD.side(chunk.seed % 2)
    check, strategies = CHECKS[chunk.kind]
    tally = Tally(note)
    options = settings(
        max_examples=chunk.examples,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )

    @options
    @seed(chunk.seed)
    @given(st.tuples(*strategies))
    def examples(example: tuple) -> None:
        check(tally, *example)

    error = ""
    try:
        assert ops.instruction_set() == chunk.instruction_set
        examples()
    except BaseException:
        error = traceback.format_exc()
    results.send((tally.counts, error))


def supported(name: str) -> bool:
    """Whether this processor has an instruction set; one process can ask for one only."""

    def ask() -> None:
        os.environ["TORCH_FULLCONV_ISA"] = name
        try:
            ops.instruction_set()
        except RuntimeError as error:
            print(error, file=sys.stderr)
            os._exit(1)

    process = multiprocessing.get_context("fork").Process(target=ask)
    process.start()
    process.join()
    return process.exitcode == 0


def run(chunks: list[Chunk], jobs: int, stop: float) -> tuple[Counter[str], int]:
    """All chunks, or those that start in time; the counts and the number of failed chunks."""
    gc.freeze()  # Hypothesis collects garbage in each process, and would search all of torch for it
    fork = multiprocessing.get_context("fork")
    running: dict[Any, tuple] = {}
    total, failed, waiting = Counter[str](), 0, chunks[::-1]
    while waiting or running:
        while waiting and len(running) < jobs:
            if time.monotonic() > stop:
                print(f"out of time: {len(waiting)} chunks are left")
                waiting.clear()
                break
            chunk = waiting.pop()
            note = tempfile.TemporaryFile()  # noqa: SIM115 -- closed when its process ends
            receive, send = fork.Pipe(duplex=False)
            process = fork.Process(target=run_chunk, args=(chunk, note.fileno(), send))
            process.start()
            send.close()
            running[receive] = chunk, process, note
        for receive in wait(list(running)):
            chunk, process, note = running.pop(receive)
            try:
                counts, error = receive.recv()
            except EOFError:
                counts, error = Counter(), ""
            process.join()
            if error or process.exitcode:
                failed += 1
                print(f"{chunk}: exit status {process.exitcode}\n{error}")
                if process.exitcode:
                    print(f"died in {os.pread(note.fileno(), 10**5, 0).decode()}")
            total += Counter({f"{chunk.instruction_set}: {k}": n for k, n in counts.items()})
            total[f"{chunk.kind} examples"] += counts["examples"]
            note.close()
            done = sum(total[f"{kind} examples"] for kind in CHECKS)
            print(f"{chunk.kind} {chunk.seed}: {done:,} examples, {failed} failures", flush=True)
    return total, failed


def guarded_environment(folder: Path) -> dict[str, str]:
    """This process's, but guard.c, compiled into the folder, is loaded first."""
    library = folder / "guard.so"
    flags = ["-O2", "-Wall", "-Werror", "-shared", "-fPIC"]
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, *flags, str(HERE / "guard.c"), "-o", str(library)], check=True)
    return os.environ | {"LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=100_000, help="layers of convolution")
    parser.add_argument("--pooling", type=int, default=None, help="layers of pooling; a quarter")
    parser.add_argument("--seed", type=int, default=0, help="of the first chunk")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--minutes", type=float, default=60, help="no chunk starts later")
    parser.add_argument("--guard", action="store_true", help="guard pages around all memory")
    parser.add_argument("--sets", nargs="+", default=INSTRUCTION_SETS, help="instruction sets")
    arguments = parser.parse_args()
    if arguments.guard and not GUARD.here:
        with tempfile.TemporaryDirectory() as folder:
            again = [sys.executable, *sys.argv]
            sys.exit(subprocess.run(again, env=guarded_environment(Path(folder))).returncode)
    sets = [name for name in arguments.sets if supported(name)]
    print(f"instruction sets: {' '.join(sets)}; seeds from {arguments.seed}", flush=True)
    pooling = arguments.examples // 4 if arguments.pooling is None else arguments.pooling
    chunks, number = [], arguments.seed
    for kind, wanted in (("convolution", arguments.examples), ("pooling", pooling)):
        size = max(1, min(CHUNK, wanted // len(sets)))
        for start in range(0, wanted, size):
            # A seed's last bit chooses the guard's side: sets take them by turns.
            name = sets[(number + number // len(sets)) % len(sets)]
            chunks.append(Chunk(kind, name, number, min(size, wanted - start)))
            number += 1
    start = time.monotonic()
    total, failed = run(chunks, arguments.jobs, start + 60 * arguments.minutes)
    for name, count in sorted(total.items()):
        print(f"{count:9,}  {name}")
    print(f"{failed} of {len(chunks)} chunks failed, {time.monotonic() - start:.0f} s")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
