"""What `/metrics` says of the ledger, the workers, the tokens, the audit log and Redis.

It is read from the servers at most every few seconds, over a connection of its own that nobody else waits for; and it
is kept fresh for as long as somebody scrapes, so that no scrape waits until all that waits is counted.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING

import asyncpg
import structlog

from models import metrics
from models.audit.streams import read_lags
from models.db import open_pool
from models.jobs import KINDS, QUEUES
from models.ledger_sql import PAIRS
from models.processes import SILENT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from models.counts import Key
    from models.db import Connection
    from models.settings import Settings

_FRESH_SECONDS = 5.0
_PATIENCE_SECONDS = 0.02
_KEPT_SECONDS = 15.0
_LEAST_SECONDS = 0.1
_STALE_SECONDS = 20.0  # which what is kept fresh is not, unless the store is too busy
_ASKED_SECONDS = 300.0  # a scraper that did not come for so long does not come any more
_STATEMENT_SECONDS = 2
_EXPIRY_DAYS = (1, 3, 14)

_log = structlog.get_logger("metrics")

# What waits is counted by its index alone, however much it is; the retries are few or none. The oldest that is staged
# is sought kind by kind of each tenant, for the index is in that order.
_WAITING = f"""
WITH {PAIRS.strip()},
waiting AS (
    SELECT count(*) AS jobs, count(*) FILTER (WHERE run_at > now()) AS later
      FROM job WHERE queue = $1 AND state IN ('staged', 'retry')
),
again AS (
    SELECT count(*) AS jobs, count(*) FILTER (WHERE run_at > now()) AS later, min(staged_at) AS first
      FROM job WHERE queue = $1 AND state = 'retry'
),
staged AS (
    SELECT min(first.run_at) AS first
      FROM pair
     CROSS JOIN LATERAL (SELECT run_at FROM job
                          WHERE queue = $1 AND tenant_id = pair.tenant_id AND kind = pair.kind AND state = 'staged'
                          ORDER BY run_at LIMIT 1) AS first
)
SELECT waiting.jobs - waiting.later - again.jobs + again.later AS staged, waiting.later - again.later AS scheduled,
       again.jobs AS retry, extract(epoch FROM now() - staged.first)::float AS staged_age,
       extract(epoch FROM now() - again.first)::float AS retry_age
  FROM waiting, again, staged
"""  # noqa: S608  constants only

# One row for each number: the metric, up to two labels, the number.
_LEDGER = """
WITH running AS (
    SELECT queue, count(*) AS running, extract(epoch FROM now() - min(started_at))::float AS running_age
      FROM job WHERE state = 'running' GROUP BY queue
)
SELECT 'jobs' AS what, queue AS label, 'running' AS other, running AS number FROM running
UNION ALL SELECT 'age', queue, 'running', running_age FROM running
UNION ALL
SELECT 'paused', kind, NULL, 1 FROM job_pause WHERE tenant_id IS NULL AND (expires_at IS NULL OR expires_at > now())
UNION ALL
SELECT 'workers', queue, NULL, count(*) FILTER (WHERE beat_at > now() - make_interval(secs => $1))
  FROM process CROSS JOIN unnest(queues) AS queue WHERE role = 'worker' AND stopped_at IS NULL GROUP BY queue
UNION ALL
SELECT 'beat', queue, NULL, extract(epoch FROM now() - max(beat_at))::float
  FROM process CROSS JOIN unnest(queues) AS queue WHERE role = 'worker' GROUP BY queue
UNION ALL
SELECT 'expiring', days::text, NULL, (
           SELECT count(*) FROM (
               SELECT max(expires_at) AS last FROM token
                WHERE revoked_at IS NULL AND 'scim' = ANY (scopes) GROUP BY tenant_id
           ) AS tenant_token WHERE last BETWEEN now() AND now() + make_interval(days => days))
  FROM unnest($2::int[]) AS days
"""

_DEAD = "SELECT kind, count(*) AS jobs FROM job WHERE state = 'dead' GROUP BY kind"

# Two index probes for each tenant and kind that waits.
_TENANTS = f"""
WITH {PAIRS.strip()}
SELECT tenant.name AS tenant, extract(epoch FROM now() - min(oldest.run_at))::float AS age
  FROM pair JOIN tenant ON tenant.id = tenant_id
 CROSS JOIN LATERAL (SELECT run_at FROM job
                      WHERE queue = $1 AND tenant_id = pair.tenant_id AND kind = pair.kind
                        AND state IN ('staged', 'retry')
                      ORDER BY run_at LIMIT 1) AS oldest
 WHERE oldest.run_at <= now() GROUP BY tenant.name ORDER BY age DESC LIMIT $2
"""  # noqa: S608  constants only

# The seals reach up to a transaction; the index over transactions finds what came after it. Where there never was a
# key, nothing is meant to be sealed.
_UNSEALED = """
SELECT extract(epoch FROM now() - min(occurred_at))::float FROM (
    SELECT occurred_at FROM audit_event
     WHERE (xid::text::bigint) >= (SELECT coalesce(max(to_xid), 0) FROM audit_seal) AND EXISTS (SELECT FROM audit_key)
     LIMIT 1000) AS unsealed
"""


class Gauges:
    """Reads the gauges of the whole installation for one api process."""

    def __init__(self, settings: Settings, redis_info: Callable[[], Awaitable[Mapping[str, object]]]) -> None:
        """Take the settings and what asks Redis for its INFO."""
        self._settings = settings
        self._redis_info = redis_info
        self._pool: asyncpg.Pool | None = None
        self._known: dict[Key, list[float]] = {}
        self._read_at = -math.inf
        self._asked_at = -math.inf
        self._reading: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None

    async def read(self) -> dict[Key, list[float]]:
        """Return the gauges; those of the scrape before if the store takes its time, and none if it is away."""
        now = self._asked_at = time.monotonic()
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.create_task(self._keep(), name="gauges kept fresh")
        if now - self._read_at > _FRESH_SECONDS:
            # Whoever scrapes gets what is known rather than wait for a busy store.
            patience = _PATIENCE_SECONDS if now - self._read_at < _STALE_SECONDS else _STATEMENT_SECONDS + 1.0
            done, _ = await asyncio.wait([self._begin()], timeout=patience)
            for reading in done:
                reading.result()
        return self._known

    def _begin(self) -> asyncio.Task[None]:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read(), name="gauges")
        return self._reading

    async def _keep(self) -> None:
        """Read again whenever a scraper that comes seldom would find old numbers."""
        while time.monotonic() - self._asked_at < _ASKED_SECONDS:
            await asyncio.sleep(max(self._read_at + _KEPT_SECONDS - time.monotonic(), _LEAST_SECONDS))
            if time.monotonic() - self._read_at >= _KEPT_SECONDS:
                await asyncio.wait([self._begin()])

    async def _read(self) -> None:
        redis, store = await asyncio.gather(self._redis(), self._store())
        self._known = {**redis, **store}
        self._read_at = time.monotonic()

    async def _store(self) -> dict[Key, list[float]]:
        found: dict[Key, list[float]] = {(metrics.DATABASE_UP.name, ()): [0.0]}
        try:
            if self._pool is None:
                self._pool = await open_pool(
                    self._settings, name="metrics", size=1, statement_seconds=_STATEMENT_SECONDS
                )
            async with asyncio.timeout(_STATEMENT_SECONDS * 2), self._pool.acquire() as connection:
                writable = await connection.fetchval("SELECT NOT pg_is_in_recovery()")
                found[metrics.DATABASE_UP.name, ()] = [float(writable)]
                for read in (_ledger, _dead, _waiting, _audit, _streams, self._tenants):
                    found |= await _part(connection, read)
        except Exception as error:  # noqa: BLE001  however it fails: what the processes count is shown all the same
            _log.warning("The gauges could not be read", action="metrics.unread", error=type(error).__name__)
        return found

    async def _tenants(self, connection: Connection) -> dict[Key, list[float]]:
        if not self._settings.metrics_tenants:
            return {}
        await connection.execute("SET LOCAL enable_indexscan = on")
        most = self._settings.metrics_tenants
        found = [
            (row["age"], queue, row["tenant"])
            for queue in QUEUES
            for row in await connection.fetch(_TENANTS, queue, most)
        ]
        oldest = sorted(found, reverse=True)[:most]
        return {(metrics.TENANT_OLDEST.name, (queue, tenant)): [age] for age, queue, tenant in oldest}

    async def _redis(self) -> dict[Key, list[float]]:
        try:
            async with asyncio.timeout(_STATEMENT_SECONDS):
                info = await self._redis_info()
        except Exception:  # noqa: BLE001  however it fails, Redis does not answer
            return {(metrics.REDIS_UP.name, ()): [0.0]}
        policy = info.get("maxmemory_policy")
        numbers = {
            metrics.REDIS_UP: 1.0,
            metrics.REDIS_EVICTED: float(str(info.get("evicted_keys", 0))),
            metrics.REDIS_COMMANDS: float(str(info.get("total_commands_processed", 0))),
            metrics.REDIS_MEMORY: float(str(info.get("used_memory", 0))),
            metrics.REDIS_NOEVICTION: float(policy == "noeviction"),
        }
        return {(metric.name, ()): [number] for metric, number in numbers.items()}

    async def close(self) -> None:
        """Let go of the connection."""
        tasks = [task for task in (self._keeping, self._reading) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._pool is not None:
            await self._pool.close()


async def _part(
    connection: Connection, read: Callable[[Connection], Awaitable[dict[Key, list[float]]]]
) -> dict[Key, list[float]]:
    """Read one part; what it cannot say, for want of time or of a table, does not keep the others from being told."""
    try:
        async with connection.transaction(readonly=True):
            # All that waits is read: in the order of the heap that takes a quarter of the time.
            await connection.execute("SET LOCAL enable_indexscan = off; SET LOCAL enable_seqscan = off")
            return await read(connection)
    except asyncpg.PostgresError as error:
        part = read.__name__.lstrip("_")
        _log.warning("A part could not be read", action="metrics.unread", part=part, error=type(error).__name__)
        return {}


def _nothing() -> dict[Key, list[float]]:
    """Return what an empty ledger says."""
    found: dict[Key, list[float]] = {}
    for queue in QUEUES:
        found[metrics.QUEUE_PAUSED.name, (queue,)] = [0.0]
        found[metrics.WORKERS.name, (queue,)] = [0.0]
        found[metrics.WORKER_LAST_BEAT.name, (queue,)] = [math.inf]
        for state in ("staged", "retry", "running"):
            found[metrics.QUEUE_JOBS.name, (queue, state)] = [0.0]
            found[metrics.QUEUE_OLDEST.name, (queue, state)] = [0.0]
        found[metrics.QUEUE_JOBS.name, (queue, "scheduled")] = [0.0]
    return found


async def _ledger(connection: Connection) -> dict[Key, list[float]]:
    found = _nothing()
    for row in await connection.fetch(_LEDGER, SILENT_SECONDS, list(_EXPIRY_DAYS)):
        what, label, other, number = row
        if what == "paused":  # a pause of all kinds names none
            paused = {kind.queue for kind in KINDS.values() if label in (None, kind.name)}
            found |= {(metrics.QUEUE_PAUSED.name, (queue,)): [1.0] for queue in paused}
        elif number is not None:
            metric = _METRICS[what]
            found[metric.name, (label, other)[: len(metric.labels)]] = [number]
    return found


async def _dead(connection: Connection) -> dict[Key, list[float]]:
    await connection.execute("SET LOCAL enable_indexscan = on")  # its index alone says it
    found: dict[Key, list[float]] = {
        (metrics.DEAD_JOBS.name, (kind.queue, kind.name)): [0.0] for kind in KINDS.values()
    }
    for row in await connection.fetch(_DEAD):
        queue = KINDS[row["kind"]].queue if row["kind"] in KINDS else "unknown"
        found[metrics.DEAD_JOBS.name, (queue, row["kind"])] = [row["jobs"]]
    return found


async def _waiting(connection: Connection) -> dict[Key, list[float]]:
    """Return how many jobs wait in each queue, and for how long."""
    await connection.execute("SET LOCAL enable_indexscan = on")
    found: dict[Key, list[float]] = {}
    for queue in QUEUES:
        [row] = await connection.fetch(_WAITING, queue)
        for state in ("staged", "scheduled", "retry"):
            found[metrics.QUEUE_JOBS.name, (queue, state)] = [row[state]]
        for state in ("staged", "retry"):
            found[metrics.QUEUE_OLDEST.name, (queue, state)] = [max(row[f"{state}_age"] or 0.0, 0.0)]
    return found


_METRICS = {
    "jobs": metrics.QUEUE_JOBS,
    "age": metrics.QUEUE_OLDEST,
    "workers": metrics.WORKERS,
    "beat": metrics.WORKER_LAST_BEAT,
    "expiring": metrics.TOKENS_EXPIRING,
}


async def _audit(connection: Connection) -> dict[Key, list[float]]:
    age = await connection.fetchval(_UNSEALED)
    return {(metrics.AUDIT_UNSEALED.name, ("log",)): [max(age or 0.0, 0.0)]}


async def _streams(connection: Connection) -> dict[Key, list[float]]:
    """Return by kind the lag of the stream that is furthest behind; one that is paused is so on purpose."""
    await connection.execute("SET LOCAL enable_indexscan = on")
    found: dict[Key, list[float]] = {
        (metrics.AUDIT_STREAM_LAG.name, (kind,)): [0.0] for kind in ("https", "syslog", "s3")
    }
    for row in await read_lags(connection):
        if row["state"] == "active":
            lag = found[metrics.AUDIT_STREAM_LAG.name, (row["kind"],)]
            lag[0] = max(lag[0], row["lag"])
    return found
