"""The system account that PostgreSQL runs under when Usher is run by root, and what that account can reach.

PostgreSQL refuses to run as root. Nothing here changes the permissions of a folder that is not Usher's own.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from models.errors import UsageError

ACCOUNT_NAME = "usher-postgres"
STATE_FOLDER = Path("/var/lib/usher")
CACHE_FOLDER = Path("/var/cache/usher")


@dataclass(frozen=True)
class Account:
    """A system account by its numbers."""

    uid: int
    gid: int


def unprivileged_account() -> Account | None:
    """Return the account to run PostgreSQL under, made if need be; None when this process is not root's.

    Raises:
        UsageError: this process is root's and there is no other account to be had.
    """
    if os.geteuid() != 0:
        return None
    found = _lookup(ACCOUNT_NAME)
    if found is None and (useradd := shutil.which("useradd")):
        command = [useradd, "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", ACCOUNT_NAME]
        # Two processes may try at once; what counts is whether the account is there afterwards.
        subprocess.run(command, check=False, capture_output=True)  # noqa: S603 -- fixed words
        found = _lookup(ACCOUNT_NAME)
    found = found or _lookup("nobody")
    if found is None:
        raise UsageError(
            "PostgreSQL does not run as root, and there is no account to run it under: "
            f"create the system account {ACCOUNT_NAME}, or run usher as another user."
        )
    return found


def _lookup(name: str) -> Account | None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(entry.pw_uid, entry.pw_gid)


def can_reach(account: Account, path: Path) -> bool:
    """Tell whether the account may pass through every folder above the path."""
    for folder in path.resolve().parents:
        status = folder.stat()
        if status.st_uid == account.uid:
            passable = status.st_mode & stat.S_IXUSR
        elif status.st_gid == account.gid:
            passable = status.st_mode & stat.S_IXGRP
        else:
            passable = status.st_mode & stat.S_IXOTH
        if not passable:
            return False
    return True


def reachable_folder(account: Account, wanted: Path, state: Path) -> Path:
    """Return ``wanted`` if the account can reach it, else a folder of its own in ``state``, the same for the same path.

    Raises:
        UsageError: it can reach neither.
    """
    if can_reach(account, wanted):
        return wanted
    key = hashlib.sha256(os.fsencode(wanted.resolve())).hexdigest()[:16]
    folder = state / key / wanted.name
    _make_passable(folder.parent)
    if not can_reach(account, folder):
        raise UsageError(
            f"PostgreSQL does not run as root, and its account can reach neither {wanted} nor {state}: "
            "choose another --data-dir, for one below /srv or /opt."
        )
    return folder


def reachable_copy(account: Account, packages: Path, names: tuple[str, ...], cache: Path) -> Path:
    """Return the folder that holds the named packages where the account can reach them, copied if need be.

    Args:
        account: who must be able to run what is in them.
        packages: the folder they are installed in.
        names: folders in it; one that does not exist is left out.
        cache: where a copy goes.
    """
    if can_reach(account, packages / names[0] / "anything"):
        return packages
    status = (packages / names[0]).stat()
    key = hashlib.sha256(f"{packages}|{status.st_mtime_ns}|{status.st_ino}".encode()).hexdigest()[:16]
    copy = cache / key
    if copy.exists():
        return copy
    _make_passable(cache)
    unfinished = cache / f".{key}.{os.getpid()}"
    shutil.rmtree(unfinished, ignore_errors=True)
    for name in names:
        if (packages / name).is_dir():
            shutil.copytree(packages / name, unfinished / name, symlinks=True)
    unfinished.chmod(0o755)
    try:
        unfinished.rename(copy)
    except OSError:  # another process was first
        shutil.rmtree(unfinished, ignore_errors=True)
    return copy


def give(account: Account, folder: Path) -> None:
    """Make the account the owner of the folder and of all that is in it."""
    if folder.stat().st_uid == account.uid:
        return
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            os.chown(Path(parent) / name, account.uid, account.gid, follow_symlinks=False)
    os.chown(folder, account.uid, account.gid)  # last: its owner tells that the work was finished


def _make_passable(folder: Path) -> None:
    for part in reversed((folder, *folder.parents)):
        if not part.exists():
            part.mkdir(exist_ok=True)
            part.chmod(0o755)
