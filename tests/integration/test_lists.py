"""Lists on a real store: sorted as scim2-models sorts, walked by index and by cursor, while the directory changes."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scim2_models import SearchRequest

from models.db import open_pool
from models.directory.groups import GROUPS
from models.directory.list import MOST_COUNTED, Listed, Part, list_by_cursor, list_by_index
from models.directory.read import USERS
from models.errors import InvalidValueError
from models.scim.cursor import Position
from models.scim.filter import parse_filter
from models.scim.schema import GROUP, USER
from models.scim.sort import parse_order
from tests.integration.test_filter_sql_judge import PATHS, PEOPLE, judge
from tests.support.api import document, fresh_settings
from tests.support.people import SCHEMA
from tests.support.plans import nodes, plans, recording

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from models.scim.sort import Order
    from models.settings import Settings
    from tests.support.servers import Servers

URL = "https://scim.example/scim/v2"
_STORE = """
INSERT INTO users (tenant_id, id, external_id, work_email_keys, active, doc, created_at, last_modified)
SELECT $1, i, d ->> 'externalId', '{}', true, d, '2026-01-02 03:04:05Z', '2026-01-02 03:04:05Z'
  FROM (SELECT i, t::jsonb AS d FROM unnest($2::uuid[], $3::text[]) AS x (i, t)) AS y
"""
_STAGE = """
INSERT INTO job (id, tenant_id, kind, queue, resource_id, correlation_id, staged_at, payload)
SELECT gen_random_uuid(), $1, 'user.create', 'provision', i, i, '2026-01-02 03:04:05Z',
       jsonb_build_object('doc', d, 'external_id', d -> 'externalId', 'work_email_keys', '[]'::jsonb)
  FROM (SELECT i, t::jsonb AS d FROM unnest($2::uuid[], $3::text[]) AS x (i, t)) AS y
"""


async def fill(pool: asyncpg.Pool, tenant: uuid.UUID, docs: Sequence[dict[str, Any]]) -> list[uuid.UUID]:
    """Store every other user and stage the rest; return their ids in the order of the documents."""
    ids = [uuid.uuid4() for _ in docs]
    texts = [json.dumps(doc) for doc in docs]
    await pool.execute(_STORE, tenant, ids[::2], texts[::2])
    await pool.execute(_STAGE, tenant, ids[1::2], texts[1::2])
    return ids


def ids_of(listed: Listed) -> list[uuid.UUID]:
    return [stored.id for _, stored in listed.resources]


async def by_index(
    pool: asyncpg.Pool, tenant: uuid.UUID, parts: list[Part], order: Order | None, count: int
) -> list[uuid.UUID]:
    seen: list[uuid.UUID] = []
    while True:
        page = await list_by_index(
            pool, tenant, parts, start_index=len(seen) + 1, count=count, scim_url=URL, order=order
        )
        seen += ids_of(page)
        if len(page.resources) < count:
            assert page.total == len(seen)
            return seen


async def by_cursor(
    pool: asyncpg.Pool, tenant: uuid.UUID, parts: list[Part], order: Order | None, count: int
) -> list[uuid.UUID]:
    page = await list_by_cursor(pool, tenant, parts, after=None, count=count, scim_url=URL, order=order)
    seen = ids_of(page)
    while page.next:
        page = await list_by_cursor(pool, tenant, parts, after=page.next, count=count, scim_url=URL, order=order)
        assert page.resources  # a cursor is given only where there is more
        seen += ids_of(page)
    return seen


SORTABLE = sorted({path for path, _ in PATHS} | {"externalId", "id", "meta.lastModified", "meta.resourceType"})


@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    docs=st.lists(PEOPLE, min_size=1, max_size=9),
    path=st.sampled_from(SORTABLE),
    sort_order=st.sampled_from(["ascending", "descending"]),
    count=st.integers(1, 4),
)
async def test_an_order_is_that_of_scim2_models_and_every_walk_goes_through_all_of_it(
    pool: asyncpg.Pool, docs: list[dict[str, Any]], path: str, sort_order: str, count: int
) -> None:
    tenant = uuid.uuid4()
    ids = await fill(pool, tenant, docs)
    people = sorted(map(judge, ids, docs), key=lambda person: str(person.id))
    request: SearchRequest[Any] = SearchRequest(sort_by=path, sort_order=sort_order)
    expected = [uuid.UUID(person.id) for person in request.sort(people)]
    parts, order = [Part(USERS, SCHEMA)], parse_order(path, sort_order, [SCHEMA])
    assert await by_index(pool, tenant, parts, order, count) == expected
    assert await by_cursor(pool, tenant, parts, order, count) == expected
    assert await by_index(pool, tenant, parts, None, count) == sorted(ids)
    assert await by_cursor(pool, tenant, parts, None, count) == sorted(ids)


async def test_every_attribute_of_every_schema_is_an_order_or_refused(pool: asyncpg.Pool) -> None:
    tenant = uuid.uuid4()
    await fill(pool, tenant, [document(f"user{number}") for number in range(3)])
    tried = 0
    for schema, source in ((USER, USERS), (GROUP, GROUPS), (SCHEMA, USERS)):
        for path in schema._paths:
            try:
                order = parse_order(path, "descending", [schema])
            except InvalidValueError:
                continue
            page = await list_by_cursor(
                pool, tenant, [Part(source, schema)], after=None, count=2, scim_url=URL, order=order
            )
            assert len(page.resources) == (0 if schema is GROUP else 2), path
            tried += 1
    assert tried > 150


async def test_users_are_sorted_by_their_groups_and_groups_by_their_members(pool: asyncpg.Pool) -> None:
    tenant = uuid.uuid4()
    people = await fill(pool, tenant, [document(f"user{number}") for number in range(4)])
    teams = sorted(uuid.uuid4() for _ in range(3))
    for team, name in zip(teams, ("b", "A", "c"), strict=True):
        await pool.execute(
            "INSERT INTO groups (tenant_id, id, display_name_key, doc, created_at, last_modified)"
            " VALUES ($1, $2, $3, jsonb_build_object('displayName', $3::text), now(), now())",
            tenant,
            team,
            name,
        )
    # The first group of each is the one with the least id: b, then A.
    for group, member in ((0, 0), (1, 0), (1, 1), (2, 2)):
        await pool.execute(
            "INSERT INTO membership (tenant_id, group_id, member_id, member_type) VALUES ($1, $2, $3, 'User')",
            tenant,
            teams[group],
            people[member],
        )
    order = parse_order("groups.display", None, [USER])
    expected = [people[1], people[0], people[2], people[3]]
    assert await by_cursor(pool, tenant, [Part(USERS, USER)], order, 1) == expected
    order = parse_order("members", "descending", [GROUP])
    expected = sorted(teams, key=lambda team: [people[0], min(people[:2]), people[2]][teams.index(team)], reverse=True)
    assert await by_index(pool, tenant, [Part(GROUPS, GROUP)], order, 1) == expected


async def test_users_and_groups_stand_in_one_list(pool: asyncpg.Pool) -> None:
    tenant = uuid.uuid4()
    people = await fill(pool, tenant, [document(f"user{number}", displayName=f"d{number}") for number in range(4)])
    teams = [uuid.uuid4() for _ in range(3)]
    for number, team in enumerate(teams):
        await pool.execute(
            "INSERT INTO groups (tenant_id, id, display_name_key, doc, created_at, last_modified)"
            " VALUES ($1, $2, $3, jsonb_build_object('displayName', $3::text), now(), now())",
            tenant,
            team,
            f"D{number}x",
        )
    parts = [Part(USERS, USER, rows=True), Part(GROUPS, GROUP, rows=True)]
    both = sorted(people + teams)
    for walk in (by_index, by_cursor):
        assert await walk(pool, tenant, parts, None, 2) == both
        names = parse_order("displayName", None, [USER, GROUP])
        mixed = [people[0], teams[0], people[1], teams[1], people[2], teams[2], people[3]]
        assert await walk(pool, tenant, parts, names, 2) == mixed
        users_only = parse_order("userName", "descending", [USER, GROUP])
        assert await walk(pool, tenant, parts, users_only, 2) == sorted(teams) + people[::-1]


APPLIED, WAITING = 80_000, 20_000
TENANT, OTHER = uuid.UUID(int=1), uuid.UUID(int=2)

# Ids as they were given one a millisecond until an hour ago.
_MANY = """
WITH person AS MATERIALIZED (
    SELECT n, $1::text::jsonb || jsonb_build_object('userName', 'user' || n) AS doc,
           (lpad(to_hex($2::bigint + n), 12, '0') || '70008000' || lpad(to_hex(n), 12, '0'))::uuid AS id
      FROM generate_series($3::int, $4::int - 1) AS n
)
"""
_MANY_USERS = """
INSERT INTO users (tenant_id, id, work_email_keys, active, doc, created_at, last_modified)
SELECT $5, id, '{}', true, doc, now(), now() FROM person
"""
_MANY_JOBS = """
INSERT INTO job (id, tenant_id, kind, queue, resource_id, correlation_id, payload)
SELECT gen_random_uuid(), $5, 'user.create', 'provision', id, id,
       jsonb_build_object('doc', doc, 'work_email_keys', '[]'::jsonb) FROM person
"""
_APPLY = """
WITH applied AS (
    UPDATE job SET state = 'done', payload = NULL FROM (
        SELECT id, payload -> 'doc' AS doc FROM job
         WHERE tenant_id = $1 AND state = 'staged' AND kind = 'user.create' ORDER BY resource_id LIMIT $2
           FOR UPDATE SKIP LOCKED) AS next
     WHERE job.id = next.id RETURNING job.resource_id, next.doc
)
INSERT INTO users (tenant_id, id, work_email_keys, active, doc, created_at, last_modified)
SELECT $1, resource_id, '{}', true, doc, now(), now() FROM applied
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def crowded(servers: Servers) -> AsyncIterator[Settings]:
    """Settings for a store of 100 000 users, a fifth of them waiting, and a neighbour's."""
    async with fresh_settings(servers) as settings:
        connection = await asyncpg.connect(settings.database_url.get_secret_value())
        try:
            doc = json.dumps(document("", displayName="Somebody", title="Buyer"))
            begin = int((time.time() - 3600) * 1000) - APPLIED - WAITING
            for tenant, share in ((TENANT, 1), (OTHER, 20)):
                await connection.execute(_MANY + _MANY_USERS, doc, begin, 0, APPLIED // share, tenant)
                await connection.execute(
                    _MANY + _MANY_JOBS, doc, begin, APPLIED // share, (APPLIED + WAITING) // share, tenant
                )
            await connection.execute("VACUUM ANALYZE")
        finally:
            await connection.close()
        yield settings


async def existing(pool: asyncpg.Pool) -> set[uuid.UUID]:
    return {row["id"] for row in await pool.fetch("SELECT id FROM directory_user WHERE tenant_id = $1", TENANT)}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("walk", [by_index, by_cursor])
async def test_account_discovery_misses_and_repeats_nobody_while_users_come_and_are_applied(
    crowded: Settings, walk: Callable[..., Awaitable[list[uuid.UUID]]]
) -> None:
    """Two processes insert meanwhile, the clock of one behind by a second; a worker applies.

    Positions move when somebody who comes with a late clock is put before the last of a page: then a list by index
    may show again one who came during the walk, and only such a one. A list by cursor never does.
    """
    pool = await open_pool(crowded, name="tests")
    stop = asyncio.Event()
    came = 0

    async def insert(behind_seconds: float, number: int) -> None:
        nonlocal came
        while not stop.is_set():
            now, begin = int((time.time() - behind_seconds) * 1000), 10**6 * number + came
            await pool.execute(_MANY + _MANY_JOBS, "{}", now - begin, begin, begin + 5, TENANT)
            await pool.execute(_APPLY, TENANT, 50)
            came += 5

    try:
        before = await existing(pool)
        assert len(before) >= APPLIED + WAITING
        inserting = [asyncio.create_task(insert(*each)) for each in ((0, 2), (1, 3))]
        try:
            seen = await walk(pool, TENANT, [Part(USERS, USER)], None, 1000)
        finally:
            stop.set()
            await asyncio.gather(*inserting)
        assert came >= 50
        assert sorted(one for one in seen if one in before) == sorted(before)
        if walk is by_cursor:
            assert len(seen) == len(set(seen))
        assert set(seen) <= await existing(pool)
    finally:
        await pool.close()


async def recorded(settings: Settings, run: Callable[[Any], Awaitable[object]]) -> list[dict[str, Any]]:
    """Return the plans of the statements that list a page."""
    async with recording(settings.database_url.get_secret_value()) as recorder:
        await run(recorder)
        return [plan async for _, plan in plans(recorder)]


@pytest.mark.asyncio(loop_scope="module")
async def test_a_page_walks_the_index_of_both_halves_and_no_further(crowded: Settings) -> None:
    parts, count = [Part(USERS, USER)], 100
    pool = await open_pool(crowded, name="tests")
    try:
        middle = await list_by_index(pool, TENANT, parts, start_index=50_000, count=count, scim_url=URL)
    finally:
        await pool.close()
    middle_id = middle.resources[-1][1].id

    async def first(connection: Any) -> None:
        await list_by_cursor(connection, TENANT, parts, after=None, count=count, scim_url=URL)

    async def deep(connection: Any) -> None:
        page = await list_by_cursor(connection, TENANT, parts, after=Position(middle_id), count=count, scim_url=URL)
        assert page.total is None
        assert len(page.resources) == count

    for run in (first, deep):
        for plan in await recorded(crowded, run):
            scans = {node["Relation Name"]: node for node in nodes(plan) if "Relation Name" in node}
            assert {node["Node Type"] for node in scans.values()} <= {"Index Scan", "Index Only Scan"}, plan
            if plan["Node Type"] == "Aggregate":  # counts
                assert sum(node["Actual Rows"] for node in scans.values()) <= MOST_COUNTED + 1
                continue
            assert {name: node["Index Name"] for name, node in scans.items()} == {
                "users": "users_pkey",
                "job": "job_waiting_id",
            }
            assert sum(node["Actual Rows"] for node in scans.values()) <= 2 * count + 4, plan


@pytest.mark.asyncio(loop_scope="module")
async def test_a_page_by_number_skips_on_the_index_alone(crowded: Settings) -> None:
    async def run(connection: Any) -> None:
        page = await list_by_index(connection, TENANT, [Part(USERS, USER)], start_index=50_001, count=100, scim_url=URL)
        assert len(page.resources) == 100

    for plan in await recorded(crowded, run):
        for node in nodes(plan):
            assert node["Node Type"] != "Seq Scan", plan
            if node["Node Type"] == "Index Scan":
                assert node["Actual Rows"] <= 102, node


async def test_a_total_by_cursor_is_exact_or_absent(pool: asyncpg.Pool) -> None:
    tenant, most = uuid.uuid4(), MOST_COUNTED
    await pool.execute(_MANY + _MANY_USERS, "{}", 10**12, 0, most, tenant)
    parts = [Part(USERS, USER)]
    page = await list_by_cursor(pool, tenant, parts, after=None, count=1, scim_url=URL)
    assert page.total == most
    await pool.execute(_MANY + _MANY_JOBS, "{}", 10**12, most, most + 1, tenant)
    page = await list_by_cursor(pool, tenant, parts, after=None, count=1, scim_url=URL)
    assert page.total is None
    assert (await list_by_cursor(pool, tenant, parts, after=None, count=0, scim_url=URL)).total == most + 1
    assert (await list_by_index(pool, tenant, parts, start_index=1, count=0, scim_url=URL)).total == most + 1
    expected = sum(str(number).startswith("12") for number in range(most + 1))
    some = [Part(USERS, USER, parse_filter('userName sw "user12"'))]
    assert (await list_by_cursor(pool, tenant, some, after=None, count=1, scim_url=URL)).total == expected
