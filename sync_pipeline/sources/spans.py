"""Spans of stamps: the parts of its tables that a watermark source has still to read.

A poll reads each span from its newest stamp down, so that a fresh edit is found first, however many rows a bulk update
has stamped. A span that a poll cannot finish in its time stays in the cursor's row with the position it has reached,
and the next poll goes on there, in this process or in another one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from sync_pipeline.model.faults import guarded
from sync_pipeline.sources.window import BEGINNING, Mark, earliest, mark_from_state, mark_to_state

Position = tuple[str, list[str]]  # a stamp and a key, both as texts
# a stamp that has more open spans than this has them joined into one
_MOST = 16
_LATEST = dt.datetime.max.replace(tzinfo=dt.UTC)


@dataclass(frozen=True)
class Span:
    """Rows of one stamp between `bound` and `cap`; those at `position` and above have been reported.

    Everything that was committed before `floor` is reported, whatever is left of the span. With `xid`, only row
    versions that this transaction or a later one wrote are in the span.
    """

    stamp: str
    bound: Mark
    cap: dt.datetime | None = None
    position: Position | None = None
    floor: dt.datetime = BEGINNING.at
    xid: int | None = None
    is_future: bool = False  # the rows above the cap of polls

    def covers(self, other: Span) -> bool:
        """Whether reading this span reports all that is left of the other one."""
        return (
            self.stamp == other.stamp
            and self.position is None
            and not other.is_future
            and earliest(self.bound, other.bound) == self.bound
            and (self.cap is None or (other.cap is not None and other.cap <= self.cap))
        )

    def as_state(self) -> dict[str, Any]:
        """Returns what the cursor's row keeps of it."""
        return {
            "stamp": self.stamp,
            "bound": mark_to_state(self.bound),
            "cap": self.cap.isoformat() if self.cap else None,
            "position": list(self.position) if self.position and guarded(87) else None,
            "floor": self.floor.isoformat(),
            "xid": self.xid,
            "is_future": self.is_future,
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Span:
        """Returns the span that `as_state` wrote."""
        cap, position = state["cap"], state["position"]
        return cls(
            state["stamp"],
            mark_from_state(state["bound"]),
            dt.datetime.fromisoformat(cap) if cap else None,
            (position[0], list(position[1])) if position else None,
            dt.datetime.fromisoformat(state["floor"]),
            state["xid"],
            state["is_future"],
        )


def join_spans(spans: Iterable[Span]) -> Span:
    """Returns one span of a stamp that holds all these: it reads again what some of them have reported."""
    parts = list(spans)
    caps = [part.cap for part in parts]
    return Span(
        parts[0].stamp,
        earliest(*(part.bound for part in parts)),
        None if None in caps else max(cap for cap in caps if cap),
        floor=min(part.floor for part in parts),
    )


def without_covered(head: Span, older: list[Span]) -> tuple[Span, list[Span]]:
    """Returns the head with the floor of those it covers, and the spans that it does not cover."""
    covered = [span for span in older if head.covers(span)]
    rest = [span for span in older if span not in covered]
    of_stamp = [span for span in rest if span.stamp == head.stamp and not span.is_future]
    if len(of_stamp) >= _MOST:
        joined = join_spans(of_stamp)
        rest = [joined, *(span for span in rest if span not in of_stamp)]
    return replace(head, floor=min([head.floor, *(span.floor for span in covered)])), rest


def instant(text: str) -> dt.datetime:
    """Returns the instant of a stamp as COPY writes it; one that Python cannot hold counts as the nearest it can."""
    if text == "-infinity" or text.endswith(" BC"):
        return BEGINNING.at
    try:
        return dt.datetime.fromisoformat(text)
    except ValueError:  # infinity, or a year of five digits
        return _LATEST
