"""The built libraries: one file each, the stable interface only, clear words where they fail."""

import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest
import setuptools
import torch
from setuptools.errors import CompileError
from torch.utils.cpp_extension import get_cxx_compiler, is_ninja_available

import torch_fullconv

SETUP = Path(__file__).parents[1] / "setup.py"
PACKAGE = Path(torch_fullconv.__file__).parent
LIBRARY = PACKAGE / "_C.abi3.so"
CUDA = PACKAGE / "_C_cuda.abi3.so"  # built where nvcc is
LIBRARIES = [LIBRARY, *([CUDA] if CUDA.exists() else [])]
each_library = pytest.mark.parametrize("library", LIBRARIES, ids=lambda path: path.name)


def symbols(library: Path, *options: str) -> list[str]:
    try:
        command = ["nm", "-D", *options, str(library)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        pytest.skip("nm is not here to list symbols with")
    return [line.split()[-1].split("@")[0] for line in done.stdout.splitlines()]


def test_the_library_is_one_file():
    """Of the limited API's suffix: one build serves every Python. CUDA's is another such file."""
    assert sorted(p for p in PACKAGE.iterdir() if p.suffix in (".so", ".dylib")) == LIBRARIES


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF symbols")
@each_library
def test_only_the_stable_interface_is_used(library):
    """From torch its C shims, nothing of C++ (c10, at), so that one build serves every torch.

    From Python nothing at all: ops are registered, not bound. CUDA's runtime is inside.
    """
    used = symbols(library, "--undefined-only")
    shims = [s for s in used if "torch" in s]
    assert "torch_call_dispatcher" in shims
    assert [s for s in shims if not re.fullmatch(r"(aoti_)?torch_[a-z0-9_]+", s)] == []
    mangled = [s for s in used if s.startswith("_Z")]
    assert [s for s in mangled if re.search(r"c10|N?2at[0-9]|5torch|caffe", s)] == []
    assert [s for s in used if s.startswith(("Py", "_Py", "cuda", "__cuda"))] == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF symbols")
@each_library
def test_nothing_of_ours_is_visible(library):
    """So that no other library's functions are taken for ours, nor ours for another CUDA's."""
    visible = symbols(library, "--defined-only")
    assert [s for s in visible if "fullconv" in s or s.startswith("cuda")] == []


@pytest.fixture
def setup(monkeypatch):
    """Runs setup.py without CUDA up to its call of setup(); its names, and `made`: the arguments.

    The environment is as before afterwards.
    """
    made: dict = {}
    monkeypatch.setattr(setuptools, "setup", made.update)
    monkeypatch.setenv("TORCH_FULLCONV_CUDA", "0")
    monkeypatch.setenv("PATH", os.environ["PATH"])
    monkeypatch.setenv("CXX", get_cxx_compiler())
    return lambda: runpy.run_path(str(SETUP)) | {"made": made}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "arm64"])
def test_flags_are_for_every_processor(monkeypatch, setup, machine):
    """Instruction sets are chosen in the sources: no option names one, on any machine."""
    monkeypatch.setattr(platform, "machine", lambda: machine)
    (library,) = setup()["made"]["ext_modules"]
    flags = library.extra_compile_args
    flags = flags if isinstance(flags, list) else flags["cxx"]
    assert "-O3" in flags
    assert [flag for flag in flags if flag.startswith("-m") or "native" in flag] == []


@pytest.mark.parametrize(
    ("names", "flags"),
    [
        ("", "80=sm_80 90=sm_90 100=sm_100 100=compute_100"),
        ("8.6", "86=sm_86"),
        ("9.0a 12.0+PTX", "90a=sm_90a 120=sm_120 120=compute_120"),
    ],
)
def test_kernels_are_for_the_architectures_asked_for(monkeypatch, setup, names, flags):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", names)
    architecture_flags = setup()["architecture_flags"]
    pairs = (flag.split("=") for flag in flags.split())
    assert architecture_flags() == [f"-gencode=arch=compute_{a},code={c}" for a, c in pairs]
    for unknown in ("Hopper", "7.5"):
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", f"8.0;{unknown}")
        with pytest.raises(CompileError, match=f"'{unknown}' in TORCH_CUDA_ARCH_LIST"):
            architecture_flags()


@pytest.mark.skipif(sys.version_info >= (3, 15), reason="free-threaded, it has the limited API")
def test_a_python_without_the_limited_api_is_refused(monkeypatch, setup):
    monkeypatch.setattr(sysconfig, "get_config_var", {"Py_GIL_DISABLED": 1}.get)
    with pytest.raises(SystemExit, match="free-threaded Python"):
        setup()


@pytest.mark.parametrize("cxx", ["c++", "ccache c++"])
def test_what_starts_the_compiler_is_left_to_torch(monkeypatch, setup, cxx):
    """It takes CXX for the name of one program, as nvcc's -ccbin does."""
    monkeypatch.setenv("CXX", cxx)
    setup()
    assert get_cxx_compiler() == "c++"


@pytest.mark.parametrize("cxx", ["", "c+++", "ccache c+++", "c++ -m64"])
def test_a_compiler_that_is_not_there_is_named(monkeypatch, setup, cxx):
    monkeypatch.setenv("CXX", cxx)
    with pytest.raises(SystemExit, match=re.escape(f"no C++ compiler '{cxx}'")):
        setup()


SCRIPTS = Path(sysconfig.get_path("scripts"))


@pytest.mark.skipif(not (SCRIPTS / "ninja").exists(), reason="ninja is not installed with Python")
def test_ninja_is_found_by_a_python_that_is_not_activated(monkeypatch, setup, tmp_path):
    (tmp_path / "c++").symlink_to(shutil.which("c++"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not is_ninja_available()
    setup()
    assert is_ninja_available()


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF symbols")
def test_this_torch_has_every_function():
    """Those that the library is linked with, also where another torch built it."""
    shared = Path(torch.__file__).parent / "lib"
    here = {
        s
        for name in ("cpu", "python")
        for s in symbols(shared / f"libtorch_{name}.so", "--defined-only")
    }
    used = [s for s in symbols(LIBRARY, "--undefined-only") if "torch" in s]
    assert [s for s in used if s not in here] == []


@pytest.mark.skipif(not (SETUP.parent / ".git").exists(), reason="asks git what there is")
def test_the_source_distribution_has_every_file(tmp_path):
    """But the settings of tools, whose names start with a dot."""
    command = [sys.executable, str(SETUP), "-q", "egg_info", "-e", str(tmp_path), "sdist"]
    subprocess.run([*command, "-d", str(tmp_path)], cwd=SETUP.parent, check=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as made:
        names = {name.partition("/")[2] for name in made.getnames()}
    git = ["git", "-C", str(SETUP.parent), "ls-files"]
    known = subprocess.run(git, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [name for name in known if name not in names and name[0] != "."] == []
    assert [name for name in names if name.endswith((".pyc", ".so"))] == []


def copy_of_package(folder: Path) -> Path:
    """The package elsewhere, its library included."""
    ignore = shutil.ignore_patterns("__pycache__")
    return Path(shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=ignore))


def import_from(folder: Path) -> subprocess.CompletedProcess:
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); import torch_fullconv as t; "
    code += "print(t.__file__)"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=folder
    )


def test_import_of_a_whole_copy(tmp_path):
    package = copy_of_package(tmp_path)
    assert import_from(tmp_path).stdout.strip() == str(package / "__init__.py")


def test_import_without_the_library_says_what_to_do(tmp_path):
    (copy_of_package(tmp_path) / LIBRARY.name).unlink()
    done = import_from(tmp_path)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: torch_fullconv: ")
    assert "_C.abi3.so is missing from" in last
    assert "pip install --no-build-isolation ." in last


def other_processor(content: bytes) -> bytes:
    """The ELF header's e_machine says AArch64, or x86-64 there."""
    machine = b"\xb7\x00" if content[18:20] != b"\xb7\x00" else b"\x3e\x00"
    return content[:18] + machine + content[20:]


BROKEN = {
    "empty": lambda content: b"",
    "text": lambda content: b"a git-lfs pointer\n" * 9,
    "other_processor": other_processor,
    "half": lambda content: content[: len(content) // 2],  # of which glibc's loader would die
    "almost": lambda content: content[:-1],
}


@pytest.mark.skipif(sys.platform != "linux", reason="breaks an ELF file")
@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_import_of_a_broken_library_says_what_to_do(tmp_path, change):
    library = copy_of_package(tmp_path) / LIBRARY.name
    library.write_bytes(change(library.read_bytes()))
    done = import_from(tmp_path)
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: torch_fullconv: ")
    assert "_C.abi3.so does not load under torch" in last
    assert "pip install --force-reinstall --no-build-isolation ." in last
