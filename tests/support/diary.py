"""What a driver of the fault experiments was answered, on disk before its next step."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

_TABLE: Final = """
CREATE TEMPORARY TABLE diary (
    seq int, tenant uuid, external_id text, user_name text, sent_at timestamptz, status int, returned_id uuid,
    correlation_id uuid)
"""
_LOAD: Final = """
INSERT INTO diary
SELECT e.seq, e.tenant, e.external_id, e.user_name, to_timestamp(e.sent_at), e.status, e.returned_id, e.correlation_id
  FROM jsonb_array_elements($1::text::jsonb) AS line
 CROSS JOIN LATERAL jsonb_to_record(line) AS e (
       seq int, tenant uuid, external_id text, user_name text, sent_at float, status int, returned_id uuid,
       correlation_id uuid)
"""


@dataclass(frozen=True)
class Entry:
    """One request and what came of it."""

    seq: int
    """The step of the plan; a step that is repeated has several entries."""
    tenant: UUID
    external_id: str
    user_name: str
    sent_at: float
    """Seconds of the epoch."""
    status: int | None
    """None if no answer came."""
    returned_id: UUID | None
    correlation_id: UUID | None


class Diary:
    """A file of entries, each on disk before whoever wrote it goes on."""

    def __init__(self, path: Path) -> None:
        """Take where to write."""
        self.entries: list[Entry] = []
        self._file = path.open("a", encoding="utf-8")

    async def write(self, entry: Entry) -> None:
        """Write an entry down and wait until it is on disk."""
        self._file.write(json.dumps(_plain(entry)) + "\n")
        self._file.flush()
        self.entries.append(entry)
        await asyncio.to_thread(os.fsync, self._file.fileno())

    async def load(self, connection: asyncpg.Connection) -> None:
        """Put all entries into the temporary table `diary` of a session."""
        await connection.execute("DROP TABLE IF EXISTS pg_temp.diary")
        await connection.execute(_TABLE)
        await connection.execute(_LOAD, json.dumps([_plain(entry) for entry in self.entries]))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _plain(entry: Entry) -> dict[str, object]:
    return {name: str(value) if isinstance(value, UUID) else value for name, value in asdict(entry).items()}
