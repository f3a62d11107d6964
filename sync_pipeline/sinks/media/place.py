"""Files of adapted rows: found, copied where they must be, and named by their new keys."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.db.columns import DIGEST, relist
from sync_pipeline.db.keys import Key
from sync_pipeline.errors import (
    DeclarationError,
    MediaDelayedError,
    MediaMissingError,
    MediaUnforeseenError,
    RowRejectedError,
    SharedFaultError,
    UnreachableError,
)
from sync_pipeline.ledger import media as ledger
from sync_pipeline.model.faults import crash_point
from sync_pipeline.model.files import MISSING_FILE, REFUSED_FILE, UNFORESEEN_FILE, Copied, Source
from sync_pipeline.model.rows import Adapted, Reject
from sync_pipeline.model.steps import BatchStep
from sync_pipeline.sinks.media.declaration import BucketDeclaration
from sync_pipeline.sinks.media.ownership import claim_prefix
from sync_pipeline.sinks.placing import Placed, Reference
from sync_pipeline.stores.stores import Stores

_TRIES = 5
# (key texts, legacy file keys) side by side to new keys
Rename = Callable[[pa.Array, pa.Array], pa.Array]


def place(
    sink: BucketDeclaration, stores: Stores, key: Key, adapted: Adapted, *, wait: bool, has_tries_left: bool = True
) -> Placed:
    """Bring the rows' files over. With `wait`, rows that need a copy are put off instead of copied now.

    A row whose file cannot be read now, though others can, is put off too while the caller `has_tries_left`, and is
    rejected then. Raises UnreachableError when a bucket does not answer, unless the rows may wait.
    """
    names = _named(sink, key, adapted)
    placed = Placed(adapted)
    if not names:
        placed.adapted = _with_facts(sink, stores, adapted)
        return placed
    faults: dict[str, RowRejectedError] = {}
    try:
        with stores.media_breaker:
            targets = _targets(sink, stores, names, placed, faults, wait=wait)
    except UnreachableError:
        if not wait:
            raise
        targets = {}
        placed.waiting = sorted({text for text, _ in names})
    if sink.missing == "null":
        targets |= _take_missing(faults)
    _sort_out(placed, names, faults, has_tries_left=has_tries_left or wait)
    gone = [reject.key for reject in placed.rejects] + placed.waiting
    names_of = pa.array(list(targets), pa.string())
    keys_of = pa.array([target or None for target in targets.values()], pa.string())
    placed.adapted = _renamed(
        sink,
        key,
        adapted.without(key.texts, gone),
        lambda _, values: keys_of.take(pc.index_in(values, value_set=names_of)),
    )
    placed.adapted = _with_facts(sink, stores, placed.adapted)
    left = set(gone)
    placed.rejects = _of_rows(key, adapted, placed.rejects)
    placed.references = sorted(
        {Reference(text, name, targets[name], sink.id) for text, name in names if text not in left}
    )
    return placed


def _take_missing(faults: dict[str, RowRejectedError]) -> dict[str, str]:
    """Files that are not there, as names without an object; they are no faults any more."""
    gone = [name for name, fault in faults.items() if isinstance(fault, MediaMissingError)]
    for name in gone:
        del faults[name]
    return dict.fromkeys(gone, ledger.NO_OBJECT)


def _sort_out(
    placed: Placed, names: list[tuple[str, str]], faults: dict[str, RowRejectedError], *, has_tries_left: bool
) -> None:
    """Rows whose files are at fault are rejected, or tried again a few times."""
    for text, name in names:
        fault = faults.get(name)
        if isinstance(fault, MediaDelayedError) and has_tries_left:
            placed.delayed[text] = fault
        elif fault is not None:
            placed.rejects.append(Reject(text, BatchStep.MEDIA, error_class(fault), str(fault)))
    rejected = {reject.key for reject in placed.rejects}
    placed.delayed = {text: fault for text, fault in placed.delayed.items() if text not in rejected}
    placed.waiting = sorted({*placed.waiting, *placed.delayed} - rejected)


def error_class(fault: RowRejectedError) -> str:
    """By which dead letters name the fault of a file."""
    if isinstance(fault, MediaMissingError):
        return MISSING_FILE
    return UNFORESEEN_FILE if isinstance(fault, MediaUnforeseenError) else REFUSED_FILE


def are_copied(sink: BucketDeclaration, stores: Stores, key: Key, adapted: Adapted, known: set[str]) -> bool:
    """Whether the rows name files besides the `known` (legacy keys), and the new bucket has all of these."""
    names = {name for _, name in _named(sink, key, adapted)} - known
    with stores.target() as cursor:
        return bool(names) and ledger.copied(cursor, sorted(names)) == names


def _of_rows(key: Key, adapted: Adapted, rejects: list[Reject]) -> list[Reject]:
    """The rejects, with the digests of their rows."""
    if not rejects:
        return []
    digests = dict(zip(key.texts(adapted.legacy).to_pylist(), adapted.legacy.column(DIGEST).to_pylist(), strict=True))
    return [replace(reject, digest=digests[reject.key]) for reject in rejects]


def _named(sink: BucketDeclaration, key: Key, adapted: Adapted) -> list[tuple[str, str]]:
    """(key text, legacy file key) of every file a row names."""
    texts = key.texts(adapted.legacy)
    found: list[tuple[str, str]] = []
    for name in sink.columns:
        if name not in adapted.table.column_names:
            raise DeclarationError(f"MediaBucket names {name!r}, which adapt does not return")
        rows, values = _flat(adapted.table.column(name))
        keep = values.is_valid()
        found += zip(texts.take(rows.filter(keep)).to_pylist(), values.filter(keep).to_pylist(), strict=True)
    return found


def _targets(
    sink: BucketDeclaration,
    stores: Stores,
    names: list[tuple[str, str]],
    placed: Placed,
    faults: dict[str, RowRejectedError],
    *,
    wait: bool,
) -> dict[str, str]:
    """Each file's key in the new bucket, copied there if it was not; what is wrong with others goes to `faults`."""
    found = sink.sources(stores, {name for _, name in names})
    faults |= {name: fault for name, fault in found.items() if isinstance(fault, RowRejectedError)}
    sources = {name: source for name, source in found.items() if isinstance(source, Source)}
    targets = {name: sink.target_key(source) for name, source in sources.items()}
    with stores.target() as cursor:
        known = ledger.known(cursor, list(targets.values()))
    absent = [source for name, source in sources.items() if targets[name] not in known]
    if wait:
        owed = {source.key for source in absent}
        placed.waiting = sorted({text for text, name in names if name in owed})
    elif absent:
        _copy(sink, stores, absent, targets, faults, placed)
    _check_unforeseen(faults, len(found), stores)
    return targets


def _check_unforeseen(faults: dict[str, RowRejectedError], files: int, stores: Stores) -> None:
    """Raise SharedFaultError where more than a share of a batch's files fails by what nobody foresaw: parks nothing."""
    settings = stores.settings
    unforeseen = [str(fault) for fault in faults.values() if isinstance(fault, MediaUnforeseenError)]
    if len(unforeseen) > settings.fault_rows and len(unforeseen) > settings.fault_fraction * files:
        raise SharedFaultError(f"{len(unforeseen)} of {files} files of a batch fail alike: {unforeseen[0]}")


def _copy(
    sink: BucketDeclaration,
    stores: Stores,
    absent: list[Source],
    targets: dict[str, str],
    faults: dict[str, RowRejectedError],
    placed: Placed,
) -> None:
    """Copy files, and record each as soon as it is there: a fault of one has no other copied again."""
    if (stores.entity, sink.prefix) not in stores.claimed:
        claim_prefix(stores, stores.entity, sink.place)

    def note(copies: list[Copied]) -> None:
        crash_point("media.after")
        with stores.target() as cursor:
            ledger.record(cursor, copies)
        placed.copied += len(copies)
        placed.copied_bytes += sum(copy.size for copy in copies)

    for _ in range(_TRIES):
        crash_point("media.before")
        with stores.target() as cursor:
            ledger.begin(cursor, [targets[source.key] for source in absent])
        outcomes = sink.copy(stores, absent, note)
        outcomes_of = zip(absent, outcomes, strict=True)
        faults |= {source.key: fault for source, fault in outcomes_of if isinstance(fault, RowRejectedError)}
        # overwritten in mid-copy: what is there now goes under a name of its own
        absent = [outcome for outcome in outcomes if isinstance(outcome, Source)]
        if not absent:
            return
        targets |= {source.key: sink.target_key(source) for source in absent}
    for source in absent:
        message = f"{source.key!r} changed {_TRIES} times while it was copied"
        faults[source.key] = MediaDelayedError(message)


def _renamed(sink: BucketDeclaration, key: Key, adapted: Adapted, rename: Rename) -> Adapted:
    texts, table = key.texts(adapted.legacy), adapted.table
    for name in sink.columns:
        column = table.column(name).combine_chunks()
        rows, values = _flat(column)
        renamed = rename(texts.take(rows), values)
        rewritten = relist(column, renamed) if pa.types.is_list(column.type) else renamed
        table = table.set_column(table.column_names.index(name), name, rewritten)
    return replace(adapted, table=table)


_FACTS = {"size": pa.int64(), "sha256": pa.string()}


def _with_facts(sink: BucketDeclaration, stores: Stores, adapted: Adapted) -> Adapted:
    """Rows with what is known of the files that they name by their new keys."""
    if not sink.facts:
        return adapted
    table = adapted.table
    flat = {name: _flat(table.column(name)) for name, *_ in sink.facts}
    with stores.target() as cursor:
        keys = {key for _, values in flat.values() for key in values.drop_null().to_pylist()}
        known = ledger.facts_of(cursor, sorted(keys)) if keys else {}
    for files, fact, name in sink.facts:
        found = pa.array([known.get(key, {}).get(fact) for key in flat[files][1].to_pylist()], _FACTS[fact])
        column = table.column(files).combine_chunks()
        rewritten = relist(column, found) if pa.types.is_list(column.type) else found
        table = table.set_column(table.column_names.index(name), name, rewritten)
    return replace(adapted, table=table)


def _flat(column: pa.ChunkedArray | pa.Array) -> tuple[pa.Array, pa.Array]:
    """(row numbers, values) of a column of keys or lists of keys."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_list(array.type):
        return pc.list_parent_indices(array), pc.cast(array.flatten(), pa.string())
    return pa.array(range(len(array)), pa.int64()), pc.cast(array, pa.string())


def name_known(sink: BucketDeclaration, stores: Stores, entity: str, key: Key, adapted: Adapted) -> Adapted:
    """Rows as they read when their files are named by the keys the ledger gives them.

    Files that it does not know keep their legacy names, which no row of the new side bears: they are yet to come.
    """
    texts = sorted({text for text, _ in _named(sink, key, adapted)})
    with stores.target() as cursor:
        known = ledger.named(cursor, entity, texts)

    def rename(rows: pa.Array, values: pa.Array) -> pa.Array:
        pairs = zip(rows.to_pylist(), values.to_pylist(), strict=True)
        return pa.array([known.get((row, sink.id, name), name) or None for row, name in pairs], pa.string())

    return _with_facts(sink, stores, _renamed(sink, key, adapted, rename))
