"""The table of a reconciliation's verdicts: what drifts is named, what is clean shares a line."""

from collections import Counter

from checks.reconciliation import _verdicts
from sync_pipeline.reconcile.parts import Part


def verdicts(*parts):
    return [tuple(record.data.values()) for record in _verdicts(list(parts), "relational").records]


def part(name, rows, wrong=0):
    return Part(name, rows, Counter(relational=wrong, search=1))


def test_clean_neighbours_share_a_line_and_what_drifts_stands_alone():
    assert verdicts(
        part("live delta", 9, 1),
        part("undated", 2),
        part("2019-01", 3),
        part("2019-02", 1, 1),
        part("2019-03", 1, 2),
        part("2019-04", 4),
    ) == [
        ("live delta", 9, 1, "drift"),
        ("undated to 2019-01", 5, 0, "clean"),
        ("2019-02", 1, 1, "drift"),
        ("2019-03", 1, 2, "drift"),
        ("2019-04", 4, 0, "clean"),
    ]


def test_where_nothing_could_be_looked_at_the_table_is_empty():
    assert verdicts() == []
