"""What each source claims to catch is caught with the sweep off; what it does not claim, the sweep finds."""

import re
from dataclasses import replace

import pytest

from sync_pipeline.entities.context import EntityContext
from sync_pipeline.explain.history import history
from sync_pipeline.run.sweep import sweep
from tests.caught._tables import TABLES
from tests.claims import (
    CHILD_MOVED,
    CHILD_REMOVED,
    CHILD_STAMPED,
    CHILD_UNSTAMPED,
    DELETED,
    PARENT_UNSTAMPED,
    REKEYED,
    STAMPED,
    UNSTAMPED,
    YES,
    claim,
)
from tests.installed import SOURCES, catalogue, made, unmade
from tests.world import opened, wait_for

# of which kind each is, and statements over the ids of some texts, %(a)s and %(b)s, and one of their authors
CHANGES = {
    "insert": (STAMPED, "INSERT INTO content (id, kind, title, updated_at) VALUES (%(new)s, 'text', 'new', now())"),
    "update": (STAMPED, "UPDATE content SET title = 'edited', updated_at = now() WHERE id = %(a)s"),
    "update without a stamp": (UNSTAMPED, "UPDATE content SET title = 'bulk' WHERE id = %(a)s"),
    "delete": (DELETED, "DELETE FROM content WHERE id = %(a)s"),
    "soft delete": (STAMPED, "UPDATE content SET deleted_at = now(), updated_at = now() WHERE id = %(a)s"),
    "another key": (REKEYED, "UPDATE content SET id = %(new)s, updated_at = now() WHERE id = %(alone)s"),
    "child": (CHILD_UNSTAMPED, "INSERT INTO content_tags VALUES (%(a)s, 'new tag')"),
    "stamped child": (
        CHILD_STAMPED,
        "UPDATE media_files SET kind = CASE kind WHEN 'cover' THEN 'source' ELSE 'cover' END, updated_at = now()"
        " WHERE id = (SELECT min(id) FROM media_files WHERE content_id = %(filed)s)",
    ),
    "child removed": (CHILD_REMOVED, "DELETE FROM content_tags WHERE content_id = %(tagged)s"),
    "child moved": (CHILD_MOVED, "UPDATE media_files SET content_id = %(b)s WHERE content_id = %(filed)s"),
    "parent": (PARENT_UNSTAMPED, "UPDATE authors SET name = 'renamed' WHERE id = %(author)s"),
}

# it goes by this source, and the sweep that a new one asks for is over: it would find what the source does not
SWEPT = "SELECT 1 FROM sync.cursor WHERE entity = 'text' AND source = %s AND swept_from >= coalesce(gap_at, swept_from)"


@pytest.fixture(scope="module")
def world(fleet):
    with opened(fleet, "sources", SYNC_SWEEP_SECONDS="1e9", SYNC_MARGIN_SECONDS="0.2") as world:
        world.load(400, 20)
        # only what each source itself sees: the monolith's own triggers would stamp the root of a changed child
        for table in ("media_files", "content_tags"):
            world.legacy(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        for name in world.contexts:
            world.all_in(name)
        world.target("UPDATE sync.cursor SET filled_at = now()")  # a key the ledger lacks was missed
        yield world


@pytest.fixture(scope="module", params=SOURCES)
def source(request, world):
    """A source of texts, what it needs made in the monolith before and gone afterwards."""
    name = request.param
    entity = replace(world.context("text").entity, capture=SOURCES[name], tables=TABLES)
    context = EntityContext.open(entity, world.stores)
    before = catalogue(world)
    for statement in made(context):
        world.legacy(statement)
    with world.following([context]):
        wait_for(lambda: world.target(SWEPT, [name]))
        yield name, context
    for statement in unmade(context):
        world.legacy(statement)
    assert catalogue(world) == before


def chosen(world):
    """Texts of our choice, for the placeholders of a change."""

    def one(where, column="id"):
        ((found,),) = world.legacy(
            f"SELECT min({column}) FROM content c WHERE kind = 'text' AND deleted_at IS NULL AND {where}"
        )
        return found

    plain = "NOT EXISTS (SELECT FROM media_files m WHERE m.content_id = c.id)"
    a = one(f"{plain} AND author_id IS NOT NULL AND EXISTS (SELECT FROM content_tags t WHERE t.content_id = c.id)")
    return {
        "a": a,
        "tagged": a,
        "b": one(f"{plain} AND id > {a}"),
        "alone": one(f"{plain} AND NOT EXISTS (SELECT FROM content_tags t WHERE t.content_id = c.id)"),
        "filed": one("EXISTS (SELECT FROM media_files m WHERE m.content_id = c.id)"),
        "author": one(f"id = {a}", "author_id"),
        "new": world.legacy("SELECT nextval(pg_get_serial_sequence('content', 'id'))")[0][0],
    }


def caught_up(world, context, swept):
    """Everything committed by now has been reported, or swept, and what is owed is done."""
    ((since,),) = world.legacy("SELECT clock_timestamp()")
    if swept:
        sweep(context)
    wait_for(lambda: world.target("SELECT 1 FROM sync.cursor WHERE entity = 'text' AND applied_through > %s", [since]))
    wait_for(lambda: not world.target("SELECT 1 FROM sync.due WHERE entity = 'text'"))


def wrong(world):
    return [difference for difference in world.differences() if "text" in str(difference)]


@pytest.mark.hazard(13)
@pytest.mark.hazard(14)
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_claimed_is_caught(world, source, change):
    name, context = source
    kind, statement = CHANGES[change]
    world.legacy(statement, chosen(world))
    caught_up(world, context, swept=name == "sweep")
    if claim(name, kind) == YES or name == "sweep":
        assert wrong(world) == []
    elif wrong(world):
        caught_up(world, context, swept=True)
        assert wrong(world) == []
    else:
        pytest.fail(f"{name} does not claim it, and catches it: say so in docs")


def test_a_batch_names_what_it_acknowledges(world, source):
    name, context = source
    key = chosen(world)["b"]
    ((xid,),) = world.legacy(
        "UPDATE content SET title = 'told', updated_at = now() WHERE id = %s RETURNING pg_current_xact_id()::text",
        [key],
    )
    caught_up(world, context, swept=name == "sweep")
    ((event,),) = world.legacy("SELECT max(id) FROM outbox") if name == "outbox" else ((None,),)
    told = {
        "watermark": r"stamps since [-\d]+ [:\d]+Z|all stamps",
        "outbox": rf"events ({event}|.*\b{event}\b.*)",
        "wal": rf"transactions {xid}",
        "sweep": "",
    }
    last = [happening for happening in history(context, str(key), 50).happenings if happening.cause][-1]
    assert last.cause == ("due: sweep" if name == "sweep" else "poll")
    assert re.fullmatch(told[name], last.position), last.position
