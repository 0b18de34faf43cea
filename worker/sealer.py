"""The audit log's proof, kept up by workers: sealing, anchoring, verifying, and removing what is too old."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog
from uuid_utils.compat import uuid7

from models.audit.anchors import publish, read_anchors
from models.audit.keys import public_file, read_signer, read_verifiers
from models.audit.record import SYSTEM, Event, record
from models.audit.retention import retain, rows_outside_partitions
from models.audit.seal import know_key, seal_waiting
from models.audit.verify import verify

if TYPE_CHECKING:
    from models.db import Connection
    from worker.context import Context

NO_KEY = "USHER_AUDIT_KEY_FILE is not set: nothing is sealed."
_MOST_TOLD = 20

_log = structlog.get_logger("sealer")


async def seal(context: Context, connection: Connection) -> str:
    """Seal what came since the last time."""
    path = context.settings.audit_key_file
    if path is None:
        return NO_KEY
    signer = read_signer(path)
    await know_key(connection, signer)
    done = await seal_waiting(connection, signer)
    anchors = context.settings.audit_anchor_file
    if done.seals and anchors is not None and not await asyncio.to_thread(anchors.exists):
        await publish(connection, anchors)  # the first ones at once, or nothing would be whole for an hour
    return f"{done.events} events in {done.seals} seals" if done.seals else ""


async def anchor(context: Context, connection: Connection) -> str:
    """Append each stream's last seal to the file outside the database."""
    path = context.settings.audit_anchor_file
    if path is None:
        return ""
    added = await publish(connection, path)
    return f"{added} anchors" if added else ""


async def verify_all(context: Context, connection: Connection) -> str:
    """Verify the whole log; the result is an event of its own, and an error in the log if it was tampered with."""
    settings = context.settings
    if settings.audit_key_file is None:
        return NO_KEY
    trusted = read_verifiers(public_file(settings.audit_key_file))
    anchors = None
    if settings.audit_anchor_file is not None and await asyncio.to_thread(settings.audit_anchor_file.exists):
        anchors = await asyncio.to_thread(read_anchors, settings.audit_anchor_file)
    report = await verify(connection, trusted, anchors=anchors)
    for finding in report.findings[:_MOST_TOLD]:
        _log.error(
            "The audit log was tampered with",
            action="audit.tampered",
            finding=finding.kind,
            stream=str(finding.stream),
            seal=finding.seq,
            event_id=finding.event_id,
        )
    await record(
        connection,
        [
            Event(
                action="audit.log.verify",
                phase="failed" if report.findings else "applied",
                actor=SYSTEM,
                correlation_id=uuid7(),
                reason=report.findings[0].kind if report.findings else None,
                context={
                    "outcome": report.outcome,
                    "findings": len(report.findings),
                    "events": report.events,
                    "seals": report.seals,
                },
            )
        ],
    )
    return f"{report.outcome}: {report.events} events, {report.seals} seals, {len(report.findings)} findings"


async def remove_old(context: Context, connection: Connection) -> str:
    """Remove what is older than its tenant wants it kept."""
    if await rows_outside_partitions(connection):
        _log.error("Audit events fell outside all monthly partitions", action="audit.default_partition")
    path = context.settings.audit_key_file
    if path is None:
        return NO_KEY
    done = await retain(connection, read_signer(path), actor=SYSTEM, correlation_id=uuid7())
    return f"{done.events} events removed" if done.events else ""
