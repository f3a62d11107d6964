"""Mistakes in settings and entity files, and things that are missing around them: `check` names each in a sentence.

The table of docs/howto/check.md lists the same mistakes with the same sentences.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.entity_files import entity_file, use_package

DOCS = Path(__file__).parents[2] / "docs" / "howto" / "check.md"
LEGACY = """
    CREATE TABLE works (id bigint PRIMARY KEY, title text, price numeric, file text, code char(4), born_on text,
        updated_at timestamptz NOT NULL DEFAULT now(), touched_at timestamp, seen_at timestamptz, author_id bigint);
    CREATE TABLE writers (id bigint PRIMARY KEY, name text);
    CREATE TABLE notes (work_id bigint, note text);
    CREATE INDEX ON works (updated_at); CREATE INDEX ON works (touched_at); CREATE INDEX ON works (born_on);
    CREATE MATERIALIZED VIEW shelf AS SELECT id, title, updated_at FROM works; CREATE INDEX ON shelf (updated_at);
    CREATE SCHEMA vault; CREATE TABLE vault.works (id bigint PRIMARY KEY, title text);
    CREATE TABLE hidden (id bigint PRIMARY KEY, title text);
    INSERT INTO works VALUES (1, 'one'); INSERT INTO notes VALUES (1, 'a'), (1, 'b');
    GRANT SELECT ON works, writers, notes, shelf TO sync_reader;
"""
NEW = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.ident (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text);
    CREATE TABLE shop.made (id bigint PRIMARY KEY, title text GENERATED ALWAYS AS ('x') STORED);
    CREATE VIEW shop.seen AS SELECT 1::bigint AS id, 'x'::text AS title;
    CREATE TABLE shop.other (id bigint PRIMARY KEY, title varchar(3));
    CREATE TABLE shop.loose (id bigint, title text);
    CREATE TABLE shop.part (work_id bigint, id text, PRIMARY KEY (work_id, id));
    CREATE TABLE shop.late (id bigint PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, title text);
    CREATE TABLE shop.strict (id bigint PRIMARY KEY, title text, house text NOT NULL);
    GRANT ALL ON SCHEMA shop TO sync_writer; GRANT ALL ON ALL TABLES IN SCHEMA shop TO sync_writer;
"""
QUERY, COLUMNS = "SELECT id, title FROM works", {"id": "bigint", "title": "text"}
TABLES = "(Table('works', key=('id',), stamp='updated_at'),)"


@dataclass(frozen=True)
class Mistake:
    """What is changed of a deployment in which everything is right, and the sentence that names it."""

    sentence: str
    query: str = QUERY
    tables: str = TABLES
    columns: dict = field(default_factory=lambda: COLUMNS)
    options: dict = field(default_factory=dict)  # of tests.entity_files.entity_file
    settings: dict = field(default_factory=dict)
    files: dict = field(default_factory=dict)  # beside or instead of the entity's own


def setting(sentence, **settings):
    return Mistake(sentence, settings=settings)


def option(sentence, **options):
    return Mistake(sentence, options=options)


def table(sentence, tables):
    return Mistake(sentence, tables=tables)


def query(sentence, text, **more):
    return Mistake(sentence, text, **more)


def stamped(column, name="works", **more):
    extra = "".join(f", {key}={value!r}" for key, value in more.items())
    return f"(Table({name!r}, key=('id',), stamp={column!r}{extra}),)"


def index(fields):
    return f"SearchIndex('mistakes', fields={fields!r})"


def parts(sentence, primary_key, query="SELECT work_id, note AS id FROM notes", target="shop.bit", root="('work_id',)"):
    """Notes of works as rows of their own."""
    columns, key = {"work_id": "bigint", "id": "text"}, "('work_id', 'id')"
    table = f"RelationalTable({target!r}, key={key}, columns={columns!r}, primary_key={primary_key!r})"
    return Mistake(
        sentence,
        tables=f"(Table('notes', key=('work_id',){'' if root != '()' else ' * 2'}),)",
        options={"origin": f"LegacyQuery({query!r}, key={key}, root={root})", "sinks": f"({table},)"},
    )


URL = "postgresql://reader:secret@127.0.0.1:5432/monolith"
MISTAKES = {
    # settings
    "a port that is no number": setting(
        "SYNC_LEGACY_DB has the port '54x2': a port is a number from 1 to 65535",
        SYNC_LEGACY_DB=URL.replace("5432", "54x2"),
    ),
    "a port out of range": setting(
        "SYNC_TARGET_DB has the port '99999': a port is a number from 1 to 65535",
        SYNC_TARGET_DB=URL.replace("5432", "99999"),
    ),
    "a password that is not percent-encoded": setting(
        "a sign of user, password or database must be percent-encoded",
        SYNC_LEGACY_DB="postgresql://reader:50%zz@127.0.0.1/monolith",
    ),
    "a database that is none of PostgreSQL": setting(
        "SYNC_LEGACY_DB must read postgresql://USER:PASSWORD@HOST:PORT/DATABASE", SYNC_LEGACY_DB="mysql://a@b/c"
    ),
    "a parameter of a URL that libpq does not know": setting(
        'invalid URI query parameter: "sslmod"', SYNC_TARGET_DB=f"{URL}?sslmod=require"
    ),
    "a name for our sessions": setting(
        "SYNC_LEGACY_DB sets application_name: leave it out", SYNC_LEGACY_DB=f"{URL}?application_name=etl"
    ),
    "a server to write to, for sessions that only read": setting(
        "SYNC_LEGACY_DB sets target_session_attrs=read-write, which no session of ours fulfils: say primary",
        SYNC_LEGACY_DB=f"{URL}?target_session_attrs=read-write",
    ),
    "another encoding": setting(
        "SYNC_LEGACY_DB sets client_encoding: leave it out", SYNC_LEGACY_DB=f"{URL}?client_encoding=latin1"
    ),
    "a setting that is missing": setting("SYNC_SEARCH_URL is not set", SYNC_SEARCH_URL=""),
    "a cluster without a port": setting(
        "SYNC_SEARCH_URL must read https://HOST:PORT or http://HOST:PORT", SYNC_SEARCH_URL="http://search.example"
    ),
    "an endpoint with a wrong port": setting(
        "SYNC_LEGACY_S3_ENDPOINT must be an http or https URL", SYNC_LEGACY_S3_ENDPOINT="http://store.example:90000"
    ),
    "one bucket for both sides": Mistake("SYNC_TARGET_S3_BUCKET is the legacy bucket itself", settings={"same": "1"}),
    "a bucket that is not there": setting("there is no bucket nowhere-at-all", SYNC_TARGET_S3_BUCKET="nowhere-at-all"),
    "a number that is none": setting("SYNC_CHUNK_ROWS must be a whole number, not 'many'", SYNC_CHUNK_ROWS="many"),
    "a time without end": setting("SYNC_POLL_SECONDS must be a number, not 'inf'", SYNC_POLL_SECONDS="inf"),
    "a time that the server does not take": setting(
        "SYNC_PAGE_TIMEOUT_SECONDS is 1e+07: too large", SYNC_PAGE_TIMEOUT_SECONDS="10000000"
    ),
    "a share in percent": setting("SYNC_BRAKE_FRACTION is 20: a share lies between 0 and 1", SYNC_BRAKE_FRACTION="20"),
    "no workers": setting("SYNC_BACKFILL_WORKERS is 0: too small", SYNC_BACKFILL_WORKERS="0"),
    "a package that is not there": setting(
        "SYNC_ENTITIES=no_such_package: ModuleNotFoundError: No module named 'no_such_package'",
        SYNC_ENTITIES="no_such_package",
    ),
    # files
    "an import that fails": option("ModuleNotFoundError: No module named 'transcodelib'", head="import transcodelib\n"),
    "a syntax error": option("SyntaxError", head="def adapt(:\n"),
    "a file without an entity": Mistake("an entity file ends with `entity = Entity(…)`", files={"work": "x = 1\n"}),
    "an argument that there is not": option("unexpected keyword argument 'sink'", sink="()"),
    "a name with capitals": Mistake(
        "a name is lower-case letters, digits and underscores",
        files={"work": entity_file("Work", QUERY, TABLES, COLUMNS)},
    ),
    "two files with one name": Mistake(
        "its entity is called 'work'", files={"again": entity_file("work", QUERY, TABLES, COLUMNS)}
    ),
    "a table without a schema": option("RelationalTable('work'): say schema.table", target="'work'"),
    "a column's name that is too long": Mistake("must have 1 to 63 bytes", columns={**COLUMNS, "x" * 64: "text"}),
    "a key that is no column": option("key column 'code' is not in columns", target_key="('code',)"),
    "two search indices without a label": option(
        "two sinks are named 'search': give one of them a label", more_sinks=f"{index({})}, {index({})}"
    ),
    "a second table that refers to others": option(
        "is not the first table, so it has no references and no primary_key",
        more_sinks="RelationalTable('catalog.second', ('id',), {'id': 'bigint'}, label='second', primary_key=('id',))",
    ),
    "an endpoint without a key in its URL": option(
        "url names no {key}: say https://host/items/{key}",
        head="from sync_pipeline.sinks.http import HttpEndpoint\n",
        more_sinks="HttpEndpoint('https://catalog.example/items', ('title',))",
    ),
    "a month that is none": option(
        "Monthly(start='2015'): a month reads 2015-01", partitions="Monthly('updated_at', start='2015')"
    ),
    "a month's column that is not in the query": option(
        "the query returns no column 'born_at', by which Monthly cuts",
        partitions="Monthly('born_at', start='2015-01')",
    ),
    # the query
    "a query that is no SQL": query("the legacy query fails: syntax error", "SELEC id FROM works"),
    "a query that ends in a semicolon": query('the legacy query fails: syntax error at or near ";"', f"{QUERY};"),
    "a column that is not there": query(
        'the legacy query fails: column "subtitle" does not exist', "SELECT id, subtitle FROM works"
    ),
    "a table that is not there": query('the legacy query fails: relation "work" does not exist', "SELECT 1 FROM work"),
    "one column twice": query(
        "the legacy query returns more than one column 'id'",
        "SELECT w.*, a.* FROM works w JOIN writers a ON a.id = w.author_id",
    ),
    "a query without its key": query("the legacy query returns no key column 'id'", "SELECT title FROM works"),
    "a key that the query gives twice": query(
        "the query gives a key (id) more than once", "SELECT work_id AS id, note AS title FROM notes"
    ),
    "a key that is filled up with spaces": Mistake(
        "key column 'code' is filled up with spaces",
        "SELECT code, title FROM works",
        "(Table('works', key=('code',), stamp='updated_at'),)",
        {"code": "char(4)", "title": "text"},
        {"key": "('code',)"},
    ),
    # tables of the monolith
    "a Table that is not there": table("there is no table work", stamped("updated_at", "work")),
    "a Table's key that is not there": table(
        "the query of Table('works') fails", "(Table('works', key=('work_id',), stamp='updated_at'),)"
    ),
    "a Table's key that is not there, though it has no stamp": table(
        "the query of Table('notes') fails", "(Table('works', key=('id',)), Table('notes', key=('id',)))"
    ),
    "a Table's key with too few columns": table(
        "Table('works').key must give the root's key", "(Table('works', key=(), stamp='updated_at'),)"
    ),
    "a join that does not run": table(
        "the query of Table('writers') fails",
        "(Table('writers', key=('w.id',), join='JOIN works w ON w.writer = writers.id'),)",
    ),
    "a stamp that is not there": table("there is no column moved_at of works", stamped("moved_at")),
    "a stamp of another type": table(
        "a stamp is a timestamp, or a whole number drawn from a sequence", stamped("born_on")
    ),
    "a stamp without a time zone": table("nobody can say which instant it means", stamped("touched_at")),
    "a zone for a stamp that has one": table("has a time zone of its own", stamped("updated_at", zone="Europe/Berlin")),
    "a stamp that is a number of no sequence": table(
        "nobody can say from which sequence it is drawn", stamped("author_id")
    ),
    "a stamp without an index": table(
        "works.seen_at has no index: every poll would read the whole table", stamped("seen_at")
    ),
    "a stamp of a materialized view": Mistake(
        "shelf is a materialized view", "SELECT id, title FROM shelf", stamped("updated_at", "shelf")
    ),
    "a table that we may not read": Mistake(
        "sync_reader may not read hidden", "SELECT id, title FROM hidden", "(Table('hidden', key=('id',)),)"
    ),
    "a schema that we may not look into": Mistake(
        "sync_reader may not read schema vault, vault.works",
        "SELECT id, title FROM vault.works",
        "(Table('vault.works', key=('id',)),)",
    ),
    "an outbox that is not installed": option("there is no table outbox for its events", capture="Outbox()"),
    "a log that is not published": option("there is no publication sync_work", capture="Wal()"),
    # adapter and sinks
    "an adapter that fails": option("adapt fails on an empty frame", adapt="lambda legacy: legacy['no_such_column']"),
    "a column that adapt does not return": Mistake(
        "adapt returns no column 'subtitle', which table catalog.work declares", columns={**COLUMNS, "subtitle": "text"}
    ),
    "a field that adapt does not return": option(
        "adapt returns no column 'body'", more_sinks=index({"body": {"type": "text"}})
    ),
    "a file that adapt does not return": option(
        "adapt returns no column 'cover', which MediaBucket names",
        more_sinks="MediaBucket(columns=('cover',), prefix='work')",
    ),
    "a type that there is not": Mistake(
        'type "money_of_ours" does not exist', columns={**COLUMNS, "title": "money_of_ours"}
    ),
    "a mapping that there is not": option("could not be made", more_sinks=index({"id": {"type": "longer"}})),
    "a key that the database makes itself, declared": Mistake(
        "catalog.work.id is GENERATED ALWAYS AS IDENTITY: it takes no value of ours",
        columns={"id": "bigint GENERATED ALWAYS AS IDENTITY", "title": "text"},
    ),
    "a key that the database makes itself": option(
        "shop.ident.id is GENERATED ALWAYS AS IDENTITY: it takes no value of ours", target="'shop.ident'"
    ),
    "a column that the database makes itself": option(
        "shop.made.title is a generated column: it takes no value of ours", target="'shop.made'"
    ),
    "a view to write to": option("shop.seen is a view: rows are written to a table", target="'shop.seen'"),
    "a column of another type": option(
        "shop.other.title is character varying(3), declared is text", target="'shop.other'"
    ),
    "a table without a key": option("shop.loose has no unique index on its key (id)", target="'shop.loose'"),
    "a key that is looked at only at the end": option(
        "shop.late has no unique index on its key (id)", target="'shop.late'"
    ),
    "a primary_key that is not in the key": parts(
        "RelationalTable('shop.bit'): primary_key names 'note', which is not in its key (work_id, id)", ("note",)
    ),
    "a primary_key of rows that are no parts": parts(
        "shop.bit has primary_key (id), which is for parts only: name the legacy row in LegacyQuery(root=…)",
        ("id",),
        root="()",
    ),
    "a primary_key by which all parts of a root are one": parts(
        "shop.bit has primary_key (work_id), by which the parts of one root are all the same row", ("work_id",)
    ),
    "a primary_key without a unique index": parts(
        "shop.part has no unique index on exactly its primary_key (id)", ("id",), target="shop.part"
    ),
    "a primary_key that several rows have": parts(
        "the query gives several rows with one primary_key of shop.bit (id), for example a; b",
        ("id",),
        "SELECT work_id + n AS work_id, note AS id FROM notes, generate_series(0, 1) n",
    ),
    "a column that nobody fills": option(
        "shop.strict.house must be given a value, and is not declared", target="'shop.strict'"
    ),
}


@pytest.fixture(scope="module")
def works(world):
    world.legacy(LEGACY)
    world.target(NEW)
    return world


def test_a_deployment_without_mistakes_is_ok(works, command, monkeypatch, tmp_path):
    use_package(monkeypatch, tmp_path, work=entity_file("work", QUERY, TABLES, COLUMNS))
    code, out, said = command("check")
    assert (code, said) == (0, ""), out
    assert "works: by updated_at; rows that are deleted are found by the sweep" in out


@pytest.mark.hazard(139)
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_before_anything_runs(works, command, monkeypatch, tmp_path, name):
    mistake = MISTAKES[name]
    own = entity_file("work", mistake.query, mistake.tables, mistake.columns, **mistake.options)
    use_package(monkeypatch, tmp_path, **({"work": own} | mistake.files))
    for key, value in mistake.settings.items():
        monkeypatch.setenv(key, value)
    if "same" in mistake.settings:
        monkeypatch.setenv("SYNC_TARGET_S3_BUCKET", works.legacy_bucket)
    code, out, said = command("check")
    printed = " ".join(f"{out} {said}".split())
    assert code == 2, printed
    assert mistake.sentence in printed
    assert "Traceback" not in printed


def test_the_docs_list_every_mistake_with_its_sentence():
    lines = re.findall(r"^\| (.+?) \| `(.+)` \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert dict(lines) == {name: mistake.sentence.replace("|", "\\|") for name, mistake in MISTAKES.items()}
    assert len(lines) == len(MISTAKES) >= 40
