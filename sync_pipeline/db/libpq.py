"""URLs of databases as libpq reads them: its parameters hold, and those that are ours alone are refused by name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg2
from psycopg2.extensions import parse_dsn

FORM = "postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
_SCHEME = re.compile(r"postgres(ql)?(\+\w+)?://")
# what says nothing of a password that the URL may hold
_HARMLESS = re.compile(r"invalid URI query parameter|missing key/value separator|extra key/value separator")
_OPTION = re.compile(r"(?:-c\s*|--)([A-Za-z_][\w.]*)=((?:\\.|[^\\\s])*)")
_OURS = {
    "application_name": "sessions bear names of ours, by which a lost one is found",
    "fallback_application_name": "sessions bear names of ours, by which a lost one is found",
    "client_encoding": "all text is read as UTF-8",
    "replication": "it is set where the log is read, and nowhere else",
}


# sessions at the monolith are read only, so that libpq would take no server for one to write to
_READ_ONLY = {"SYNC_LEGACY_DB", "SYNC_LEGACY_REPLICA_DB"}


def plain_url(value: str) -> str:
    """The URL as libpq takes it: without a driver's name in its scheme."""
    return _SCHEME.sub("postgresql://", value, count=1)


def url_faults(setting: str, value: str) -> Iterator[str]:
    """Say what is wrong with a database's URL, by its setting. No password is shown."""
    if not _SCHEME.match(value) or value.endswith("://"):
        yield f"{setting} must read {FORM}"
        return
    try:
        given = parse_dsn(plain_url(value))
    except psycopg2.Error as error:
        text = str(error).strip().removeprefix("invalid dsn: ")
        reason = text if _HARMLESS.match(text) else "a sign of user, password or database must be percent-encoded"
        yield f"{setting} must read {FORM}, and libpq cannot read it: {reason}"
        return
    yield from _parameter_faults(setting, given)


def _parameter_faults(setting: str, given: Mapping[str, str]) -> Iterator[str]:
    for port in given.get("port", "").split(","):
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65_536):
            yield f"{setting} has the port {port!r}: a port is a number from 1 to 65535"
    for host in given.get("host", "").split(","):
        if "@" in host[1:]:
            yield f"{setting} has a host with @ in it: percent-encode the @ of user or password as %40"
    if given.get("target_session_attrs") == "read-write" and setting in _READ_ONLY:
        yield f"{setting} sets target_session_attrs=read-write, which no session of ours fulfils: say primary"
    for name in _OURS.keys() & given.keys():
        if name != "client_encoding" or given[name].upper().replace("-", "") not in {"UTF8", "UNICODE", "AUTO"}:
            yield f"{setting} sets {name}: leave it out, because {_OURS[name]}"
    if not given.get("connect_timeout", "0").lstrip("-").isdigit():
        yield f"{setting} sets connect_timeout={given['connect_timeout']!r}: it is a whole number of seconds"


def arguments(url: str, ours: Mapping[str, Any], options: str = "") -> dict[str, Any]:
    """What to connect with: the URL's own parameters before ours, but our `options` after the URL's.

    The server takes the last of two values of one option, so a URL never changes a setting that digests depend on.
    """
    given = parse_dsn(plain_url(url))
    given.pop("client_encoding", None)
    both = " ".join(filter(None, [given.get("options"), options]))
    return {**ours, **given, **({"options": both} if both else {})}


def options_of(url: str) -> dict[str, str]:
    """The settings that a URL's `options` ask for, by name."""
    text = parse_dsn(plain_url(url)).get("options", "")
    return {name.lower(): re.sub(r"\\(.)", r"\1", value) for name, value in _OPTION.findall(text)}


def without_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same to connect with, for a pooler that refuses `options`: what they ask for is set by SQL then."""
    return {name: value for name, value in given.items() if name != "options"}
