"""A library that makes the ops of CPU tensors run on the emulated GPU: `pytest --device emulator`.

It is loaded in place of _C_cuda, so the tests then go the whole way of a CUDA tensor.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

from cuda_emulator import emulator
from torch.utils.cpp_extension import include_paths, library_paths

SOURCE = Path(__file__).with_suffix(".cpp")
FLAGS = (
    "-std=c++20",
    "-O1",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
)
LIBRARIES = ("-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu")  # as setup.py


def build() -> Path:
    """The library; as old as its sources."""
    folder = emulator.build("plain").path.parent  # named by the content of csrc
    library = folder / f"ops-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]}.so"
    if not library.exists():
        objects = [*folder.glob("*.cu.o"), folder / "cuda_emulator.cpp.o"]
        torch = [f"-isystem{path}" for path in include_paths()]
        torch += [f"-L{path}" for path in library_paths()]
        command = ["g++", *FLAGS, *torch, SOURCE, *objects, *LIBRARIES, "-o", library]
        subprocess.run(command, check=True)
    return library
