"""Where Data Docs are published: a folder, or a prefix of a bucket. Great Expectations is not imported here.

Great Expectations writes to folders only. A bucket is mirrored into a folder, changed there, and what changed
goes back; nothing that another run has published meanwhile is removed.
"""

from __future__ import annotations

import mimetypes
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlsplit

from checks.pages import SITE
from sync_pipeline.errors import SettingError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

HOST, PORT = "127.0.0.1", 3070
_S3 = "s3"
_AT_ONCE = 8

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class DataDocs:
    """The site's home and the address under which people reach it; `keep` newest validations of a suite stay."""

    home: str  # a folder, or s3://bucket/prefix
    url: str
    keep: int = 14
    endpoint: str | None = None  # of the bucket; None for AWS itself

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> DataDocs:
        """Read `SYNC_DATA_DOCS*`. Raises SettingError naming the setting that is wrong."""
        env = os.environ if env is None else env
        home = env.get("SYNC_DATA_DOCS", "").strip() or str(Path(env.get("DAGSTER_HOME") or ".demo") / "data_docs")
        endpoint = env.get("SYNC_DATA_DOCS_S3_ENDPOINT", "").strip() or None
        if "://" in home and (urlsplit(home).scheme != _S3 or not urlsplit(home).netloc):
            raise SettingError(f"SYNC_DATA_DOCS must be a folder or s3://BUCKET/PREFIX, not {home!r}")
        url = env.get("SYNC_DATA_DOCS_URL", "").strip().rstrip("/")
        return cls(home, url or _default_url(home, endpoint), _kept(env), endpoint)

    @property
    def bucket(self) -> str | None:
        """The bucket's name, unless it is a folder."""
        return urlsplit(self.home).netloc if "://" in self.home else None

    def address(self, page: str) -> str:
        """The URL of a page of the site."""
        return f"{self.url}/{quote(page)}"

    @contextmanager
    def opened(self) -> Iterator[Path]:
        """The folder that holds the site, its results and suites; what changed in it is published at the end."""
        if self.bucket is None:
            folder = Path(self.home).absolute()
            folder.mkdir(parents=True, exist_ok=True)
            yield folder
            return
        with tempfile.TemporaryDirectory(prefix="data-docs-") as made, closing(self._client()) as client:
            mirror = _Mirror(client, self.bucket, urlsplit(self.home).path.strip("/"), Path(made))
            before = mirror.pull()
            yield mirror.folder
            mirror.push(before)

    def _client(self) -> S3Client:
        import boto3  # slow to import, and needed by a run that publishes to a bucket alone
        from botocore.config import Config

        config = Config(
            connect_timeout=5,
            read_timeout=30,
            s3={"addressing_style": "path" if self.endpoint else "auto"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        return boto3.Session().client("s3", endpoint_url=self.endpoint, config=config)


@dataclass(frozen=True)
class _Mirror:
    client: S3Client
    bucket: str
    prefix: str
    folder: Path

    def pull(self) -> dict[Path, bytes]:
        """All objects under the prefix as files; what they hold, to tell later what changed."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self._key(""))
        keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
        _side_by_side(self._download, keys)
        return self._files()

    def push(self, before: Mapping[Path, bytes]) -> None:
        """Upload files that are new or differ, then remove those that are gone."""
        after = self._files()
        _side_by_side(self._upload, [item for item in after.items() if before.get(item[0]) != item[1]])
        for name in before.keys() - after.keys():
            self.client.delete_object(Bucket=self.bucket, Key=self._key(name.as_posix()))

    def _download(self, key: str) -> None:
        file = self.folder / key.removeprefix(self._key(""))
        file.parent.mkdir(parents=True, exist_ok=True)
        self.client.download_file(self.bucket, key, str(file))

    def _upload(self, item: tuple[Path, bytes]) -> None:
        name, body = item
        kind = mimetypes.guess_type(name.name)[0] or "application/octet-stream"
        self.client.put_object(Bucket=self.bucket, Key=self._key(name.as_posix()), Body=body, ContentType=kind)

    def _files(self) -> dict[Path, bytes]:
        files = (file for file in self.folder.rglob("*") if file.is_file())
        return {file.relative_to(self.folder): file.read_bytes() for file in files}

    def _key(self, name: str) -> str:
        return f"{self.prefix}/{name}" if self.prefix else name


def _side_by_side(act: Callable[[_Item], None], items: Iterable[_Item]) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(act, items))


def _default_url(home: str, endpoint: str | None) -> str:
    """Where `sync-pipeline docs serve` serves, or the bucket's own address."""
    if "://" not in home:
        return f"http://{HOST}:{PORT}"
    place = urlsplit(home)
    prefix = f"{place.path.strip('/')}/{SITE}".strip("/")
    if endpoint:
        return f"{endpoint.rstrip('/')}/{place.netloc}/{prefix}"
    return f"https://{place.netloc}.s3.amazonaws.com/{prefix}"


def _kept(env: Mapping[str, str]) -> int:
    text = env.get("SYNC_DATA_DOCS_KEEP", "").strip() or "14"
    if not re.fullmatch("0*[1-9][0-9]{0,8}", text):
        raise SettingError(f"SYNC_DATA_DOCS_KEEP must be a whole number above 0, not {text!r}")
    return int(text)
