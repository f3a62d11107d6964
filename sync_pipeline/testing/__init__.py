"""Contract suites that a repository's own tests inherit: what each entity and each source must
keep, whatever it means.

class TestGallery(EntityContract):
    entity = entity
    legacy = LegacyRows(TYPES, ROWS)
"""

from sync_pipeline.testing.entities import EntityContract
from sync_pipeline.testing.legacy_rows import LegacyRows
from sync_pipeline.testing.sinks import SinkContract
from sync_pipeline.testing.sources import Change, SourceContract

__all__ = ["Change", "EntityContract", "LegacyRows", "SinkContract", "SourceContract"]
