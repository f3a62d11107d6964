"""The engine as a Dagster resource: settings are read when a run or a tick asks for them, never at import."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import dagster as dg

from sync_pipeline.run.heartbeat import beating
from sync_pipeline.settings import Settings
from sync_pipeline.stores.stores import Stores


class Engine(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Opens the stores that the `SYNC_*` variables name."""

    @contextmanager
    def stores(self, run_id: str | None = None) -> Iterator[Stores]:
        """Both sides, closed at the end; a run's heart beats meanwhile, so that it is missed when it is killed.

        Raises SettingError naming every setting that is missing or wrong.
        """
        stores = Stores(Settings.from_env())
        stores.worker = run_id or stores.worker
        try:
            with beating(stores, run_id) if run_id else nullcontext():
                yield stores
        finally:
            stores.close()
