"""Searching the ledger: what is found, in which order, and that no search reads the whole of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import asyncpg
import orjson
import pytest
import pytest_asyncio

from models import job_find_sql
from models.errors import UsageError
from models.job_find import count, find_ids, find_page, resolve
from tests.support.full_ledger import TENANTS, correlation_of, fill, person_of, state_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from uuid import UUID

    from tests.support.servers import Servers

pytestmark = pytest.mark.asyncio(loop_scope="module")

JOBS = 30_000
WINDOW = 2_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def filled(servers: Servers) -> AsyncIterator[str]:
    async with servers.databases.copy() as url:
        connection = await asyncpg.connect(url)
        try:
            await fill(connection, JOBS)
        finally:
            await connection.close()
        yield url


@pytest_asyncio.fixture(loop_scope="module")
async def connection(filled: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[asyncpg.Connection]:
    monkeypatch.setattr(job_find_sql, "WINDOW", WINDOW)
    one = await asyncpg.connect(filled)
    await one.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=lambda value: orjson.dumps(value).decode(), decoder=orjson.loads
    )
    try:
        yield one
    finally:
        await one.close()


def number_of(job_id: UUID) -> int:
    return int(job_id.hex[17:], 16)


async def found(connection: asyncpg.Connection, text: str, *, newest: bool = True, limit: int = 50) -> list[int]:
    """Return the numbers of the jobs of the first page."""
    query = await resolve(connection, text)
    page = await find_page(connection, query, limit=limit, newest=newest)
    return [number_of(job["id"]) for job in page.jobs]


def expected(fits: Callable[[int], bool], *, newest: bool = True, limit: int = 50) -> list[int]:
    numbers = (n for n in (range(JOBS, 0, -1) if newest else range(1, JOBS + 1)) if fits(n))
    return [n for n, _ in zip(numbers, range(limit), strict=False)]


IN_WINDOW = JOBS - WINDOW

CASES: list[tuple[str, Callable[[int], bool]]] = [
    ("", lambda _: True),
    ("state:done", lambda n: n % 10 != 0),
    ("state:dead", lambda n: state_of(n) == "dead"),
    ("state:running", lambda n: state_of(n) == "running"),
    ("state:cancelled", lambda n: state_of(n) == "cancelled"),
    ("state:staged,retry", lambda n: state_of(n) in ("staged", "retry")),
    ("-state:done,cancelled", lambda n: state_of(n) not in ("done", "cancelled")),
    ("state:dead kind:user.create", lambda n: state_of(n) == "dead" and n % 2 == 0),
    ("state:retry -tenant:t1", lambda n: state_of(n) == "retry" and n % TENANTS != 0),
    ("state:retry tenant:t1,t3 queue:provision", lambda n: state_of(n) == "retry" and n % TENANTS in (0, 2)),
    ("state:retry error:SMTP_*", lambda n: state_of(n) == "retry"),
    ("state:retry error:smtp_refused", lambda n: state_of(n) == "retry"),
    ("state:retry error:smtp", lambda _: False),
    ("kind:invitation.send tenant:t2", lambda n: n % 2 == 1 and n % TENANTS == 1),
    ("state:dead state:done", lambda _: False),
    ("user:user20@contoso.example", lambda n: n == 20),
    ("USER21@contoso.example", lambda n: n == 21),
    ("user:user2999*", lambda n: str(n).startswith("2999")),
    ("user2999 state:done", lambda n: str(n).startswith("2999") and n % 10 != 0),
    (f"user:{person_of(30)}", lambda n: n == 30),
    (f"{person_of(41)}", lambda n: n == 41),
    ("externalId:ext30", lambda n: n == 30),
    ("externalId:ext31,ext50", lambda n: n in (31, 50)),
    ("externalId:ext31 tenant:t1", lambda _: False),
    (f"correlation:{correlation_of(77)}", lambda n: n == 77),
    (f"{correlation_of(80)}", lambda n: n == 80),
    ("user:nobody@contoso.example", lambda _: False),
    ("state:dead -user:user29970@contoso.example", lambda n: state_of(n) == "dead" and n != 29970),
]


@pytest.mark.parametrize("newest", [True, False], ids=["newest", "oldest"])
@pytest.mark.parametrize(("text", "fits"), CASES, ids=[text for text, _ in CASES])
async def test_a_search_finds_what_fits_in_order(
    connection: asyncpg.Connection, text: str, fits: Callable[[int], bool], newest: bool
) -> None:
    assert await found(connection, text, newest=newest) == expected(fits, newest=newest)


@pytest.mark.parametrize("newest", [True, False], ids=["newest", "oldest"])
@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("state:staged age:>3h", "state = 'staged' AND staged_at < $1::timestamptz - interval '3 hours'"),
        ("state:staged age:<10m", "state = 'staged' AND staged_at > $1::timestamptz - interval '10 minutes'"),
        ("state:staged -age:<3h", "state = 'staged' AND staged_at <= $1::timestamptz - interval '3 hours'"),
        (
            "state:staged age:>1h age:<2h",
            "state = 'staged' AND staged_at BETWEEN $1::timestamptz - interval '2 hours' AND $1 - interval '1 hour'",
        ),
        ("state:done age:>3h", "state = 'done' AND staged_at < $1::timestamptz - interval '3 hours'"),
        ("state:done age:<10m", "state = 'done' AND staged_at > $1::timestamptz - interval '10 minutes'"),
    ],
)
async def test_jobs_are_found_by_their_age(connection: asyncpg.Connection, text: str, holds: str, newest: bool) -> None:
    query = await resolve(connection, text)
    page = await find_page(connection, query, limit=50, newest=newest)
    order = "DESC" if newest else "ASC"
    rows = await connection.fetch(f"SELECT id FROM job WHERE {holds} ORDER BY id {order} LIMIT 50", query.now)  # noqa: S608  as written above
    assert [job["id"] for job in page.jobs] == [row["id"] for row in rows]
    assert rows


async def test_a_job_is_found_by_its_id(connection: asyncpg.Connection) -> None:
    some = await connection.fetchval("SELECT id FROM job ORDER BY id OFFSET 123 LIMIT 1")
    for text in (str(some), f"id:{some}", f"id:{some} state:done,staged"):
        assert await found(connection, text) == [number_of(some)]
    assert await found(connection, f"id:{some} -id:{some}") == []


async def test_somebody_who_is_gone_is_found_by_the_name_of_then(connection: asyncpg.Connection) -> None:
    async with connection.transaction():
        await connection.execute("DELETE FROM users WHERE id = $1", person_of(21))
        await connection.execute("DELETE FROM identifier WHERE resource_id = $1", person_of(21))
        assert await found(connection, "user:User21@contoso.example") == [21]
        assert await found(connection, "externalId:ext21") == [21]
        raise_it = connection.execute("DO $$ BEGIN RAISE EXCEPTION 'back'; END $$")
        with pytest.raises(asyncpg.RaiseError):
            await raise_it


@pytest.mark.parametrize("text", ["", "state:staged,retry", "state:done kind:user.create", "user:user299*"])
@pytest.mark.parametrize("newest", [True, False])
async def test_pages_follow_each_other_without_gap_or_repetition(
    connection: asyncpg.Connection, text: str, newest: bool
) -> None:
    query = await resolve(connection, text)
    whole, _ = await find_ids(connection, query, limit=95, newest=newest)
    walked: list[UUID] = []
    after = None
    while len(walked) < len(whole):
        page = await find_page(connection, query, after=after, limit=10, newest=newest)
        walked += [job["id"] for job in page.jobs]
        after = page.after
        if after is None:
            break
    assert walked[: len(whole)] == whole


async def test_a_walk_that_ends_before_its_page_is_full_says_so_and_goes_on(connection: asyncpg.Connection) -> None:
    query = await resolve(connection, "state:done externalId:ext31")
    assert (await find_page(connection, query)).note is None
    query = await resolve(connection, "state:done,dead error:smtp_refused")
    numbers: list[int] = []
    after, pages, notes = None, 0, set()
    while pages == 0 or after is not None:
        page = await find_page(connection, query, after=after, limit=1000)
        numbers += [number_of(job["id"]) for job in page.jobs]
        notes.add(page.note)
        after, pages = page.after, pages + 1
    assert numbers == expected(lambda n: state_of(n) == "dead", limit=JOBS)
    assert pages >= JOBS / WINDOW
    assert notes == {
        f"Only {WINDOW:,} jobs were looked at; go on from there, or name an id, a user or a correlation.",
        None,
    }


async def test_what_a_page_shows_of_a_job(connection: asyncpg.Connection) -> None:
    query = await resolve(connection, "user:user20@contoso.example")
    (job,) = (await find_page(connection, query)).jobs
    assert (job["user_name"], job["tenant"], job["kind"], job["state"]) == (
        "user20@contoso.example",
        "t1",
        "user.create",
        "dead",
    )
    assert "payload" not in job
    (mail,) = (await find_page(connection, await resolve(connection, "user:user21@contoso.example"))).jobs
    assert (mail["user_name"], mail["user_id"]) == ("user21@contoso.example", person_of(21))


async def test_counts_stop(connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    async def counted(text: str) -> int:
        return await count(connection, await resolve(connection, text))

    assert await counted("state:dead") == JOBS / 10 / 5
    assert await counted("user:user2999*") == 10 + 1
    assert await counted("state:done") == WINDOW * 9 // 10
    assert await counted("state:dead state:done") == 0
    monkeypatch.setattr(job_find_sql, "MOST_COUNTED", 101)
    assert await counted("state:dead") == 101


async def test_names_that_are_not_there_and_names_for_too_many(
    connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="There is no tenant t9"):
        await resolve(connection, "tenant:t1,t9")
    monkeypatch.setattr(job_find_sql, "MOST_PEOPLE", 5)
    query = await resolve(connection, "user:user2*")
    assert query.cut
    assert "The names lead to more" in ((await find_page(connection, query)).note or "")


# Plans


class Recorder:
    """A connection that lets a test see the statements that are run."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self.statements: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.connection, name)

        async def run(query: str, *values: Any) -> Any:
            self.statements.append((query, values))
            return await method(query, *values)

        return run


def nodes(plan: Any) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


SMALL = {"tenant", "job_pause"}


@pytest.mark.parametrize("text", [*(text for text, _ in CASES), "state:staged age:>3h", "state:done age:>3h"])
async def test_no_search_reads_a_whole_table(connection: asyncpg.Connection, text: str) -> None:
    recorder: Any = Recorder(connection)
    query = await resolve(recorder, text)
    for newest in (True, False):
        await find_page(recorder, query, limit=50, newest=newest)
    await count(recorder, query)
    for mode in ("force_custom_plan", "force_generic_plan"):
        await connection.execute(f"SET plan_cache_mode = {mode}")
        for statement, values in recorder.statements:
            prepared = await connection.prepare(statement)
            explained = await prepared.explain(*values, analyze=True)
            for node in nodes(explained[0]["Plan"]):
                where = (mode, json.dumps(node, default=str)[:600], statement)
                if node.get("Relation Name") in SMALL:
                    continue
                read = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
                # The partitions of other months are empty.
                assert node["Node Type"] != "Seq Scan" or read == 0, where
                # No more than a window, or all that is open.
                assert read * node["Actual Loops"] <= max(WINDOW, JOBS / 10) + 1, where
