"""Watches the new side while it is written, and notes every key whose version goes back."""

import http.client
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, NamedTuple

import psycopg2

KINDS = ("text", "video", "audio")
_EVERY_SECONDS = 0.1
# closed, no such index yet, too busy, not there yet
_AWAY = {400, 404, 429, 503}


class Setback(NamedTuple):
    """A key that went from a version to a lower one, or came back as old as it left."""

    where: str
    key: int | str
    before: int
    after: int


class Track:
    """Versions of keys, look by look. Ids are never used again: who comes back must come back newer."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.setbacks: list[Setback] = []
        self.looks = 0
        self._highest: dict[int | str, int] = {}
        self.there: set[int | str] = set()

    def see(self, versions: Mapping[Any, int]) -> None:
        """Take in all keys that are there, with their versions."""
        for key, version in versions.items():
            before = self._highest.get(key, -1)
            if version < before or (version == before and key not in self.there):
                self.setbacks.append(Setback(self.where, key, before, version))
            self._highest[key] = max(version, before)
        self.there = set(versions)
        self.looks += 1

    def forget(self) -> None:
        """Begin anew, but for what was found."""
        self._highest, self.there = {}, set()


class Observer:
    """Samples rows and documents until the end of a `with`; servers may go away meanwhile."""

    def __init__(
        self, target_url: str, search_url: str, rows: tuple[str, ...] = KINDS, documents: tuple[str, ...] = KINDS
    ) -> None:
        self.target_url = target_url
        self.search_url = search_url
        self.rows = {kind: Track(f"row of {kind}") for kind in rows}
        self.documents = {kind: Track(f"document of {kind}") for kind in documents}
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(act,)) for act in (self._rows, self._documents)]

    @property
    def setbacks(self) -> list[Setback]:
        """Every version that went back."""
        return [back for track in (*self.rows.values(), *self.documents.values()) for back in track.setbacks]

    def forget_rows(self) -> None:
        """The new side's database has lost commits: rows count from what is seen next."""
        for track in self.rows.values():
            track.forget()

    def __enter__(self) -> "Observer":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        if self.errors:
            raise self.errors[0]

    def _run(self, look: Any) -> None:
        try:
            while not self._stop.is_set():
                look()
        except BaseException as error:
            self.errors.append(error)

    def _rows(self) -> None:
        """Look through one connection, until it breaks."""
        try:
            connection = psycopg2.connect(self.target_url)
            connection.autocommit = True
            try:
                while not self._stop.wait(_EVERY_SECONDS):
                    for kind, track in self.rows.items():
                        track.see(_versions(connection, kind))
            finally:
                connection.close()
        except (psycopg2.OperationalError, psycopg2.InterfaceError):
            self._stop.wait(_EVERY_SECONDS)

    def _documents(self) -> None:
        self._stop.wait(5 * _EVERY_SECONDS)
        for kind, track in self.documents.items():
            try:
                seen = self._all_documents(kind)
            except urllib.error.HTTPError as error:
                if error.code not in _AWAY:
                    raise
                continue
            except (OSError, http.client.HTTPException):
                continue  # the cluster is away, or went in mid-answer
            if seen is not None:
                track.see(seen)

    def _all_documents(self, kind: str) -> dict[str, int] | None:
        """Every document's version; None when a part of the index did not answer."""
        self._ask(f"{kind}/_refresh")
        answer = self._ask(f"{kind}/_search", {"size": 10_000, "version": True, "_source": False})
        shards = answer["_shards"]
        if shards["successful"] < shards["total"]:
            return None
        assert answer["hits"]["total"]["value"] < 10_000
        return {hit["_id"]: hit["_version"] for hit in answer["hits"]["hits"]}

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        content, headers = body and json.dumps(body).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.search_url}/{path}", content, headers, method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


def _versions(connection: Any, kind: str) -> dict[int, int]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NOT NULL", (f"catalog.{kind}",))
        if not cursor.fetchone()[0]:
            return {}
        cursor.execute(f"SELECT id, version FROM catalog.{kind}")
        return dict(cursor.fetchall())
