"""What all editors share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from demo.edit.late import LateCommits, LateTurn
from demo.edit.pace import Pace
from demo.edit.roster import Roster
from demo.edit.tally import Tally

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


@dataclass(frozen=True)
class Newsroom:
    """Their tools, their turns, and what they may edit."""

    admin_url: str
    client: S3Client
    bucket: str
    pace: Pace
    tally: Tally
    late: LateCommits
    late_turn: LateTurn
    late_seconds: tuple[float, float]
    weights: dict[str, int]  # operations, out of a hundred
    contents: Roster
    with_files: Roster
    authors: list[int]
    poisoned_tickets: frozenset[int]
