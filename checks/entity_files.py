"""Whether each entity file and suite can be used, as a check: a broken one stops its own entity, and is named here."""

from __future__ import annotations

from collections.abc import Collection

import dagster as dg

from sync_pipeline.entities.files import read_entity_files
from sync_pipeline.errors import SettingError

KEY = dg.AssetKey("entity_files")
LOADS = "loads"


def entity_files_asset(package: str) -> dg.AssetSpec:
    """The package of entity files, as an asset that only its check looks at."""
    return dg.AssetSpec(KEY, group_name="deployment", description=f"The entity files of {package} and their suites.")


def entity_files_check(package: str, loaded: Collection[str], suites: Collection[str] = ()) -> dg.AssetChecksDefinition:
    """The check of the package; `loaded` are the entities of this code location, `suites` faults of their suites."""

    @dg.asset_check(asset=KEY, name=LOADS, description="Each entity file and each suite can be used.")
    def loads() -> dg.AssetCheckResult:
        return entity_files_result(package, loaded, suites)

    return loads


def entity_files_result(package: str, loaded: Collection[str], suites: Collection[str] = ()) -> dg.AssetCheckResult:
    """Read the files as they are now, and compare them with those that this code location was made from."""
    try:
        files = read_entity_files(package)
    except SettingError as error:
        return _result([str(error)], dg.AssetCheckSeverity.ERROR)
    if faults := [*files.faults, *suites]:
        return _result(faults, dg.AssetCheckSeverity.ERROR)
    if changed := sorted(files.entities.keys() ^ {*loaded}):
        return _result([f"{', '.join(changed)}: reload the code location"], dg.AssetCheckSeverity.WARN)
    return dg.AssetCheckResult(
        passed=True, asset_key=KEY, check_name=LOADS, description=f"{len(files.entities)} entity files are used"
    )


def _result(faults: list[str], severity: dg.AssetCheckSeverity) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=False,
        asset_key=KEY,
        check_name=LOADS,
        severity=severity,
        description="; ".join(faults),
        metadata={"faults": dg.MetadataValue.md("\n".join(f"- {fault}" for fault in faults))},
    )
