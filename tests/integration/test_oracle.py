"""The oracle and the observer: silent when all is right, and each sort of difference is named."""

import pytest

from tests.observer import Observer, Track
from tests.world import wait_for


@pytest.fixture(scope="module")
def world(fresh_world):
    fresh_world.load(contents=600, files=60, poison=2)
    fresh_world.backfill()
    return fresh_world


@pytest.mark.hazard(39)
def test_the_oracle_finds_what_was_planted_and_nothing_else(world):
    assert world.differences() == []
    planted = {*plant_rows(world), *plant_documents(world), *plant_files(world), *plant_due(world)}
    assert {difference[:4] for difference in world.differences()} == planted


def test_the_observer_sees_rows_and_documents(world):
    with Observer(world.target_url, world.search_url) as observer:
        tracks = [*observer.rows.values(), *observer.documents.values()]
        wait_for(lambda: all(track.looks for track in tracks))
        assert all(track.there for track in tracks)
        ((key, version),) = world.target("SELECT id, version FROM catalog.text ORDER BY id LIMIT 1")
        world.target("UPDATE catalog.text SET version = version - 1 WHERE id = %s", [key])
        wait_for(lambda: observer.setbacks)
        world.target("UPDATE catalog.text SET version = version + 1 WHERE id = %s", [key])
    assert ("row of text", key, version, version - 1) in observer.setbacks


def plant_rows(world):
    plain = "SELECT id FROM catalog.text WHERE NOT is_public AND cover = '{}' AND files = '{}' ORDER BY id LIMIT 3"
    deleted, changed, retyped = (key for (key,) in world.target(plain))
    world.target("DELETE FROM catalog.text WHERE id = %s", [deleted])
    world.target("UPDATE catalog.text SET header = 'by hand', tags = '{x}' WHERE id = %s", [changed])
    world.target("""UPDATE catalog.text SET attrs = '{"duration": 1.5}' WHERE id = %s""", [retyped])
    names = "id, header, tags, is_public, cover, files, version"
    world.target(f"INSERT INTO catalog.audio ({names}) VALUES (99999999, '', '{{}}', false, '{{}}', '{{}}', 1)")
    world.target(f"INSERT INTO catalog.video ({names}) SELECT {names} FROM catalog.text WHERE id = %s", [changed])
    return {
        ("row", "text", str(deleted), "missing"),
        ("row", "text", str(changed), "header"),
        ("row", "text", str(changed), "tags"),
        ("row", "text", str(retyped), "attrs"),
        ("row", "audio", "99999999", "extra"),
        ("row", "video", str(changed), "doubled"),
    }


def plant_documents(world):
    public = "SELECT id FROM catalog.video WHERE is_public AND cover = '{}' ORDER BY id LIMIT 4"
    missing, changed, moved, doubled = (key for (key,) in world.target(public))
    one, other = (world.document("GET", f"video/_doc/{key}")["_source"] for key in (changed, doubled))
    world.document("DELETE", f"video/_doc/{missing}")
    world.document("PUT", f"video/_doc/{changed}", {**one, "rating": -1, "mood": "good"})
    world.document("PUT", f"audio/_doc/{moved}", one)
    world.document("PUT", "audio/_doc/88888888", one)
    world.document("PUT", f"video-000002/_doc/{doubled}", other)
    second = {"index": "video-000002", "alias": "video", "is_write_index": False}
    world.document("POST", "_aliases", {"actions": [{"add": second}]})
    return {
        ("document", "video", str(missing), "missing"),
        ("document", "video", str(changed), "rating"),
        ("document", "video", str(changed), "mood"),
        ("document", "audio", str(moved), "doubled"),
        ("document", "audio", "88888888", "extra"),
        ("document", "video", str(doubled), "doubled"),
    }


def plant_files(world):
    query = "SELECT id, files[1] FROM catalog.text WHERE files <> '{}' ORDER BY id LIMIT 5"
    (lost, first), (spoilt, second), (retyped, third), (marked, fourth), (cut, _) = world.target(query)
    bucket, client = world.target_bucket, world.client
    client.delete_object(Bucket=bucket, Key=first)
    kept = client.get_object(Bucket=bucket, Key=second)
    body = kept["Body"].read()
    client.put_object(Bucket=bucket, Key=second, Body=bytes(len(body)), ContentType=kept["ContentType"])
    copy(client, bucket, third, ContentType="text/plain")
    copy(client, bucket, fourth, Metadata={"by": "hand"})
    world.target("UPDATE catalog.text SET files = '{}' WHERE id = %s", [cut])
    return {
        ("file", "text", str(lost), "missing"),
        ("file", "text", str(spoilt), "bytes"),
        ("file", "text", str(retyped), "content type"),
        ("file", "text", str(marked), "metadata"),
        ("row", "text", str(cut), "files"),
    }


def copy(client, bucket, key, **changes):
    """Put the same bytes again, with something changed."""
    found = client.get_object(Bucket=bucket, Key=key)
    same = {"ContentType": found["ContentType"], "Metadata": found["Metadata"]}
    client.put_object(Bucket=bucket, Key=key, Body=found["Body"].read(), **{**same, **changes})


def plant_due(world):
    ((entity, key),) = world.target("SELECT entity, key FROM sync.due WHERE reason = 'rejected' ORDER BY id LIMIT 1")
    world.target("DELETE FROM sync.due WHERE entity = %s AND key = %s", [entity, key])
    columns, values = "(entity, reason, key, revision, priority)", "('text', 'sweep', '7', 0, 7)"
    world.target(f"INSERT INTO sync.due {columns} VALUES {values}")
    return {("due", entity, key, "missing"), ("due", "text", "7", "owed")}


@pytest.mark.parametrize(
    ("looks", "setbacks"),
    [
        ([{1: 1}, {1: 2}, {}, {1: 3}], []),
        ([{1: 2}, {1: 1}], [(1, 2, 1)]),
        ([{1: 2}, {}, {1: 2}], [(1, 2, 2)]),
    ],
)
def test_the_observer_sees_versions_go_back(looks, setbacks):
    track = Track("row")
    for look in looks:
        track.see(look)
    assert [back[1:] for back in track.setbacks] == setbacks
