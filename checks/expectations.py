"""Expectations as asset checks: on an entity's table, and on the legacy rows that its adapter relies on.

Great Expectations is imported by a check that runs, and by nothing else: it takes many seconds and 260 MB.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

import dagster as dg

from checks.data_docs import DataDocs
from checks.expect import ERROR, WARNING, HasType, Severity
from checks.report import Report, Result
from checks.stores_resource import OpensStores
from checks.suite import NEW, Side
from sync_pipeline.errors import SettingError, UnreachableError
from sync_pipeline.stores.stores import Stores

if TYPE_CHECKING:
    from checks.validation import Validator

NAME = "expectations"
POOL = "expectations"
_SEVERITIES = {ERROR: dg.AssetCheckSeverity.ERROR, WARNING: dg.AssetCheckSeverity.WARN}
_TABLE = dg.TableSchema(
    [
        dg.TableColumn("ok", "string", "yes, or what it means that it does not hold"),
        dg.TableColumn("expectation", "string", "what should hold"),
        dg.TableColumn("column", "string"),
        dg.TableColumn("observed", "string"),
        dg.TableColumn("unexpected", "int", "rows for which it does not hold"),
        dg.TableColumn("samples", "string", "some of these rows, by key"),
    ]
)
_NAMED = 3


@dataclass
class _Seen:
    """Reports of the sides that could be looked at, and what went wrong with the others or with the Data Docs."""

    reports: dict[dg.AssetCheckKey, Report] = field(default_factory=dict)
    faults: dict[dg.AssetCheckKey, str] = field(default_factory=dict)
    unpublished: str = ""


def expectation_checks(sides: Sequence[Side], asset_of: Callable[[Side], dg.AssetKey]) -> dg.AssetChecksDefinition:
    """The checks of an entity's sides, each on its asset; they run together or apart."""
    by_key = {dg.AssetCheckKey(asset_of(side), check_name(side)): side for side in sides}
    specs = [dg.AssetCheckSpec(key.name, asset=key.asset_key, description=_about(side)) for key, side in by_key.items()]

    @dg.multi_asset_check(
        name=f"expect_{sides[0].entity}", specs=specs, can_subset=True, pool=POOL, required_resource_keys={"engine"}
    )
    def expect(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        chosen = {key: side for key, side in by_key.items() if key in context.selected_asset_check_keys}
        error_share, docs = _error_share(os.environ), DataDocs.from_env()
        engine = cast(OpensStores, context.resources.engine)
        with engine.stores(context.run.run_id) as stores:
            seen = _look(chosen, stores, docs, context.run.run_id)
        for key in chosen:
            report = seen.reports.get(key)
            yield _result(key, report, docs, error_share) if report else _unseen(key, seen)
        wrong = [*seen.faults.values(), *filter(None, [seen.unpublished])]
        if wrong:
            raise dg.Failure("\n".join(wrong), allow_retries=False)

    return expect


def check_name(side: Side) -> str:
    """Legacy tables are shared by entities, so that a check on one names its entity."""
    return NAME if side.side == NEW else f"{NAME}_{side.entity}"


def _look(chosen: Mapping[dg.AssetCheckKey, Side], stores: Stores, docs: DataDocs, run: str) -> _Seen:
    """Validate side after side and publish. A failure of one side or of publishing does not hide what else is found."""
    from checks.validation import Validator

    seen, ledger_id = _Seen(), None
    with suppress(UnreachableError):  # then the new side cannot be looked at either, and says why
        ledger_id = stores.ledger_id()
    try:
        with docs.opened() as folder:
            validator = Validator(stores.settings, folder, run, ledger_id)
            _validate(validator, chosen, seen)
            validator.publish(docs.keep)
    except Exception as error:  # whatever folder and bucket raise
        seen.unpublished = f"the Data Docs in {docs.home} could not be published: {_reason(error)}"
    if unseen := {key: side for key, side in chosen.items() if key not in seen.reports and key not in seen.faults}:
        # rows are looked at all the same, and told without pages
        with tempfile.TemporaryDirectory(prefix="expectations-") as made:
            _validate(Validator(stores.settings, Path(made), run, ledger_id), unseen, seen)
    return seen


def _validate(validator: "Validator", chosen: Mapping[dg.AssetCheckKey, Side], seen: _Seen) -> None:
    """Validate side after side. Raises OSError where results cannot be written."""
    for key, side in chosen.items():
        try:
            seen.reports[key] = validator.validate(side)
        except Exception as error:  # whatever driver or library raises: it was not looked at
            if isinstance(error, OSError) and error.errno is not None:  # of a file; a database's has no number
                raise
            seen.faults[key] = f"expectations of {side.table} could not be looked at: {_reason(error)}"


def _result(key: dg.AssetCheckKey, report: Report, docs: DataDocs, error_share: float) -> dg.AssetCheckResult:
    severity = report.severity(error_share)
    return dg.AssetCheckResult(
        passed=severity is None,
        asset_key=key.asset_key,
        check_name=key.name,
        severity=_SEVERITIES[severity or ERROR],
        description=_message(report),
        metadata={
            "Data Docs": dg.MetadataValue.url(docs.address(report.page)),
            "rows": report.rows,
            "expectations": len(report.results),
            "broken": len(report.broken),
            "unexpected": sum(result.unexpected for result in report.broken),
            "results": dg.MetadataValue.table([_record(result, error_share) for result in _order(report)], _TABLE),
        },
    )


def _unseen(key: dg.AssetCheckKey, seen: _Seen) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=False,
        asset_key=key.asset_key,
        check_name=key.name,
        severity=dg.AssetCheckSeverity.ERROR,
        description=seen.faults.get(key) or seen.unpublished,
    )


def _message(report: Report) -> str:
    if not report.broken:
        return f"All {len(report.results)} expectations hold; {report.rows:,} rows looked at"
    named = [f"{result.expectation.words} ({result.observed})" for result in report.broken[:_NAMED]]
    more = len(report.broken) - len(named)
    rest = f"; and {more} more" if more else ""
    return f"{len(report.broken)} of {len(report.results)} expectations are broken: {'; '.join(named)}{rest}"


def _order(report: Report) -> list[Result]:
    """What is broken comes first."""
    return [*report.broken, *(result for result in report.results if result.met)]


def _record(result: Result, error_share: float) -> dg.TableRecord:
    return dg.TableRecord(
        {
            "ok": "yes" if result.met else result.severity(error_share).value,
            "expectation": result.expectation.words,
            "column": result.expectation.about,
            "observed": result.observed,
            "unexpected": result.unexpected,
            "samples": result.samples,
        }
    )


def _about(side: Side) -> str:
    rows = f"rows of `{side.table}`" if side.side == NEW else f"the legacy rows that {side.entity}'s adapter relies on"
    message = [f"{one.words}{_mark(one.weight)}" for one in side.expectations if not isinstance(one, HasType)]
    typed = ["columns are of the types they are declared with"] * (len(message) < len(side.expectations))
    return "\n- ".join((f"What is expected of {rows}:", *typed, *message))


def _mark(weight: Severity) -> str:
    return "" if weight is ERROR else " (a warning)"


def _error_share(env: Mapping[str, str]) -> float:
    text = env.get("SYNC_EXPECTATIONS_ERROR_SHARE", "").strip() or "0.2"
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise SettingError(f"SYNC_EXPECTATIONS_ERROR_SHARE must be a number from 0 to 1, not {text!r}")
    return share


def _reason(error: BaseException) -> str:
    """The first line of what is at the bottom of it: libraries wrap each other's errors."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
