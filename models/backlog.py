"""How the ledger stands, for operators: counts by kind and tenant, and lists of jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.errors import UsageError
from models.jobs import KINDS

if TYPE_CHECKING:
    from models.db import Connection

STATES = ("staged", "running", "retry", "done", "dead", "cancelled")
_OPEN_STATES = "state IN ('staged', 'running', 'retry', 'dead')"

# In two halves, because each has an index of its own. The ledger keeps what is done for long, and whoever asks
# how it stands must not read that.
_OPEN = f"""
(SELECT * FROM job WHERE kind = 'user.create' AND {_OPEN_STATES}
 UNION ALL
 SELECT * FROM job WHERE kind <> 'user.create' AND {_OPEN_STATES}) AS job
"""  # noqa: S608  constants only

_STATS = f"""
SELECT kind, tenant.name AS tenant,
       count(*) FILTER (WHERE state = 'staged') AS waiting,
       count(*) FILTER (WHERE state = 'running') AS running,
       count(*) FILTER (WHERE state = 'retry') AS retry,
       count(*) FILTER (WHERE state = 'dead') AS dead,
       extract(epoch FROM now() - min(staged_at) FILTER (WHERE state IN ('staged', 'running', 'retry')))::float
           AS oldest_seconds
  FROM {_OPEN} JOIN tenant ON tenant.id = job.tenant_id
 GROUP BY kind, tenant.name ORDER BY kind, tenant.name
"""  # noqa: S608  constants only


async def stats(connection: Connection) -> list[dict[str, Any]]:
    """Return per kind and tenant: waiting, running, retry, dead, and the age of the oldest in seconds."""
    return [dict(row) for row in await connection.fetch(_STATS)]


def _list(state: str | None) -> str:
    ended = state in ("done", "cancelled")
    # The state is written out, so that the index of the cancelled ones is found.
    return f"""
SELECT job.id, kind, tenant.name AS tenant, state, resource_id, attempts, staged_at, run_at, lease_until,
       error_code, error_detail, correlation_id
  FROM {"job" if ended else _OPEN} JOIN tenant ON tenant.id = job.tenant_id
 WHERE {f"state = '{state}'" if state else "true"} AND ($1::text IS NULL OR kind = $1)
 ORDER BY {"job.id DESC" if ended else "staged_at, job.id"} LIMIT $2
"""  # noqa: S608  one of STATES


async def list_jobs(connection: Connection, *, state: str | None, kind: str | None, limit: int) -> list[dict[str, Any]]:
    """Return jobs without their payload: oldest first, but those that are done or cancelled newest first.

    Args:
        connection: where to read.
        state: one of `STATES`; any but these two if None.
        kind: one of `models.jobs.KINDS`, or any.
        limit: most jobs.

    Raises:
        UsageError: an unknown state or kind.
    """
    if state is not None and state not in STATES:
        raise UsageError(f"There is no state {state}; there are {', '.join(STATES)}.")
    if kind is not None and kind not in KINDS:
        raise UsageError(f"There is no kind {kind}; there are {', '.join(KINDS)}.")
    return [dict(row) for row in await connection.fetch(_list(state), kind, limit)]
