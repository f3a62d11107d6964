"""The entities of the demo, and those of the awkward monolith, keep the contract for rows of their monoliths."""

import pytest

from sync_pipeline.entities.files import load_entities
from sync_pipeline.testing import EntityContract, LegacyRows
from tests.awkward.ground import ENTITIES, awkward_world

ROWS = 60
AWKWARD = ("airing", "edition", "label", "loan", "scene", "title", "work")


@pytest.fixture(scope="module")
def demo(fresh_world):
    fresh_world.load(6 * ROWS, 20)
    return fresh_world


@pytest.fixture(scope="module")
def awkward(fleet):
    with awkward_world(fleet, "contracts", "sweep", rows=2 * ROWS) as world:
        yield world


class DemoContract(EntityContract):
    """An entity of the demo, for rows of its monolith."""

    # each content has these; the query makes lists of files and tags
    not_null = frozenset({"title", "status", "version", "tags", "cover", "files", "created_at", "updated_at"})

    @pytest.fixture(autouse=True)
    def read(self, demo):
        """Some rows, by key."""
        self.legacy = LegacyRows.read(self.entity, demo.stores, ROWS)


class AwkwardContract(EntityContract):
    """An entity of the awkward monolith, which reads how it is caught at import."""

    @property
    def entity(self):
        """By its name."""
        return load_entities(ENTITIES)[self.name]

    @pytest.fixture(autouse=True)
    def read(self, awkward):
        """Some rows, by key."""
        self.legacy = LegacyRows.read(self.entity, awkward.stores, ROWS)


for found in load_entities("assets.entities").values():
    name = f"Test{found.name.title()}"
    globals()[name] = type(name, (DemoContract,), {"entity": found})
for word in AWKWARD:
    name = f"TestAwkward{word.title()}"
    globals()[name] = type(name, (AwkwardContract,), {"name": f"aw_{word}"})
