"""The page of hazards, the tests that bear their marks, and the guards that can be switched off: all three agree."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sync_pipeline.model.faults import GUARDS

REPOSITORY = Path(__file__).resolve().parents[2]
FINDING = re.compile(r"^\| R(\d+)([a-z]| [a-z ]+)? \| .* \| ([\d, ]*) \| ([^|]*) \|$", re.MULTILINE)
# of the review; it has no 19th
FINDINGS = {*range(1, 21)} - {19}
ROW = re.compile(r"^\| (\d+) \| .* \| ([^|]*) \| (yes)? ?\|$", re.MULTILINE)


@pytest.fixture(scope="module")
def rows():
    """By number, which tests the page names, and whether it says that the answer can be switched off."""
    page = (REPOSITORY / "docs" / "hazards.md").read_text(encoding="utf-8")
    found = [(int(number), re.findall(r"`([^`]+)`", tests), bool(off)) for number, tests, off in ROW.findall(page)]
    assert len(found) == len({number for number, *_ in found}) == len(re.findall(r"^\| \d", page, re.MULTILINE))
    return {number: (tests, off) for number, tests, off in found}


@pytest.fixture(scope="module")
def marked():
    """By number, the tests that bear it."""
    command = [sys.executable, "-m", "tests.hazards"]
    told = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    return {int(number): set(tests) for number, tests in json.loads(told).items()}


def test_every_hazard_has_a_row(rows):
    assert rows.keys() == set(range(1, max(rows) + 1))


def test_every_row_has_a_test_that_bears_its_number(rows, marked):
    assert [number for number, (tests, _) in rows.items() if not tests] == []
    strangers = {number: set(tests) - marked.get(number, set()) for number, (tests, _) in rows.items()}
    assert {number: tests for number, tests in strangers.items() if tests} == {}


def test_every_mark_has_a_row(rows, marked):
    assert marked.keys() == rows.keys()


def test_the_page_says_which_answers_can_be_switched_off(rows):
    assert {number for number, (_, off) in rows.items() if off} == GUARDS
    assert len(GUARDS) >= 10


def test_each_finding_of_the_review_has_rows_or_tests(rows, marked):
    page = (REPOSITORY / "docs" / "hazards.md").read_text(encoding="utf-8")
    found = FINDING.findall(page)
    assert len(found) == len(re.findall(r"^\| R\d", page, re.MULTILINE)) == len({f[:2] for f in found})
    assert {int(number) for number, *_ in found} == FINDINGS
    for number, part, named, tests in found:
        held = [int(row) for row in named.split(", ") if row]
        assert set(held) <= rows.keys(), (number, part)
        assert held or tests.strip(), (number, part)
        for test in re.findall(r"`([^`]+)`", tests):
            file, _, name = test.partition("::")
            assert f"def {name}(" in (REPOSITORY / "tests" / file).read_text(encoding="utf-8"), test
            assert not held or any(test in marked[row] for row in held), f"{test} bears the number of no row of {held}"
