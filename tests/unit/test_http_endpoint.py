"""What an endpoint may declare, and what its receiver's answers mean."""

import pytest

from sync_pipeline.errors import DeclarationError, SettingError
from sync_pipeline.sinks.http import HttpEndpoint
from sync_pipeline.sinks.http.requests import Verdict, reason_of, verdict_of

URL = "https://catalog.example/items/{key}"


@pytest.mark.parametrize(
    ("declared", "fault"),
    [
        ({"method": "GET"}, "method 'GET' is one of PUT, POST, PATCH"),
        ({"ordering": "some"}, "ordering 'some' is one of revision, none"),
        ({"batch": 0}, "batch=0: a request holds 1 to 10,000 objects"),
        ({"url": "https://catalog.example/items"}, "url names no {key}"),
        ({"batch": 5}, "batch=5 sends several objects to one url, which names no {key}"),
        ({"read_url": "https://catalog.example/items"}, "read_url names no {key}"),
        ({"timeout_seconds": 0}, "timeout_seconds is above 0"),
        ({"connections": 0}, "connections at least 1"),
        ({"headers": {"X Y": "1"}}, "header 'X Y' is no header of HTTP"),
        ({"headers": {"X": "1\r\nY: 2"}}, "header 'X' is no header of HTTP"),
        ({"headers": {"X": "žluťoučký"}}, "header 'X' is no header of HTTP"),
    ],
)
def test_what_cannot_be_is_refused_by_name(declared, fault):
    with pytest.raises(DeclarationError) as error:
        HttpEndpoint(**{"url": URL, "fields": ("title",), **declared})
    assert fault in str(error.value)


def test_a_key_is_quoted_whole():
    assert HttpEndpoint(URL, ("title",)).address("a/b ?") == "https://catalog.example/items/a%2Fb%20%3F"


def test_settings_are_read_where_they_are_named(monkeypatch):
    monkeypatch.setenv("SYNC_CATALOG_URL", "https://catalog.example")
    monkeypatch.setenv("SYNC_CATALOG_TOKEN", "secret")
    headers = {"Authorization": "Bearer $SYNC_CATALOG_TOKEN"}
    endpoint = HttpEndpoint("$SYNC_CATALOG_URL/items/{key}", ("title",), headers=headers)
    assert endpoint.address("7") == "https://catalog.example/items/7"
    assert endpoint.filled_headers() == {"Authorization": "Bearer secret"}
    assert "secret" not in repr(endpoint) + endpoint.place.shown


def test_a_setting_that_is_missing_is_named(monkeypatch):
    monkeypatch.delenv("SYNC_CATALOG_URL", raising=False)
    endpoint = HttpEndpoint("$SYNC_CATALOG_URL/items/{key}", ("title",))
    with pytest.raises(SettingError, match=r"SYNC_CATALOG_URL is not set, which HttpEndpoint\('\$SYNC_CATALOG_URL"):
        endpoint.address("7")


@pytest.mark.parametrize("value", ["catalog.example", "ftp://catalog.example", "https:///x"])
def test_a_setting_that_gives_no_url_is_named(monkeypatch, value):
    monkeypatch.setenv("SYNC_CATALOG_URL", value)
    with pytest.raises(SettingError, match="SYNC_CATALOG_URL must give a URL"):
        HttpEndpoint("$SYNC_CATALOG_URL/items/{key}", ("title",)).address("7")


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (200, Verdict.TAKEN),
        (204, Verdict.TAKEN),
        (409, Verdict.SUPERSEDED),
        (412, Verdict.SUPERSEDED),
        (408, Verdict.LATER),
        (429, Verdict.LATER),
        (500, Verdict.LATER),
        (503, Verdict.LATER),
        (302, Verdict.OURS),
        (401, Verdict.OURS),
        (403, Verdict.OURS),
        (400, Verdict.REFUSED),
        (404, Verdict.REFUSED),
        (413, Verdict.REFUSED),
        (422, Verdict.REFUSED),
    ],
)
def test_what_a_status_means(status, verdict):
    assert verdict_of(status, is_delete=False) is verdict


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_not_there_is_deleted(status):
    assert verdict_of(status, is_delete=True) is Verdict.TAKEN


def test_a_reason_is_read_as_people_know_it():
    assert reason_of(422, "title is empty").endswith(": title is empty")
    assert reason_of(422, "").startswith("422 ")
    assert reason_of(599, "odd") == "599: odd"
