"""What one file or one index does to all other rows: how long edits take while a store answers wrongly, and before.

Eight editors go on all the time, and the engine follows in a process of its own. Each wrong answer of a bucket has
files of its own, and their rows are not measured. Each bad state of an index lasts some seconds, one after the other.
"""

import tempfile
import threading
from collections.abc import Callable, Collection, Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random

from demo.fleet import Fleet
from demo.lag import LoggedEdit, Observer, Report
from demo.lag.pending import Pending
from tests.chaos import judge
from tests.chaos.faults.files import overwrite
from tests.chaos.grounds import GROUNDS
from tests.chaos.guarded import Guarded
from tests.chaos.network import Network
from tests.chaos.plan import Plan
from tests.chaos.rounds import staged
from tests.chaos.scene import Scene
from tests.index_states import states
from tests.matrix.matrix import FAILS, HOLDS, Cell, Matrix, Outcome
from tests.stores_at_fault import ByKey
from tests.world import wait_for
from tests.wrong_answers import AFTER_TRIES, AT_ONCE

SOURCES = ("watermark", "outbox", "wal")
CONTENTS, FILES, FILES_OF_AN_ANSWER = 1_200, 120, 2
# edits after which a follower and its servers are warm, and seconds for which lag is measured
WARM_EDITS, SECONDS = 600, 40.0
STATE_SECONDS = 4.0
# between two overwrites of files that are answered wrongly
PAUSE_SECONDS = 0.2
LONGEST_RATIO = 1.5
# documents go to another index then, and back: readers see versions go back, too
_ELSEWHERE = "rolled over"
_ANSWERS = AT_ONCE | AFTER_TRIES
_FILES = "SELECT bucket_key, content_id FROM media_files ORDER BY hashint8(id), id LIMIT %s"


def play(source: str, fault: str, fleet: Fleet, seed: int) -> Outcome:
    """Measure lag without and with the fault, let all heal, and ask the oracle."""
    plan = _plan(source, fault, seed)
    dice = Random(f"{seed} {source} {fault}")
    with (
        closing(Network(fleet)) as network,
        tempfile.TemporaryDirectory() as folder,
        staged(fleet, network, plan, Path(folder)) as scene,
        GROUNDS["demo"].observer(scene.world) as observer,
    ):
        scene.observer = observer
        with GROUNDS["demo"].written(scene.world, plan):
            follower = scene.crew.follow()
            wait_for(lambda: GROUNDS["demo"].commits(scene.world) >= WARM_EDITS, 120)
            chosen = _chosen(scene) if fault == FILES_WRONG else {}
            before = _lag(scene, chosen.values(), _pause)
            during = _lag(scene, chosen.values(), partial(_FAULTS[fault], scene, dice, chosen))
        faults = judge.settled(scene)
        faults += [f"{worker.log.name} did not end when asked to" for worker in scene.crew.end([follower])]
        faults += [f"it ended with {follower.code}"] if follower.code else []
        faults += judge.violations(scene, observer)
    ratio = during.share(0.95) / before.share(0.95)
    if not ratio <= LONGEST_RATIO:
        faults.append(f"lag p95 grows {ratio:.2f} times")
    figures = {
        "edits": f"{before.edits} / {during.edits}",
        "lag p95, s": f"{before.share(0.95):.3f} / {during.share(0.95):.3f}",
        "ratio": f"{ratio:.2f}",
        "answers or states": str(len(scene.done.keys() - {"files overwritten"})),
    }
    return Outcome(FAILS if faults else HOLDS, "; ".join(faults[:5])[:400], figures)


def _plan(source: str, fault: str, seed: int) -> Plan:
    return Plan(
        seed=str(seed),
        number=SOURCES.index(source) + len(SOURCES) * list(_FAULTS).index(fault),
        source=source,
        ground="demo",
        swept=False,
        followers=1,
        filled_beside=None,
        contents=CONTENTS,
        files=FILES,
        poison=0,
        writers_seed=seed,
        without=("hard_delete", "overwrite_file", "rename_author"),
        grace_seconds=86_400,
        ends_fresh=False,
        strikes=(),
        margin=0.2,
    )


def _chosen(scene: Scene) -> dict[str, int]:
    """Files with the contents that name them."""
    return dict(scene.world.legacy(_FILES, (FILES_OF_AN_ANSWER * len(_ANSWERS),)))


def _lag(scene: Scene, but: Collection[int], act: Callable[[], None]) -> Report:
    """Measure the lag of all edits except those of some contents, while `act` lasts."""
    observer = _Others(scene.world.monolith.admin_url, scene.world.target_url, but).start()
    act()
    return observer.finish(30)


def _pause(seconds: float = SECONDS) -> None:
    threading.Event().wait(seconds)


def _files_wrong(scene: Scene, dice: Random, chosen: dict[str, int]) -> None:
    """Give each answer to some files, which are overwritten again and again for a while."""
    rule, over = ByKey(), threading.Event()
    for n, key in enumerate(chosen):
        name = list(_ANSWERS)[n % len(_ANSWERS)]
        rule.faults[key] = _ANSWERS[name][0]
        scene.done[name] = 1

    def overwritten() -> None:
        while not over.wait(PAUSE_SECONDS):
            overwrite(scene, dice, dice.choice(list(chosen)))

    thread = Guarded(overwritten)
    with scene.network.ruled("SYNC_LEGACY_S3_ENDPOINT", rule):
        thread.start()
        try:
            _pause()
        finally:
            over.set()
            thread.check()


def _indices_wrong(scene: Scene, dice: Random, _: dict[str, int]) -> None:
    """Lead an index into each state for some seconds, one after the other."""
    for n, name in enumerate(name for name in states("", "", "") if name != _ELSEWHERE):
        alias = scene.indices[n % len(scene.indices)]
        (index,) = scene.world.document("GET", f"_alias/{alias}")
        state = states(index, alias, f"{alias}-second")[name]
        scene.done[name] = 1
        for request in state.into:
            scene.world.document(*request)
        _pause(STATE_SECONDS)
        for request in state.out:
            scene.world.document(*request)


class _PendingOthers(Pending):
    def __init__(self, but: Collection[int]) -> None:
        super().__init__()
        self._but = set(but)

    def log(self, edits: Iterable[LoggedEdit]) -> None:
        super().log(edit for edit in edits if edit.content_id not in self._but)


class _Others(Observer):
    def __init__(self, legacy_url: str, target_url: str, but: Collection[int]) -> None:
        super().__init__(legacy_url, target_url)
        self._pending = _PendingOthers(but)


FILES_WRONG, INDICES_WRONG = "files that are answered wrongly", "indices in bad states"
_FAULTS = {FILES_WRONG: _files_wrong, INDICES_WRONG: _indices_wrong}
FAULTS_BY_SOURCE = Matrix(
    "faults",
    "Stores at fault",
    tuple(Cell(f"{fault}, {source}", partial(play, source, fault)) for fault in _FAULTS for source in SOURCES),
)
