"""Two entities that name one place are refused when their files are loaded, with both names and the place's."""

import shutil
import sys
from dataclasses import replace

import dagster as dg
import pytest

from assets.lineage import sink_keys
from sync_pipeline.entities.files import load_entities
from sync_pipeline.entities.places import conflicts
from sync_pipeline.errors import DeclarationError
from sync_pipeline.sinks.media import MediaBucket
from sync_pipeline.sources.outbox import Outbox
from tests import clips
from tests.sinks import bucket_of, index_of


def entity(name, *, table="", alias="", prefix="", shared=False, capture=None):
    """A clip under another name, with places of its own but for those that are given."""
    whole = clips.clip()
    sinks = (
        replace(whole.table, name=table or f"catalog.{name}"),
        replace(index_of(whole), alias=alias or name),
        replace(bucket_of(whole), prefix=prefix or name, shared=shared),
    )
    return replace(whole, name=name, sinks=sinks, capture=capture or whole.capture)


# what both say, and what the refusal names besides both entities
SAME = {
    "a table": ({"table": "catalog.clip"}, {"table": "catalog.clip"}, "table catalog.clip"),
    "the table of a rebuild": ({"table": "catalog.clip"}, {"table": "catalog.clip_next"}, "catalog.clip_next"),
    "the table before a rebuild": ({"table": "catalog.clip_former"}, {"table": "catalog.clip"}, "catalog.clip_former"),
    "an alias": ({"alias": "clip"}, {"alias": "clip"}, "alias clip"),
    "an index of an alias": ({"alias": "clip"}, {"alias": "clip-000002"}, "alias clip-000002"),
    "the index of a rebuild": ({"alias": "clip-next"}, {"alias": "clip"}, "alias clip-next"),
    "a prefix": ({"prefix": "media"}, {"prefix": "media"}, "prefix media/"),
    "a prefix in a prefix": ({"prefix": "media"}, {"prefix": "media/clip"}, "prefix media/clip/"),
    "a prefix around a prefix": ({"prefix": "a/b/c"}, {"prefix": "a"}, "prefix a/b/c/"),
    "a prefix that only one shares": ({"prefix": "media", "shared": True}, {"prefix": "media"}, "prefix media/"),
    "events": ({"capture": Outbox(aggregate="a")}, {"capture": Outbox(aggregate="a")}, "'a' of outbox outbox"),
    "events of an outbox with its schema": (
        {"capture": Outbox(aggregate="a")},
        {"capture": Outbox('"public"."outbox"', aggregate="a")},
        "'a' of outbox",
    ),
    "events of parts of the other's": (
        {"capture": Outbox(aggregate="a")},
        {"capture": Outbox(aggregate="a/parts")},
        "'a/parts' of outbox outbox",
    ),
    "events under the other's name": ({"capture": Outbox()}, {"capture": Outbox(aggregate="clip")}, "outbox"),
}
APART = {
    "names that begin alike": ({"table": "catalog.clip", "alias": "clip", "prefix": "clip"}, {"prefix": "clips"}),
    "numbered aliases": ({"alias": "clip-000001"}, {"alias": "clip-000002"}),
    "names in other cases": ({"table": "catalog.Clip"}, {"table": "catalog.clip"}),
    "one name of other kinds": ({"table": "a.b", "alias": "b"}, {"prefix": "b"}),
    "a shared prefix": ({"prefix": "media", "shared": True}, {"prefix": "media", "shared": True}),
    "shared prefixes in each other": ({"prefix": "m", "shared": True}, {"prefix": "m/x", "shared": True}),
    "other events": ({"capture": Outbox(aggregate="a")}, {"capture": Outbox(aggregate="ab")}),
    "another outbox": ({"capture": Outbox(aggregate="a")}, {"capture": Outbox("log.outbox", aggregate="a")}),
}


@pytest.mark.hazard(130)
@pytest.mark.parametrize("place", SAME)
def test_two_entities_that_name_one_place_are_refused(place):
    ours, theirs, named = SAME[place]
    ((first, second, refusal),) = conflicts([entity("clip", **ours), entity("reel", **theirs)])
    assert (first, second) == ("clip", "reel")
    assert all(word in refusal for word in ("clip", "reel", named, "give one of them another"))


@pytest.mark.hazard(130)
@pytest.mark.parametrize("places", APART)
def test_places_that_are_apart_or_shared_are_not_refused(places):
    ours, theirs = APART[places]
    assert not [*conflicts([entity("clip", **ours), entity("reel", **theirs)])]


@pytest.mark.hazard(130)
def test_a_copied_entity_file_is_refused_when_loaded(tmp_path, monkeypatch):
    """Only the name was changed in the copy."""
    package = tmp_path / "copied_entities"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "clip.py").write_text("from tests import clips\nentity = clips.clip()\n")
    (package / "reel.py").write_text(
        "from dataclasses import replace\nfrom tests import clips\nentity = replace(clips.clip(), name='reel')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        with pytest.raises(DeclarationError, match=r"entities clip and reel both name table catalog\.clip"):
            load_entities("copied_entities")
    finally:
        for name in [name for name in sys.modules if name.startswith("copied_entities")]:
            del sys.modules[name]
        shutil.rmtree(package)


@pytest.mark.parametrize("prefix", ["", "/clip", "clip/", "a//b", "a/../b", ".", "sync-pipeline-check", "/"])
def test_a_prefix_that_names_no_place_of_its_own_is_refused(prefix):
    with pytest.raises(DeclarationError, match="MediaBucket"):
        MediaBucket(columns=("file",), prefix=prefix)


def test_entities_that_share_a_prefix_have_an_asset_each():
    both = [entity(name, prefix="media", shared=True) for name in ("clip", "reel")]
    assert [sink_keys(each)["media"] for each in both] == [
        dg.AssetKey(["media", "media", "clip_files"]),
        dg.AssetKey(["media", "media", "reel_files"]),
    ]
