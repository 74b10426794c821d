"""docs/known_cases.md: these layers have none of the faults that were reported of stock's."""

import re
import subprocess
import sys
from pathlib import Path

import known_cases
import pytest

ROOT = Path(__file__).parent.parent
TABLE = (ROOT / "docs" / "known_cases.md").read_text()
ROWS = re.findall(r"^\| (R\d+) \|.*\| ([^|]+) \| ([^|]+) \|$", TABLE, re.MULTILINE)
RIGHT = [name for name, case in known_cases.CASES.items() if not case.limited]


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("name", RIGHT)
def test_ours_is_right(name):
    known_cases.CASES[name].run(known_cases.SIDES["ours"])


def test_a_case_can_find_fault():
    """A side whose results are twice what they should be fails."""
    ours = known_cases.SIDES["ours"]
    twice = ours._replace(conv2d=lambda *args, **kwargs: ours.conv2d(*args, **kwargs) * 2)
    for name in ("R3", "R9", "R24", "R27"):
        with pytest.raises(known_cases.WrongError):
            known_cases.CASES[name].run(twice)


def test_the_table_has_all_cases_and_ours_is_ok_in_all():
    assert [name for name, _, _ in ROWS] == list(known_cases.CASES)
    assert [name for name, ours, _ in ROWS if not ours.startswith("ok")] == []


def test_texts_have_the_tables_counts():
    faults = [name for name, _, stock in ROWS if not stock.startswith("ok")]
    for text in (TABLE, (ROOT / "README.md").read_text()):
        assert f"Of {'the ' if text is TABLE else ''}{len(ROWS)}" in text
        assert f"torch 2.13.0 still shows {len(faults)} on the machine tested" in text


def test_a_case_runs_in_a_process_of_its_own():
    done = subprocess.run(
        [sys.executable, known_cases.__file__, "R3", "ours"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "ok", done.stderr
