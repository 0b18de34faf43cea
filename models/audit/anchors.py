"""Anchors: what is sealed, published to a file outside the database, so that a cut-off or exchanged log shows."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from models.audit.canonical import PLATFORM
from models.audit.note import Seal, read_notes, read_seal
from models.audit.seal import COLUMNS
from models.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from models.db import Connection

_LATEST = f"""
SELECT head.* FROM (SELECT id AS stream FROM tenant UNION ALL SELECT '{PLATFORM}'::uuid) AS s
 CROSS JOIN LATERAL (SELECT {", ".join(f"h.{name}" for name in COLUMNS)} FROM audit_seal AS h
                      WHERE h.stream = s.stream ORDER BY h.seq DESC LIMIT 1) AS head
 ORDER BY head.stream
"""  # noqa: S608  constants


async def publish(connection: Connection, path: Path) -> int:
    """Append each stream's last seal to the file, unless it stands there already; return how many were added.

    Raises:
        UsageError: the file is damaged.
        OSError: it cannot be written.
    """
    seals = [read_seal(row) for row in await connection.fetch(_LATEST)]
    return await asyncio.to_thread(_append, path, seals)


def _append(path: Path, seals: list[Seal]) -> int:
    known = {(seal.stream, seal.seq) for seal in read_anchors(path)} if path.exists() else set()
    fresh = [seal for seal in seals if (seal.stream, seal.seq) not in known]
    if fresh:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write("".join(f"{seal.note()}\n" for seal in fresh))
            file.flush()
            os.fsync(file.fileno())
    return len(fresh)


def read_anchors(path: Path) -> list[Seal]:
    """Read the file.

    Raises:
        UsageError: there is none, or it is damaged.
    """
    try:
        return read_notes(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The anchors cannot be read: {path}") from error
