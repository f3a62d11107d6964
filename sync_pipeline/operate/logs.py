"""Logs: short constant messages, facts in fields; never payloads, never secrets."""

from __future__ import annotations

import datetime as dt
import json
import logging
import sys
from collections.abc import Mapping

from sync_pipeline.errors import SettingError

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}
_LEVELS = ("debug", "info", "warning", "error")


def configure(env: Mapping[str, str]) -> None:
    """Our logs to standard error: SYNC_LOG is json or text, SYNC_LOG_LEVEL the least that shows."""
    form, level = env.get("SYNC_LOG") or "text", (env.get("SYNC_LOG_LEVEL") or "warning").lower()
    if form not in _FORMS:
        raise SettingError(f"SYNC_LOG must be {' or '.join(_FORMS)}, not {form!r}")
    if level not in _LEVELS:
        raise SettingError(f"SYNC_LOG_LEVEL must be one of {', '.join(_LEVELS)}, not {level!r}")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_FORMS[form]())
    log = logging.getLogger("sync_pipeline")
    log.handlers, log.propagate = [handler], False
    log.setLevel(level.upper())


def facts(record: logging.LogRecord) -> dict[str, object]:
    """The fields that a log call gave."""
    return {name: value for name, value in vars(record).items() if name not in _OWN}


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        at = dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds")
        line = {"at": at, "level": record.levelname.lower(), "message": record.getMessage(), **facts(record)}
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextLines(logging.Formatter):
    """One line for people: time, level, message, name=value."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        at = dt.datetime.fromtimestamp(record.created, dt.UTC).strftime("%H:%M:%S")
        given = "".join(f" {name}={value}" for name, value in facts(record).items())
        line = f"{at} {record.levelname.lower():7} {record.getMessage()}{given}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


_FORMS: dict[str, type[logging.Formatter]] = {"text": TextLines, "json": JsonLines}
