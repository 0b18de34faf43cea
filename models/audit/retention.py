"""Retention: events whose time is over are removed, and a signed tombstone in the chain of seals accounts for each.

A month goes as a whole once it is too old for everybody; where tenants differ, or a legal hold keeps the months in
place, a tenant's own events go in bites. Nothing is removed that was never sealed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import orjson

from models.audit.canonical import PLATFORM
from models.audit.note import Seal, read_seal
from models.audit.record import Event, record
from models.audit.seal import COLUMNS, LOCK, XID, read_clock, read_heads, read_horizon, signed, tombstone, write_seals
from models.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    from models.audit.keys import Signer
    from models.audit.record import Actor
    from models.db import Connection

ACTION = "audit.log.retain"
PLATFORM_DAYS = 400
"""How long events of the installation itself are kept, at least."""
_BITE = 20_000

_MONTHS = """
SELECT c.relname AS name, to_timestamp(right(c.relname, 6), 'YYYYMM') AS first
  FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
 WHERE i.inhparent = 'audit_event'::regclass AND c.relname ~ '^audit_event_[0-9]{6}$' ORDER BY c.relname
"""
_SEALS = f"""
SELECT {", ".join(f"s.{name}" for name in COLUMNS)}, l.ids
  FROM audit_seal AS s JOIN audit_leaves AS l USING (stream, seq)
 WHERE s.stream = $1 AND s.kind = 'events' AND s.to_xid > $2 AND s.from_xid <= $3 ORDER BY s.seq
"""  # noqa: S608  constants
_OLD = f"""
SELECT e.occurred_at, e.id, {XID} AS xid FROM audit_event AS e
 WHERE e.tenant_id = $1 AND e.occurred_at < $2 AND {XID} < $3 ORDER BY e.occurred_at, e.id LIMIT {_BITE}
"""  # noqa: S608  constants
_STREAMS = f"""
SELECT coalesce(e.tenant_id, '{PLATFORM}') AS stream, count(*), min({XID}) AS first, max({XID}) AS last
  FROM audit_event AS e WHERE e.occurred_at >= $1 AND e.occurred_at < $2 GROUP BY 1
"""  # noqa: S608  constants
_OF_SEAL = f"""
SELECT e.id FROM audit_event AS e
 WHERE e.occurred_at >= $1 AND e.occurred_at < $2 AND coalesce(e.tenant_id, '{PLATFORM}') = $3
   AND {XID} >= $4 AND {XID} < $5
"""  # noqa: S608  constants


@dataclass(slots=True)
class Removed:
    """What one run of retention did."""

    months: list[str] = field(default_factory=list)
    events: int = 0
    held: bool = False
    """A legal hold kept something in place."""


async def retain(connection: Connection, signer: Signer, *, actor: Actor, correlation_id: UUID) -> Removed:
    """Remove what is older than its tenant wants it kept (`tenant.audit_days`).

    Args:
        connection: outside a transaction.
        signer: signs the tombstones.
        actor: who does it; each removal is audited.
        correlation_id: for the events of it.

    Raises:
        UsageError: a month is to go that has events without a seal.
    """
    done = Removed()
    tenants = await connection.fetch("SELECT id, audit_days FROM tenant ORDER BY id")
    holds = {
        row["tenant_id"] for row in await connection.fetch("SELECT tenant_id FROM audit_hold WHERE released_at IS NULL")
    }
    done.held = bool(holds)
    if None in holds:
        return done
    now = await connection.fetchval("SELECT now()")
    longest = max([PLATFORM_DAYS, *(tenant["audit_days"] for tenant in tenants)])
    if not holds:
        for month in await connection.fetch(_MONTHS):
            if _month_after(month["first"]) <= now - timedelta(days=longest):
                done.events += await _drop(connection, signer, month, actor, correlation_id)
                done.months.append(month["name"])
    for tenant in tenants:
        if tenant["id"] in holds or (tenant["audit_days"] == longest and not holds):
            continue
        before = (now - timedelta(days=tenant["audit_days"])).replace(hour=0, minute=0, second=0, microsecond=0)
        while removed := await _bite(connection, signer, tenant["id"], before, actor, correlation_id):
            done.events += removed
    return done


def _month_after(first: datetime) -> datetime:
    first = first.astimezone(UTC)
    return first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)


async def _drop(connection: Connection, signer: Signer, month: Any, actor: Actor, correlation_id: UUID) -> int:
    """Drop a month's partition; returns how many events went with it."""
    name = month["name"]  # as the catalogue has it, held to a pattern
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
        await connection.execute("SET LOCAL lock_timeout = '2s'; SET LOCAL statement_timeout = 0")
        _, reached = await read_horizon(connection)
        span = (month["first"], _month_after(month["first"]))
        rows, now = await connection.fetch(_STREAMS, *span), await read_clock(connection)
        heads = await read_heads(connection, [row["stream"] for row in rows])
        if any(row["last"] >= reached or row["stream"] not in heads for row in rows):
            raise UsageError(f"{name} has events that no seal covers yet; nothing was removed.")
        count = sum(row["count"] for row in rows)
        event = Event(
            action=ACTION,
            phase="applied",
            actor=actor,
            correlation_id=correlation_id,
            context={"month": name.removeprefix("audit_event_"), "events": count},
        )
        [event_id] = await record(connection, [event])
        stones = []
        for row in rows:
            gone: dict[int, list[int]] = {}
            for seal, ids in await _seals(connection, row["stream"], row["first"], row["last"]):
                here = await connection.fetch(_OF_SEAL, *span, row["stream"], seal.from_xid, seal.to_xid)
                _note(gone, seal, ids, (each["id"].bytes for each in here))
            stones.append(_stone(heads[row["stream"]], gone, row["count"], signer, now))
        await connection.execute("SELECT usher_drop_audit_month($1, $2)", event_id, month["first"])
        await write_seals(connection, stones)
    return int(count)


async def _bite(
    connection: Connection, signer: Signer, tenant_id: UUID, before: datetime, actor: Actor, correlation_id: UUID
) -> int:
    """Delete some of a tenant's events from before a moment; returns how many, 0 when there are none left."""
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
        _, reached = await read_horizon(connection)
        rows = await connection.fetch(_OLD, tenant_id, before, reached)
        if not rows:
            return 0
        event = Event(
            action=ACTION,
            phase="applied",
            actor=actor,
            correlation_id=correlation_id,
            tenant_id=tenant_id,
            context={"before": before.isoformat(), "events": len(rows)},
        )
        [event_id] = await record(connection, [event])
        xids = [row["xid"] for row in rows]
        ids_gone = {row["id"].bytes for row in rows}
        gone: dict[int, list[int]] = {}
        for seal, ids in await _seals(connection, tenant_id, min(xids), max(xids)):
            _note(gone, seal, ids, ids_gone)
        heads = await read_heads(connection, [tenant_id])
        removed: int = await connection.fetchval(
            "SELECT usher_delete_audit_events($1, $2, $3, $4)",
            event_id,
            before,
            [row["occurred_at"] for row in rows],
            [row["id"] for row in rows],
        )
        now = await read_clock(connection)
        await write_seals(connection, [_stone(heads[tenant_id], gone, len(rows), signer, now)])
    return removed


async def _seals(connection: Connection, stream: UUID, first: int, last: int) -> list[tuple[Seal, bytes]]:
    return [(read_seal(row), row["ids"]) for row in await connection.fetch(_SEALS, stream, first, last)]


def _note(gone: dict[int, list[int]], seal: Seal, ids: bytes, removed: Iterable[bytes]) -> None:
    """Note the places that events have in their seal."""
    wanted = set(removed)
    places = [place for place in range(seal.count) if ids[16 * place : 16 * place + 16] in wanted]
    if places:
        gone[seal.seq] = places


def _stone(head: Seal, gone: dict[int, list[int]], count: int, signer: Signer, now: datetime) -> Seal:
    seals = {str(seq): _runs(places) for seq, places in gone.items()}
    detail = orjson.dumps({"reason": "retention", "seals": seals}, option=orjson.OPT_SORT_KEYS).decode()
    return signed(tombstone(head, detail, count, now), signer)


def _runs(places: Sequence[int]) -> list[list[int]]:
    """Return places, in order, as runs of first and last."""
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][1] == place - 1:
            runs[-1][1] = place
        else:
            runs.append([place, place])
    return runs


async def rows_outside_partitions(connection: Connection) -> bool:
    """Tell whether an event fell into the default partition: the month's own was not there in time."""
    found: bool = await connection.fetchval("SELECT EXISTS (SELECT FROM audit_event_default)")
    return found
