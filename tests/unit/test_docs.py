"""The documents say what the code does: tables, commands, settings, links; and nothing that belongs to one machine."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import typer.main
from typer.core import TyperGroup

from cli import main as command_line
from models.settings import Settings
from tests.support.doc_tables import TABLES, with_table

ROOT = Path(__file__).parents[2]


@cache
def tracked() -> tuple[Path, ...]:
    """Return the files of the tree: those that git tracks and those that it would."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    return tuple(file for file in files if file.is_file())


def pages() -> list[Path]:
    return [file for file in tracked() if file.suffix == ".md"]


def prose() -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in pages())


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_as_the_code_has_it(name: str) -> None:
    path, _ = TABLES[name]
    assert path.read_text(encoding="utf-8") == with_table(name), "run `python -m tests.support.doc_tables`"


def test_no_setting_is_named_that_does_not_exist() -> None:
    known = {f"USHER_{name.upper()}" for name in Settings.model_fields}
    known |= {"USHER_TEST_DATABASE_URL", "USHER_TEST_REDIS_URL"}  # tests/support/servers.py
    known |= {"USHER_TEST_FAULTS", "USHER_TEST_SEED"}  # tests/support/promises.py
    known |= {"USHER_LISTEN"}  # docker-compose.yml
    named = set(re.findall(r"\bUSHER_[A-Z_]*[A-Z]\b", prose()))
    assert sorted(named - known) == []


def commands(command: Any, path: tuple[str, ...]) -> dict[tuple[str, ...], Any]:
    """Return every command that does something, by the words that call it."""
    if not isinstance(command, TyperGroup):
        return {path: command}
    found = {path: command} if command.invoke_without_command else {}
    for name in command.commands:
        # The top level holds stand-ins, which are replaced by what they stand for when they are called.
        top = path == ("usher",) and name in command_line.COMMANDS
        found |= commands(command_line.load(name) if top else command.commands[name], (*path, name))
    return found


@cache
def all_commands() -> dict[tuple[str, ...], Any]:
    found = commands(typer.main.get_command(command_line.app), ("usher",))
    assert len(found) > 12
    return found


@pytest.mark.parametrize("words", sorted(all_commands()), ids=" ".join)
def test_every_command_is_in_the_documents(words: tuple[str, ...]) -> None:
    assert re.search(rf"\b{' '.join(words)}\b", prose()), f"no page says what `{' '.join(words)}` is for"


def written_commands() -> list[tuple[str, str]]:
    """Return the `usher …` command lines of the documents, each with the page that it stands in."""
    found = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^```[a-z]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
        lines = [line for block in blocks for line in block.splitlines()]
        lines += re.findall(r"`(usher [^`\n]+)`", text)
        calls = (re.search(r"(?:^|[\s/$])usher ([a-z]+(?: .*)?)$", line.split("  #")[0].strip()) for line in lines)
        found += [(page.name, call[1]) for call in calls if call]
    assert len(found) > 20
    return found


@pytest.mark.parametrize(("page", "line"), sorted(set(written_commands())))
def test_a_command_in_the_documents_can_be_given_so(page: str, line: str) -> None:
    words = re.sub(r"'[^']*'|\"[^\"]*\"", "VALUE", line).split()
    path: tuple[str, ...] = ("usher",)
    while words and (*path, words[0]) in {known[: len(path) + 1] for known in all_commands()}:
        path = (*path, words.pop(0))
    assert len(path) > 1, f"{page}: there is no `usher {line}`"
    if path not in all_commands():  # a group, spoken of as a whole
        assert words == [], f"{page}: there is no `usher {line}`"
        return
    parameters = all_commands()[path].params
    options = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
    assert [word for word in words if word.startswith("--") and word.partition("=")[0] not in options] == [], page


@cache
def anchors(page: Path) -> frozenset[str]:
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return frozenset(re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / unquote(name)).resolve() if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert broken == []


def test_every_document_can_be_reached_from_the_readme() -> None:
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        seen.add(page)
        for target in re.findall(r"\]\(([^)#\s]+\.md)", page.read_text(encoding="utf-8")):
            linked = (page.parent / target).resolve()
            if linked.exists() and linked not in seen:
                waiting.append(linked)
    assert {page.relative_to(ROOT).as_posix() for page in pages()} - {
        page.relative_to(ROOT).as_posix() for page in seen
    } == set()


# Where files of this tree were written, and whence its packages came, is nobody's business.
_MACHINE = re.compile(
    r"(?<![\w.])/(?:home|root|work|workspace|mnt)/[\w.-]+"  # somebody's folders
    r"|(?<![\w.])/opt/(?!usher\b|build\b)[\w.-]+"
    r"|(?:pypi|artifactory|nexus|registry)[\w.-]*\.[a-z]{2,}/"  # a package index or an image registry
    r"|(?:--(?:extra-)?index-url|--find-links|--registry)\b",
    re.IGNORECASE,
)
_TEXT = {".py", ".md", ".yml", ".yaml", ".toml", ".lock", ".sql", ".txt", ".html", ".css", ".js", ".json", ".mako", ""}


def test_nothing_names_a_machine_or_a_registry() -> None:
    found = []
    for file in tracked():
        if file.suffix not in _TEXT or file == Path(__file__):
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            found += [f"{file.relative_to(ROOT)}:{number}: {match[0]}" for match in _MACHINE.finditer(line)]
    assert found == []
