"""Builds the one native library, torch_fullconv/_C.abi3.so; all metadata is in pyproject.toml.

The library speaks only the LibTorch stable ABI (torch >= 2.10) and the limited Python API
(Python >= 3.10), so one build serves every later version of both.
"""

import platform
import shutil
import sys
from pathlib import Path

from setuptools import setup

if sys.platform not in ("linux", "darwin"):
    sys.exit(f"torch_fullconv: {platform.system()} is not supported; use Linux or macOS.")
try:
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension, get_cxx_compiler
except ImportError:
    sys.exit(
        "torch_fullconv: building needs torch >= 2.10; install it first and build with "
        "'pip install --no-build-isolation .'."
    )
if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 10):
    sys.exit(f"torch_fullconv: torch {torch.__version__} is too old; torch >= 2.10 is needed.")
if shutil.which(get_cxx_compiler()) is None:
    sys.exit(
        f"torch_fullconv: no C++ compiler '{get_cxx_compiler()}'; install one that knows C++20 "
        "(GCC 11 or Clang 14 and newer) or name it in the environment variable CXX."
    )

ROOT = Path(__file__).parent

setup(
    ext_modules=[
        CppExtension(
            "torch_fullconv._C",
            sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.cpp")),
            depends=sorted(
                str(p.relative_to(ROOT))
                for pattern in ("*.h", "*.inl")
                for p in (ROOT / "csrc").rglob(pattern)
            ),
            extra_compile_args=[
                "-std=c++20",
                "-O3",
                "-g0",
                "-fno-math-errno",
                "-fno-trapping-math",
                "-fvisibility=hidden",
                "-Wall",
                "-Wno-psabi",
                "-DTORCH_TARGET_VERSION=0x020a000000000000",
            ],
            py_limited_api=True,
        )
    ],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
