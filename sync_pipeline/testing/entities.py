"""The contract of an entity's adapter: each row on its own, always alike, every declared column, no fault on a NULL.

A row whose result depends on its neighbours, on the hour or on the process drifts: reconciliation adapts it again, in
another batch, and finds a difference that nobody has made.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.batch.adapt import adapt
from sync_pipeline.db.columns import DIGEST, DOCUMENT, document_columns, frame, text_of
from sync_pipeline.entity import Entity
from sync_pipeline.model.rows import Adapted, Reject
from sync_pipeline.testing.legacy_rows import LegacyRow, LegacyRows, LegacyValue

_CHILD = "from sync_pipeline.testing.entities import answer; answer()"
_CHILD_SECONDS = 120


class EntityContract:
    """Inherit it in a class of pytest's, and give `entity` and `legacy`: at least two rows that the new side takes.

    `refused` are further rows, which the adapter is to refuse, each alone. `not_null` names columns in which the
    monolith holds no NULL, apart from the key's.
    """

    entity: ClassVar[Entity]
    legacy: LegacyRows
    refused: Sequence[LegacyRow] = ()
    not_null: frozenset[str] = frozenset()

    def test_rows_are_taken(self) -> None:
        """Every row of `legacy` is, and its values fit the types that sinks declare."""
        _, rejects = self._adapted(self._rows())
        assert not rejects, f"entity {self.entity.name} refuses row {rejects[0].key}: {rejects[0].message}"

    def test_no_rows_give_no_rows_and_every_declared_column(self) -> None:
        """An empty frame is what `check` gives, and a batch of deletes."""
        adapted, _ = self._adapted([])
        assert adapted.table.num_rows == 0
        self._check_columns(adapted.table)

    def test_every_declared_column_is_there(self) -> None:
        """Of each sink, by its own rule."""
        self._check_columns(self._adapted(self._rows())[0].table)

    def test_the_key_is_kept(self) -> None:
        """A row has the key of the legacy row that it is made of."""
        rows = self._rows()
        adapted, _ = self._adapted(rows)
        key = self.legacy.key_of(self.entity)
        given, made = key.texts(adapted.legacy), key.named(self.entity.table.key).texts(adapted.table)
        assert made.to_pylist() == given.to_pylist()
        assert len(set(given.to_pylist())) == len(rows), "two rows of `legacy` have one key"

    def test_a_row_does_not_depend_on_its_neighbours(self) -> None:
        """Alone, in another order, and beside rows that are refused, it comes out the same."""
        rows = self._rows()
        together = self._values(rows)
        others = {
            "alone": [value for row in rows for value in self._values([row])],
            "in another order": self._values(rows[::-1])[::-1],
            "twice the batch": self._values([*rows, *self._twins(rows)])[: len(rows)],
        }
        for how, found in others.items():
            self._check_same(together, found, f"is another one {how}")

    def test_a_row_comes_out_alike_each_time(self) -> None:
        """Without a clock, a random number, or the order of a set: here again, and in another process."""
        rows = self._rows()
        first = self._values(rows)
        self._check_same(first, self._values(rows), "is another one the second time")
        self._check_same(first, self._values_elsewhere(rows), "is another one in another process")

    def test_the_given_frame_is_left_as_it_is(self) -> None:
        """Other code reads the same columns."""
        given = frame(self._table(self._rows()).select(list(self.legacy.types)))
        before = given.copy(deep=True)
        self.entity.adapt(given)
        assert list(given.columns) == list(before.columns), "adapt adds or drops columns of the frame that it is given"
        changed = [name for name in before.columns if not given[name].equals(before[name])]
        assert not changed, f"adapt changes the column {changed[0]!r} of the frame that it is given"

    def test_a_null_is_taken(self) -> None:
        """In each column but the key's and `not_null`, in each row; the other rows come out as they did."""
        rows = self._rows()
        for name in self.legacy.types:
            if name not in self.not_null and name not in self.entity.origin.key:
                nulls = [{**row, name: None} for row in rows]
                _, rejects = self._adapted(nulls)
                what = f"a NULL in {name!r}: {rejects[0].message}" if rejects else ""
                assert not rejects, f"entity {self.entity.name} refuses row {rejects[0].key} for {what}"
                self._check_same(
                    [value for row in nulls for value in self._values([row])],
                    self._values(nulls),
                    f"is another one beside rows with a NULL in {name!r}",
                )

    def test_a_bad_row_is_refused_alone(self) -> None:
        """Each row of `refused` is, and no other one."""
        key, rows, refused = self.legacy.key_of(self.entity), self._rows(), list(self.refused)
        _, rejects = self._adapted([*refused, *rows])
        expected = key.texts(self._table(refused)).to_pylist()
        found = {reject.key: reject.message for reject in rejects}
        for text in expected:
            assert found.pop(text, ""), f"entity {self.entity.name}: row {text} is taken, and is to be refused"
        assert not found, f"entity {self.entity.name}: row {min(found)} is refused beside others: {found[min(found)]}"

    def _rows(self) -> list[LegacyRow]:
        rows = list(getattr(self, "legacy", LegacyRows({}, ())).rows)
        assert len(rows) >= 2, f"{type(self).__name__}.legacy: give LegacyRows with at least two rows"
        return rows

    def _twins(self, rows: list[LegacyRow]) -> list[LegacyRow]:
        """The rows that are to be refused, and as many NULLs as may come."""
        nullable = [name for name in self.legacy.types if name not in {*self.not_null, *self.entity.origin.key}]
        return [*({**row, **dict.fromkeys(nullable)} for row in rows), *self.refused]

    def _table(self, rows: Iterable[LegacyRow]) -> pa.Table:
        return self.legacy.table(self.legacy.key_of(self.entity), rows)

    def _adapted(self, rows: Iterable[LegacyRow]) -> tuple[Adapted, list[Reject]]:
        return adapt(self.entity, self.legacy.key_of(self.entity), self._table(rows))

    def _values(self, rows: Iterable[LegacyRow]) -> list[dict[str, str]]:
        return values_of(self.entity, self._adapted(rows)[0])

    def _values_elsewhere(self, rows: list[LegacyRow]) -> list[dict[str, str]]:
        """What another process makes of the rows, in which sets have another order."""
        seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
        own = type(self)
        question = pickle.dumps(
            (sys.path, own.__module__, sys.modules[own.__module__].__file__, own.__qualname__, self.legacy, rows)
        )
        done = subprocess.run(
            [sys.executable, "-c", _CHILD],
            input=question,
            capture_output=True,
            timeout=_CHILD_SECONDS,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            check=False,
        )
        assert done.returncode == 0, f"another process could not adapt the rows:\n{done.stderr.decode()}"
        answered: list[dict[str, str]] = pickle.loads(done.stdout)
        return answered

    def _check_columns(self, table: pa.Table) -> None:
        for sink in self.entity.sinks:
            faults = list(sink.column_faults(table))
            assert not faults, f"entity {self.entity.name}, sink {sink.id}: {faults[0]}"

    def _check_same(self, expected: list[dict[str, str]], found: list[dict[str, str]], how: str) -> None:
        assert len(found) == len(expected), f"a row {how}: {len(expected)} rows come out as {len(found)}"
        for one, other in zip(expected, found, strict=True):
            for name, column, value in _differences(one, other):
                raise AssertionError(f"entity {self.entity.name}: a row {how}: its {name!r} is {column}, then {value}")


def values_of(entity: Entity, adapted: Adapted) -> list[dict[str, str]]:
    """Adapted rows in the order of `LegacyRows`: columns as texts, and what documents bear of them.

    `held` tells which sinks want the row.
    """
    in_order = pc.sort_indices(adapted.legacy.column(DIGEST))
    adapted = adapted.take(in_order)
    own = [name for name in adapted.table.column_names if not name.startswith(DOCUMENT)]
    columns = {name: _texts(adapted.table.column(name)) for name in own}
    for sink in entity.other_sinks:
        borne = document_columns(adapted.table, sorted(sink.declared.intersection(own)))
        columns |= {f"{sink.id} {name}": _texts(borne.column(name)) for name in borne.column_names}
    columns["held"] = _texts(adapted.held)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _texts(column: pa.ChunkedArray | pa.Array) -> list[str]:
    if pa.types.is_nested(column.type):
        return [_text(value) for value in column.to_pylist()]
    return ["NULL" if text is None else text for text in text_of(column).to_pylist()]


def answer() -> None:
    """Read a suite and its rows from standard input, and write what comes of them to standard output."""
    path, module, file, name, legacy, rows = pickle.load(sys.stdin.buffer)
    sys.path[:] = path
    try:
        found = importlib.import_module(module)
    except ImportError:
        found = _loaded(module, Path(file))
    entity: Entity = attrgetter(name)(found)().entity
    table = legacy.table(legacy.key_of(entity), rows)
    sys.stdout.buffer.write(pickle.dumps(values_of(entity, adapt(entity, legacy.key_of(entity), table)[0])))


def _loaded(module: str, file: Path) -> ModuleType:
    """A module that lies on no path of Python's, as pytest may import tests."""
    spec = importlib.util.spec_from_file_location(module, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no module")
    found = sys.modules[module] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def _differences(one: dict[str, str], other: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    for name in dict.fromkeys((*one, *other)):
        before, after = one.get(name, "not there"), other.get(name, "not there")
        if before != after:
            yield name, before, after


def _text(value: LegacyValue) -> str:
    """A value within a list or an object as text."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key!r}: {_text(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_text, value)) + "]"
    return repr(value)
