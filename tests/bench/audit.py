"""The section of the benchmark that asks the audit log: qualified searches and far pages, over twelve months."""

from __future__ import annotations

import os
import time
from contextlib import AsyncExitStack
from datetime import timedelta
from random import Random
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from models.audit.cursor import Place
from models.audit.query import asking, page_sql, search_events
from models.audit.search import read_search
from models.db import open_pool
from models.settings import load_settings
from tests.bench.audit_log import loaded
from tests.bench.generator import WrongAnswerError
from tests.bench.measure import Sample, Workload, measure_in_turn, quantiles

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    import asyncpg

    from models.db import Connection
    from tests.bench.workloads import Bench

EVENTS: Final = int(os.environ.get("BENCH_AUDIT_EVENTS", "10000000"))
"""How many; the smaller the sooner it is loaded."""
PAGE: Final = 100
FAR_PAGE: Final = 5_000

_ENOUGH = 1_000_000  # events, for every search to find some
_SECRET = b"signs cursors"


class Asking:
    """One kind of search, asked again and again with other values; every answer is checked."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        seconds: float,
        ask: Callable[[Connection, Random], Awaitable[None]],
        kind: str = "search",
    ) -> None:
        self._pool, self._seconds, self._ask, self._kind = pool, seconds, ask, kind
        self._dice = Random(7)  # noqa: S311  the same questions in every run

    async def sample(self, _: int) -> Sample:
        """Ask for some seconds, one question after the other."""
        times: list[float] = []
        async with self._pool.acquire() as connection:
            until = time.perf_counter() + self._seconds
            while time.perf_counter() < until or len(times) < 20:
                began = time.perf_counter()
                await self._ask(connection, self._dice)
                times.append(time.perf_counter() - began)
        return Sample(rate=len(times) / sum(times), times={self._kind: quantiles(times)})


def _search(
    make: Callable[[Random], str], tenants: Sequence[UUID | None], *, some: bool = True
) -> Callable[[Connection, Random], Awaitable[None]]:
    async def ask(connection: Connection, dice: Random) -> None:
        text, tenant_id = make(dice), dice.choice(tenants)
        page = await search_events(connection, text, tenant_id=tenant_id, secret=_SECRET, limit=PAGE)
        if (bool(page.events) is not some and EVENTS >= _ENOUGH) or any(
            tenant_id not in (None, e["tenant_id"]) for e in page.events
        ):
            raise WrongAnswerError(f"{text!r} for {tenant_id} found {len(page.events)} events")

    return ask


async def _far_place(connection: Connection, tenant_id: UUID | None, page: int) -> Place:
    """Return where a page of everything within 92 days begins; found once, by counting."""
    async with asking(connection) as now:
        await connection.execute("SET LOCAL statement_timeout = 0")
        row = await connection.fetchrow(
            "SELECT occurred_at, id FROM audit_event WHERE occurred_at >= $1 AND occurred_at < $2"
            " AND ($3::uuid IS NULL OR tenant_id = $3) ORDER BY occurred_at DESC, id DESC OFFSET $4 LIMIT 1",
            now - timedelta(days=92),
            now,
            tenant_id,
            (page - 1) * PAGE - 1,
        )
    if row is None:
        raise WrongAnswerError(f"there is no page {page} within 92 days; load more events")
    return Place(row["occurred_at"], row["id"], now)


def _page(place: Place | None, tenant_id: UUID | None) -> Callable[[Connection, Random], Awaitable[None]]:
    async def ask(connection: Connection, _: Random) -> None:
        async with asking(connection) as now:
            search = read_search("created:>92d", now=place.as_of if place else now)
            sql, values = page_sql(search, tenant_id, place, PAGE + 1)
            rows = await connection.fetch(sql, *values)
        if len(rows) != PAGE + 1:
            raise WrongAnswerError(f"a page has {len(rows)} events")

    return ask


def _qualified(people: int, events: int) -> dict[str, Callable[[Random], str]]:
    """Return the questions that administrators ask, by name."""

    def days(dice: Random) -> str:
        first = dice.randrange(8, 350)
        return f"created:{first}d..{first - 7}d"

    return {
        "newest of 7 days": lambda _: "",
        "a week at any time": days,
        "one person's history": lambda dice: f"target:person{dice.randrange(people)}@example.com",
        "one request": lambda dice: (
            f"correlation:{UUID(int=(0x01980000000070008000 << 48) + dice.randrange(events // 3))}"
        ),
        "failures of users, 30 days": lambda _: "action:scim.user.* outcome:failure created:30d",
        "one action, 24 hours": lambda _: "action:invitation.email.send created:24h",
        "a reason, 92 days": lambda _: "reason:smtp_* created:>92d",
        "an attribute and an address": lambda dice: f"attribute:title ip:10.0.{dice.randrange(256)}.0/24 created:30d",
    }


async def audit_section(bench: Bench) -> list[Workload]:
    """Search 10 000 000 events over twelve months; ``BENCH_AUDIT_EVENTS`` loads fewer."""
    async with AsyncExitStack() as stack:
        target, ids, _ = await stack.enter_async_context(loaded(bench, "audit", EVENTS))
        tenants: list[Any] = list(ids)
        settings = load_settings(
            database_url=target.database_url, redis_url="redis://127.0.0.1:1/0", secret_key="x" * 32
        )
        pool = await open_pool(settings, name="bench", size=2)
        stack.push_async_callback(pool.close)
        workloads = []
        for name, make in _qualified(max(EVENTS // 30, 1), EVENTS).items():
            everybody: list[Any] = [None]
            for whose, some in (("a tenant", tenants), ("all", everybody)):
                if whose == "a tenant" and name in ("one person's history", "one request"):
                    continue  # which tenant's it is does not go by number
                asked = Asking(pool, bench.seconds, _search(make, some))
                workloads.append(Workload("audit", f"{name}, {whose}", "searches", asked.sample))
        nobody = Asking(pool, bench.seconds, _search(lambda _: "reason:nothing_at_all", tenants, some=False))
        workloads.append(Workload("audit", "nothing in 7 days, a tenant", "searches", nobody.sample))
        async with pool.acquire() as connection:
            far = min(FAR_PAGE, EVENTS * 92 // 364 // PAGE)
            place = await _far_place(connection, None, far)
        for number, start in ((1, None), (far, place)):
            paged = Asking(pool, bench.seconds, _page(start, None), "page")
            workloads.append(Workload("audit", f"audit page {number} @1", "pages", paged.sample))
        await measure_in_turn(workloads, bench.rounds, bench.say)
    return workloads
