"""All looks of a preflight, each on its own: one store that does not answer hides nothing about the others."""

from __future__ import annotations

from functools import partial

from sync_pipeline.entity import Entity
from sync_pipeline.model.notices import Notice, worst
from sync_pipeline.preflight import (
    buckets,
    clocks,
    legacy,
    outboxes,
    ownership,
    publications,
    replica,
    target,
)
from sync_pipeline.preflight.checks import run_check
from sync_pipeline.preflight.declarations import check_entity, check_entity_files
from sync_pipeline.preflight.relations import check_grants
from sync_pipeline.preflight.visibility import check_declared_visibility
from sync_pipeline.sinks.ownership import ABOUT as OWNERSHIP
from sync_pipeline.sinks.search import preflight as search
from sync_pipeline.sinks.table.preflight import ABOUT as TARGET
from sync_pipeline.stores.stores import Stores


def preflight(stores: Stores, entities: list[Entity], *, whole: bool = True) -> list[Notice]:
    """Look at every store and at these entities; `whole` says that they are all of the deployment.

    Changes nothing but a file of its own, which it removes again.
    """
    files = run_check("entity files", partial(check_entity_files, stores, whole=whole))
    databases = [
        run_check(legacy.ABOUT, partial(legacy.check_legacy, stores, entities)),
        run_check(TARGET, partial(target.check_target, stores)),
    ]
    sound: list[Entity] = []
    others = [
        run_check(replica.ABOUT, partial(replica.check_replica, stores, entities)),
        run_check(search.ABOUT, partial(search.check_cluster, stores)),
        *(run_check(sink.id, partial(sink.preflight, stores, e.name)) for e in entities for sink in e.sinks),
        run_check(buckets.LEGACY, partial(buckets.check_legacy_bucket, stores)),
        run_check(buckets.TARGET, partial(buckets.check_target_bucket, stores)),
    ]
    if databases[0].reached:
        others.append(run_check(outboxes.ABOUT, partial(outboxes.check_outboxes, stores, entities)))
        others.append(run_check(legacy.ABOUT, partial(check_grants, stores, entities)))
        of_entities = {e.name: run_check(f"entity {e.name}", partial(check_entity, stores, e)) for e in entities}
        others += of_entities.values()
        sound = [e for e in entities if worst(of_entities[e.name].notices) != "error"]
        others.append(run_check(publications.ABOUT, partial(publications.check_publications, stores, entities)))
    if databases[1].reached:
        others.append(run_check(OWNERSHIP, partial(ownership.check_ownership, stores, entities)))
    if all(database.reached for database in databases):
        others += [run_check(f"entity {e.name}", partial(check_declared_visibility, stores, e)) for e in sound]
        others.append(run_check(clocks.ABOUT, partial(clocks.check_clocks, stores)))
    return _once([notice for done in [files, *databases, *others] for notice in done.notices])


def _once(notices: list[Notice]) -> list[Notice]:
    """Leave out errors that another notice gives already, for example as the fault of a table that an entity reads."""
    distinct = list(dict.fromkeys(notices))
    errors = [(n, notice) for n, notice in enumerate(distinct) if notice.level == "error"]
    repeated = {
        n
        for n, notice in errors
        for m, other in errors
        if other.about != notice.about and other.what in notice.what and (m < n or other.what != notice.what)
    }
    return [notice for n, notice in enumerate(distinct) if n not in repeated]
