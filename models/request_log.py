"""What clients sent lately, for operators: rows without anything personal, and counts of every request.

Rows are kept for three days and at most `MOST_ROWS` a tenant; bodies only while a tenant's capture is on, redacted,
and a day longer.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson
from uuid_utils.compat import uuid7

from models.audit.record import Actor, Event, record
from models.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.db import Connection

KEPT_DAYS = 3
COUNTS_KEPT_DAYS = 8
MOST_ROWS = 100_000
CAPTURE_HOURS = 24
"""Hours that bodies are kept after their capture ended."""
MOST_CAPTURE_MINUTES = 24 * 60
PAGE = 100
_KEPT = timedelta(days=KEPT_DAYS)
_CHUNK = 5000  # rows of one statement that deletes


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One request as it is kept."""

    tenant_id: UUID | None
    occurred_at: datetime
    method: str
    route: str
    path: str
    status: int
    scim_type: str | None
    duration_seconds: float
    correlation_id: UUID
    note: str | None = None
    captured: dict[str, Any] | None = None
    captured_until: datetime | None = None


@dataclass(slots=True)
class Count:
    """The requests of one tenant since they were written last."""

    succeeded: int = 0
    refused: int = 0
    omitted: int = 0
    succeeded_at: datetime | None = None

    def add(self, earlier: Count) -> None:
        """Count in what was counted earlier."""
        self.succeeded += earlier.succeeded
        self.refused += earlier.refused
        self.omitted += earlier.omitted
        self.succeeded_at = self.succeeded_at or earlier.succeeded_at


_INSERT = """
INSERT INTO request_log (id, tenant_id, occurred_at, method, route, path, status, scim_type, duration_seconds,
                         correlation_id, note, captured, captured_until)
SELECT id, tenant_id, occurred_at, method, route, path, status, scim_type, duration_seconds, correlation_id, note,
       captured::jsonb, captured_until
  FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::smallint[],
              $8::text[], $9::float8[], $10::uuid[], $11::text[], $12::text[], $13::timestamptz[])
    AS r (id, tenant_id, occurred_at, method, route, path, status, scim_type, duration_seconds, correlation_id, note,
          captured, captured_until)
"""
# Several processes add to the same minute; in one order, or two of them could wait for each other.
_COUNT = """
INSERT INTO request_minute (id, tenant_id, minute, succeeded, refused, omitted, succeeded_at)
SELECT id, tenant_id, date_trunc('minute', now()), succeeded, refused, omitted, succeeded_at
  FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::int[], $5::int[], $6::timestamptz[])
    AS c (id, tenant_id, succeeded, refused, omitted, succeeded_at)
 ORDER BY tenant_id
ON CONFLICT (tenant_id, minute) DO UPDATE
   SET succeeded = request_minute.succeeded + excluded.succeeded,
       refused = request_minute.refused + excluded.refused,
       omitted = request_minute.omitted + excluded.omitted,
       succeeded_at = greatest(request_minute.succeeded_at, excluded.succeeded_at)
"""


async def write_requests(
    connection: Connection, requests: Sequence[LoggedRequest], counts: dict[UUID | None, Count]
) -> None:
    """Write rows and add to the counts, in one transaction."""
    async with connection.transaction():
        if requests:
            await connection.execute(
                _INSERT,
                [uuid7() for _ in requests],
                [each.tenant_id for each in requests],
                [each.occurred_at for each in requests],
                [each.method for each in requests],
                [each.route for each in requests],
                [each.path for each in requests],
                [each.status for each in requests],
                [each.scim_type for each in requests],
                [each.duration_seconds for each in requests],
                [each.correlation_id for each in requests],
                [each.note for each in requests],
                [None if each.captured is None else orjson.dumps(each.captured).decode() for each in requests],
                [each.captured_until for each in requests],
            )
        if counts:
            await connection.execute(
                _COUNT,
                [uuid7() for _ in counts],
                list(counts),
                [count.succeeded for count in counts.values()],
                [count.refused for count in counts.values()],
                [count.omitted for count in counts.values()],
                [count.succeeded_at for count in counts.values()],
            )


_COLUMNS = """
request_log.id, request_log.tenant_id, tenant.name AS tenant, occurred_at, method, route, path, status, scim_type,
duration_seconds, correlation_id, note, captured_until > now() AND captured IS NOT NULL AS has_bodies
"""


async def list_requests(
    connection: Connection,
    *,
    tenant_id: UUID | None = None,
    failed: bool = False,
    correlation_id: UUID | None = None,
    route: str | None = None,
    before: UUID | None = None,
    after: UUID | None = None,
    limit: int = PAGE,
) -> list[dict[str, Any]]:
    """Return requests, newest first, or those after one, oldest first.

    Args:
        connection: where to read.
        tenant_id: only this tenant's.
        failed: only those that were refused or failed.
        correlation_id: only this one.
        route: only this route's template, such as `/Users/{id}`.
        before: the id of the last request of the page before this one.
        after: the id of the last request that was seen already.
        limit: most requests.
    """
    conditions, values = ["true"], []
    for condition, value in (
        ("request_log.tenant_id = {}", tenant_id),
        ("correlation_id = {}", correlation_id),
        ("route = {}", route),
        ("request_log.id < {}", before),
        ("request_log.id > {}", after),
    ):
        if value is not None:
            values.append(value)
            conditions.append(condition.format(f"${len(values)}"))
    if failed:
        conditions.append("status >= 400")
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM request_log LEFT JOIN tenant ON tenant.id = request_log.tenant_id"  # noqa: S608  constants
        f" WHERE {' AND '.join(conditions)}"
        f" ORDER BY request_log.id {'' if after else 'DESC'} LIMIT ${len(values) + 1}",
        *values,
        limit,
    )
    return [dict(row) for row in rows]


async def find_request(connection: Connection, request_id: UUID) -> dict[str, Any] | None:
    """Return one request with its bodies, if they are kept; None if it is not known (any more)."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS}, CASE WHEN captured_until > now() THEN captured END AS captured, captured_until"  # noqa: S608  constants
        " FROM request_log LEFT JOIN tenant ON tenant.id = request_log.tenant_id WHERE request_log.id = $1",
        request_id,
    )
    return dict(row) if row else None


_SUM = """
SELECT coalesce(sum(succeeded), 0)::int AS succeeded, coalesce(sum(refused), 0)::int AS refused,
       coalesce(sum(omitted), 0)::int AS omitted
  FROM request_minute WHERE minute > now() - make_interval(secs => $1) AND tenant_id
"""


async def traffic(connection: Connection, tenant_id: UUID | None, *, seconds: float) -> dict[str, int]:
    """Return how many requests of a tenant (None: of nobody known) succeeded, were refused, and have no row."""
    if tenant_id is None:
        row = await connection.fetchrow(_SUM + "IS NULL", seconds)
    else:
        row = await connection.fetchrow(_SUM + "= $2", seconds, tenant_id)
    assert row is not None  # noqa: S101  an aggregate always has a row
    return dict(row)


# Each tenant is asked by the index that begins with it.
_OMITTED = """
SELECT (SELECT coalesce(sum(each.omitted), 0) FROM tenant CROSS JOIN LATERAL (
            SELECT omitted FROM request_minute
             WHERE tenant_id = tenant.id AND minute > now() - interval '1 hour') AS each)
     + (SELECT coalesce(sum(omitted), 0) FROM request_minute
         WHERE tenant_id IS NULL AND minute > now() - interval '1 hour')
"""


async def omitted(connection: Connection, tenant_id: UUID | None = None) -> int:
    """Return how many requests of the last hour, of one tenant or of all, were counted but have no row."""
    if tenant_id is not None:
        return (await traffic(connection, tenant_id, seconds=3600))["omitted"]
    return int(await connection.fetchval(_OMITTED))


async def set_capture(
    connection: Connection, name: str, minutes: int, *, actor: Actor, correlation_id: UUID
) -> datetime | None:
    """Have a tenant's bodies kept for some minutes from now, or no longer; audited.

    Args:
        connection: where to write.
        name: the tenant's short name.
        minutes: 0 ends it.
        actor: who wants it.
        correlation_id: of the audit event.

    Returns:
        Until when; None when it ended.

    Raises:
        UsageError: no such tenant, or not 0 to `MOST_CAPTURE_MINUTES`.
    """
    if not 0 <= minutes <= MOST_CAPTURE_MINUTES:
        raise UsageError(f"A capture lasts 1 to {MOST_CAPTURE_MINUTES} minutes; 0 ends it.")
    async with connection.transaction():
        before = await connection.fetchrow("SELECT id, capture_until FROM tenant WHERE name = $1 FOR UPDATE", name)
        if before is None:
            raise UsageError(f"There is no tenant {name}. `usher tenant list` shows them.")
        until: datetime | None = await connection.fetchval(
            "UPDATE tenant SET capture_until = CASE WHEN $2 > 0 THEN now() + make_interval(mins => $2) END"
            " WHERE id = $1 RETURNING capture_until",
            before["id"],
            minutes,
        )
        # What an earlier capture kept goes a day after the capture's real end, not after the one that was planned.
        await connection.execute(
            "UPDATE request_log SET captured_until = least(captured_until, now() + make_interval(hours => $2))"
            " WHERE tenant_id = $1 AND captured_until IS NOT NULL",
            before["id"],
            CAPTURE_HOURS,
        )
        diff = {
            "op": "replace",
            "path": "capture_until",
            "before": before["capture_until"] and before["capture_until"].isoformat(),
            "after": until and until.isoformat(),
        }
        await record(
            connection,
            [
                Event(
                    action="tenant.capture.change",
                    phase="applied",
                    actor=actor,
                    correlation_id=correlation_id,
                    tenant_id=before["id"],
                    targets=[{"type": "Tenant", "id": str(before["id"]), "label": name}],
                    diff=[diff],
                )
            ],
        )
    return until


def kept_until(capture_until: datetime) -> datetime:
    """Return when a body is deleted that was captured now."""
    return capture_until + timedelta(hours=CAPTURE_HOURS)


def first_id(moment: datetime) -> UUID:
    """Return the least UUIDv7 of a moment (RFC 9562 §5.7)."""
    return UUID(int=(int(moment.timestamp() * 1000) << 80) | (7 << 76) | (2 << 62))


async def prune(connection: Connection, *, now: datetime | None = None, most_rows: int = MOST_ROWS) -> int:
    """Delete what is too old or too much, and bodies whose time is over, a chunk a statement.

    Args:
        connection: outside a transaction.
        now: the moment to judge by, when not the real one.
        most_rows: rows that a tenant may have.

    Returns:
        How many rows were deleted.
    """
    now = now or datetime.now(UTC)
    ended = "SELECT id FROM request_log WHERE captured_until <= $1 LIMIT $2"
    while await _chunk(connection, "UPDATE request_log SET captured = NULL, captured_until = NULL", ended, now):
        pass
    total = await _delete(connection, "request_log", "SELECT id FROM request_log WHERE id < $1", first_id(now - _KEPT))
    for tenant_id in (None, *[row["id"] for row in await connection.fetch("SELECT id FROM tenant")]):
        condition, values = ("IS NULL", ()) if tenant_id is None else ("= $2", (tenant_id,))
        edge = await connection.fetchval(
            f"SELECT id FROM request_log WHERE tenant_id {condition} ORDER BY id DESC OFFSET $1 LIMIT 1",  # noqa: S608  constants
            most_rows,
            *values,
        )
        if edge is not None:
            beyond = f"SELECT id FROM request_log WHERE id <= $1 AND tenant_id {condition.replace('$2', '$3')}"  # noqa: S608  constants
            total += await _delete(connection, "request_log", beyond, edge, *values)
    minutes = "SELECT id FROM request_minute WHERE minute < $1"
    await _delete(connection, "request_minute", minutes, now - timedelta(days=COUNTS_KEPT_DAYS))
    return total


async def _delete(connection: Connection, table: str, ids: str, *values: Any) -> int:
    total = 0
    while deleted := await _chunk(connection, f"DELETE FROM {table}", f"{ids} LIMIT $2", *values):  # noqa: S608  constants
        total += deleted
    return total


async def _chunk(connection: Connection, change: str, ids: str, first: Any, *further: Any) -> int:
    """Change at most `_CHUNK` rows and return how many that were; $1 is ``first``, $2 the chunk's size."""
    status = await connection.execute(f"{change} WHERE id = ANY (ARRAY({ids}))", first, _CHUNK, *further)
    return int(status.split()[-1])
