"""The media sink: files of an entity, copied between buckets by content identity.

The new key contains the source's key and ETag and is never overwritten by other content, so a late copy harms
nobody. Equality is proven by the SHA-256 taken while the bytes pass, never by comparing ETags of two buckets:
a multipart copy's ETag differs from its source's.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from sync_pipeline.errors import (
    DeclarationError,
    MediaRefusedError,
    RowRejectedError,
)
from sync_pipeline.model.files import Copied, Source
from sync_pipeline.model.places import Place
from sync_pipeline.sinks.media.copy import CHANGED, each, head, stream, unforeseen_file
from sync_pipeline.sinks.media.faults import (
    CHECKS_PREFIX,
    MISSING,
    TARGET,
    SideError,
    code,
    fault_of,
)
from sync_pipeline.sinks.named import Named
from sync_pipeline.stores.stores import Stores

# what becomes of a row that names a file that is not there
Missing = Literal["park", "null"]


@dataclass(frozen=True)
class BucketDeclaration(Named):
    """What a `MediaBucket` says: its fields are explained there."""

    kind: ClassVar[str] = "media"
    columns: tuple[str, ...]
    prefix: str
    shared: bool = False
    size: str | Mapping[str, str] = ""
    sha256: str | Mapping[str, str] = ""
    missing: Missing = "park"
    label: str = ""

    @property
    def facts(self) -> list[tuple[str, str, str]]:
        """Columns that are filled from files: (column of the files, `size` or `sha256`, column that is filled)."""
        named = {"size": self.size, "sha256": self.sha256}
        return [
            (files, fact, name) for fact, declared in named.items() for files, name in self._by_column(declared).items()
        ]

    def _by_column(self, declared: str | Mapping[str, str]) -> Mapping[str, str]:
        return dict.fromkeys(self.columns, declared) if declared and isinstance(declared, str) else declared or {}

    def __post_init__(self) -> None:
        self._check_prefix()
        for name in ("size", "sha256"):
            declared = getattr(self, name)
            if isinstance(declared, str) and declared and len(self.columns) > 1:
                example = f"{{{self.columns[0]!r}: {declared!r}}}"
                raise DeclarationError(
                    f"MediaBucket({name}={declared!r}) has several columns of files: say which, {name}={example}"
                )
            unknown = {*self._by_column(declared)} - {*self.columns}
            if unknown:
                raise DeclarationError(f"MediaBucket({name}=…) names {min(unknown)!r}, which is none of its columns")

    def _check_prefix(self) -> None:
        if self.missing not in get_args(Missing):
            raise DeclarationError(f"MediaBucket(missing={self.missing!r}): one of {', '.join(get_args(Missing))}")
        parts = self.prefix.split("/")
        if not all(parts) or {".", ".."} & {*parts}:
            raise DeclarationError(f"MediaBucket(prefix={self.prefix!r}): say clips, or media/clips")
        if parts[0] == CHECKS_PREFIX:
            raise DeclarationError(f"MediaBucket(prefix={self.prefix!r}): that prefix is the preflight's own")

    @property
    def place(self) -> Place:
        """Its prefix."""
        remedy = (
            "give one of them another prefix, or say MediaBucket(…, shared=True) in both: then one copy of a file"
            " serves both"
        )
        return Place("prefix", self.prefix, remedy, shared=self.shared)

    def target_key(self, source: Source) -> str:
        """The new bucket's key of a source's present content."""
        identity = hashlib.sha256(f"{source.key}\0{source.etag}".encode()).hexdigest()[:40]
        extension = posixpath.splitext(source.key)[1]
        return f"{self.prefix}/{identity}{extension if extension.isascii() and len(extension) <= 10 else ''}"

    def sources(self, stores: Stores, keys: Iterable[str]) -> dict[str, Source | RowRejectedError]:
        """Each key's present identity, or why it has none. Raises UnreachableError."""
        named = sorted(set(keys))
        return dict(zip(named, each(stores, named, lambda key: head(stores, key)), strict=True))

    def copy(
        self, stores: Stores, sources: Iterable[Source], note: Callable[[list[Copied]], None] = lambda _: None
    ) -> list[Copied | Source | RowRejectedError]:
        """Copy each source's content under its target key; `note` is told of copies as they are made.

        Raises UnreachableError once those that were begun have ended. What was overwritten meanwhile is given back as
        it is now: its copy bears another name, which is to be begun.
        """

        def copied(outcomes: list[Copied | Source | RowRejectedError]) -> None:
            if copies := [outcome for outcome in outcomes if isinstance(outcome, Copied)]:
                note(copies)

        return each(stores, list(sources), lambda source: self._copy_one(stores, source), copied)

    def _copy_one(self, stores: Stores, source: Source) -> Copied | Source | RowRejectedError:
        try:
            return stream(stores, source, self.target_key(source))
        except RowRejectedError as error:
            return error
        except SideError as error:
            if code(error.__cause__) not in CHANGED | MISSING or error.args == (TARGET,):
                return fault_of(stores, source.key, error)
        except Exception as error:
            return unforeseen_file(source.key, error)
        now = head(stores, source.key)
        if now == source:
            return MediaRefusedError(f"HEAD of {source.key!r} answers, and GET says that there is no such file")
        return now
