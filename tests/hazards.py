"""Which test holds which row of docs/hazards.md, as the marks say: `python -m tests.hazards` prints it as JSON."""

import contextlib
import json
import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def marked() -> dict[int, list[str]]:
    """By row, the tests that bear its mark, as `folder/file.py::name`; collects only files that speak of marks."""
    files = sorted(file for file in TESTS.rglob("test_*.py") if "mark.hazard(" in file.read_text(encoding="utf-8"))
    seen = _Seen()
    with contextlib.redirect_stdout(open(os.devnull, "w", encoding="utf-8")):
        code = pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *map(str, files)], plugins=[seen])
    assert code == pytest.ExitCode.OK, code
    return {row: sorted(tests) for row, tests in sorted(seen.tests.items())}


class _Seen:
    """A plugin that takes in what was collected."""

    def __init__(self) -> None:
        self.tests: dict[int, set[str]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            name = f"{item.path.relative_to(TESTS)}::{getattr(item, 'originalname', item.name)}"
            for mark in item.iter_markers("hazard"):
                (row,) = mark.args
                self.tests.setdefault(row, set()).add(name)


if __name__ == "__main__":
    json.dump(marked(), sys.stdout, indent=1)
