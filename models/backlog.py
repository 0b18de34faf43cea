"""How the ledger stands, for operators: counts by kind and tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.db import Connection

STATES = ("staged", "running", "retry", "done", "dead", "cancelled")
_OPEN_STATES = "state IN ('staged', 'running', 'retry', 'dead')"

_COUNTS = """
count(*) FILTER (WHERE state = 'staged') AS waiting, count(*) FILTER (WHERE state = 'running') AS running,
count(*) FILTER (WHERE state = 'retry') AS retry, count(*) FILTER (WHERE state = 'dead') AS dead,
extract(epoch FROM now() - min(staged_at) FILTER (WHERE state <> 'dead'))::float AS oldest_seconds
"""
# In two halves, because each has an index of its own. The ledger keeps what is done for long, and whoever asks
# how it stands must not read that. Creates, which are most, are grouped by the tenant alone.
_STATS = f"""
SELECT kind, tenant.name AS tenant, waiting, running, retry, dead, oldest_seconds
  FROM (SELECT 'user.create' AS kind, tenant_id, {_COUNTS}
          FROM job WHERE kind = 'user.create' AND {_OPEN_STATES} GROUP BY tenant_id
         UNION ALL
        SELECT kind, tenant_id, {_COUNTS}
          FROM job WHERE kind <> 'user.create' AND {_OPEN_STATES} GROUP BY kind, tenant_id) AS counted
  LEFT JOIN tenant ON tenant.id = tenant_id
 ORDER BY kind, tenant.name
"""  # noqa: S608  constants only


async def stats(connection: Connection) -> list[dict[str, Any]]:
    """Return per kind and tenant: waiting, running, retry, dead, and the age of the oldest in seconds.

    The tenant is its short name, or None for jobs of the installation itself.
    """
    return [dict(row) for row in await connection.fetch(_STATS)]
