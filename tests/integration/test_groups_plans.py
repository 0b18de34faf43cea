"""What is asked of groups never reads a whole table, however many groups and members there are."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import pytest
import pytest_asyncio
from uuid_utils.compat import uuid7

from models.audit.record import OPERATOR
from models.directory.groups import GROUPS, find_groups, get_group, with_members
from models.directory.list import Part, list_by_index
from models.directory.membership import Origin, change_members, forget
from models.directory.read import USERS, find_users, get_user
from models.scim.document import Member
from models.scim.filter import Lookup, parse_filter
from models.scim.patch_members import MemberChanges
from models.scim.schema import GROUP, USER
from tests.support.plans import nodes, plans, recording, undone

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.support.servers import Servers

pytestmark = pytest.mark.asyncio(loop_scope="module")

PEOPLE, GROUPS_EACH, TENANTS = 10_000, 1000, 2
MOST_READ = 40  # rows that any part of a plan may read
MOST_BLOCKS = 80  # of 8 kB that a statement may touch
URL = "https://usher.example/scim/v2"
TENANT = UUID(int=1)

# Group 1 of a tenant has nearly everybody; of the others each has two users, a waiting create and a group.
_FILL = """
WITH tenant AS (SELECT lpad(t::text, 32, '0')::uuid AS id FROM generate_series(1, $1) AS t),
person AS (
    INSERT INTO users (tenant_id, id, work_email_keys, active, doc, created_at, last_modified)
    SELECT id, one(1, n), '{}', true, jsonb_build_object('userName', 'u' || n), now(), now()
      FROM tenant CROSS JOIN generate_series(1, $2) AS n
),
named AS (
    INSERT INTO identifier (tenant_id, kind, value_key, resource_id)
    SELECT id, 'userName', 'u' || n, one(1, n) FROM tenant CROSS JOIN generate_series(1, $2) AS n
     UNION ALL
    SELECT id, 'displayName', 'g' || n, one(2, n) FROM tenant CROSS JOIN generate_series(1, $3) AS n
),
waiting AS (
    INSERT INTO job (id, tenant_id, kind, queue, resource_id, correlation_id, payload)
    SELECT gen_random_uuid(), id, 'user.create', 'provision', one(3, n), gen_random_uuid(),
           '{"doc": {"userName": "w"}, "work_email_keys": []}'
      FROM tenant CROSS JOIN generate_series(1, $3) AS n
),
grouped AS (
    INSERT INTO groups (tenant_id, id, external_id, display_name_key, doc, created_at, last_modified)
    SELECT id, one(2, n), 'e' || n, 'g' || n, jsonb_build_object('displayName', 'g' || n), now(), now()
      FROM tenant CROSS JOIN generate_series(1, $3) AS n
)
INSERT INTO membership (tenant_id, group_id, member_id, member_type)
SELECT id, one(2, 1), one(1, n), 'User' FROM tenant CROSS JOIN generate_series(10, $2) AS n
 UNION ALL
SELECT id, one(2, n), member, CASE WHEN member = one(2, 1) THEN 'Group' ELSE 'User' END
  FROM tenant CROSS JOIN generate_series(2, $3) AS n
 CROSS JOIN LATERAL (VALUES (one(1, n)), (one(1, n + 1)), (one(3, n)), (one(2, 1))) AS m (member)
"""
_ONE = """
CREATE FUNCTION one(kind int, n int) RETURNS uuid IMMUTABLE LANGUAGE sql
    RETURN ('01990000-0000-7000-8000-' || kind || lpad(n::text, 11, '0'))::uuid
"""


def one(kind: int, number: int) -> UUID:
    return UUID(f"01990000-0000-7000-8000-{kind}{number:011}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def filled(servers: Servers) -> AsyncIterator[str]:
    async with servers.databases.copy() as url:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(_ONE)
            await connection.execute(_FILL, TENANTS, PEOPLE, GROUPS_EACH, timeout=60)
            await connection.execute("VACUUM ANALYZE")
            yield url
        finally:
            await connection.close()


@asynccontextmanager
async def checking(url: str) -> AsyncIterator[Any]:
    """Lend a recorder; afterwards see that no statement reads more than a few rows, however it is planned."""
    async with recording(url) as recorder:
        async with undone(recorder.connection):
            await recorder.connection.execute(f"SELECT set_config('usher.tenants', '{{{TENANT}}}', true)")
            yield recorder
        assert recorder.statements
        async for query, plan in plans(recorder):
            # An index that does not begin with what is asked for is read in many places, or as a whole.
            assert plan.get("Shared Hit Blocks", 0) + plan.get("Shared Read Blocks", 0) <= MOST_BLOCKS, (query, plan)
            for node in nodes(plan):
                read = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
                read += node.get("Rows Removed by Index Recheck", 0)
                assert node["Node Type"] != "Seq Scan" or node["Relation Name"] == "tenant", (query, node)
                assert read * node["Actual Loops"] <= MOST_READ, (query, node)


GROUP_7, USER_7 = one(2, 7), one(1, 7)
READS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "id": lambda store: get_group(store, TENANT, GROUP_7, scim_url=URL, members=True),
    "displayName": lambda store: find_groups(store, TENANT, Lookup("displayName", "G7"), scim_url=URL, members=True),
    "externalId": lambda store: find_groups(store, TENANT, Lookup("externalId", "e7"), scim_url=URL, members=False),
    "user by id": lambda store: get_user(store, TENANT, USER_7, scim_url=URL),
    "user by name": lambda store: find_users(store, TENANT, Lookup("userName", "u7"), scim_url=URL),
    "waiting": lambda store: get_user(store, TENANT, one(3, 7), scim_url=URL),
}


@pytest.mark.parametrize("what", READS)
async def test_reading_groups_and_users_with_their_groups(filled: str, what: str) -> None:
    async with checking(filled) as store:
        found = await READS[what](store)
        [resource] = found if isinstance(found, list) else [found]
        assert resource.id in (GROUP_7, USER_7, one(3, 7))
        assert bool(resource.rows) is (what != "externalId")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f'id eq "{GROUP_7}" and members eq "{USER_7}"', [GROUP_7]),
        (f'members eq "{USER_7}" and id eq "{one(2, 1)}"', []),
        (f'members eq "{one(1, PEOPLE)}" and id eq "{one(2, 1)}"', [one(2, 1)]),
        (f'members[value eq "{one(3, 7)}"]', [GROUP_7]),
        (f'members eq "{USER_7}"', [one(2, 6), GROUP_7]),
    ],
)
async def test_reference_checks(filled: str, text: str, expected: list[UUID]) -> None:
    part = Part(GROUPS, GROUP, parse_filter(text))
    async with checking(filled) as store:
        listed = await list_by_index(store, TENANT, [part], start_index=1, count=100, scim_url=URL)
        assert [stored.id for _, stored in listed.resources] == expected


async def test_users_by_a_group(filled: str) -> None:
    part = Part(USERS, USER, parse_filter(f'groups eq "{GROUP_7}"'), rows=True)
    async with checking(filled) as store:
        listed = await list_by_index(store, TENANT, [part], start_index=1, count=100, scim_url=URL)
        assert [stored.id for _, stored in listed.resources] == [USER_7, one(1, 8), one(3, 7)]


async def test_members_of_a_page(filled: str) -> None:
    async with checking(filled) as store:
        groups = [await get_group(store, TENANT, one(2, number), scim_url=URL, members=False) for number in range(2, 8)]
        for group in await with_members(store, TENANT, [group for group in groups if group], URL):
            assert group.rows.count('"value"') == 4


@pytest.mark.parametrize("group_id", [one(2, 1), GROUP_7], ids=["large", "small"])
@pytest.mark.parametrize("member", [one(1, 1), one(3, 999), one(2, 900)], ids=["applied", "waiting", "group"])
async def test_adding_costs_the_same_in_a_large_group(filled: str, group_id: UUID, member: UUID) -> None:
    async with checking(filled) as store:
        changes = MemberChanges(add=(Member(str(member), "User"),))
        changed = await change_members(store, Origin(TENANT, OPERATOR, uuid7(), {}), group_id, changes)
        assert (changed.added, changed.removed, changed.version) == (1, 0, 2)


@pytest.mark.parametrize(("group_id", "member"), [(one(2, 1), one(1, 5000)), (GROUP_7, USER_7)], ids=["large", "small"])
async def test_removing_costs_the_same_in_a_large_group(filled: str, group_id: UUID, member: UUID) -> None:
    async with checking(filled) as store:
        changes = MemberChanges(remove=frozenset([str(member)]))
        changed = await change_members(store, Origin(TENANT, OPERATOR, uuid7(), {}), group_id, changes)
        assert (changed.added, changed.removed, changed.version) == (0, 1, 2)


async def test_forgetting_a_member(filled: str) -> None:
    async with checking(filled) as store:
        assert await forget(store, TENANT, USER_7) == [one(2, 6), GROUP_7]
