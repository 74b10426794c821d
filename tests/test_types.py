"""The types that a user's checker sees (py.typed)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

USER = """\
from typing import assert_type

from torch import Tensor
from torch_fullconv import convert, enabled, explain
from torch_fullconv.explanation import Explanation, Shape
from torch_fullconv.functional import max_pool2d

explanation: Explanation = explain(Shape((3, 3), (2, 2)))
text: str = explanation["O11"].text()

def check(x: Tensor, both: bool) -> None:
    assert_type(max_pool2d(x, 2), Tensor)
    assert_type(max_pool2d(x, 2, 1, 0, 1, False, False), Tensor)
    assert_type(max_pool2d(x, 2, return_indices=True), tuple[Tensor, Tensor])
    either = max_pool2d(x, 2, return_indices=both)
    assert_type(either, Tensor | tuple[Tensor, Tensor])

with enabled():
    convert(1)
"""


@pytest.mark.slow
def test_what_users_write_has_types(tmp_path):
    """Without a cache: mypy may take a function for a module of its name only then."""
    pytest.importorskip("mypy")
    user = tmp_path / "user.py"
    user.write_text(USER)
    command = [sys.executable, "-m", "mypy", "--python-version=3.11", f"--cache-dir={tmp_path}"]
    done = subprocess.run(
        [*command, str(user)],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "MYPYPATH": "."},
        capture_output=True,
        encoding="utf-8",
        timeout=300,
    )
    errors = done.stdout.splitlines()[:-1]
    assert len(errors) == 1, done.stdout + done.stderr
    assert 'of "convert" cannot be "int"' in errors[0]  # types are seen
