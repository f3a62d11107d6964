"""The story of a batch, top to bottom: revision, read, adapt, files, rows, documents, close.

Live sync, backfill, sweep, repair and replay are all this one path. A batch takes its revision between two
snapshots: its keys were committed before it, its rows are read after it. So the highest revision has read every
change that a lower one acknowledges, and the last revision wins whatever the order of writing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import psycopg2
import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline import due, versions
from sync_pipeline.adapt import Adapted, adapt, without
from sync_pipeline.documents import Operations, send
from sync_pipeline.errors import UnreachableError
from sync_pipeline.faults import crash_point, guarded
from sync_pipeline.files import Placed, place
from sync_pipeline.lane import Lane
from sync_pipeline.ledger import media
from sync_pipeline.ledger.ledger import DOUBT, HELD_DOCUMENT, KEEP, PARK, WITHDRAW, WRITE, next_revision
from sync_pipeline.origin import DIGEST, Reject, Rows
from sync_pipeline.references import Kin, StricterError
from sync_pipeline.stores import Cursor
from sync_pipeline.versions import Expected

# below this, plain COPY of a first load saves nothing
_FIRST_LOAD_ROWS = 500
_REMOVED = "a file of this batch was just removed as garbage: the next try copies it again"


@dataclass(frozen=True)
class Order:
    """How a batch is to be carried out."""

    acknowledge: bool = False  # its keys are events: every key's revision is raised, changed or not
    force: bool = False  # write rows that have not changed, too
    documents: bool = False  # send documents of rows that have not changed, too
    wait: bool = False  # rows whose files must be copied are put off into `due`
    commit: Callable[[Cursor, Outcome], None] | None = None  # done in the rows' transaction
    expected: Expected | None = None  # versions that its rows must show; keys of others are left to `commit`
    hand_over: Callable[[Operations], None] | None = None  # takes the documents, instead of sending them at once


@dataclass
class Outcome:
    """What a batch did, in rows, documents, files and bytes."""

    keys: int = 0
    read: int = 0
    written: int = 0
    deleted: int = 0
    parked: int = 0
    waiting: int = 0
    documents: int = 0
    documents_owed: int = 0
    files: int = 0
    file_bytes: int = 0
    position: list[str] | None = None


Report = Callable[[str, Outcome], None]


@dataclass
class _Batch:
    lane: Lane
    revision: int
    order: Order
    keys: pa.Table
    adapted: Adapted
    placed: Placed
    gone: pa.Table  # keys whose row is to be deleted
    unchanged: pa.Table  # keys whose row needs no write, with `_digest`
    forced: pa.Array  # of adapted rows: true where the row is written, false where only its document is sent
    rejects: list[Reject] = field(default_factory=list)
    fresh: bool = False
    waits: dict[str, due.Wait] = field(default_factory=dict)  # by key text: neither written nor deleted yet
    roots: pa.Table = field(default_factory=lambda: pa.table({}))
    late: list[str] = field(default_factory=list)  # key texts of roots that a higher revision has looked at
    private: frozenset[str] = frozenset()  # key texts of adapted rows that want no document


def sync_keys(lane: Lane, keys: pa.Table, order: Order) -> Outcome:
    """Bring these keys, and all other parts of their roots, to what the monolith holds now.

    Raises UnreachableError when a store does not answer, LegacySchemaError, DeclarationError.
    """
    return _sync(lane, lane.origin.roots_of(keys), keys, order)


def sync_roots(lane: Lane, roots: pa.Table, order: Order) -> Outcome:
    """Bring these roots to what the monolith holds now. Raises as `sync_keys` does."""
    named = lane.origin.key.schema.empty_table() if lane.origin.has_parts else roots
    return _sync(lane, lane.origin.roots_of(roots), named, order)


def _sync(lane: Lane, roots: pa.Table, named: pa.Table, order: Order) -> Outcome:
    revision = next_revision(lane.stores)
    crash_point("read.before")
    rows = lane.origin.by_roots(roots)
    crash_point("read.after")
    keys = named
    if lane.origin.has_parts:
        keys = pa.concat_tables([named, rows.table.select(named.column_names)])
        keys = keys.group_by(named.column_names).aggregate([])
    return _settle(lane, revision, keys, rows, order, roots=roots)


def sync_page(lane: Lane, after: list[str] | None, until: list[str] | None, within: str, order: Order) -> Outcome:
    """Bring the next chunk of a range to what the monolith holds now; `position` is None at the range's end."""
    limit = lane.stores.settings.chunk_rows
    revision = next_revision(lane.stores)
    crash_point("read.before")
    rows = lane.origin.page(after, until, within, limit)
    crash_point("read.after")
    keys = rows.table.select(list(lane.origin.key.columns))
    unreadable = lane.origin.key.parse(reject.key for reject in rows.rejects)
    roots = lane.origin.roots_of(pa.concat_tables([keys, unreadable]))
    position = rows.last if rows.count >= limit else None
    return _settle(lane, revision, keys, rows, order, roots=roots, position=position)


def _settle(
    lane: Lane,
    revision: int,
    keys: pa.Table,
    rows: Rows,
    order: Order,
    *,
    roots: pa.Table,
    position: list[str] | None = None,
) -> Outcome:
    if lane.gate:  # what passes the gate must know of all parts
        order = replace(order, acknowledge=True)
    if order.expected:
        keys, rows = order.expected.hold_back(lane.origin.key, keys, rows)
    batch = _prepare(lane, revision, keys, rows, order)
    batch.roots = roots
    outcome = Outcome(keys=keys.num_rows, read=rows.table.num_rows, position=position)
    outcome.files, outcome.file_bytes = batch.placed.copied, batch.placed.copied_bytes
    operations = _write(batch, outcome)
    if order.hand_over:
        order.hand_over(operations)
    else:
        outcome.documents, outcome.documents_owed = send(lane, operations)
    return outcome


def _prepare(lane: Lane, revision: int, keys: pa.Table, rows: Rows, order: Order) -> _Batch:
    key = lane.origin.key
    with lane.stores.target() as cursor:
        prior = lane.ledger.prior(cursor, keys)
    same, gone, absent = _compare(lane, keys, rows, prior)
    changed = pc.invert(same)
    chosen = pc.or_(changed, pa.scalar(order.force or order.documents))
    adapted, rejects = adapt(lane.entity, key, rows.table.filter(chosen))
    placed = Placed(adapted)
    if lane.entity.media:
        placed = place(lane.entity.media, lane.stores, key, adapted, wait=order.wait)
    rejects = [*rows.rejects, *rejects, *placed.rejects]
    written = changed if not order.force else pa.repeat(True, len(changed))
    if order.documents and placed.references:
        written = pc.or_(written, pc.is_in(key.texts(rows.table), value_set=_renamed(lane, placed)))
    kept = pc.index_in(key.texts(placed.adapted.legacy), value_set=key.texts(rows.table))
    unchanged = rows.table.filter(pc.invert(chosen)).select([*key.columns, DIGEST])
    if not order.force and not order.documents:
        missing = absent
    else:
        gone, missing = pa.concat_tables([gone, absent]), absent.slice(0, 0)
    if order.acknowledge and guarded(45):
        nothing = missing.append_column(DIGEST, pa.nulls(missing.num_rows, pa.int64()))
        unchanged = pa.concat_tables([unchanged, nothing])
    else:
        unchanged = unchanged.slice(0, 0)
    fresh = prior.num_rows == 0 and not lane.entity.table.references and lane.gate is None
    fresh = fresh and not (gone.num_rows or unchanged.num_rows or rejects or placed.waiting)
    private = frozenset(key.texts(adapted.legacy.filter(pc.invert(_bit(adapted.held, HELD_DOCUMENT)))).to_pylist())
    return _Batch(
        lane,
        revision,
        order,
        keys,
        placed.adapted,
        placed,
        gone,
        unchanged,
        written.take(kept),
        rejects,
        fresh,
        private=private,
    )


def _renamed(lane: Lane, placed: Placed) -> pa.Array:
    """Keys (as text) of rows whose files have new names, since their bytes have changed and nothing else has."""
    with lane.stores.target() as cursor:
        named = media.named(cursor, lane.entity.name, sorted({text for text, _, _ in placed.references}))
    return pa.array([text for text, source, new in placed.references if named.get((text, source)) != new], pa.string())


def _compare(lane: Lane, keys: pa.Table, rows: Rows, prior: pa.Table) -> tuple[pa.Array, pa.Table, pa.Table]:
    """(per row: is as the ledger has it; keys that are gone since; keys that are gone and were not there before)."""
    key = lane.origin.key
    texts, before = key.texts(rows.table), key.texts(prior)
    at = pc.index_in(texts, value_set=before)
    digest = prior.column(DIGEST).combine_chunks().take(at)
    basis = prior.column("basis").combine_chunks().take(at)
    same = pc.and_(
        pc.fill_null(pc.equal(digest, rows.table.column(DIGEST).combine_chunks()), False),
        pc.fill_null(pc.equal(basis, lane.ledger.basis), False),
    )
    there = pa.concat_arrays([texts.cast(pa.string()), pa.array([r.key for r in rows.rejects], pa.string())])
    all_texts = key.texts(keys)
    away = pc.invert(pc.is_in(all_texts, value_set=there))
    live = prior.filter(prior.column(DIGEST).combine_chunks().is_valid())
    was = pc.is_in(all_texts, value_set=key.texts(live))
    return same, keys.filter(pc.and_(away, was)), keys.filter(pc.and_(away, pc.invert(was)))


def _write(batch: _Batch, outcome: Outcome) -> Operations:
    """The rows' transaction; rows that the table rejects are found by halving and parked."""
    if not guarded(19):
        with batch.lane.stores.target() as cursor:
            _move_on(batch, cursor, outcome)
    try:
        if batch.fresh and batch.adapted.table.num_rows >= _FIRST_LOAD_ROWS:
            try:
                return _first_load(batch, outcome)
            except psycopg2.errors.UniqueViolation:
                pass  # somebody else has written a key of this chunk meanwhile
        return _guarded_write(batch, outcome)
    except (psycopg2.DataError, psycopg2.IntegrityError):
        refused = _refused(_ready(batch))
        if not refused:
            raise
        batch = _without(batch, [reject.key for reject in refused])
        batch.rejects += refused
        return _guarded_write(batch, outcome)


def _without(batch: _Batch, texts: list[str]) -> _Batch:
    """The batch, some keys left out."""
    out, left_out = pa.array(texts, pa.string()), set(texts)

    def others(table: pa.Table) -> pa.Table:
        return table.filter(pc.invert(pc.is_in(_texts(batch, table), value_set=out)))

    kept = without(batch.adapted, batch.lane.origin.key, texts)
    at = pc.index_in(_texts(batch, kept.legacy), value_set=_texts(batch, batch.adapted.legacy))
    return replace(
        batch,
        adapted=kept,
        forced=batch.forced.take(at),
        gone=others(batch.gone),
        unchanged=others(batch.unchanged),
        rejects=[reject for reject in batch.rejects if reject.key not in left_out],
        placed=replace(batch.placed, waiting=[text for text in batch.placed.waiting if text not in left_out]),
    )


def _through_gate(batch: _Batch, cursor: Cursor) -> _Batch:
    """Where rows are parts: without roots that a higher revision has looked at, with the parts that are no more."""
    gate, origin = batch.lane.gate, batch.lane.origin
    if gate is None:
        return batch
    roots = gate.pass_through(cursor, batch.roots, batch.revision)
    keys = pa.concat_tables([batch.keys, origin.key.parse(reject.key for reject in batch.rejects)])
    known = origin.key.texts(keys).to_pylist()
    passed = pc.is_in(
        origin.root.texts(keys.select(list(origin.root.columns))), value_set=origin.root.texts(roots)
    ).to_pylist()
    late = [text for text, is_in in zip(known, passed, strict=True) if not is_in]
    others = gate.others(cursor, roots, known)
    gone = others.column(DIGEST).combine_chunks().is_valid()
    if batch.order.force or batch.order.documents:
        gone = pa.repeat(True, others.num_rows)
    batch = replace(_without(batch, late) if late else batch, late=late)
    batch.gone = pa.concat_tables([batch.gone, others.filter(gone).select(batch.gone.column_names)])
    batch.unchanged = pa.concat_tables([batch.unchanged, others.filter(pc.invert(gone))])
    return batch


def _ready(batch: _Batch) -> _Batch:
    """The batch without rows that wait for others."""
    return _without(batch, list(batch.waits)) if batch.waits else batch


def _first_load(batch: _Batch, outcome: Outcome) -> Operations:
    lane, adapted = batch.lane, batch.adapted
    keys = adapted.legacy.select(list(lane.origin.key.columns))
    rows = adapted.table.filter(_bit(adapted.held, 1))
    texts = lane.origin.key.texts(keys)
    with lane.stores.target() as cursor:
        crash_point("rows.before")
        kin = Kin.enter(lane, cursor)
        digests = adapted.legacy.column(DIGEST).combine_chunks()
        lane.ledger.append(cursor, keys, batch.revision, digests, adapted.held)
        lane.entity.table.append(cursor, lane.entity.table.rows(rows))
        if batch.placed.references and not media.refer_new(cursor, lane.entity.name, batch.placed.references):
            raise UnreachableError(_REMOVED)
        operations = Operations.none(lane)
        if lane.entity.index:
            public = _bit(adapted.held, 2)
            documents = lane.entity.index.documents(adapted.table.filter(public))
            versions = pa.repeat(pa.scalar(batch.revision, pa.int64()), len(documents))
            operations = Operations(keys.filter(public), texts.filter(public), versions, documents)
            operations.owe(cursor, lane.entity.name, batch.revision)
        if not kin.alone:
            due.release_waiting(cursor, lane.entity.name, texts.to_pylist(), batch.revision)
        outcome.written = rows.num_rows
        _acknowledge(batch, cursor, outcome)
    crash_point("rows.after")
    return operations


def _guarded_write(batch: _Batch, outcome: Outcome) -> Operations:
    try:
        return _write_under(batch, outcome, strict=False)
    except StricterError:
        return _write_under(batch, outcome, strict=True)


def _write_under(batch: _Batch, outcome: Outcome, *, strict: bool) -> Operations:
    lane = batch.lane
    with lane.stores.target() as cursor:
        crash_point("rows.before")
        kin = Kin.enter(lane, cursor, strict=strict)
        passed = _through_gate(batch, cursor)
        if not kin.alone:
            batch.waits = passed.waits = kin.waits(passed.adapted, passed.gone, batch.revision)
        ready = _ready(passed)
        plan = _plan(ready)
        applied = lane.ledger.apply(cursor, plan, batch.revision)
        operations = _write_rows(ready, cursor, plan, applied)
        texts = lane.origin.key.texts(plan)
        _settle_due(ready, cursor, plan, applied, outcome)
        if lane.entity.version_column:
            _record_versions(ready, cursor, lane.entity.version_column, applied)
        n = applied.column("n").combine_chunks()
        writes = pc.equal(plan.column("action").combine_chunks().take(n), WRITE)
        if not kin.alone:
            written = texts.take(n.filter(writes)).to_pylist()
            due.release_waiting(cursor, lane.entity.name, written, batch.revision)
        held = plan.column("held").combine_chunks().take(n)
        outcome.written = pc.sum(pc.and_(writes, _bit(held, 1))).as_py() or 0
        outcome.deleted = (pc.sum(writes).as_py() or 0) - outcome.written
        _acknowledge(batch, cursor, outcome)
    crash_point("rows.after")
    return operations


def _write_rows(batch: _Batch, cursor: Cursor, plan: pa.Table, applied: pa.Table) -> Operations:
    """What the ledger has let through: rows, what they say of files, and documents, which are owed."""
    lane, key = batch.lane, batch.lane.origin.key
    rows = lane.entity.table.rows(batch.adapted.table)
    rows = rows.append_column("n", pa.array(range(rows.num_rows), pa.int32())).filter(_bit(batch.adapted.held, 1))
    lane.entity.table.write(cursor, lane.entity.name, key, rows)
    if lane.entity.media and not media.refer(cursor, lane.entity.name, key, _references(batch)):
        raise UnreachableError(_REMOVED)
    operations = _operations(batch, plan, applied)
    operations.owe(cursor, lane.entity.name, batch.revision)
    return operations


def _plan(batch: _Batch) -> pa.Table:
    """Every key the ledger is told of: adapted rows first, so that `n` numbers them."""
    key = batch.lane.origin.key
    columns = list(key.columns)

    def part(keys: pa.Table, action: pa.Array, digest: pa.Array, held: pa.Array) -> pa.Table:
        table = keys.select(columns).append_column("action", action.cast(pa.int16()))
        return table.append_column(DIGEST, digest.cast(pa.int64())).append_column("held", held.cast(pa.int16()))

    def constant(value: int | None, rows: int) -> pa.Array:
        return pa.repeat(pa.scalar(value, pa.int64()), rows)

    rows = batch.adapted.legacy
    texts = sorted({r.key for r in batch.rejects} | set(batch.placed.waiting) | set(batch.waits))
    parked = key.parse(texts)
    public = DOUBT if batch.order.force or batch.order.documents else PARK
    stays = pa.array([WITHDRAW if text in batch.private else public for text in texts], pa.int16())
    action = pc.if_else(batch.forced, WRITE, KEEP)
    gone, same = batch.gone, batch.unchanged
    plan = pa.concat_tables(
        [
            part(rows, action, rows.column(DIGEST).combine_chunks(), batch.adapted.held),
            part(gone, constant(WRITE, gone.num_rows), constant(None, gone.num_rows), constant(0, gone.num_rows)),
            part(same, constant(KEEP, same.num_rows), same.column(DIGEST), constant(0, same.num_rows)),
            part(parked, stays, constant(None, len(parked)), constant(0, len(parked))),
        ]
    )
    at = len(columns)
    return plan.add_column(at, "n", pa.array(range(plan.num_rows), pa.int32())).combine_chunks()


def _operations(batch: _Batch, plan: pa.Table, applied: pa.Table) -> Operations:
    """The documents that the applied part of a plan asks for: written rows, and all where the order says so."""
    lane, index = batch.lane, batch.lane.entity.index
    if index is None:
        return Operations.none(lane)
    n = applied.column("n").combine_chunks()
    versions = applied.column("written").combine_chunks()
    touched = plan.take(n)
    action, held = (touched.column(name).combine_chunks() for name in ("action", "held"))
    all_of_them = batch.order.force or batch.order.documents
    adapted = pc.less(n, batch.adapted.table.num_rows)
    held_before = _bit(applied.column("held_before").combine_chunks(), 2)
    written = pc.is_in(action, value_set=pa.array([WRITE, WITHDRAW], pa.int16()))
    # its document's removal was owed, and the row is parked meanwhile
    unsure = pc.and_(pc.equal(action, DOUBT), pc.invert(held_before))
    considered = pc.or_(pc.or_(written, unsure), pc.and_(adapted, pa.scalar(all_of_them)))
    wanted = pc.and_(considered, _bit(held, 2))
    may_be_there = pc.or_(held_before, pa.scalar(all_of_them))
    deleted = pc.and_(pc.and_(considered, pc.invert(_bit(held, 2))), may_be_there)
    rows = pc.if_else(wanted, n, pa.scalar(None, pa.int32()))
    documents = index.documents(batch.adapted.table).take(rows)
    keys = touched.select(list(lane.origin.key.columns))
    return Operations(keys, lane.origin.key.texts(keys), versions, documents).filter(pc.or_(wanted, deleted))


def _settle_due(batch: _Batch, cursor: Cursor, plan: pa.Table, applied: pa.Table, outcome: Outcome) -> None:
    name, revision, texts = batch.lane.entity.name, batch.revision, _texts(batch, plan)
    let_through = set(texts.take(applied.column("n").combine_chunks()).to_pylist())
    parked = {reject.key: reject for reject in batch.rejects if reject.key in let_through}
    waiting = [text for text in batch.placed.waiting if text in let_through and text not in parked]
    overtaken = texts.take(applied.filter(applied.column("overtaken")).column("n").combine_chunks()).to_pylist()
    waits = [wait for text, wait in batch.waits.items() if text in let_through]
    through = sorted(let_through - parked.keys() - set(waiting) - batch.waits.keys())
    sent = batch.order.force or batch.order.documents
    kept = set() if sent else set(texts.filter(pc.equal(plan.column("action"), KEEP)).to_pylist())
    due.release(cursor, name, [text for text in through if text not in kept])
    due.release_unchanged(cursor, name, [text for text in through if text in kept])
    due.wait(cursor, name, waits, revision, batch.lane.stores.settings.parent_limit_seconds)
    due.park(cursor, name, parked.values(), revision, batch.lane.stores.settings.retry_limit)
    due.owe(cursor, name, "media", waiting, revision)
    due.owe(cursor, name, "overtaken", overtaken, revision)
    if sent:
        # whoever has looked since may have found the row unchanged, and sent nothing
        refused = sorted({*texts.to_pylist(), *batch.late} - let_through)
        due.owe(cursor, name, "overtaken" if batch.order.force else "documents", refused, revision)
    outcome.parked, outcome.waiting = len(parked), len(waiting) + len(waits)


def _record_versions(batch: _Batch, cursor: Cursor, column: str, applied: pa.Table) -> None:
    """Which versions are applied now, of rows that this batch may write; nothing is known of those that are gone."""
    n = applied.column("n").combine_chunks()
    rows = batch.adapted.legacy.take(n.filter(pc.less(n, batch.adapted.table.num_rows)))
    shown = zip(_texts(batch, rows).to_pylist(), rows.column(column).to_pylist(), strict=True)
    gone = _texts(batch, batch.gone).to_pylist()
    versions.record(
        cursor, batch.lane.entity.name, {text: version for text, version in shown if version is not None}, gone
    )


def _acknowledge(batch: _Batch, cursor: Cursor, outcome: Outcome) -> None:
    if guarded(19):
        _move_on(batch, cursor, outcome)


def _move_on(batch: _Batch, cursor: Cursor, outcome: Outcome) -> None:
    if batch.order.commit:
        crash_point("acknowledge.before")
        batch.order.commit(cursor, outcome)
        crash_point("acknowledge.after")


def _references(batch: _Batch) -> pa.Table:
    texts = _texts(batch, batch.adapted.legacy)
    names = pa.array([text for text, _, _ in batch.placed.references], pa.string())
    table = pa.table(
        {
            "n": pc.index_in(names, value_set=texts).cast(pa.int32()),
            "source_key": pa.array([source for _, source, _ in batch.placed.references], pa.string()),
            "target_key": pa.array([target for _, _, target in batch.placed.references], pa.string()),
        }
    )
    return table.filter(table.column("n").is_valid())


def _refused(batch: _Batch) -> list[Reject]:
    """Which rows the table does not take: tried in a transaction that is rolled back."""
    rows = batch.lane.entity.table.rows(batch.adapted.table)
    texts = _texts(batch, batch.adapted.legacy)
    return [
        Reject(texts[row].as_py(), "row", type(error).__name__, str(error).strip())
        for row, error in batch.lane.entity.table.refused(batch.lane.stores, rows)
    ]


def _texts(batch: _Batch, table: pa.Table) -> pa.Array:
    return batch.lane.origin.key.texts(table)


def _bit(held: pa.Array, bit: int) -> pa.Array:
    return pc.not_equal(pc.bit_wise_and(held, pa.scalar(bit, pa.int16())), 0)
