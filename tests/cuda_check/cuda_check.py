"""What can be said of the CUDA kernels without a GPU: `make cuda-check`.

Builds the CUDA library (a spilled register or a local array is an error), then reads its machine
code: registers and shared memory of each kernel, the occupancy that follows, and how often it has
tensor-core instructions, accesses of 128 bits and accesses of local memory, which instructions.tsv
holds. Then imports the package with it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TABLE = HERE / "instructions.tsv"
FOLDER = ROOT / "build" / "cuda_check"
DEFAULT = "8.0;9.0;10.0+PTX"  # setup.py's
# What ptxas must not do in silence.
PTXAS = "-Xptxas=-warn-spills,-warn-lmem-usage,-Werror"


class Device(NamedTuple):
    """What of a multiprocessor bounds its blocks, by the CUDA programming guide's tables."""

    shared: int  # bytes
    threads: int = 2048
    blocks: int = 32
    registers: int = 65536
    reserved: int = 1024  # bytes of shared memory that each block takes besides its own


DEVICES = {"sm_80": Device(164 << 10), "sm_90": Device(228 << 10), "sm_100": Device(228 << 10)}


class Kernel(NamedTuple):
    """A kernel's machine code for one architecture."""

    registers: int
    stack: int
    instructions: Counter[str]


class Launch(NamedTuple):
    threads: int
    shared: int  # bytes


Table = dict[tuple[str, str], list[int]]  # COLUMNS by architecture and kernel


def up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def occupancy(device: Device, registers: int, launch: Launch) -> float:
    """The part of a multiprocessor's threads that run at once: cuda_occupancy.h's rules.

    Registers are handed out to a warp by 256, to four warps at once; shared memory by 128 bytes.

    >>> occupancy(DEVICES["sm_80"], 128, Launch(256, 32 << 10))
    0.25
    >>> occupancy(DEVICES["sm_80"], 32, Launch(256, 0))
    1.0
    """
    warps = up(launch.threads, 32) // 32
    by_registers = device.registers // up(registers * 32, 256) // 4 * 4 // warps
    by_shared = device.shared // up(launch.shared + device.reserved, 128)
    by_threads = device.threads // (warps * 32)
    blocks = min(by_registers, by_shared, by_threads, device.blocks)
    return blocks * warps * 32 / device.threads


def run(*command: str | Path, **options: Any) -> str:
    done = subprocess.run(list(map(str, command)), text=True, stdout=subprocess.PIPE, **options)
    if done.returncode:
        sys.exit(f"{done.stdout}\ncuda-check: '{command[0]}' failed")
    return done.stdout


def build(python: str, architectures: str) -> Path:
    """The CUDA library, compiled anew, with the headers of that Python's torch."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    environment = os.environ | {
        "TORCH_FULLCONV_CUDA": "only",
        "TORCH_CUDA_ARCH_LIST": architectures,  # without, setup.py chooses
        "NVCC_APPEND_FLAGS": PTXAS,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),  # ninja
    }
    options = "--build-temp", FOLDER / "temp", "--build-lib", FOLDER
    command = python, "setup.py", "egg_info", "--egg-base", FOLDER, "build_ext", *options
    FOLDER.mkdir(parents=True)
    run(*command, cwd=ROOT, env=environment, stderr=subprocess.STDOUT)
    return next((FOLDER / "torch_fullconv").glob("_C_cuda*"))


def tool(name: str) -> Path:
    """cuobjdump calls nvdisasm, which lies beside it."""
    found = list(Path(sys.prefix).glob(f"lib/python*/site-packages/nvidia/cu*/bin/{name}"))
    if not found:
        sys.exit(f"cuda-check: no {name}: pip install --no-deps nvidia-cuda-{name}")
    return found[0]


def disassemble(library: Path) -> dict[tuple[str, str], Kernel]:
    """By architecture and mangled name."""
    path = f"{tool('nvdisasm').parent}{os.pathsep}{os.environ['PATH']}"
    cuobjdump = tool("cuobjdump")
    environment = os.environ | {"PATH": path}
    resources: dict[tuple[str, str], tuple[int, int]] = {}
    architecture = name = ""
    for line in run(cuobjdump, "-res-usage", library, env=environment).splitlines():
        if found := re.match(r"arch = (\S+)", line):
            architecture = found[1]
        elif found := re.match(r"\s*Function (\S+):", line):
            name = found[1]
        elif found := re.match(r"\s*REG:(\d+) STACK:(\d+)", line):
            resources[architecture, name] = int(found[1]), int(found[2])
    instructions: dict[tuple[str, str], Counter[str]] = {}
    for line in run(cuobjdump, "-sass", library, env=environment).splitlines():
        if found := re.match(r"arch = (\S+)", line):
            architecture = found[1]
        elif found := re.match(r"\s*Function : (\S+)", line):
            name = found[1]
            instructions[architecture, name] = Counter()
        elif found := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_.]+)", line):
            instructions[architecture, name][found[1]] += 1
    return {key: Kernel(*resources[key], counts) for key, counts in instructions.items()}


def built_for(library: Path) -> set[str]:
    """As TORCH_CUDA_ARCH_LIST has them."""
    names = run(tool("cuobjdump"), "--list-elf", "--list-ptx", library)
    found = set(re.findall(r"\.sm_(\w+)\.(cubin|ptx)$", names, re.MULTILINE))
    return {
        f"{number[:-1]}.{number[-1]}" + ("+PTX" if (number, "ptx") in found else "")
        for number, _ in found
    }


COLUMNS = {
    "tensor cores": r"HMMA|.*MMA\.",
    "shared 128": r"LDS\S*\.128|LDSM\S*\.4",
    "global 128": r"LDG\S*\.128|LDGSTS\S*\.128",
    "store 128": r"STG\S*\.128",
    "local": r"LDL|STL",
}


def count(kernels: dict[tuple[str, str], Kernel], names: dict[str, str]) -> Table:
    """What instructions.tsv holds."""
    rows = {}
    for (architecture, name), kernel in sorted(kernels.items()):
        rows[architecture, names[name]] = [
            sum(n for opcode, n in kernel.instructions.items() if re.match(pattern, opcode))
            for pattern in COLUMNS.values()
        ]
    return rows


def read_table() -> tuple[str, Table]:
    """Which nvcc it was written by, and its rows."""
    head, *lines = (line.split("\t") for line in TABLE.read_text().splitlines())
    return head[-1], {(line[0], line[1]): list(map(int, line[2:])) for line in lines}


def write_table(nvcc: str, rows: Table) -> None:
    head = ["architecture", "kernel", *COLUMNS, nvcc]
    lines = [head, *([*key, *map(str, row)] for key, row in sorted(rows.items()))]
    TABLE.write_text("".join("\t".join(line) + "\n" for line in lines))


def demangle(names: set[str]) -> dict[str, str]:
    """As C++ would write them, without what all have in common."""
    ordered = sorted(names)
    plain = run("c++filt", input="\n".join(ordered))
    for old, new in {
        r"fullconv::(?:cuda::)?|^void |\([^()]*\)$": "",
        r"\(Along\)0": "lanes",
        r"\(Along\)1": "depth",
        r"\(Pooling\)0": "max",
        r"\(Pooling\)2": "max_gather",
        r"\(Pooling\)3": "max_scatter",
        r"\(Pooling\)4": "average",
        r"\(Pooling\)5": "average_adjoint",
        "> >": ">>",
    }.items():
        plain = re.sub(old, new, plain, flags=re.MULTILINE)
    return dict(zip(ordered, plain.splitlines(), strict=True))


def toolkit() -> Path:
    """Of the build."""
    (ninja,) = FOLDER.rglob("kernels.ninja")
    return Path(re.findall(r"command = '?(.+)/bin/nvcc", ninja.read_text())[0])


def release() -> str:
    return "nvcc " + re.findall(r"release ([\d.]+)", run(toolkit() / "bin/nvcc", "--version"))[0]


def launches() -> dict[str, Launch]:
    """What each kernel is launched with, by launches.cpp; the most shared memory of them."""
    program = FOLDER / "launches"
    sources = HERE / "launches.cpp", *(FOLDER / "temp").rglob("*.cuda.o")
    folders = f"-I{toolkit() / 'include'}", f"-I{ROOT / 'csrc' / 'cuda'}"
    run("c++", "-std=c++20", "-w", *folders, *sources, "-o", program)
    found: dict[str, Launch] = {}
    for line in run(program).splitlines():
        name, threads, shared = line.split()
        found[name] = max(found.get(name, Launch(0, 0)), Launch(int(threads), int(shared)))
    return found


IMPORT = """
import ctypes, sys
folder, library = sys.argv[1:]
sys.path.insert(0, folder)
import torch, torch_fullconv
from torch_fullconv import functional, ops
assert torch_fullconv.__file__.startswith(folder)
x = torch.ones(1, 1, 3, 3)
assert functional.conv2d(x, x).item() == 9
ops.load_cuda()
assert torch._C._dispatch_has_kernel_for_dispatch_key("torch_fullconv::correlate", "CUDA")
ctypes.CDLL(library).aoti_torch_get_current_cuda_stream  # which csrc/cuda/ops.cpp looks for
print(f"imported under torch {torch.__version__}, CUDA {torch.version.cuda},",
      f"{torch.cuda.device_count()} devices")
"""


def import_with(python: str, library: Path) -> None:
    """The package beside the library just built, with the CPU library of this checkout."""
    for path in (ROOT / "torch_fullconv").iterdir():
        if path.is_dir():
            shutil.copytree(path, FOLDER / "torch_fullconv" / path.name, dirs_exist_ok=True)
        elif not path.name.startswith("_C_cuda"):
            shutil.copy(path, FOLDER / "torch_fullconv")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    print(run(python, "-c", IMPORT, FOLDER, library, cwd=FOLDER, env=environment).strip())


def check_resources(kernels: dict[tuple[str, str], Kernel], names: dict[str, str]) -> set[str]:
    """Prints them, and returns what is wrong."""
    problems, launched = set(), launches()
    print("architecture  registers  threads  shared  occupancy  kernel")
    for (architecture, name), kernel in sorted(kernels.items()):
        what = f"{architecture} {names[name]}"
        if name not in launched:
            problems.add(f"no layer of launches.cpp launches {names[name]}")
            continue
        launch = launched[name]
        part = occupancy(DEVICES[architecture], kernel.registers, launch)
        print(
            f"{architecture:12}{kernel.registers:11}{launch.threads:9}{launch.shared:8}"
            f"{part:11.0%}  {names[name]}"
        )
        if kernel.stack:
            problems.add(f"{what}: a stack frame of {kernel.stack} bytes")
        if part == 0:
            problems.add(f"{what}: no block of it fits")
    return problems


def check_instructions(found: Table) -> set[str]:
    """Another nvcc must have the same kinds of instructions, if not as many."""
    nvcc, held = read_table()
    exact = nvcc == release()
    built = {architecture for architecture, _ in found}
    held = {key: row for key, row in held.items() if key[0] in built}

    def shown(row: list[int] | None) -> list[int] | None:
        return row if exact or row is None else [min(n, 1) for n in row]

    return {
        f"{' '.join(key)}: {list(COLUMNS)} are {found.get(key)}, {TABLE.name} has {held.get(key)}"
        for key in found.keys() | held.keys()
        if shown(found.get(key)) != shown(held.get(key))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architectures", default="", help=f"not {DEFAULT}, but some of them")
    parser.add_argument(
        "--python", type=os.path.abspath, help="import the package by this one with a CUDA torch"
    )
    parser.add_argument("--update", action="store_true", help=f"write {TABLE.name} anew")
    arguments = parser.parse_args()
    library = build(arguments.python or sys.executable, arguments.architectures)
    wanted = set((arguments.architectures or DEFAULT).split(";"))
    if (built := built_for(library)) != wanted:
        sys.exit(f"the library is to be for {sorted(wanted)}, and is for {sorted(built)}")
    kernels = disassemble(library)
    names = demangle({name for _, name in kernels})
    found = count(kernels, names)
    if arguments.update:
        write_table(release(), found)
    if problems := check_resources(kernels, names) | check_instructions(found):
        sys.exit("\n".join(sorted(problems)))
    if arguments.python:
        import_with(arguments.python, library)


if __name__ == "__main__":
    main()
