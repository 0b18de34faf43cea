"""Verifying the audit log: every row against its seal, every seal against the one before and against the anchors.

Everything is computed anew from the stored columns. What is trusted: the public keys that the caller brings, and
the anchors, both from outside the database.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from models.audit.canonical import leaf_of
from models.audit.chain import check_anchors, read_chains
from models.audit.findings import Finding, Report
from models.audit.keys import by_id
from models.audit.narrow import Row, explain
from models.audit.rows import BY_ID, MOST_STRANGE, Found, hold, windows_of
from models.audit.seal import XID, read_horizon

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from models.audit.chain import Chain
    from models.audit.keys import Verifier
    from models.audit.note import Seal
    from models.db import Connection

_LATE = timedelta(minutes=10)

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
        self._found = Found()

    async def rows(self, chains: dict[UUID, Chain], since: datetime | None, until: datetime | None) -> None:
        """Hold every row to its seal."""
        windows = windows_of(chains.values(), since, until)
        found = self._found = await hold(self._connection, chains, windows, self._stream)
        self.report.events += found.events
        self.report.erased += found.erased
        self.report.findings += found.findings

    async def settle(self) -> None:
        """Explain what does not fit, and ask for the erasures that rows name."""
        # A row that was moved out of what was looked at is still somewhere.
        seen = {row.id for _, row, _, _ in self._found.strange}
        lost = [UUID(bytes=one.id) for one in self._found.missing[:MOST_STRANGE] if one.id not in seen]
        if lost:
            for each in await self._connection.fetch(BY_ID, lost):
                leaf = leaf_of(each["line"])
                row = Row(leaf.xid, leaf.id, leaf.hash, leaf.sound)
                self._found.note_strange(UUID(leaf.stream), row, each["line"], None)
        self.report.findings += explain(self._found.missing, self._found.strange)
        if self._found.erasures:
            rows = await self._connection.fetch(_ERASURES, list(self._found.erasures))
            found = {str(each["id"]) for each in rows}
            for erasure_id, (stream, event_id) in self._found.erasures.items():
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
