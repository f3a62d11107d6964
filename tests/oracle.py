"""What the new side must hold, computed from the monolith by other means than the engine's.

Plain rows, dicts and HTTP: no query, adapter or comparison is shared with `sync_pipeline` or `assets`.
Made for some 20,000 rows.
"""

import datetime as dt
import json
import re
import urllib.request
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

import psycopg2.extras

KINDS = ("text", "video", "audio")
# what a kind calls its long text, and its length in seconds
OWN_NAMES = {
    "text": ("body", "reading_seconds"),
    "video": ("description", "duration_seconds"),
    "audio": ("description", "duration_seconds"),
}
NOT_IN_DOCUMENTS = ("is_public", "price", "files", "version", "created_at")
exact = partial(json.loads, parse_float=Decimal)


class Difference(NamedTuple):
    """`what` is missing, extra, doubled, owed, or the name of a field that is wrong."""

    where: str  # row, document, file, due
    kind: str  # text, video, audio
    key: str
    what: str
    detail: str = ""


class Buckets(NamedTuple):
    """S3 clients and buckets of both sides."""

    legacy_client: Any
    legacy: str
    new_client: Any
    new: str


def differences(legacy: Any, target: Any, search_url: str, buckets: Buckets, aliases: str = "{}") -> list[Difference]:
    """Everything that is not as the monolith wants it; [] when all is right.

    `legacy` and `target` are psycopg2 connections without an open transaction; `aliases` makes an alias of a kind.
    """
    wanted, poisoned = expected(legacy)
    found = {kind: rows_of(target, f"SELECT * FROM catalog.{kind}") for kind in KINDS}
    documents = {kind: documents_of(search_url, aliases.format(kind)) for kind in KINDS}
    result = owed(target, poisoned)
    for kind in KINDS:
        result += compare_rows(kind, wanted, found[kind])
        by_id = {row["id"]: row for row in found[kind]}
        result += compare_documents(kind, wanted, by_id, documents[kind])
    return result + compare_files(wanted, found, buckets)


def expected(legacy: Any) -> tuple[dict[str, dict[int, dict[str, Any]]], dict[str, set[str]]]:
    """({kind: {id: row}}, {kind: ids of rows no adapter can take}); files by their keys in the legacy bucket."""
    with legacy:
        legacy.rollback()
        legacy.set_session(isolation_level="REPEATABLE READ", readonly=True)
        contents = rows_of(legacy, "SELECT * FROM content")
        authors = {row["id"]: row["name"] for row in rows_of(legacy, "SELECT id, name FROM authors")}
        tags, files = defaultdict(list), defaultdict(list)
        for row in rows_of(legacy, "SELECT content_id, tag FROM content_tags"):
            tags[row["content_id"]].append(row["tag"])
        for row in rows_of(legacy, "SELECT * FROM media_files"):
            files[row["content_id"]].append(row)
    wanted: dict[str, dict[int, dict[str, Any]]] = {kind: {} for kind in KINDS}
    poisoned: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for content in contents:
        if content["deleted_at"] is not None:
            continue
        seconds = (content["attrs"] or {}).get("duration")
        if seconds is not None and not re.fullmatch(r"-?[0-9]+", str(seconds)):
            poisoned[content["kind"]].add(str(content["id"]))
            continue
        mine = sorted(files[content["id"]], key=lambda file: file["id"])
        wanted[content["kind"]][content["id"]] = {
            **new_row(content, authors.get(content["author_id"]), seconds),
            "tags": sorted(tags[content["id"]], key=lambda tag: tag.encode()),
            "cover": [file["bucket_key"] for file in mine if file["kind"] == "cover"][:1],
            "files": [file["bucket_key"] for file in mine if file["kind"] != "cover"],
        }
    return wanted, poisoned


def new_row(content: dict[str, Any], author: str | None, seconds: Any) -> dict[str, Any]:
    """A row of the new side, but for tags and files."""
    long_text, length = OWN_NAMES[content["kind"]]
    address = {part: content[part] for part in ("country", "city", "street", "zip")}
    same = {name: content[name] for name in ("id", "price", "rating", "attrs", "version", "created_at", "updated_at")}
    return same | {
        "header": content["title"],
        long_text: content["body"],
        "author": author,
        "address": None if set(address.values()) == {None} else address,
        length: None if seconds is None else int(seconds),
        "is_public": content["status"] == "published",
    }


def owed(target: Any, poisoned: dict[str, set[str]]) -> list[Difference]:
    """Poisoned rows are parked as rejected; nothing else is owed."""
    query = "SELECT entity, reason, key, unnest(coalesce(keys, ARRAY[key])) AS one, message FROM sync.due"
    due = rows_of(target, query)
    parked = Counter((row["entity"], row["one"]) for row in due if row["reason"] == "rejected")
    result = [
        Difference("due", row["entity"], row["one"], "owed", f"{row['reason']}: {row['message']}")
        for row in due
        if row["reason"] != "rejected" or row["one"] not in poisoned[row["entity"]]
    ]
    for kind, keys in poisoned.items():
        result += [Difference("due", kind, key, "missing") for key in keys if not parked[kind, key]]
        result += [Difference("due", kind, key, "doubled") for key in keys if parked[kind, key] > 1]
    return result


def compare_rows(
    kind: str, wanted: dict[str, dict[int, dict[str, Any]]], found: list[dict[str, Any]]
) -> list[Difference]:
    """Every field of every row, but for files' new names."""
    result, left = [], dict(wanted[kind])
    for row in found:
        want = left.pop(row["id"], None)
        if want is None:
            elsewhere = any(row["id"] in wanted[other] for other in KINDS)
            result.append(Difference("row", kind, str(row["id"]), "doubled" if elsewhere else "extra"))
            continue
        result += fields_that_differ("row", kind, want, row, leave_out=("cover", "files"))
    return result + [Difference("row", kind, str(key), "missing") for key in left]


def compare_documents(
    kind: str,
    wanted: dict[str, dict[int, dict[str, Any]]],
    rows: dict[int, dict[str, Any]],
    found: list[dict[str, Any]],
) -> list[Difference]:
    """One document for each public row, with its fields; it names the files as the row does."""
    public = {str(key): row for key, row in wanted[kind].items() if row["is_public"]}
    times = Counter(document["_id"] for document in found)
    result = [Difference("document", kind, key, "doubled") for key, count in times.items() if count > 1]
    result += [Difference("document", kind, key, "missing") for key in public.keys() - times.keys()]
    for document in found:
        key = document["_id"]
        if key not in public:
            elsewhere = key.isdecimal() and any(int(key) in wanted[other] for other in KINDS if other != kind)
            result.append(Difference("document", kind, key, "doubled" if elsewhere else "extra"))
            continue
        want = {name: value for name, value in public[key].items() if name not in NOT_IN_DOCUMENTS}
        want["cover"] = rows.get(int(key), {}).get("cover", [])
        result += fields_that_differ("document", kind, want, from_json(document["_source"]), leave_out=())
    return result


def from_json(source: dict[str, Any]) -> dict[str, Any]:
    """A document's values as the database gives them."""
    stamp, rating = source.get("updated_at"), source.get("rating")
    values = {
        "updated_at": None if stamp is None else dt.datetime.fromisoformat(stamp),
        "rating": None if rating is None else float(rating),
    }
    return {name: values.get(name, value) for name, value in source.items()}


def fields_that_differ(
    where: str, kind: str, want: dict[str, Any], have: dict[str, Any], leave_out: tuple[str, ...]
) -> list[Difference]:
    """One difference a field; a field only one side has is one, too."""
    absent = object()
    return [
        Difference(where, kind, str(want["id"]), name, f"{have.get(name)!r:.200} is not {want.get(name)!r:.200}")
        for name in (want.keys() | have.keys()) - set(leave_out)
        if not same(want.get(name, absent), have.get(name, absent))
    ]


def same(one: Any, other: Any) -> bool:
    """Equal in value and in kind: true is not 1."""
    return isinstance(one, bool) is isinstance(other, bool) and one == other


def compare_files(
    wanted: dict[str, dict[int, dict[str, Any]]], found: dict[str, list[dict[str, Any]]], buckets: Buckets
) -> list[Difference]:
    """Bytes, content type and metadata of each file a row names, against the monolith's file."""
    result, pairs = [], []
    for kind in KINDS:
        for row in found[kind]:
            want = wanted[kind].get(row["id"])
            for column in ("cover", "files") if want else ():
                if len(row[column]) != len(want[column]):
                    detail = f"{row[column]} for {want[column]}"
                    result.append(Difference("row", kind, str(row["id"]), column, detail))
                pairs += [(kind, row["id"], *pair) for pair in zip(want[column], row[column], strict=False)]
    with ThreadPoolExecutor(8) as pool:
        return result + [found for found in pool.map(lambda pair: file_that_differs(buckets, *pair), pairs) if found]


def file_that_differs(buckets: Buckets, kind: str, key: int, old: str, new: str) -> Difference | None:
    """What is wrong with the new file, if anything."""
    there = whole_file(buckets.new_client, buckets.new, new)
    here = whole_file(buckets.legacy_client, buckets.legacy, old)
    if there is None:
        return Difference("file", kind, str(key), "missing", new)
    for name, one, other in zip(("bytes", "content type", "metadata"), here or (), there, strict=False):
        if one != other:
            return Difference("file", kind, str(key), name, f"{new} of {old}")
    return None if here else Difference("file", kind, str(key), "extra", f"{new}: the monolith has no {old}")


def whole_file(client: Any, bucket: str, key: str) -> tuple[bytes, str, dict[str, str]] | None:
    """(bytes, content type, metadata); None when it is not there."""
    try:
        found = client.get_object(Bucket=bucket, Key=key)
    except client.exceptions.NoSuchKey:
        return None
    return found["Body"].read(), found["ContentType"], found["Metadata"]


def rows_of(connection: Any, query: str) -> list[dict[str, Any]]:
    """Rows as dicts; numbers in JSON stay exact."""
    psycopg2.extras.register_default_jsonb(connection, loads=exact)
    with connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
        cursor.execute(query)
        return [dict(row) for row in cursor.fetchall()]


def documents_of(search_url: str, alias: str) -> list[dict[str, Any]]:
    """Every document behind an alias, in whatever index: `_id` and `_source`."""
    ask(search_url, "POST", f"{alias}/_refresh")
    pit = ask(search_url, "POST", f"{alias}/_pit?keep_alive=1m")["id"]
    found: list[dict[str, Any]] = []
    body: dict[str, Any] = {"size": 2_000, "pit": {"id": pit}, "sort": ["_shard_doc"]}
    while hits := ask(search_url, "POST", "_search", body)["hits"]["hits"]:
        found += hits
        body["search_after"] = hits[-1]["sort"]
    ask(search_url, "DELETE", "_pit", {"id": pit})
    return found


def ask(search_url: str, method: str, path: str, body: Any = None) -> Any:
    """A request and its JSON answer, with exact numbers."""
    content = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{search_url}/{path}", content, headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return exact(answer.read())
