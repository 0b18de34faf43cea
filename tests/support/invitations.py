"""Invitations for tests: staged by the way of a create, read back with everything that hangs on them."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uuid_utils.compat import uuid7

from models.audit.record import SYSTEM
from models.jobs import EMAIL, PROVISION, claim
from models.provision import apply_creates
from models.tenants import add_tenant
from tests.support.waiting import wait_until
from worker.context import Context
from worker.handlers.invitation import HANDLER
from worker.runner import Runner
from worker.smtp import SmtpPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from uuid import UUID

    import asyncpg

    from models.jobs import Job
    from models.settings import Settings


@dataclass(frozen=True)
class Staged:
    """An invitation that nobody has sent yet."""

    id: UUID
    job_id: UUID
    tenant_id: UUID
    user_id: UUID
    correlation_id: UUID


async def stage(pool: asyncpg.Pool, *, email: str = "ana@example.com", name: str = "Ana", **tenant: Any) -> Staged:
    """Have a create applied in a new tenant, so that its invitation waits."""
    lease, correlation_id, user_id, create_id = uuid7(), uuid7(), uuid7(), uuid7()
    async with pool.acquire() as connection:
        tenant = {"display_name": "Acme", "sign_in_url": "https://app.example.com/login", **tenant}
        added = await add_tenant(
            connection, name=f"t{uuid7().hex[-20:]}", actor=SYSTEM, correlation_id=correlation_id, **tenant
        )
        payload = {
            "doc": {
                "userName": email,
                "displayName": name,
                "active": True,
                "emails": [{"type": "work", "value": email}],
            },
            "user_name_key": email.lower(),
            "external_id": None,
            "work_email_keys": [email.lower()],
            "active": True,
            "invite": email,
        }
        await connection.execute(
            "INSERT INTO job (id, tenant_id, kind, queue, resource_id, payload, correlation_id)"
            " VALUES ($1, $2, 'user.create', $3, $4, $5, $6)",
            create_id,
            added["id"],
            PROVISION,
            user_id,
            payload,
            correlation_id,
        )
        jobs = await claim(connection, PROVISION, lease_token=lease, lease_seconds=30, limit=1)
        await apply_creates(connection, jobs, lease)
        row = await connection.fetchrow(
            "SELECT invitation.id, job.id AS job_id FROM invitation JOIN job ON resource_id = invitation.id"
            " WHERE user_id = $1",
            user_id,
        )
    assert row is not None
    return Staged(row["id"], row["job_id"], added["id"], user_id, correlation_id)


async def claimed(pool: asyncpg.Pool, lease: UUID, *, lease_seconds: float = 30) -> Job:
    """Claim the one e-mail job that is due."""
    async with pool.acquire() as connection:
        (job,) = await claim(connection, EMAIL, lease_token=lease, lease_seconds=lease_seconds, limit=1)
    return job


async def read(pool: asyncpg.Pool, staged: Staged) -> dict[str, Any]:
    """Return the invitation's row, its job's as `job`, and the events about it as `events`, oldest first."""
    async with pool.acquire() as connection:
        row = await connection.fetchrow("SELECT * FROM invitation WHERE id = $1", staged.id)
        job = await connection.fetchrow(
            "SELECT *, extract(epoch FROM run_at - now())::float AS due_in FROM job WHERE id = $1", staged.job_id
        )
        events = await connection.fetch(
            "SELECT * FROM audit_event WHERE action LIKE 'invitation.%' AND tenant_id = $1 ORDER BY occurred_at, id",
            staged.tenant_id,
        )
    assert row is not None
    assert job is not None
    return {**row, "job": dict(job), "events": [dict(event) for event in events]}


@dataclass(frozen=True)
class Mailer:
    """A worker that does nothing but send invitations."""

    context: Context
    runner: Runner

    async def until(self, staged: Staged, state: str, job_state: str) -> dict[str, Any]:
        """Make the job due if it waits for another attempt, and return everything once the states are these."""
        pool = self.context.pool
        async with pool.acquire() as connection:
            await connection.execute("UPDATE job SET run_at = now() WHERE id = $1 AND state = 'retry'", staged.job_id)
        self.runner.wake()

        async def reached() -> dict[str, Any]:
            found = await read(pool, staged)
            return found if (found["state"], found["job"]["state"]) == (state, job_state) else {}

        return await wait_until(reached, f"invitation {state}, job {job_state}")


@asynccontextmanager
async def mailer(settings: Settings, pool: asyncpg.Pool) -> AsyncIterator[Mailer]:
    """Run the runner of the e-mail queue, without arq and Redis."""
    smtp = SmtpPool(settings)
    context = Context(settings, pool, smtp, lambda _queue, _ids: None)
    runner = Runner(context, EMAIL, {HANDLER.kind: HANDLER}, lanes=4, batch=4)
    serving = asyncio.create_task(runner.serve())
    await runner.answer()  # it has looked for what there was: from here on it waits to be woken
    try:
        yield Mailer(context, runner)
    finally:
        runner.stop()
        await serving
        await smtp.close()
