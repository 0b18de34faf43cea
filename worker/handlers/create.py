"""`user.create`: an accepted create becomes a user."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.audit.record import Actor, Event, record
from models.jobs import EMAIL
from models.provision import apply_creates, target
from worker.context import Context, Handler

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from models.db import Connection
    from models.jobs import Ending, Job


async def _run(context: Context, jobs: Sequence[Job], lease_token: UUID) -> set[UUID]:
    async with context.pool.acquire() as connection:
        applied, invitations = await apply_creates(connection, jobs, lease_token)
    if invitations:
        context.ring(EMAIL, invitations)
    return applied


async def _failed(connection: Connection, ending: Ending) -> None:
    if ending.state != "dead":
        return
    job = ending.job
    await record(
        connection,
        [
            Event(
                action="scim.user.create",
                phase="failed",
                actor=Actor("job"),
                correlation_id=job.correlation_id,
                tenant_id=job.tenant_id,
                reason=ending.code,
                targets=[target(job)],
                job_id=job.id,
            )
        ],
    )


HANDLER = Handler(kind="user.create", run=_run, failed=_failed, together=True)
