"""Bug reports about PyTorch's convolutions, run again: by these layers and by stock.

Each case runs in a process of its own, with bounds on its time and memory, so that one may crash,
hang or eat all memory. `make known-cases` writes docs/known_cases.md's table;
`python tests/known_cases.py NAME ours` (or `stock`) runs one case here.

A case takes the functions of one side. It raises a `WrongError` where a result is wrong, a
`BeyondError` where it takes longer or more memory than the limit in its title, or returns, maybe
with a figure, which stands beside the verdict.
"""

from __future__ import annotations

import re
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torch_fullconv as tfc

MEMORY = 8 * 2**30  # bytes of address space that a case may have, beside what torch maps
SECONDS = 100  # that a case may take

F64, BF16, F16 = torch.float64, torch.bfloat16, torch.float16


class WrongError(AssertionError):
    """A result that is not what the definition says."""


class BeyondError(AssertionError):
    """A time or an amount of memory beyond the case's limit."""


class Side(NamedTuple):
    """The functions of ours or of stock."""

    conv2d: Callable[..., Tensor]
    Conv2d: type[nn.Conv2d]
    weight_grad: Callable[..., Tensor]


SIDES = {
    "ours": Side(tfc.functional.conv2d, tfc.Conv2d, tfc.functional.conv2d_weight_grad),
    "stock": Side(F.conv2d, nn.Conv2d, nn.grad.conv2d_weight),
}


class Case(NamedTuple):
    report: str
    title: str
    run: Callable[[Side], str | None]
    limited: bool  # on time or memory: the verdict depends on the machine and on what else runs


CASES: dict[str, Case] = {}


def case(name: str, report: str, title: str, limited: bool = False) -> Callable[[Any], Any]:
    def register(run: Callable[[Side], str | None]) -> Callable[[Side], str | None]:
        CASES[name] = Case(report, title, run, limited)
        return run

    return register


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape).to(dtype)


def whole(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Small integers, whose sums are exact."""
    return torch.randint(-3, 4, shape).to(dtype)


def last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last)


def exact(
    x: Tensor,
    w: Tensor,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """The convolution in float64, by its definition: tap by tap."""
    x = F.pad(x.double(), (padding[1],) * 2 + (padding[0],) * 2).unflatten(1, (groups, -1))
    w = w.double().unflatten(0, (groups, -1))
    spans = [d * (k - 1) for d, k in zip(dilation, w.shape[-2:], strict=True)]
    total: Any = 0
    for r in range(w.shape[-2]):
        for s in range(w.shape[-1]):
            top, left = r * dilation[0], s * dilation[1]
            seen = x[..., top : x.shape[-2] - spans[0] + top, left : x.shape[-1] - spans[1] + left]
            seen = seen[..., :: stride[0], :: stride[1]]
            total = total + torch.einsum("ngcpq,gkc->ngkpq", seen, w[..., r, s])
    return total.flatten(1, 2)


def same(found: Tensor, expected: Tensor, tolerance: float = 0.0) -> None:
    """At most `tolerance` of the largest element apart."""
    if found.shape != expected.shape:
        raise WrongError(f"{list(found.shape)} instead of {list(expected.shape)}")
    if found.numel() == 0:
        return
    apart = (found.double() - expected.double()).abs().max().item()
    if not apart <= tolerance * expected.abs().max().item():
        raise WrongError(f"{apart:.2g} away")


def seconds(call: Callable[[], object], times: int = 5) -> float:
    """The median of some calls, after one to warm up."""
    call()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def at_most(limit: float, figure: float, what: str) -> str:
    text = f"{figure:.2g} {what}"
    if figure > limit:
        raise BeyondError(text)
    return text


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def gradients(y: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(y.sum(), of)


@case(
    "R1",
    "pytorch 183815",
    "bfloat16 7x7 of dilation 2: time over float32's, at most 4",
    limited=True,
)
def _(side: Side) -> str:
    x, w = whole(8, 16, 112, 112), whole(32, 16, 7, 7)
    same(side.conv2d(x.to(BF16), w.to(BF16), dilation=2), exact(x, w, dilation=(2, 2)), 2**-8)
    slow = seconds(lambda: side.conv2d(x.to(BF16), w.to(BF16), dilation=2))
    return at_most(4, slow / seconds(lambda: side.conv2d(x, w, dilation=2)), "times float32's")


@case(
    "R2",
    "pytorch 183815",
    "bfloat16 3x3 of 8 groups, channels_last: time over float32's, ≤ 4",
    limited=True,
)
def _(side: Side) -> str:
    x, w = last(whole(8, 64, 56, 56)), last(whole(64, 8, 3, 3))
    same(side.conv2d(x.to(BF16), w.to(BF16), groups=8), exact(x, w, groups=8), 2**-8)
    slow = seconds(lambda: side.conv2d(x.to(BF16), w.to(BF16), groups=8))
    return at_most(4, slow / seconds(lambda: side.conv2d(x, w, groups=8)), "times float32's")


@case("R3", "pytorch 163347", "bfloat16: 2x2 ones by 2x2 ones are 4")
def _(side: Side) -> None:
    ones = torch.ones(1, 1, 2, 2, dtype=BF16)
    same(side.conv2d(ones, ones), torch.full((1, 1, 1, 1), 4.0))


@case("R4", "pytorch 148861", "training a stem under bfloat16 autocast")
def _(side: Side) -> None:
    layer = side.Conv2d(3, 32, 7, stride=2, padding=3, bias=False)
    x = random(2, 3, 8, 6)
    with torch.autocast("cpu", BF16):
        layer(x).sum().backward()
    ones = torch.ones(2, 32, 4, 3)
    expected = exact(x.permute(1, 0, 2, 3), ones.permute(1, 0, 2, 3), (1, 1), (3, 3), (2, 2))
    same(layer.weight.grad, expected[..., :7, :7].permute(1, 0, 2, 3), 2**-6)


@case(
    "R5",
    "pytorch 83382",
    "float16 1x1, 16 to 16 channels: time over float32's, at most 4",
    limited=True,
)
def _(side: Side) -> str:
    x, w = whole(1, 16, 176, 320), whole(16, 16, 1, 1)
    same(side.conv2d(x.to(F16), w.to(F16)), exact(x, w), 2**-11)
    slow = seconds(lambda: side.conv2d(x.to(F16), w.to(F16)))
    return at_most(4, slow / seconds(lambda: side.conv2d(x, w)), "times float32's")


@case("R6", "oneDNN 6035", "filter gradient of 1x1 layers of stride 2 and few channels, NHWC")
def _(side: Side) -> None:
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        for channels, filters, size in ((2, 8, 32), (6, 8, 64), (4, 16, 128), (15, 16, 128)):
            x = last(whole(8, channels, size, size))
            layer = side.Conv2d(channels, filters, 1, stride=2, bias=False).to(
                memory_format=torch.channels_last
            )
            expected = x[..., ::2, ::2].double().sum((0, 2, 3))
            for _ in range(30):
                layer.weight.grad = None
                layer(x).sum().backward()
                for filter_grad in layer.weight.grad:
                    same(filter_grad[:, 0, 0], expected)


@case("R7", "pytorch 195394", "odd strides on axes of size 1")
def _(side: Side) -> None:
    x = torch.as_strided(whole(2, 64, 1, 1), (2, 64, 1, 1), (64, 1, 64, 64))
    w = whole(1, 64, 125, 1)
    same(side.conv2d(x, w, torch.zeros(1), stride=2, padding=63), exact(x, w, (2, 2), (63, 63)))


@case("R8", "pytorch 136348", "67 groups, stride (2, 13), padding (1, 14), channels_last")
def _(side: Side) -> None:
    x, w = (
        last(whole(2, 4489, 23, 12)).requires_grad_(),
        last(whole(134, 67, 2, 1)).requires_grad_(),
    )
    y = side.conv2d(x, w, stride=(2, 13), padding=(1, 14), groups=67)
    same(y, exact(x.detach(), w.detach(), (2, 13), (1, 14), groups=67))
    gradients(y, x, w)


@case("R9", "pytorch 25101", "input gradient of stride 3: the last columns")
def _(side: Side) -> None:
    x, w = torch.ones(1, 9, 32, 32, requires_grad=True), torch.ones(3, 9, 5, 5)
    (found,) = gradients(side.conv2d(x, w, stride=3, padding=1), x)
    twin = torch.ones(1, 9, 32, 32, dtype=F64, requires_grad=True)
    same(found, *gradients(exact(twin, w, (3, 3), (1, 1)), twin))


@case("R10", "pytorch 134908", "a sample alone and in a batch, bit for bit")
def _(side: Side) -> None:
    torch.manual_seed(0)
    layer, x = side.Conv2d(4, 3, 3, padding=1), random(2, 4, 8, 6)
    same(torch.cat([layer(x[:1]), layer(x[1:])]), layer(x))


@case("R11", "pytorch 116369", "one and more threads, bit for bit")
def _(side: Side) -> None:
    torch.manual_seed(0)
    layer, x = side.Conv2d(64, 64, 1), torch.ones(8, 64, 1, 64)
    torch.set_num_threads(2)
    y = layer(x)
    torch.set_num_threads(1)
    same(layer(x), y)


@case("R12", "pytorch 157237", "a NaN is where the definition puts it, for any batch")
def _(side: Side) -> None:
    for batch in (4, 16, 32):
        x = random(batch, 1, 1, 12)
        x[..., :3], x[..., -4:] = 0, torch.nan
        y = side.conv2d(x, random(1, 1, 1, 3))
        if y.isnan().sum() != 4 * batch or y[..., :6].isnan().any():
            raise WrongError(f"{y.isnan().sum()} NaN instead of {4 * batch}")


@case(
    "R13",
    "pytorch 130614",
    "mirrored padding: more memory than zeros, ≤ half a padded copy",
    limited=True,
)
def _(side: Side) -> str:
    x = random(8, 64, 128, 128)

    def peak_with(mode: str) -> int:
        side.Conv2d(64, 64, 3, padding=1, padding_mode=mode)(x).sum().backward()
        return peak()

    zeros = peak_with("zeros")
    more = max(peak_with(mode) for mode in ("reflect", "replicate", "circular")) - zeros
    return at_most(0.5, more / (8 * 64 * 130 * 130 * 4), "padded copies")


@case(
    "R14",
    "deepspeech.pytorch 273",
    "a 127x127 filter on 1024² in float64, within 8 GiB",
    limited=True,
)
def _(side: Side) -> None:
    y = side.conv2d(torch.ones(1, 1, 1024, 1024, dtype=F64), torch.ones(1, 1, 127, 127, dtype=F64))
    same(y, torch.full((1, 1, 898, 898), 127.0**2))


def growth(side: Side, shapes: list[tuple[int, int, int, int]], w: Tensor) -> str:
    """Resident MiB that the second half of many shapes adds, at most 16."""
    for index, shape in enumerate(shapes):
        side.conv2d(random(*shape), w)
        if index == len(shapes) // 2:
            before = resident()
    return at_most(16, (resident() - before) / 2**20, "MiB")


@case(
    "R15",
    "pytorch 29809",
    "memory flat over rows of many lengths: at most 16 MiB more",
    limited=True,
)
def _(side: Side) -> str:
    lengths = torch.randint(100, 1000, (200,)).tolist()
    return growth(
        side, [(8, 100, 1, 1000), *((8, 100, 1, n) for n in lengths)], random(200, 100, 1, 3)
    )


@case(
    "R16", "Castwright 1378", "memory flat over 400 image sizes: at most 16 MiB more", limited=True
)
def _(side: Side) -> str:
    sizes = torch.randint(16, 128, (400, 2)).tolist()
    return growth(
        side, [(1, 32, 128, 128), *((1, 32, h, w) for h, w in sizes)], random(32, 32, 3, 3)
    )


@case(
    "R17",
    "pytorch 35937",
    "512 channels on 4x4: time over the matrix product's, at most 4",
    limited=True,
)
def _(side: Side) -> str:
    x, w = random(1, 512, 4, 4), random(512, 512, 3, 3)
    a, b = w.flatten(1), random(512 * 9, 16)
    took = seconds(lambda: side.conv2d(x, w, padding=1), 20)
    return at_most(4, took / seconds(lambda: a @ b, 20), "times as long")


@case(
    "R18",
    "pytorch 27974",
    "5x5 of 8 channels: backward's time over forward's, at most 8",
    limited=True,
)
def _(side: Side) -> str:
    x, w = random(32, 8, 32, 32).requires_grad_(), random(8, 8, 5, 5).requires_grad_()
    y = side.conv2d(x, w, padding=2)
    back = seconds(lambda: torch.autograd.grad(y, (x, w), y, retain_graph=True))
    return at_most(8, back / seconds(lambda: side.conv2d(x, w, padding=2)), "times as long")


@case(
    "R19",
    "candle 3119",
    "3 to 16 channels on 320²: time over the matrix product's, at most 4",
    limited=True,
)
def _(side: Side) -> str:
    x, w = random(2, 3, 320, 320), random(16, 3, 3, 3)
    a, b = w.flatten(1), random(27, 2 * 320 * 320)
    took = seconds(lambda: side.conv2d(x, w, padding=1))
    return at_most(4, took / seconds(lambda: a @ b), "times as long")


@case(
    "R20", "pytorch 68101", "32 groups: time of channels_last over NCHW's, at most 2", limited=True
)
def _(side: Side) -> str:
    x, w = random(1, 128, 56, 56), random(128, 4, 3, 3)
    slow = seconds(lambda: side.conv2d(last(x), last(w), padding=1, groups=32))
    fast = seconds(lambda: side.conv2d(x, w, padding=1, groups=32))
    return at_most(2, slow / fast, "times as long")


@case("R21", "pytorch 75219, 81111", "forward over reverse mode, with groups too")
def _(side: Side) -> None:
    for shape, kernel, groups in (
        ((2, 4, 6, 6), (8, 1, 3, 3), 4),
        ((1, 1, 32, 32), (6, 1, 30, 30), 1),
    ):
        x, w, v = random(*shape, dtype=F64), random(*kernel, dtype=F64), random(*kernel, dtype=F64)

        def energy(f: Tensor, groups: int = groups, x: Tensor = x) -> Tensor:
            return side.conv2d(x, f, groups=groups).square().sum()

        _, found = torch.func.jvp(torch.func.grad(energy), (w,), (v,))
        same(found, torch.func.grad(energy)(v), 1e-12)  # linear in the filter


@case(
    "R22",
    "pytorch 54840",
    "double backward with groups: time over forward's, at most 30",
    limited=True,
)
def _(side: Side) -> str:
    x, w = random(1, 128, 32, 32).requires_grad_(), random(64, 64, 3, 3).requires_grad_()

    def twice() -> None:
        y = side.conv2d(x, w, padding=1, groups=2)
        (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
        gradients(g.square(), x, w)

    forward = seconds(lambda: side.conv2d(x, w, padding=1, groups=2))
    return at_most(30, seconds(twice) / forward, "times as long")


@case("R23", "pytorch 63299, 56998, 91558", "no samples, no channels, no groups")
def _(side: Side) -> None:
    w = random(4, 3, 3, 3)
    x = last(torch.empty(0, 3, 8, 8))
    same(side.conv2d(x, last(w)), torch.empty(0, 4, 6, 6))
    calls = [(torch.empty(2, 0, 8, 8), torch.empty(4, 0, 3, 3), 1)]
    calls += [(torch.empty(2, c, 8, 8), torch.empty(4, 3, 3, 3), 0) for c in (0, 3)]
    for x, w, groups in calls:
        try:
            same(side.conv2d(x, w, groups=groups), torch.zeros(2, 4, 6, 6))
        except (RuntimeError, ValueError) as error:
            if groups and "channel" not in str(error):
                raise


@case("R24", "CMU 10-714 6", "stride 3 leaves a rest: the input gradient's size and border")
def _(side: Side) -> None:
    x, w = whole(1, 1, 16, 16, dtype=F64).requires_grad_(), whole(1, 1, 7, 7, dtype=F64)
    (found,) = gradients(side.conv2d(x, w, stride=3, padding=2), x)
    same(found, *gradients(exact(x, w, (3, 3), (2, 2)), x))


@case("R25", "pytorch 143480", "padding='same' with a dilation of 2^31")
def _(side: Side) -> None:
    try:
        side.conv2d(random(1, 1, 4, 4), random(1, 1, 2, 2), padding="same", dilation=2**31)
    except (RuntimeError, ValueError, MemoryError):
        return  # an error is a fair answer: the padded input is beyond any memory


@case(
    "R26",
    "pytorch 23862, 67797",
    "weights of 1e-42: time over ordinary ones', at most 1.2",
    limited=True,
)
def _(side: Side) -> str:
    x, w = random(4, 64, 28, 28), random(64, 64, 3, 3)
    tiny = w * 1e-42
    slow = seconds(lambda: side.conv2d(x, tiny, padding=1), 15)
    return at_most(1.2, slow / seconds(lambda: side.conv2d(x, w, padding=1), 15), "times as long")


@case("R27", "pytorch 120905", "integers in float64 stay exact (ours by algorithm('direct'))")
def _(side: Side) -> None:
    for c, k, size, stride in ((64, 64, 14, 1), (64, 128, 14, 2), (256, 256, 7, 1)):
        x, w = (whole(*shape, dtype=F64) * 1000 for shape in ((1, c, size, size), (k, c, 3, 3)))
        with tfc.algorithm("direct"):
            y = side.conv2d(x, w, stride=stride, padding=1)
        same(y, exact(x, w, (stride,) * 2, (1, 1)))


@case(
    "R28",
    "pytorch 51430, 7806",
    "the filter gradient alone, with groups, in little memory",
    limited=True,
)
def _(side: Side) -> str:
    x, g, w = whole(64, 32, 56, 56), whole(64, 32, 56, 56), torch.zeros(32, 8, 3, 3)
    before = peak()
    found = side.weight_grad(x, w.shape, g, padding=1, groups=4)
    more = (peak() - before) / 2**20
    twin = w.double().requires_grad_()
    (expected,) = torch.autograd.grad(exact(x, twin, (1, 1), (1, 1), groups=4), twin, g.double())
    same(found, expected)
    return at_most(64, more, "MiB")


def run_here(name: str, side: str) -> None:
    """One case in this process: its verdict as the last line."""
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY,) * 2)
    torch.manual_seed(1)
    torch.set_num_threads(2)
    try:
        figure = CASES[name].run(SIDES[side])
        print("ok" + (f": {figure}" if figure else ""))
    except WrongError as error:
        print(f"wrong: {error}")
    except BeyondError as error:
        print(f"beyond: {error}")
    except Exception as error:  # whatever it is, it is the verdict
        text = re.sub(r"[^ -~]+", " ", str(error))
        reason = "not enough memory" if "can't allocate memory" in text else text[:60].strip()
        print(f"{type(error).__name__}: {reason}")


def verdict(name: str, side: str) -> str:
    """A case's verdict, from a process of its own."""
    try:
        done = subprocess.run(
            [sys.executable, __file__, name, side], capture_output=True, text=True, timeout=SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"hang: over {SECONDS} s"
    if done.returncode < 0:
        return f"crash: {signal.Signals(-done.returncode).name}"
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "crash: no verdict"


def table() -> Iterator[str]:
    yield "| case | reported as | what | ours | stock |\n|---|---|---|---|---|"
    for name, (report, title, *_) in CASES.items():
        cells = name, report, title, verdict(name, "ours"), verdict(name, "stock")
        yield f"| {' | '.join(cells)} |"


def write(page: Path) -> None:
    """Puts the table in the place of the one that the page has."""
    text = page.read_text()
    rows = []
    for row in table():
        print(row, flush=True)
        rows.append(row)
    page.write_text(text[: text.index("| case |")] + "\n".join(rows) + "\n")


if __name__ == "__main__":
    if sys.argv[1] == "--write":
        write(Path(sys.argv[2]))
    else:
        run_here(*sys.argv[1:])
