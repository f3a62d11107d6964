"""Files overwritten under one key, by somebody who touches no row."""

import pytest

from sync_pipeline.operate.repair import repair
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run import live
from sync_pipeline.run.sweep import sweep
from tests.world import wait_for

NAMED = "SELECT source_key, target_key, key FROM sync.media_ref WHERE entity = 'text' ORDER BY 1"


@pytest.fixture(scope="module")
def context(world):
    world.load(60, 12)
    return world.filled("text")


def found(context):
    return [(f.sink, f.kind, f.key) for f in reconcile(context).findings]


def overwrite(world, source):
    world.client.put_object(Bucket=world.legacy_bucket, Key=source, Body=b"another picture", ContentType="image/png")


def bytes_named(world, source):
    target = next(target for name, target, _ in world.target(NAMED) if name == source)
    return world.client.get_object(Bucket=world.target_bucket, Key=target)["Body"].read()


def test_the_sweep_brings_new_bytes(world, context):
    source, before, key = world.target(NAMED)[0]
    assert found(context) == []
    overwrite(world, source)
    assert found(context) == [("media", "stale", before)]
    assert sweep(context).files == 1
    assert sweep(context).files == 0  # it is owed already
    assert world.target("SELECT count(*) FROM sync.due") == [(1,)]
    while live.work(context, lambda *_: None):
        pass
    assert bytes_named(world, source) == b"another picture"
    row = world.target("SELECT cover || files FROM catalog.text WHERE id = %s", (key,))[0][0]
    assert before not in row
    assert sweep(context).files == 0
    assert found(context) == []


def test_what_only_a_sweep_can_find_is_no_drift_while_somebody_follows(world, context):
    source = world.target(NAMED)[3][0]
    with world.following([context]):
        wait_for(lambda: world.target("SELECT 1 FROM sync.cursor WHERE lease_until > now() AND swept_at IS NOT NULL"))
        overwrite(world, source)
        assert found(context) == []
    assert bytes_named(world, source) == b"another picture"


def test_repair_brings_new_bytes(world, context):
    source, before, _ = world.target(NAMED)[1]
    overwrite(world, source)
    findings = reconcile(context).findings
    assert [(f.kind, f.key) for f in findings] == [("stale", before)]
    repair(context, findings)
    assert bytes_named(world, source) == b"another picture"
    assert found(context) == []
    assert world.target("SELECT count(*) FROM sync.media WHERE target_key = %s", (before,)) == [(1,)]


@pytest.mark.hazard(29)
@pytest.mark.parametrize("changed", [{"ContentType": "text/plain"}, {"Metadata": {"author": "somebody"}}])
def test_bytes_alone_are_not_the_file(world, context, changed):
    """The same bytes under another content type or other metadata are another object."""
    target = world.target(NAMED)[2][1]
    there = world.client.get_object(Bucket=world.target_bucket, Key=target)
    body = there["Body"].read()
    kept = {"ContentType": there["ContentType"], "Metadata": there["Metadata"]}
    world.client.put_object(Bucket=world.target_bucket, Key=target, Body=body, **(kept | changed))
    findings = reconcile(context).findings
    assert [(f.sink, f.kind, f.key) for f in findings] == [("media", "corrupt", target)]
    repair(context, findings)
    assert found(context) == []
    mended = world.client.head_object(Bucket=world.target_bucket, Key=target)
    assert (mended["ContentType"], mended["Metadata"]) == (kept["ContentType"], kept["Metadata"])
