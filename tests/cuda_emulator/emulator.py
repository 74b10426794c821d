"""Builds the CUDA kernels for the emulated GPU, and runs calls of csrc/cuda/launch.h on it.

A build is a program of its own (`main.cpp`), so that sanitizers see nothing of Python and a crash
is a failed test. It is kept under build/ as long as none of its sources changes.
"""

from __future__ import annotations

import hashlib
import struct
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from torch_fullconv.ops import Geometry

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
OPERATIONS = ("correlate", "full_convolve", "correlate_weight", "channel_sum")
DTYPES = (  # csrc/arrays.h's Dtype
    torch.float32,
    torch.float64,
    torch.bfloat16,
    torch.float16,
    torch.complex64,
    torch.complex128,
)
PLAIN = ("-std=c++20", "-O1", "-fPIC", "-Wall", "-Wno-unknown-pragmas")
SANITIZERS = {
    "plain": (),
    "address": ("-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
    "thread": ("-g1", "-fsanitize=thread", "-DCUDA_EMULATOR_TSAN"),
}


@dataclass(frozen=True)
class Call:
    """One call: its tensors, of which `result` is what memory holds before."""

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
    """The program failed: what it wrote, as a sanitizer's report."""


@dataclass(frozen=True)
class Program:
    path: Path

    def run(self, calls: Sequence[Call], seed: int = 1) -> list[str | Tensor]:
        """For each call the message, or its result in memory like that of `result`."""
        done = subprocess.run(
            [self.path],
            input=b"".join(call.packed() for call in calls),
            capture_output=True,
            env={
                "CUDA_EMULATOR_SEED": str(seed),
                "UBSAN_OPTIONS": "print_stacktrace=1",
                "TSAN_OPTIONS": "halt_on_error=1",
            },
        )
        if done.returncode:
            raise EmulatorError(f"status {done.returncode}\n{done.stderr.decode()[:20000]}")
        answers, at = [], 0
        for call in calls:
            (length,) = struct.unpack_from("=q", done.stdout, at)
            at += 8
            message = done.stdout[at : at + max(length, 0)].decode()
            at += max(length, 0)
            old = storage_of(call.result)
            content = bytearray(done.stdout[at : at + old.numel()])
            at += old.numel()
            new = torch.frombuffer(content, dtype=torch.uint8) if content else old
            whole = new.view(call.result.dtype) if content else call.result.flatten()
            place = call.result.shape, call.result.stride(), call.result.storage_offset()
            answers.append(message if length >= 0 else whole.as_strided(*place))
        return answers


def sources(root: Path) -> list[Path]:
    return sorted((root / "csrc" / "cuda").glob("*.cu")) + sorted(HERE.glob("*.cpp"))


def build(sanitizer: str = "plain", root: Path = ROOT, only: Iterable[str] = ()) -> Program:
    """The program with the kernels of `root`."""
    used = [p for p in (root / "csrc").rglob("*") if p.suffix in (".h", ".inl", ".cu", ".cuh")]
    content = hashlib.sha256(repr((PLAIN, SANITIZERS[sanitizer])).encode())
    for path in sorted(used) + sorted(HERE.glob("*.cpp")) + sorted(HERE.glob("*.h")):
        content.update(path.name.encode() + b"\0" + path.read_bytes())
    folder = ROOT / "build" / "cuda_emulator" / f"{sanitizer}-{content.hexdigest()[:16]}"
    program = folder / "program"
    if program.exists():
        return Program(program)
    folder.mkdir(parents=True, exist_ok=True)

    def compile(source: Path) -> Path:
        flags = list(SANITIZERS[sanitizer])
        if sanitizer == "thread" and source.name == "cuda_emulator.cpp":
            flags.remove("-fsanitize=thread")
        compiled = folder / f"{source.name}.o"
        include = f"-I{HERE}", f"-I{root / 'csrc' / 'cuda'}"
        command = ["g++", *PLAIN, *flags, *include, "-x", "c++", "-c", source, "-o", compiled]
        subprocess.run(command, check=True)
        return compiled

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile, sources(root)))
    unfinished = folder / "unfinished"
    subprocess.run(["g++", *SANITIZERS[sanitizer], *objects, "-o", unfinished], check=True)
    unfinished.rename(program)
    return Program(program)
