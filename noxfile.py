"""The one wheel under each Python and torch that it is for: `make versions`.

    nox -s 'versions-3.13(torch="2.14.1")' -- tests/test_ops.py

runs one pair, and other tests. uv keeps on disk but one copy of what the environments share; all of
them together still take some 50 GB.
"""

from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv"

NAMES = "ops autograd functional modules func opinfo pooling relu convert distributed build"
TESTS = [f"tests/test_{name}.py" for name in NAMES.split()]
COMPILED = "not test_compile or one_graph or exported or jit"


@nox.session(python=["3.10", "3.11", "3.12", "3.13"])
@nox.parametrize("torch", ["2.10.0", "2.11.0", "2.12.1", "2.13.0", "2.14.1"])
def versions(session: nox.Session, torch: str) -> None:
    """Of the library's tests, those that different versions could change."""
    (wheel,) = Path("dist").glob("torch_fullconv-*-cp310-abi3-*.whl")
    session.install(f"torch=={torch}", f"torch_fullconv[test] @ {wheel.resolve().as_uri()}")
    chosen = [*TESTS, "tests/test_compile.py", "-m", "not slow and not compiler", "-k", COMPILED]
    session.run("pytest", "-q", *(session.posargs or chosen))
