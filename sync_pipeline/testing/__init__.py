"""Contract suites that a repository's own tests inherit: what each entity must keep, whatever it means.

class TestGallery(EntityContract):
    entity = entity
    legacy = LegacyRows(TYPES, ROWS)
"""

from sync_pipeline.testing.entities import EntityContract
from sync_pipeline.testing.legacy_rows import LegacyRows

__all__ = ["EntityContract", "LegacyRows"]
