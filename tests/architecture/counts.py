"""Counts that tell how well the engine's code is shaped. `python -m tests.architecture.counts` prints them.

Each is read from the syntax trees of `sync_pipeline/`, so that comments and docs do not count.
"""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import grimp

ENGINE = Path(__file__).resolve().parents[2] / "sync_pipeline"
LONG_FUNCTION, MANY_PARAMETERS = 50, 6
# words of a private vocabulary, which readers of other codebases do not know
RETIRED = frozenset(
    {
        *("lane", "lanes", "beside", "kin", "told", "untold", "tell", "ear", "lie", "bury", "sighting", "mend"),
        *("mended", "standing", "coming", "inquiry", "holdings", "outgoing", "torn", "letter", "letters", "aside"),
        *("unfit", "looks", "looked", "look", "said"),
    }
)
# terms of the field that hold one of these words; the last one is the name of a setting that users have
_FIELD_TERMS = re.compile(r"dead_?letters?|set_aside|look_up|look_timeout_seconds", re.IGNORECASE)
_SINKS = frozenset({"RelationalTable", "SearchIndex", "MediaBucket"})
_WRITES = r"\b(?:INSERT INTO|UPDATE|DELETE FROM)\s+sync\.{}\b"


@dataclass(frozen=True)
class Module:
    """A module of the engine, parsed."""

    path: Path

    @cached_property
    def text(self) -> str:
        """Its source."""
        return self.path.read_text(encoding="utf-8")

    @property
    def sql(self) -> str:
        """The SQL file that bears its name; empty where there is none."""
        file = self.path.with_suffix(".sql")
        return file.read_text(encoding="utf-8") if file.exists() else ""

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.text)

    @property
    def name(self) -> str:
        """Its path within the engine."""
        return str(self.path.relative_to(ENGINE))

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        """All functions and methods."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node


def modules() -> list[Module]:
    """All modules of the engine."""
    return [Module(path) for path in sorted(ENGINE.rglob("*.py"))]


def untyped(found: list[Module]) -> list[str]:
    """Returns `Any`, `object` as an annotation, `cast(` and `type: ignore`, each with its place."""
    places = []
    for module in found:
        for node in ast.walk(module.tree):
            is_any = isinstance(node, ast.Name) and node.id == "Any" and isinstance(node.ctx, ast.Load)
            is_cast = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "cast"
            if is_any or is_cast:
                places.append(f"{module.name}:{node.lineno}")
        places += [f"{module.name}:{node.lineno}" for node in _annotations(module) if _holds_object(node)]
        with tokenize.open(module.path) as source:
            comments = [token for token in tokenize.generate_tokens(source.readline) if token.type == tokenize.COMMENT]
        places += [f"{module.name}:{token.start[0]}" for token in comments if "type: ignore" in token.string]
    return places


def _annotations(module: Module) -> Iterator[ast.expr]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
            yield node.annotation
        elif isinstance(node, ast.FunctionDef) and node.returns:
            yield node.returns


def _holds_object(annotation: ast.expr) -> bool:
    return any(isinstance(node, ast.Name) and node.id == "object" for node in ast.walk(annotation))


def retired_words(found: list[Module]) -> list[str]:
    """Returns the identifiers that the engine defines and that hold a retired word."""
    places = []
    for module in found:
        for name, line in _defined(module):
            words = re.findall(r"[a-z]+", re.sub(r"([A-Z])", r"_\1", _FIELD_TERMS.sub("", name)).lower())
            if RETIRED.intersection(words):
                places.append(f"{module.name}:{line} {name}")
    return places


def _defined(module: Module) -> Iterator[tuple[str, int]]:
    yield module.path.stem, 0
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr, node.lineno


def long_functions(found: list[Module]) -> list[str]:
    """Returns functions of more than 50 lines, their docstrings left out."""
    return [f"{m.name}:{f.lineno} {f.name}" for m in found for f in m.functions() if _lines(f) > LONG_FUNCTION]


def _lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def functions_of_many_parameters(found: list[Module]) -> list[str]:
    """Returns functions with six or more parameters; `self` and `cls` do not count.

    Commands are left out, because their parameters are the options that users give.
    """
    places = []
    for module in found:
        if module.name.startswith("cli/"):
            continue
        for function in module.functions():
            named = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            if len([each for each in named if each.arg not in {"self", "cls"}]) >= MANY_PARAMETERS:
                places.append(f"{module.name}:{function.lineno} {function.name}")
    return places


def root_modules(found: list[Module]) -> list[str]:
    """Returns the modules that lie in the engine's root."""
    return [module.name for module in found if "/" not in module.name and module.name != "__init__.py"]


def writers(found: list[Module], table: str) -> list[str]:
    """Returns the modules that write a table of the ledger, themselves or in the SQL file beside them."""
    return [module.name for module in found if re.search(_WRITES.format(table), module.text + module.sql)]


def sink_kinds(found: list[Module]) -> list[str]:
    """Returns the places outside `sinks/` that ask an entity for its index or bucket, or which kind a sink is."""
    return [
        f"{module.name}:{node.lineno}"
        for module in found
        if not module.name.startswith("sinks/")
        for node in ast.walk(module.tree)
        if _asks_entity(node) or _asks_kind(node)
    ]


def _asks_entity(node: ast.AST) -> bool:
    if not (isinstance(node, ast.Attribute) and node.attr in {"index", "media"}):
        return False
    owner = node.value
    return getattr(owner, "attr", getattr(owner, "id", "")) == "entity"


def _asks_kind(node: ast.AST) -> bool:
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance"):
        return False
    return any(isinstance(each, ast.Name) and each.id in _SINKS for each in ast.walk(node.args[1]))


def import_cycles() -> list[str]:
    """Returns pairs of packages of the engine that import each other."""
    graph = grimp.build_graph("sync_pipeline")
    packages = sorted(graph.find_children("sync_pipeline"))
    return [
        f"{one} {other}"
        for n, one in enumerate(packages)
        for other in packages[n + 1 :]
        if graph.direct_import_exists(importer=one, imported=other, as_packages=True)
        and graph.direct_import_exists(importer=other, imported=one, as_packages=True)
    ]


def report() -> dict[str, list[str]]:
    """Returns all counts, each as the places that count."""
    found = modules()
    return {
        "Any, object, cast and type: ignore": untyped(found),
        "retired words in identifiers": retired_words(found),
        "functions over 50 lines": long_functions(found),
        "functions with six or more parameters": functions_of_many_parameters(found),
        "modules in the root": root_modules(found),
        "modules that write sync.due": writers(found, "due"),
        "modules that write sync.cursor": writers(found, "cursor"),
        "places outside sinks/ that ask for a kind of sink": sink_kinds(found),
        "packages that import each other": import_cycles(),
    }


if __name__ == "__main__":
    for what, places in report().items():
        print(f"{len(places):5} {what}")
