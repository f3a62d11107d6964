"""The media sink: files of an entity, copied to the new bucket."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from sync_pipeline.db.keys import Key
from sync_pipeline.model.files import Source
from sync_pipeline.model.findings import Finding
from sync_pipeline.model.notices import Notice
from sync_pipeline.model.rows import Adapted
from sync_pipeline.sinks.context import SinkContext
from sync_pipeline.sinks.media.declaration import BucketDeclaration
from sync_pipeline.sinks.ownership import Mark
from sync_pipeline.sinks.pages import SinkPage
from sync_pipeline.sinks.placing import Placed, PlacingSink
from sync_pipeline.sinks.sink import PartPage, SinkSize
from sync_pipeline.stores.breaker import Breaker
from sync_pipeline.stores.stores import Stores


@dataclass(frozen=True)
class MediaBucket(BucketDeclaration, PlacingSink):
    """Files named by the adapted frame's `columns` (a key, or a list of keys, in the legacy bucket).

    Each is copied to `{prefix}/{identity}{extension}` in the new bucket, never overwritten; rows and
    documents then name the new key in that column.

    An entity has its prefix alone. Where several name the same files, `shared=True` in each of them lets them have one
    prefix, and one copy of a file: it is kept until no row of any of them names it.

    `size` and `sha256` name columns of the row that are filled with the bytes and the SHA-256 (in hex) of its file, as
    they were copied; where a column holds a list of files, with lists. With several columns of files, each says its
    own: `size={"cover": "cover_bytes"}`. They are NULL where there is no file.

    A row that names a file that is not there is parked until the file is. With `missing="null"` the row is written with
    NULL in the file's place, and written again when a sweep finds the file.

    `label` names it among several of an entity, each of which has columns and a prefix of its own.
    """

    noun: ClassVar[str] = "files"
    recovery_parts: ClassVar[tuple[str, ...]] = ("files",)
    names_rows: ClassVar[bool] = False

    @property
    def declared(self) -> frozenset[str]:
        """None: rows and documents keep what it fills."""
        return frozenset()

    def asset_path(self, entity: str) -> tuple[str, ...]:
        """By its prefix; entities that share one have an asset each."""
        *above, last = (*self.prefix.split("/"), *([entity] if self.shared else []))
        return "media", *above, f"{last}_files"

    def page(self, entity: str) -> SinkPage:
        """Files below a prefix."""
        return SinkPage(
            frozenset({"s3"}),
            f"Files of {entity}, copied by content identity under `{self.prefix}/`.",
        )

    def column_faults(self, adapted: pa.Table) -> Iterator[str]:
        """What of its columns adapted rows lack."""
        for name in self.columns:
            if name not in adapted.column_names:
                yield f"adapt returns no column {name!r}, which MediaBucket names"

    def open(self, stores: Stores, entity: str) -> None:
        """Mark the prefix as the entity's. Raises as `Sink.open` does."""
        from sync_pipeline.sinks.media import ownership

        with self.breaker(stores):
            ownership.claim_prefix(stores, entity, self.place)

    def marks(self, stores: Stores) -> list[Mark]:
        """The marks of the prefix and of those around it."""
        from sync_pipeline.sinks.media import ownership

        return ownership.prefix_marks(stores, self.prefix)

    def unmarked(self, stores: Stores, entity: str, mark: Mark) -> Iterator[Notice]:
        """A prefix that we may mark was marked when the entity was opened last."""
        from sync_pipeline.sinks.media import ownership

        yield from ownership.unmarked_prefix(mark)

    def take_over(self, stores: Stores, entity: str) -> list[Mark]:
        """Mark the prefix as ours."""
        from sync_pipeline.sinks.media import ownership

        return ownership.take_over_prefix(stores, self.prefix)

    def breaker(self, stores: Stores) -> Breaker:
        """The buckets'."""
        return stores.media_breaker

    @property
    def filled(self) -> Sequence[tuple[str, str]]:
        """The columns that it fills, each with what it fills them with: `size` or `sha256`."""
        return [(fact, name) for _, fact, name in self.facts]

    def place_objects(
        self, stores: Stores, key: Key, adapted: Adapted, *, wait: bool, has_tries_left: bool = True
    ) -> Placed:
        """Copy the files that rows name. Raises as `PlacingSink.place_objects` does."""
        from sync_pipeline.sinks.media.place import place

        return place(self, stores, key, adapted, wait=wait, has_tries_left=has_tries_left)

    def are_placed(self, stores: Stores, key: Key, adapted: Adapted, known: set[str]) -> bool:
        """Whether rows name files besides the `known` ones, and all of these are copied."""
        from sync_pipeline.sinks.media.place import are_copied

        return are_copied(self, stores, key, adapted, known)

    def identities(self, stores: Stores, names: Sequence[str]) -> dict[str, str]:
        """The ETags of files in the legacy bucket, of those that are there."""
        found = self.sources(stores, names)
        return {name: source.etag for name, source in found.items() if isinstance(source, Source)}

    def compare_part(self, context: SinkContext, part: str, position: list[str] | None) -> PartPage:
        """Compare the next page of the prefix's listing with the ledger."""
        from sync_pipeline.sinks.media.recovery import compare_listing

        return compare_listing(context, self.prefix, position)

    def as_written(self, context: SinkContext, adapted: Adapted) -> Adapted:
        """Rows whose files are named by the keys that the ledger gives them."""
        from sync_pipeline.sinks.media.place import name_known

        return name_known(self, context.stores, context.entity, context.key, adapted)

    def compare_rest(self, context: SinkContext) -> list[Finding]:
        """Files that rows name and that are missing, stale or corrupt, and files that we never put there."""
        from sync_pipeline.sinks.media.compare import compare_files

        return compare_files(context, self)

    def rows_of(self, context: SinkContext, objects: Sequence[str]) -> dict[str, set[str]]:
        """The rows that name each of these files."""
        from sync_pipeline.ledger.media import rows_naming

        with context.stores.target() as cursor:
            return rows_naming(cursor, context.entity, self.id, objects)

    def measure(self, stores: Stores) -> SinkSize | None:
        """Its files and their bytes, by the ledger."""
        from sync_pipeline.ledger.media import count_files

        with stores.target() as cursor:
            found = count_files(cursor, self.prefix)
        return found and SinkSize(*found)
