"""All looks of a preflight, each on its own: one store that does not answer hides nothing about the others."""

from __future__ import annotations

from functools import partial

from sync_pipeline.entity import Entity
from sync_pipeline.preflight import (
    buckets,
    clocks,
    legacy,
    outboxes,
    ownership,
    publications,
    replica,
    search,
    target,
)
from sync_pipeline.preflight.declarations import look_at_entity, look_at_entity_files
from sync_pipeline.preflight.notice import Notice, look, worst
from sync_pipeline.preflight.relations import look_at_grants
from sync_pipeline.preflight.visibility import look_at_visibility
from sync_pipeline.stores import Stores


def preflight(stores: Stores, entities: list[Entity], *, whole: bool = True) -> list[Notice]:
    """Look at every store and at these entities; `whole` says that they are all of the deployment.

    Changes nothing but a file of its own, which it removes again.
    """
    files = look("entity files", partial(look_at_entity_files, stores, whole=whole))
    databases = [
        look(legacy.ABOUT, partial(legacy.look_at_legacy, stores, entities)),
        look(target.ABOUT, partial(target.look_at_target, stores, entities)),
    ]
    sound: list[Entity] = []
    others = [
        look(replica.ABOUT, partial(replica.look_at_replica, stores, entities)),
        look(search.ABOUT, partial(search.look_at_search, stores, entities)),
        look(buckets.LEGACY, partial(buckets.look_at_legacy_bucket, stores)),
        look(buckets.TARGET, partial(buckets.look_at_target_bucket, stores)),
    ]
    if databases[0].reached:
        others.append(look(outboxes.ABOUT, partial(outboxes.look_at_outboxes, stores, entities)))
        others.append(look(legacy.ABOUT, partial(look_at_grants, stores, entities)))
        of_entities = {e.name: look(f"entity {e.name}", partial(look_at_entity, stores, e)) for e in entities}
        others += of_entities.values()
        sound = [e for e in entities if worst(of_entities[e.name].notices) != "error"]
        others.append(look(publications.ABOUT, partial(publications.look_at_publications, stores, entities)))
    if databases[1].reached:
        others.append(look(ownership.ABOUT, partial(ownership.look_at_ownership, stores, entities)))
    if all(database.reached for database in databases):
        others += [look(f"entity {e.name}", partial(look_at_visibility, stores, e)) for e in sound]
        others.append(look(clocks.ABOUT, partial(clocks.look_at_clocks, stores)))
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
