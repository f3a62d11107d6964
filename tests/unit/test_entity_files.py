"""Entity files: one that cannot be used is named with its error and line, and the others go on."""

import sys

import dagster as dg
import pytest

from assets.definitions import definitions
from checks.entity_files import KEY, LOADS, entity_files_result
from sync_pipeline.entities.files import load_entities, pick, read_entity_files
from sync_pipeline.errors import DeclarationError, SettingError
from tests.entity_files import entity_file, use_package

COLUMNS = {"id": "bigint"}
TABLES = "(Table('tunes', key=('id',), stamp='updated_at'),)"


def file(name, **options):
    return entity_file(name, "SELECT id FROM tunes", TABLES, COLUMNS, **options)


# the text of a broken file, and what is said of it
BROKEN = {
    "a module that is not there": (
        "import transcodelib\n" + file("reel"),
        "ModuleNotFoundError: No module named 'transcodelib' (reel.py, line 1)",
    ),
    "a module below it that is not there": (
        "from . import _shared\n" + file("reel"),
        "ModuleNotFoundError: No module named 'shared_of_nobody' (_shared.py, line 2)",
    ),
    "a name that is not there": (file("reel", owner="OWNER"), "NameError: name 'OWNER' is not defined (reel.py, line"),
    "a syntax error": ("def adapt(:\n", "SyntaxError: invalid syntax (reel.py, line 1)"),
    "a null byte": ("x = 1\0\n", "SyntaxError: source code string cannot contain null bytes"),
    "bytes that are no text": ("x = '\udcff'\n", "'utf-8' codec can't decode byte 0xff"),
    "an assertion without words": ("assert False\n", "AssertionError: no reason given (reel.py, line 1)"),
    "a script that ends the process": ("import sys\n\nsys.exit('no')\n", "SystemExit: no (reel.py, line 3)"),
    "a declaration that cannot be": (file("reel", partitions="KeyRanges(0)"), "KeyRanges(0): between 1 and 10000"),
    "no entity": ("x = 1\n", "an entity file ends with `entity = Entity(…)`"),
    "an entity of another kind": ("entity = {'name': 'reel'}\n", "an entity file ends with `entity = Entity(…)`"),
    "a wrong type": (file("reel", sinks="RelationalTable('a.b', key=('id',), columns={'id': 'bigint'})"), "TypeError"),
}


@pytest.fixture
def package(monkeypatch, tmp_path):
    def make(**files):
        return use_package(monkeypatch, tmp_path, **{"_shared": "\nimport shared_of_nobody\n"} | files)

    return make


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_named_and_the_others_are_read(package, tmp_path, kind):
    text, said = BROKEN[kind]
    name = package(air=file("air"), tune=file("tune"), reel="")
    (tmp_path / name / "reel.py").write_bytes(text.encode("utf-8", "surrogateescape"))
    found = read_entity_files(name)
    assert sorted(found.entities) == ["air", "tune"]
    assert found.modules == {"air": f"{name}.air", "tune": f"{name}.tune"}
    (fault,) = found.faults
    assert fault.startswith(f"{name}.reel: ")
    assert said in fault
    with pytest.raises(DeclarationError, match=f"{name}.reel"):
        load_entities(name)


def test_a_name_that_two_files_declare_is_neither_ones(package):
    name = package(air=file("air"), tune=file("tune"), copied=file("tune"))
    found = read_entity_files(name)
    assert list(found.entities) == ["air"]
    assert found.broken == {
        f"{name}.copied": f"its entity is called 'tune', as that of {name}.tune",
        f"{name}.tune": f"its entity is called 'tune', as that of {name}.copied",
    }


def test_an_entity_that_refers_to_a_broken_one_waits_and_those_that_refer_to_it(package):
    head = "\nfrom sync_pipeline.sinks.relational import Reference\n"

    def child(name, parent):
        sinks = (
            f"(RelationalTable('catalog.{name}', key=('id',), columns={COLUMNS!r},"
            f" references=(Reference('id', {parent!r}),)),)"
        )
        return file(name, head=head, sinks=sinks)

    name = package(
        air=file("air"), reel="import transcodelib\n", child=child("child", "reel"), leaf=child("leaf", "child")
    )
    found = read_entity_files(name)
    assert list(found.entities) == ["air"]
    assert found.broken[f"{name}.child"] == "entity child refers to 'reel', which is no entity"
    assert found.broken[f"{name}.leaf"] == "entity leaf refers to 'child', which is no entity"


def test_an_entity_that_refers_to_parts_by_an_id_of_their_own_is_refused_and_the_parts_go_on(package):
    columns = {"tune": "bigint", "id": "bigint"}
    part, head = "key=('tune', 'id')", "\nfrom sync_pipeline.sinks.relational import Reference\n"
    track = file(
        "track",
        origin=f"LegacyQuery('SELECT tune, id FROM tracks', {part}, root=('tune',))",
        sinks=f"(RelationalTable('catalog.track', {part}, columns={columns!r}, primary_key=('id',)),)",
    )
    sinks = f"(RelationalTable('catalog.cue', key=('id',), columns={columns!r}, references=(REFERENCE,)),)"
    name = package(
        track=track, cue=file("cue", head=head, sinks=sinks.replace("REFERENCE", "Reference(('tune', 'id'), 'track')"))
    )
    found = read_entity_files(name)
    assert list(found.entities) == ["track"]
    said = found.broken[f"{name}.cue"]
    assert said.startswith("entity cue refers to track by (tune, id), and catalog.track has primary_key (id)")


def test_a_file_that_was_corrected_is_read_again(package, tmp_path):
    name = package(air=file("air"), reel="import transcodelib\n")
    assert read_entity_files(name).broken
    (tmp_path / name / "reel.py").write_text(file("reel"), encoding="utf-8")
    assert sorted(read_entity_files(name).entities) == ["air", "reel"]


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("no_such_package", "SYNC_ENTITIES=no_such_package: ModuleNotFoundError"),
        ("json.decoder", "it is a module; name the package"),
        ("", "SYNC_ENTITIES="),
        (".entities", "SYNC_ENTITIES=.entities"),
    ],
)
def test_a_package_that_is_none_is_named_as_the_setting(named, said):
    with pytest.raises(SettingError) as error:
        read_entity_files(named)
    assert said in str(error.value)


def test_an_unknown_name_is_told_with_the_files_that_may_declare_it(package):
    name = package(air=file("air"), reel="import transcodelib\n")
    found = read_entity_files(name)
    with pytest.raises(SettingError) as error:
        pick(found.entities, ["reel"], found.faults)
    assert str(error.value).startswith("no entity reel; there are air\n")
    assert "transcodelib" in str(error.value)
    only_broken = read_entity_files(package(reel="import transcodelib\n"))
    with pytest.raises(SettingError, match="transcodelib"):
        pick(only_broken.entities, [], only_broken.faults)


@pytest.mark.hazard(138)
def test_the_code_location_loads_without_a_broken_file(package, monkeypatch, tmp_path):
    name = package(air=file("air"), reel="import transcodelib\n")
    made = definitions()
    keys = {spec.key for spec in made.resolve_all_asset_specs()}
    assert dg.AssetKey(["catalog", "air"]) in keys
    assert KEY in keys
    assert dg.AssetCheckKey(KEY, LOADS) in {key for each in made.asset_checks for key in each.check_keys}
    result = entity_files_result(name, ["air"])
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "reel: ModuleNotFoundError: No module named 'transcodelib'" in result.description
    (tmp_path / name / "reel.py").write_text(file("reel"), encoding="utf-8")
    result = entity_files_result(name, ["air"])
    assert (result.passed, result.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert result.description == "reel: reload the code location"
    assert entity_files_result(name, ["air", "reel"]).passed


def test_a_broken_suite_stops_its_own_expectations_alone(package, monkeypatch, tmp_path):
    package(air=file("air"), tune=file("tune"))
    suites = tmp_path / "suites_of_a_test"
    suites.mkdir()
    (suites / "__init__.py").touch()
    (suites / "tune.py").write_text("import transcodelib\n", encoding="utf-8")
    monkeypatch.setenv("SYNC_SUITES", "suites_of_a_test")
    made = definitions()
    checks = {key.to_user_string() for each in made.asset_checks for key in each.check_keys}
    assert {"catalog/air:expectations", "catalog/tune:reconciliation"} <= checks
    assert "catalog/tune:expectations" not in checks
    sys.modules.pop("suites_of_a_test", None)


@pytest.mark.parametrize(
    "setting", ["SYNC_RECONCILE_CRON", "SYNC_SWEEP_CRON", "SYNC_RETENTION_CRON", "SYNC_EXPECTATIONS_CRON"]
)
@pytest.mark.parametrize("cron", ["5 * * *", "every hour", "61 * * * *"])
def test_a_cron_schedule_that_is_none_is_named_as_the_setting(monkeypatch, setting, cron):
    monkeypatch.setenv(setting, cron)
    with pytest.raises(SettingError, match=f"{setting}={cron!r}".replace("*", r"\*") + " is no cron schedule"):
        definitions()
