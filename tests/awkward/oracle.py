"""What the new side must hold of the awkward monolith, from its tables one by one: no join, no query of the engine's.

Rows whose file the bucket does not hold must be parked, and their documents gone once they are no longer public;
what else is at the new side of them is as old as it may be. A document whose id no cluster takes is parked as well.
"""

import datetime as dt
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from tests.oracle import (
    Buckets,
    Difference,
    documents_of,
    fields_that_differ,
    file_that_differs,
    rows_of,
)

TABLES = (
    "country",
    "label",
    '"Old Vault"."Film"',
    "clip",
    "tag",
    "place",
    "asset",
    "airing",
    "book",
    '"Old Vault"."Disc"',
    "scene",
    "branch",
    "loan",
    "reminder",
)
LONGEST_ID = 512  # bytes
Row = dict[str, Any]


@dataclass
class Wanted:
    """An entity's rows by their texts; `id` is that text, files are keys of the legacy bucket."""

    rows: dict[str, Row]
    public: set[str]
    files: tuple[str, ...]
    not_in_documents: tuple[str, ...] = ()
    parked: set[str] = field(default_factory=set)


@dataclass
class Monolith:
    """Every table as it is in one snapshot, and its bucket's ETags by key."""

    tables: dict[str, list[Row]]
    bucket: dict[str, str]

    def __post_init__(self) -> None:
        self.names = {row["code"]: row["name"] for row in self.tables["country"]}
        self.labels = {row["code"]: row for row in self.tables["label"]}
        self.paths = {row["id"]: row["path"] for row in self.tables["asset"]}

    def titles(self) -> Wanted:
        """Films and clips."""
        tags, places = defaultdict(list), defaultdict(list)
        for row in self.tables["tag"]:
            tags[row["title"]].append(row["tag"])
        for row in self.tables["place"]:
            places[row["title"]].append((row["rank"] is None, row["rank"], row["id"], row["city"]))
        rows = {}
        for raw in self.raw_titles():
            label = self.labels.get(raw.pop("label"))
            extra = raw["extra"] if isinstance(raw["extra"], dict) else {}
            stills = extra.get("stills")
            rows[raw["id"]] = raw | {
                "label": label and label["name"],
                "country": label and self.names.get(label["country"]),
                "tags": sorted(tags[raw["id"]], key=lambda tag: (tag is None, (tag or "").encode())),
                "city": min(places[raw["id"]], default=(0, 0, 0, None))[3],
                "poster": self.path(extra.get("poster")),
                "stills": [path for n in (stills if isinstance(stills, list) else ()) if (path := self.path(n))],
                "is_public": raw.pop("state") == "P",
            }
        return Wanted(rows, _where(rows, "is_public"), ("poster", "stills"), ("is_public",))

    def raw_titles(self) -> Iterable[Row]:
        """Of both tables, under one set of names."""
        film = ("Id", "Title", "Body", "Label", "State", "Extra", "Gross", "Budget", "Score")
        names = ("id", "name", "body", "label", "state", "extra", "gross", "budget", "score")
        for row in self.tables['"Old Vault"."Film"']:
            if row["State"] != "X":
                yield {"kind": "film"} | {new: row[old] for old, new in zip(film, names, strict=True)}
        for row in self.tables["clip"]:
            if row["state"] != "X":
                same = {name: row[name] for name in ("id", "label", "state", "extra")}
                empty = {"gross": None, "budget": None, "score": None}
                yield {"kind": "clip", "name": row["caption"], "body": row["script"], **same, **empty}

    def all_labels(self) -> Wanted:
        """Labels."""
        rows = {
            row["code"]: {
                **{name: row[name] for name in ("code", "name", "story", "founded")},
                "id": row["code"],
                "country": self.names.get(row["country"]),
                "is_public": row["state"] == "P",
                "logo": self.path(row["logo"]),
            }
            for row in self.tables["label"]
            if row["state"] != "X"
        }
        wanted = Wanted(rows, _where(rows, "is_public"), ("logo",), ("is_public",))
        unfit = {code for code in wanted.public if not 0 < len(code.encode()) <= LONGEST_ID}
        wanted.public -= unfit
        wanted.parked |= unfit
        return wanted

    def airings(self) -> Wanted:
        """Airings."""
        same = ("channel", "slot", "hd", "title", "note", "price", "watched")
        rows = {}
        for row in self.tables["airing"]:
            key = composite(row["channel"], row["slot"], row["hd"])
            rows[key] = {name: row[name] for name in same} | {"id": key, "poster": self.path(row["poster"])}
        return Wanted(rows, set(rows), ("poster",), ("title", "hd"))

    def works(self) -> Wanted:
        """Books and discs, by kind and number."""
        books = [("book", row["no"], row["name"]) for row in self.tables["book"]]
        discs = [("disc", row["No"], row["Name"]) for row in self.tables['"Old Vault"."Disc"']]
        rows = {
            texts(kind, str(no)): {"id": texts(kind, str(no)), "kind": kind, "number": no, "name": name}
            for kind, no, name in books + discs
        }
        return Wanted(rows, set(rows), ())

    def editions(self) -> Wanted:
        """Of films, as many as each lists."""
        rows = {}
        for film in self.tables['"Old Vault"."Film"']:
            extra = film["Extra"] if isinstance(film["Extra"], dict) else {}
            listed = extra.get("editions") if film["State"] != "X" else None
            for edition in listed if isinstance(listed, list) else ():
                key = texts(str(film["Id"]), edition["lang"])
                rows[key] = {"id": key, "film": film["Id"], "title": film["Title"], **edition}
                rows[key]["is_public"] = film["State"] == "P"
        return Wanted(rows, _where(rows, "is_public"), (), ("is_public",))

    def scenes(self) -> Wanted:
        """Scenes, which refer to works and have no documents."""
        rows = {}
        for row in self.tables["scene"]:
            book, disc = row["book"], row["disc"]
            kind = "book" if book is not None else "disc" if disc is not None else None
            work = {"work_kind": kind, "work_number": disc if book is None else book}
            rows[str(row["id"])] = {"id": row["id"], "note": row["note"]} | work
        return Wanted(rows, set(), ())

    def loans(self) -> Wanted:
        """Loans, with all that was sent of them."""
        names = {row["code"]: row["name"] for row in self.tables["branch"]}
        sent = defaultdict(list)
        for row in sorted(self.tables["reminder"], key=lambda row: row["id"]):
            sent[row["branch"], row["loan"]].append(row["note"])
        rows = {}
        for row in self.tables["loan"]:
            same = {name: row[name] for name in ("branch", "number", "borrower", "fee", "version")}
            key = texts(row["branch"], str(row["number"]))
            also = {"branch_name": names.get(row["branch"]), "reminders": sent[row["branch"], row["number"]]}
            rows[key] = {"id": key} | same | also
        return Wanted(rows, set(rows), ())

    def path(self, asset: Any) -> str | None:
        """Of an asset by its id, which JSON may have as text."""
        return self.paths.get(int(asset)) if asset is not None and str(asset).isdigit() else None

    def wanted(self) -> dict[str, Wanted]:
        """Everything, with the rows that must be parked for their files."""
        found = {"title": self.titles(), "label": self.all_labels(), "airing": self.airings()}
        found |= {"work": self.works(), "scene": self.scenes(), "edition": self.editions(), "loan": self.loans()}
        there = self.bucket.keys()
        for wanted in found.values():
            wanted.parked |= {key for key, row in wanted.rows.items() if not {*named(row, wanted.files)} <= there}
        return found


def differences(legacy: Any, target: Any, search_url: str, buckets: Buckets) -> list[Difference]:
    """Everything that is not as the monolith wants it. Connections are psycopg2's, without an open transaction."""
    found = []
    for kind, wanted in monolith(legacy, buckets).wanted().items():
        rows = {key_of(kind, row): row for row in plain_rows(target, f"SELECT * FROM awkward.{kind}")}
        documents = documents_of(search_url, f"aw_{kind}") if kind != "scene" else []
        found += compare_rows(kind, wanted, rows)
        found += compare_documents(kind, wanted, rows, documents)
        found += compare_files(kind, wanted, rows, buckets)
        found += compare_due(
            kind, wanted, rows_of(target, "SELECT *, coalesce(keys, ARRAY[key]) AS texts FROM sync.due")
        )
    return found


def monolith(legacy: Any, buckets: Buckets) -> Monolith:
    """As it is now."""
    with legacy:
        legacy.rollback()
        legacy.set_session(isolation_level="REPEATABLE READ", readonly=True)
        tables = {name: plain_rows(legacy, f"SELECT * FROM {name}") for name in TABLES}
    pages = buckets.legacy_client.get_paginator("list_objects_v2").paginate(Bucket=buckets.legacy)
    return Monolith(tables, {item["Key"]: item["ETag"] for page in pages for item in page.get("Contents", [])})


def plain_rows(connection: Any, query: str) -> list[Row]:
    """Rows as dicts; what is no number equals itself."""
    return [
        {name: "NaN" if isinstance(value, Decimal) and value.is_nan() else value for name, value in row.items()}
        for row in rows_of(connection, query)
    ]


def compare_rows(kind: str, wanted: Wanted, rows: dict[str, Row]) -> list[Difference]:
    """Every field of every row, but for files' new names; those of parked rows may be old."""
    found = [Difference("row", kind, key, "extra") for key in rows.keys() - wanted.rows.keys()]
    for key in wanted.rows.keys() - wanted.parked:
        if key not in rows:
            found.append(Difference("row", kind, key, "missing"))
            continue
        found += fields_that_differ(
            "row", kind, wanted.rows[key], {"id": wanted.rows[key]["id"], **rows[key]}, wanted.files
        )
    return found


def compare_documents(kind: str, wanted: Wanted, rows: dict[str, Row], documents: list[Row]) -> list[Difference]:
    """One document for each public row, with its fields, and the row's names of files. Drafts have none."""
    times = Counter(document["_id"] for document in documents)
    found = [Difference("document", kind, key, "doubled") for key, n in times.items() if n > 1]
    found += [Difference("document", kind, key, "missing") for key in wanted.public - wanted.parked - times.keys()]
    found += [Difference("document", kind, key, "extra") for key in times.keys() - wanted.public]
    for document in documents:
        key = document["_id"]
        if key in wanted.public - wanted.parked:
            fields = wanted.rows[key] | {name: rows.get(key, {}).get(name) for name in wanted.files}
            left = ("id", *wanted.not_in_documents)
            fields = {name: value for name, value in fields.items() if name not in left} | {"id": key}
            found += fields_that_differ("document", kind, fields, {**from_json(document["_source"]), "id": key}, ())
    return found


def from_json(source: Row) -> Row:
    """A document's values as the database gives them."""
    read = {"slot": dt.datetime.fromisoformat, "budget": lambda text: text if text == "NaN" else Decimal(text)}
    return {name: read[name](value) if value is not None and name in read else value for name, value in source.items()}


def compare_files(kind: str, wanted: Wanted, rows: dict[str, Row], buckets: Buckets) -> list[Difference]:
    """Bytes, type and metadata of each file a row names, against the monolith's; and no row names what is not there."""
    found, pairs = [], set()
    for key in wanted.rows.keys() & rows.keys():
        new = named(rows[key], wanted.files)
        if key in wanted.parked:
            continue
        old = named(wanted.rows[key], wanted.files)
        if len(old) != len(new):
            found.append(Difference("row", kind, key, "files", f"{new} for {old}"))
        pairs |= {(key, *pair) for pair in zip(old, new, strict=False)}
    with ThreadPoolExecutor(8) as pool:
        looks = pool.map(lambda pair: file_that_differs(buckets, kind, *pair), _one_each(pairs))
        return found + [difference for difference in looks if difference]


def _one_each(pairs: set[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Shared files are looked at once."""
    return list({pair[1:]: pair for pair in sorted(pairs)}.values())


def compare_due(kind: str, wanted: Wanted, due: list[Row]) -> list[Difference]:
    """What must be parked is, and nothing else is owed."""
    mine = [row for row in due if row["entity"] == f"aw_{kind}"]
    parked = Counter(text for row in mine if row["reason"] == "rejected" for text in row["texts"])
    found = [
        Difference("due", kind, text, "owed", f"{row['reason']}: {row['message']}")
        for row in mine
        for text in row["texts"]
        if text not in wanted.parked  # those, a sweep may owe again
    ]
    return found + [Difference("due", kind, key, "missing") for key in wanted.parked - parked.keys()]


def key_of(kind: str, row: Row) -> str:
    """A row's key as one text."""
    if kind == "airing":
        return composite(row["channel"], row["slot"], row["hd"])
    if kind == "edition":
        return texts(str(row["film"]), row["lang"])
    if kind == "loan":
        return texts(row["branch"], str(row["number"]))
    if kind == "work":
        return texts(row["kind"], str(row["number"]))
    return str(row["code" if kind == "label" else "id"])


def composite(channel: str, slot: dt.datetime, hd: bool) -> str:
    """A key of three as the engine promises to write it."""
    instant = slot.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S.%fZ")
    return texts(channel, instant, "true" if hd else "false")


def texts(*parts: str) -> str:
    """Parts of a key as one text."""
    return json.dumps(parts, ensure_ascii=False, separators=(",", ":"))


def named(row: Row, columns: tuple[str, ...]) -> list[str]:
    """The files a row names, in order."""
    found: list[str] = []
    for column in columns:
        value = row[column]
        found += value if isinstance(value, list) else [value] if value is not None else []
    return found


def _where(rows: dict[str, Row], column: str) -> set[str]:
    return {key for key, row in rows.items() if row[column]}
