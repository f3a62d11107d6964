"""The docs: links that lead somewhere, and no command or option left out."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from sync_pipeline.cli import app
from sync_pipeline.model.findings import FindingKind
from sync_pipeline.queue.due import PRIORITY
from tests.awkward import kinds
from tests.awkward.changes import WEIGHTS
from tests.claims import CLAIMS, EMPTIED, OF_TREES, PARENT_GONE, PARENT_STAMPED
from tests.integration.test_sources import CHANGES

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").rglob("*.md"))]
REFERENCE = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """Headings as they are linked to."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        there = (page.parent / name).resolve() if name else page
        assert there.exists(), link
        assert not anchor or anchor in anchors(there), link


def commands(group: object, words: tuple[str, ...] = ()) -> Iterator[tuple[str, set[str]]]:
    """Each command's words and its options; the demo tells of itself."""
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        if hasattr(command, "commands"):
            yield from commands(command, (*words, name)) if name != "demo" else ()
        else:
            yield " ".join((*words, name)), {part for option in command.params for part in option.opts if "--" in part}


@pytest.mark.parametrize(("command", "options"), list(commands(typer.main.get_command(app))))
def test_every_command_and_option_is_told(command, options):
    usage = re.search(rf"^    sync-pipeline {command} .*$", REFERENCE, re.MULTILINE)
    assert usage
    assert options - set(re.findall(r"--[a-z-]+", usage[0])) <= {"--help"}


@pytest.mark.parametrize("word", [*FindingKind, *PRIORITY])
def test_every_kind_and_reason_is_told(word):
    assert re.search(rf"^\| `?{word}`? \|", REFERENCE, re.MULTILINE)


def test_every_kind_of_change_that_is_claimed_is_tested_on_both_monoliths():
    awkward = {kind for entities in kinds.KINDS.values() for told in entities.values() for kind in told}
    assert awkward | OF_TREES == CLAIMS.keys()
    # of the demo's tables no parent is stamped, or may go while it is named; test_source_gaps empties one
    assert {kind for kind, _ in CHANGES.values()} | {PARENT_STAMPED, PARENT_GONE, EMPTIED} | OF_TREES == CLAIMS.keys()


def test_every_change_of_the_awkward_writers_has_its_kinds():
    assert WEIGHTS.keys() <= kinds.KINDS.keys()
