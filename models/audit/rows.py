"""Holding events to their seals, window by window: what of each seal is missing, and which rows no seal has.

A window is all between two transaction ids where seals end, so that each can be looked at by itself.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, TypeAlias
from uuid import UUID

from models.audit.canonical import PLATFORM, leaf_of
from models.audit.chain import Chain, bounds_of
from models.audit.findings import Finding
from models.audit.leaves import line_of, place_of, read, rows_of
from models.audit.lines import each_block, lines
from models.audit.merkle import root_of
from models.audit.narrow import Row, Sealed, compare, unpack
from models.audit.seal import XID

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from models.audit.note import Seal
    from models.db import Connection

WINDOW = 20_000
"""About how many events are held at once."""
MOST_STRANGE = 10_000
"""Rows whose text is kept to be explained."""

_Held: TypeAlias = tuple[int, bytes, bytes, bool]  # a `Row` yet to be: of most nothing more is asked
_ROWS = rows_of(f"{XID} >= $1 AND {XID} < $2 AND ($3::uuid IS NULL OR coalesce(e.tenant_id, '{PLATFORM}') = $3)")
BY_ID = lines("e.id = ANY ($1::uuid[])")
_LEAVES = """
SELECT stream, seq, ids, xids, leaves FROM unnest($1::uuid[], $2::bigint[]) AS s (stream, seq)
  JOIN audit_leaves USING (stream, seq)
"""


@dataclass(slots=True)
class Found:
    """What rows came to beside their seals."""

    events: int = 0
    erased: int = 0
    findings: list[Finding] = field(default_factory=list)
    missing: list[Sealed] = field(default_factory=list)
    strange: list[tuple[UUID, Row, str | bytes, int | None]] = field(default_factory=list)
    erasures: dict[str, tuple[UUID, str]] = field(default_factory=dict)
    """By the event of an erasure that a row names, a stream and event of those that name it."""

    def note_strange(self, stream: UUID, row: Row, text: str | bytes, seq: int | None) -> None:
        """Keep a row that no seal has, to be explained."""
        if len(self.strange) < MOST_STRANGE:
            self.strange.append((stream, row, text, seq))


async def hold(
    connection: Connection, chains: Mapping[UUID, Chain], windows: Iterable[tuple[int, int]], stream: UUID | None
) -> Found:
    """Hold every row of some windows to its seal.

    Args:
        connection: inside a transaction that sees one state of the store, and does without sequential scans.
        chains: the seals of all streams that are wanted.
        windows: as `windows_of` returns them.
        stream: only this one.
    """
    run = _Run(connection, chains, stream)
    for first, bound in windows:
        await run.window(first, bound)
    return run.found


class _Run:
    """Some windows under way."""

    def __init__(self, connection: Connection, chains: Mapping[UUID, Chain], stream: UUID | None) -> None:
        self.found = Found()
        self._connection = connection
        self._stream = stream
        self._reach = {chain.stream: _Reach(chain) for chain in chains.values()}

    async def window(self, first: int, bound: int) -> None:
        """Hold the rows between two transaction ids to their seals."""
        reach = self._reach
        rows: dict[tuple[UUID, int], list[_Held]] = {}
        for one in reach.values():
            for seal in one.between(first, bound):
                rows[one.chain.stream, seal.seq] = []

        found = self.found
        places: dict[bytes, _Place] = {}

        def note(block: bytes) -> None:
            events = read(block)
            found.events += len(events)
            for number, (tail, event_id, leaf, sound, erasure_id) in enumerate(events):
                place = places.get(tail)
                if place is None:
                    place = places[tail] = _placed(tail, reach, rows)
                if erasure_id is not None:
                    found.erased += 1
                    found.erasures.setdefault(erasure_id, (place.stream, str(UUID(bytes=event_id))))
                if place.held is not None:
                    place.held.append((place.xid, event_id, leaf, sound))
                elif not place.missing:
                    text = line_of(block.split(b"\n")[number])
                    found.note_strange(place.stream, Row(place.xid, event_id, leaf, sound), text, place.seq)

        await each_block(self._connection, _ROWS, first, bound, self._stream, work=note)
        suspects = {
            key: [Row(*row) for row in held] for key, held in rows.items() if not _fits(reach[key[0]], key[1], held)
        }
        keys = list(suspects)
        for start in range(0, len(keys), 100):
            await self._narrow({key: suspects[key] for key in keys[start : start + 100]})

    async def _narrow(self, suspects: dict[tuple[UUID, int], list[Row]]) -> None:
        kept = await self._connection.fetch(_LEAVES, [key[0] for key in suspects], [key[1] for key in suspects])
        leaves = {(each["stream"], each["seq"]): each for each in kept}
        strange: dict[bytes, tuple[UUID, Row, int]] = {}
        for key, rows in suspects.items():
            chain = self._reach[key[0]].chain
            seal, removed = chain.seals[key[1]], chain.removed.get(key[1], set())
            each = leaves.get(key)
            sealed = unpack(seal, each["ids"], each["xids"], each["leaves"]) if each else None
            if sealed is None:
                self._unnarrowed(seal, rows)
                continue
            places = set(range(seal.count)) if removed is None else removed
            missing, alien = compare(sealed, rows, places)
            self.found.missing += missing
            strange.update({row.id: (key[0], row, key[1]) for row in alien})
        if strange:
            for each in await self._connection.fetch(BY_ID, [UUID(bytes=one) for one in strange]):
                leaf = leaf_of(each["line"])
                stream, row, seq = strange[leaf.id]
                if leaf.hash == row.hash:
                    self.found.note_strange(stream, row, each["line"], seq)

    def _unnarrowed(self, seal: Seal, rows: Sequence[Row]) -> None:
        self.found.findings.append(
            Finding("edited", seal.stream, seal.seq, None, "The leaves kept with the seal were changed or removed.")
        )
        if root_of([row.hash for row in rows]) != seal.root:
            kind = "deleted" if len(rows) < seal.count else "inserted" if len(rows) > seal.count else "edited"
            detail = f"{seal.count} events were sealed, {len(rows)} are there; without the leaves no row can be named."
            self.found.findings.append(Finding(kind, seal.stream, seal.seq, None, detail))


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


def windows_of(chains: Iterable[Chain], since: datetime | None, until: datetime | None) -> Iterator[tuple[int, int]]:
    """Yield pairs of transaction ids, all of whose events are sealed, about `WINDOW` events between each pair."""
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
        if held >= WINDOW or bound == last:
            yield begun, bound
            held, begun = 0, bound
