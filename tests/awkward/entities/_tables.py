"""What the entities share: their source, and the titles as they lie in two tables."""

import os

from sync_pipeline.sources.outbox import Outbox
from sync_pipeline.sources.source import Capture
from tests.installed import SOURCES

TITLES = """
    (SELECT "Id" AS id, 'film' AS kind, "Title" AS name, "Body" AS body, "Label" AS label, "State" AS state,
            "Extra" AS extra, "Gross" AS gross, "Budget" AS budget, "Score" AS score FROM "Old Vault"."Film"
     UNION ALL SELECT id, 'clip', caption, script, label, state, extra, NULL, NULL, NULL FROM clip)"""


def capture(outbox: Outbox | None = None) -> Capture:
    """How changes are caught this time; `outbox` is the entity's own."""
    name = os.environ.get("TEST_CAPTURE", "sweep")
    return outbox if outbox and name == "outbox" else SOURCES[name]
