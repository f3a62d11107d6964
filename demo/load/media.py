"""Makes the legacy bucket's files and the rows that name them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from random import Random
from typing import TYPE_CHECKING

from demo.load.copying import Value

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MEDIA_COLUMNS = ("content_id", "kind", "bucket_key", "mime", "size", "created_at", "updated_at")

_STEMS = ("обложка", "cover", "שער", "заставка № 1 (final)", "🎬 take", "a+b=c & d", "нeу́дачная", "café", "100%")
_FORMS = {
    "cover": (("jpg", "image/jpeg"), ("png", "image/png"), ("webp", "image/webp")),
    "source": (("mp4", "video/mp4"), ("mp3", "audio/mpeg"), ("pdf", "application/pdf")),
    "subtitle": (("vtt", "text/vtt; charset=utf-8"), ("srt", "application/x-subrip")),
}
_MIB = 1024 * 1024
_LARGE_FILES = 3
_THREADS = 12


@dataclass(frozen=True)
class MediaFile:
    """One object of the legacy bucket."""

    content_id: int
    kind: str
    key: str
    mime: str
    size: int
    seed: int

    def body(self) -> bytes:
        """Its bytes: the same each time."""
        return Random(self.seed).randbytes(self.size)

    def row(self, at: datetime) -> tuple[Value, ...]:
        """The row of `media_files`, in the order of MEDIA_COLUMNS."""
        return self.content_id, self.kind, self.key, self.mime, self.size, str(at), str(at)


def make_file(rng: Random, content_id: int, kind: str, size: int) -> MediaFile:
    """A file with a key that nobody else has."""
    suffix, mime = rng.choice(_FORMS[kind])
    seed = rng.getrandbits(48)
    key = f"media/{rng.randrange(2019, 2027)}/{rng.choice(_STEMS)}-{content_id}-{seed:012x}.{suffix}"
    return MediaFile(content_id, kind, key, mime, size, seed)


def small_size(rng: Random) -> int:
    """What most files have."""
    return rng.randrange(1_000, 60_000)


def plan_files(rng: Random, content_ids: range, count: int) -> Iterator[MediaFile]:
    """`count` files for random contents: one cover at most for each, a few above the multipart threshold."""
    covered: set[int] = set()
    large = min(_LARGE_FILES, count // 100)
    for number in range(count):
        content_id = rng.choice(content_ids)
        cover = content_id not in covered and rng.random() < 0.6
        if cover:
            covered.add(content_id)
        size = rng.randrange(9 * _MIB, 12 * _MIB) if number < large else small_size(rng)
        yield make_file(rng, content_id, "cover" if cover else rng.choice(("source", "source", "subtitle")), size)


def upload(client: S3Client, bucket: str, file: MediaFile) -> None:
    """Put one file."""
    client.put_object(Bucket=bucket, Key=file.key, Body=file.body(), ContentType=file.mime)


def upload_chunks(client: S3Client, bucket: str, files: Iterator[MediaFile], size: int) -> Iterator[list[MediaFile]]:
    """Upload side by side; yields the files of each chunk once all of them are in the bucket."""
    with ThreadPoolExecutor(_THREADS) as pool:
        while chunk := list(islice(files, size)):
            list(pool.map(lambda file: upload(client, bucket, file), chunk))
            yield chunk


def media_rows(rng: Random, files: list[MediaFile], now: datetime) -> Iterator[tuple[Value, ...]]:
    """Rows for files that came over the last two years."""
    return (file.row(now - timedelta(seconds=rng.randrange(3_600, 60_000_000))) for file in files)
