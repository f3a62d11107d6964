"""What a validation found, as a table that people read. Made of Great Expectations' own JSON, without importing it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from checks.expect import ERROR, Expectation, Severity

SAMPLES = 10
_LONGEST_VALUE, _LONGEST_CELL = 80, 400


@dataclass(frozen=True)
class Result:
    """One expectation against the rows. `fault` says why it could not be looked at; then it is not met."""

    expectation: Expectation
    met: bool
    observed: str
    unexpected: int = 0
    rows: int = 0
    samples: str = ""
    fault: str = ""

    @property
    def share(self) -> float:
        """The part of the rows that is unexpected, 0 to 1; all of them where it is about the column."""
        if not self.expectation.of_rows:
            return float(not self.met)
        return self.unexpected / self.rows if self.rows else 0.0

    def severity(self, error_share: float) -> Severity:
        """What it means if it is not met: a warning about too many rows, or about nothing seen, is an error."""
        return ERROR if self.fault or self.share > error_share else self.expectation.weight


@dataclass(frozen=True)
class Report:
    """All expectations of a side against its rows; `page` is the validation's place in the Data Docs."""

    results: tuple[Result, ...]
    page: str

    @property
    def rows(self) -> int:
        """How many rows were looked at."""
        return max((result.rows for result in self.results), default=0)

    @property
    def broken(self) -> list[Result]:
        """Expectations that are not met: those that could not be looked at first, then errors."""
        broken = (result for result in self.results if not result.met)
        return sorted(broken, key=lambda result: (not result.fault, result.expectation.weight is not ERROR))

    def severity(self, error_share: float) -> Severity | None:
        """The worst of what is broken; None when nothing is."""
        found = {result.severity(error_share) for result in self.broken}
        return None if not found else ERROR if ERROR in found else found.pop()


def result(expectation: Expectation, found: Mapping[str, Any]) -> Result:
    """One expectation's result of Great Expectations' JSON."""
    fault = _fault(found.get("exception_info") or {})
    seen = found.get("result") or {}
    met = bool(found.get("success")) and not fault
    if not met and not fault and not seen:
        fault = "Great Expectations gave no result"
    shown = expectation.of_rows and not (met and expectation.mostly == 1)
    return Result(
        expectation,
        met,
        observed=_observed(expectation, seen, fault),
        unexpected=int(seen.get("unexpected_count") or 0),
        rows=int(seen.get("element_count") or 0),
        samples=_cut("; ".join(_samples(seen)), _LONGEST_CELL) if shown else "",
        fault=fault,
    )


def _fault(info: Mapping[str, Any]) -> str:
    """The first message of an exception; there is one for each metric that failed."""
    raised = [info] if "raised_exception" in info else list(info.values())
    messages = [str(one.get("exception_message") or "an exception") for one in raised if one.get("raised_exception")]
    return _cut(messages[0].strip().splitlines()[0], _LONGEST_CELL) if messages else ""


def _observed(expectation: Expectation, seen: Mapping[str, Any], fault: str) -> str:
    if fault:
        return f"not looked at: {fault}"
    if not expectation.of_rows:
        return "; ".join(_samples(seen)) or "so it is"
    if "observed_value" in seen:
        return _cut(str(seen["observed_value"]), _LONGEST_CELL)
    rows, unexpected = int(seen.get("element_count") or 0), int(seen.get("unexpected_count") or 0)
    if not unexpected:
        return f"holds for all {rows:,} rows"
    return f"not so for {unexpected:,} of {rows:,} rows ({_percent(unexpected / rows if rows else 1)})"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def _samples(seen: Mapping[str, Any]) -> Iterator[str]:
    """Rows by key where that is known, else bare values."""
    rows = seen.get("partial_unexpected_index_list")
    if rows is None:
        rows = seen.get("partial_unexpected_list") or ()
    for row in rows[:SAMPLES]:
        yield (
            ", ".join(f"{name} {_value(value)}" for name, value in row.items())
            if isinstance(row, Mapping)
            else _value(row)
        )


def _cells(row: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_value(value)}" for name, value in row.items())


def _value(value: Any) -> str:
    return "NULL" if value is None else _cut(str(value), _LONGEST_VALUE)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
