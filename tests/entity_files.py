"""Entity files as a user writes them: a package on disk that SYNC_ENTITIES names, for as long as a test lasts."""

import importlib
import itertools
import sys
from pathlib import Path

_NUMBERS = itertools.count(1)
_HEAD = """
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import KeyRanges, Monthly
from sync_pipeline.sinks.media_bucket import MediaBucket
from sync_pipeline.sinks.relational import RelationalTable
from sync_pipeline.sinks.search_index import SearchIndex
from sync_pipeline.sources.outbox import Outbox
from sync_pipeline.sources.sweep_only import SweepOnly
from sync_pipeline.sources.table import Literal, Table
from sync_pipeline.sources.wal import Wal
"""


def entity_file(name: str, query: str, tables: str, columns: dict[str, str], **options: str) -> str:
    """The text of an entity file; options are expressions, by the name of Entity's argument.

    `key`, `target`, `head` and `more_sinks` are of the query, the table, the imports and the sinks.
    """
    key = options.pop("key", "('id',)")
    target = options.pop("target", f"'catalog.{name}'")
    head = options.pop("head", "")
    more_sinks = options.pop("more_sinks", "")
    target_key = options.pop("target_key", key)
    declared = {
        "name": repr(name),
        "owner": "'team:tests'",
        "origin": f"LegacyQuery({query!r}, key={key})",
        "tables": tables,
        "adapt": "lambda legacy: {name: legacy[name] for name in legacy.columns}",
        "sinks": f"(RelationalTable({target}, key={target_key}, columns={columns!r}), {more_sinks})",
        "partitions": "KeyRanges(1)",
        **options,
    }
    arguments = "".join(f"    {argument}={value},\n" for argument, value in declared.items())
    return f"{_HEAD}{head}\n\nentity = Entity(\n{arguments})\n"


def use_package(monkeypatch, folder: Path, **files: str) -> str:
    """Write a package of these modules, and point SYNC_ENTITIES at it; gives the package's name."""
    package = f"entity_files_{next(_NUMBERS)}"
    (folder / package).mkdir()
    (folder / package / "__init__.py").touch()
    for module, text in files.items():
        (folder / package / f"{module}.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))  # of commands that are programs of their own
    monkeypatch.setenv("SYNC_ENTITIES", package)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    importlib.invalidate_caches()
    return package
