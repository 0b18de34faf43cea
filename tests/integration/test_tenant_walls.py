"""The second wall between tenants: what PostgreSQL itself keeps from a connection that speaks for some of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import orjson
import pytest
from uuid_utils.compat import uuid7

from models.audit.record import Actor
from models.db import TENANT_ROLE, for_tenant, open_pool, tenant_scope
from models.directory.write import Change, UserWriter
from models.scim.patch import Patched
from tests.support.api import store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from models.db import Connection
    from models.settings import Settings

ACME, GLOBEX, INITECH = (UUID(int=number) for number in (0xACE, 0x6108E, 0x1417EC))
# One row of each table for each of two tenants; each names its tenant in its own way.
_FILL = [
    "INSERT INTO tenant (id, name, display_name) VALUES ($1, 'of-' || $1::uuid, '')",
    """
    INSERT INTO identifier (tenant_id, kind, value_key, resource_id) VALUES ($1, 'userName', 'ana', gen_random_uuid())
    """,
    """
    INSERT INTO users (tenant_id, id, external_id, work_email_keys, active, doc, created_at, last_modified)
    VALUES ($1, gen_random_uuid(), 'e', '{}', true, '{"title": "Buyer"}', now(), now())
    """,
    """
    INSERT INTO groups (tenant_id, id, display_name_key, doc, created_at, last_modified)
    VALUES ($1, gen_random_uuid(), 'g', '{}', now(), now())
    """,
    "INSERT INTO membership (tenant_id, group_id, member_id, member_type) VALUES ($1, $1, $1, 'User')",
    """
    INSERT INTO job (id, tenant_id, kind, queue, resource_id, correlation_id, payload)
    VALUES (gen_random_uuid(), $1, 'user.create', 'provision', $1, $1, '{"doc": {"title": "Buyer"}}')
    """,
    "INSERT INTO invitation (id, tenant_id, user_id, email) VALUES (gen_random_uuid(), $1, $1, 'ana@x.example')",
    "INSERT INTO deferred_request (id, tenant_id) VALUES (gen_random_uuid(), $1)",
    """
    INSERT INTO audit_event (id, tenant_id, action, phase, outcome, severity, actor_type, targets, correlation_id)
    VALUES (gen_random_uuid(), $1, 'scim.user.create', 'applied', 'success', 2, 'system', '[]', $1)
    """,
    """
    INSERT INTO audit_seal (stream, seq, kind, from_xid, to_xid, count, root, previous, hash, sealed_at, key_id,
                            signature)
    VALUES ($1, 1, 'empty', 0, 1, 0, '', '', '', now(), '', '')
    """,
    "INSERT INTO audit_leaves (stream, seq, ids, xids, leaves) VALUES ($1, 1, '', '', '')",
]
OWN = {"tenant": "id", "audit_seal": "stream", "audit_leaves": "stream"}
"""The column that says whose a row is, where it is not `tenant_id`."""
VIEWS = ("tenant_users", "tenant_waiting_users", "tenant_groups", "tenant_audit_events")


@pytest.fixture
async def walled(settings: Settings) -> AsyncIterator[asyncpg.Pool]:
    """One connection as requests have it, to a store of two tenants."""
    async with store(settings) as connection:
        for tenant_id in (ACME, GLOBEX):
            for statement in _FILL:
                await connection.execute(statement, tenant_id)
    pool = await open_pool(settings, name="walled", role=TENANT_ROLE, size=1)
    try:
        yield pool
    finally:
        await pool.close()


async def visible(connection: Connection | asyncpg.Pool) -> dict[str, set[UUID]]:
    """Return whose rows a connection sees, by table and view."""
    seen = {}
    for table in (*(statement.split("INSERT INTO ")[1].split()[0] for statement in _FILL), *VIEWS):
        rows = await connection.fetch(f"SELECT {OWN.get(table, 'tenant_id')} FROM {table}")  # noqa: S608  constants
        seen[table] = {row[0] for row in rows}
    return seen


def all_of(seen: dict[str, set[UUID]]) -> set[frozenset[UUID]]:
    return {frozenset(whose) for whose in seen.values()}


async def test_a_transaction_sees_whom_it_speaks_for_and_nobody_else(walled: asyncpg.Pool) -> None:
    for tenants in ([ACME], [GLOBEX], [ACME, GLOBEX], [INITECH], []):
        async with tenant_scope(walled, tenants) as connection:
            assert all_of(await visible(connection)) == {frozenset(tenants) - {INITECH}}


async def test_without_the_setting_there_is_no_row(walled: asyncpg.Pool) -> None:
    for _ in range(2):  # also not once it has been set and is over, which leaves it empty instead of unset
        assert all_of(await visible(walled)) == {frozenset()}
        async with tenant_scope(walled, [ACME]):
            pass


async def test_the_application_sees_all(walled: asyncpg.Pool, pool: asyncpg.Pool) -> None:
    seen = await visible(pool)
    assert all({ACME, GLOBEX} <= whose for whose in seen.values()), seen
    async with tenant_scope(pool, [ACME]) as connection:
        assert await visible(connection) == seen


WRITES = [
    *(_FILL[place] for place in (2, 4, 5, 6, 8)),
    _FILL[1].replace("'ana'", "'eva'"),
    "UPDATE users SET tenant_id = $1",
]


async def test_nothing_is_written_for_another_tenant(walled: asyncpg.Pool) -> None:
    for statement in WRITES:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await write(walled, ACME, statement, GLOBEX)


async def write(pool: asyncpg.Pool, tenant_id: UUID, statement: str, *values: Any) -> None:
    async with tenant_scope(pool, [tenant_id]) as connection:
        await connection.execute(statement, *values)


async def test_nothing_of_another_tenant_is_changed(walled: asyncpg.Pool, settings: Settings) -> None:
    async with tenant_scope(walled, [ACME]) as connection:
        assert await connection.execute("UPDATE users SET external_id = 'mine'") == "UPDATE 1"
        assert await connection.execute("UPDATE job SET error_code = 'mine'") == "UPDATE 1"
        assert await connection.execute("DELETE FROM membership") == "DELETE 1"
        assert await connection.execute("DELETE FROM groups") == "DELETE 1"
        assert await connection.execute("DELETE FROM identifier") == "DELETE 1"
        assert len(await connection.fetch("SELECT FROM users FOR UPDATE")) == 1
    async with store(settings) as connection:
        for table in ("membership", "groups", "identifier"):
            assert await connection.fetchval(f"SELECT count(*) FROM {table} WHERE tenant_id = $1", GLOBEX) == 1  # noqa: S608  constants
        assert await connection.fetchval("SELECT external_id FROM users WHERE tenant_id = $1", GLOBEX) == "e"


REFUSED = [
    "SELECT secret_hash FROM token",
    "SELECT branding FROM tenant",
    "SELECT * FROM request_log",
    "SELECT * FROM operator",
    "DELETE FROM audit_event",
    "UPDATE audit_event SET reason = 'x'",
    "DELETE FROM job",
    "SELECT * FROM directory_user",
    "ALTER TABLE users DISABLE ROW LEVEL SECURITY",
    "CREATE TABLE public.mine (id int)",
    "SELECT usher_make_audit_partitions(1)",
]


async def test_what_no_request_needs_is_refused(walled: asyncpg.Pool) -> None:
    for statement in REFUSED:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await write(walled, ACME, statement)


async def test_the_views_are_the_only_way_around_the_policies(walled: asyncpg.Pool, settings: Settings) -> None:
    """Every relation that the role may touch has a policy of its own, or is a view that has the wall in it."""
    async with store(settings) as connection:
        rows = await connection.fetch(
            "SELECT relname, relkind, relrowsecurity, pg_get_viewdef(c.oid) AS view,"
            "       (SELECT array_agg(pg_get_expr(polqual, polrelid)) FROM pg_policy"
            "         WHERE polrelid = c.oid AND $1::regrole = ANY (polroles)) AS policies"
            "  FROM pg_class AS c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')"
            "   AND (has_table_privilege($1, oid, 'SELECT, INSERT, UPDATE, DELETE')"
            "        OR has_any_column_privilege($1, oid, 'SELECT, INSERT, UPDATE'))",
            TENANT_ROLE,
        )
        definers = await connection.fetch(
            "SELECT proname FROM pg_proc WHERE prosecdef AND has_function_privilege($1, oid, 'EXECUTE')", TENANT_ROLE
        )
    assert definers == []
    found = {row["relname"]: row for row in rows}
    assert found.pop("audit_key")["relkind"] == b"r"  # public keys
    views = {name for name, row in found.items() if row["relkind"] not in (b"r", b"p")}
    assert views == set(VIEWS)
    for name, row in found.items():
        if name in views:
            assert "usher_tenants()" in row["view"], name
        else:
            assert row["relrowsecurity"], name
            [condition] = row["policies"]
            column = OWN.get(name, "tenant_id")
            assert condition == f"(strpos(current_setting('usher.tenants'::text, true), ({column})::text) > 0)"
    assert set(found) == set(await visible(walled))


async def test_a_connection_that_the_wall_does_not_bind_is_not_used(settings: Settings) -> None:
    async with store(settings) as connection:
        await connection.execute("ALTER TABLE users DISABLE ROW LEVEL SECURITY")
    pool = await open_pool(settings, name="walled", role=TENANT_ROLE, size=1)
    try:
        with pytest.raises(RuntimeError, match="without the wall between tenants"):
            await pool.fetchval("SELECT 1")
    finally:
        await pool.close()


async def fails(_: Connection) -> None:
    raise ValueError


async def fails_in_sql(connection: Connection) -> None:
    await connection.execute("SELECT 1 / 0")


async def is_cancelled(connection: Connection) -> None:
    begun = asyncio.Event()

    def note(*_: object) -> None:
        begun.set()

    connection.add_log_listener(note)
    waiting = asyncio.create_task(connection.execute("DO $$BEGIN RAISE WARNING 'begun'; PERFORM pg_sleep(60); END$$"))
    await begun.wait()  # a cancellation that came before would be lost
    connection.remove_log_listener(note)
    waiting.cancel()
    await waiting


async def times_out(connection: Connection) -> None:
    await connection.execute("SELECT pg_sleep(60)", timeout=0.01)


@pytest.mark.parametrize("end", [fails, fails_in_sql, is_cancelled, times_out])
async def test_whatever_ends_a_transaction_leaves_no_setting_behind(
    walled: asyncpg.Pool, end: Callable[[Connection], Awaitable[None]]
) -> None:
    session = await walled.fetchval("SELECT pg_backend_pid()")

    async def half() -> None:
        async with tenant_scope(walled, [ACME]) as connection:
            await connection.execute("UPDATE users SET external_id = 'half'")
            await end(connection)

    with pytest.raises((ValueError, asyncpg.DivisionByZeroError, asyncio.CancelledError, TimeoutError)):
        await half()
    assert not await walled.fetchval("SELECT current_setting('usher.tenants', true)")
    assert all_of(await visible(walled)) == {frozenset()}
    async with tenant_scope(walled, [ACME]) as connection:
        assert await connection.fetchval("SELECT external_id FROM users") == "e"
    assert await walled.fetchval("SELECT pg_backend_pid()") == session  # it is the same connection that was lent again


async def test_a_transaction_that_is_dropped_unfinished_leaves_no_setting_behind(walled: asyncpg.Pool) -> None:
    """As when the process runs out of its own time between two statements: the pool ends what it is given back."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    async with walled.acquire() as connection:
        await connection.execute(f"BEGIN; SELECT set_config('usher.tenants', '{{{ACME}}}', true)")
    assert all_of(await visible(walled)) == {frozenset()}
    [context] = told
    assert context["message"].startswith("Resetting connection with an active transaction")


SCOPED = for_tenant("SELECT tenant_id FROM users WHERE $1::uuid IS NOT NULL ORDER BY tenant_id")


async def test_a_statement_that_speaks_for_a_tenant_sees_its_rows_however_it_is_planned(walled: asyncpg.Pool) -> None:
    for mode in ("force_custom_plan", "force_generic_plan"):
        for forbidden in ("indexscan", "hashjoin", "nestloop", "seqscan", "material"):
            async with walled.acquire() as connection:
                await connection.execute(f"SET plan_cache_mode = {mode}; SET enable_{forbidden} = off")
                for tenant_id in (ACME, GLOBEX, INITECH, ACME):
                    rows = await connection.fetch(SCOPED, tenant_id)
                    assert [row["tenant_id"] for row in rows] == [tenant_id] * (tenant_id != INITECH)
                    assert not await connection.fetchval("SELECT current_setting('usher.tenants', true)")
                    assert await connection.fetchval("SELECT count(*) FROM users") == 0
                await connection.execute(f"RESET plan_cache_mode; RESET enable_{forbidden}")


async def test_a_change_is_written_however_it_is_planned(
    walled: asyncpg.Pool, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part of the statement finds its rows behind the wall, whichever part PostgreSQL begins with."""

    async def locked(*_: Any) -> None:
        raise AssertionError("the user was not found as it was read")

    def enable(doc: dict[str, Any]) -> Patched:
        return Patched({**doc, "active": True}, changed=True, ignored=())

    rung: list[UUID] = []
    writer = UserWriter(walled, settings, lambda _queue, job_ids: rung.extend(job_ids))
    monkeypatch.setattr(writer, "_update_locked", locked)
    actor = Actor("token", "7", "walls")
    for mode in ("force_custom_plan", "force_generic_plan"):
        for forbidden in ("indexscan", "bitmapscan", "hashjoin", "mergejoin", "nestloop", "seqscan", "material"):
            async with walled.acquire() as connection:
                await connection.execute(f"SET plan_cache_mode = {mode}; SET enable_{forbidden} = off; DISCARD PLANS")
            for tenant_id in (ACME, GLOBEX):
                user_id, correlation_id = uuid7(), uuid7()
                async with store(settings) as direct:
                    await direct.execute(_DISABLED, tenant_id, user_id)
                changed = await writer.update(
                    Change(tenant_id, user_id, enable, lambda _: None, actor, correlation_id, {"route": "/Users/{id}"})
                )
                assert (changed.version, orjson.loads(changed.doc)["active"]) == (2, True)
                async with store(settings) as direct:
                    found = await direct.fetchrow(_BECAME, user_id, correlation_id)
                assert dict(found or {}) == {
                    "tenant_id": tenant_id,
                    "version": 2,
                    "active": True,
                    "invited": ["ana@x.example"],
                    "staged": [rung.pop()],
                    "told": ["scim.user.enable"],
                }, (mode, forbidden)
            async with walled.acquire() as connection:
                await connection.execute(f"RESET plan_cache_mode; RESET enable_{forbidden}")


_DISABLED = """
INSERT INTO users (tenant_id, id, external_id, work_email_keys, active, doc, created_at, last_modified)
VALUES ($1, $2, 'e', '{ana@x.example}', false, jsonb_build_object('userName', $2::uuid, 'active', false, 'emails',
        '[{"value": "ana@x.example", "type": "work", "primary": true}]'::jsonb), now(), now())
"""
_BECAME = """
SELECT tenant_id, version, active,
       ARRAY(SELECT email FROM invitation WHERE user_id = users.id) AS invited,
       ARRAY(SELECT job.id FROM job JOIN invitation ON invitation.id = job.resource_id
              WHERE user_id = users.id AND job.correlation_id = $2) AS staged,
       ARRAY(SELECT action FROM audit_event WHERE correlation_id = $2) AS told
  FROM users WHERE id = $1
"""
