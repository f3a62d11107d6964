"""What asset pages show without any server: columns and what they are made of, tags, and links to the code."""

import dataclasses
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from assets.adapters import ColumnReads, column_reads
from assets.columns import origins_of, table_schema
from assets.definitions import definitions
from assets.entities._content import address, whole_number
from assets.entities.video import entity as video
from assets.lineage import column_lineages
from assets.queries import ColumnOrigin, column_origins, columns_read
from sync_pipeline.errors import DeclarationError
from sync_pipeline.sinks.table import RelationalTable
from tests.sinks import index_of

KEPT = ["title", "body"]


@pytest.fixture(scope="module")
def graph():
    return definitions().resolve_asset_graph()


def shown(graph, *path):
    return graph.get(dg.AssetKey(list(path))).metadata


def columns(graph, *path):
    return {column.name: column for column in shown(graph, *path)["dagster/column_schema"].columns}


def test_a_table_shows_types_constraints_and_where_its_columns_come_from(graph):
    found = columns(graph, "catalog", "video")
    assert list(found) == list(video.table.columns)
    assert found["id"].constraints == dg.TableColumnConstraints(nullable=False, other=["primary key"])
    assert (found["tags"].type, found["tags"].constraints.nullable) == ("text[]", False)
    assert found["price"].constraints.nullable
    assert found["header"].description == "From `content.title`."
    assert found["duration_seconds"].description == "How long it lasts. Made from `content.attrs`."
    assert found["address"].description.endswith(
        "Made from `content.city`, `content.country`, `content.street`, `content.zip`."
    )


def test_constraints_are_shown_one_by_one():
    declared = {"a": "integer", "b": "text", "c": "text unique not null default 'x'"}
    table = RelationalTable("catalog.pair", key=("a", "b"), columns=declared)
    pair = dataclasses.replace(
        video,
        origin=dataclasses.replace(video.origin, key=("a", "b")),
        tables=(),
        sinks=(table,),
        comments={},
    )
    schema = table_schema(pair, pair.table.page(pair.name))
    assert list(schema.constraints.other) == ["primary key (a, b)"]
    assert [column.constraints.nullable for column in schema.columns] == [False, False, False]
    assert schema.columns[2].constraints == dg.TableColumnConstraints(
        nullable=False, unique=True, other=["default 'x'"]
    )


def test_an_index_shows_its_mapping(graph):
    found = columns(graph, "search", "video_documents")
    assert list(found) == list(index_of(video).fields)
    assert (found["cover"].type, list(found["cover"].constraints.other)) == ("keyword", ["index: false"])
    assert found["author"].description == "From `authors.name`."


def test_a_legacy_table_shows_what_is_read_of_it_and_what_becomes_of_it(graph):
    found = columns(graph, "legacy", "content")
    assert "view_count" not in found  # no entity reads it
    assert found["deleted_at"].description == "Read by audio, text, video."
    assert found["title"].description == "Goes into `header` (audio, text, video)."
    assert found["updated_at"].description.endswith("Its value tells that a row has changed.")
    assert set(columns(graph, "legacy", "authors")) == {"id", "name"}


def test_assets_bear_tags_and_link_to_the_file_of_their_entity(graph, monkeypatch):
    ours = Path(__file__).resolve().parents[2] / "assets" / "entities" / "video.py"
    for path, part in ((("catalog", "video"), "relational"), (("history", "video_history"), "history")):
        tags = graph.get(dg.AssetKey(list(path))).tags
        assert {"side": "new", "entity": "video", "part": part}.items() <= tags.items()
        (link,) = shown(graph, *path)["dagster/code_references"].code_references
        assert link.file_path == str(ours)
    assert graph.get(dg.AssetKey(["legacy", "content"])).tags["side"] == "legacy"
    monkeypatch.setenv("SYNC_CODE_URL", "https://code.example/move/blob/main/")
    page = shown(definitions().resolve_asset_graph(), "media", "audio_files")
    (link,) = page["dagster/code_references"].code_references
    assert link.url == "https://code.example/move/blob/main/assets/entities/audio.py"


def test_column_lineage_names_legacy_columns():
    found = column_lineages(video)
    table = found[dg.AssetKey(["catalog", "video"])].deps_by_column
    assert table["author"] == [dg.TableColumnDep(dg.AssetKey(["legacy", "authors"]), "name")]
    assert len(table["address"]) == 4
    documents = found[dg.AssetKey(["search", "video_documents"])].deps_by_column
    assert documents["header"] == [dg.TableColumnDep(dg.AssetKey(["catalog", "video"]), "header")]


def test_a_comment_on_a_column_that_is_not_there_is_refused():
    with pytest.raises(DeclarationError, match="headr"):
        dataclasses.replace(video, comments={"headr": "A slip of the pen."})


def in_steps(legacy):
    """An adapter in several steps."""
    title = legacy["title"].str.strip()
    both = title + legacy["body"]
    return pd.DataFrame(
        {"id": legacy["id"], "title": title, "both": both, "place": address(legacy), "kept": legacy[KEPT].sum()},
        index=legacy.index,
    )


def test_an_adapter_says_what_it_takes():
    assert column_reads(in_steps) == {
        "id": ColumnReads(frozenset({"id"}), as_is=True),
        "title": ColumnReads(frozenset({"title"})),
        "both": ColumnReads(frozenset({"title", "body"})),
        "place": ColumnReads(frozenset({"country", "city", "street", "zip"})),
        "kept": ColumnReads(frozenset(KEPT)),
    }


def as_they_are(legacy):
    """An adapter that gives columns, and no frame."""
    title = legacy["title"]
    return {"id": legacy["id"], "header": title.str.strip()}


def test_columns_without_a_frame_say_it_as_well():
    assert column_reads(as_they_are) == {
        "id": ColumnReads(frozenset({"id"}), as_is=True),
        "header": ColumnReads(frozenset({"title"})),
    }


def takes_the_whole(legacy):
    return pd.DataFrame({"id": legacy["id"], "n": whole_number(legacy["n"]), "sum": legacy.sum(axis=1)})


def renames(legacy):
    return legacy.rename(columns={"title": "header"})


def decides(legacy):
    title = legacy["title"]
    if len(legacy) > 5:
        title = legacy["body"]
    return pd.DataFrame({"header": title})


def test_what_an_adapter_does_not_say_is_not_guessed():
    assert column_reads(takes_the_whole).keys() == {"id", "n"}
    assert column_reads(renames) == {}
    assert column_reads(decides) == {}
    assert column_reads(len) == {}
    # no adapter may change a key, whatever it is made like
    assert origins_of(dataclasses.replace(video, adapt=renames)) == {
        "id": ColumnOrigin(frozenset({("content", "id")}), True)
    }


@pytest.mark.parametrize(
    ("sql", "made", "read"),
    [
        (
            "WITH x AS (SELECT id, upper(name) AS n FROM s.a WHERE b) SELECT x.id, n, 1 AS one FROM x",
            {
                "id": ColumnOrigin(frozenset({("s.a", "id")}), True),
                "n": ColumnOrigin(frozenset({("s.a", "name")})),
                "one": ColumnOrigin(frozenset()),
            },
            {"s.a": {"id", "name", "b"}},
        ),
        (
            "SELECT a FROM t UNION ALL SELECT c FROM u",
            {"a": ColumnOrigin(frozenset({("t", "a"), ("u", "c")}))},
            {"t": {"a"}, "u": {"c"}},
        ),
        ("SELECT * FROM t", {}, {}),
        ("SELECT a, b FROM t, u", {"a": ColumnOrigin(frozenset()), "b": ColumnOrigin(frozenset())}, {}),  # whose is it?
    ],
)
def test_a_query_says_what_it_reads(sql, made, read):
    assert column_origins(sql) == made
    assert columns_read(sql) == read
