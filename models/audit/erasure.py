"""Erasing a person from the audit log: the personal values and their salts go, the events and their proof stay.

What stands in for them is the hash that the seals were made over, so verification passes; without the salt nobody
can find out by trying what the values were.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import orjson

from models.audit.canonical import personal_hash
from models.audit.lines import lines
from models.audit.record import Event, record
from models.errors import UsageError

if TYPE_CHECKING:
    from models.audit.record import Actor
    from models.db import Connection

ACTION = "audit.person.erase"
_AT_ONCE = 2000

# By the id, and by every name that the person had: a refused create has another id and the same name.
_HAS = "usher_fold_json(e.targets) @> usher_fold_json(jsonb_build_array(jsonb_build_object('{key}', {value}::text)))"
_NAMES = f"""
SELECT DISTINCT named.key, named.value
  FROM audit_event AS e, jsonb_array_elements(e.targets) AS target,
       jsonb_each_text(target - 'type' - 'id') AS named (key, value)
 WHERE e.tenant_id = $1 AND {_HAS.format(key="id", value="$2")}
   AND (target ->> 'id' = $2 OR target ->> 'type' = 'Invitation') AND named.key IN ('label', 'external_id')
   AND named.value <> ''
"""  # noqa: S608  constants
_ABOUT = {
    key: lines(
        f"e.tenant_id = $1 AND e.salt IS NOT NULL AND e.action <> '{ACTION}' AND {_HAS.format(key=key, value='$2')}"
    )
    for key in ("id", "label", "external_id")
}


async def erase_person(
    connection: Connection, *, tenant_id: UUID, user_id: UUID, actor: Actor, correlation_id: UUID
) -> int:
    """Erase what the audit log has of a person; return how many events lost their personal values.

    An event that names others too loses their names as well; the ids of all stay.

    Args:
        connection: outside a transaction.
        tenant_id: whose user it is.
        user_id: the user's id; the user may be gone from the store.
        actor: who does it; it is audited.
        correlation_id: for the event of it.

    Raises:
        UsageError: the log knows nobody of this id, or a legal hold forbids it.
    """
    async with connection.transaction():
        if await connection.fetchval(
            "SELECT EXISTS (SELECT FROM audit_hold WHERE released_at IS NULL AND coalesce(tenant_id, $1) = $1)",
            tenant_id,
        ):
            raise UsageError("A legal hold forbids it; `usher audit holds` shows which.")
        names = await connection.fetch(_NAMES, tenant_id, str(user_id))
        found: dict[UUID, tuple[datetime, bytes]] = {}
        for key, value in [("id", str(user_id)), *((name["key"], name["value"]) for name in names)]:
            async for row in connection.cursor(_ABOUT[key], tenant_id, value, prefetch=500):
                event = orjson.loads(row["line"])
                moment = datetime.fromisoformat(event["occurred_at"])
                found[UUID(event["id"])] = (moment, personal_hash(row["line"]))
        if not found:
            raise UsageError("No event of this tenant has personal values of this user.")
        [erasure_id] = await record(
            connection,
            [
                Event(
                    action=ACTION,
                    phase="applied",
                    actor=actor,
                    correlation_id=correlation_id,
                    tenant_id=tenant_id,
                    targets=[{"type": "User", "id": str(user_id)}],
                    context={"events": len(found)},
                )
            ],
        )
        erased = 0
        events = list(found.items())
        for start in range(0, len(events), _AT_ONCE):
            some = events[start : start + _AT_ONCE]
            erased += await connection.fetchval(
                "SELECT usher_erase_audit_events($1, $2, $3, $4)",
                erasure_id,
                [moment for _, (moment, _) in some],
                [event_id for event_id, _ in some],
                [digest for _, (_, digest) in some],
            )
    return erased
