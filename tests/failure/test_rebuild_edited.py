"""Hazard 27: indices rebuilt under eight editors, the engine in processes of its own. What do readers see meanwhile?"""

import signal

import pytest

from sync_pipeline.model.faults import REBUILD_CRASH_POINTS
from tests.command import Command
from tests.newsroom import WITHOUT_SWEEP, edited, end, follow, leave_out_the_sweep, settle, was_swept
from tests.rebuilt import Reader

CONTENTS, FILES, POISON = 900, 40, 2
REBUILDS = 2
LOOKS = 100
# pages so small that editors meet every rebuild
PAGES = {"SYNC_CHUNK_ROWS": "30"}
IN_A_PAGE = ("rows.after:2", "documents.after:2", "close.before:2")


class IndexReader(Reader):
    """Reads all documents behind an alias, as they show: no refresh, no look beside the alias.

    `wrong` holds also those that are gone though the ledger has no later write of them.
    """

    def __init__(self, world, alias):
        super().__init__(world)
        self.alias, self.indices = alias, set()

    def _look_on(self):
        while not self._stop.is_set():
            self._look()

    def _look(self):
        body = {"size": 10_000, "version": True, "_source": False}
        hits = self.world.document("POST", f"{self.alias}/_search", body)["hits"]["hits"]
        shown = {int(hit["_id"]): hit["_version"] for hit in hits}
        self.wrong += [(key, self._seen[key], None) for key in self._unexplained(self._there - shown.keys())]
        self.indices |= {hit["_index"] for hit in hits}
        self._take(shown)

    def _unexplained(self, gone):
        """Those that nobody has written since they were seen."""
        if not gone:
            return []
        query = f"SELECT id, written FROM sync.ledger_{self.alias} WHERE id = ANY(%s)"
        written = dict(self.world.target(query, [sorted(gone)]))
        return [key for key in gone if written[key] <= self._seen[key]]


@pytest.fixture(scope="module")
def world(fresh_world):
    fresh_world.load(CONTENTS, FILES, POISON)
    leave_out_the_sweep(fresh_world)
    for name in fresh_world.contexts:
        fresh_world.all_in(name)
    return fresh_world


def rebuild(log, entity, **settings):
    return Command(log, "rebuild", "index", entity, **{**WITHOUT_SWEEP, **PAGES, **settings})


def behind(world, alias):
    (index,) = world.document("GET", f"_alias/{alias}")
    return index


@pytest.mark.hazard(27)
def test_readers_of_the_alias_see_nothing_go_back(world, tmp_path):
    with edited(world, seed=7) as observer, IndexReader(world, "text") as reader:
        live = follow(tmp_path / "live")
        for turn in range(REBUILDS):
            made = rebuild(tmp_path / f"rebuild-{turn}", "text")
            assert made.wait() == 0, made.tail()
        end(live)
    assert reader.wrong == []
    assert observer.setbacks == []
    assert behind(world, "text") == f"text-{REBUILDS + 1:06d}"
    assert reader.indices == {f"text-{n:06d}" for n in range(1, REBUILDS + 2)}
    assert reader.looks > LOOKS
    settle(world, tmp_path / "settled")
    assert world.differences() == []
    assert not was_swept(world)


def test_killed_at_every_step_it_goes_on(world, tmp_path):
    with edited(world, seed=8), IndexReader(world, "video") as reader:
        live = follow(tmp_path / "live")
        for point in (*REBUILD_CRASH_POINTS[:2], *IN_A_PAGE, *REBUILD_CRASH_POINTS[2:]):
            cut = rebuild(tmp_path / "cut", "video", SYNC_TEST_CRASH_AT=point)
            assert cut.wait() == -signal.SIGKILL, f"{point}: {cut.tail()}"
        made = rebuild(tmp_path / "made", "video")
        assert made.wait() == 0, made.tail()
        end(live)
    assert reader.wrong == []
    assert reader.indices == {"video-000001", "video-000002"}
    assert world.target("SELECT state, name FROM sync.rebuild WHERE entity = 'video'") == [("done", "video-000002")]
    settle(world, tmp_path / "settled")
    assert world.differences() == []
