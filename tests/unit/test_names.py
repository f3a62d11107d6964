"""Names as they are written in SQL, and keys whose parts do not all stand in the row."""

import pytest

from sync_pipeline.db.keys import Key
from sync_pipeline.errors import DeclarationError
from sync_pipeline.sources.outbox import channel
from sync_pipeline.sources.table import Literal, Table, plain


@pytest.mark.parametrize(
    ("written", "known"),
    [("id", "id"), ("ID", "id"), ('"Id"', "Id"), ('c."Id"', "Id"), ('a."b.c"', "b.c"), ('"a""b"', 'a"b')],
)
def test_a_name_is_known_as_the_catalogue_has_it(written, known):
    assert plain(written) == known


def test_what_is_no_name_is_said():
    with pytest.raises(DeclarationError, match="no name"):
        plain("content.")


def test_columns_are_qualified_once():
    table = Table('legacy."Film"', key=(Literal("it's"), '"Id"', '"a.b"', 'p."x.y"'))
    roots = table.roots(("text", "bigint", "text", "text"))
    assert roots == ["'it''s'::text", 'legacy."Film"."Id"', 'legacy."Film"."a.b"', 'p."x.y"']


def test_a_backslash_is_itself():
    assert Literal("a\\b").sql("text") == "E'a\\\\b'::text"


def test_a_channel_is_no_longer_than_the_monolith_takes():
    assert len(channel("schema_of_sixty_letters." + "x" * 60)) == 63


@pytest.mark.hazard(46)
def test_keys_of_text_are_compared_by_byte_under_any_locale():
    key = Key(("no", "name"), ("bigint", "character varying(20)"))
    assert key.ordered("q") == 'q."no", q."name" COLLATE "C"'
    assert key.ddl() == '"no" bigint NOT NULL, "name" text COLLATE "C" NOT NULL'


def test_keys_of_several_columns_are_texts_in_a_list():
    key = Key(("kind", "id"), ("text", "bigint"))
    assert key.texts(key.parse(['["a\\tb", 7]'])).to_pylist() == ['["a\\tb","7"]']
