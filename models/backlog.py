"""How the ledger stands, for operators: counts by kind and tenant, and lists of jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.errors import UsageError
from models.jobs import KINDS

if TYPE_CHECKING:
    from models.db import Connection

STATES = ("staged", "running", "retry", "done", "dead", "cancelled")

_STATS = """
SELECT kind, tenant.name AS tenant,
       count(*) FILTER (WHERE state = 'staged') AS waiting,
       count(*) FILTER (WHERE state = 'running') AS running,
       count(*) FILTER (WHERE state = 'retry') AS retry,
       count(*) FILTER (WHERE state = 'dead') AS dead,
       extract(epoch FROM now() - min(staged_at) FILTER (WHERE state IN ('staged', 'running', 'retry')))::float
           AS oldest_seconds
  FROM job JOIN tenant ON tenant.id = job.tenant_id
 WHERE state IN ('staged', 'running', 'retry', 'dead')
 GROUP BY kind, tenant.name ORDER BY kind, tenant.name
"""


async def stats(connection: Connection) -> list[dict[str, Any]]:
    """Return per kind and tenant: waiting, running, retry, dead, and the age of the oldest in seconds."""
    return [dict(row) for row in await connection.fetch(_STATS)]


async def list_jobs(connection: Connection, *, state: str | None, kind: str | None, limit: int) -> list[dict[str, Any]]:
    """Return jobs in one state, or in any that is not an end, oldest first; without their payload.

    Raises:
        UsageError: an unknown state or kind.
    """
    if state is not None and state not in STATES:
        raise UsageError(f"There is no state {state}; there are {', '.join(STATES)}.")
    if kind is not None and kind not in KINDS:
        raise UsageError(f"There is no kind {kind}; there are {', '.join(KINDS)}.")
    rows = await connection.fetch(
        "SELECT job.id, kind, tenant.name AS tenant, state, resource_id, attempts, staged_at, run_at, lease_until,"
        " error_code, error_detail, correlation_id FROM job JOIN tenant ON tenant.id = job.tenant_id"
        " WHERE state = ANY ($1::text[]) AND ($2::text IS NULL OR kind = $2) ORDER BY staged_at, job.id LIMIT $3",
        [state] if state else ["staged", "running", "retry", "dead"],
        kind,
        limit,
    )
    return [dict(row) for row in rows]
