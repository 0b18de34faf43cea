"""Deleting users: from the store or, when no worker has applied them yet, from among those that wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg

from models import metrics
from models.audit.record import Event, record
from models.db import tenant_scope
from models.directory.membership import forget
from models.directory.write import user_target
from models.errors import NotFoundError, UnavailableError
from models.jobs import KINDS
from models.scim.diff import net_diff
from models.scim.schema import USER, compare_key

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from models.db import Connection
    from models.directory.membership import Origin
    from models.scim.schema import ResourceSchema

_CREATE = KINDS["user.create"]
_TRIES = 4

# A worker that is applying the create is waited for; then the user is in the store and the next statement sees it.
_LOCK_WAITING = """
SELECT id AS job_id, payload -> 'doc' AS doc, 1 AS version FROM job
 WHERE tenant_id = $1 AND resource_id = $2 AND kind = 'user.create' AND state IN ('staged', 'running', 'retry', 'dead')
   FOR UPDATE
"""
# Whoever had to wait has an id of transaction that is older than that of what it waited for (`write_sql.LOCK`).
_LOCK = """
SELECT NULL::uuid AS job_id, doc, version, pg_current_xact_id_if_assigned() IS NOT NULL AS waited
  FROM users WHERE tenant_id = $1 AND id = $2 FOR UPDATE
"""
_CANCEL = """
UPDATE job SET state = 'cancelled', finished_at = now(), payload = NULL, lease_token = NULL, lease_until = NULL
 WHERE id = $1
"""
_DELETE = "DELETE FROM users WHERE tenant_id = $1 AND id = $2"
_RELEASE = """
DELETE FROM identifier WHERE tenant_id = $1 AND kind = 'userName' AND value_key = $3 AND resource_id = $2
"""
# For a create whose payload does not say what it reserved; a rare, slower walk.
_RELEASE_ALL = "DELETE FROM identifier WHERE tenant_id = $1 AND resource_id = $2"
# What is on its way to an SMTP server may still arrive; its link is no longer good.
_END_INVITATIONS = """
UPDATE invitation SET state = 'failed', error_code = 'user_deleted', error_detail = NULL, token_hash = NULL
 WHERE tenant_id = $1 AND user_id = $2 AND state IN ('pending', 'sending')
"""


async def delete_user(
    pool: asyncpg.Pool,
    origin: Origin,
    user_id: UUID,
    check: Callable[[int], None],
    *,
    schema: ResourceSchema = USER,
) -> None:
    """Delete a user for good: the userName is free again, groups and invitations know the user no more.

    A create that no worker has applied is cancelled, so that nothing comes back. Users whose manager this was keep
    the reference.

    Args:
        pool: where to write.
        origin: who asks.
        user_id: whom.
        check: raises when the request is not meant for this version.
        schema: the User schema of the tenant.

    Raises:
        NotFoundError: there is no such user.
        UnavailableError: others were in the way several times.
    """
    for _ in range(_TRIES):
        try:
            async with tenant_scope(pool, [origin.tenant_id]) as connection:
                done = await _delete(connection, origin, user_id, check, schema)
        except asyncpg.DeadlockDetectedError:  # see `forget`
            continue
        if done:
            return
    raise UnavailableError("Other deletions were in the way; please try again.")


async def _delete(
    connection: Connection, origin: Origin, user_id: UUID, check: Callable[[int], None], schema: ResourceSchema
) -> bool:
    """Return False, and do nothing, if somebody else had the user first: this is to come after it on record."""
    key = (origin.tenant_id, user_id)
    row = await connection.fetchrow(_LOCK_WAITING, *key) or await connection.fetchrow(_LOCK, *key)
    if row is None:
        raise NotFoundError("There is no user with this id.")
    if row["job_id"] is None and row["waited"]:
        return False
    check(row["version"])
    doc = row["doc"] if isinstance(row["doc"], dict) else {}
    named = doc.get("userName")
    targets = [user_target(user_id, doc) if named else {"type": "User", "id": str(user_id)}]
    base: dict[str, Any] = {
        "actor": origin.actor,
        "correlation_id": origin.correlation_id,
        "tenant_id": origin.tenant_id,
        "targets": targets,
        "context": origin.context,
    }
    events = [Event(action="scim.user.delete", phase="applied", diff=net_diff(doc, {}, schema), **base)]
    if row["job_id"] is None:
        await connection.execute(_DELETE, *key)
    else:
        await connection.execute(_CANCEL, row["job_id"])
        metrics.JOBS_FINISHED.add(1, _CREATE.queue, _CREATE.name, "cancelled")
        events.insert(
            0, Event(action="scim.user.create", phase="failed", reason="user_deleted", job_id=row["job_id"], **base)
        )
    if named:
        await connection.execute(_RELEASE, *key, compare_key(named))
    else:
        await connection.execute(_RELEASE_ALL, *key)
    await connection.execute(_END_INVITATIONS, *key)
    await forget(connection, *key)
    await record(connection, events)
    return True
