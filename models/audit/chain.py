"""Verifying the chain of a stream's seals: none is missing, each follows from the last, each is rightly signed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson

from models.audit.findings import Finding
from models.audit.note import ZEROS, read_seal
from models.audit.seal import COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from models.audit.findings import Report
    from models.audit.keys import Verifier
    from models.audit.note import Seal
    from models.db import Connection

_SEALS = f"""
SELECT {", ".join(COLUMNS)} FROM audit_seal WHERE $1::uuid IS NULL OR stream = $1 ORDER BY stream, seq
"""  # noqa: S608  constants
_PREFETCH = 500


@dataclass(slots=True)
class Chain:
    """A stream's seals, as far as the rows are verified by them."""

    stream: UUID
    seals: dict[int, Seal] = field(default_factory=dict)
    """Of events and of their absence, in order; tombstones are taken in below."""
    removed: dict[int, set[int] | None] = field(default_factory=dict)
    """By seal: which places a tombstone accounts for; None for all of them."""
    hashes: dict[int, bytes] = field(default_factory=dict)
    """Of all seals."""
    head: Seal | None = None
    cut_off: bool = False
    """An anchor knows a later seal."""


async def read_chains(
    connection: Connection, trusted: Mapping[str, Verifier], report: Report, stream: UUID | None
) -> dict[UUID, Chain]:
    """Read every seal (or one stream's) and hold it to the one before; what is wrong goes into ``report``.

    Args:
        connection: inside a transaction.
        trusted: public keys by id.
        report: takes findings and the number of seals.
        stream: only this one.
    """
    chains: dict[UUID, Chain] = {}
    pending: Seal | None = None  # whose signature is bad, until it is seen whether the next one still follows it
    async for row in connection.cursor(_SEALS, stream, prefetch=_PREFETCH):
        seal = read_seal(row)
        report.seals += 1
        chain = chains.get(seal.stream)
        if chain is None:
            chain = chains[seal.stream] = Chain(seal.stream)
        _judge(pending, seal, trusted, report)
        pending = None
        _follow(chain.head, seal, row["hash"], report)
        verifier = trusted.get(seal.key_id)
        if verifier is None or not verifier.holds(seal.body(), seal.signature):
            pending = seal
        elif seal.kind == "tombstone":
            _take_removed(chain, seal, report)
        if seal.kind != "tombstone":
            chain.seals[seal.seq] = seal
        chain.hashes[seal.seq] = seal.hash()
        chain.head = seal
    _judge(pending, None, trusted, report)
    return chains


def _follow(last: Seal | None, seal: Seal, stored_hash: bytes, report: Report) -> None:
    expected = last.seq + 1 if last else 1
    if seal.seq != expected:
        gone = str(expected) if seal.seq == expected + 1 else f"{expected} to {seal.seq - 1}"
        report.findings.append(
            Finding("seal_dropped", seal.stream, expected, None, f"Seal {gone} is gone; seal {seal.seq} follows it.")
        )
        return
    if seal.previous != (last.hash() if last else ZEROS) or seal.from_xid != (last.to_xid if last else 0):
        named = last.seq if last else seal.seq
        report.findings.append(
            Finding("edited", seal.stream, named, None, f"Seal {seal.seq} does not follow from the one before it.")
        )
    if stored_hash != seal.hash():
        report.findings.append(Finding("edited", seal.stream, seal.seq, None, "The seal's own hash was changed."))


def _judge(bad: Seal | None, after: Seal | None, trusted: Mapping[str, Verifier], report: Report) -> None:
    """Say of a seal with a bad signature whether its text was changed, or only signed anew."""
    if bad is None:
        return
    follows = after is None or after.stream != bad.stream or after.previous == bad.hash()
    if bad.key_id not in trusted:
        finding = Finding(
            "re_signed", bad.stream, bad.seq, None, f"It is signed by {bad.key_id}, which is not trusted."
        )
    elif follows:
        finding = Finding("re_signed", bad.stream, bad.seq, None, f"The signature is not that of {bad.key_id}.")
    else:
        finding = Finding("edited", bad.stream, bad.seq, None, "The seal itself was changed.")
    report.findings.append(finding)


def _take_removed(chain: Chain, seal: Seal, report: Report) -> None:
    report.removed += seal.count
    for seq, places in orjson.loads(seal.detail or "{}")["seals"].items():
        number = int(seq)
        if places is None:
            chain.removed[number] = None
        elif (already := chain.removed.setdefault(number, set())) is not None:
            for first, last in places:
                already.update(range(first, last + 1))


def check_anchors(
    anchors: Iterable[Seal], chains: Mapping[UUID, Chain], trusted: Mapping[str, Verifier], youngest: datetime | None
) -> list[Finding]:
    """Hold the chains to what was published outside the database.

    Args:
        anchors: seals as the file has them, those of the wanted streams.
        chains: as `read_chains` returns them.
        trusted: an anchor that none of these signed proves nothing and is reported itself.
        youngest: when the latest event or seal of the database is from.
    """
    findings = []
    latest: dict[UUID, Seal] = {}
    for anchor in anchors:
        verifier = trusted.get(anchor.key_id)
        if verifier is None or not verifier.holds(anchor.body(), anchor.signature):
            findings.append(Finding("re_signed", anchor.stream, anchor.seq, None, "The anchor itself is not ours."))
            continue
        if anchor.stream not in latest or latest[anchor.stream].seq < anchor.seq:
            latest[anchor.stream] = anchor
        chain = chains.get(anchor.stream)
        here = chain.hashes.get(anchor.seq) if chain else None
        if here is not None and here != anchor.hash():
            findings.append(
                Finding("rolled_back", anchor.stream, anchor.seq, None, "The anchor knows another seal of this number.")
            )
    for stream, anchor in latest.items():
        chain = chains.get(stream)
        head = chain.head.seq if chain and chain.head else 0
        if head >= anchor.seq:
            continue
        if chain:
            chain.cut_off = True
        old = youngest is None or youngest < anchor.sealed_at
        findings.append(
            Finding(
                "rolled_back" if old else "truncated",
                stream,
                head + 1,
                None,
                f"The anchor of {anchor.sealed_at:%Y-%m-%d %H:%M:%S}Z knows seal {anchor.seq}; the last is {head}.",
            )
        )
    return findings


def bounds_of(chains: Iterable[Chain]) -> Sequence[int]:
    """Return where seals end, in order, over all streams."""
    return sorted({seal.to_xid for chain in chains for seal in chain.seals.values()})
