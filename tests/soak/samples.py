"""What a soak looks at every few seconds, and how fast each of it grows."""

from __future__ import annotations

import math
import statistics
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Final

import asyncpg
import psutil
from redis.asyncio import Redis
from redis.exceptions import RedisError

from models.db import is_unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.soak.stage import Stage

MEGABYTE: Final = 1_000_000
JUDGED_SECONDS: Final = 900.0
"""A slope over less time than this says nothing: one garbage collection weighs more than any leak."""
WARM_UP_SHARE: Final = 1 / 3
"""Of a soak; meanwhile caches, pools and the directory fill."""
_FEWEST_POINTS: Final = 3
_MOST_POINTS: Final = 300  # every so manieth is taken beyond it, for there are as many pairs as their square

# What an hour may add at most. Processes: the pools and caches are full after the warm-up, and the steps by which
# Python's allocator takes memory are about a megabyte, so over twenty minutes a few megabytes an hour are noise and
# thirty are a leak of 1 kB for each user that comes and goes. What is listed as None grows by design, or with faults.
BOUNDS: Final[dict[str, float | None]] = {
    "api: RSS MB": 10.0,
    "api: descriptors": 15.0,
    "api: threads": 3.0,
    "worker: RSS MB": 10.0,
    "worker: descriptors": 15.0,
    "worker: threads": 3.0,
    "PostgreSQL sessions": 15.0,
    "Redis clients": 15.0,
    "Redis keys": 30.0,
    "Redis memory MB": 5.0,
    "job: MB": 15.0,
    "job: rows": None,
    "job: dead tuples": None,
    "job_attempt: MB": 5.0,
    "users: MB": 5.0,
    "identifier: MB": 5.0,
    "membership: MB": 5.0,
    "invitation: MB": None,
    "request_log: MB": None,
    "audit_event: MB": None,
}

_TABLES = """
SELECT coalesce(pg_partition_root(relid)::regclass::text, relname) AS name, sum(pg_total_relation_size(relid))::float,
       sum(n_live_tup)::float, sum(n_dead_tup)::float
  FROM pg_stat_user_tables GROUP BY 1
"""
_SESSIONS = """
SELECT count(*)::float FROM pg_stat_activity
 WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""

Row = dict[str, float]
"""What was read at one moment, by the names of `BOUNDS`; what could not be read is left out."""


@dataclass(frozen=True, slots=True)
class Slope:
    """How something went after the warm-up."""

    name: str
    first: float
    last: float
    most: float
    per_hour: float
    bound: float | None

    @property
    def beyond(self) -> bool:
        """Whether it grew faster than it may."""
        return self.bound is not None and self.per_hour > self.bound


def slopes(samples: Sequence[tuple[float, Row]], bounds: dict[str, float | None]) -> list[Slope]:
    """Return how fast everything grew after the warm-up: the median of the slopes between any two looks (Theil-Sen).

    A burst of sessions, or a step of the allocator that is taken back, moves a line of least squares by more than any
    bound and is no growth; what does grow does so between nearly any two looks.

    Args:
        samples: in order of time, each with its seconds since the start.
        bounds: what to look at, and what an hour may add to it.
    """
    if not samples:
        return []
    warm = samples[-1][0] * WARM_UP_SHARE
    found = []
    for name, bound in bounds.items():
        points = [(seconds, row[name]) for seconds, row in samples if seconds >= warm and name in row]
        if len(points) < _FEWEST_POINTS:
            continue
        few = points[:: math.ceil(len(points) / _MOST_POINTS)]
        each = [(later - value) / (end - begin) for (begin, value), (end, later) in combinations(few, 2)]
        values = [value for _, value in points]
        found.append(Slope(name, values[0], values[-1], max(values), statistics.median(each) * 3600, bound))
    return found


async def sample(stage: Stage) -> Row:
    """Read everything once; a server that a fault has just taken away is left out."""
    row: Row = {}
    for name, process in (("api", stage.fleet.apis[0]), ("worker", stage.fleet.workers[0])):
        if process.pid is not None:
            row |= {f"{name}: {what}": number for what, number in _of_process(process.pid).items()}
    try:
        row |= await _of_postgres(stage.settings.database_url.get_secret_value())
    except Exception as error:
        if not is_unavailable(error):
            raise
    with suppress(RedisError, OSError):
        async with Redis.from_url(stage.settings.redis_url.get_secret_value(), socket_timeout=5) as redis:
            clients, memory = await redis.info("clients"), await redis.info("memory")
            row["Redis clients"] = float(clients["connected_clients"]) - 1
            row["Redis memory MB"] = float(memory["used_memory"]) / MEGABYTE
            row["Redis keys"] = float(await redis.dbsize())
    return row


def _of_process(pid: int) -> Row:
    family = psutil.Process(pid)
    each = [family, *family.children(recursive=True)]
    return {
        "RSS MB": sum(one.memory_info().rss for one in each) / MEGABYTE,
        "descriptors": float(sum(one.num_fds() for one in each)),
        "threads": float(sum(one.num_threads() for one in each)),
    }


async def _of_postgres(url: str) -> Row:
    connection = await asyncpg.connect(url, timeout=5)
    try:
        row: Row = {"PostgreSQL sessions": await connection.fetchval(_SESSIONS)}
        for name, size, rows, dead in await connection.fetch(_TABLES):
            row |= {f"{name}: MB": size / MEGABYTE, f"{name}: rows": rows, f"{name}: dead tuples": dead}
    finally:
        await connection.close(timeout=5)
    return row
