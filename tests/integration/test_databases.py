"""The databases that tests are given: each is as the template is, whatever the test before did to it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import asyncpg
import pytest

if TYPE_CHECKING:
    from tests.support.databases import Databases
    from tests.support.servers import Servers


EVENT = """
INSERT INTO audit_event (id, action, phase, outcome, severity, actor_type, targets, correlation_id)
SELECT gen_random_uuid(), 'a', 'applied', 'success', 1, 'system', '[]', gen_random_uuid()
"""
MUCH = """
INSERT INTO job_pause (id, tenant_id, reason, paused_by)
SELECT gen_random_uuid(), gen_random_uuid(), repeat('x', 200), 'me' FROM generate_series(1, 40000)
"""


@pytest.fixture
def databases(servers: Servers) -> Databases:
    """Those of the session, with nothing kept yet from other tests."""
    return replace(servers.databases, _spare=[])


async def change(databases: Databases, statement: str) -> str:
    """Let a test run one statement on its database, and return where that was."""
    async with databases.copy() as url:
        connection = await asyncpg.connect(url)
        await connection.execute(statement)  # and forget to close it
    return url


async def test_what_was_written_is_gone_and_the_database_used_again(databases: Databases) -> None:
    async with databases.copy() as first:
        connection = await asyncpg.connect(first)
        await connection.execute("ANALYZE pg_attribute")  # as autovacuum does
        await connection.execute("DELETE FROM pg_statistic WHERE starelid = 'pg_class'::regclass")
        before = await connection.fetch("SELECT * FROM audit_event")
        await connection.execute("INSERT INTO tenant (id, name, display_name) SELECT gen_random_uuid(), 'acme', ''")
        await connection.execute("UPDATE tenant SET display_name = 'Acme'")
        await connection.execute(EVENT)
    async with databases.copy() as again:
        assert again == first
        connection = await asyncpg.connect(again)
        assert await connection.fetchval("SELECT count(*) FROM tenant") == 0
        assert await connection.fetch("SELECT * FROM audit_event") == before
        await connection.close()
    await databases.drop_spare()


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE tenant ADD COLUMN more int",
        "DROP INDEX job_due",
        "GRANT DELETE ON audit_event TO usher_app",
        "ALTER TABLE audit_event DISABLE TRIGGER ALL",
        "DELETE FROM alembic_version",
        "UPDATE alembic_version SET version_num = version_num",
        "ANALYZE alembic_version",
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = 64', current_database()); END $$",
        MUCH,
    ],
)
async def test_what_cannot_be_undone_is_dropped(databases: Databases, statement: str) -> None:
    changed = await change(databases, statement)
    async with databases.copy() as url:
        assert url != changed
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(changed)
    await databases.drop_spare()
