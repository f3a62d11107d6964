"""Generated types, values and batches: both servers write the same texts, and no row depends on its neighbours.

The short forms run with the suite. 50,000 examples through both servers: make matrix MATRIX=values. 50,000 of values
beside others: pytest --hypothesis-profile=long tests/integration/test_generated_values.py -k neighbours
"""

import datetime as dt
import uuid
from decimal import Decimal

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2.extras import NumericRange

from sync_pipeline.batch.fitting import fit
from sync_pipeline.db.columns import text_of
from tests.generated_values import BATCHES, JSON, TEXTS, carrier, item_of

THROUGH_SERVERS = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
BESIDE_OTHERS = settings(deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.hazard(127)
def test_both_servers_write_the_same_texts(fresh_world):
    with carrier(fresh_world) as opened:

        @THROUGH_SERVERS
        @given(BATCHES)
        def carried(batch):
            opened.carry(batch)

        carried()


RETURNED = st.one_of(
    st.none(), st.just(pd.NA), st.just(pd.NaT), st.just(float("nan")), st.booleans(), st.integers(), st.floats(), TEXTS,
    st.decimals(), st.binary(max_size=4), st.dates(), st.datetimes(timezones=st.none() | st.just(dt.UTC)),
    st.timedeltas(), st.times(), st.uuids(), st.builds(pd.Interval, st.integers(0, 3), st.integers(4, 9)),
    st.builds(NumericRange, st.integers(0, 3), st.integers(4, 9)), st.lists(TEXTS | st.none(), max_size=3),
    st.lists(st.integers() | st.floats() | st.none(), max_size=3), st.lists(st.lists(TEXTS, max_size=2), max_size=2),
    st.dictionaries(TEXTS, JSON, max_size=3), st.just(uuid.UUID(int=1)), st.just(Decimal("1.00")),
)  # fmt: skip
DECLARED = st.sampled_from(
    ["bigint", "numeric", "text", "double precision", "boolean", "jsonb", "json", "bytea", "interval", "text[]",
     "numeric[]", "bytea[]", "jsonb[]", "timestamptz", "date", "uuid", "numrange", "mood"]
)  # fmt: skip


def fitted_alone(values, kind):
    """What becomes of the first value: its text, or why it is refused."""
    result = fit({"v": pd.Series(values)}, {"v": kind}, ("v",))
    if 0 in result.faults:
        # a batch tries such a row alone once more
        return fitted_alone(values[:1], kind) if len(values) > 1 else result.faults[0]
    table = result.table.slice(0, 1)
    return [literal_of(table.column(name)) for name in table.column_names]


def literal_of(column):
    whole = column.combine_chunks()
    value = getattr(whole, "storage", whole)
    return value.to_pylist() if not pa_is_text_like(value) else text_of(value).to_pylist()


def pa_is_text_like(array):
    return not str(array.type).startswith(("list", "struct", "null"))


@pytest.mark.hazard(123)
@BESIDE_OTHERS
@given(RETURNED, st.lists(RETURNED, max_size=3), DECLARED)
def test_what_becomes_of_a_value_does_not_depend_on_its_neighbours(value, others, kind):
    alone, beside = fitted_alone([value], kind), fitted_alone([value, *others], kind)
    assert _as_written(alone, kind) == _as_written(beside, kind)


def _as_written(found, kind):
    """A float column and a text of it are one to the table; so are a list and its literal."""
    if isinstance(found, str):
        return found
    written = found[0][0]
    if isinstance(written, list):
        items = ",".join(item_of(item) if item is None or isinstance(item, str) else f'"{item}"' for item in written)
        written = "{" + items + "}"
    if kind == "double precision" and isinstance(written, str):
        try:
            written = repr(float(written.lower()))
        except ValueError:
            return written
    return written
