"""Builds the CUDA kernels for the emulated GPU, and runs calls of csrc/cuda on it.

A build is a program of its own (`main.cpp`), so that sanitizers see nothing of Python and a crash
is a failed test. What was compiled is kept under build/ until one of its sources changes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from torch_fullconv.ops import Geometry
from torch_fullconv.pool_ops import Divisor, Windows

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
BUILD = ROOT / "build" / "cuda_emulator"
OPERATIONS = ("correlate", "full_convolve", "correlate_weight", "channel_sum")
OPERATIONS += (
    "relu",
    "max",
    "max_indices",
    "max_gather",
    "max_scatter",
)  # csrc/windows.h's Pooling
OPERATIONS += ("average", "average_adjoint")
DTYPES = (  # csrc/arrays.h's Dtype
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.complex64,
    torch.complex128,
)
ELEMENTS = (  # csrc/arrays.h's Element
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.int8,
    torch.uint8,
    torch.int16,
    torch.int32,
    torch.int64,
)
NO_WINDOWS, MEAN = Windows(1, 1, 1, 1), Divisor()
KERNELS = ("f32", "f64", "bf16", "f16")  # kernels_*.cu
FLAGS = ("-std=c++20", "-fPIC", "-Wall", "-Werror", "-Wno-unknown-pragmas")
SANITIZERS = {
    "plain": ("-O1",),
    "address": ("-Og", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
    "thread": ("-O1", "-g1", "-fsanitize=thread", "-DCUDA_EMULATOR_TSAN"),
}


@dataclass(frozen=True)
class Call:
    """One call. `result` is what its memory holds before."""

    operation: str
    geometry: Geometry
    input_size: tuple[int, int]
    kernel: tuple[int, int]
    first: Tensor
    second: Tensor | None
    bias: Tensor | None
    result: Tensor
    segments: int = 1
    allow_tf32: bool = False

    def packed(self) -> bytes:
        g = self.geometry
        integers = [
            OPERATIONS.index(self.operation),
            DTYPES.index(self.first.dtype),
            int(self.allow_tf32),
            self.segments,
            g.groups,
            g.padding_mode,
            *(self.input_size[0], self.kernel[0]),
            *(min(g.stride_h, 2**41), g.pad_top, g.pad_bottom, g.dilation_h),
            *(self.input_size[1], self.kernel[1]),
            *(min(g.stride_w, 2**41), g.pad_left, g.pad_right, g.dilation_w),
        ]
        tensors = (self.first, self.second, self.bias, self.result)
        return struct.pack(f"={len(integers)}q", *integers) + b"".join(map(pack_tensor, tensors))


@dataclass(frozen=True)
class LayerCall:
    """One call of ReLU, whose gradient has a `second`, or of pooling, whose indices are that."""

    operation: str
    first: Tensor
    second: Tensor | None
    values: Tensor  # what their memory holds before
    input_size: tuple[int, int] = (1, 1)
    windows: Windows = NO_WINDOWS
    divisor: Divisor = MEAN

    @property
    def result(self) -> Tensor:
        """What is answered."""
        return self.second if self.operation == "max_indices" else self.values

    def packed(self) -> bytes:
        w = self.windows
        integers = [
            OPERATIONS.index(self.operation),
            ELEMENTS.index(self.first.dtype),
            *(self.input_size[0], w.kernel_h, w.stride_h, w.pad_h, w.dilation_h, w.ceil_mode),
            *(self.input_size[1], w.kernel_w, w.stride_w, w.pad_w, w.dilation_w, w.ceil_mode),
            *self.divisor,
        ]
        tensors = (self.first, self.second, self.values)
        return struct.pack(f"={len(integers)}q", *integers) + b"".join(map(pack_tensor, tensors))


def storage_of(tensor: Tensor) -> Tensor:
    """All bytes of a tensor's storage."""
    storage = tensor.untyped_storage()
    return torch.empty(0, dtype=torch.uint8).set_(storage, 0, (storage.nbytes(),))


def pack_tensor(tensor: Tensor | None) -> bytes:
    if tensor is None:
        return struct.pack("=11q", *[0] * 11)
    content = storage_of(tensor).numpy().tobytes()
    sizes, strides = list(tensor.shape), list(tensor.stride())
    segment = strides.pop(0) if tensor.dim() == 5 else 0
    sizes = sizes[-4:] + [1] * (4 - tensor.dim())
    strides += [0] * (4 - len(strides))
    header = struct.pack("=11q", len(content), tensor.storage_offset(), segment, *sizes, *strides)
    return header + content


class EmulatorError(Exception):
    """The program failed, or a call did; says what it wrote, as a sanitizer's report."""


@dataclass(frozen=True)
class Program:
    path: Path

    def run(
        self,
        calls: Sequence[Call | LayerCall],
        seed: int = 1,
        environment: Mapping[str, str] | None = None,
    ) -> list[Tensor]:
        """Each call's result, in memory like that of its `result`."""
        done = subprocess.run(
            [self.path],
            input=b"".join(call.packed() for call in calls),
            capture_output=True,
            env={
                "CUDA_EMULATOR_SEED": str(seed),
                "UBSAN_OPTIONS": "print_stacktrace=1",
                "TSAN_OPTIONS": "halt_on_error=1 atexit_sleep_ms=0",
                **(environment or {}),
            },
        )
        if done.returncode:
            raise EmulatorError(f"status {done.returncode}\n{done.stderr.decode()[:20000]}")
        answers, at = [], 0
        for call in calls:
            (length,) = struct.unpack_from("=q", done.stdout, at)
            at += 8
            if length >= 0:
                message = done.stdout[at : at + length].decode()
                raise EmulatorError(f"{call.operation}: {message}")
            old = storage_of(call.result)
            new = old.clone()
            if old.numel():
                content = bytearray(done.stdout[at : at + old.numel()])
                new = torch.frombuffer(content, dtype=torch.uint8)
            at += old.numel()
            place = call.result.shape, call.result.stride(), call.result.storage_offset()
            answers.append(new.view(call.result.dtype).as_strided(*place))
        return answers


def _digest(flags: Iterable[str], files: Iterable[Path]) -> str:
    content = hashlib.sha256(repr(tuple(flags)).encode())
    for path in files:
        content.update(path.name.encode() + b"\0" + path.read_bytes())
    return content.hexdigest()[:24]


def _compile(source: Path, flags: Sequence[str], inputs: Iterable[Path]) -> Path:
    """The object file of a source that depends on `inputs`."""
    BUILD.mkdir(parents=True, exist_ok=True)
    choices = [flag for flag in flags if not flag.startswith("-I")]
    compiled = BUILD / f"{source.stem}-{_digest(choices, [source, *inputs])}.o"
    if not compiled.exists():
        unfinished = compiled.with_suffix(f".{os.getpid()}")
        command = ["g++", *flags, "-x", "c++", "-c", str(source), "-o", str(unfinished)]
        subprocess.run(command, check=True)
        unfinished.rename(compiled)
    return compiled


def _link(name: str, sanitizer: str, objects: Sequence[Path]) -> Program:
    program = BUILD / f"{name}-{_digest([sanitizer], objects)}"
    if not program.exists():
        unfinished = program.with_suffix(f".{os.getpid()}")
        command = ["g++", *SANITIZERS[sanitizer], *map(str, objects), "-o", str(unfinished)]
        subprocess.run(command, check=True)
        unfinished.rename(program)
    return Program(program)


def compile_all(
    sanitizer: str = "plain", kernels: Sequence[str] = KERNELS, csrc: Path = ROOT / "csrc"
) -> list[Path]:
    """The objects of main.cpp, the emulator, the launches, and kernels: these and layers' own."""
    include = f"-I{HERE}", f"-I{csrc / 'cuda'}"
    flags = [*FLAGS, *SANITIZERS[sanitizer], *include]
    unseen = [f for f in flags if f != "-fsanitize=thread"]
    headers = sorted(p for p in csrc.rglob("*") if p.suffix in (".h", ".cuh", ".inl"))
    emulator = [HERE / "cuda_emulator.h"]
    jobs = [(HERE / "cuda_emulator.cpp", unseen, emulator)]
    for source in (HERE / "main.cpp", csrc / "cuda" / "launch.cu", csrc / "cuda" / "layers.cu"):
        jobs.append((source, flags, headers + emulator))
    for name in KERNELS:
        source = csrc / "cuda" / f"kernels_{name}.cu"
        if name not in kernels:
            flags_of_absent = [*flags, f"-DABSENT=kernels_{name}"]
            jobs.append((HERE / "absent.cpp", flags_of_absent, headers + emulator))
        else:
            jobs.append((source, flags, headers + emulator))
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(_compile, *zip(*jobs, strict=True)))


def build(
    sanitizer: str = "plain", kernels: Sequence[str] = KERNELS, csrc: Path = ROOT / "csrc"
) -> Program:
    """The program with these kernels; a call that wants others ends it."""
    return _link("program", sanitizer, compile_all(sanitizer, kernels, csrc))


def build_instructions() -> Program:
    """The program of `instructions.cu`."""
    flags = [*FLAGS, *SANITIZERS["plain"], f"-I{HERE}"]
    inputs = HERE / "cuda_emulator.h", ROOT / "csrc" / "cuda" / "gpu.h"
    sources = HERE / "instructions.cu", HERE / "cuda_emulator.cpp"
    return _link("instructions", "plain", [_compile(source, flags, inputs) for source in sources])


@dataclass(frozen=True)
class Fault:
    """`old` in a file of csrc, and what it becomes; PLANTED says whether the fault was chosen."""

    file: str
    old: str
    new: str


def build_faulty(
    folder: Path,
    faults: Sequence[Fault],
    sanitizer: str = "plain",
    kernels: Sequence[str] = ("f32",),
) -> Program:
    """A program of these kernels with one of the faults, chosen by FAULT=index when it runs."""
    csrc = Path(shutil.copytree(ROOT / "csrc", folder / "csrc"))
    for index, fault in enumerate(faults):
        path = csrc / fault.file
        text = path.read_text()
        assert text.count(fault.old) == 1, f"{text.count(fault.old)} times in {fault}"
        new = fault.new.replace("PLANTED", f"(planted_fault == {index})")
        path.write_text(text.replace(fault.old, new))
    chosen = (
        '#include <cstdlib>\ninline const int planted_fault = std::atoi(std::getenv("FAULT"));\n'
    )
    header = csrc / "geometry.h"
    header.write_text(header.read_text().replace("#pragma once\n", f"#pragma once\n{chosen}"))
    return build(sanitizer, kernels, csrc)
