"""Each instruction set that this machine runs gives the reference's bits, and its code stays apart.

The instruction set is chosen once a process, so each one's sweep is a process of its own, which
starts with memory full of garbage (MALLOC_PERTURB_).
"""

import os
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path

import conftest  # noqa: F401, sets the profile in new processes too
import pytest
import torch
from cases import (
    BF16,
    DTYPES,
    EDGES,
    F16,
    F32,
    F64,
    X86,
    Operands,
    assert_bits,
    by_ops,
    by_reference,
    expected,
    operands,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import (
    cases,
    channels_last,
    layouts,
    winograd_cases,
)
from test_pooling import test_avg_pool2d_is_stocks as check_averages
from test_pooling import test_max_pool2d_is_stocks_to_the_bit as check_maxima
from test_relu import test_relu_of_special_values as check_relu
from test_winograd import assert_winograd

from torch_fullconv import ops
from torch_fullconv.ops import ALGORITHMS

INSTRUCTION_SETS = ("baseline", "avx2", "avx512", "avx512_bf16", "amx")
BF16_ONLY = ("avx512_bf16", "amx")  # the others of their engines are avx512's


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    """A new process with these variables in its environment."""
    environment = {**environment, "MALLOC_PERTURB_": "1"}
    paths = (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment | {"PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=300,
    )


@cache
def wrong_name() -> subprocess.CompletedProcess:
    call = "ops.channel_sum(torch.ones(1, 1, 1, 1))"
    return run(f"import torch; from torch_fullconv import ops; {call}", TORCH_FULLCONV_ISA="sse9")


@cache
def here() -> list[str]:
    """What this processor has, by the library's own message."""
    return re.findall(r"this processor has (.*)", wrong_name().stderr)[0].split()


def edges(path: str, dtypes: Sequence[torch.dtype]) -> None:
    """All of test_ops' edges; the parent process has worked out the exact results."""
    exact = torch.load(path, weights_only=True)
    # Of empty tensors first, in scratch that nothing was written to.
    for name, case in sorted(EDGES.items(), key=lambda item: "no_" not in item[0]):
        for dtype in dtypes:
            t = operands(case, dtype)
            for placed in (t, Operands(*map(channels_last, t[:3]), *t[3:])):
                for op, result in by_ops(case, placed).items():
                    assert_bits(result, exact[name, dtype.is_complex][op], f"{op} of {name}")


def sweep(dtypes: Sequence[torch.dtype]) -> None:
    """Any geometry, dtype and layout: exact integers."""
    places = st.tuples(layouts, layouts, layouts)
    check = given(cases(), st.sampled_from(dtypes), places, st.integers(0, 999))(check_exact)
    examples = 40 + 60 * len(dtypes)
    settings(max_examples=examples, derandomize=True, deadline=None, database=None)(check)()


def check_exact(case, dtype, layout, seed):
    t = operands(case, dtype, seed)
    t = Operands(*(place(v) for place, v in zip(layout, t[:3], strict=True)), *t[3:])
    exact = by_reference(case, t)
    for op, result in by_ops(case, t).items():
        assert_bits(result, exact[op], f"{op} of {case}")


@settings(max_examples=50, derandomize=True, deadline=None, database=None)
@given(winograd_cases(), st.sampled_from([F32, F64, BF16, F16]), st.tuples(layouts, layouts))
def winograd_sweep(case, dtype, layout):
    """Any geometry that minimal filtering can do."""
    assert_winograd(case, dtype, (*layout, layout[0]))


def halves() -> None:
    """Every 16-bit number times some factors: widened, rounded, made subnormal, infinite, NaN.

    On x86 subnormal numbers of bfloat16, also products, are zeros.
    """
    factors = [1.0, 0.5, 0.75, 1.5, 2.0, 1 + 2**-10, 1 + 2**-7, 2.0**-10, 3 * 2.0**-12, -3.0]
    for dtype in (F16, BF16):
        x = torch.arange(65536).to(torch.uint16).view(dtype).view(1, 1, 256, 256)
        f = torch.tensor(factors, dtype=dtype).view(-1, 1, 1, 1)
        exact = x.float() * f.float().view(-1, 1, 1)
        products = exact.to(dtype)
        if dtype == BF16 and X86:
            tiny = torch.finfo(BF16).tiny
            products = products.where((x.abs() >= tiny) & (exact.abs() >= tiny) | exact.isnan(), 0)
        for format in (torch.contiguous_format, torch.channels_last):
            y = ops.correlate(x, f.contiguous(memory_format=format), None, ops.Geometry())
            torch.testing.assert_close(y, products, rtol=0, atol=0, equal_nan=True)


def digest() -> str:
    """Of sums that fused multiply-adds, pairs and the matrix unit round in their own ways."""
    g = torch.Generator().manual_seed(0)
    x, f = (torch.randn(s, generator=g) for s in ((8, 200, 9, 9), (33, 200, 3, 3)))
    sums = (
        ops.correlate(a, f.to(a.dtype), None, ops.Geometry(algorithm=ALGORITHMS.index("direct")))
        for a in (x, x.to(BF16))
    )
    return sha256(torch.stack([s.float() for s in sums]).numpy().tobytes()).hexdigest()


def pooling() -> None:
    """Random layers, and what is special of ReLU."""
    check_maxima()
    check_averages()
    for dtype in (F32, F64, BF16, F16):
        check_relu(dtype, channels_last)


def check_all(path: str) -> None:
    """One that adds an engine for bfloat16 takes the others of avx512."""
    assert ops.instruction_set() == os.environ["TORCH_FULLCONV_ISA"]
    dtypes = (BF16,) if ops.instruction_set() in BF16_ONLY else DTYPES
    edges(path, dtypes)
    sweep(dtypes)
    if len(dtypes) > 1:
        winograd_sweep()
        pooling()
    halves()
    print(digest())


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("expected") / "edges.pt"
    torch.save({(n, c): expected(n, c) for n in EDGES for c in (False, True)}, path)
    return path


@pytest.fixture(scope="module")
def checked(saved) -> Callable[[str], str]:
    """The digest of an instruction set whose results are all right."""

    @cache
    def check(instruction_set: str) -> str:
        if instruction_set not in here():
            pytest.skip(f"this processor has no {instruction_set}, only {' '.join(here())}")
        code = f"import test_instruction_sets as t; t.check_all({str(saved)!r})"
        done = run(code, TORCH_FULLCONV_ISA=instruction_set)
        assert (done.returncode, len(done.stdout)) == (0, 65), done.stderr[-4000:]
        return done.stdout.strip()

    return check


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_exact(checked, instruction_set):
    checked(instruction_set)


@pytest.mark.parametrize("instruction_set", [s for s in INSTRUCTION_SETS if s != "baseline"])
def test_the_variable_chooses(checked, instruction_set):
    plainer = {"avx512_bf16": "avx512", "amx": "avx512_bf16"}.get(instruction_set, "baseline")
    assert checked(instruction_set) != checked(plainer)


def test_the_default_is_the_best(checked):
    assert os.environ.get("TORCH_FULLCONV_ISA") or digest() == checked(here()[0])


def test_wrong_name_is_a_clear_error():
    assert wrong_name().returncode == 1
    last = wrong_name().stderr.splitlines()[-1]
    assert re.search(r"RuntimeError: TORCH_FULLCONV_ISA=sse9: this processor has .*baseline$", last)


# The linked library's functions by source file, with the instructions in each.

NEWER = ("engine_avx2.cpp", "engine_avx512.cpp", "engine_avx512_bf16.cpp", "engine_amx.cpp")
BMI = re.compile(r"\t(andn|bextr|bls\w+|shlx|shrx|sarx|rorx|mulx|pdep|pext|[tl]zcnt)\w? ")


@pytest.fixture(scope="module")
def functions() -> dict[str, dict[str, str]]:
    """{source file: {function: its assembly}}; '' for what the linker shares between files."""
    library = next(Path(ops.__file__).parent.glob("_C*.so"))

    def lines(*command: str) -> list[str]:
        try:
            done = subprocess.run([*command, library], capture_output=True, text=True, check=True)
        except FileNotFoundError:
            pytest.skip(f"{command[0]} is not here to disassemble with")
        return done.stdout.splitlines()

    if not X86:
        pytest.skip("one instruction set only on this processor")
    owner, source = {}, ""
    for line in lines("readelf", "-sW"):
        fields = line.split()
        if "'.symtab'" in line:
            owner, source = {}, ""
        elif len(fields) > 6 and fields[3] == "FILE":
            source = fields[7] if len(fields) > 7 else ""
        elif len(fields) > 7 and fields[3] == "FUNC":
            owner[int(fields[1], 16)] = source if fields[4] == "LOCAL" else ""
    if "engine_baseline.cpp" not in owner.values():
        pytest.skip("the library is stripped: its functions have no names")
    found: dict[str, dict[str, str]] = defaultdict(dict)
    source = name = ""
    for line in lines("objdump", "-d", "--no-show-raw-insn"):
        if head := re.match(r"([0-9a-f]+) <(.*)>:", line):
            source, name = owner.get(int(head[1], 16), ""), f"{head[2]} at {head[1]}"
            found[source][name] = ""
        else:
            found[source][name] = found[source].get(name, "") + line + "\n"
    return found


@pytest.mark.parametrize(
    ("source", "uses", "never"),
    [
        ("engine_avx512.cpp", "%zmm", "dpbf16|%tmm"),
        ("engine_avx512_bf16.cpp", "vdpbf16ps", "%tmm"),
        ("engine_amx.cpp", "vdpbf16ps", None),
        ("engine_avx2.cpp", "%ymm", r"%zmm|%k[1-7]|%[xy]mm(1[6-9]|2\d|3[01])\b"),
        ("engine_baseline.cpp", "%xmm", r"%[yz]mm|\tv[a-z]"),
    ],
)
def test_each_file_keeps_to_its_instruction_set(functions, source, uses, never):
    code = functions[source]
    assert sum(uses in assembly for assembly in code.values()) >= 20
    assert never is None or [n for n, text in code.items() if re.search(never, text)] == []


def test_no_shared_code_holds_newer_instructions(functions):
    """Also an inline function that two engines share, of which the linker keeps any copy."""
    shared = {
        name: text
        for source, code in functions.items()
        if source not in NEWER
        for name, text in code.items()
    }
    assert len(shared) > 100
    newer = re.compile(rf"%([yz]mm|tmm)|\tv[a-z]|{BMI.pattern}")
    assert [name for name, text in shared.items() if newer.search(text)] == []


@pytest.mark.parametrize("source", NEWER)
def test_what_every_processor_runs_is_plain(functions, source):
    """supported() runs everywhere; static initialisers would, so there are none."""
    code = functions[source]
    asked = [text for name, text in code.items() if "supported" in name]
    assert len(asked) == 1
    assert not re.search(rf"%[xyz]mm|\tv[a-z]|{BMI.pattern}", asked[0])
    assert not [name for name in code if "_GLOBAL__sub_I" in name or "static_init" in name]
