"""Reading the audit log, newest first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.audit.actions import ACTIONS
from models.errors import UsageError

if TYPE_CHECKING:
    from datetime import timedelta
    from uuid import UUID

    from models.db import Connection

_COLUMNS = (
    "occurred_at, id, tenant_id, action, phase, outcome, reason, severity, actor_type, actor_id, actor_label,"
    " targets, correlation_id, job_id, context, diff, changed"
)
_WHERE = """
 WHERE occurred_at > now() - $1::interval
   AND ($2::uuid IS NULL OR tenant_id = $2)
   AND ($3::text[] IS NULL OR action = ANY ($3))
"""
_EVENTS = f"""
SELECT {_COLUMNS} FROM audit_event {_WHERE}
 ORDER BY occurred_at DESC, id DESC LIMIT $4
"""  # noqa: S608  constants only
# A target is named by its id or by any label that it had: userName, externalId, short name. The index finds it
# first, and only then comes the order: read the other way round, a rare name would mean reading everything.
_ABOUT = f"""
WITH about AS MATERIALIZED (
    SELECT {_COLUMNS} FROM audit_event {_WHERE}
       AND (usher_fold_json(targets) @> usher_fold_json(jsonb_build_array(jsonb_build_object('id', $5::text)))
            OR usher_fold_json(targets) @> usher_fold_json(jsonb_build_array(jsonb_build_object('label', $5::text)))
            OR usher_fold_json(targets)
               @> usher_fold_json(jsonb_build_array(jsonb_build_object('external_id', $5::text))))
)
SELECT * FROM about ORDER BY occurred_at DESC, id DESC LIMIT $4
"""  # noqa: S608  constants only


async def list_events(
    connection: Connection,
    *,
    since: timedelta,
    tenant_id: UUID | None = None,
    action: str | None = None,
    target: str | None = None,
    limit: int = 100,
) -> list[dict[str, Any]]:
    """Return events, newest first.

    Args:
        connection: where to read.
        since: how far back from now.
        tenant_id: only this tenant's.
        action: a whole action, or the beginning of several written as `scim.user.*`.
        target: a target's id, or its userName, externalId or name as it was at the time, in any letter case.
        limit: most events.

    Raises:
        UsageError: no action is called so.
    """
    values = [since, tenant_id, None if action is None else _actions(action), limit]
    rows = await (connection.fetch(_EVENTS, *values) if target is None else connection.fetch(_ABOUT, *values, target))
    return [dict(row) for row in rows]


def _actions(wanted: str) -> list[str]:
    """Return the actions that are called so, or begin so."""
    if wanted.endswith("*"):
        found = [name for name in ACTIONS if name.startswith(wanted[:-1])]
    else:
        found = [name for name in ACTIONS if name == wanted]
    if not found:
        raise UsageError(f"There is no action {wanted}; there are {', '.join(ACTIONS)}.")
    return found
