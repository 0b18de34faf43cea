"""Sending the events of a stream in their order: what comes next, who sends it, and how far the place has it.

Order is that of transaction id and event id, and nothing is read at or above the safe horizon, so no event can come
to be before the cursor. The cursor moves when the place has confirmed what it was sent, never before.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import asyncpg
import orjson
from uuid_utils.compat import uuid7

from models.audit.lines import lines
from models.audit.record import SYSTEM, Event, record
from models.audit.seal import XID, read_horizon
from models.audit.streams import LAST_ID, READ, find_stream, read_stream
from models.errors import UsageError, UsherError

if TYPE_CHECKING:
    from models.audit.record import Actor
    from models.audit.streams import Stream
    from models.db import Connection

LEASE_SECONDS: Final = 30
"""After this long without its worker, another one goes on."""
FIRST_DELAY_SECONDS: Final = 1.0
LONGEST_DELAY_SECONDS: Final = 300.0
FIRST_WINDOW: Final = 4096
"""Transaction ids that are looked through at a time, to begin with."""
_WIDEST_WINDOW: Final = 1 << 26
_NARROWEST_WINDOW: Final = 64
_DRIFT: Final = 10_000  # transactions without an event after which the cursor is moved all the same
_TOGETHER: Final = 50  # rows that one exchange with PostgreSQL brings

_DUE = """
SELECT id FROM audit_stream
 WHERE state = 'active' AND next_at <= now() AND (lease_until IS NULL OR lease_until <= now()) ORDER BY next_at
"""
_ORDER = f"ORDER BY {XID}, e.id LIMIT $4"
_AFTER = f"{XID} >= $1 AND {XID} < $2 AND ({XID}, e.id) > ($1, $3)"
_OF_TENANT = lines(f"{_AFTER} AND e.tenant_id = $5", _ORDER)
_OF_INSTALLATION = lines(f"{_AFTER} AND e.tenant_id IS NULL", _ORDER)
_ONE = lines("e.id = $1 AND e.occurred_at = now()")
_TESTED = f"""
SELECT e.occurred_at, ({XID}, e.id) <= ($2::bigint, $3::uuid) AS confirmed FROM audit_event AS e
 WHERE e.target_type = 'Stream' AND e.target_id = $1 AND e.action = 'audit.stream.test'
 ORDER BY e.occurred_at DESC LIMIT 1
"""  # noqa: S608  constants
_CLAIM = f"""
UPDATE audit_stream SET lease_token = $2, lease_until = now() + make_interval(secs => {LEASE_SECONDS})
 WHERE id = $1 AND state = 'active' AND cursor_xid = $3 AND cursor_id = $4
   AND destination = $5 AND format = $6 AND levels = $7 AND secret IS NOT DISTINCT FROM $8
   AND (lease_until IS NULL OR lease_until <= now())
RETURNING true
"""  # noqa: S608  constants
_HELD = "SELECT failures FROM audit_stream WHERE id = $1 AND lease_token = $2 FOR UPDATE"
_CONFIRM = """
UPDATE audit_stream
   SET cursor_xid = $2, cursor_id = $3, sent = sent + $4, failures = 0, error_code = NULL, last_sent_at = now(),
       last_event_at = greatest(last_event_at, $5), next_at = now() + make_interval(secs => $6),
       lease_token = NULL, lease_until = NULL
 WHERE id = $1
"""
_FAIL = """
UPDATE audit_stream
   SET failures = failures + 1, error_code = $2, next_at = now() + make_interval(secs => $3),
       lease_token = NULL, lease_until = NULL
 WHERE id = $1
"""


class LogBehindError(UsherError):
    """The server's transaction ids are behind the stream's cursor: it was filled from a dump of another."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Events that come next."""

    events: list[dict[str, Any]]
    """As `models.audit.lines` has them: whole."""
    cursor_xid: int
    cursor_id: UUID
    """Where the cursor stands once they are confirmed."""
    more: bool
    """Whether there may be others at once."""

    @property
    def last_at(self) -> datetime:
        """The latest moment among them."""
        return max(datetime.fromisoformat(event["occurred_at"]) for event in self.events)


@dataclass(slots=True)
class Window:
    """How many transaction ids to look through at a time; it fits itself to how many events there are."""

    width: int = field(default=FIRST_WINDOW)

    def fit(self, *, full: bool) -> None:
        """Become narrower after a batch that was full, wider after one that was not."""
        self.width = max(self.width // 2, _NARROWEST_WINDOW) if full else min(self.width * 4, _WIDEST_WINDOW)

    def shrink(self) -> None:
        """Become much narrower after a look that took too long."""
        self.width = max(self.width // 16, _NARROWEST_WINDOW)


async def due_streams(connection: Connection) -> list[UUID]:
    """Return the streams that are to be looked at now and that nobody sends."""
    return [row["id"] for row in await connection.fetch(_DUE)]


async def read_active(connection: Connection, stream_id: UUID) -> Stream | None:
    """Return a stream that is to be sent, or None if it is paused or gone."""
    row = await connection.fetchrow(f"{READ} WHERE s.id = $1 AND s.state = 'active'", stream_id)
    return read_stream(row) if row else None


async def read_batch(connection: Connection, stream: Stream, window: Window, *, events: int, size: int) -> Batch:
    """Return what comes next: at most ``events``, and no more once they have ``size`` bytes.

    Raises:
        LogBehindError: see there.
        QueryCanceledError: it took too long; the next look is at fewer transactions.
    """
    # First the horizon, then the events: whatever is below it is there by now.
    horizon, _ = await read_horizon(connection)
    if horizon <= stream.cursor_xid:
        raise LogBehindError
    bound = min(horizon, stream.cursor_xid + window.width)
    try:
        found, full = await _between(connection, stream, bound, events, size)
    except asyncpg.QueryCanceledError:
        window.shrink()
        raise
    window.fit(full=full)
    reached = (int(found[-1]["xid"]), UUID(found[-1]["id"])) if full else (bound - 1, UUID(LAST_ID))
    return Batch(found, *reached, more=full or bound < horizon)


async def _between(
    connection: Connection, stream: Stream, bound: int, events: int, size: int
) -> tuple[list[dict[str, Any]], bool]:
    """Return the events from the cursor to a transaction id, and whether one of the two limits ended them."""
    whose = [stream.tenant_id] if stream.tenant_id else []
    statement = _OF_TENANT if stream.tenant_id else _OF_INSTALLATION
    found: list[dict[str, Any]] = []
    held = 0
    async with connection.transaction(readonly=True):
        await connection.execute("SET LOCAL enable_seqscan = off")  # statistics lag behind where it matters
        rows = connection.cursor(
            statement, stream.cursor_xid, bound, stream.cursor_id, events, *whose, prefetch=_TOGETHER
        )
        async for row in rows:
            found.append(orjson.loads(row["line"]))
            held += len(row["line"])
            if held >= size:
                break
    return found, len(found) >= events or held >= size


async def skip(connection: Connection, stream: Stream, batch: Batch) -> bool:
    """Move the cursor over transactions in which there was nothing to send, if they are many; whether it was moved."""
    if not batch.more and batch.cursor_xid - stream.cursor_xid <= _DRIFT:
        return False
    moved = await connection.fetchval(
        "UPDATE audit_stream SET cursor_xid = $4, cursor_id = $5 WHERE id = $1 AND cursor_xid = $2 AND cursor_id = $3"
        " AND (lease_until IS NULL OR lease_until <= now()) RETURNING true",
        stream.id,
        stream.cursor_xid,
        stream.cursor_id,
        batch.cursor_xid,
        batch.cursor_id,
    )
    return bool(moved)


async def claim_stream(connection: Connection, stream: Stream) -> UUID | None:
    """Take the right to send what comes after the stream's cursor; return the lease, or None if somebody else has it.

    There is none either if the stream was changed since it was read: what was read for it is not for its new place.
    The lease is good for `LEASE_SECONDS`, which is longer than a destination may take.
    """
    lease: UUID = uuid7()
    chosen = (stream.destination, stream.format, stream.levels, stream.secret)
    taken = await connection.fetchval(_CLAIM, stream.id, lease, stream.cursor_xid, stream.cursor_id, *chosen)
    return lease if taken else None


async def release_stream(connection: Connection, stream: Stream, lease: UUID) -> None:
    """Give a lease back without having sent anything."""
    await connection.execute(
        "UPDATE audit_stream SET lease_token = NULL, lease_until = NULL WHERE id = $1 AND lease_token = $2",
        stream.id,
        lease,
    )


async def confirm_batch(
    connection: Connection, stream: Stream, lease: UUID, batch: Batch, *, pause_seconds: float = 0.0
) -> bool:
    """Move the cursor behind what the place has confirmed; False if the lease is no longer ours.

    Args:
        connection: outside a transaction.
        stream: as it was when the batch was read.
        lease: of `claim_stream`.
        batch: what was sent.
        pause_seconds: how long to wait for more events before the next batch.
    """
    async with connection.transaction():
        held = await connection.fetchrow(_HELD, stream.id, lease)
        if held is None:
            return False
        await connection.execute(
            _CONFIRM,
            stream.id,
            batch.cursor_xid,
            batch.cursor_id,
            len(batch.events),
            batch.last_at,
            0.0 if batch.more else pause_seconds,
        )
        if held["failures"]:
            said = _said(stream, "audit.stream.recover", "applied", None, held["failures"])
            await record(connection, [said])
    return True


async def fail_batch(connection: Connection, stream: Stream, lease: UUID, code: str) -> float | None:
    """Write that the place refused, or could not be reached; the first of several in a row is audited.

    Args:
        connection: outside a transaction.
        stream: as it was when the batch was read.
        lease: of `claim_stream`.
        code: bounded, and nothing personal.

    Returns:
        After how many seconds it is tried again, or None if the lease is no longer ours.
    """
    async with connection.transaction():
        held = await connection.fetchrow(_HELD, stream.id, lease)
        if held is None:
            return None
        delay = retry_delay(held["failures"])
        await connection.execute(_FAIL, stream.id, code, delay)
        if not held["failures"]:
            await record(connection, [_said(stream, "audit.stream.fail", "failed", code, 1)])
    return delay


async def record_test(connection: Connection, stream: Stream, *, actor: Actor) -> dict[str, Any]:
    """Audit that a test is sent to a stream's place; return the event itself, which is what is sent."""
    async with connection.transaction():
        (event_id,) = await record(connection, [_test_of(stream, actor)])
        line = await connection.fetchval(_ONE, event_id)
    found: dict[str, Any] = orjson.loads(line)
    return found


async def ask_test(connection: Connection, stream_id: UUID, *, actor: Actor) -> None:
    """Audit that a stream is tested, and have that event sent at once, behind whatever else waits.

    Raises:
        UsageError: there is no such stream, or it is paused.
    """
    async with connection.transaction():
        stream = await find_stream(connection, stream_id)
        if stream.state == "paused":
            raise UsageError("The stream is paused; resume it first.")
        await connection.execute("UPDATE audit_stream SET next_at = now() WHERE id = $1", stream_id)
        await record(connection, [_test_of(stream, actor)])


async def last_test(connection: Connection, stream: Stream) -> tuple[datetime, bool] | None:
    """Return when a stream was tested last and whether its place has confirmed that event in its turn."""
    row = await connection.fetchrow(_TESTED, str(stream.id), stream.cursor_xid, stream.cursor_id)
    return (row["occurred_at"], row["confirmed"]) if row else None


def _test_of(stream: Stream, actor: Actor) -> Event:
    return Event(
        action="audit.stream.test",
        phase="applied",
        actor=actor,
        correlation_id=uuid7(),
        tenant_id=stream.tenant_id,
        targets=[{"type": "Stream", "id": str(stream.id), "label": stream.destination}],
    )


def retry_delay(failures: int) -> float:
    """Return after how many seconds to try again: doubled with each failure, with jitter, five minutes at most."""
    full = min(FIRST_DELAY_SECONDS * 2.0 ** min(failures, 30), LONGEST_DELAY_SECONDS)
    return full * random.uniform(0.5, 1.0)  # noqa: S311  no secret hangs on it


def _said(stream: Stream, action: str, phase: str, reason: str | None, failures: int) -> Event:
    return Event(
        action=action,
        phase=phase,
        actor=SYSTEM,
        correlation_id=uuid7(),
        tenant_id=stream.tenant_id,
        reason=reason,
        targets=[{"type": "Stream", "id": str(stream.id), "label": stream.destination}],
        context={"failures": failures},
    )
