"""What this package brings into a program: what it declares, no code from data or the net."""

import ast
import json
import re
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHIPPED = [ROOT / "setup.py", *ROOT.glob("torch_fullconv/**/*.py"), *ROOT.glob("examples/*.py")]
PAGES = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.ipynb")]
# Modules that unpickle, and calls that run what they are given as text.
UNPICKLE = {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve", "cloudpickle"}
RUN = {"eval", "exec", "compile", "__import__"}
NETWORK = {"socket", "urllib", "http", "requests", "ftplib", "httpx", "aiohttp"}


def dangers(source: str) -> list[str]:
    """Loading that may run code from a file, code from text, and ways to the net."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names]
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{name}" for name in names]
            errors = {"pickle.UnpicklingError"}
            parts = [n for n in names if n not in errors and n.split(".")[0] in UNPICKLE | NETWORK]
            found += [f"{node.lineno}: import {n}" for n in parts]
        elif isinstance(node, ast.Call):
            call, keywords = ast.unparse(node.func), {k.arg: k.value for k in node.keywords}
            safe = keywords.get("weights_only")
            if call == "torch.load" and not (isinstance(safe, ast.Constant) and safe.value is True):
                found.append(f"{node.lineno}: torch.load without weights_only=True")
            pickles = keywords.get("allow_pickle")
            if call.endswith("load") and isinstance(pickles, ast.Constant) and pickles.value:
                found.append(f"{node.lineno}: {call} of pickles")
            if call in RUN or call.startswith(("torch.hub.", "yaml.load", "yaml.unsafe")):
                found.append(f"{node.lineno}: {call}")
    return found


def code_of(page: Path) -> str:
    """The Python on a page or in a notebook."""
    text = page.read_text()
    if page.suffix == ".ipynb":
        cells = [c for c in json.loads(text)["cells"] if c["cell_type"] == "code"]
        return "\n".join("".join(c["source"]) for c in cells)
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    prompts = (re.findall(r"^(?:>>> |\.\.\. )(.*)$", b, re.MULTILINE) or [b] for b in blocks)
    return "\n".join("\n".join(lines) for lines in prompts)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_from_data_and_no_way_to_the_net(path):
    assert dangers(path.read_text()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_page_shows_code_from_data(page):
    assert dangers(code_of(page)) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from urllib.request import urlopen",
        "torch.load('a')",
        "torch.load('a', weights_only=False)",
        "numpy.load('a', allow_pickle=True)",
        "eval('1')",
        "torch.hub.load('a', 'b')",
    ],
)
def test_the_check_finds(line):
    assert len(dangers(line)) == 1


def test_the_wheel_declares_torch_and_numpy_and_nothing_else():
    needed = [r for r in requires("torch_fullconv") if "extra ==" not in r]
    assert sorted(needed) == ["numpy", "torch>=2.10"]


OFFLINE = """
import sys
def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "urllib.Request"):
        raise SystemExit(f"{event} {arguments}")
sys.addaudithook(note)
import torch, torch_fullconv as tfc
from torch_fullconv.explanation import command
layer = tfc.Conv2d(1, 1, 2)
layer(torch.ones(1, 1, 3, 3)).sum().backward()
print(tfc.explain(layer))
"""


def test_nothing_is_downloaded_by_import_and_use():
    done = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "∂E/∂X" in done.stdout


def test_what_developers_install_is_pinned():
    """All that `make` installs but torch, which it pins itself."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {re.match(r"[a-z0-9-]+(?===)", line)[0] for line in lines}
    makefile = (ROOT / "Makefile").read_text()
    install = r"-c constraints\.txt --no-build-isolation --editable '\.\[(.*)\]'"
    (extras,) = re.findall(install, makefile)
    wanted = [r for r in requires("torch_fullconv") if re.search("extra == ", r)]
    for requirement in wanted:
        name, extra = re.match(r"([\w-]+).*extra == .(\w+).", requirement).groups()
        if extra in extras.split(",") and not re.search(r"==[\d.]+\s*;", requirement):
            assert name.lower().replace("_", "-") in pinned, requirement
    assert "torch" not in pinned
