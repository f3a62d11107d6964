"""What a check needs of the engine's resource, so that checks know nothing of whoever provides it."""

from contextlib import AbstractContextManager
from typing import Protocol

from sync_pipeline.stores.stores import Stores


class OpensStores(Protocol):
    """The engine's resource."""

    def stores(self, run_id: str | None = None) -> AbstractContextManager[Stores]:
        """Both sides; the heart of a run beats while they are open."""
