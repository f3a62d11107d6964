"""Files of the monolith's bucket, and their copies in the new one."""

from __future__ import annotations

from dataclasses import dataclass, field

# how dead letters name the fault of a file
MISSING_FILE = "MediaMissing"
REFUSED_FILE = "MediaRefused"
UNFORESEEN_FILE = "MediaUnforeseen"


@dataclass(frozen=True)
class Source:
    """A legacy object as it is now: its identity is (key, etag)."""

    key: str
    etag: str
    size: int | None = field(default=None, compare=False)  # as HEAD says


@dataclass(frozen=True)
class Copied:
    """An object in the new bucket; size in bytes, sha256 in hex."""

    source: Source
    target_key: str
    size: int
    sha256: str
    target_etag: str
