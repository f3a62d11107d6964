"""The advice of `check`: statements that run as they are, that end the notice, and that break nothing else."""

import json
from urllib.parse import quote

import pytest

from sync_pipeline.sources.table import plain
from tests.entity_files import entity_file, use_package

LEGACY = """
    DROP SCHEMA IF EXISTS "Role Remedy" CASCADE; CREATE SCHEMA "Role Remedy";
    CREATE TABLE "Role Remedy".base (id bigint PRIMARY KEY, title text, updated_at timestamptz DEFAULT now());
    CREATE TABLE "Role Remedy"."More %%" (id bigint PRIMARY KEY, note text);
    CREATE VIEW "Role Remedy".seen AS SELECT * FROM "Role Remedy"."More %%";
    CREATE INDEX ON "Role Remedy".base (updated_at);
    INSERT INTO "Role Remedy".base VALUES (1, 'one');
"""
QUERY = 'SELECT b.id, b.title FROM "Role Remedy".base b LEFT JOIN "Role Remedy".seen USING (id)'
TABLES = """(Table('"Role Remedy".base', key=('id',), stamp='updated_at'),)"""
COLUMNS = {"id": "bigint", "title": "text"}
ROLE, PASSWORD = "sync-reader@proj.iam", "p@s:s/w%rd?#&+"


@pytest.fixture(autouse=True)
def base(world):
    world.legacy(LEGACY)


def findings(command, *words):
    code, out, said = command("check", *words, "--format", "json")
    assert said == ""
    return code, [found for found in json.loads(out)["findings"] if found["level"] != "ok"]


def carry_out(world, found):
    for remedy in dict.fromkeys(each["remedy"] for each in found if each["remedy"]):
        world.legacy(remedy.replace("%", "%%"))


@pytest.fixture
def odd_role(world, monkeypatch):
    name = f'"{ROLE}"'
    world.legacy(f"DROP ROLE IF EXISTS {name}")
    world.legacy(f"CREATE ROLE {name} LOGIN PASSWORD %s", [PASSWORD])
    host = world.monolith.reader_url.rpartition("@")[2]
    monkeypatch.setenv("SYNC_LEGACY_DB", f"postgresql://{quote(ROLE, safe='')}:{quote(PASSWORD, safe='')}@{host}")
    yield
    world.legacy(f"DROP OWNED BY {name}; DROP ROLE {name}")


def test_missing_rights_are_one_statement_with_quoted_names(world, command, monkeypatch, tmp_path, odd_role):
    use_package(monkeypatch, tmp_path, advised=entity_file("advised", QUERY, TABLES, COLUMNS))
    code, found = findings(command, "advised")
    assert code == 2
    grants = [each["remedy"] for each in found if "may not read" in each["what"]]
    assert len(grants) == 1
    assert grants[0].count(f'TO "{ROLE}";') == 2
    assert [remedy for remedy in (each["remedy"] for each in found) if "GRANT SELECT" in remedy] == grants
    carry_out(world, found)
    code, found = findings(command, "advised")
    for _ in range(2):  # what a schema hid shows once it is open
        carry_out(world, found)
        code, found = findings(command, "advised")
    assert (code, found) == (0, [])


def test_what_a_view_reads_by_its_owners_right_is_not_asked_for(world, command, monkeypatch, tmp_path):
    world.legacy('GRANT USAGE ON SCHEMA "Role Remedy" TO sync_reader')
    use_package(monkeypatch, tmp_path, advised=entity_file("advised", QUERY, TABLES, COLUMNS))
    _, found = findings(command, "advised")
    (grant,) = [each["remedy"] for each in found if "GRANT" in each["remedy"]]
    assert grant == 'GRANT SELECT ON "Role Remedy".base, "Role Remedy".seen TO sync_reader;'
    carry_out(world, found)
    assert findings(command, "advised") == (0, [])


def test_nothing_is_said_twice(world, command, monkeypatch, tmp_path):
    two = {name: entity_file(name, QUERY, TABLES, COLUMNS) for name in ("first", "second")}
    use_package(monkeypatch, tmp_path, **two)
    _, found = findings(command)
    remedies = [each["remedy"] for each in found if each["remedy"]]
    assert len(remedies) == len(set(remedies))


# how our role may write, what ends that, and whether it is a warning at all
EXCESS = {
    "itself": ("GRANT INSERT ON {0} TO sync_reader", "REVOKE INSERT ON {0} FROM sync_reader", True),
    "a column": ("GRANT UPDATE (title) ON {0} TO sync_reader", "REVOKE UPDATE ON {0} FROM sync_reader", True),
    "a role": (
        "CREATE ROLE desk; GRANT DELETE ON {0} TO desk; GRANT desk TO sync_reader",
        "DROP OWNED BY desk; DROP ROLE desk",
        True,
    ),
    "everybody": ("GRANT INSERT ON {0} TO PUBLIC", "REVOKE INSERT ON {0} FROM PUBLIC", False),
    "a schema": (
        "GRANT CREATE ON SCHEMA public TO sync_reader",
        "REVOKE CREATE ON SCHEMA public FROM sync_reader",
        True,
    ),
    "all tables": ("GRANT pg_write_all_data TO sync_reader", "REVOKE pg_write_all_data FROM sync_reader", True),
}


@pytest.mark.parametrize("by", EXCESS)
def test_a_warning_of_rights_is_cleared_by_its_remedy(world, command, monkeypatch, tmp_path, by):
    world.legacy(
        'GRANT USAGE ON SCHEMA "Role Remedy" TO sync_reader;'
        'GRANT SELECT ON ALL TABLES IN SCHEMA "Role Remedy" TO sync_reader'
    )
    plant, undo, warns = (part.format('"Role Remedy".base') if isinstance(part, str) else part for part in EXCESS[by])
    use_package(monkeypatch, tmp_path, advised=entity_file("advised", QUERY, TABLES, COLUMNS))
    assert findings(command, "advised") == (0, [])
    world.legacy(plant)
    try:
        code, found = findings(command, "advised")
        assert (code, bool(found)) == (0, warns)
        carry_out(world, found)
        assert findings(command, "advised") == (0, [])
    finally:
        world.legacy(undo)


def test_the_outbox_of_an_entity_is_not_to_be_revoked(world, command, monkeypatch, tmp_path):
    world.legacy(
        'GRANT USAGE ON SCHEMA "Role Remedy" TO sync_reader;'
        'GRANT SELECT ON ALL TABLES IN SCHEMA "Role Remedy" TO sync_reader'
    )
    monkeypatch.setenv("SYNC_LEGACY_OWNER_DB", world.monolith.admin_url)
    files = {
        "noted": entity_file("noted", QUERY, TABLES, COLUMNS, capture="Outbox()"),
        "plain": entity_file("plain", QUERY, TABLES, COLUMNS),
    }
    use_package(monkeypatch, tmp_path, **files)
    assert command("outbox", "install", "noted", "--apply")[0] == 0
    try:
        for words in (["noted"], ["plain"], []):
            assert findings(command, *words) == (0, []), words
        assert command("backfill", "noted")[0] == 0
        world.legacy("""UPDATE "Role Remedy".base SET title = 'two' WHERE id = 1""")
        assert command("sync", "noted")[0] == 0
        assert world.target("SELECT title FROM catalog.noted") == [("two",)]
    finally:
        assert command("outbox", "uninstall", "noted", "--apply")[0] == 0


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("Änderung", "Änderung"),
        ("UPDATED_AT", "updated_at"),
        ('"Änderung"', "Änderung"),
        ("ÄNDERUNG", "Änderung"),
        ("x" * 70, "x" * 63),
        ("ä" * 40, "ä" * 31),
        ("İx", "İx"),
        ("ẞX", "ẞx"),
    ],
)
def test_names_are_folded_as_the_server_does(world, written, kept):
    name = plain(written)
    assert name == kept
    world.legacy("DROP TABLE IF EXISTS folded")
    world.legacy(f"CREATE TABLE folded ({written} int)")
    found = world.legacy("SELECT attname FROM pg_attribute WHERE attrelid = 'folded'::regclass AND attnum = 1")
    assert found == [(name,)]


def test_a_table_and_a_stamp_in_capitals_that_are_no_ascii(world, command, monkeypatch, tmp_path):
    world.legacy(
        "DROP TABLE IF EXISTS Übersicht; CREATE TABLE Übersicht (id bigint PRIMARY KEY, title text,"
        " Änderung timestamptz NOT NULL DEFAULT now()); CREATE INDEX ON Übersicht (Änderung);"
        "INSERT INTO Übersicht VALUES (1, 'eins'); GRANT SELECT ON Übersicht TO sync_reader"
    )
    tables = "(Table('Übersicht', key=('id',), stamp='Änderung'),)"
    use_package(monkeypatch, tmp_path, fold=entity_file("fold", "SELECT id, title FROM Übersicht", tables, COLUMNS))
    assert findings(command, "fold") == (0, [])
    assert command("backfill", "fold")[0] == 0
    assert command("sync", "fold")[0] == 0


@pytest.mark.parametrize("field", ["meta.lang", "meta.more.lang"])
def test_a_field_with_a_dot_is_compared_as_the_cluster_keeps_it(world, command, monkeypatch, tmp_path, field):
    world.legacy(
        'GRANT USAGE ON SCHEMA "Role Remedy" TO sync_reader;'
        'GRANT SELECT ON ALL TABLES IN SCHEMA "Role Remedy" TO sync_reader'
    )
    alias = f"dotty-{field.count('.')}"
    name = f"dotty_{field.count('.')}"
    fields = {"id": {"type": "long"}, field: {"type": "keyword"}}
    options = {
        "adapt": f"lambda legacy: {{'id': legacy['id'], 'title': legacy['title'], {field!r}: legacy['title']}}",
        "more_sinks": f"SearchIndex({alias!r}, fields={fields!r})",
    }
    use_package(monkeypatch, tmp_path, dotty=entity_file(name, QUERY, TABLES, COLUMNS, **options))
    assert findings(command, name) == (0, [])
    assert command("backfill", name)[0] == 0
    assert command("reconcile", name)[0] == 0
    assert findings(command, name) == (0, [])
    use_package(
        monkeypatch, tmp_path, dotty=entity_file(name, QUERY, TABLES, COLUMNS, **options).replace("keyword", "text")
    )
    code, found = findings(command, name)
    assert (code, f"field {field} is" in found[0]["what"]) == (2, True)


def test_a_name_that_makes_data_streams_is_refused(world, command, monkeypatch, tmp_path):
    template = {"index_patterns": ["streamed*"], "data_stream": {}, "priority": 500}
    world.document("PUT", "_index_template/media-streams", template)
    fault = "index streamed-000001 cannot be made: template media-streams makes data streams of such names"
    remedy = "narrow the index_patterns of _index_template/media-streams, or give the entity another alias"
    head = "from sync_pipeline.sinks.media_bucket import MediaBucket"
    index = "SearchIndex('streamed', fields={'id': {'type': 'long'}})"
    options = {"head": head, "more_sinks": f"{index}, MediaBucket(columns=('title',), prefix='streamed')"}
    use_package(monkeypatch, tmp_path, s=entity_file("streamed", QUERY, TABLES, COLUMNS, **options))
    carry_out(world, [each for each in findings(command, "streamed")[1] if each["remedy"].startswith("GRANT")])
    try:
        code, found = findings(command, "streamed")
        assert code == 2
        assert any((each["what"], each["remedy"]) == (fault, remedy) for each in found)
        code, out, said = command("backfill", "streamed")
        assert code == 2
        assert f"entity streamed: {fault}: {remedy}" in " ".join((out + said).split())
    finally:
        world.document("DELETE", "_index_template/media-streams")
    # the refused start leaves nothing behind that the next `check` would take for a missing right
    assert findings(command, "streamed")[1] == []
