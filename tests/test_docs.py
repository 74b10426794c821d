"""The documentation: what it shows is run, and it builds without a warning."""

from __future__ import annotations

import logging
import re
import shlex
from pathlib import Path

import nbformat
import pytest
from mkdocs.commands.build import build
from mkdocs.config import load_config
from nbclient import NotebookClient

from torch_fullconv.__main__ import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TUTORIAL = ROOT / "examples/tutorial.ipynb"
QUICK = re.compile(r"^ *python -m torch_fullconv (explain|info)( .*)?$", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_on_a_page_is_a_doctest(page: Path) -> None:
    """pytest runs what has a prompt (`--doctest-glob`); nothing may go without."""
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S):
        assert block.startswith(">>> "), block
        assert block.endswith("\n\n"), "doctest needs a blank line before the fence"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_a_page_run(page: Path, monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for command in QUICK.finditer(page.read_text("utf-8")):
        monkeypatch.setattr(
            "sys.argv", ["torch_fullconv", *shlex.split(command[0], comments=True)[3:]]
        )
        main()
        assert capsys.readouterr().out


def test_the_tutorial_runs_and_shows_what_it_prints(monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    kept = nbformat.read(TUTORIAL, as_version=4)
    run = NotebookClient(nbformat.read(TUTORIAL, as_version=4), timeout=120).execute()
    for before, after in zip(kept.cells, run.cells, strict=True):
        if "nbval-ignore-output" not in before.metadata.get("tags", ()):
            assert printed(before) == printed(after), before.source


def printed(cell: nbformat.NotebookNode) -> list[str]:
    """What a cell's outputs say; pictures are not compared."""
    if cell.cell_type != "code":
        return []
    outputs = [o.get("text") or o["data"].get("text/plain") for o in cell.outputs]
    return [text for text in outputs if not text.startswith("<Figure")]


def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path, caplog) -> None:
    with caplog.at_level(logging.WARNING, "mkdocs"):
        build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path)))
    assert [record.getMessage() for record in caplog.records] == []
    pages = {path.name: path.read_text("utf-8") for path in tmp_path.glob("*.html")}
    assert {"index.html", "interactive.html", "tutorial.html", "api.html"} <= set(pages)
    for name, page in pages.items():
        assert not re.search(
            r"""<(script|link|img|iframe)[^>]*(src|href)=["']?(https?:)?//""", page
        ), name
        assert not re.search(r"arithmatex|&gt;&gt;&gt;</p>|<blockquote>", page), name
    assert pages["tutorial.html"].count("<mtr>") == 4 + 9  # the equations of O and of ∂E/∂X
    api = pages["api.html"]
    assert 'id="torch_fullconv.functional.conv2d_input_grad"' in api
    assert not re.search(r'id="torch_fullconv[^"]*\._|Bases:', api)  # nothing private
