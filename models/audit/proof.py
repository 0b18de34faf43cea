"""Proving one event: the way from its leaf to the root of a seal that was signed."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

import orjson

from models.audit.canonical import leaf_of
from models.audit.filter_sql import written_about
from models.audit.lines import lines
from models.audit.merkle import path_of, root_of
from models.audit.note import read_seal
from models.audit.seal import COLUMNS
from models.errors import UsherError

if TYPE_CHECKING:
    from uuid import UUID

    from models.db import Connection

_EVENT = lines("e.id = $1 AND ($2::uuid IS NULL OR e.tenant_id = $2) AND e.occurred_at BETWEEN $3 AND $4")
_SEAL = f"""
SELECT {", ".join(f"s.{name}" for name in COLUMNS)}, l.leaves
  FROM audit_seal AS s JOIN audit_leaves AS l USING (stream, seq)
 WHERE s.stream = $1 AND s.kind = 'events' AND s.from_xid <= $2 AND s.to_xid > $2
"""  # noqa: S608  constants


class UnprovenError(UsherError):
    """The event has no seal, or does not fit the one it should be under."""


async def prove(connection: Connection, event_id: UUID, *, tenant_id: UUID | None = None) -> dict[str, Any] | None:
    """Return an event with its inclusion proof, or None if there is no such event.

    Args:
        connection: where to read.
        event_id: the event.
        tenant_id: only if it is this tenant's.

    Raises:
        UnprovenError: it is not sealed yet, or its seal has another event in its place.
    """
    around = written_about(event_id)  # an id says when, so that one partition is read and not all of them
    if around is None:
        return None
    text = await connection.fetchval(_EVENT, event_id, tenant_id, *around)
    if text is None:
        return None
    leaf = leaf_of(text)
    row = await connection.fetchrow(_SEAL, leaf.stream, leaf.xid)
    if row is None:
        raise UnprovenError("The event is not sealed yet; that takes a minute.")
    seal = read_seal(row)
    leaves = [row["leaves"][start : start + 32] for start in range(0, len(row["leaves"]), 32)]
    if root_of(leaves) != seal.root or leaf.hash not in leaves or not leaf.sound:
        raise UnprovenError("The event is not what was sealed; `usher audit verify` says more.")
    place = leaves.index(leaf.hash)
    verifier = await connection.fetchval("SELECT verifier FROM audit_key WHERE key_id = $1", seal.key_id)
    return {
        "event": orjson.loads(text),
        "leaf": b64encode(leaf.hash).decode(),
        "index": place,
        "count": seal.count,
        "path": [b64encode(node).decode() for node in path_of(leaves, place)],
        "root": b64encode(seal.root).decode(),
        "seal": seal.note(),
        "key": verifier,
    }
