"""Watches where aliases lead while documents are sent, so that no request goes to one of two indices for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sync_pipeline.errors import IndexFaultError
from sync_pipeline.model.faults import guarded
from sync_pipeline.stores.index_state import alias_faults

if TYPE_CHECKING:
    from elasticsearch import Elasticsearch

# A request to the cluster for so many seconds of sending. What was sent meanwhile is remembered, and sent again.
_SECONDS = 5.0
_MOST_REMEMBERED = 50_000


@dataclass
class _Alias:
    checked: float = float("-inf")
    sent: set[str] = field(default_factory=set)  # ids that were sent since it was last found well


class AliasWatch:
    """What is known of aliases, for all threads of a process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._aliases: dict[str, _Alias] = {}

    def check(self, client: Elasticsearch, alias: str, ids: Iterable[str] = (), *, at_once: bool = False) -> None:
        """Look where the alias leads, if that was not done lately, before documents are sent there.

        Raises IndexFaultError, whose `suspects` are ids that were sent since all was well; ApiError.
        """
        if not guarded(96):
            return
        with self._lock:
            known = self._aliases.setdefault(alias, _Alias())
            if at_once or time.monotonic() - known.checked > _SECONDS or len(known.sent) > _MOST_REMEMBERED:
                faults = [str(fault) for fault in alias_faults(client, alias) if fault.stops]
                if faults:
                    error = IndexFaultError(f"SYNC_SEARCH_URL: {'; '.join(faults)}. Documents stay due until then")
                    error.suspects, known.sent = sorted(known.sent), set()
                    raise error
                known.checked, known.sent = time.monotonic(), set()
            known.sent.update(ids)

    def recheck(self, alias: str) -> None:
        """Have the next request ask, because a document was not taken."""
        with self._lock:
            if alias in self._aliases:
                self._aliases[alias].checked = float("-inf")
