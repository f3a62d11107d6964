"""Whose the indices behind an alias are: each bears the ledger's id in its mapping's `_meta`."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

from sync_pipeline.errors import UnreachableError
from sync_pipeline.ledger import claims
from sync_pipeline.model.faults import guarded
from sync_pipeline.model.notices import Notice
from sync_pipeline.model.places import Place
from sync_pipeline.sinks.ownership import ABOUT, UNMARKED, Mark, check_marks, ledger_in, ledger_of
from sync_pipeline.sinks.search.requests import reaching
from sync_pipeline.stores.stores import Stores

log = logging.getLogger(__name__)

_META = "sync_pipeline"
_REMEDY = "SearchIndex another alias"
# a cluster without security knows no such question
_NO_SECURITY = {400, 404, 405, 500}


def index_meta(stores: Stores, entity: str) -> dict[str, Any]:
    """The `_meta` of an index that is made for an entity. Raises UnreachableError."""
    return {_META: {"ledger": ledger_of(stores), "entity": entity}}


def claim_index(stores: Stores, entity: str, place: Place) -> None:
    """Mark the indices behind an alias as ours, and record that the entity has the alias.

    Raises OwnershipError where one belongs to another ledger or entity, UnreachableError.
    """
    marks = index_marks(stores, place.name)
    if guarded(99):
        check_marks(stores, entity, marks)
    if marks:
        _record_alias(stores, entity, place)
    for mark in marks:
        if mark.ledger is None and guarded(99):
            _mark_index(stores, entity, mark.what.removeprefix("index "))


def take_over_index(stores: Stores, entity: str, alias: str) -> list[Mark]:
    """Mark the indices behind an alias as ours; return the marks that this replaced. Raises UnreachableError."""
    ours = ledger_of(stores)
    replaced = [mark for mark in index_marks(stores, alias) if mark.ledger != ours]
    for mark in replaced:
        if not _mark_index(stores, entity, mark.what.removeprefix("index ")):
            raise UnreachableError(f"SYNC_SEARCH_URL: the cluster refuses to mark {mark.what}: allow `manage` on it")
    return replaced


def index_marks(stores: Stores, alias: str) -> list[Mark]:
    """The marks of the indices behind an alias; none where it has no index yet. Raises UnreachableError."""
    from elasticsearch import NotFoundError

    try:
        return [
            Mark(f"index {name}", ledger_in(found["mappings"].get("_meta", {}).get(_META)), _REMEDY)
            for name, found in _mappings(stores, alias).items()
        ]
    except NotFoundError:
        return []


def _record_alias(stores: Stores, entity: str, place: Place) -> None:
    from elasticsearch import ApiError

    def is_empty() -> bool:
        with reaching():
            try:
                stores.search.indices.refresh(index=place.name)
                return not stores.search.count(index=place.name, terminate_after=1)["count"]
            except ApiError as error:  # a closed index, for example: the next opening looks again
                raise UnreachableError(f"SYNC_SEARCH_URL: {place.name} could not be looked at: {error}") from error

    with stores.target() as cursor:
        claims.claim(cursor, entity, place, is_empty)


def _mark_index(stores: Stores, entity: str, name: str) -> bool:
    """Put our mark beside whatever `_meta` holds; False where we lack the rights."""
    from elasticsearch import AuthorizationException

    kept = _mappings(stores, name)[name]["mappings"].get("_meta", {})
    try:
        stores.search.indices.put_mapping(index=name, meta={**kept, **index_meta(stores, entity)})
    except AuthorizationException as error:
        log.warning("no mark of ownership", extra={"entity": entity, "error": f"index {name}: {error}"})
        return False
    except Exception as error:
        with reaching():
            raise error
    return True


def _mappings(stores: Stores, name: str) -> dict[str, Any]:
    with reaching():
        return dict(stores.search.indices.get_mapping(index=name).body)


def unmarked_index(stores: Stores, entity: str, mark: Mark) -> Iterator[Notice]:
    """What to do for a mark that we may not put. Raises UnreachableError."""
    name = mark.what.removeprefix("index ")
    if not may_mark(stores, name):
        meta = json.dumps({"_meta": index_meta(stores, entity)})
        remedy = f"allow manage on it and start again; or PUT {name}/_mapping {meta}"
        yield Notice("warning", ABOUT, UNMARKED.format(mark.what), remedy)


def may_mark(stores: Stores, index: str) -> bool:
    """Whether we may mark an index; a cluster without security lets all do it. Raises UnreachableError."""
    from elasticsearch import ApiError

    with reaching():
        try:
            asked = [{"names": [index], "privileges": ["manage"]}]
            return bool(stores.search.security.has_privileges(index=asked)["has_all_requested"])
        except ApiError as error:
            if error.status_code not in _NO_SECURITY:
                raise
    return True
