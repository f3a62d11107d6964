"""Logs: facts in fields, one line each."""

import json
import logging

import pytest

from sync_pipeline.errors import SettingError
from sync_pipeline.operate import logs


@pytest.fixture(autouse=True)
def _as_before():
    log = logging.getLogger("sync_pipeline")
    before = log.handlers, log.propagate, log.level
    yield
    log.handlers, log.propagate = before[:2]
    log.setLevel(before[2])


def test_facts_are_fields_of_a_json_line(capsys):
    logs.configure({"SYNC_LOG": "json", "SYNC_LOG_LEVEL": "info"})
    logging.getLogger("sync_pipeline.run.live").info("batch applied", extra={"entity": "фильм", "rows": 7})
    line = json.loads(capsys.readouterr().err)
    assert line.pop("at").endswith("+00:00")
    assert line == {"level": "info", "message": "batch applied", "entity": "фильм", "rows": 7}


def test_facts_follow_the_message_of_a_text_line(capsys):
    logs.configure({})
    log = logging.getLogger("sync_pipeline.run.live")
    log.info("batch applied", extra={"rows": 7})
    log.warning("store unreachable", extra={"entity": "text", "error": "SYNC_SEARCH_URL"})
    said = capsys.readouterr().err
    assert said.endswith(" warning store unreachable entity=text error=SYNC_SEARCH_URL\n")
    assert said.count("\n") == 1


@pytest.mark.parametrize("env", [{"SYNC_LOG": "xml"}, {"SYNC_LOG_LEVEL": "loud"}])
def test_a_wrong_setting_is_named(env):
    with pytest.raises(SettingError, match=next(iter(env))):
        logs.configure(env)
