"""Jobs for tests: staged by the thousand, read back, and counted."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
from uuid_utils.compat import uuid7

from models.audit.record import SYSTEM
from models.jobs import KINDS, Job, claim, rescue
from models.request_log import first_id
from models.tenants import add_tenant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from models.db import Connection
    from tests.support.servers import Servers


@dataclass(frozen=True)
class Staged:
    """A job that somebody may take now."""

    id: UUID
    tenant_id: UUID
    resource_id: UUID
    correlation_id: UUID
    user_name: str


async def new_tenant(connection: Connection, **values: Any) -> UUID:
    """Add a tenant, which invites nobody unless told to, and return its id."""
    values = {"invitations": False, **values}
    name = f"t{uuid7().hex[-20:]}"
    row = await add_tenant(connection, name=name, actor=SYSTEM, correlation_id=uuid7(), **values)
    tenant_id: UUID = row["id"]
    return tenant_id


def create_payload(user_name: str, *, invite: bool = False, external_id: str | None = None) -> dict[str, Any]:
    """Return what the intake stages for a small user."""
    doc: dict[str, Any] = {
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
        "userName": user_name,
        "active": True,
    }
    if external_id is not None:
        doc["externalId"] = external_id
    return {
        "doc": doc,
        "user_name_key": user_name.lower(),
        "external_id": external_id,
        "work_email_keys": [],
        "active": True,
        "invite": user_name if invite else None,
    }


async def stage(
    connection: Connection,
    tenant_id: UUID,
    count: int = 1,
    *,
    kind: str = "user.create",
    queue: str | None = None,
    payload: Any = None,
    invite: bool = False,
) -> list[Staged]:
    """Stage jobs of one tenant, due now; creates reserve their userName as the intake does.

    Args:
        connection: where.
        tenant_id: whose.
        count: how many.
        kind: of job.
        queue: the kind's own if not given.
        payload: the same for all of them, instead of that of a valid create.
        invite: whether the created users are to be invited.
    """
    staged = []
    for _ in range(count):
        job_id = uuid7()
        staged.append(Staged(job_id, tenant_id, uuid7(), uuid7(), f"{job_id.hex}@example.com"))
    payloads = [create_payload(one.user_name, invite=invite) if payload is None else payload for one in staged]
    await connection.execute(
        "INSERT INTO job (id, tenant_id, kind, queue, resource_id, payload, correlation_id)"
        " SELECT id, $1, $2, $3, resource_id, payload::jsonb, correlation_id"
        " FROM unnest($4::uuid[], $5::uuid[], $6::text[], $7::uuid[]) AS j (id, resource_id, payload, correlation_id)",
        tenant_id,
        kind,
        queue or KINDS[kind].queue,
        [one.id for one in staged],
        [one.resource_id for one in staged],
        [json.dumps(each) for each in payloads],
        [one.correlation_id for one in staged],
    )
    if kind == "user.create":
        await connection.execute(
            "INSERT INTO identifier (tenant_id, kind, value_key, resource_id)"
            " SELECT $1, 'userName', key, id FROM unnest($2::text[], $3::uuid[]) AS i (key, id)",
            tenant_id,
            [one.user_name for one in staged],
            [one.resource_id for one in staged],
        )
    return staged


async def take(connection: Connection, lease: UUID, limit: int = 1000, *, seconds: float = 30) -> list[Job]:
    """Claim creates under a lease."""
    return await claim(connection, "provision", lease_token=lease, lease_seconds=seconds, limit=limit)


async def expire(connection: Connection, lease: UUID) -> None:
    """Have a lease run out, as if its worker had been silent for long."""
    await connection.execute("UPDATE job SET lease_until = now() - interval '1 second' WHERE lease_token = $1", lease)


async def make_due(connection: Connection | asyncpg.Pool) -> None:
    """Have the waiting of all retries be over."""
    await connection.execute("UPDATE job SET run_at = now() WHERE state = 'retry'")


async def lose(connection: Connection, times: int = 1) -> None:
    """Have whoever takes what is due vanish with it, so often."""
    for _ in range(times):
        lease = uuid7()
        await make_due(connection)
        await take(connection, lease)
        await expire(connection, lease)
        await rescue(connection)
    await make_due(connection)


async def row(connection: Connection | asyncpg.Pool, job_id: UUID) -> dict[str, Any]:
    """Return a job as it stands, with the seconds until it is due, its lease runs out and it ended."""
    found = await connection.fetchrow(
        "SELECT *, extract(epoch FROM run_at - now())::float AS due_in,"
        " extract(epoch FROM lease_until - now())::float AS leased_for FROM job WHERE id = $1",
        job_id,
    )
    assert found is not None
    return dict(found)


async def counts(connection: Connection | asyncpg.Pool, kind: str = "user.create") -> dict[str, int]:
    """Return how many jobs of a kind are in which state."""
    rows = await connection.fetch("SELECT state, count(*) FROM job WHERE kind = $1 GROUP BY state", kind)
    return {each["state"]: each["count"] for each in rows}


@contextmanager
def shared_database(servers: Servers) -> Iterator[str]:
    """Give a copy of the migrated template to a whole module, for tests that `empty_ledger` before they begin."""
    with asyncio.Runner() as runner:
        clone = servers.databases.copy()
        url = runner.run(clone.__aenter__())
        try:
            yield url
        finally:
            runner.run(clone.__aexit__(None, None, None))


async def empty_ledger(database_url: str) -> None:
    """Throw away jobs and what came of them; tenants and audit events stay, so each test has its own."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("TRUNCATE job, identifier, users, invitation")
    finally:
        await connection.close()


class Interrupted:
    """A pool that cannot be reached for a while."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.pool = pool
        self.away = False
        self.asked = 0

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        if self.away:
            self.asked += 1
            raise ConnectionRefusedError
        async with self.pool.acquire() as connection:
            yield connection


_OLD_JOB = """
INSERT INTO job (id, tenant_id, kind, queue, state, correlation_id, staged_at, finished_at)
VALUES ($1, $2, 'user.create', 'provision', $3, $1, $4, $5)
"""
_OLD_ATTEMPT = """
INSERT INTO job_attempt (id, job_id, attempt, outcome, error_code) VALUES (gen_random_uuid(), $1, 1, 'retry', 'x')
"""


def old_id(days: float, number: int = 0) -> UUID:
    """Return the id of something that was made so many days ago."""
    return UUID(int=first_id(datetime.now(UTC) - timedelta(days=days)).int + number)


async def old_job(
    connection: Connection, tenant_id: UUID, state: str, *, staged: float, ended: float | None, number: int = 0
) -> UUID:
    """Add a job that was staged, and ended if at all, so many days ago, with one failed attempt; return its id."""
    now, job_id = datetime.now(UTC), old_id(staged, number)
    finished = None if ended is None else now - timedelta(days=ended)
    await connection.execute(_OLD_JOB, job_id, tenant_id, state, now - timedelta(days=staged), finished)
    await connection.execute(_OLD_ATTEMPT, job_id)
    return job_id
