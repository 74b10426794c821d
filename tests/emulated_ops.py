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
FLAGS = ("-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-Wno-psabi")
TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"
LIBRARIES = ("-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu")  # as setup.py


def build() -> Path:
    """The library; as old as its sources."""
    objects = [path for path in emulator.compile_all() if not path.name.startswith("main-")]
    digest = hashlib.sha256(SOURCE.read_bytes())  # an object's name tells its sources'
    digest.update("".join(path.name for path in objects).encode())
    library = emulator.BUILD / f"ops-{digest.hexdigest()[:24]}.so"
    if not library.exists():
        torch = [f"-isystem{path}" for path in include_paths()]
        torch += [f"-L{path}" for path in library_paths()]
        command = ["g++", *FLAGS, TARGET, *torch, "-shared", SOURCE, *objects, *LIBRARIES]
        subprocess.run([*command, "-o", library], check=True)
    return library
