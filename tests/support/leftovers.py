"""Finding the processes that belong to a data folder, so that tests can say that none is left."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import psutil

from cli.embedded.process import MARK

if TYPE_CHECKING:
    from pathlib import Path


def processes_of(folder: Path) -> list[psutil.Process]:
    """Every living process that was started for the folder, sessions of PostgreSQL included."""
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK, "").startswith(f"{folder}{os.sep}"):
                found |= {process, *process.children(recursive=True)}
    return [process for process in found if _is_alive(process)]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
