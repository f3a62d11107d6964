"""Stores: the connections to both sides, opened lazily and closed together."""

from __future__ import annotations

import datetime as dt
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

import psycopg2
import psycopg2.extensions
from botocore.exceptions import BotoCoreError

from sync_pipeline.db import sqlstate
from sync_pipeline.db.sql import LEASE_LOST, Connection, Cursor, DeferringCursor
from sync_pipeline.errors import (
    AccessError,
    FormerReleaseError,
    LeaseLostError,
    OtherServerError,
    SettingError,
    UnreachableError,
)
from sync_pipeline.ledger.identity import read_ledger_id
from sync_pipeline.ledger.release import FORMER_RELEASE, former_release, writer_settings
from sync_pipeline.ledger.servers import READ_TOO_EARLY, Side, read_server
from sync_pipeline.model.faults import guarded
from sync_pipeline.settings import Bucket, Settings
from sync_pipeline.stores.alias_watch import AliasWatch
from sync_pipeline.stores.breaker import Breaker
from sync_pipeline.stores.few_connections import FewConnections
from sync_pipeline.stores.media_answers import MediaAnswers
from sync_pipeline.stores.replica import SETTING, await_replay, flush, identity_of, position_of
from sync_pipeline.stores.s3_sessions import s3_session
from sync_pipeline.stores.servers import LOOK_SECONDS, ServerWatch, replica_faults
from sync_pipeline.stores.sessions import (
    REST_LIMIT_SECONDS,
    Profile,
    Purpose,
    Session,
    connect,
    expired,
    is_expired,
    legacy_profile,
    name_of_session,
    refusal,
    settings_for,
    stream_profile,
    target_profile,
)

# clients cost a second to import; whoever only reads declarations does without
if TYPE_CHECKING:
    from botocore.config import Config
    from elasticsearch import Elasticsearch
    from mypy_boto3_s3 import S3Client
    from sqlalchemy import Engine

# connections that stay open between uses; what is above that is opened and closed at each use
_KEPT_CONNECTIONS = 32
# seconds to wait for a connection where all that a process may have are in use
_POOL_SECONDS = 10
# a connection that rested for longer is looked at before it is used
_REST_SECONDS = 1.0
# shorter than any index.gc_deletes, so that no write outlives the tombstone that refuses it
SEARCH_SECONDS = 30


class Closing(Protocol):
    """A client of a store."""

    def close(self) -> object:
        """Close its connections."""


ClientOf = TypeVar("ClientOf", bound=Closing)
# compares a connection's server with the recorded one; what was found is kept with the connection
Compare = Callable[[Connection, dict[Any, Any]], None]


class Stores:
    """Both databases, the search cluster and both buckets of one deployment."""

    def __init__(self, settings: Settings, *, pooled: bool = True) -> None:
        self.settings = settings
        self.pooled = pooled  # a report in one thread does without a pool, which is slow to import
        self.worker = f"{socket.gethostname()}/{os.getpid()}"  # who works with them: a run, a follower, a process
        self.search_breaker = Breaker("search")
        self.media_breaker = Breaker("media")
        self._breakers: dict[str, Breaker] = {}
        self._clients: dict[str, Closing] = {}
        self._lock = threading.Lock()
        self.media_answers = MediaAnswers()
        self.aliases = AliasWatch()
        self.ensured: set[str] = set()  # aliases that were there when they were looked for
        self.claimed: set[tuple[str, str]] = set()  # entities and prefixes that were claimed
        self.refusing: set[str] = set()  # aliases whose last request was not taken whole
        self.epochs: dict[str, int] = {}  # of the leases that this process holds, by entity
        self.servers = ServerWatch(self.target, self.target_at_once)
        # the primary's timeline as this process knew it when both were compared, and when that was
        self._replica_known: tuple[int | None, float] = (None, 0.0)
        self._ledger_id: str | None = None

    @cached_property
    def legacy_engine(self) -> Engine:
        """The monolith's database: read only, one statement a transaction."""
        return self._engine(self.settings.legacy_db, self._legacy_profile)

    @cached_property
    def replica_engine(self) -> Engine:
        """The monolith's replica, if there is one: where rows are read."""
        return self._engine(self.settings.legacy_replica_db, self._replica_profile)

    @cached_property
    def target_engine(self) -> Engine:
        """The new side's database, which holds the ledger too."""
        return self._engine(self.settings.target_db, self._target_profile)

    @cached_property
    def _legacy_profile(self) -> Profile:
        return legacy_profile(self.settings, "SYNC_LEGACY_DB")

    @cached_property
    def _replica_profile(self) -> Profile:
        return legacy_profile(self.settings, SETTING)

    @cached_property
    def _target_profile(self) -> Profile:
        return target_profile()

    def breaker(self, store: str) -> Breaker:
        """Return the breaker of a store, by a name of its own."""
        with self._lock:
            return self._breakers.setdefault(store, Breaker(store))

    def client(self, store: str, make: Callable[[], ClientOf]) -> ClientOf:
        """Return the client of a store, by a name of its own; made the first time, and closed with the stores."""
        with self._lock:
            if store not in self._clients:
                self._clients[store] = make()
            return cast(ClientOf, self._clients[store])

    def of_entity(self, entity: str, *, filtered: bool = False) -> EntityStores:
        """These stores, for the work on one entity: its sessions bear its name.

        `filtered` says that the monolith's row-level security may leave rows out of what it reads.
        """
        return EntityStores(self, entity, filtered)

    @property
    def entity(self) -> str:
        """The entity that these stores are opened for; empty where they are for all."""
        return ""

    @property
    def session_name(self) -> str:
        """What sessions are called now."""
        return name_of_session(self._ledger_id)

    @property
    def _row_security(self) -> dict[str, str]:
        """Whether the monolith may leave out rows that policies hide, or refuses then, as long as sessions live."""
        return dict(self._legacy_profile.held)

    @cached_property
    def search(self) -> Elasticsearch:
        """The search cluster; retries are ours, since what is owed stays in `due`."""
        from elasticsearch import Elasticsearch

        by: dict[str, Any] = {}
        if self.settings.search_api_key:
            by["api_key"] = self.settings.search_api_key
        if self.settings.search_ca_file:
            by["ca_certs"] = self.settings.search_ca_file
        return Elasticsearch(self.settings.search_url, request_timeout=SEARCH_SECONDS, max_retries=0, **by)

    @cached_property
    def legacy_s3(self) -> S3Client:
        """The monolith's bucket; only read."""
        return self._s3(self.settings.legacy_bucket, "SYNC_LEGACY_S3")

    @cached_property
    def target_s3(self) -> S3Client:
        """The new side's bucket."""
        return self._s3(self.settings.target_bucket, "SYNC_TARGET_S3")

    def _s3(self, bucket: Bucket, setting: str) -> S3Client:
        try:
            session = s3_session(
                aws_access_key_id=bucket.access_key,
                aws_secret_access_key=bucket.secret_key,
                region_name=bucket.region,
                profile_name=bucket.profile,
            )
            return session.client("s3", endpoint_url=bucket.endpoint, config=self._s3_config(bucket))
        except (BotoCoreError, ValueError) as error:
            raise SettingError(f"{setting}_PROFILE, _REGION or _ENDPOINT: {error}") from error

    def _s3_config(self, bucket: Bucket) -> Config:
        from botocore.config import Config

        return Config(
            max_pool_connections=4 * self.settings.media_workers,
            connect_timeout=5,
            read_timeout=30,
            retries={"max_attempts": 3, "mode": "standard"},
            s3={"addressing_style": "path" if bucket.endpoint else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )

    @contextmanager
    def legacy(self, purpose: Purpose = Purpose.LOOK) -> Iterator[Cursor]:
        """A cursor at the monolith; every statement is its own read-only transaction and snapshot.

        Raises UnreachableError, also where a statement took longer than its purpose allows; AccessError where our
        role may not read something, or not all rows of it.
        """
        with self._cursor(self.legacy_engine, self._legacy_profile, purpose, self._row_security) as cursor:
            yield cursor

    @contextmanager
    def legacy_rows(self, purpose: Purpose = Purpose.PAGE) -> Iterator[Cursor]:
        """As `legacy`, for reading rows: where there is a replica, there, once it shows all that is committed now.

        Raises UnreachableError when it does not in time, or when its recovery cancels a statement.
        """
        if not self.settings.legacy_replica_db:
            with self.legacy(purpose) as cursor:
                yield cursor
            return
        with self.legacy() as primary:
            position = position_of(primary)
        with self.replica(purpose) as cursor:
            self._know(cursor)
            await_replay(cursor, position, self.settings.replica_seconds, lambda: self._flush(position))
            yield cursor

    @contextmanager
    def replica(self, purpose: Purpose = Purpose.LOOK) -> Iterator[Cursor]:
        """A cursor at the replica as it is, however far behind."""
        with self._cursor(self.replica_engine, self._replica_profile, purpose, self._row_security) as cursor:
            yield cursor

    def _know(self, replica: Cursor) -> None:
        """Another database's rows must never be taken for the monolith's, nor those of a timeline that it has left.

        Raises SettingError, UnreachableError.
        """
        timeline, at = self._replica_known
        if timeline is not None and timeline == self.servers.timeline and time.monotonic() - at < LOOK_SECONDS:
            return
        with self.legacy() as primary:
            if identity_of(primary) != identity_of(replica):
                raise SettingError(f"{SETTING} is no replica of SYNC_LEGACY_DB, or another database of it")
            fault = replica_faults(read_server(primary), read_server(replica))
            if fault and guarded(115):
                raise UnreachableError(f"{SETTING}: {fault}")
        self._replica_known = self.servers.timeline, time.monotonic()

    def _flush(self, position: int) -> None:
        with self.legacy() as primary:
            flush(primary, position)

    def legacy_session(self, factory: type[Connection] | None = None) -> Connection:
        """A connection to the monolith outside the pool, to be closed by the caller.

        Raises psycopg2.Error, SettingError where a pooler is between.
        """
        return connect(self.settings.legacy_db, stream_profile(), self.session_name, factory)

    def write_outbox(self, statement: str, values: Any) -> tuple[Any, ...]:
        """Run one statement that writes to an outbox of the monolith, and return its first row.

        All of it is one message, so that the server itself ends the transaction, even if this host is lost meanwhile.
        """
        with self.legacy(Purpose.POLL) as cursor:
            cursor.execute(f"SET TRANSACTION READ WRITE; {statement}", values)
            found: tuple[Any, ...] = cursor.fetchone()
            return found

    def legacy_now(self) -> dt.datetime:
        """The monolith's clock. Raises UnreachableError."""
        with self.legacy() as cursor:
            cursor.execute("SELECT statement_timestamp()")
            now: dt.datetime = cursor.fetchone()[0]
            return now

    @contextmanager
    def target(self, purpose: Purpose = Purpose.WHOLE) -> Iterator[Cursor]:
        """One transaction at the new side: commits at the end, rolls back on any error. See DeferringCursor.

        Raises LeaseLostError where a cursor that was to be moved is another's.
        """
        with self.target_at_once(purpose) as cursor:
            cursor.defer("BEGIN")
            try:
                yield cursor
                cursor.execute("COMMIT")
            except BaseException as error:
                cursor.roll_back()
                if getattr(error, "pgcode", None) == LEASE_LOST:
                    raise LeaseLostError(first_line(error)) from error
                if getattr(error, "pgcode", None) == READ_TOO_EARLY:
                    self.servers.check_again()
                    raise UnreachableError(f"SYNC_LEGACY_DB: {first_line(error)}") from error
                raise

    @contextmanager
    def target_at_once(self, purpose: Purpose = Purpose.WHOLE) -> Iterator[Cursor]:
        """A cursor at the new side; every statement is its own transaction."""
        held = writer_settings()
        try:
            with self._cursor(self.target_engine, self._target_profile, purpose, held) as cursor:
                yield cursor
        except psycopg2.Error as error:
            if error.pgcode != FORMER_RELEASE:
                raise
            raise FormerReleaseError(former_release(first_line(error))) from error

    @contextmanager
    def _cursor(self, engine: Engine, profile: Profile, purpose: Purpose, held: dict[str, str]) -> Iterator[Cursor]:
        """A cursor whose session bears our name and the limits of its purpose from the first statement on."""
        try:
            with _session(engine, profile.setting, self._compares.get(profile.setting)) as connection:
                connection.autocommit = True
                with connection.cursor(cursor_factory=DeferringCursor) as cursor:
                    limits = self._limits[purpose]
                    cursor.require({"application_name": self.session_name, **limits, **held})
                    yield cursor
        except psycopg2.errors.InsufficientPrivilege as error:
            if profile is self._target_profile:
                raise
            raise AccessError(f"{profile.setting}: {refusal(error)}") from error
        except psycopg2.Error as error:
            limit = expired(error, profile, self.settings, purpose)
            if limit is None:
                raise
            raise limit from error

    @cached_property
    def _compares(self) -> dict[str, Compare]:
        """What compares a connection's server with the recorded one, by the setting that names the database.

        A replica is not among them, because it is compared with its primary.
        """
        sides = ((self._legacy_profile, Side.MONOLITH), (self._target_profile, Side.NEW_SIDE))
        return {profile.setting: partial(self.servers.check, side) for profile, side in sides}

    @cached_property
    def _limits(self) -> dict[Purpose, dict[str, str]]:
        """How long a statement of each purpose may take, as settings of a session."""
        return {purpose: settings_for(self.settings, purpose) for purpose in Purpose}

    def confirm_servers(self) -> None:
        """Compare both servers with what the ledger has recorded, now; the first time they are recorded.

        Raises OtherServerError, UnreachableError.
        """
        self.servers.check_again()
        with self.legacy(), self.target_at_once():
            pass

    def ledger_id(self) -> str | None:
        """The id of this deployment's ledger, or None before the ledger is made. Raises UnreachableError.

        The answer is kept, because an id never changes.
        """
        if self._ledger_id is None:
            with self.target_at_once() as cursor:
                self._ledger_id = read_ledger_id(cursor)
        return self._ledger_id

    def close(self) -> None:
        """Close what was opened."""
        for name in ("legacy_engine", "replica_engine", "target_engine"):
            if name in self.__dict__:
                self.__dict__[name].dispose()
        for name in ("search", "legacy_s3", "target_s3"):
            if name in self.__dict__:
                self.__dict__[name].close()
        for client in self._clients.values():
            client.close()

    def _engine(self, url: str, profile: Profile) -> Engine:
        if not self.pooled:
            return cast("Engine", FewConnections(lambda: connect(url, profile, self.session_name, Session)))
        from sqlalchemy import create_engine, event

        kept = min(_KEPT_CONNECTIONS, self.settings.db_connections)
        engine = create_engine(
            "postgresql+psycopg2://",
            creator=lambda: connect(url, profile, self.session_name, Session),
            # four threads an entity, and most of the time one of them is at a database
            pool_size=kept,
            max_overflow=self.settings.db_connections - kept,
            pool_timeout=_POOL_SECONDS,
            pool_use_lifo=True,
            pool_reset_on_return=None,  # whoever begins a transaction ends it
        )
        event.listen(engine, "checkin", _note_rest)
        event.listen(engine, "checkout", _check_after_rest)
        return engine


class EntityStores(Stores):
    """Stores for the work on one entity. All but the entity is shared, whichever of both opens it."""

    __slots__ = ("_entity", "_filtered")

    def __init__(self, stores: Stores, entity: str, filtered: bool) -> None:
        # no super().__init__: one namespace for both, so that each connection is opened once and closed by either
        self.__dict__ = stores.__dict__
        self._entity = entity
        self._filtered = filtered

    @property
    def entity(self) -> str:
        """The entity's name."""
        return self._entity

    @property
    def session_name(self) -> str:
        """What sessions are called now, with the entity, and the epoch of its lease if this process holds it."""
        return name_of_session(self._ledger_id, self._entity, self.epochs.get(self._entity))

    @property
    def _row_security(self) -> dict[str, str]:
        return {"row_security": "on"} if self._filtered else super()._row_security


def _note_rest(_: Any, record: Any) -> None:
    record.info["rests"] = time.monotonic()


def _check_after_rest(connection: Connection, record: Any, _: Any) -> None:
    """Whether a connection that has rested still stands; one in steady use would have said."""
    rested = time.monotonic() - record.info.get("rests", time.monotonic())
    if rested < _REST_SECONDS:
        return
    from sqlalchemy.exc import DisconnectionError, InvalidatePoolError

    if rested > REST_LIMIT_SECONDS:  # the server ends it soon, or has ended it
        raise DisconnectionError
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        connection.rollback()
    except psycopg2.Error as error:
        raise InvalidatePoolError from error


@contextmanager
def _session(engine: Engine, setting: str, check: Compare | None = None) -> Iterator[Connection]:
    """A pooled connection, once `look` has seen which server it leads to."""
    try:
        pooled = engine.raw_connection()
    except psycopg2.OperationalError as error:
        raise UnreachableError(f"{setting}: {first_line(error)}") from error
    except Exception as error:
        if text := _pool_fault(error):
            raise UnreachableError(f"{setting}: {text}") from error
        raise
    try:
        connection = cast(Connection, pooled.driver_connection)
        if check:
            check(connection, pooled.info)
        yield connection
    except OtherServerError:
        pooled.invalidate()
        raise
    except psycopg2.Error as error:
        if is_expired(error) or not sqlstate.is_of_store(error):
            raise
        if connection.closed:
            engine.dispose()  # its neighbours broke with it, or will be made again
        if not sqlstate.is_usable(connection):
            pooled.invalidate()
        raise UnreachableError(f"{setting}: {first_line(error)}") from error
    finally:
        pooled.close()


def _pool_fault(error: Exception) -> str:
    """What SQLAlchemy's pool says where it gives no connection; empty for any other error."""
    if not type(error).__module__.startswith("sqlalchemy"):
        return ""
    from sqlalchemy.exc import OperationalError, TimeoutError

    if isinstance(error, TimeoutError):
        return "all connections that this process may have are in use (SYNC_DB_CONNECTIONS)"
    return first_line(error) if isinstance(error, OperationalError) else ""


def first_line(error: BaseException) -> str:
    """What an error says, without the place in a statement that a database draws below it."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
