"""Whether an event is under a seal yet, and under which."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

from models.audit.canonical import PLATFORM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.db import Connection

_SEAL = """
SELECT s.seq, s.sealed_at, s.key_id, s.root, s.count
  FROM audit_event AS e
  JOIN audit_seal AS s ON s.stream = $3 AND s.kind = 'events' AND s.to_xid > e.xid::text::bigint
 WHERE e.occurred_at = $1 AND e.id = $2 AND s.from_xid <= e.xid::text::bigint
 ORDER BY s.to_xid LIMIT 1
"""


async def seal_of(connection: Connection, event: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the seal that an event is under, as JSON values, or None while there is none; it takes a minute.

    Args:
        connection: where to read.
        event: as `models.audit.query` gives it.
    """
    stream = event["tenant_id"] or PLATFORM
    row = await connection.fetchrow(_SEAL, event["occurred_at"], event["id"], stream)
    return None if row is None else {**row, "root": b64encode(row["root"]).decode()}
