"""What was done with jobs, minute by minute: written by each process, summed over all of them when it is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from models.tally import quantile

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from models.db import Connection
    from models.tally import Minute

KEEP_DAYS = 8

# The sums of a minute are written whole, so that writing them twice, after an answer was lost, changes nothing.
_WRITE = """
INSERT INTO job_minute (minute, kind, process_id, started, done, failed, dead, queueing, running)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (minute, kind, process_id) DO UPDATE
   SET started = excluded.started, done = excluded.done, failed = excluded.failed, dead = excluded.dead,
       queueing = excluded.queueing, running = excluded.running
"""


async def write_minutes(connection: Connection, process_id: UUID, minutes: Sequence[Minute]) -> None:
    """Write what a process did in these minutes, in place of what it wrote of them before."""
    await connection.executemany(
        _WRITE,
        [
            (
                datetime.fromtimestamp(minute.minute, UTC),
                minute.kind,
                process_id,
                minute.started,
                minute.done,
                minute.failed,
                minute.dead,
                minute.queueing,
                minute.running,
            )
            for minute in minutes
        ],
    )


@dataclass(frozen=True, slots=True)
class Series:
    """What happened in equal steps of time, oldest first; a step in which nothing did is there with zeros."""

    step_seconds: int
    at: list[int]
    """When each step begins, in seconds since the epoch; the last one is still going on."""
    done: dict[str, list[int]] = field(default_factory=dict)
    """Jobs done, by kind."""
    failed: dict[str, list[int]] = field(default_factory=dict)
    """Attempts that did not end well, by kind."""

    def sums(self, of: dict[str, list[int]]) -> list[int]:
        """Return the sums over all kinds."""
        return [sum(values) for values in zip(*of.values(), strict=True)] if of else [0] * len(self.at)


# Seconds since the epoch are counted in whole steps, so that the steps of one hour are those of the next look too.
_SERIES = """
SELECT (extract(epoch FROM minute)::bigint / $1 * $1)::bigint AS at, kind,
       sum(done)::bigint AS done, sum(failed)::bigint AS failed
  FROM job_minute WHERE minute >= to_timestamp($2)
 GROUP BY 1, 2
"""


async def series(connection: Connection, *, hours: int, step_seconds: int) -> Series:
    """Return throughput and failures by kind over the last hours.

    Args:
        connection: where to read.
        hours: how far back.
        step_seconds: length of a step, whole minutes.
    """
    now: float = await connection.fetchval("SELECT extract(epoch FROM now())::float")
    last = int(now) // step_seconds * step_seconds
    first = last - hours * 3600 + step_seconds
    found = Series(step_seconds, list(range(first, last + 1, step_seconds)))
    for row in await connection.fetch(_SERIES, step_seconds, float(first)):
        place = (row["at"] - first) // step_seconds
        if not 0 <= place < len(found.at):
            continue  # the next minute has begun meanwhile
        for counts, value in ((found.done, row["done"]), (found.failed, row["failed"])):
            counts.setdefault(row["kind"], [0] * len(found.at))[place] = value
    return found


@dataclass(frozen=True, slots=True)
class Times:
    """How long jobs of a kind waited and ran, in seconds; None where nothing was measured."""

    queueing_p50: float | None = None
    queueing_p95: float | None = None
    running_p50: float | None = None
    running_p95: float | None = None


_TIMES = """
SELECT kind, which, array_agg(total ORDER BY place) AS totals, array_agg(place ORDER BY place) AS places
  FROM (SELECT kind, which, place::int, sum(count)::bigint AS total
          FROM job_minute
          CROSS JOIN LATERAL (SELECT 'queueing' AS which, * FROM unnest(queueing) WITH ORDINALITY AS q (count, place)
                              UNION ALL
                              SELECT 'running', * FROM unnest(running) WITH ORDINALITY AS r (count, place)) AS counted
         WHERE minute >= now() - make_interval(secs => $1) AND count > 0
         GROUP BY kind, which, place) AS summed
 GROUP BY kind, which
"""


async def times(connection: Connection, *, seconds: float) -> dict[str, Times]:
    """Return by kind how long jobs waited for their first start and how long attempts ran, over the last ``seconds``.

    The percentiles are interpolated within buckets that are 41 % wide (`models.tally`).
    """
    found: dict[str, dict[str, float | None]] = {}
    for row in await connection.fetch(_TIMES, seconds):
        counts = [0] * max(row["places"])
        for place, total in zip(row["places"], row["totals"], strict=True):
            counts[place - 1] = total
        values = found.setdefault(row["kind"], {})
        values[f"{row['which']}_p50"] = quantile(counts, 0.5)
        values[f"{row['which']}_p95"] = quantile(counts, 0.95)
    return {kind: Times(**values) for kind, values in found.items()}


async def forget_minutes(connection: Connection) -> int:
    """Remove minutes that are older than `KEEP_DAYS`; return how many rows there were."""
    status = await connection.execute(
        "DELETE FROM job_minute WHERE minute < now() - make_interval(days => $1)", KEEP_DAYS
    )
    return int(status.split()[1])
