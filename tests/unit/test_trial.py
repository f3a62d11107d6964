"""Trials of rows at a table with a unique column: how many are made, however the rows depend on each other."""

import psycopg2
import pyarrow as pa
import pytest

from sync_pipeline.sinks.table.trial import Trial

ROWS = 300
# a row may be written alone, and again with others, a few times; not once for each other row
MOST = 20 * ROWS


class RepeatedError(psycopg2.errors.UniqueViolation):
    """As the driver raises it."""

    pgcode = "23505"


class Table:
    """Values of a unique column by key, with savepoints; counts the writes."""

    def __init__(self, values):
        self.values = dict(values)
        self.saved = []
        self.writes = 0

    def execute(self, statement):
        if statement.startswith("SAVEPOINT"):
            self.saved.append(dict(self.values))
        elif statement.startswith("ROLLBACK"):
            self.values = self.saved.pop()
        else:
            self.saved.pop()

    def write(self, rows):
        """Each row at once, as INSERT … ON CONFLICT does it."""
        self.writes += 1
        for key, value in zip(rows["key"].to_pylist(), rows["value"].to_pylist(), strict=True):
            if any(other == value and at != key for at, other in self.values.items()):
                raise RepeatedError
            self.values[key] = value

    def delete(self, rows):
        for key in rows["key"].to_pylist():
            self.values.pop(key, None)


def tried(wanted, *, displaces):
    table = Table({n: n for n in range(ROWS + 1)})
    rows = pa.table({"key": list(wanted), "value": list(wanted.values())}, schema=SCHEMA)
    trial = Trial(table, rows, table.write, table.delete if displaces else None)
    trial.run()
    return table, trial


SCHEMA = pa.schema([("key", pa.int64()), ("value", pa.int64())])
# in whichever order the keys come, each row takes the value of the next one
CHAINS = {
    "upwards": {n: n + 1 for n in range(ROWS)} | {ROWS: -1},
    "downwards": {n: n - 1 for n in range(ROWS + 1)},
    "mixed": {n: (n + 97) % (ROWS + 1) if n != 5 else -1 for n in range(ROWS + 1)},
}


@pytest.mark.hazard(93)
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("displaces", [True, False])
def test_a_chain_of_values_takes_no_more_tries_than_a_few_for_each_row(chain, displaces):
    table, trial = tried(CHAINS[chain], displaces=displaces)
    assert table.writes < MOST
    if chain != "mixed" or displaces:
        assert trial.refused == []
        assert table.values == CHAINS[chain]


@pytest.mark.hazard(93)
@pytest.mark.parametrize("displaces", [True, False])
def test_a_chain_that_cannot_be_ends_after_as_many(displaces):
    """The last value is that of a row that stays, so that none can be written."""
    table, trial = tried({n: n + 1 for n in range(ROWS)}, displaces=displaces)
    assert table.writes < MOST
    assert len(trial.refused) == ROWS
    assert table.values == {n: n for n in range(ROWS + 1)}
