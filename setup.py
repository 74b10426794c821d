"""Builds the native libraries in torch_fullconv/; all metadata is in pyproject.toml.

_C.abi3.so is for the CPU. _C_cuda.abi3.so has the CUDA kernels and is built where nvcc is found; no
GPU need be there, nor a torch with CUDA. TORCH_FULLCONV_CUDA=0 leaves it out, with 1 there is an
error where it cannot be built, and 'only' builds nothing else. TORCH_CUDA_ARCH_LIST names other
architectures. CXXFLAGS are added behind the flags below.

The libraries speak only the LibTorch stable ABI (torch >= 2.10) and the limited Python API
(Python >= 3.10), so one build serves every later version of both.
"""

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.errors import CompileError

# As if the environment were activated: ninja, that came with pip, is called by its name alone.
os.environ["PATH"] = os.pathsep.join(
    [sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]
)
if sys.platform not in ("linux", "darwin"):
    sys.exit(f"torch_fullconv: {platform.system()} is not supported; use Linux or macOS.")
if sysconfig.get_config_var("Py_GIL_DISABLED") and sys.version_info < (3, 15):
    sys.exit(
        "torch_fullconv: a free-threaded Python has the limited API only from 3.15 on; use one "
        "with a GIL."
    )
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
# Of "ccache g++" the last word: torch takes CXX for one program, and uses ccache by itself.
COMPILER = (shlex.split(get_cxx_compiler()) or [""])[-1]
if shutil.which(COMPILER) is None:
    sys.exit(
        f"torch_fullconv: no C++ compiler '{get_cxx_compiler()}'; install one that knows C++20 "
        "(GCC 11 or Clang 14 and newer) or name it in the environment variable CXX."
    )
os.environ["CXX"] = COMPILER

ROOT = Path(__file__).parent
CSRC = ROOT / "csrc"
WANTED = os.environ.get("TORCH_FULLCONV_CUDA", "")
CXX_FLAGS = [
    "-std=c++20",
    "-O3",
    "-g0",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    # The same bytes wherever they are built: no folder's name is written into them.
    f"-ffile-prefix-map={ROOT}=.",
    f"-ffile-prefix-map={Path(torch.__file__).parent}=torch",
    "-Wall",
    "-Wno-psabi",
    "-DTORCH_TARGET_VERSION=0x020a000000000000",
    *shlex.split(os.environ.get("CXXFLAGS", "")),  # last, so that they win
]
NVCC_FLAGS = [
    "-std=c++20",
    "-O3",
    "--expt-relaxed-constexpr",
    "-Xcompiler=-fPIC,-fvisibility=hidden",
]


def files(*patterns: str) -> list[str]:
    """Those of csrc/, named from here."""
    return sorted(str(p.relative_to(ROOT)) for pattern in patterns for p in CSRC.glob(pattern))


def find_toolkit() -> Path | None:
    """The folder of a CUDA toolkit: CUDA_HOME's, the one nvcc is found in, or a package's."""
    if WANTED == "0" or sys.platform != "linux":
        return None
    nvcc = shutil.which("nvcc")
    homes = [Path(os.environ["CUDA_HOME"])] if "CUDA_HOME" in os.environ else []
    homes += [Path(nvcc).resolve().parents[1]] if nvcc else []
    homes += [Path("/usr/local/cuda"), *Path(torch.__file__).parents[1].glob("nvidia/cu[0-9]*")]
    for home in homes:  # a wrapper of nvcc in the search path tells nothing of the toolkit
        if (home / "bin/nvcc").exists() and (home / "include/cuda_runtime_api.h").exists():
            return home
    if WANTED in ("1", "only"):
        sys.exit(
            "torch_fullconv: no nvcc is found for the CUDA kernels; set CUDA_HOME to its toolkit."
        )
    return None


def architecture_flags() -> list[str]:
    """nvcc's options for TORCH_CUDA_ARCH_LIST."""
    flags = []
    for name in re.split(r"[;\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST") or "8.0;9.0;10.0+PTX"):
        found = re.fullmatch(r"(\d+)\.(\d[af]?)(\+PTX)?", name)
        if not found or int(found[1]) < 8:
            raise CompileError(
                f"{name!r} in TORCH_CUDA_ARCH_LIST is not like 9.0 or 9.0+PTX, from 8.0 on: the "
                "kernels copy asynchronously. TORCH_FULLCONV_CUDA=0 does without CUDA"
            )
        number = found[1] + found[2]
        codes = [f"sm_{number}"] + ([f"compute_{number}"] if found[3] else [])
        flags += [f"-gencode=arch=compute_{number},code={code}" for code in codes]
    return flags


class BuildLibraries(BuildExtension):
    """Compiles the kernels too: torch's own rules for nvcc refuse a torch without CUDA."""

    def build_extension(self, extension: CppExtension) -> None:
        if extension.name == "torch_fullconv._C_cuda":
            extension.extra_objects = self.compile_kernels()
        super().build_extension(extension)

    def compile_kernels(self) -> list[str]:
        """The object files of the kernels, which need nothing of torch."""
        folder = Path(self.build_temp).resolve()
        objects = {s: str((folder / s).with_suffix(".cuda.o")) for s in files("cuda/*.cu")}
        command = [str(TOOLKIT / "bin/nvcc"), "-ccbin", COMPILER, *NVCC_FLAGS]
        command += architecture_flags()
        rules = [
            f"builddir = {folder}",
            "rule nvcc",
            f"  command = {shlex.join(command)} -MD -MF $out.d -c $in -o $out",
            "  depfile = $out.d",
        ]
        for source, object in objects.items():
            built, used = (path.replace(" ", "$ ") for path in (object, str(ROOT / source)))
            rules.append(f"build {built}: nvcc {used}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "kernels.ninja").write_text("\n".join(rules) + "\n")
        jobs = ["-j", os.environ["MAX_JOBS"]] if "MAX_JOBS" in os.environ else []
        try:
            subprocess.run(["ninja", "-k0", "-f", str(folder / "kernels.ninja"), *jobs], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise CompileError(f"{error}; TORCH_FULLCONV_CUDA=0 does without CUDA") from error
        return list(objects.values())


TOOLKIT = find_toolkit()
libraries = [
    CppExtension(
        "torch_fullconv._C",
        files("*.cpp", "cpu/*.cpp"),
        depends=files("*.h", "cpu/*.h", "cpu/*.inl"),
        extra_compile_args=CXX_FLAGS,
        py_limited_api=True,
    )
]
if TOOLKIT:
    libraries.append(
        CppExtension(
            "torch_fullconv._C_cuda",
            files("cuda/*.cpp"),
            depends=files("*.h", "cuda/*"),
            include_dirs=[str(TOOLKIT / "include")],
            library_dirs=[str(TOOLKIT / "lib64"), str(TOOLKIT / "lib")],
            extra_compile_args=CXX_FLAGS,
            # torch loads its libraries privately: what does not name them finds no symbol.
            extra_link_args=[
                *("-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-Wl,--as-needed"),
                *("-l:libcudart_static.a", "-ldl", "-lrt", "-lpthread", "-Wl,--exclude-libs,ALL"),
            ],
            py_limited_api=True,
            optional=WANTED not in ("1", "only"),
        )
    )

setup(
    ext_modules=libraries[1:] if WANTED == "only" else libraries,
    cmdclass={"build_ext": BuildLibraries},
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
