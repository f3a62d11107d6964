"""A small service that keeps the contract of an HTTP sink: it stores objects by key, and refuses late revisions.

    python -m demo.receiver --port 8700 --file items.sqlite

PUT or DELETE /items/KEY writes one object, POST /items several; GET /items/KEY reads one, GET /items all of them. The
service keeps the highest revision of each key, and that of a deleted object as well, so that an older write is answered
with 409. What is committed to its file survives a kill.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

REVISION = "Sync-Revision"
_PREFIX = "/items"
_TABLE = "CREATE TABLE IF NOT EXISTS item (key TEXT PRIMARY KEY, revision INTEGER NOT NULL, body TEXT)"
_UPSERT = """
    INSERT INTO item VALUES (?, ?, ?)
    ON CONFLICT (key) DO UPDATE SET revision = excluded.revision, body = excluded.body
"""
# says why an object is refused; empty: it is taken
Rule = Callable[[str, dict[str, Any]], str]


def _take_all(_: str, __: dict[str, Any]) -> str:
    return ""


class Items:
    """Objects by key in a file, each with the revision that wrote or deleted it."""

    def __init__(self, file: Path, rule: Rule = _take_all) -> None:
        self._lock = threading.Lock()
        self._rule = rule
        self._connection = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._connection.execute(_TABLE)

    def write(self, key: str, revision: int, body: dict[str, Any] | None) -> tuple[int, dict[str, Any]]:
        """Write an object, or delete it where there is no body; the status of the answer, and its body."""
        if body is not None and (why := self._rule(key, body)):
            return 422, {"message": why}
        with self._lock:
            held = self._revision(key)
            if held is not None and held > revision:
                return 409, {"message": f"revision {held} is there", "revision": held}
            self._connection.execute(_UPSERT, (key, revision, None if body is None else json.dumps(body)))
        return 200, {"revision": revision}

    def read(self, key: str) -> tuple[int, dict[str, Any] | None]:
        """An object with its revision; the revision is 0 where there is none."""
        with self._lock:
            row = self._connection.execute("SELECT revision, body FROM item WHERE key = ?", (key,)).fetchone()
        return (row[0], json.loads(row[1])) if row and row[1] is not None else (0, None)

    def all_keys(self) -> list[str]:
        """The keys of all objects."""
        with self._lock:
            return [
                key for (key,) in self._connection.execute("SELECT key FROM item WHERE body IS NOT NULL ORDER BY 1")
            ]

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _revision(self, key: str) -> int | None:
        row = self._connection.execute("SELECT revision FROM item WHERE key = ?", (key,)).fetchone()
        return None if row is None else int(row[0])


class _Handler(BaseHTTPRequestHandler):
    """Answers requests for the items of its server."""

    protocol_version = "HTTP/1.1"
    server: Receiver
    timeout = 60

    def do_GET(self) -> None:
        if self.path == _PREFIX:
            self._answer(200, {key: self.server.items.read(key)[1] for key in self.server.items.all_keys()})
            return
        revision, body = self.server.items.read(self._key())
        if body is None:
            self._answer(404, {"message": "there is no such item"})
        else:
            self._answer(200, body, revision)

    def do_PUT(self) -> None:
        self._write_one(self._body())

    def do_DELETE(self) -> None:
        self._body()
        self._write_one(None)

    def do_POST(self) -> None:
        operations = self._body()["operations"]
        results = []
        for each in operations:
            status, answer = self.server.items.write(each["key"], each["revision"], each["object"])
            results.append({"key": each["key"], "status": status, **answer})
        self._answer(200, {"results": results})

    def do_OPTIONS(self) -> None:
        self._answer(204)

    def _write_one(self, body: dict[str, Any] | None) -> None:
        status, answer = self.server.items.write(self._key(), int(self.headers[REVISION]), body)
        self._answer(status, answer, answer.get("revision"))

    def _key(self) -> str:
        return unquote(self.path.removeprefix(f"{_PREFIX}/"))

    def _body(self) -> Any:
        length = int(self.headers.get("Content-Length") or 0)
        return json.loads(self.rfile.read(length)) if length else None

    def _answer(self, status: int, body: dict[str, Any] | None = None, revision: int | None = None) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        if revision is not None:
            self.send_header(REVISION, str(revision))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of each request."""


class Receiver(ThreadingHTTPServer):
    """The service, on a port of the loopback (0: a free one)."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, items: Items, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.items = items

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


def main() -> None:
    """Serve until it is ended."""
    parser = argparse.ArgumentParser(prog="python -m demo.receiver", description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8700)
    parser.add_argument("--file", type=Path, default=Path("items.sqlite"))
    options = parser.parse_args()
    with closing(Items(options.file)) as items, Receiver(items, options.port) as receiver:
        print(f"listening at {receiver.url}{_PREFIX}", flush=True)
        with suppress(KeyboardInterrupt):
            receiver.serve_forever()


if __name__ == "__main__":
    main()
