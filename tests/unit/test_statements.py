"""SQL files beside modules: their statements are found by name, without comments."""

import pytest

from sync_pipeline.db.statements import statements


@pytest.fixture
def module(monkeypatch, tmp_path):
    """Returns a function that makes a package with an SQL file, and gives the name of the module beside it."""

    def make(text):
        package = tmp_path / "somewhere"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "rows.sql").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(__import__("sys").modules, "somewhere", raising=False)
        return "somewhere.rows"

    return make


def test_statements_are_found_by_name_without_comments(module):
    text = """-- All of it.

-- name: one
-- What it does, in 100 %.
SELECT 1;

-- name: two
SELECT '-- a',
  2
"""
    assert dict(statements(module(text))) == {"one": "SELECT 1", "two": "SELECT '-- a',\n  2"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT 1;\n-- name: one\nSELECT 2", "before the first line"),
        ("-- name: one\nSELECT 1;\n-- name: one\nSELECT 2", "'one' comes twice"),
    ],
)
def test_a_file_that_cannot_be_read_so_is_refused(module, text, message):
    with pytest.raises(ValueError, match=message):
        statements(module(text))


def test_a_module_without_a_file_is_refused():
    with pytest.raises(FileNotFoundError):
        statements("sync_pipeline.ledger.nothing")
