"""Names of sessions: PostgreSQL keeps 63 bytes of them, and two entities never share one."""

import itertools

from sync_pipeline.stores.sessions import name_of_entity, name_of_session


def test_a_name_fits_whatever_entity_and_epoch_are():
    name = name_of_session("0123abcd", "a" * 41, 9_999_999_999)
    assert len(name.encode()) <= 63
    assert name.startswith("sync-pipeline/0123abcd/")
    assert name.endswith("/9999999999")


def test_what_is_not_known_is_left_out():
    assert name_of_session(None) == "sync-pipeline/-"
    assert name_of_session("0123abcd", "text") == "sync-pipeline/0123abcd/text"
    assert name_of_session("0123abcd", "text", 3) == "sync-pipeline/0123abcd/text/3"


def test_long_entities_of_one_beginning_are_told_apart():
    names = ["a" * 29, "a" * 30, "a" * 31, "a" * 40 + "b"]
    for one, other in itertools.combinations(names, 2):
        assert name_of_entity(one) != name_of_entity(other)
