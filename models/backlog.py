"""How the ledger stands, for operators: counts by kind and tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.db import Connection

STATES = ("staged", "running", "retry", "done", "dead", "cancelled")

# The ledger keeps what is done for long, and whoever asks how it stands must not read that. What waits is counted by
# its index alone, whose first entry of a tenant and kind is the oldest too; what is in retry, running or dead is less,
# and has indexes of its own.
_STATS = """
WITH waiting AS MATERIALIZED (
    SELECT queue, tenant_id, kind, count(*) AS jobs FROM job WHERE state IN ('staged', 'retry')
     GROUP BY queue, tenant_id, kind
), part (kind, tenant_id, open, running, retry, dead, oldest) AS (
    SELECT kind, tenant_id, jobs, 0, 0, 0,
           (SELECT staged_at FROM job
             WHERE queue = waiting.queue AND tenant_id = waiting.tenant_id AND kind = waiting.kind AND state = 'staged'
             ORDER BY run_at, id LIMIT 1)
      FROM waiting
    UNION ALL
    SELECT kind, tenant_id, 0, count(*), 0, 0, min(staged_at) FROM job WHERE state = 'running' GROUP BY kind, tenant_id
    UNION ALL
    SELECT kind, tenant_id, 0, 0, count(*), 0, min(staged_at) FROM job WHERE state = 'retry' GROUP BY kind, tenant_id
    UNION ALL
    SELECT kind, tenant_id, 0, 0, 0, count(*), NULL FROM job WHERE state = 'dead' GROUP BY kind, tenant_id
)
SELECT kind, tenant.name AS tenant, sum(open)::bigint - sum(retry)::bigint AS waiting, sum(running)::bigint AS running,
       sum(retry)::bigint AS retry, sum(dead)::bigint AS dead, extract(epoch FROM now() - min(oldest))::float
           AS oldest_seconds
  FROM part LEFT JOIN tenant ON tenant.id = tenant_id
 GROUP BY kind, tenant_id, tenant.name ORDER BY kind, tenant.name
"""


async def stats(connection: Connection) -> list[dict[str, Any]]:
    """Return per kind and tenant: waiting, running, retry, dead, and the age of the oldest in seconds.

    The tenant is its short name, or None for jobs of the installation itself.
    """
    return [dict(row) for row in await connection.fetch(_STATS)]
