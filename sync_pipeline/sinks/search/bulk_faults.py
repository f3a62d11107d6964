"""Whose fault it is that the cluster has refused an item of a bulk: the document's, or the index's.

Only what is sure to be the document's is a dead letter. What is sure to be the index's is sent again later. For all
else the state of the index decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Any


class Fault(Enum):
    """Whose it is."""

    DOCUMENT = "document"
    INDEX = "index"
    UNKNOWN = "unknown"


_OF_DOCUMENT = {
    "document_parsing_exception",
    "mapper_parsing_exception",
    "strict_dynamic_mapping_exception",
    "parsing_exception",
    "x_content_parse_exception",
    "json_parse_exception",
    "parse_exception",
    "max_bytes_length_exceeded_exception",
    "routing_missing_exception",
}
# words in the reason of an `illegal_argument_exception` that is about the document
_DOCUMENT_WORDS = re.compile(
    r"immense term|id \[.*\] is too long|nested documents has exceeded|mapper \[.*\]|failed to parse|cannot be empty"
    r"|exceeded the allowed limit of \[\d+\].*(object|array|nested)|dims|vector",
    re.IGNORECASE,
)
_OF_INDEX = {
    "index_closed_exception",
    "cluster_block_exception",
    "index_not_found_exception",
    "unavailable_shards_exception",
    "no_shard_available_action_exception",
    "shard_not_found_exception",
    "process_cluster_event_timeout_exception",
    "invalid_alias_name_exception",
    "es_rejected_execution_exception",
    "circuit_breaking_exception",
    "not_master_exception",
    "master_not_discovered_exception",
}
_INDEX_WORDS = re.compile(
    r"no write index is defined|pipeline with id|limit of total fields|limit of mapping depth|data stream"
    r"|more than one ind|multiple indices|is not an alias|validation failed: .*shards",
    re.IGNORECASE,
)


def fault_of(outcome: Mapping[str, Any]) -> Fault:
    """Whose fault it is that an item (with `status` and `error`) was refused."""
    error = outcome["error"]
    kind, reason = str(error.get("type", "")), str(error.get("reason", ""))
    if outcome["status"] != 400 or kind in _OF_INDEX or _INDEX_WORDS.search(reason):
        return Fault.INDEX
    if kind in _OF_DOCUMENT or _DOCUMENT_WORDS.search(reason):
        return Fault.DOCUMENT
    return Fault.UNKNOWN
