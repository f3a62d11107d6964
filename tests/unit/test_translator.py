"""Keys, groups, owners and tags of assets: told apart in graphs, and as a deployment's own class has them."""

import dagster as dg
import pytest

from assets.definitions import definitions
from assets.lineage import history_key, sink_keys
from assets.translator import AssetPart, SyncTranslator
from sync_pipeline.entities.files import load_entities
from sync_pipeline.errors import SettingError

ENTITIES = load_entities("assets.entities")


class Renamed(SyncTranslator):
    """Gives each asset another key, group, owner, a tag and a dep."""

    def get_asset_spec(self, asset):
        spec = super().get_asset_spec(asset)
        return spec.replace_attributes(
            key=["ours", *spec.key.path], group_name="ours", owners=["team:ours"], tags={"cost": "low"}, deps=["before"]
        )


class Unfaithful(SyncTranslator):
    """Makes the key of a sink of its description, which is not always asked for."""

    def get_asset_spec(self, asset):
        return asset.spec.replace_attributes(key=[*asset.spec.key.path, (asset.spec.description or "short")[:5]])


class Alike(SyncTranslator):
    """Gives the sinks of an entity one key."""

    def get_asset_spec(self, asset):
        return asset.spec.replace_attributes(key=asset.entity.name) if asset.part is AssetPart.SINK else asset.spec


class Speechless(SyncTranslator):
    """Forgets to return what it made."""

    def get_asset_spec(self, asset):
        asset.spec.replace_attributes(group_name="ours")


def translate(monkeypatch, name):
    monkeypatch.setenv("SYNC_TRANSLATOR", name if ":" in name or not name else f"{__name__}:{name}")


@pytest.mark.parametrize("name", ENTITIES)
def test_the_last_part_of_a_key_tells_the_assets_of_an_entity_apart(name):
    keys = [history_key(ENTITIES[name]), *sink_keys(ENTITIES[name]).values()]
    assert len({key.path[-1] for key in keys}) == len(keys) == 4


def test_a_translator_renames_assets_everywhere(monkeypatch):
    before = definitions().resolve_asset_graph()
    translate(monkeypatch, "Renamed")
    graph = definitions().resolve_asset_graph()
    own = {key for key in before.get_all_asset_keys() if before.get(key).tags.get("side")}
    renamed = {key: dg.AssetKey(["ours", *key.path]) for key in own}
    assert graph.get_all_asset_keys() - {dg.AssetKey("before")} == {
        renamed.get(key, key) for key in before.get_all_asset_keys()
    }
    for key in own:
        node, former = graph.get(renamed[key]), before.get(key)
        assert (node.group_name, node.owners) == ("ours", ["team:ours"])
        assert node.tags == {**former.tags, "cost": "low"}
        assert node.parent_keys == {renamed[parent] for parent in former.parent_keys} | {dg.AssetKey("before")}
        assert node.partitions_def == former.partitions_def
    checks = {(renamed.get(check.asset_key, check.asset_key), check.name) for check in before.asset_check_keys}
    assert checks == {(check.asset_key, check.name) for check in graph.asset_check_keys}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Unfaithful", "the sink media audio has two keys, media/audio_files/short and media/audio_files/Files"),
        ("Speechless", "get_asset_spec returns NoneType for the sink media audio"),
        ("Nothing", "has no attribute 'Nothing'"),
        ("ENTITIES", "must be a class that inherits assets.translator.SyncTranslator"),
        ("nowhere.at.all:Ours", "No module named 'nowhere'"),
        (":Ours", "name a class as MODULE:CLASS"),
    ],
)
def test_a_translator_that_cannot_be_used_is_named(monkeypatch, name, message):
    translate(monkeypatch, name)
    with pytest.raises(SettingError, match="SYNC_TRANSLATOR") as refused:
        definitions()
    assert message in str(refused.value)


def test_assets_of_one_key_are_refused(monkeypatch):
    translate(monkeypatch, "Alike")
    with pytest.raises(SettingError) as refused:
        definitions()
    assert "the sink media audio and the sink relational audio have the asset key audio" in str(refused.value)
