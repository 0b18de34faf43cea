"""Sealing: signing, outside the transactions that write events, what they wrote.

Each tenant's events are a stream of their own, those of the installation another. A seal covers all events of its
stream from one transaction id to another, and no event can appear behind it any more: it ends below the safe
horizon, the oldest transaction that may still be writing (reference/audit-logs.md §2, §3.6).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import asyncpg

from models.audit.canonical import PLATFORM
from models.audit.leaves import place_of, read, rows_of
from models.audit.lines import each_block
from models.audit.merkle import EMPTY_ROOT, root_of
from models.audit.note import ZEROS, Seal, read_seal
from models.errors import UsherError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from uuid import UUID

    from models.audit.keys import Signer
    from models.db import Connection

LOCK = 7311203
MOST_EVENTS = 10_000
"""About how many events one transaction seals."""
EMPTY_AFTER_HOURS = 1

XID = "(e.xid::text::bigint)"  # as the index has it
_RANGE = f"{XID} >= $1 AND {XID} < $2"
_ROWS = rows_of(_RANGE)
_HORIZON = """
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon,
       (SELECT coalesce(max(to_xid), 0) FROM audit_seal) AS reached
"""
_COUNT = f"SELECT count(*) AS count, min({XID}) AS first, max({XID}) AS last FROM audit_event AS e WHERE {_RANGE}"  # noqa: S608  constants
_BUCKETS = f"""
SELECT ({XID} - $3) / $4 AS bucket, count(*) AS count FROM audit_event AS e WHERE {_RANGE} GROUP BY 1 ORDER BY 1
"""  # noqa: S608  constants
COLUMNS = (
    *("stream", "seq", "kind", "from_xid", "to_xid", "count", "root", "previous", "detail", "sealed_at"),
    *("key_id", "signature", "hash"),
)
_HEADS = f"""
SELECT head.* FROM unnest($1::uuid[]) AS s (stream)
 CROSS JOIN LATERAL (SELECT {", ".join(f"h.{name}" for name in COLUMNS)} FROM audit_seal AS h
                      WHERE h.stream = s.stream ORDER BY h.seq DESC LIMIT 1) AS head
"""  # noqa: S608  constants
_IDLE = f"""
SELECT head.* FROM (SELECT id AS stream FROM tenant UNION ALL SELECT '{PLATFORM}'::uuid) AS s
 CROSS JOIN LATERAL (SELECT {", ".join(f"h.{name}" for name in COLUMNS)} FROM audit_seal AS h
                      WHERE h.stream = s.stream ORDER BY h.seq DESC LIMIT 1) AS head
 WHERE head.sealed_at <= now() - make_interval(hours => $1)
"""  # noqa: S608  constants


async def read_horizon(connection: Connection) -> tuple[int, int]:
    """Return the safe horizon, and the transaction id that seals reach to."""
    [row] = await connection.fetch(_HORIZON)
    return row["horizon"], row["reached"]


async def read_clock(connection: Connection) -> datetime:
    """Return the moment of the database's clock: what seals bear, whatever clock their worker has."""
    moment: datetime = await connection.fetchval("SELECT now()")
    return moment


class BehindError(UsherError):
    """The transaction ids of this server are behind those that are sealed: it was filled from a dump of another."""


@dataclass(slots=True)
class Sealed:
    """What one round of sealing did."""

    seals: int = 0
    events: int = 0
    skipped: bool = False
    """Somebody else seals at this moment."""


async def seal_waiting(connection: Connection, signer: Signer) -> Sealed:
    """Seal everything below the safe horizon, about `MOST_EVENTS` a transaction, and what has been empty for an hour.

    Args:
        connection: outside a transaction.
        signer: signs.

    Raises:
        BehindError: see there; nothing can be sealed until the server's transaction ids have been put forward.
    """
    done = Sealed()
    horizon, reached = await read_horizon(connection)
    if horizon < reached:
        raise BehindError(
            f"The audit log is sealed up to transaction {reached}, but this PostgreSQL server is only at {horizon}:"
            " it was filled from a dump. See Sealing in docs/audit.md."
        )
    for bound in await _bounds(connection, reached, horizon):
        if not await _seal_up_to(connection, signer, bound, done):
            done.skipped = True
            return done
    await _seal_idle(connection, signer, done)
    return done


async def _bounds(connection: Connection, reached: int, horizon: int) -> list[int]:
    """Return the transaction ids at which to end seals, so that each has `MOST_EVENTS` or not many more."""
    [row] = await connection.fetch(_COUNT, reached, horizon)
    if not row["count"]:
        return []
    if row["count"] <= MOST_EVENTS:
        return [horizon]
    first = row["first"]
    width = max(1, (row["last"] - first + 1) * MOST_EVENTS // (4 * row["count"]))
    bounds, held = [], 0
    for bucket in await connection.fetch(_BUCKETS, reached, horizon, first, width):
        if held and held + bucket["count"] > MOST_EVENTS:
            bounds.append(first + bucket["bucket"] * width)
            held = 0
        held += bucket["count"]
    return [*bounds, horizon]


async def _seal_up_to(connection: Connection, signer: Signer, bound: int, done: Sealed) -> bool:
    """Seal each stream's events from where seals end up to ``bound``; False if somebody else is at it."""
    try:
        async with connection.transaction(isolation="repeatable_read"):
            if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", LOCK):
                return False
            horizon, reached = await read_horizon(connection)
            if not reached < bound <= horizon:
                return False
            streams: dict[UUID, list[tuple[int, bytes, bytes]]] = {}
            places: dict[bytes, tuple[int, list[tuple[int, bytes, bytes]]]] = {}
            await connection.execute("SET LOCAL enable_seqscan = off")  # statistics lag behind where it matters

            def note(block: bytes) -> None:
                for place, event_id, leaf, _, _ in read(block):
                    if (known := places.get(place)) is None:
                        stream, xid = place_of(place)
                        known = places[place] = xid, streams.setdefault(stream, [])
                    known[1].append((known[0], event_id, leaf))

            await each_block(connection, _ROWS, reached, bound, work=note)
            heads = await read_heads(connection, list(streams))
            seals, now = [], await read_clock(connection)
            for stream, leaves in streams.items():
                leaves.sort()
                made = _next(heads.get(stream), stream, bound, "events", [leaf[2] for leaf in leaves], now)
                seals.append(signed(made, signer))
                await connection.execute(
                    "INSERT INTO audit_leaves (stream, seq, ids, xids, leaves) VALUES ($1, $2, $3, $4, $5)",
                    made.stream,
                    made.seq,
                    b"".join(leaf[1] for leaf in leaves),
                    b"".join(leaf[0].to_bytes(8, "big") for leaf in leaves),
                    b"".join(leaf[2] for leaf in leaves),
                )
                done.events += len(leaves)
            await write_seals(connection, seals)
            done.seals += len(seals)
    except asyncpg.UniqueViolationError:
        # Either somebody sealed between our first look and the lock, or something is where nothing may be.
        if (await read_horizon(connection))[1] < bound:
            raise
        return False
    return True


async def _seal_idle(connection: Connection, signer: Signer, done: Sealed) -> None:
    """Say of every stream without a seal for an hour that nothing happened."""
    try:
        async with connection.transaction(isolation="repeatable_read"):
            if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", LOCK):
                return
            bound, first = await read_horizon(connection)
            # All below `reached` is sealed; what came since has not been looked at.
            idle = [read_seal(each) for each in await connection.fetch(_IDLE, EMPTY_AFTER_HOURS)]
            busy: set[UUID] = set()
            if idle and first < bound:
                rows = await connection.fetch(
                    f"SELECT DISTINCT tenant_id FROM audit_event AS e WHERE {_RANGE}",  # noqa: S608  constants
                    first,
                    bound,
                )
                busy = {each["tenant_id"] or PLATFORM for each in rows}
            if busy:
                bound = first  # they are sealed in the next round, and no seal may reach beyond them
            now = await read_clock(connection)
            made = [_next(head, head.stream, max(bound, head.to_xid), "empty", [], now) for head in idle]
            seals = [signed(each, signer) for each in made]
            await write_seals(connection, seals)
            done.seals += len(seals)
    except asyncpg.UniqueViolationError:
        return  # as above; the next round says so if it is more than that


async def read_heads(connection: Connection, streams: Sequence[UUID]) -> dict[UUID, Seal]:
    """Return the last seal of each of ``streams`` that has one."""
    return {row["stream"]: read_seal(row) for row in await connection.fetch(_HEADS, streams)}


def _next(head: Seal | None, stream: UUID, bound: int, kind: str, leaves: Sequence[bytes], sealed_at: datetime) -> Seal:
    return Seal(
        stream=stream,
        seq=head.seq + 1 if head else 1,
        kind=kind,
        from_xid=head.to_xid if head else 0,
        to_xid=bound,
        count=len(leaves),
        root=root_of(leaves) if leaves else EMPTY_ROOT,
        previous=head.hash() if head else ZEROS,
        detail=None,
        sealed_at=sealed_at,
    )


def tombstone(head: Seal, detail: str, count: int, sealed_at: datetime) -> Seal:
    """Return the seal that follows ``head`` and says what was removed; not signed yet."""
    return replace(_next(head, head.stream, head.to_xid, "tombstone", [], sealed_at), detail=detail, count=count)


def signed(seal: Seal, signer: Signer) -> Seal:
    """Return the seal with its signature."""
    return replace(seal, key_id=signer.verifier.key_id, signature=signer.sign(seal.body()))


async def write_seals(connection: Connection, seals: Iterable[Seal]) -> None:
    """Insert seals; the caller's transaction decides."""
    await connection.executemany(
        f"INSERT INTO audit_seal ({', '.join(COLUMNS)})"  # noqa: S608  constants
        f" VALUES ({', '.join(f'${place}' for place in range(1, len(COLUMNS) + 1))})",
        [[seal.hash() if name == "hash" else getattr(seal, name) for name in COLUMNS] for seal in seals],
    )


async def know_key(connection: Connection, signer: Signer) -> None:
    """List the signer's public key in the database, for whoever exports."""
    await connection.execute(
        "INSERT INTO audit_key (key_id, verifier) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        signer.verifier.key_id,
        signer.verifier.text,
    )
