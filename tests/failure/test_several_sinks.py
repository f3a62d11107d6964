"""Two tables, two indices, two sinks of files and an endpoint of one entity, under eight editors and kills."""

import json
import threading
from contextlib import closing

import psycopg2
import pytest

from tests.command import Command
from tests.newsroom import edited, end, follow, leave_out_the_sweep, settle
from tests.oracle import Buckets, documents_of, expected, file_that_differs, rows_of
from tests.several.video import POSTERS, SUGGEST
from tests.world import opened, wait_for

CONTENTS, FILES = 500, 40
KILLS = 5
NAMES = {"media", "relational", "search", "posters", "titles", "suggest", "http"}


@pytest.fixture(scope="module")
def world(fleet, receiver):
    settings = {"SYNC_ENTITIES": "tests.several", "TEST_RECEIVER_URL": receiver.url}
    with opened(fleet, "several", **settings) as world:
        world.load(CONTENTS, FILES)
        leave_out_the_sweep(world)
        world.filled("video")
        for name in ("text", "audio"):
            world.all_in(name)
        yield world


def differences(world, receiver):
    """What the oracle finds wrong, in the demo's own sinks and in those that are added to them."""
    with (
        closing(psycopg2.connect(world.monolith.admin_url)) as legacy,
        closing(psycopg2.connect(world.target_url)) as target,
    ):
        wanted, poisoned = expected(legacy)
        titles = {row["id"]: row for row in rows_of(target, "SELECT * FROM catalog.video_titles")}
    films, public = wanted["video"], {key: row for key, row in wanted["video"].items() if row["is_public"]}
    assert not poisoned["video"]
    found = list(world.differences())
    found += [("titles", key) for key in films.keys() ^ titles.keys()]
    buckets = Buckets(world.client, world.legacy_bucket, world.client, world.target_bucket)
    for key, row in titles.items():
        film = films.get(key)
        if film is None:
            continue
        if (row["header"], row["version"]) != (film["header"], film["version"]):
            found.append(("titles", key, row))
        if len(row["poster"]) != len(film["cover"]):
            found.append(("posters", key, row["poster"], film["cover"]))
        for old, new in zip(film["cover"], row["poster"], strict=False):
            assert new.startswith(f"{POSTERS.prefix}/")
            found += filter(None, [file_that_differs(buckets, "video", key, old, new)])
    documents = {int(each["_id"]): each["_source"] for each in documents_of(world.search_url, SUGGEST.alias)}
    suggested = {key: {"suggest": row["header"]} for key, row in public.items()}
    found += [
        ("suggest", key) for key in suggested.keys() | documents.keys() if suggested.get(key) != documents.get(key)
    ]
    items = {int(key): body for key, body in receiver.items().items()}
    sent = {key: {"header": row["header"], "version": row["version"]} for key, row in public.items()}
    return found + unlike("http", sent, items)


def unlike(name, wanted, there):
    return [(name, key) for key in wanted.keys() | there.keys() if wanted.get(key) != there.get(key)]


def test_all_of_them_are_filled(world, receiver):
    assert differences(world, receiver) == []


def test_nothing_is_lost_under_editors_and_kills(world, receiver, tmp_path):
    through = "SELECT min(applied_through) FROM sync.cursor"
    with edited(world, seed=18) as observer:
        for kill in range(KILLS):
            live = follow(tmp_path / f"{kill}.log")
            ((before,),) = world.target(through)
            wait_for(lambda before=before: world.target(through) != [(before,)], 120)
            threading.Event().wait(0.3 * kill)  # each at another time after it got going
            if kill % 2:
                receiver.kill()
                live.kill()
                receiver.start()
            else:
                live.kill()
    settle(world, tmp_path / "end.log")
    assert differences(world, receiver) == []
    assert observer.setbacks == []


def test_each_is_reconciled_under_its_own_name_and_repaired(world, receiver, tmp_path):
    context = world.context("video")
    clean = verdict(tmp_path / "clean.log")
    assert not any(n for name in NAMES for n in clean[name].values())
    ((key,),) = world.target("SELECT min(id) FROM catalog.video WHERE is_public AND cover <> '{}'")
    ((poster,),) = world.target("SELECT poster[1] FROM catalog.video_titles WHERE id = %s", [key])
    ((film,),) = world.target("SELECT cover[1] FROM catalog.video WHERE id = %s", [key])
    world.target("UPDATE catalog.video SET header = 'spoiled' WHERE id = %s", [key])
    world.target("DELETE FROM catalog.video_titles WHERE id = %s", [key])
    context.stores.search.delete(index="video", id=str(key))
    context.stores.search.index(index=SUGGEST.alias, id=str(key), document={"suggest": "spoiled"})
    receiver.spoil(str(key), {"header": "spoiled", "version": 1})
    for name in (poster, film):
        world.client.delete_object(Bucket=world.target_bucket, Key=name)
    wanted = {
        "relational": "corrupt",
        "titles": "missing",
        "search": "missing",
        "suggest": "corrupt",
        "http": "corrupt",
        "media": "missing",
        "posters": "missing",
    }
    found = verdict(tmp_path / "spoiled.log")
    assert {name: {kind: n for kind, n in found[name].items() if n} for name in NAMES} == {
        name: {kind: 1} for name, kind in wanted.items()
    }
    mended = Command(tmp_path / "repair.log", "repair", "video")
    assert mended.wait() == 0, mended.tail()
    settle(world, tmp_path / "mended.log")
    assert differences(world, receiver) == []


def verdict(log):
    """What `reconcile` says of the films, by sink and kind."""
    command = Command(log, "reconcile", "video", "--format", "json", SYNC_RECHECK_SECONDS="0.2")
    command.wait()
    return json.loads(log.read_text())["entities"]["video"]


def test_each_index_and_the_table_are_rebuilt_under_editors(world, receiver, tmp_path):
    pages = {"SYNC_CHUNK_ROWS": "50", "SYNC_SWEEP_SECONDS": "1e9"}
    with edited(world, seed=19) as observer:
        live = follow(tmp_path / "live.log")
        for arguments in (
            ("index", "video", "--sink", "suggest"),
            ("index", "video", "--sink", "search"),
            ("table", "video", "--like"),
        ):
            made = Command(tmp_path / "rebuild.log", "rebuild", *arguments, **pages)
            assert made.wait() == 0, made.tail()
        end(live)
    settle(world, tmp_path / "end.log")
    assert differences(world, receiver) == []
    assert observer.setbacks == []
    for alias in ("video", SUGGEST.alias):
        assert [*world.document("GET", f"_alias/{alias}")] == [f"{alias}-000002"]
