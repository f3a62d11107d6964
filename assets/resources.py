"""The engine as a Dagster resource: settings are read when a run or a tick asks for them, never at import."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from sync_pipeline.settings import Settings
from sync_pipeline.stores import Stores


class Engine(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Opens the stores that the `SYNC_*` variables name."""

    @contextmanager
    def stores(self) -> Iterator[Stores]:
        """Both sides, closed at the end. Raises SettingError naming every setting that is missing or wrong."""
        stores = Stores(Settings.from_env())
        try:
            yield stores
        finally:
            stores.close()
