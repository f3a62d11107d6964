"""Takeover: a follower that takes a lost one's lease ends the sessions that the lost one left at both databases.

A host that is lost in mid-transaction leaves sessions that hold keys and wait for data that never comes. Their names
say whose they are, so the successor ends those of its entity under a lower epoch. Sessions of other entities, of
other ledgers, and those of a worker without a lease, are left alone.
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager

import psycopg2

from sync_pipeline.db.sql import Cursor
from sync_pipeline.errors import SyncError
from sync_pipeline.model.faults import guarded
from sync_pipeline.stores.sessions import Purpose, name_of_entity, ours
from sync_pipeline.stores.stores import Stores

log = logging.getLogger(__name__)

_END = """
    SELECT count(*) FILTER (WHERE pg_terminate_backend(a.pid)) FROM pg_stat_activity a
    WHERE {ours} AND a.datid = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND a.pid <> pg_backend_pid() AND split_part(a.application_name, '/', 3) = %s
      AND CASE WHEN split_part(a.application_name, '/', 4) ~ '^[0-9]{{1,18}}$'
          THEN split_part(a.application_name, '/', 4)::bigint < %s ELSE false END
"""


def end_lost_sessions(stores: Stores, entity: str, epoch: int) -> None:
    """End sessions of an entity that bear a lower epoch; a database that does not answer is noted in the log."""
    if not guarded(72):
        return
    stores.ledger_id()
    _end("new side", stores.target_at_once(Purpose.LOOK), entity, epoch)
    _end("monolith", stores.legacy(), entity, epoch)


def _end(side: str, session: AbstractContextManager[Cursor], entity: str, epoch: int) -> None:
    try:
        with session as cursor:
            cursor.execute(_END.format(ours=ours("a")), (name_of_entity(entity), epoch))
            (ended,) = cursor.fetchone()
    except (SyncError, psycopg2.Error) as error:
        log.warning("lost sessions not ended", extra={"entity": entity, "side": side, "error": str(error)})
        return
    if ended:
        log.warning("lost sessions ended", extra={"entity": entity, "side": side, "sessions": ended})
