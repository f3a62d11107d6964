"""Settings, read from the environment once and checked by name."""

from __future__ import annotations

import math
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from sync_pipeline.db.libpq import plain_url, url_faults
from sync_pipeline.errors import SettingError


@dataclass(frozen=True)
class Bucket:
    """An S3 bucket; `endpoint` is None for AWS itself. What else is None, boto3 finds as it always does."""

    endpoint: str | None
    name: str
    region: str | None = None
    profile: str | None = None
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Settings:
    """Everything the engine is told from outside. Times are in seconds. What may hold a secret is not shown."""

    legacy_db: str = field(repr=False)
    target_db: str = field(repr=False)
    search_url: str = field(repr=False)
    legacy_bucket: Bucket
    target_bucket: Bucket
    legacy_replica_db: str = field(default="", repr=False)  # where rows are read instead, if it is set
    search_api_key: str = field(default="", repr=False)
    search_ca_file: str = ""  # PEM; the machine's own authorities, if it is not set
    entities: str = "assets.entities"
    slot_prefix: str = "sync"
    poll_seconds: float = 0.2
    idle_poll_seconds: float = 1.0
    margin_seconds: float = 2.0
    blind_lookback_seconds: float = 900.0
    window_alert_seconds: float = 300.0
    sweep_seconds: float = 300.0
    sweep_workers: int = 2
    listing_share: float = 0.02
    chunk_rows: int = 3_600
    chunk_bytes: int = 64 * 1024 * 1024
    backfill_workers: int = 3
    due_limit_seconds: float = 300.0
    lag_limit_seconds: float = 60.0
    drift_warning_rows: int = 0
    recheck_seconds: float = 3.0
    brake_fraction: float = 0.2
    brake_rows: int = 1_000
    fault_fraction: float = 0.5
    fault_rows: int = 20
    garbage_grace_seconds: float = 86_400.0
    media_workers: int = 8
    multipart_bytes: int = 8 * 1024 * 1024
    retry_limit: int = 8
    parent_limit_seconds: float = 3_600.0
    outbox_keep_seconds: float = 86_400.0
    future_limit_seconds: float = 60.0
    replica_seconds: float = 30.0
    wal_alert_bytes: int = 1 << 30
    history_days: float = 30.0
    lock_timeout_seconds: float = 3.0
    look_timeout_seconds: float = 5.0
    poll_timeout_seconds: float = 30.0
    page_timeout_seconds: float = 120.0
    db_connections: int = 200

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Read `SYNC_*`; raises SettingError naming every setting that is missing or wrong."""
        return _Reader(os.environ if env is None else env).settings()


# settings that are numbers, and their fields
NUMBERS = {
    "SYNC_POLL_SECONDS": "poll_seconds",
    "SYNC_IDLE_POLL_SECONDS": "idle_poll_seconds",
    "SYNC_MARGIN_SECONDS": "margin_seconds",
    "SYNC_BLIND_LOOKBACK_SECONDS": "blind_lookback_seconds",
    "SYNC_WINDOW_ALERT_SECONDS": "window_alert_seconds",
    "SYNC_SWEEP_SECONDS": "sweep_seconds",
    "SYNC_SWEEP_WORKERS": "sweep_workers",
    "SYNC_LISTING_SHARE": "listing_share",
    "SYNC_CHUNK_ROWS": "chunk_rows",
    "SYNC_CHUNK_BYTES": "chunk_bytes",
    "SYNC_BACKFILL_WORKERS": "backfill_workers",
    "SYNC_DUE_LIMIT_SECONDS": "due_limit_seconds",
    "SYNC_LAG_LIMIT_SECONDS": "lag_limit_seconds",
    "SYNC_DRIFT_WARNING_ROWS": "drift_warning_rows",
    "SYNC_RECHECK_SECONDS": "recheck_seconds",
    "SYNC_BRAKE_FRACTION": "brake_fraction",
    "SYNC_BRAKE_ROWS": "brake_rows",
    "SYNC_FAULT_FRACTION": "fault_fraction",
    "SYNC_FAULT_ROWS": "fault_rows",
    "SYNC_GARBAGE_GRACE_SECONDS": "garbage_grace_seconds",
    "SYNC_MEDIA_WORKERS": "media_workers",
    "SYNC_MULTIPART_BYTES": "multipart_bytes",
    "SYNC_RETRY_LIMIT": "retry_limit",
    "SYNC_PARENT_LIMIT_SECONDS": "parent_limit_seconds",
    "SYNC_OUTBOX_KEEP_SECONDS": "outbox_keep_seconds",
    "SYNC_FUTURE_LIMIT_SECONDS": "future_limit_seconds",
    "SYNC_REPLICA_SECONDS": "replica_seconds",
    "SYNC_WAL_ALERT_BYTES": "wal_alert_bytes",
    "SYNC_HISTORY_DAYS": "history_days",
    "SYNC_LOCK_TIMEOUT_SECONDS": "lock_timeout_seconds",
    "SYNC_LOOK_TIMEOUT_SECONDS": "look_timeout_seconds",
    "SYNC_POLL_TIMEOUT_SECONDS": "poll_timeout_seconds",
    "SYNC_PAGE_TIMEOUT_SECONDS": "page_timeout_seconds",
    "SYNC_DB_CONNECTIONS": "db_connections",
}
_AT_LEAST_ONE = {
    "SYNC_CHUNK_ROWS",
    "SYNC_CHUNK_BYTES",
    "SYNC_BACKFILL_WORKERS",
    "SYNC_MEDIA_WORKERS",
    "SYNC_RETRY_LIMIT",
    "SYNC_SWEEP_WORKERS",
    "SYNC_DB_CONNECTIONS",
}
# beyond these, the server or Python itself refuses the number where it is used
_LARGEST = {
    "SYNC_SWEEP_SECONDS": 10**9,  # in the ledger's SQL alone: so long means never
    "SECONDS": 2_000_000,
    "ROWS": 2**31 - 1,
    "BYTES": 2**62,
    "CONNECTIONS": 10_000,
    "WORKERS": 1_000,
    "DAYS": 36_500,
}
_S3_PART_MINIMUM = 5 * 1024 * 1024


def _place(bucket: Bucket) -> tuple[str, str]:
    """Where a bucket is, however its endpoint is written."""
    return (bucket.endpoint or "").rstrip("/").lower(), bucket.name


def _is_http(url: str) -> bool:
    """Whether it is a URL of HTTP whose port is one."""
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


class _Reader:
    """Collects every fault before it raises, so that one run shows them all."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.faults: list[str] = []

    def settings(self) -> Settings:
        legacy_db = self._database("SYNC_LEGACY_DB")
        replica = self._database("SYNC_LEGACY_REPLICA_DB") if self.env.get("SYNC_LEGACY_REPLICA_DB") else ""
        target_db = self._database("SYNC_TARGET_DB")
        search_url = self._search_url()
        search_api_key, search_ca_file = self._search_api_key(search_url), self._search_ca_file(search_url)
        legacy_bucket = self._bucket("SYNC_LEGACY_S3")
        target_bucket = self._bucket("SYNC_TARGET_S3")
        numbers = {field: self._number(name, field) for name, field in NUMBERS.items() if self.env.get(name)}
        if legacy_bucket.name and _place(legacy_bucket) == _place(target_bucket):
            self.faults.append("SYNC_TARGET_S3_BUCKET is the legacy bucket itself: name another one")
        slot_prefix = self.env.get("SYNC_SLOT_PREFIX") or "sync"
        if not re.fullmatch("[a-z][a-z0-9_]{0,19}", slot_prefix):
            self.faults.append("SYNC_SLOT_PREFIX must be 1 to 20 lower-case letters, digits and underscores")
        if self.faults:
            raise SettingError("\n".join(self.faults) + "\n.env.example lists every setting.")
        return Settings(
            legacy_db,
            target_db,
            search_url,
            legacy_bucket,
            target_bucket,
            legacy_replica_db=replica,
            search_api_key=search_api_key,
            search_ca_file=search_ca_file,
            entities=self.env.get("SYNC_ENTITIES") or "assets.entities",
            slot_prefix=slot_prefix,
            **numbers,  # type: ignore[arg-type]
        )

    def _required(self, name: str) -> str:
        value = self._optional(name)
        if not value:
            self.faults.append(f"{name} is not set")
        return value

    def _database(self, name: str) -> str:
        value = self._required(name)
        self.faults += url_faults(name, value) if value else ()
        return plain_url(value)

    def _search_url(self) -> str:
        value = self._required("SYNC_SEARCH_URL")
        try:
            parts = urlsplit(value)
            port, https = parts.port, parts.scheme == "https"  # https has one, the client knows none for http
            whole = parts.hostname and (https or (port and parts.scheme == "http"))
        except ValueError:
            whole = None
        if value and not whole:
            self.faults.append("SYNC_SEARCH_URL must read https://HOST:PORT or http://HOST:PORT")
        return value

    def _search_api_key(self, url: str) -> str:
        value = self._optional("SYNC_SEARCH_API_KEY")
        if value and not re.fullmatch(r"[!-~]+", value):
            self.faults.append("SYNC_SEARCH_API_KEY must be the key as the cluster encodes it, on one line")
        if value and "@" in url:
            self.faults.append("SYNC_SEARCH_API_KEY is set, and SYNC_SEARCH_URL names a user: say one of them")
        return value

    def _search_ca_file(self, url: str) -> str:
        value = self._optional("SYNC_SEARCH_CA_FILE")
        if value and not url.startswith("https:"):
            self.faults.append("SYNC_SEARCH_CA_FILE is set, but SYNC_SEARCH_URL is not https")
        if value:
            try:
                ssl.create_default_context(cafile=value)
            except OSError as error:
                self.faults.append(f"SYNC_SEARCH_CA_FILE={value} holds no certificates in PEM: {error}")
        return value

    def _bucket(self, prefix: str) -> Bucket:
        endpoint = self._optional(f"{prefix}_ENDPOINT") or None
        if endpoint and not _is_http(endpoint):
            self.faults.append(f"{prefix}_ENDPOINT must be an http or https URL, not {endpoint!r}")
        region, profile = self._optional(f"{prefix}_REGION") or None, self._optional(f"{prefix}_PROFILE") or None
        key, secret = f"{prefix}_ACCESS_KEY_ID", f"{prefix}_SECRET_ACCESS_KEY"
        keys = {name: self._optional(name) or None for name in (key, secret)}
        if any(keys.values()):
            self.faults += [f"{name} is not set: a key has two parts" for name, value in keys.items() if not value]
            if profile:
                self.faults.append(f"{prefix}_PROFILE and {prefix}_ACCESS_KEY_ID are both set: say one of them")
        return Bucket(endpoint, self._required(f"{prefix}_BUCKET"), region, profile, keys[key], keys[secret])

    def _optional(self, name: str) -> str:
        return self.env.get(name, "").strip()

    def _number(self, name: str, field: str) -> float | int:
        kind: type[int] | type[float] = type(getattr(Settings, field))
        try:
            value = kind(self.env[name])
        except ValueError:
            self.faults.append(
                f"{name} must be {'a whole number' if kind is int else 'a number'}, not {self.env[name]!r}"
            )
            return 0
        if not math.isfinite(value):  # NaN is neither above nor below a limit, so that a brake would hold nothing
            self.faults.append(f"{name} must be a number, not {self.env[name]!r}")
            return 0
        if value < 0 or (name in _AT_LEAST_ONE and value < 1):
            self.faults.append(f"{name} is {value}: too small")
        if field == "listing_share" and not 0 < value <= 1:
            self.faults.append(f"{name} is {value}: it must be above 0 and at most 1 (1: each sweep lists the bucket)")
        if field == "multipart_bytes" and value < _S3_PART_MINIMUM:
            self.faults.append(f"{name} is {value}: S3 takes no part under {_S3_PART_MINIMUM}")
        if name.endswith("_FRACTION") and value > 1:
            self.faults.append(f"{name} is {value:g}: a share lies between 0 and 1")
        if value > _LARGEST.get(name, _LARGEST.get(name.rpartition("_")[2], value)):
            self.faults.append(f"{name} is {value:g}: too large")
        return kind(value)
