"""docs/compatibility.md is held to the truth: each of its rows names tests that exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINES = (ROOT / "docs" / "compatibility.md").read_text().splitlines()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in LINES
    if line.startswith("| ") and not line.startswith("| capability |")
]


@cache
def functions_of(file: str) -> list[str]:
    """The functions that a file defines."""
    body = ast.parse((ROOT / file).read_text()).body
    return [node.name for node in body if isinstance(node, ast.FunctionDef)]


def test_there_are_rows():
    assert len(ROWS) >= 10
    names = [row[0] for row in ROWS]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_row_names_a_test(row):
    assert len(row) == 4
    assert row[2], "says what ours does"
    named = re.findall(r"`(tests/(?:models/)?test_\w+\.py)::(test_\w+)`", row[3])
    assert named
    for file, name in named:
        assert functions_of(file).count(name) == 1, f"{file} has no test {name}"
