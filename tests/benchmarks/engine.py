"""The engine in a program of its own: fills every partition of every entity, then prints what it took as JSON."""

from __future__ import annotations

import importlib
import json
import resource
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from functools import wraps
from pathlib import Path

from sync_pipeline.batch import delivery, prepare
from sync_pipeline.entities import origin
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.files import load_entities
from sync_pipeline.entity import Entity
from sync_pipeline.ledger.ledger import Ledger
from sync_pipeline.run.backfill import backfill_all
from sync_pipeline.settings import Settings
from sync_pipeline.sinks.media import place
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.table.declaration import TableDeclaration
from sync_pipeline.stores.stores import Stores

# the product imports them at their first use, which a run's clock leaves out as it leaves out all other imports
_CLIENTS = ("boto3.s3.transfer", "botocore.config", "elasticsearch", "pandas", "sqlalchemy")
# where a batch's time goes; the rest is commits, what is owed, and waiting for the interpreter
PHASES = {
    "read": (origin, "copy_text_capped"),
    "parse": (origin, "read_copy"),
    "look": (Ledger, "prior"),
    "adapt": (prepare, "adapt"),
    "files": (place, "place"),
    "ledger": (Ledger, "append"),
    "rows": (TableDeclaration, "append"),
    "make documents": (SearchIndex, "documents"),
    "bulk": (SearchIndex, "write"),
    "close": (delivery, "_close"),
}


def main() -> None:
    """Run over the environment's stores; `without-documents` leaves the index out."""
    spent = dict.fromkeys(PHASES, 0.0)
    for name, (owner, attribute) in PHASES.items():
        setattr(owner, attribute, _timed(getattr(owner, attribute), spent, name))
    for name in _CLIENTS:
        importlib.import_module(name)
    began, at_start = time.monotonic(), time.process_time()
    rows = files = 0
    entities = load_entities("assets.entities").values()
    with closing(Stores(Settings.from_env())) as stores:
        for entity in entities:
            chosen = _without_documents(entity) if "without-documents" in sys.argv else entity
            for part in backfill_all(EntityContext.open(chosen, stores), entity.partitions.names()):
                rows, files = rows + part.rows, files + part.files
        workers = stores.settings.backfill_workers
    report = {
        "rows": rows,
        "files": files,
        "seconds": time.monotonic() - began,
        "cpu_seconds": time.process_time() - at_start,
        "peak_mb": peak_mb(),
        "workers": workers,
        "phases": spent,
    }
    print(json.dumps(report))


def peak_mb() -> float:
    """Most memory this program ever held; of Linux, without what its parent held before."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    unit = 1024 * 1024 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _without_documents(entity: Entity) -> Entity:
    return replace(entity, sinks=tuple(sink for sink in entity.sinks if not isinstance(sink, SearchIndex)))


def _timed(function, spent, name):
    lock = threading.Lock()

    @wraps(function)
    def timed(*args, **kwargs):
        began = time.monotonic()
        try:
            return function(*args, **kwargs)
        finally:
            with lock:
                spent[name] += time.monotonic() - began

    return timed


if __name__ == "__main__":
    main()
