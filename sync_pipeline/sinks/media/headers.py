"""What an object bears beside its bytes, in the form in which any S3 takes it and gives it back."""

from __future__ import annotations

import datetime as dt
import re
from email.utils import format_datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

from sync_pipeline.model.faults import guarded

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef, HeadObjectOutputTypeDef

    # how a store tells of an object, with its bytes or without
    Answer = GetObjectOutputTypeDef | HeadObjectOutputTypeDef

HEADERS = ("ContentType", "CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "Expires")
# what a copy goes without: the new bucket's own settings decide, or the legacy keys in them would lead nowhere
NOT_CARRIED = (
    "storage class",
    "website redirect",
    "ACL",
    "encryption",
    "object lock and legal hold",
    "replication status",
    "versions before the newest",
)
# what S3 gives to an object that was put without one
_DEFAULT_TYPE = "binary/octet-stream"
# caches take an Expires that is no date as one that is over (RFC 9111)
_OVER = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
# how a request is framed, and no property of an object; some stores keep it all the same
_FRAMING = "aws-chunked"
_FILE_NAME = re.compile(r'filename\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*)', re.IGNORECASE)
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))


def etag_of(found: Answer) -> str | None:
    """An object's ETag as its store made it: gateways that compress mark it as weak, and change nothing else."""
    etag = found.get("ETag")
    return str(etag).removeprefix("W/") if etag else None


def headers_of(found: Answer) -> dict[str, str]:
    """The headers that a copy is put with, and that are compared."""
    if not guarded(134):
        return {}
    borne = dict(found)
    headers = {name: str(borne[name]) for name in HEADERS if borne.get(name) is not None and name != "Expires"}
    headers["ContentType"] = headers.get("ContentType") or _DEFAULT_TYPE
    if "Expires" in found or "ExpiresString" in found:
        headers["Expires"] = _http_date(found.get("Expires"))
    if "ContentEncoding" in headers:
        parts = [part.strip() for part in headers.pop("ContentEncoding").split(",")]
        if kept := ",".join(part for part in parts if part and part != _FRAMING):
            headers["ContentEncoding"] = kept
    if "ContentDisposition" in headers:
        headers["ContentDisposition"] = _portable(headers["ContentDisposition"])
    return headers


def metadata_of(found: Answer) -> dict[str, str]:
    """An object's own metadata: HTTP knows its names in any case, and S3 keeps them in small letters."""
    return {name.lower(): value.strip() for name, value in found.get("Metadata", {}).items()}


def _http_date(expires: object) -> str:
    instant = expires if isinstance(expires, dt.datetime) else _OVER
    return format_datetime(instant.astimezone(dt.UTC), usegmt=True)


def _portable(disposition: str) -> str:
    """A Content-Disposition in ASCII (RFC 6266): no S3 signs a request that has other bytes in a header."""
    if disposition.isascii():
        return disposition
    text = _FILE_NAME.sub(_extended, _decoded(disposition), count=1)
    return quote(text, safe=_PRINTABLE)


def _extended(found: re.Match[str]) -> str:
    name = found[1].strip().strip('"')
    plain = name.encode("ascii", "replace").decode().replace("?", "_")
    return f"filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


def _decoded(header: str) -> str:
    """A header's bytes are read as Latin-1; browsers send UTF-8."""
    try:
        return header.encode("latin-1").decode()
    except ValueError:
        return header
