"""Entity: the declaration of one thing to keep in step. One file an entity; no I/O at import."""

from __future__ import annotations

import importlib
import pkgutil
import re
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from sync_pipeline.errors import DeclarationError, SettingError
from sync_pipeline.partitions import Partitions
from sync_pipeline.places import conflicts
from sync_pipeline.sinks.media_bucket import MediaBucket
from sync_pipeline.sinks.relational import RelationalTable
from sync_pipeline.sinks.search_index import SearchIndex
from sync_pipeline.sources.outbox import Outbox
from sync_pipeline.sources.source import Capture
from sync_pipeline.sources.table import Table
from sync_pipeline.sources.watermark import Watermark

# reports read declarations and adapt nothing: they do not wait a second for pandas
if TYPE_CHECKING:
    import pandas as pd

Adapter = Callable[["pd.DataFrame"], "Mapping[str, pd.Series] | pd.DataFrame"]
Sink = RelationalTable | SearchIndex | MediaBucket
# what becomes of a row whose document the index refuses for good: it stays, or it is put back as it was before
OnRefused = Literal["forward", "compensate"]


# columns of the ledger's tables, and of those in which batches are staged
_LEDGER_NAMES = frozenset(
    {
        *("n", "action", "held", "seen", "written", "digest", "basis", "overtaken", "found", "kept"),
        *("held_before", "digest_before", "basis_before", "seen_before", "written_before", "_digest", "_elsewise"),
    }
)


@dataclass(frozen=True)
class LegacyQuery:
    """The legacy rows of an entity: any SELECT whose output columns are all that adapter and digest see.

    `key` names the output columns that identify a row. What is filtered out by the query does not exist.
    Where a legacy row comes as none, one or several rows here, its parts, `root` names the first of the key's columns,
    those that identify the legacy row.
    """

    sql: str
    key: tuple[str, ...]
    root: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entity:
    """One thing to keep in step.

    `adapt` takes legacy columns (Arrow-backed, one row per key) and returns read-side columns by name with the same
    index, or a frame of them: each row on its own, no I/O. `tables` are those whose changes change a row, `capture`
    says how they are caught. Raise `version` when `adapt` or a sink's columns change: rows written by an older version
    count as outdated until they are synced again.

    `on_refused="compensate"` is for objects that readers must see whole: where the index refuses a document for good,
    row and files' references are put back as they were before (ADR 16). By default what is done stays.

    `comments` say in plain words what columns of the adapted frame mean, where their names do not.
    """

    name: str
    owner: str
    origin: LegacyQuery
    tables: tuple[Table, ...]
    adapt: Adapter
    sinks: tuple[Sink, ...]
    partitions: Partitions
    capture: Capture = field(default_factory=Watermark)
    version: int = 1
    on_refused: OnRefused = "forward"
    description: str = ""
    comments: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", self.name):
            raise DeclarationError(f"entity {self.name!r}: a name is lower-case letters, digits and underscores")
        if self.version < 1:
            raise DeclarationError(f"entity {self.name}: version counts from 1")
        if not self.origin.key:
            raise DeclarationError(f"entity {self.name}: origin.key names no column")
        for kind in (RelationalTable, SearchIndex, MediaBucket):
            if sum(isinstance(sink, kind) for sink in self.sinks) > 1:
                raise DeclarationError(f"entity {self.name}: more than one {kind.__name__}")
        if self.on_refused not in get_args(OnRefused):
            raise DeclarationError(f"entity {self.name}: on_refused is one of {', '.join(get_args(OnRefused))}")
        if self.compensates and self.index is None:
            raise DeclarationError(f"entity {self.name}: on_refused='compensate' needs a SearchIndex, which refuses")
        self._check_keys()
        self._check_facts()
        unknown = self.comments.keys() - {*self.table.columns, *(self.index.fields if self.index else ())}
        if unknown:
            raise DeclarationError(f"entity {self.name}: comments name {min(unknown)!r}, which no sink declares")

    def _check_facts(self) -> None:
        declared = {*self.table.columns, *(self.index.fields if self.index else ())}
        for _, fact, name in self.media.facts if self.media else ():
            if name not in declared:
                raise DeclarationError(
                    f"entity {self.name}: MediaBucket({fact}=…) fills {name!r}, which no sink declares"
                )

    def _check_keys(self) -> None:
        for column in self.origin.key:
            if column in _LEDGER_NAMES or "%" in column:
                raise DeclarationError(
                    f"entity {self.name}: a key column cannot be named {column!r}, because the ledger keeps keys beside"
                    f" columns and statements of its own: select it in the query under another name"
                )
        if len(self.table.key) != len(self.origin.key):
            raise DeclarationError(f"entity {self.name}: {self.table.name} and the origin differ in key columns")
        root = self.origin.root or self.origin.key
        if root != self.origin.key[: len(root)]:
            raise DeclarationError(f"entity {self.name}: origin.root must be the first columns of origin.key")
        if len(root) < len(self.origin.key) and self.version_column:
            raise DeclarationError(f"entity {self.name}: events' versions need one row for each root")
        for table in self.tables:
            if len(table.key) != len(root):
                raise DeclarationError(f"entity {self.name}: Table({table.name!r}).key must give the root's key")

    @property
    def table(self) -> RelationalTable:
        """The relational sink. Raises DeclarationError when there is none, as a declaration's first check."""
        for sink in self.sinks:
            if isinstance(sink, RelationalTable):
                return sink
        raise DeclarationError(f"entity {self.name}: a RelationalTable is required; documents and media follow it")

    @property
    def is_filtered(self) -> bool:
        """Whether row-level security may leave rows out of what is read, because a table says that this is meant."""
        return any(table.policies == "complete" for table in self.tables)

    @property
    def version_column(self) -> str:
        """The query's column that events' versions are compared with; empty where they are not."""
        return self.capture.version if isinstance(self.capture, Outbox) else ""

    @property
    def compensates(self) -> bool:
        """Whether a revision whose document is refused for good is undone."""
        return self.on_refused == "compensate"

    @property
    def index(self) -> SearchIndex | None:
        """The search sink, if there is one."""
        return next((sink for sink in self.sinks if isinstance(sink, SearchIndex)), None)

    @property
    def media(self) -> MediaBucket | None:
        """The media sink, if there is one."""
        return next((sink for sink in self.sinks if isinstance(sink, MediaBucket)), None)


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
