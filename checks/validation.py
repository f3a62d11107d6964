"""Sides are validated by Great Expectations, and its Data Docs are published.

Importing this module imports Great Expectations (many seconds, 260 MB): only a check that runs does.
"""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

# read when it is imported
os.environ["GX_ANALYTICS_ENABLED"] = "false"

import great_expectations as gx
import great_expectations.expectations as gxe
import psycopg2.extensions
from great_expectations.compatibility import pydantic
from great_expectations.core.run_identifier import RunIdentifier
from great_expectations.data_context.types.base import DataContextConfig
from great_expectations.data_context.types.resource_identifiers import (
    ExpectationSuiteIdentifier,
    ValidationResultIdentifier,
)

from checks.expect import Query
from checks.pages import RESULTS, SITE, SUITES, drop_old, finish
from checks.rare_values import show_as_written
from checks.report import SAMPLES, Report, result
from checks.suite import LEGACY, Side
from sync_pipeline.errors import DeclarationError
from sync_pipeline.settings import Settings
from sync_pipeline.stores.sessions import connect, expectation_profile, name_of_session

_IN_JSON = (str, int, float, bool, dt.date)
# of an expectation in its suite, in what Great Expectations tells of it
_NUMBER = "number"
_SEVERITIES = {"error": "critical", "warning": "warning"}
# a statement that begins so would bring every row here; within another one it is only a comment
_WHOLE = "SELECT /* whole */"


# Stand for signs that mean something to SQLAlchemy, which compiles some statements twice on their way here.
_PERCENT, _COLON = "\ue025", "\ue03a"


class BoundedCursor(psycopg2.extensions.cursor):
    """Great Expectations asks for column names, and for samples, by queries that give every row: a few do."""

    def execute(self, query: Any, values: Any = None) -> None:
        """Run a statement; one that would bring all rows brings a few."""
        if isinstance(query, str):
            query = query.replace(_PERCENT, "%" if values is None else "%%").replace(_COLON, ":")
            if query.startswith(_WHOLE):
                query = f"SELECT * FROM ({query}) few LIMIT {SAMPLES}"
        super().execute(query, values)


def _engine(settings: Settings, side: Side, ledger_id: str | None) -> dict[str, Any]:
    """What Great Expectations passes to SQLAlchemy: one session, limited as all of ours."""
    legacy = side.side == LEGACY
    setting = "SYNC_LEGACY_DB" if legacy else "SYNC_TARGET_DB"
    profile = expectation_profile(settings, setting, legacy=legacy, filtered=side.is_filtered)

    url = settings.legacy_db if legacy else settings.target_db
    name = name_of_session(ledger_id, side.entity)

    def opened() -> Any:
        connection = connect(url, profile, name, cursor_factory=BoundedCursor)
        show_as_written(connection)
        return connection

    return {"pool_size": 1, "creator": opened}


class UnexpectedRows(gxe.UnexpectedRowsExpectation):  # type: ignore[misc]
    """Rows that a query gives are unexpected: counted, a few shown, and a share of them allowed."""

    mostly: float = 1.0
    metric_dependencies: ClassVar[tuple[str, ...]] = (
        "unexpected_rows_query.table",
        "unexpected_rows_query.row_count",
        "table.row_count",
    )

    @pydantic.validator("unexpected_rows_query")  # type: ignore[untyped-decorator]
    def _validate_query(cls, query: str) -> str:  # noqa: N805
        """The query names its rows itself: without this, every one is told that it has no placeholder for them."""
        return query

    def _validate(self, metrics: dict[str, Any], **_: Any) -> dict[str, Any]:
        found, rows = metrics["unexpected_rows_query.row_count"], metrics["table.row_count"]
        samples = [_shown(row) for row in metrics["unexpected_rows_query.table"][:SAMPLES]]
        return {
            "success": found == 0 or (rows > 0 and (rows - found) / rows >= self.mostly),
            "result": {
                "element_count": rows,
                "unexpected_count": found,
                "unexpected_percent": 100 * found / rows if rows else None,
                "partial_unexpected_list": [", ".join(map(str, row.values())) for row in samples],
                "partial_unexpected_index_list": samples,
            },
        }


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as JSON can hold it."""
    return {name: value if value is None or isinstance(value, _IN_JSON) else str(value) for name, value in row.items()}


class Validator:
    """Validates sides within one set of Data Docs, whose `folder` holds site, results and suites."""

    def __init__(self, settings: Settings, folder: Path, run: str, ledger_id: str | None = None) -> None:
        self._settings = settings
        self._ledger_id = ledger_id
        self._run = run
        self._folder = folder
        self._written: dict[str, Any] = {}  # pages, and what they are of
        self._context = gx.get_context(mode="ephemeral", project_config=_config(folder))

    def validate(self, side: Side) -> Report:
        """Look at a side's rows. Raises what the database's driver raises when it does not answer."""
        name = f"{side.entity}.{side.side}"
        run = RunIdentifier(run_name=self._run, run_time=dt.datetime.now(dt.UTC))
        suite = gx.ExpectationSuite(name, expectations=[_expectation(side, n) for n in range(len(side.expectations))])
        suite = self._context.suites.add_or_update(suite)
        definition = gx.ValidationDefinition(name=name, data=self._rows(side), suite=suite)
        found = self._context.validation_definitions.add(definition).run(
            result_format={
                "result_format": "SUMMARY",
                "partial_unexpected_count": SAMPLES,
                "unexpected_index_column_names": list(side.rows.key),
            },
            run_id=run,
        )
        of_suite = ExpectationSuiteIdentifier(name=name)
        of_result = ValidationResultIdentifier(of_suite, run, f"{side.side}-{side.table}")
        page = "/".join(("validations", *of_result.to_tuple())) + ".html"
        self._written |= {f"expectations/{side.entity}/{side.side}.html": of_suite, page: of_result}
        return Report(_results(side, found), page)

    def publish(self, keep: int) -> None:
        """Write the pages of what was validated, and the index; the `keep` newest results of each suite stay."""
        drop_old(self._folder, keep)
        self._context.build_data_docs(resource_identifiers=list(self._written.values()), build_index=False)
        finish(self._folder, self._written)

    def _rows(self, side: Side) -> Any:
        source = self._context.data_sources.add_or_update_postgres(
            side.side,
            connection_string="postgresql+psycopg2://role@host/database",  # `creator` knows the true one
            create_temp_table=False,
            kwargs=_engine(self._settings, side, self._ledger_id),
        )
        rows = source.add_query_asset(side.table, query=_literal(f"{_WHOLE} * FROM ({side.rows.sql}) q"))
        return rows.add_batch_definition("all rows")


def _config(folder: Path) -> DataContextConfig:
    files = {name: _files(folder / name) for name in (SITE, RESULTS, SUITES)}
    memory = {"class_name": "InMemoryStoreBackend"}
    return DataContextConfig(
        config_version=4.0,
        stores={
            "suites": {"class_name": "ExpectationsStore", "store_backend": files[SUITES]},
            "results": {"class_name": "ValidationResultsStore", "store_backend": files[RESULTS]},
            "checkpoints": {"class_name": "CheckpointStore", "store_backend": memory},
            "validation_definition_store": {"class_name": "ValidationDefinitionStore", "store_backend": memory},
        },
        expectations_store_name="suites",
        validation_results_store_name="results",
        checkpoint_store_name="checkpoints",
        data_docs_sites={
            "Data quality": {
                "class_name": "SiteBuilder",
                "store_backend": files[SITE],
                "show_how_to_buttons": False,
            }
        },
        progress_bars={"globally": False},
        analytics_enabled=False,
    )


def _files(folder: Path) -> dict[str, str]:
    return {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(folder)}


def _expectation(side: Side, n: int) -> Any:
    declared = side.expectations[n]
    call = declared.call(side.rows)
    message = {"description": declared.words, "severity": _SEVERITIES[declared.weight], "meta": {_NUMBER: n}}
    if isinstance(call, Query):
        # braces are placeholders to Great Expectations
        query = _literal(call.sql.replace("{", "{{").replace("}", "}}"))
        return UnexpectedRows(
            unexpected_rows_query=f"{_WHOLE} * FROM ({query}) unexpected", mostly=declared.mostly, **message
        )
    kind = getattr(gxe, call.name, None)
    if kind is None:
        raise DeclarationError(f"suite of {side.entity}: Great Expectations knows no {call.name}")
    return kind(**call.arguments, **message)


def _literal(sql: str) -> str:
    """SQL in which SQLAlchemy finds neither parameters nor per cent signs, until the cursor puts them back."""
    return re.sub(r"(?<!:):(?=\w)", _COLON, sql).replace("%", _PERCENT)


def _results(side: Side, found: Any) -> tuple[Any, ...]:
    """Results in the order of declaration: Great Expectations gives them in an order of its own.

    By number: two that say the same in words may ask for different things.
    """
    by_number = {one["expectation_config"]["meta"][_NUMBER]: one for one in found.to_json_dict()["results"]}
    return tuple(result(declared, by_number[n]) for n, declared in enumerate(side.expectations))
