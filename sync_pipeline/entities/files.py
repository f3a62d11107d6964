"""Entity files: a package with one entity in each module, read so that one broken file stops no other entity."""

from __future__ import annotations

import importlib
import pkgutil
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sync_pipeline.entities.places import conflicts
from sync_pipeline.entity import Entity
from sync_pipeline.errors import DeclarationError, SettingError


@dataclass(frozen=True)
class EntityFiles:
    """The entity files of a package: what they declare, and why some cannot be used.

    `modules` names the module of each entity, `broken` gives the error of each module that declares none.
    """

    entities: dict[str, Entity]
    modules: dict[str, str]
    broken: dict[str, str]

    @property
    def faults(self) -> list[str]:
        """A sentence for each broken file."""
        return [f"{module}: {reason}" for module, reason in sorted(self.broken.items())]


def load_entities(package: str) -> dict[str, Entity]:
    """Every `entity` in the modules of `package`, by name.

    Raises SettingError when there is no such package, DeclarationError naming the files at fault.
    """
    files = read_entity_files(package)
    if files.broken:
        raise DeclarationError("\n".join(files.faults))
    return files.entities


def read_entity_files(package: str) -> EntityFiles:
    """The entities of all files that can be used, and the errors of the others, so that one file stops no other entity.

    Raises SettingError when there is no such package, or no entity file in it.
    """
    found = EntityFiles({}, {}, {})
    for module in _modules_of(package):
        try:
            entity = _entity_of(module)
        except DeclarationError as error:
            found.broken[module] = str(error)
            continue
        if entity.name in found.modules:
            _note_namesakes(found, entity.name, module)
        else:
            found.entities[entity.name], found.modules[entity.name] = entity, module
    for name in [name for name, module in found.modules.items() if module in found.broken]:
        del found.entities[name], found.modules[name]
    _drop_namers_of_one_place(found)
    _drop_refused_references(found)
    _drop_loose_references(found)
    return found


def entity_modules(package: str) -> dict[str, str]:
    """The module that declares each entity, by the entity's name. Raises SettingError as `read_entity_files` does."""
    return read_entity_files(package).modules


def _modules_of(package: str) -> list[str]:
    """The modules of the package that are entity files, by name."""
    try:
        root = importlib.import_module(package)
    except Exception as error:
        raise SettingError(f"SYNC_ENTITIES={package}: {describe_import(error)}") from error
    if not hasattr(root, "__path__"):
        raise SettingError(f"SYNC_ENTITIES={package}: it is a module; name the package (folder) that holds the files")
    names = [module.name for module in pkgutil.iter_modules(root.__path__, f"{package}.")]
    names = [name for name in names if not name.rpartition(".")[2].startswith("_")]
    if not names:
        raise SettingError(f"SYNC_ENTITIES={package}: the package holds no entity file")
    return names


def pick(entities: dict[str, Entity], names: Iterable[str], faults: Sequence[str] = ()) -> list[Entity]:
    """The named entities; all of them when no name is given. Raises SettingError for an unknown name.

    `faults` are those of files that could not be used, one of which may declare it.
    """
    wanted = list(names) or list(entities)
    unknown = [name for name in wanted if name not in entities]
    if unknown or not wanted:
        there = f"no entity {', '.join(unknown)}; there are {', '.join(entities)}" if unknown else "no entity"
        raise SettingError("\n".join([there if entities else f"no entity {', '.join(unknown)}".strip(), *faults]))
    return [entities[name] for name in wanted]


def describe_import(error: BaseException) -> str:
    """What stopped an import, and where: the line of the file that was being imported, not of a library below it."""
    text = f"{type(error).__name__}: {str(error).strip() or 'no reason given'}"
    if isinstance(error, SyntaxError):  # it names file and line itself
        return text
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    own = [frame for frame in frames[1:] if frame.name == "<module>"]
    return f"{text} ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else text


def _entity_of(module: str) -> Entity:
    try:
        entity = getattr(importlib.import_module(module), "entity", None)
    except DeclarationError as error:
        raise DeclarationError(str(error)) from error
    except (Exception, SystemExit) as error:
        raise DeclarationError(describe_import(error)) from error
    if not isinstance(entity, Entity):
        raise DeclarationError("an entity file ends with `entity = Entity(…)`")
    return entity


def _note_namesakes(found: EntityFiles, name: str, module: str) -> None:
    """Use neither of two files that declare one name: which of them is meant, only a person knows."""
    first = found.modules[name]
    found.broken[module] = f"its entity is called {name!r}, as that of {first}"
    found.broken[first] = f"its entity is called {name!r}, as that of {module}"


def _drop_namers_of_one_place(found: EntityFiles) -> None:
    """Use neither of two entities that name one place: each would delete what the other writes."""
    for first, second, refusal in list(conflicts(found.entities.values())):
        for name in (first, second):
            if name in found.entities:
                del found.entities[name]
                found.broken[found.modules.pop(name)] = refusal


def _drop_loose_references(found: EntityFiles) -> None:
    """Set aside entities that refer to one that is not there, until all others refer to entities that are."""
    while loose := [
        (name, reference.entity)
        for name, entity in found.entities.items()
        for reference in entity.table.references
        if reference.entity not in found.entities
    ]:
        for name, wanted in loose:
            if name in found.entities:
                del found.entities[name]
                found.broken[found.modules.pop(name)] = f"entity {name} refers to {wanted!r}, which is no entity"


def _drop_refused_references(found: EntityFiles) -> None:
    """Set aside entities that refer to one whose rows cannot be referred to."""
    for name, entity in list(found.entities.items()):
        parents = [found.entities[r.entity] for r in entity.table.references if r.entity in found.entities]
        if refusal := next((message for parent in parents if (message := parent.refuse_reference_from(name))), ""):
            del found.entities[name]
            found.broken[found.modules.pop(name)] = refusal
