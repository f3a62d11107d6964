"""Imports that wait until they are needed: of commands for the help of all, of pandas for reports."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command


class Member(NamedTuple):
    """A command or a group of commands: where it is, as `module:attribute`, and its line in the help."""

    place: str
    help: str


class LazyGroup(TyperGroup):
    """A group whose `members` are imported when one is asked for by name."""

    members: ClassVar[Mapping[str, Member]] = {}

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.lines = _Commands(self.commands, self.members)
        self.commands = self.lines

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Show the lines of all members without importing one."""
        with self.lines.unopened():
            super().format_help(ctx, formatter)


class _Commands(dict[str, Any]):
    """Commands by name; those of `members` are imported when they are looked up."""

    def __init__(self, known: Mapping[str, Any], members: Mapping[str, Member]) -> None:
        super().__init__(known)
        self._members = members
        self._only_lines = False
        for name in members:
            super().__setitem__(name, None)

    @contextmanager
    def unopened(self) -> Iterator[None]:
        """Give a command of one line for each member that is not imported, as long as this lasts."""
        self._only_lines = True
        try:
            yield
        finally:
            self._only_lines = False

    def __getitem__(self, name: str) -> Any:
        found = super().__getitem__(name)
        if found is not None:
            return found
        member = self._members[name]
        if self._only_lines:
            return TyperCommand(name, help=member.help)
        found = _imported(name, member)
        self[name] = found
        return found

    def get(self, name: str, default: Any = None) -> Any:
        """As of any mapping."""
        try:
            return self[name]
        except KeyError:
            return default

    def values(self) -> Any:
        """As of any mapping: all are imported."""
        return [self[name] for name in self]

    def items(self) -> Any:
        """As of any mapping: all are imported."""
        return [(name, self[name]) for name in self]


def _imported(name: str, member: Member) -> Any:
    module, _, attribute = member.place.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if not isinstance(found, typer.Typer):
        function, found = found, typer.Typer(add_completion=False)
        found.command(name)(function)
    command = get_command(found)
    command.name = name
    return command


class _Deferred(ModuleType):
    """Stands for a module until one of its attributes is used."""

    def __getattr__(self, attribute: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), attribute)


@contextmanager
def deferred(name: str) -> Iterator[None]:
    """Let `import NAME` give a module that loads itself at its first use, for reports that never use it.

    `importlib.util.LazyLoader` does not serve here: `import NAME as n` already counts as a use of its module.
    """
    if name not in sys.modules:
        sys.modules[name] = _Deferred(name)
    yield
