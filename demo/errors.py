"""The demo's one error: a sentence that says what is missing and what to do."""

from __future__ import annotations


class DemoError(Exception):
    """Something the demo needs is not there or did not work; shown as it is, exit code 2."""
