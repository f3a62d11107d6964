"""What `check` says of an endpoint: whether it answers, and what its declaration gives up."""

from __future__ import annotations

from collections.abc import Iterator

from sync_pipeline.errors import SettingError
from sync_pipeline.model.notices import Notice
from sync_pipeline.sinks.http.declaration import EndpointDeclaration
from sync_pipeline.sinks.http.requests import Client, Verdict, reason_of, verdict_of
from sync_pipeline.stores.stores import Stores

ABOUT = "http"
_NO_KEY = "sync-pipeline-check"


def check_endpoint(stores: Stores, entity: str, endpoint: EndpointDeclaration) -> Iterator[Notice]:
    """Ask the endpoint which methods it knows, which changes nothing. Raises UnreachableError where it is silent."""
    named = f"entity {entity}: {endpoint.url}"
    try:
        answer = Client.of(endpoint, stores).ask("OPTIONS", endpoint.address(_NO_KEY))
    except SettingError as error:
        yield Notice("error", ABOUT, f"entity {entity}: {error}", f"set it where {entity} is followed")
        return
    verdict = verdict_of(answer.status, is_delete=False)
    reason = reason_of(answer.status, answer.text)
    if verdict is Verdict.OURS:
        yield Notice("error", ABOUT, f"{named} turns us away: {reason}", "check its headers and its url")
    elif verdict is Verdict.LATER:
        yield Notice("warning", ABOUT, f"{named} is not ready: {reason}", "try again; what it is owed waits meanwhile")
    else:
        yield Notice("ok", ABOUT, f"{named} answers")
    if endpoint.ordering == "none":
        yield Notice(
            "warning",
            ABOUT,
            f"{named} takes an older revision after a newer one (ordering='none'): an object may be shown as it was"
            " until it is sent once more",
            "have the receiver refuse revisions below the one that it holds, with 409, and leave ordering out",
        )
    if not endpoint.read_url:
        yield Notice(
            "warning",
            ABOUT,
            f"{named} names no read_url: reconciliation does not cover it",
            "give HttpEndpoint a read_url, if the service has one",
        )
