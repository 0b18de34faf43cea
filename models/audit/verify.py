"""Verifying the audit log: every row against its seal, every seal against the one before and against the anchors.

Everything is computed anew from the stored columns. What is trusted: the public keys that the caller brings, and
the anchors, both from outside the database.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, TypeAlias
from uuid import UUID

from models.audit.canonical import PLATFORM, leaf_of
from models.audit.chain import Chain, bounds_of, check_anchors, read_chains
from models.audit.findings import Finding, Report
from models.audit.keys import by_id
from models.audit.leaves import line_of, place_of, read, rows_of
from models.audit.lines import each_block, lines
from models.audit.merkle import root_of
from models.audit.narrow import Row, Sealed, compare, explain, unpack
from models.audit.seal import XID, read_horizon

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from models.audit.keys import Verifier
    from models.audit.note import Seal
    from models.db import Connection

_WINDOW = 20_000  # about how many events are held at once
_MOST_STRANGE = 10_000  # rows whose text is kept to be explained
_LATE = timedelta(minutes=10)

_Held: TypeAlias = tuple[int, bytes, bytes, bool]  # a `Row` yet to be: of most nothing more is asked

_ROWS = rows_of(f"{XID} >= $1 AND {XID} < $2 AND ($3::uuid IS NULL OR coalesce(e.tenant_id, '{PLATFORM}') = $3)")
_BY_ID = lines("e.id = ANY ($1::uuid[])")
_LEAVES = """
SELECT stream, seq, ids, xids, leaves FROM unnest($1::uuid[], $2::bigint[]) AS s (stream, seq)
  JOIN audit_leaves USING (stream, seq)
"""
_ERASURES = """
SELECT id FROM audit_event WHERE id = ANY ($1::uuid[]) AND action = 'audit.person.erase'
"""
_YOUNGEST = """
SELECT greatest((SELECT max(occurred_at) FROM audit_event), (SELECT max(sealed_at) FROM audit_seal))
"""
_UNSEALED = f"SELECT count(*), min(occurred_at) AS oldest FROM audit_event AS e WHERE {XID} >= $1 AND {XID} < $2"  # noqa: S608  constants


async def verify(
    connection: Connection,
    trusted: Sequence[Verifier],
    *,
    anchors: Iterable[Seal] | None = None,
    stream: UUID | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Report:
    """Verify the audit log, or a part of it.

    Args:
        connection: outside a transaction.
        trusted: public keys, from outside the database.
        anchors: seals as the anchor file has them, or None if there is no such file.
        stream: only this tenant's (or `PLATFORM`).
        since: rows from seals of this moment on; the chain of seals is verified whole all the same.
        until: rows up to the seals of this moment.
    """
    began = time.monotonic()
    run = _Run(connection, stream)
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        await connection.execute("SET LOCAL enable_seqscan = off; SET LOCAL statement_timeout = 0")
        chains = await read_chains(connection, by_id(trusted), run.report, stream)
        run.report.streams = len(chains)
        if anchors is not None:
            known = [anchor for anchor in anchors if stream is None or anchor.stream == stream]
            run.report.anchors = len(known)
            youngest = await connection.fetchval(_YOUNGEST)
            run.report.findings += check_anchors(known, chains, by_id(trusted), youngest)
        else:
            run.report.incomplete.append("Without anchors nothing tells whether the newest seals were cut off.")
        if not trusted:
            run.report.incomplete.append("Without a public key no signature could be verified.")
        await run.rows(chains, since, until)
        await run.settle()
        await run.unsealed(chains)
    run.report.seconds = time.monotonic() - began
    return run.report


class _Run:
    """One verification under way."""

    def __init__(self, connection: Connection, stream: UUID | None) -> None:
        self.report = Report()
        self._connection = connection
        self._stream = stream
        self._missing: list[Sealed] = []
        self._strange: list[tuple[UUID, Row, str | bytes, int | None]] = []
        self._erasures: dict[str, tuple[UUID, str]] = {}

    async def rows(self, chains: dict[UUID, Chain], since: datetime | None, until: datetime | None) -> None:
        """Hold every row to its seal, window by window, each between two transaction ids where seals end."""
        reach = {chain.stream: _Reach(chain) for chain in chains.values()}
        for first, bound in _windows(chains.values(), since, until):
            await self._window(reach, first, bound)

    async def _window(self, reach: dict[UUID, _Reach], first: int, bound: int) -> None:
        rows: dict[tuple[UUID, int], list[_Held]] = {}
        for one in reach.values():
            for seal in one.between(first, bound):
                rows[one.chain.stream, seal.seq] = []

        places: dict[bytes, _Place] = {}

        def note(block: bytes) -> None:
            found = read(block)
            self.report.events += len(found)
            for number, (tail, event_id, leaf, sound, erasure_id) in enumerate(found):
                place = places.get(tail)
                if place is None:
                    place = places[tail] = _placed(tail, reach, rows)
                if erasure_id is not None:
                    self.report.erased += 1
                    self._erasures.setdefault(erasure_id, (place.stream, str(UUID(bytes=event_id))))
                if place.held is not None:
                    place.held.append((place.xid, event_id, leaf, sound))
                elif not place.missing:
                    text = line_of(block.split(b"\n")[number])
                    self._note_strange(place.stream, Row(place.xid, event_id, leaf, sound), text, place.seq)

        await each_block(self._connection, _ROWS, first, bound, self._stream, work=note)
        suspects = {
            key: [Row(*row) for row in held] for key, held in rows.items() if not _fits(reach[key[0]], key[1], held)
        }
        keys = list(suspects)
        for start in range(0, len(keys), 100):
            await self._narrow(reach, {key: suspects[key] for key in keys[start : start + 100]})

    async def _narrow(self, reach: dict[UUID, _Reach], suspects: dict[tuple[UUID, int], list[Row]]) -> None:
        kept = await self._connection.fetch(_LEAVES, [key[0] for key in suspects], [key[1] for key in suspects])
        leaves = {(each["stream"], each["seq"]): each for each in kept}
        strange: dict[bytes, tuple[UUID, Row, int]] = {}
        for key, rows in suspects.items():
            seal, removed = reach[key[0]].chain.seals[key[1]], reach[key[0]].chain.removed.get(key[1], set())
            each = leaves.get(key)
            sealed = unpack(seal, each["ids"], each["xids"], each["leaves"]) if each else None
            if sealed is None:
                self._unnarrowed(seal, rows)
                continue
            places = set(range(seal.count)) if removed is None else removed
            missing, alien = compare(sealed, rows, places)
            self._missing += missing
            strange.update({row.id: (key[0], row, key[1]) for row in alien})
        if strange:
            for each in await self._connection.fetch(_BY_ID, [UUID(bytes=one) for one in strange]):
                leaf = leaf_of(each["line"])
                stream, row, seq = strange[leaf.id]
                if leaf.hash == row.hash:
                    self._note_strange(stream, row, each["line"], seq)

    def _unnarrowed(self, seal: Seal, rows: Sequence[Row]) -> None:
        self.report.findings.append(
            Finding("edited", seal.stream, seal.seq, None, "The leaves kept with the seal were changed or removed.")
        )
        if root_of([row.hash for row in rows]) != seal.root:
            kind = "deleted" if len(rows) < seal.count else "inserted" if len(rows) > seal.count else "edited"
            detail = f"{seal.count} events were sealed, {len(rows)} are there; without the leaves no row can be named."
            self.report.findings.append(Finding(kind, seal.stream, seal.seq, None, detail))

    def _note_strange(self, stream: UUID, row: Row, text: str | bytes, seq: int | None) -> None:
        if len(self._strange) < _MOST_STRANGE:
            self._strange.append((stream, row, text, seq))

    async def settle(self) -> None:
        """Explain what does not fit, and ask for the erasures that rows name."""
        # A row that was moved out of what was looked at is still somewhere.
        seen = {row.id for _, row, _, _ in self._strange}
        lost = [UUID(bytes=one.id) for one in self._missing[:_MOST_STRANGE] if one.id not in seen]
        if lost:
            for each in await self._connection.fetch(_BY_ID, lost):
                leaf = leaf_of(each["line"])
                row = Row(leaf.xid, leaf.id, leaf.hash, leaf.sound)
                self._note_strange(UUID(leaf.stream), row, each["line"], None)
        self.report.findings += explain(self._missing, self._strange)
        if self._erasures:
            rows = await self._connection.fetch(_ERASURES, list(self._erasures))
            found = {str(each["id"]) for each in rows}
            for erasure_id, (stream, event_id) in self._erasures.items():
                if erasure_id not in found:
                    detail = "Its personal values are gone, and no erasure accounts for it."
                    self.report.findings.append(Finding("edited", stream, None, event_id, detail))

    async def unsealed(self, chains: dict[UUID, Chain]) -> None:
        """Say if the sealer has fallen behind."""
        reached = max((chain.head.to_xid for chain in chains.values() if chain.head), default=0)
        horizon, everybody = await read_horizon(self._connection)
        [row] = await self._connection.fetch(_UNSEALED, max(reached, everybody), horizon)
        if row["count"] and row["oldest"] < datetime.now(UTC) - _LATE:
            self.report.incomplete.append(
                f"{row['count']} events since {row['oldest']:%Y-%m-%d %H:%M:%S}Z are not sealed yet."
            )


class _Place(NamedTuple):
    """Where the events of one transaction in one stream belong."""

    stream: UUID
    xid: int
    seq: int | None
    held: list[_Held] | None
    missing: bool


class _Reach:
    """Which seal of a stream a transaction id falls into."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self._seals = list(chain.seals.values())
        self._ends = [seal.to_xid for seal in self._seals]

    def of(self, xid: int) -> Seal | None:
        place = bisect_right(self._ends, xid)
        if place == len(self._seals) or self._seals[place].from_xid > xid:
            return None
        return self._seals[place]

    def is_missing(self, xid: int) -> bool:
        """Tell whether a seal is known to be missing there, which is reported once and not for every row."""
        return self.chain.cut_off or bisect_right(self._ends, xid) < len(self._seals)

    def between(self, first: int, bound: int) -> Iterator[Seal]:
        """Yield the seals that end behind ``first`` and not behind ``bound``."""
        for place in range(bisect_right(self._ends, first), bisect_right(self._ends, bound)):
            yield self._seals[place]


def _placed(tail: bytes, reach: Mapping[UUID, _Reach], rows: Mapping[tuple[UUID, int], list[_Held]]) -> _Place:
    stream, xid = place_of(tail)
    of = reach[stream].of(xid) if stream in reach else None
    held = rows.get((stream, of.seq)) if of else None
    missing = of is None and stream in reach and reach[stream].is_missing(xid)
    return _Place(stream, xid, of.seq if of else None, held, missing)


def _fits(reach: _Reach, seq: int, rows: list[_Held]) -> bool:
    """Tell whether rows are all that a seal is over."""
    seal, removed = reach.chain.seals[seq], reach.chain.removed.get(seq, set())
    if removed is None:
        return not rows
    rows.sort()
    return (
        not removed
        and len(rows) == seal.count
        and all(row[3] for row in rows)
        and root_of([row[2] for row in rows]) == seal.root
    )


def _windows(chains: Iterable[Chain], since: datetime | None, until: datetime | None) -> Iterator[tuple[int, int]]:
    """Yield pairs of transaction ids, all of whose events are sealed, about `_WINDOW` events between each pair."""
    chains = list(chains)
    counts: dict[int, int] = {}
    first, last = 0, 0
    for chain in chains:
        for seal in chain.seals.values():
            counts[seal.to_xid] = counts.get(seal.to_xid, 0) + seal.count
            if since and seal.sealed_at < since:
                first = max(first, seal.to_xid)
            if until is None or seal.sealed_at <= until + timedelta(minutes=2):
                last = max(last, seal.to_xid)
    held, begun = 0, first
    for bound in bounds_of(chains):
        if not first < bound <= last:
            continue
        held += counts[bound]
        if held >= _WINDOW or bound == last:
            yield begun, bound
            held, begun = 0, bound
