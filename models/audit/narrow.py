"""Narrowing a seal that does not fit its rows to the rows at fault."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from models.audit.canonical import leaf_of
from models.audit.findings import Finding
from models.audit.merkle import root_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from models.audit.note import Seal

_MOST_GUESSES = 50


class Row(NamedTuple):
    """An event as it stands in the table; rows sort as they are sealed."""

    xid: int
    id: bytes
    hash: bytes
    sound: bool


@dataclass(frozen=True, slots=True)
class Sealed:
    """An event as it was sealed."""

    seal: Seal
    place: int
    xid: int
    id: bytes
    hash: bytes


def unpack(seal: Seal, ids: bytes, xids: bytes, leaves: bytes) -> list[Sealed] | None:
    """Return what a seal was made over, or None if what is kept of it is not that."""
    count = seal.count
    if (len(ids), len(xids), len(leaves)) != (16 * count, 8 * count, 32 * count):
        return None
    hashes = [leaves[start : start + 32] for start in range(0, 32 * count, 32)]
    if root_of(hashes) != seal.root:
        return None
    return [
        Sealed(seal, place, int.from_bytes(xids[8 * place :][:8], "big"), ids[16 * place :][:16], hashes[place])
        for place in range(count)
    ]


def compare(sealed: Sequence[Sealed], rows: Sequence[Row], removed: set[int]) -> tuple[list[Sealed], list[Row]]:
    """Return what was sealed and has no equal among the rows (but for what was removed), and the rows without one."""
    present = {row.hash for row in rows if row.sound}
    known = {one.hash for one in sealed}
    missing = [one for one in sealed if one.hash not in present and one.place not in removed]
    strange = [row for row in rows if not row.sound or row.hash not in known]
    return missing, strange


def explain(missing: Sequence[Sealed], strange: Sequence[tuple[UUID, Row, str | bytes, int | None]]) -> list[Finding]:
    """Say what was done to events, from what is missing in seals and the rows that no seal has.

    Args:
        missing: of all streams.
        strange: stream, row, its line, and the seal whose range it stands in.
    """
    findings = []
    gone = {one.id: one for one in missing}
    left = []
    for stream, row, text, seq in strange:
        one = gone.pop(row.id, None)
        if one is None:
            left.append((stream, row, text, seq))
            continue
        moved = row.sound and leaf_of(text, xid=str(one.xid)).hash == one.hash
        detail = f"It was moved from transaction {one.xid} to {row.xid}." if moved else "It is not what was sealed."
        findings.append(_found("reordered" if moved else "edited", one.seal.stream, one.seal.seq, row.id, detail))
    for stream, row, text, seq in left:
        one = _under_another_id(gone, text)
        if one is None:
            findings.append(_found("inserted", stream, seq, row.id, "No seal has it."))
            continue
        del gone[one.id]
        was = UUID(bytes=one.id)
        findings.append(_found("edited", one.seal.stream, one.seal.seq, row.id, f"It was sealed under the id {was}."))
    findings += [
        _found("deleted", one.seal.stream, one.seal.seq, one.id, f"It was number {one.place} of its seal.")
        for one in gone.values()
    ]
    return findings


def _under_another_id(gone: Mapping[bytes, Sealed], text: str | bytes) -> Sealed | None:
    """Return the sealed event that this row would be, had it not been given another id."""
    if len(gone) > _MOST_GUESSES:
        return None
    for one in gone.values():
        if leaf_of(text, id=str(UUID(bytes=one.id)), xid=str(one.xid)).hash == one.hash:
            return one
    return None


def _found(kind: str, stream: UUID, seq: int | None, event_id: bytes, detail: str) -> Finding:
    return Finding(kind, stream, seq, str(UUID(bytes=event_id)), detail)
