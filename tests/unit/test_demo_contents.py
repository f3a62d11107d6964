from datetime import UTC, datetime
from random import Random

import orjson
import pytest

from demo.load.contents import CONTENT_COLUMNS, NOT_A_NUMBER, ContentMaker, Span
from demo.load.media import plan_files

NOW = datetime(2026, 6, 1, tzinfo=UTC)
ROWS = 3_000


@pytest.fixture(scope="module")
def rows():
    maker = ContentMaker(Span(first_id=100, contents=ROWS, first_author=7, authors=20, poison=3, now=NOW), Random(1))
    return [dict(zip(CONTENT_COLUMNS, row, strict=True)) for row in maker.rows(range(ROWS))]


def test_ids_follow_one_another(rows):
    assert [row["id"] for row in rows] == list(range(100, 100 + ROWS))


def test_no_time_lies_in_the_future(rows):
    times = [row[name] for row in rows for name in ("created_at", "updated_at", "deleted_at") if row[name]]
    assert max(datetime.fromisoformat(time) for time in times) < NOW


def test_every_oddity_is_there(rows):
    for name in ("title", "body", "price", "rating", "attrs", "created_at", "updated_at", "author_id", "zip"):
        assert any(row[name] is None for row in rows), name
    assert any(row["created_at"] and row["created_at"] < "2019" for row in rows)
    assert any(row["deleted_at"] for row in rows)
    assert any(row["body"] and len(row["body"]) > 10_000 for row in rows)
    assert any(row["title"] == "" for row in rows)


def test_a_block_of_rows_shares_one_time(rows):
    times = [row["updated_at"] for row in rows if row["updated_at"]]
    assert max(map(times.count, set(times))) > ROWS // 10


def test_poison_is_as_much_as_asked_and_published(rows):
    durations = [(orjson.loads(row["attrs"] or "{}").get("duration"), row["status"]) for row in rows]
    assert durations.count((NOT_A_NUMBER, "published")) == 3
    assert all(isinstance(duration, int | None) for duration, _ in durations if duration != NOT_A_NUMBER)


def test_no_text_holds_what_postgresql_refuses(rows):
    assert not any("\0" in value for row in rows for value in row.values() if isinstance(value, str))


def test_a_content_has_one_cover_at_most():
    covers = [file.content_id for file in plan_files(Random(1), range(1, 50), 500) if file.kind == "cover"]
    assert len(covers) == len(set(covers)) > 0


def test_keys_differ_and_a_few_files_are_large():
    files = list(plan_files(Random(1), range(1, 1_000), 500))
    assert len({file.key for file in files}) == 500
    assert sum(file.size > 8 * 1024 * 1024 for file in files) == 3
    assert files[10].body() == files[10].body()
