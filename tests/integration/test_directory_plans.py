"""No matching query ever reads a whole table: the plans that PostgreSQL makes for the statements that are run."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio
from uuid_utils.compat import uuid7

from models.audit.record import Actor
from models.db import TENANT_ROLE, open_pool
from models.directory.find import UserFinder, find_many
from models.directory.read import find_users, get_user
from models.directory.write import Change, UserWriter
from models.scim.filter import Lookup, lookup, parse_filter
from models.scim.patch import Patched
from models.scim.schema import ENTERPRISE_URN, USER
from models.settings import load_settings
from tests.support.api import SECRET_KEY, document
from tests.support.plans import nodes, plans, recording

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from models.scim.filter import LookupKind
    from tests.support.plans import Recorder
    from tests.support.servers import Servers

pytestmark = pytest.mark.asyncio(loop_scope="module")

URL = "https://scim.example/scim/v2"
APPLIED, WAITING = 20_000, 5_000
TENANTS = 4

# Users as they stand after so many creates; every hundredth has a second work address.
_FILL = """
WITH person AS MATERIALIZED (
    SELECT n, 'user' || n || '@contoso.example' AS name, n % $2 + 1 AS tenant,
           ('01990000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid AS id,
           CASE WHEN n % 100 = 0 THEN ARRAY['user' || n || '@contoso.example', 'second' || n || '@contoso.example']
                ELSE ARRAY['user' || n || '@contoso.example'] END AS mails
      FROM generate_series($3::int, $4::int - 1) AS n
), whole AS MATERIALIZED (
    SELECT *, lpad(to_hex(tenant), 32, '0')::uuid AS tenant_id,
           $1::jsonb || jsonb_build_object('userName', name, 'externalId', 'ext' || n, 'emails',
               (SELECT jsonb_agg(jsonb_build_object('type', 'work', 'value', mail)) FROM unnest(mails) AS mail)) AS doc
      FROM person
), identified AS (
    INSERT INTO identifier (tenant_id, kind, value_key, resource_id) SELECT tenant_id, 'userName', name, id FROM whole
)
"""
_FILL_USERS = """
INSERT INTO users (tenant_id, id, external_id, work_email_keys, active, doc, created_at, last_modified)
SELECT tenant_id, id, 'ext' || n, mails, true, doc, now(), now() FROM whole
"""
_FILL_JOBS = """
INSERT INTO job (id, tenant_id, kind, queue, resource_id, correlation_id, payload)
SELECT gen_random_uuid(), tenant_id, 'user.create', 'provision', id, id, jsonb_build_object(
    'doc', doc, 'external_id', 'ext' || n, 'work_email_keys', to_jsonb(mails), 'user_name_key', name, 'active', true)
  FROM whole
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def filled(servers: Servers) -> AsyncIterator[str]:
    """The URL of a store of 20 000 users and 5 000 waiting ones, in four tenants; its statistics are up to date."""
    async with servers.databases.copy() as url:
        connection = await asyncpg.connect(url)
        try:
            doc = json.dumps(
                document("", title="Buyer", displayName="Somebody", **{ENTERPRISE_URN: {"department": "Sales"}})
            )
            await connection.execute(_FILL + _FILL_USERS, doc, TENANTS, 0, APPLIED)
            await connection.execute(_FILL + _FILL_JOBS, doc, TENANTS, APPLIED, APPLIED + WAITING)
            await connection.execute("VACUUM ANALYZE")
            yield url
        finally:
            await connection.close()


NUMBERS = (44, APPLIED - 4, APPLIED + 1, APPLIED + WAITING - 100)


@pytest.mark.parametrize(
    "text",
    [
        'userName eq "USER{0}@contoso.example"',
        'externalId eq "ext{0}"',
        'id eq "{1}"',
        'emails[type eq "work"].value eq "User{0}@contoso.example"',
        'emails[type eq "work"].value eq "second{0}@contoso.example"',
    ],
)
async def test_matching_reads_no_whole_table(filled: str, text: str) -> None:
    async with recording(filled) as recorder:
        for number in NUMBERS:
            user_id = UUID(f"01990000-0000-7000-8000-{number:012x}")
            wanted = lookup(parse_filter(text.format(number, user_id)), USER)
            assert wanted
            tenant = UUID(int=number % TENANTS + 1)
            found = await find_users(recorder, tenant, wanted)  # type: ignore[arg-type]  # it has what is used of a pool
            assert [one.id for one in found] == ([] if "second" in text and number % 100 else [user_id])
            assert await find_users(recorder, UUID(int=99), wanted) == []  # type: ignore[arg-type]  # as above
        await check(recorder)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("userName", "USER{0}@contoso.example"),
        ("externalId", "ext{0}"),
        ("id", "{1}"),
        ("workEmail", "User{0}@contoso.example"),
        ("workEmail", "second{0}@contoso.example"),
    ],
)
async def test_many_matched_at_once_read_no_whole_table(filled: str, kind: LookupKind, text: str) -> None:
    values = [text.format(number, UUID(f"01990000-0000-7000-8000-{number:012x}")) for number in NUMBERS]
    async with recording(filled) as recorder:
        for tenant in (*range(1, TENANTS + 1), 99):
            tenant_id = UUID(int=tenant)
            found = await find_many(recorder, kind, tenant_id, [(value, None) for value in values])  # type: ignore[arg-type]  # as above
            many = recorder.statements.pop()
            for one, value, number in zip(found, values, NUMBERS, strict=True):
                assert one == await find_users(recorder, tenant_id, Lookup(kind, value))  # type: ignore[arg-type]  # as above
                assert bool(one) is (tenant == number % TENANTS + 1 and ("second" not in value or number % 100 == 0))
            recorder.statements[:] = [many]  # those by which each is looked up alone have a test of their own
            await check(recorder, len(values))


async def test_lookups_that_arrive_together_share_statements_and_each_gets_its_own(filled: str) -> None:
    async with recording(filled) as recorder:
        finder = UserFinder(recorder, limit=5, in_flight=1)  # type: ignore[arg-type]  # as above
        names = [f"user{number}@contoso.example" for number in range(40)]
        found = await asyncio.gather(
            *(
                finder.find(UUID(int=number % TENANTS + 1), Lookup("userName", name), scim_url=URL)
                for number, name in enumerate(names)
            )
        )
        assert [json.loads(one.doc)["userName"] for [one] in found] == names
        # Ten of each tenant: no statement speaks for two.
        assert [values[0].int for _, values in recorder.statements] == [1, 2, 3, 4, 1, 2, 3, 4]
        await finder.close()


async def test_reading_by_id_reads_no_whole_table(filled: str) -> None:
    async with recording(filled) as recorder:
        for number in NUMBERS:
            user_id = UUID(f"01990000-0000-7000-8000-{number:012x}")
            one = await get_user(recorder, UUID(int=number % TENANTS + 1), user_id)  # type: ignore[arg-type]  # as above
            assert one
            assert one.id == user_id
        await check(recorder)


async def test_one_plan_does_for_all_requests_of_a_kind(servers: Servers, filled: str) -> None:
    """A plan for each call would take PostgreSQL ten times as long as what the statement does."""

    def retitle(title: str) -> Callable[[dict[str, Any]], Patched]:
        return lambda doc: Patched({**doc, "title": title}, changed=True, ignored=())

    urls = {"database_url": filled, "redis_url": servers.next_redis_url(), "smtp_url": servers.smtp_url}
    settings = load_settings(**urls, secret_key=SECRET_KEY)
    pool = await open_pool(settings, name="scim", role=TENANT_ROLE, size=1)
    finder = UserFinder(pool, limit=5, in_flight=1)
    writer = UserWriter(pool, settings, lambda _queue, _ids: None)
    actor = Actor("token", "7", "plans")
    try:
        for number in range(1, 14):
            tenant, user_id = UUID(int=number % TENANTS + 1), UUID(f"01990000-0000-7000-8000-{number:012x}")
            for asked in (
                Lookup("userName", f"user{number}@contoso.example"),
                Lookup("externalId", f"ext{number}"),
                Lookup("workEmail", f"user{number}@contoso.example"),
                Lookup("id", str(user_id)),
            ):
                assert [one.id for one in await finder.find(tenant, asked)] == [user_id]
                two = await asyncio.gather(*(finder.find(tenant, asked) for _ in range(2)))
                assert [[one.id for one in found] for found in two] == [[user_id], [user_id]]
            assert await get_user(pool, tenant, user_id)
            edit = retitle(f"Title {number}")
            await writer.update(Change(tenant, user_id, edit, lambda _: None, actor, uuid7(), {"route": "/Users/{id}"}))
        planned = await pool.fetch(
            "SELECT statement, generic_plans, custom_plans FROM pg_prepared_statements"
            " WHERE generic_plans + custom_plans > 10"
        )
        assert len(planned) == 10, "four ways to look one up or several, and the two halves of a change"
        assert {row["statement"]: row["custom_plans"] for row in planned if row["custom_plans"] > 5} == {}
    finally:
        await pool.close()


async def check(recorder: Recorder, lookups: int = 1) -> None:
    """See that nothing was read that an index did not name; ``lookups`` is how many each statement answers."""
    assert recorder.statements
    async for query, plan in plans(recorder):
        for node in nodes(plan):
            if not node["Actual Loops"]:
                continue  # the groups that nobody asked for
            assert node["Node Type"] != "Seq Scan", (node, query)
            # Nothing is read that an index did not name, but for those few who wait with a second work address.
            read = (
                node["Actual Rows"]
                + node.get("Rows Removed by Filter", 0)
                + node.get("Rows Removed by Index Recheck", 0)
            )
            assert read * node["Actual Loops"] <= (WAITING / 100 + 1) * lookups, (node, query)
