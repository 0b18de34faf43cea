"""What the benchmark does in the store itself: fill it, commit to it, watch it."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

import asyncpg

from tests.bench.scripts import DOMAIN, RARE, document, rare, user_id, user_name

if TYPE_CHECKING:
    from uuid import UUID

    from tests.bench.servers import Usher

FILLED = "filled"  # the group of the users that are loaded

_FILL = f"""
WITH person AS MATERIALIZED (
    SELECT n, 'user' || lpad(n::text, 10, '0') || '@{FILLED}.{DOMAIN}' AS name,
           -- ordered, as version 7 ids are
           ('01990000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid AS id
      FROM generate_series($3::bigint, $4::bigint - 1) AS n
), identified AS (
    INSERT INTO identifier (tenant_id, kind, value_key, resource_id) SELECT $1, 'userName', name, id FROM person
)
INSERT INTO users (tenant_id, id, external_id, work_email_keys, active, doc, created_at, last_modified)
SELECT $1, id, split_part(name, '@', 1), ARRAY[name], true,
       $2::jsonb || jsonb_build_object(
           'userName', name, 'externalId', split_part(name, '@', 1),
           'emails', jsonb_build_array(jsonb_build_object('primary', true, 'type', 'work', 'value', name))),
       now(), now()
  FROM person
"""  # noqa: S608 - constants only

_FILL_AT_ONCE = 100_000


async def fill(usher: Usher, count: int) -> None:
    """Load ``count`` users straight into the tables, as they would stand there after so many creates."""
    template = document(user_name(FILLED, 0))
    for absent in ("meta", "roles"):  # what a server does not keep
        del template[absent]
    for first in range(0, count, _FILL_AT_ONCE):
        last = min(first + _FILL_AT_ONCE, count)
        await usher.database.execute(_FILL, usher.tenant_id, json.dumps(template), first, last, timeout=600)
    for statement in ("VACUUM ANALYZE users", "VACUUM ANALYZE identifier", "CHECKPOINT"):
        await usher.database.execute(statement, timeout=600)


async def make_rare(usher: Usher, count: int) -> None:
    """Give some of ``count`` loaded users a title, family name and department that nobody else has."""
    people = [(user_id(number * count // RARE), rare(number)) for number in range(RARE)]
    await usher.database.executemany(
        "UPDATE users SET doc = jsonb_set(jsonb_set(jsonb_set(doc, '{title}', to_jsonb($3::text)),"
        " '{name,familyName}', to_jsonb($3::text)),"
        " '{urn:ietf:params:scim:schemas:extension:enterprise:2.0:User,department}', to_jsonb($3::text))"
        " WHERE tenant_id = $1 AND id = $2::uuid",
        [(usher.tenant_id, who, value) for who, value in people],
    )
    await usher.database.execute("VACUUM ANALYZE users", timeout=600)


async def fill_group(usher: Usher, size: int) -> str:
    """Make a group of the first ``size`` loaded users, straight in the tables; return its id."""
    group_id = await usher.database.fetchval(
        "INSERT INTO groups (tenant_id, id, display_name_key, doc, created_at, last_modified)"
        " VALUES ($1, gen_random_uuid(), $2::text, jsonb_build_object('displayName', $2::text,"
        " 'schemas', jsonb_build_array('urn:ietf:params:scim:schemas:core:2.0:Group')), now(), now()) RETURNING id",
        usher.tenant_id,
        f"group of {size}",
    )
    await usher.database.execute(
        "INSERT INTO membership (tenant_id, group_id, member_id, member_type)"
        " SELECT $1, $2, id, 'User' FROM (SELECT id FROM users WHERE tenant_id = $1 ORDER BY id LIMIT $3) AS first",
        usher.tenant_id,
        group_id,
        size,
        timeout=600,
    )
    await usher.database.execute("VACUUM ANALYZE membership", timeout=600)
    return str(group_id)


async def sum_versions(usher: Usher) -> int:
    """Return how often users were changed: every change is a version."""
    counted: int = await usher.database.fetchval(
        "SELECT coalesce(sum(version), 0) FROM users WHERE tenant_id = $1", usher.tenant_id
    )
    return counted


async def count_members(usher: Usher, group_id: str) -> int:
    """Return how many members a group has."""
    counted: int = await usher.database.fetchval(
        "SELECT count(*) FROM membership WHERE tenant_id = $1 AND group_id = $2::uuid", usher.tenant_id, group_id
    )
    return counted


async def commit_rate(usher: Usher, connections: int, count: int) -> float:
    """Return PostgreSQL's own commits a second: one row of a create's size inserted in each, by asyncpg."""
    text = json.dumps(document(user_name("commit", 0)))
    await usher.database.execute("CREATE SCHEMA IF NOT EXISTS bench")
    await usher.database.execute(
        "CREATE TABLE IF NOT EXISTS bench.row (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, doc jsonb NOT NULL)"
    )
    waiting = iter(range(count))

    async def insert(connection: asyncpg.Connection) -> None:
        statement = await connection.prepare("INSERT INTO bench.row (doc) VALUES ($1)")
        for _ in waiting:  # shared: each connection takes the next
            await statement.fetch(text)

    opened = [await asyncpg.connect(usher.database_url) for _ in range(connections)]
    try:
        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for connection in opened:
                group.create_task(insert(connection))
        return count / (time.perf_counter() - began)
    finally:
        for connection in opened:
            await connection.close()


async def keep_invitations_waiting(usher: Usher) -> None:
    """Have invitations queued but not sent, so that "applied" is measured and not the mail."""
    await usher.database.execute("UPDATE tenant SET invitation_delay_seconds = 86400")


async def count_known(usher: Usher, group: str) -> int:
    """Return how many users of a group were accepted."""
    counted: int = await usher.database.fetchval(
        "SELECT count(*) FROM identifier WHERE tenant_id = $1 AND value_key LIKE $2",
        usher.tenant_id,
        f"%@{group}.{DOMAIN}",
    )
    return counted


async def count_applied(usher: Usher, group: str) -> int:
    """Return how many users of a group are in the store, each with its audit event."""
    counted: int = await usher.database.fetchval(
        "SELECT count(*) FROM identifier"
        " JOIN users ON users.tenant_id = identifier.tenant_id AND users.id = identifier.resource_id"
        " WHERE identifier.tenant_id = $1 AND value_key LIKE $2"
        " AND EXISTS (SELECT FROM audit_event WHERE audit_event.tenant_id = users.tenant_id"
        "             AND target_id = users.id::text AND phase = 'applied')"
        " AND EXISTS (SELECT FROM invitation WHERE invitation.tenant_id = users.tenant_id AND user_id = users.id)",
        usher.tenant_id,
        f"%@{group}.{DOMAIN}",
        timeout=120,
    )
    return counted


async def until_none_waits(usher: Usher, seconds: float) -> float:
    """Wait until every accepted create is applied and return the time of the monotonic clock."""
    # Worded as the partial index of waiting creates is, so that looking costs next to nothing.
    query = (
        "SELECT NOT EXISTS (SELECT FROM job WHERE kind = 'user.create'"
        " AND state IN ('staged', 'running', 'retry', 'dead'))"
    )
    return await _until(usher, query, what="every accepted create is applied", seconds=seconds, pause=0.005)


async def until_applied(usher: Usher, user_id: UUID) -> float:
    """Wait until one user is in the store and return the time of the monotonic clock."""
    query = "SELECT EXISTS (SELECT FROM users WHERE tenant_id = $1 AND id = $2)"
    return await _until(usher, query, usher.tenant_id, user_id, what="the user is applied", seconds=30, pause=0.0005)


async def _until(usher: Usher, query: str, *values: object, what: str, seconds: float, pause: float) -> float:
    deadline = time.perf_counter() + seconds
    while not await usher.database.fetchval(query, *values):
        if time.perf_counter() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(pause)
    return time.perf_counter()
