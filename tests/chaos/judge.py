"""The judge: everything that was committed is applied or due, what is due gets done, and nothing is otherwise."""

import time
from typing import Any

from tests.chaos.grounds import GROUNDS
from tests.chaos.scene import Scene
from tests.observer import Observer
from tests.oracle import Difference

PATIENCE = 300  # seconds; 100,000 rows with one stamp take their time on a busy machine
_LOOK_SECONDS = 0.5
# what a killed backfill had claimed is left alone for two minutes
_CLAIMS_RUN_OUT = "UPDATE sync.due SET claimed_until = NULL WHERE claimed_until < now() + interval '115 s'"
# a recovery waits a minute for requests of dead workers; a page that was claimed is left alone for two minutes
_REQUESTS_HAVE_ARRIVED = """
    UPDATE sync.recovery SET asked_at = asked_at - interval '1 hour' WHERE done_at IS NULL AND position IS NULL
        AND claimed_until IS NULL AND asked_at BETWEEN now() - interval '70 s' AND now() - interval '10 s';
    UPDATE sync.recovery SET claimed_until = NULL WHERE claimed_until < now() + interval '115 s'"""
# a file that a bucket has refused is tried again minutes later
_TO_BE_TRIED = "reason <> 'rejected' OR error = 'MediaRefused'"
# a parked row is right if it is poison; the oracle tells
_LEFT = f"""
    SELECT entity, 'applied through ' || coalesce(applied_through::text, 'nothing') FROM sync.cursor
     WHERE applied_through IS NULL OR applied_through < %(since)s
    UNION ALL SELECT entity, 'not swept' FROM sync.cursor WHERE (%(swept)s AND coalesce(swept_from < %(since)s, true))
        OR (sweep_wanted IS NOT NULL AND coalesce(swept_from < sweep_wanted, true))
        OR (swept_from IS NULL AND EXISTS (SELECT FROM sync.recovery))
    UNION ALL SELECT entity, 'recovering ' || part FROM sync.recovery WHERE done_at IS NULL
    UNION ALL SELECT entity, reason || ' ' || coalesce(message, '') FROM sync.due
      WHERE ({_TO_BE_TRIED})
        AND NOT (reason = 'sweep' AND keys <@ ARRAY(
            SELECT key FROM sync.due p WHERE p.entity = due.entity AND p.reason = 'rejected'))"""

_ASK = "UPDATE sync.cursor SET sweep_wanted = greatest(sweep_wanted, %s)"
_PARKED = "SELECT entity, key FROM sync.due WHERE reason = 'rejected'"


def settled(scene: Scene, seconds: float = PATIENCE) -> list[str]:
    """Wait until nothing is left to be done of what is committed now; what is left when the time is up."""
    ((since,),) = scene.world.legacy("SELECT clock_timestamp()")
    if scene.plan.swept:  # one that lists the legacy bucket, too: by itself it comes only as often as the share allows
        scene.world.target(_ASK, (since,))
    limit = time.monotonic() + seconds
    while left := _left(scene, since):
        if time.monotonic() > limit:
            return left
        scene.world.hurry(_TO_BE_TRIED)
        scene.world.target(_CLAIMS_RUN_OUT)
        scene.world.target(_REQUESTS_HAVE_ARRIVED)
        time.sleep(_LOOK_SECONDS)
    return []


def _left(scene: Scene, since: Any) -> list[str]:
    rows = scene.world.target(_LEFT, {"since": since, "swept": scene.plan.swept})
    ending = [*scene.crew.histories, *scene.crew.rebuilds]
    left = [worker.log.name for worker in ending if not worker.done]
    return [f"not settled: {entity}: {what}" for entity, what in rows] + [f"not settled: {name}" for name in left]


def violations(scene: Scene, observer: Observer) -> list[str]:
    """Every object that is lost, doubled, gone back, or neither right nor due; the followers have ended."""
    ground = GROUNDS[scene.plan.ground]
    parked = set(scene.world.target(_PARKED))
    found = [f"oracle: {' '.join(d)}" for d in ground.differences(scene.world) if not _looked_at_again(d, parked)]
    found += ground.noted(scene.world)
    # each is seen until it is right again
    backs = dict.fromkeys(back for back in observer.setbacks if not scene.is_of_lost_commit(back))
    return found + [f"observer: {back.where} {back.key} went from {back.before} to {back.after}" for back in backs]


def _looked_at_again(difference: Difference, parked: set[tuple[str, str]]) -> bool:
    """Of a parked row the ledger has no digest: each sweep owes it once more."""
    again = difference.what == "owed" and difference.detail.startswith("sweep")
    return again and {(difference.kind, difference.key), (f"aw_{difference.kind}", difference.key)} & parked
