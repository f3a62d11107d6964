"""Reasons for which the queue (`sync.due`) holds a key."""

from enum import StrEnum


class Reason(StrEnum):
    """Says what is to be done for a key in the queue, and why. For example: `media`, copy the files of the row."""

    OVERTAKEN = "overtaken"  # another batch came between the read and the write: read and write it again
    COMPENSATION = "compensation"  # the index refused the document for good: put the row back as it was
    DOCUMENTS = "documents"  # the index has not taken the document yet
    MEDIA = "media"  # files of the row are still to be copied
    RELEASED = "released"  # the row that this one waited for is there
    MOVED = "moved"  # another row holds the row's id in the new table
    FUTURE = "future"  # an event names a version that the row does not show yet
    CHILDREN = "children"  # a delete waits until no row refers to the deleted one
    PARENT = "parent"  # the row waits for one that it refers to
    FANOUT = "fanout"  # a row that this one is made of has changed
    SWEEP = "sweep"  # the sweep found a difference
    RECOVERED = "recovered"  # the new side lost commits, and this key may be among them
    REJECTED = "rejected"  # a dead letter: the row was refused
    DISCARDED = "discarded"  # a dead letter that an operator has set aside for good


PARKED = (Reason.REJECTED, Reason.PARENT, Reason.CHILDREN)
DEAD_LETTERS = (Reason.REJECTED, Reason.DISCARDED)
# the queue keeps these keys until something else changes, and no follower works on them meanwhile
SET_ASIDE = (*PARKED, Reason.DISCARDED)
