"""A title: films of one table and clips of another, joined over seven, their files named in JSON."""

import pandas as pd

from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.sinks.media import MediaBucket
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.table import Table
from tests.awkward.entities._tables import TITLES, capture

STILLS = """
    CASE jsonb_typeof(t.extra -> 'stills') WHEN 'array' THEN t.extra -> 'stills' ELSE '[]' END"""
QUERY = f"""
    SELECT t.id, t.kind, t.name, t.body, t.state, t.extra, t.gross, t.budget, t.score::numeric(24, 10) AS score,
           l.name AS label, c.name AS country,
           ARRAY(SELECT g.tag FROM tag g WHERE g.title = t.id ORDER BY g.tag COLLATE "C") AS tags,
           (SELECT p.city FROM place p WHERE p.title = t.id ORDER BY p.rank NULLS LAST, p.id LIMIT 1) AS city,
           (SELECT a.path FROM asset a WHERE a.id::text = t.extra ->> 'poster') AS poster,
           ARRAY(SELECT a.path FROM jsonb_array_elements_text({STILLS}) WITH ORDINALITY s (id, n)
                 JOIN asset a ON a.id::text = s.id ORDER BY s.n) AS stills,
           (SELECT max(a.revised) FROM asset a WHERE a.id::text = t.extra ->> 'poster'
               OR a.id::text IN (SELECT jsonb_array_elements_text({STILLS}))) AS revised
    FROM {TITLES} t LEFT JOIN label l ON l.code = t.label LEFT JOIN country c ON c.code = l.country
    WHERE t.state <> 'X'"""
NAMES_ASSET = f"""
    JOIN {TITLES} t ON asset.id::text = t.extra ->> 'poster'
        OR asset.id::text IN (SELECT jsonb_array_elements_text({STILLS}))"""


def adapt(legacy: pd.DataFrame) -> pd.DataFrame:
    """Nearly as it is: published or not, and without what only the digest needs."""
    return legacy.drop(columns=["state", "revised"]).assign(is_public=legacy["state"].eq("P"))


entity = Entity(
    name="aw_title",
    owner="team:awkward",
    origin=LegacyQuery(QUERY, key=("id",)),
    tables=(
        Table('"Old Vault"."Film"', key=('"Id"',)),
        Table("clip", key=("id",)),
        Table("tag", key=("title",)),
        Table("place", key=("title",)),
        Table("label", key=("t.id",), join=f"JOIN {TITLES} t ON t.label = label.code"),
        Table(
            "country",
            key=("t.id",),
            join=f"JOIN label ON label.country = country.code JOIN {TITLES} t ON t.label = label.code",
        ),
        Table("asset", key=("t.id",), join=NAMES_ASSET),
    ),
    capture=capture(),
    adapt=adapt,
    sinks=(
        MediaBucket(columns=("poster", "stills"), prefix="title"),
        RelationalTable(
            "awkward.title",
            key=("id",),
            columns={
                "id": "uuid",
                "kind": "text not null",
                "name": "text",
                "body": "text",
                "extra": "jsonb",
                "gross": "bigint",
                "budget": "numeric",
                "score": "numeric(24, 10)",
                "label": "text",
                "country": "text",
                "tags": "text[] not null",
                "city": "text",
                "poster": "text",
                "stills": "text[] not null",
                "is_public": "boolean not null",
            },
        ),
        SearchIndex(
            "aw_title",
            where="is_public",
            json_fields=frozenset({"extra"}),
            fields={
                "kind": {"type": "keyword"},
                "name": {"type": "keyword"},
                "body": {"type": "text"},
                "extra": {"type": "object", "enabled": False},
                "gross": {"type": "long"},
                "budget": {"type": "keyword"},
                "score": {"type": "double"},
                "label": {"type": "keyword"},
                "country": {"type": "keyword"},
                "tags": {"type": "keyword"},
                "city": {"type": "keyword"},
                "poster": {"type": "keyword", "index": False},
                "stills": {"type": "keyword", "index": False},
            },
        ),
    ),
    partitions=KeyRanges(4),
)
