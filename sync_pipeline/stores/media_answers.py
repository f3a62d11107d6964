"""What the buckets have answered lately, kept for all threads of a process."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass
class MediaAnswers:
    """Facts about both buckets that outlive a request."""

    good: dict[str, str] = field(default_factory=dict)  # by side, a key that has answered
    probed: dict[str, tuple[float, bool]] = field(default_factory=dict)  # by side, when and whether the probe passed
    bucket_seen: float = float("-inf")  # when the legacy bucket was seen to be there
    checksums: bool = False  # the new bucket demands one of each part
    lock: threading.Lock = field(default_factory=threading.Lock)
