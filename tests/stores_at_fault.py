"""Stores that answer wrongly for chosen keys or items, in front of the real ones."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import unquote, urlsplit

from botocore.config import Config

from sync_pipeline.settings import Bucket
from sync_pipeline.stores.stores import Stores
from tests.chaos.interposer import Answer, Forward, Interposer, Request

Fault = Callable[[Request, Forward], Answer]


class ByKey:
    """A rule for an S3 endpoint: requests for some keys go to their own fault, all others pass."""

    def __init__(self) -> None:
        self.faults: dict[str, Fault] = {}
        self.seen: list[tuple[str, str]] = []

    def __call__(self, request: Request, forward: Forward) -> Answer:
        key = key_of(request)
        self.seen.append((request.method, key))
        fault = self.faults.get(key)
        return fault(request, forward) if fault else forward(request)


def key_of(request: Request) -> str:
    """The key that a request with the bucket in its path is for."""
    path = unquote(request.path.partition("?")[0])
    return path.lstrip("/").partition("/")[2]


class _Impatient(Stores):
    """Whose clients of S3 do not try again by themselves: their pauses are the longest part of a test."""

    def _s3_config(self, bucket: Bucket) -> Config:
        return super()._s3_config(bucket).merge(Config(retries={"max_attempts": 1, "mode": "standard"}))


@contextmanager
def behind(stores: Stores, *, legacy: ByKey | None = None, target: ByKey | None = None) -> Iterator[Stores]:
    """Stores of their own whose buckets lie behind rules."""
    settings, opened = stores.settings, []

    def led(bucket, rule):
        if rule is None:
            return bucket
        interposer = Interposer(urlsplit(bucket.endpoint).port)
        interposer.rule = rule
        opened.append(interposer)
        return replace(bucket, endpoint=f"http://127.0.0.1:{interposer.port}")

    buckets = {
        "legacy_bucket": led(settings.legacy_bucket, legacy),
        "target_bucket": led(settings.target_bucket, target),
    }
    own = _Impatient(replace(settings, **buckets))
    try:
        yield own
    finally:
        own.close()
        for interposer in opened:
            interposer.close()


@contextmanager
def search_behind(stores: Stores, rule: Fault) -> Iterator[Stores]:
    """Stores of their own whose search cluster lies behind a rule."""
    interposer = Interposer(urlsplit(stores.settings.search_url).port)
    interposer.rule = rule
    own = Stores(replace(stores.settings, search_url=f"http://127.0.0.1:{interposer.port}"))
    try:
        yield own
    finally:
        own.close()
        interposer.close()
