"""Writing audit events, in the transaction of the change that they describe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from models import metrics
from models.audit.actions import ACTIONS
from models.audit.redact import keep
from models.ids import new_id

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from models.db import Connection

_OUTCOMES = {"requested": "pending", "applied": "success", "failed": "failure", "denied": "denied"}


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts; the label is kept as it was at the time."""

    type: str
    """`token`, `operator`, `system`, `job` or `person`."""
    id: str | None = None
    label: str | None = None


SYSTEM = Actor("system")
OPERATOR = Actor("operator", label="command line")
ANONYMOUS = Actor("person")


@dataclass(slots=True, kw_only=True)
class Event:
    """One audit event before it is written (reference/audit-logs.md §3.1)."""

    action: str
    phase: str
    actor: Actor
    correlation_id: UUID
    tenant_id: UUID | None = None
    reason: str | None = None
    targets: list[dict[str, Any]] = field(default_factory=list)
    job_id: UUID | None = None
    context: dict[str, Any] | None = None
    diff: list[dict[str, Any]] | None = None


_RECORD = """
INSERT INTO audit_event (id, tenant_id, action, phase, outcome, reason, severity, actor_type, actor_id, actor_label,
                         targets, correlation_id, job_id, context, diff, changed)
SELECT id, tenant_id, action, phase, outcome, reason, severity, actor_type, actor_id, actor_label,
       targets::jsonb, correlation_id, job_id, context::jsonb, diff::jsonb, changed::text[]
  FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::smallint[], $8::text[],
              $9::text[], $10::text[], $11::text[], $12::uuid[], $13::uuid[], $14::text[], $15::text[], $16::text[])
    AS e (id, tenant_id, action, phase, outcome, reason, severity, actor_type, actor_id, actor_label,
          targets, correlation_id, job_id, context, diff, changed)
"""


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _changed(diff: list[dict[str, Any]] | None) -> str | None:
    """Return the paths of a diff as PostgreSQL reads an array; it would take 5 µs to pick them out of the JSON."""
    if not diff:
        return None
    paths = [item.get("path") for item in diff]
    return "{" + ",".join(["NULL" if path is None else _quoted(str(path)) for path in paths]) + "}"


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


async def record(connection: Connection, events: Sequence[Event]) -> list[UUID]:
    """Insert ``events`` and return their ids; the caller's transaction decides whether they come to be.

    Raises:
        KeyError: an action that `models.audit.actions` does not know.
    """
    ids = [new_id() for _ in events]
    if not events:
        return ids
    diffs = [e.diff and keep(e.diff) for e in events]
    await connection.execute(
        _RECORD,
        ids,
        [e.tenant_id for e in events],
        [e.action for e in events],
        [e.phase for e in events],
        [_OUTCOMES[e.phase] for e in events],
        [e.reason for e in events],
        [ACTIONS[e.action].severity for e in events],
        [e.actor.type for e in events],
        [e.actor.id for e in events],
        [e.actor.label for e in events],
        [_json(e.targets) for e in events],
        [e.correlation_id for e in events],
        [e.job_id for e in events],
        [_json(e.context) for e in events],
        [_json(diff) for diff in diffs],
        [_changed(diff) for diff in diffs],
    )
    for event in events:
        metrics.AUDIT_EVENTS.add(1, event.action, _OUTCOMES[event.phase])
    return ids


async def make_partitions(connection: Connection, months_ahead: int = 3) -> int:
    """Make the monthly partitions up to ``months_ahead``; return how many were missing."""
    async with connection.transaction():
        made: int = await connection.fetchval("SELECT usher_make_audit_partitions($1)", months_ahead)
        if made:
            await record(
                connection,
                [
                    Event(
                        action="system.partition.create",
                        phase="applied",
                        actor=SYSTEM,
                        correlation_id=new_id(),
                        context={"partitions": made, "months_ahead": months_ahead},
                    )
                ],
            )
    return made
