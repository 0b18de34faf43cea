"""What the Overview page shows of the ledger, in few statements that cost the same however much is done already."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.jobs import EMAIL, KINDS, PROVISION, QUEUES
from models.ledger_sql import PAIRS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from uuid import UUID

    from models.db import Connection
    from models.processes import Process

TARGET_SECONDS: dict[str, float] = {PROVISION: 60.0, EMAIL: 300.0}
"""How old the oldest job that is due may become before a queue counts as late."""
COUNTED = 10_001
"""Most jobs of one tenant that are counted."""
_MOST_TENANTS = 8


@dataclass(frozen=True, slots=True)
class Backlog:
    """How a kind of job stands."""

    kind: str
    queue: str
    waiting: int = 0
    """Staged, also those that are to wait on purpose."""
    running: int = 0
    retry: int = 0
    dead: int = 0
    oldest_seconds: float | None = None
    """For how long the job that has waited longest has been due; None if none is."""

    @property
    def late(self) -> bool:
        """Whether the oldest is past the target."""
        return (self.oldest_seconds or 0.0) > self.target_seconds

    @property
    def target_seconds(self) -> float:
        """How old the oldest may become."""
        return TARGET_SECONDS.get(self.queue, 60.0)


# What waits is counted by its index alone, however much it is; what is in retry, running or dead is less, and has
# indexes of its own.
_BACKLOG = """
SELECT kind, min(queue) AS queue, sum(open)::bigint - sum(retry)::bigint AS waiting, sum(running)::bigint AS running,
       sum(retry)::bigint AS retry, sum(dead)::bigint AS dead,
       extract(epoch FROM now() - min(run_at))::float AS oldest_seconds
  FROM (SELECT kind, queue, count(*) AS open, 0 AS running, 0 AS retry, 0 AS dead, min(run_at) AS run_at
          FROM job WHERE state IN ('staged', 'retry') GROUP BY queue, kind
        UNION ALL SELECT kind, min(queue), 0, count(*), 0, 0, NULL FROM job WHERE state = 'running' GROUP BY kind
        UNION ALL SELECT kind, NULL, 0, 0, count(*), 0, NULL FROM job WHERE state = 'retry' GROUP BY kind
        UNION ALL SELECT kind, NULL, 0, 0, 0, count(*), NULL FROM job WHERE state = 'dead' GROUP BY kind) AS part
 GROUP BY kind
"""


async def backlog(connection: Connection) -> list[Backlog]:
    """Return how every kind stands, in the order of `models.jobs.KINDS`; unknown ones, which nobody does, follow."""
    rows = {row["kind"]: row for row in await connection.fetch(_BACKLOG)}
    found = []
    for kind in dict.fromkeys([*KINDS, *rows]):
        row = rows.get(kind)
        if row is None:
            found.append(Backlog(kind, KINDS[kind].queue))
            continue
        queue = row["queue"] or (KINDS[kind].queue if kind in KINDS else "unknown")
        counts = {state: row[state] for state in ("waiting", "running", "retry", "dead")}
        oldest = row["oldest_seconds"]  # below zero if what waits longest is not due yet
        found.append(Backlog(kind, queue, oldest_seconds=oldest if oldest and oldest >= 0 else None, **counts))
    return found


@dataclass(frozen=True, slots=True)
class Share:
    """What of a queue is one tenant's."""

    tenant_id: UUID
    tenant: str
    queue: str
    kind: str
    """That of the oldest job."""
    oldest_seconds: float
    due: int
    """Jobs that are due, or `COUNTED` if there are at least so many."""


# Which tenant has had what due for longest, by jumps through the index of what waits; for the first of them, how much.
_OLDEST = f"""
WITH {PAIRS.strip()},
oldest AS MATERIALIZED (
    SELECT tenant_id, (array_agg(kind ORDER BY run_at))[1] AS kind, min(run_at) AS run_at
      FROM (SELECT pair.tenant_id, pair.kind, (
                       SELECT run_at FROM job
                        WHERE queue = $1 AND tenant_id = pair.tenant_id AND kind = pair.kind
                          AND state IN ('staged', 'retry') AND run_at <= now()
                        ORDER BY run_at LIMIT 1) AS run_at
              FROM pair) AS first
     WHERE run_at IS NOT NULL GROUP BY tenant_id ORDER BY min(run_at) LIMIT $2
)
SELECT oldest.tenant_id, tenant.name AS tenant, oldest.kind,
       extract(epoch FROM now() - run_at)::float AS oldest_seconds,
       (SELECT count(*) FROM (SELECT FROM job
                               WHERE queue = $1 AND tenant_id = oldest.tenant_id AND state IN ('staged', 'retry')
                                 AND run_at <= now() LIMIT $3) AS counted) AS due
  FROM oldest JOIN tenant ON tenant.id = oldest.tenant_id ORDER BY run_at
"""  # noqa: S608  constants only


async def oldest_tenants(connection: Connection, limit: int = _MOST_TENANTS) -> list[Share]:
    """Return the tenants whose work has been due longest, over all queues, oldest first."""
    found = [
        Share(queue=queue, **row) for queue in QUEUES for row in await connection.fetch(_OLDEST, queue, limit, COUNTED)
    ]
    return sorted(found, key=lambda share: -share.oldest_seconds)[:limit]


def not_paused(shares: Iterable[Share], pauses: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return by queue for how many seconds the oldest job has been due that no pause holds back, as far as is known.

    Args:
        shares: from `oldest_tenants`.
        pauses: from `models.pauses.list_pauses`.
    """
    found: dict[str, float] = {}
    for share in shares:
        held = any(
            pause["kind"] in (None, share.kind) and pause["tenant_id"] in (None, share.tenant_id) for pause in pauses
        )
        if not held:
            found[share.queue] = max(found.get(share.queue, 0.0), share.oldest_seconds)
    return found


def relay_lag(waiting: Mapping[str, float], rings: Mapping[str, int | None], processes: Iterable[Process]) -> float:
    """Return for how long jobs have been due that no worker was rung for, in seconds; 0 when there are none.

    A worker at work looks into the ledger by itself; so only where none is at work and Redis holds no ring do due
    jobs wait for the sweeper.

    Args:
        waiting: from `not_paused`.
        rings: by queue, how many rings wait in Redis; None if it does not answer, which is as good as none.
        processes: from `models.processes.list_processes`.
    """
    busy = {queue for one in processes if one.state == "working" and one.busy for queue in one.queues}
    return max(
        (seconds for queue, seconds in waiting.items() if queue not in busy and not rings.get(queue)),
        default=0.0,
    )
