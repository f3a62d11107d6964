"""What an `HttpEndpoint` says."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args
from urllib.parse import quote, urlsplit

import pyarrow as pa

from sync_pipeline.db.columns import document_columns, json_objects
from sync_pipeline.errors import DeclarationError, SettingError
from sync_pipeline.sinks.named import Named
from sync_pipeline.sinks.sink import select

Method = Literal["PUT", "POST", "PATCH"]
# whether the receiver refuses a revision below the one that it holds
Ordering = Literal["revision", "none"]
_SETTING = re.compile(r"\$([A-Z][A-Z0-9_]*)")
_KEY = "{key}"
_MOST_A_REQUEST = 10_000


def _is_header_value(value: str) -> bool:
    return value.isprintable() and all(ord(character) < 256 for character in value)


@dataclass(frozen=True)
class EndpointDeclaration(Named):
    """What an `HttpEndpoint` says: its fields are explained there."""

    kind: ClassVar[str] = "http"
    url: str
    fields: tuple[str, ...]
    method: Method = "PUT"
    headers: Mapping[str, str] = field(default_factory=dict)
    batch: int = 1
    read_url: str = ""
    ordering: Ordering = "revision"
    json_fields: frozenset[str] = frozenset()
    where: str | None = None
    timeout_seconds: float = 30.0
    connections: int = 8
    ca_file: str = ""
    label: str = ""

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise self._fault(f"method {self.method!r} is one of {', '.join(get_args(Method))}")
        if self.ordering not in get_args(Ordering):
            raise self._fault(f"ordering {self.ordering!r} is one of {', '.join(get_args(Ordering))}")
        if not 1 <= self.batch <= _MOST_A_REQUEST:
            raise self._fault(f"batch={self.batch}: a request holds 1 to {_MOST_A_REQUEST:,} objects")
        if self.batch == 1 and _KEY not in self.url:
            raise self._fault("url names no {key}: say https://host/items/{key}, or send several with batch=100")
        if self.batch > 1 and _KEY in self.url:
            raise self._fault(f"batch={self.batch} sends several objects to one url, which names no {{key}}")
        if self.read_url and _KEY not in self.read_url:
            raise self._fault("read_url names no {key}: say https://host/items/{key}")
        if self.timeout_seconds <= 0 or self.connections < 1:
            raise self._fault("timeout_seconds is above 0, and connections at least 1")
        for name, value in self.headers.items():
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name) or not _is_header_value(value):
                raise self._fault(f"header {name!r} is no header of HTTP")

    def _fault(self, what: str) -> DeclarationError:
        return DeclarationError(f"HttpEndpoint({self.url!r}): {what}")

    def contents(self, adapted: pa.Table) -> pa.Table:
        """What of adapted rows goes into objects. Raises DeclarationError naming a column adapt does not return."""
        select(adapted, list(self.fields), f"HttpEndpoint {self.url}")
        return document_columns(adapted, list(self.fields))

    def texts(self, adapted: pa.Table) -> pa.Array:
        """Each adapted row's object, as JSON text. Raises as `contents` does."""
        return json_objects(self.contents(adapted), self.json_fields)

    def address(self, key: str = "") -> str:
        """Return the URL that an object (key text) is written to. Raises SettingError."""
        return self._filled(self.url, key)

    def read_address(self, key: str) -> str:
        """Return the URL that an object is read from. Raises SettingError."""
        return self._filled(self.read_url, key)

    def filled_headers(self) -> dict[str, str]:
        """Return the headers with the values of their settings. Raises SettingError."""
        filled = {name: self.setting(value).strip() for name, value in self.headers.items()}
        for name, value in filled.items():
            if not _is_header_value(value):
                named = ", ".join(_SETTING.findall(self.headers[name]))
                raise SettingError(f"{named} holds a character that no header of HTTP may have: {name}")
        return filled

    def _filled(self, template: str, key: str) -> str:
        url = self.setting(template)
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            named = ", ".join(_SETTING.findall(template)) or "its url"
            raise SettingError(f"HttpEndpoint({template!r}): {named} must give a URL such as https://host/items/{_KEY}")
        return url.replace(_KEY, quote(key, safe=""))

    def setting(self, template: str) -> str:
        """Return a text with the values of the settings that it names as `$NAME`. Raises SettingError."""
        missing = [name for name in _SETTING.findall(template) if not os.environ.get(name)]
        if missing:
            raise SettingError(f"{missing[0]} is not set, which HttpEndpoint({self.url!r}) names")
        return _SETTING.sub(lambda found: os.environ[found[1]], template)
