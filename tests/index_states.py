"""Bad states of an index, by name, with the requests that lead into each and out of it."""

from typing import Any, NamedTuple

Request = tuple[str, str, Any]


class State(NamedTuple):
    """Requests (method, path, body) to the cluster, in their order. The engine's message holds `message`."""

    into: list[Request]
    out: list[Request]
    message: str


def states(index: str, alias: str, other: str) -> dict[str, State]:
    """Name all states of `index` behind `alias`; in some of them `other` is a second index behind it."""
    add = {"index": index, "alias": alias}
    second = {"index": other, "alias": alias}
    made = ("PUT", other, {"mappings": {"dynamic": False}})
    gone: Request = ("DELETE", other, None)
    anew = _actions({"remove": add}, {"add": add})
    not_written = {"add": add | {"is_write_index": False}}
    both = ", ".join(sorted((index, other)))
    return {
        "closed": State([("POST", f"{index}/_close", None)], [("POST", f"{index}/_open", None)], "closed"),
        "no write index": State([_actions(not_written)], [anew], "no write index"),
        "missing pipeline": _set(index, "index.default_pipeline", "enrich_titles", "enrich_titles"),
        "missing final pipeline": _set(index, "index.final_pipeline", "enrich_titles", "enrich_titles"),
        **{
            block: _set(index, f"index.blocks.{block}", True, "block")
            for block in ("write", "read_only", "read_only_allow_delete")
        },
        "no alias": State([_actions({"remove": add})], [_actions({"add": add})], "alias"),
        "two indices": State([made, _actions({"add": second})], [gone], both),
        "rolled over": State(
            [made, _actions(not_written, {"add": second | {"is_write_index": True}})], [gone, anew], both
        ),
        "a routing of its own": State([_actions({"add": add | {"routing": "1"}})], [anew], "routing"),
    }


def _set(index: str, setting: str, value: Any, message: str) -> State:
    path = f"{index}/_settings"
    return State([("PUT", path, {setting: value})], [("PUT", path, {setting: None})], message)


def _actions(*listed: Any) -> Request:
    return "POST", "_aliases", {"actions": list(listed)}
