"""Sessions at PostgreSQL: their names, how long they may wait, and whether they are what was asked for.

A session of ours must not hurt a database that other people use. It gives up a lock after seconds, it ends when its
process or host is lost, and its name says whose it is. Settings that later statements depend on travel in libpq's
`options`; they are read back once for each connection, because connection poolers drop them without a word. Then
they are set by SQL.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache, partial
from types import MappingProxyType
from typing import Any

import psycopg2
import psycopg2.extensions
import psycopg2.extras

from sync_pipeline.db.libpq import arguments, options_of, url_faults, without_options
from sync_pipeline.db.sql import Connection
from sync_pipeline.errors import SettingError, UnreachableError
from sync_pipeline.model.faults import guarded
from sync_pipeline.settings import Settings
from sync_pipeline.stores import poolers

APPLICATION = "sync-pipeline"
# stands for the ledger's id while there is no ledger
NO_LEDGER = "-"
# PostgreSQL cuts names at 63 bytes; what is left of them holds a ledger's id and an epoch of ten digits
_ENTITY_BYTES = 29
_DIGEST_DIGITS = 8
# how long a session of the new side waits for a lock that another batch of ours may hold
_TARGET_LOCK_SECONDS = 60
# a rested connection is replaced before the server ends it
REST_LIMIT_SECONDS = 15.0
_IDLE_SECONDS = 20
_IDLE_IN_TRANSACTION_SECONDS = 25
_EXPECTATION_IDLE_SECONDS = 300
_EXPIRED = {"55P03", "57014", "25P04"}
# values that a server may refuse although it knows the parameter, as on platforms without the means for it
_REFUSED = (psycopg2.DataError, psycopg2.ProgrammingError, psycopg2.NotSupportedError)

# libpq: a host that is lost is noticed within 25 s, also while data is on its way to it
CLIENT: dict[str, Any] = {
    "connect_timeout": 5,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
    "client_encoding": "UTF8",
}
# the same from the server's end, which has defaults of two hours
_KEEPALIVES = {"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}
_LOST_CLIENT = {**_KEEPALIVES, "tcp_user_timeout": "25000", "client_connection_check_interval": "5s"}
# text forms that digests and COPY depend on
_PINS = {
    "timezone": "UTC",
    "datestyle": "ISO,YMD",
    "intervalstyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "xmloption": "content",
}
_READS = {"default_transaction_read_only": "on"}
# first words of statements; any other may be somebody's value, typed into the wrong window
_KEYWORDS = (
    *("SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "COPY", "WITH", "VALUES", "TRUNCATE", "LOCK", "TABLE"),
    *("BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE", "PREPARE", "EXECUTE", "SET"),
    *("SHOW", "RESET", "DISCARD", "DECLARE", "FETCH", "MOVE", "CLOSE", "LISTEN", "NOTIFY", "UNLISTEN", "DO", "CALL"),
    *("CREATE", "ALTER", "DROP", "GRANT", "REVOKE", "COMMENT", "ANALYZE", "VACUUM", "CLUSTER", "REINDEX", "REFRESH"),
    *("EXPLAIN", "CHECKPOINT", "IMPORT", "REASSIGN", "SECURITY"),
)
_APPLY = """
    SELECT w.name, CASE WHEN w.pinned THEN current_setting(s.name) ELSE set_config(s.name, w.value, false) END
    FROM (VALUES %s) w (name, value, pinned) JOIN pg_settings s ON lower(s.name) = w.name
    UNION ALL SELECT 'backend', pg_backend_pid()::text
"""
# a pooler answers a client with a number of its own, not with the server process
_BACKEND = "backend"
# how PgBouncer refuses what a client asks for before its first statement
_UNSUPPORTED = "unsupported startup parameter"


class Purpose(StrEnum):
    """What a session's statements are for, which limits how long one of them may take."""

    LOOK = "a look"  # the catalogue, clocks, sessions, a row of the ledger
    POLL = "a poll"  # what has changed since the poll before
    PAGE = "a page"  # rows or digests of some thousand keys
    WHOLE = "a whole table"  # counts and cuts, and our own DDL: only locks are limited


_LIMITS = {
    Purpose.LOOK: ("SYNC_LOOK_TIMEOUT_SECONDS", "look_timeout_seconds"),
    Purpose.POLL: ("SYNC_POLL_TIMEOUT_SECONDS", "poll_timeout_seconds"),
    Purpose.PAGE: ("SYNC_PAGE_TIMEOUT_SECONDS", "page_timeout_seconds"),
}


@dataclass(frozen=True)
class Profile:
    """What all sessions of one kind have in common; `setting` names the database in messages."""

    setting: str
    pins: Mapping[str, str]
    limits: Mapping[str, str]
    lock_setting: str = ""
    held: Mapping[str, str] = field(default_factory=dict)  # what later statements may change, as it is at the start

    @property
    def options(self) -> str:
        """The pins as libpq takes them."""
        return " ".join(f"-c {name}={value}" for name, value in self.pins.items())


class Session(psycopg2.extensions.connection):
    """A connection that knows which settings it has, so that one that holds already is not sent again."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.held: dict[str, str] = {}


def legacy_profile(settings: Settings, setting: str) -> Profile:
    """Sessions that read the monolith, or its replica: they wait for no lock for longer than some seconds."""
    row_security = {"row_security": "off" if guarded(70) else "on"}
    limits = {
        **_LOST_CLIENT,
        "lock_timeout": _milliseconds(settings.lock_timeout_seconds),
        "idle_in_transaction_session_timeout": f"{_IDLE_IN_TRANSACTION_SECONDS}s",
        "idle_session_timeout": f"{_IDLE_SECONDS}s",
    }
    pins = {**_PINS, **_READS, "jit": "off", **row_security}
    return Profile(setting, pins, limits, "SYNC_LOCK_TIMEOUT_SECONDS", row_security)


def target_profile() -> Profile:
    """Sessions at the new side, which wait for each other's keys."""
    limits = {
        **_LOST_CLIENT,
        "lock_timeout": f"{_TARGET_LOCK_SECONDS}s",
        "idle_in_transaction_session_timeout": f"{_IDLE_IN_TRANSACTION_SECONDS}s",
        "idle_session_timeout": f"{_IDLE_SECONDS}s",
    }
    return Profile("SYNC_TARGET_DB", {**_PINS, "standard_conforming_strings": "on", "jit": "off"}, limits)


def stream_profile() -> Profile:
    """Sessions that read the monolith's log or listen: they are idle for hours, and pause while a batch is written."""
    return Profile("SYNC_LEGACY_DB", _PINS, {**_KEEPALIVES, "client_connection_check_interval": "5s"})


def owner_profile(setting: str) -> Profile:
    """Sessions of an owner who changes the monolith's tables for us; each step waits for less (`sources/ddl.py`)."""
    return Profile(setting, {}, {**_LOST_CLIENT, "lock_timeout": "3s"})


def expectation_profile(settings: Settings, setting: str, *, legacy: bool, filtered: bool) -> Profile:
    """Sessions that Great Expectations asks; one statement may read a whole table."""
    limits = {
        **_LOST_CLIENT,
        "lock_timeout": _milliseconds(settings.lock_timeout_seconds),
        "idle_in_transaction_session_timeout": f"{_EXPECTATION_IDLE_SECONDS}s",
    }
    shown = {"row_security": "on" if filtered or not guarded(70) else "off"} if legacy else {}
    return Profile(setting, {**_READS, "timezone": "UTC", "jit": "off", **shown}, limits)


@lru_cache
def name_of_session(ledger_id: str | None, entity: str = "", epoch: int | None = None) -> str:
    """`sync-pipeline/LEDGER/ENTITY/EPOCH`, as far as it is known; what two slashes enclose says that it is ours."""
    parts = [APPLICATION, ledger_id or NO_LEDGER]
    if entity:
        parts.append(name_of_entity(entity))
        if epoch is not None:
            parts.append(str(epoch))
    return "/".join(parts)


def name_of_entity(entity: str) -> str:
    """An entity's name as sessions bear it: a long one ends in a digest of the whole."""
    if len(entity.encode()) <= _ENTITY_BYTES:
        return entity
    digest = hashlib.sha256(entity.encode()).hexdigest()[:_DIGEST_DIGITS]
    return f"{entity[: _ENTITY_BYTES - _DIGEST_DIGITS - 1]}~{digest}"


def ours(alias: str) -> str:
    """SQL: whether a row of pg_stat_activity is a session of this ledger, as the session that asks is."""
    same = f"split_part({alias}.application_name, '/', 2) = split_part(current_setting('application_name'), '/', 2)"
    ledger = same if guarded(75) else "true"
    return (
        f"({alias}.usename = current_user AND split_part({alias}.application_name, '/', 1) = '{APPLICATION}'"
        f" AND {ledger})"
    )


def keyword(query: str) -> str:
    """SQL: what a statement does, by its first word; its values, and whatever else it may hold, stay where they are."""
    words = ", ".join(f"'{word}'" for word in _KEYWORDS)
    first = f"upper(substring({query} from '^\\s*([A-Za-z]+)'))"
    return f"CASE WHEN {first} IN ({words}) THEN {first} END"


def settings_for(settings: Settings, purpose: Purpose) -> dict[str, str]:
    """What a session must hold for statements of a purpose."""
    limit = _LIMITS.get(purpose)
    return {"statement_timeout": _milliseconds(getattr(settings, limit[1])) if limit else "0"}


def connect(url: str, profile: Profile, name: str, factory: type[Connection] | None = None, **more: Any) -> Connection:
    """Open a session that is limited before its first statement, to be closed by the caller.

    Parameters of the URL hold beside ours (`libpq.arguments`). Raises psycopg2.Error, and SettingError where a pooler
    between here and the database does not keep what a session needs.
    """
    ours = {**CLIENT, **more, "application_name": name}
    with_factory = {**ours, "connection_factory": factory} if factory else ours
    connection: Connection
    try:
        connection = psycopg2.connect(**arguments(url, with_factory, profile.options))
    except psycopg2.OperationalError as error:
        if _UNSUPPORTED not in str(error):
            raise
        if f"{_UNSUPPORTED}: options" not in str(error) and f"{_UNSUPPORTED} in options" not in str(error):
            raise SettingError(_unsupported(profile, error)) from error
        connection = psycopg2.connect(**without_options(arguments(url, with_factory)))
    try:
        if prepare(connection, profile, options_of(url)):
            bare = without_options(arguments(url, ours))
            again = partial(psycopg2.connect, **bare, async_=True)
            poolers.refuse_pooled_transactions(connection, profile.setting, again)
    except BaseException:
        connection.close()
        raise
    return connection


def prepare(connection: Connection, profile: Profile, asked: Mapping[str, str] = MappingProxyType({})) -> bool:
    """Limit a new connection as its profile says, leaving out what the server does not know, and check its pins.

    One journey. Where a pooler has dropped libpq's options, the pins and what the URL's options `asked` are set by SQL.
    Returns whether a pooler is between here and the database, as far as that shows. Raises SettingError where the
    pins do not hold even so, psycopg2.Error where the server does not answer.
    """
    # a connection that reads the log is without transactions, and does not say so
    autocommit = getattr(connection, "autocommit", None)
    if autocommit is False:
        connection.autocommit = True
    with connection.cursor(cursor_factory=psycopg2.extensions.cursor) as cursor:
        try:
            found = _apply(cursor, profile, profile.limits)
        except _REFUSED:
            known = {name: value for name, value in profile.limits.items() if _is_taken(cursor, profile, name, value)}
            found = _apply(cursor, profile, known)
        if _missing(profile, found):
            for name, value in asked.items():  # also those of extensions, which pg_settings does not list
                cursor.execute("SELECT set_config(%s, %s, false)", (name, value))
            _apply(cursor, Profile(profile.setting, {}, {}), profile.pins)
            found = _apply(cursor, profile, {})
    if autocommit is False:
        connection.autocommit = False
    for name, value in _missing(profile, found).items():
        raise SettingError(_dropped(profile, name, value, found[name]))
    if isinstance(connection, Session):
        connection.held = dict(profile.held)
    return found.get(_BACKEND, "") not in {"", str(connection.info.backend_pid)}


def _missing(profile: Profile, found: Mapping[str, str]) -> dict[str, str]:
    """Pins that the session does not have, of those that the server knows."""
    return {name: value for name, value in profile.pins.items() if _plain(found.get(name, value)) != _plain(value)}


def connect_owner(url: str, setting: str = "SYNC_LEGACY_OWNER_DB") -> Connection:
    """Connect as the owner of the monolith's tables; the caller closes it. Raises SettingError, psycopg2.Error."""
    for fault in url_faults(setting, url):
        raise SettingError(fault)
    return connect(url, owner_profile(setting), f"{APPLICATION} install")


def expired(error: psycopg2.Error, profile: Profile, settings: Settings, purpose: Purpose) -> UnreachableError | None:
    """What to raise where a limit of ours ended a statement; None for any other error."""
    if not is_expired(error):
        return None
    message = str(error).strip().splitlines()[0]
    if error.pgcode == "55P03" and profile.lock_setting:
        seconds = f"{settings.lock_timeout_seconds:g}"
        return UnreachableError(
            f"{profile.setting}: {message}: {purpose} waits for a lock of another session for {seconds} s at most"
            f" ({profile.lock_setting}); it is tried again"
        )
    if error.pgcode == "55P03":
        return UnreachableError(
            f"{profile.setting}: {message}: {purpose} waits for a lock for {_TARGET_LOCK_SECONDS} s at most;"
            " it is tried again"
        )
    limit = _LIMITS.get(purpose)
    if limit is None:
        return UnreachableError(f"{profile.setting}: {message}; it is tried again")
    return UnreachableError(
        f"{profile.setting}: {message}: {purpose} may take {getattr(settings, limit[1]):g} s ({limit[0]});"
        " it is tried again"
    )


def refusal(error: psycopg2.Error) -> str:
    """What the monolith refuses our role, and the remedy where it would have hidden rows without a word."""
    message = str(error).strip().splitlines()[0]
    if "row-level security" not in message:
        return message
    return (
        f"{message}: what a policy hides would look like deleted rows. ALTER ROLE … BYPASSRLS for our role, or, where"
        ' its policies show all that is meant to move, say so: Table(…, policies="complete")'
    )


def is_expired(error: psycopg2.Error) -> bool:
    """Whether a limit on locks or time ended a statement, or a person did; its connection can be used on."""
    return error.pgcode in _EXPIRED


def _apply(cursor: psycopg2.extensions.cursor, profile: Profile, limits: Mapping[str, str]) -> dict[str, str]:
    rows = [(name, value, False) for name, value in limits.items()]
    rows += [(name, value, True) for name, value in profile.pins.items()]
    if not rows:
        return {}
    return dict(psycopg2.extras.execute_values(cursor, _APPLY, rows, page_size=len(rows), fetch=True))


def _is_taken(cursor: psycopg2.extensions.cursor, profile: Profile, name: str, value: str) -> bool:
    try:
        _apply(cursor, Profile(profile.setting, {}, {}), {name: value})
    except _REFUSED:
        return False
    return True


def _dropped(profile: Profile, name: str, wanted: str, found: str) -> str:
    return (
        f"{profile.setting}: the session has {name} = {found!r} and not {wanted!r}, though it was asked for in libpq's"
        " options and by SET: a connection pooler between here and the database drops it (PgBouncer: set pool_mode ="
        " session). Let the pooler pass it, or connect to the database itself"
    )


def _unsupported(profile: Profile, error: psycopg2.Error) -> str:
    message = str(error).strip().splitlines()[0]
    return (
        f"{profile.setting}: {message}: a connection pooler between here and the database does not pass it on. Connect"
        " to the database itself, which reading the log (source wal) needs in any case"
    )


def _plain(value: str) -> str:
    return value.replace(" ", "").lower()


def _milliseconds(seconds: float) -> str:
    # no less than one: 0 would be without limit
    return str(max(1, round(seconds * 1000)))
