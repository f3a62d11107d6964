"""Whether commits of the monolith would wait for our reader of its log.

PostgreSQL counts every reader of the log as a standby, logical ones included. Where `synchronous_standby_names` holds
`*`, our reader may be the standby that commits wait for. It acknowledges a change only once the new side has it, which
is after it sees the commit: both would wait for each other.
"""

from __future__ import annotations

import re

from sync_pipeline.db.sql import Cursor

# a standby's name, quoted or not
_NAME = re.compile(r'"((?:[^"]|"")*)"|([^\s,()"]+)')
REMEDY = (
    "name the standbys in synchronous_standby_names, for example 'FIRST 1 (standby_a, standby_b)', by the"
    " application_name of each one's primary_conninfo"
)


def waits_for_readers(cursor: Cursor) -> str | None:
    """Why commits would wait for our reader; None where they do not."""
    cursor.execute("SELECT current_setting('synchronous_standby_names')")
    (setting,) = cursor.fetchone()
    if "*" not in {quoted or bare for quoted, bare in _NAME.findall(setting)}:
        return None
    return f"synchronous_standby_names is {setting!r}: commits of the monolith would wait for our reader of its log"
