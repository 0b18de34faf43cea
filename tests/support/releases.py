"""The code of an earlier version, to run beside this one: what a process is made of that nobody has replaced yet."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.processes import environment

if TYPE_CHECKING:
    from models.settings import Settings

ROOT = Path(__file__).parents[2]
_NAMED = ROOT / "tests" / "faults" / "old_code.txt"


def old_commit() -> str:
    """Return the commit of the earlier version: the newest tag before this commit, else the one that is named.

    As long as nothing is released, `tests/faults/old_code.txt` has the subject of a commit.
    """
    tagged = _git("describe", "--tags", "--abbrev=0", "--match", "v*", "HEAD^", check=False).strip()
    if tagged:
        return tagged
    subject = _NAMED.read_text(encoding="utf-8").strip()
    commits = [line.split(" ", 1) for line in _git("log", "--format=%H %s").splitlines()]
    found = [commit for commit, *rest in commits if rest == [subject]]
    assert found, f"no commit is called {subject!r}: a clone with its whole history has it (git fetch --unshallow)"
    return found[0]


def unpack(commit: str, folder: Path) -> Path:
    """Write the tree of a commit into a new folder and return that."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True)
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder


def newest_migration(tree: Path) -> str:
    """Return the schema that a tree was written for."""
    return max(file.name.split("_", 1)[0] for file in (tree / "models/migrations/versions").glob("[0-9]*.py"))


async def usher(tree: Path, settings: Settings, *words: str) -> str:
    """Run `usher …` of a tree, which must succeed, and return what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", *words),
        env=environment(settings),
        cwd=tree,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    printed, complained = await process.communicate()
    assert process.returncode == 0, f"usher {' '.join(words)}: {printed.decode()}{complained.decode()}"
    return printed.decode()


def _git(*words: str, check: bool = True) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=check, text=True)
    return done.stdout if done.returncode == 0 else ""
