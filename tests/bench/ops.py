"""The section of the benchmark that opens operators' pages over a full ledger, and creates users meanwhile."""

from __future__ import annotations

import asyncio
import http.client
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from uuid_utils.compat import uuid7

from api.app import make_apps
from api.pages.cookies import cookie_name
from api.pages.guard import SESSION_COOKIE
from models.audit.record import OPERATOR
from models.db import open_pool
from models.jobs import QUEUES, due
from models.operators import add_operator
from models.sessions import begin_session
from models.settings import load_settings
from tests.bench import ops_ledger
from tests.bench.generator import Generator, WrongAnswerError
from tests.bench.measure import Sample, Workload, measure_in_turn, quantiles
from tests.bench.servers import usher
from tests.bench.workloads import Load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import asyncpg

    from tests.bench.servers import Usher
    from tests.bench.workloads import Bench

DASHBOARDS: Final = 20
SCRAPE: Final = "scrape of /metrics"
WITHOUT: Final = "create @16"
WITH: Final = f"create @16, {DASHBOARDS} dashboards"

_CONNECTIONS = 16
_OTHER_NAMES = 1000  # rounds apart, so that no user is created twice
_LEAST = 8  # openings of a page in a round
_SCRAPES = 3  # in a round
_SCRAPE_PAUSE_SECONDS = 5.5  # so that what is known is no longer fresh
_FIRST_EVENT_SECONDS = 30
_NO_PAGE = frozenset({"/admin/audit/export/{id}/{part}"})  # a file that somebody asked for

_NEEDS_QUERY = frozenset({"/ops/bulk/new"})
# What is opened besides the bare address of a page, and how those with a part of their own come by it.
FURTHER: Final[dict[str, tuple[str, ...]]] = {
    "/ops/jobs": (
        "?q=state:staged,running,retry,dead",
        "?q=state:staged",
        "?q=state:dead",
        "?q=state:done+age:>1d",
        "?q=state:cancelled",
        "?q=state:staged,retry+age:>10m",
        "?q=tenant:tenant1+state:staged",
        "?q=tenant:tenant7",
        "?q=error:smtp_5xx",
        "?q=user:person{number}@tenant1.example",
        "?q=externalId:e-{number}",
        "?q=person{digits}",
        "?q=correlation:{correlation}",
        "?q=state:staged&order=oldest",
        "?after={done}",
    ),
    "/ops/jobs/{id}": ("{dead}", "{done}", "{staged}"),
    "/ops/jobs/{id}/{action}": ("{staged}/cancel", "{dead}/discard"),
    "/ops/dead": ("?kind=invitation.send",),
    "/ops/bulk/new": (
        "?action=retry&q=state:dead",
        "?action=cancel&q=state:staged",
        "?action=discard&q=state:dead+error:smtp_5xx",
    ),
    "/ops/bulk/{id}": ("{operation}",),
    "/ops/cycle/{tenant}": ("tenant1", "tenant7"),
    "/ops/emails": (
        "?state=failed",
        "?state=sent",
        "?state=pending&tenant=tenant1",
        "?tenant=tenant7",
        "?code=smtp_5xx",
        "?state=failed&reply=550",
        "?user=person{number}@tenant1.example",
    ),
    "/ops/emails/resend": ("?state=failed", "?tenant=tenant7"),
    "/ops/emails/suppressed": ("?tenant=tenant7",),
    "/ops/emails/{id}": ("{invitation}",),
    "/ops/requests": ("?failed=1", "?tenant=tenant1", "?correlation={request_correlation}", "?route=/Users"),
    "/ops/requests/{id}": ("{request}",),
    "/ops/tenants/{name}": ("tenant1", "tenant7"),
    "/admin/audit": (
        "?q=action:scim.user.*",
        "?q=outcome:failure,denied",
        "?q=target:person{number}@tenant1.example",
        "?q=tenant:tenant7",
        "?q=actor:operator",
        "?q=actor:olga",
    ),
    "/admin/audit/events/{id}": ("{event}",),
    "/admin/audit/timeline/{id}": ("{correlation}",),
    "/admin/audit/streams/{id}": ("{stream}",),
    "/admin/tokens/{id}": ("bench7n4",),
    "/admin/operators/{name}": ("person7",),
}

_EXAMPLES = """
SELECT (SELECT id FROM job WHERE state = 'dead' LIMIT 1) AS dead,
       (SELECT id FROM job WHERE state = 'staged' AND kind = 'user.create' LIMIT 1) AS staged,
       done.id AS done, done.correlation_id AS correlation,
       (SELECT id FROM bulk_operation LIMIT 1) AS operation,
       (SELECT id FROM audit_stream LIMIT 1) AS stream,
       (SELECT id FROM invitation WHERE state = 'failed' LIMIT 1) AS invitation,
       request.id AS request, request.correlation_id AS request_correlation,
       (SELECT id FROM audit_event ORDER BY occurred_at DESC LIMIT 1) AS event
  FROM (SELECT id, correlation_id FROM job WHERE state = 'done' OFFSET 100 LIMIT 1) AS done,
       (SELECT id, correlation_id FROM request_log LIMIT 1) AS request
"""


async def page_routes() -> list[str]:
    """Return the path of every page under `/ops` and `/admin`, as its route writes it."""
    settings = load_settings(
        database_url="postgresql://127.0.0.1:1/none", redis_url="redis://127.0.0.1:1/0", secret_key="x" * 32
    )
    faces = await make_apps(settings)  # which connects to nothing before it is asked
    try:
        paths = {
            route.resource.canonical
            for route in faces.internal.router.routes()
            if route.method == "GET" and route.resource is not None
        }
    finally:
        await faces.close()
    return sorted(path for path in paths if path.split("/")[1] in ("ops", "admin") and path not in _NO_PAGE)


def addresses(path: str, values: dict[str, object]) -> dict[str, str]:
    """Return the addresses at which a page is opened, by how they are written without `values`.

    Args:
        path: as its route writes it.
        values: what stands in for names in braces.

    Raises:
        KeyError: nothing says what stands in for a part of the path.
    """
    further = FURTHER.get(path, ())
    if "{" in path and not further:
        raise KeyError(f"say in {__name__} with what {path} is to be opened")
    start = path.partition("{")[0]
    bare = [] if "{" in path or path in _NEEDS_QUERY else [path]
    return {text: text.format(**values) for text in [*bare, *(start + text for text in further)]}


class Pages:
    """An admin's browser: opens pages over one connection that is kept alive."""

    def __init__(self, target: Usher, cookie: str) -> None:
        self._target = target
        address = urlsplit(target.admin_url)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port)
        self._headers = {"Cookie": cookie, "Accept": "text/html", "Sec-Fetch-Site": "same-origin"}

    def open(self, address: str) -> tuple[float, str]:
        """Open a page; return how long that took and its type.

        Raises:
            WrongAnswerError: it is not there.
        """
        began = time.perf_counter()
        self._connection.request("GET", address, headers=self._headers)
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise WrongAnswerError(f"{address} was answered {answer.status}: {body[:300]!r}")
        return time.perf_counter() - began, answer.headers.get_content_type()

    def stay(self, address: str) -> bool:
        """Tell whether a page updates itself."""
        self._connection.request("GET", address, headers=self._headers)
        answer = self._connection.getresponse()
        live = answer.headers.get_content_type() == "text/event-stream"
        self._connection.close()  # or a stream would go on
        return live

    def sample_of(self, address: str, seconds: float) -> Callable[[int], Awaitable[Sample]]:
        """Return what opens a page again and again for some seconds."""

        async def sample(_: int) -> Sample:
            times: list[float] = []
            before = self._target.cpu_seconds()
            until = time.perf_counter() + seconds
            while time.perf_counter() < until or len(times) < _LEAST:
                times.append(self.open(address)[0])
            used = self._target.cpu_seconds()
            return Sample(
                rate=len(times) / sum(times),
                times={"page": quantiles(times)},
                cpu_seconds={role: (used[role] - before[role]) / len(times) for role in ("api", "postgres")},
            )

        return sample

    async def scrape(self, _: int) -> Sample:
        """Scrape `/metrics`, now and then as Prometheus does."""
        times = []
        for _ in range(_SCRAPES):
            await asyncio.sleep(_SCRAPE_PAUSE_SECONDS)
            times.append(self.open("/metrics")[0])
        return Sample(times={"scrape": quantiles(times)})


async def _sign_in(target: Usher) -> str:
    settings = load_settings(
        database_url=target.database_url,
        redis_url="redis://127.0.0.1:1/0",
        secret_key="x" * 32,
        admin_url=target.admin_url,
    )
    pool = await open_pool(settings, name="bench", size=1)
    async with pool.acquire() as connection:
        operator = await add_operator(
            connection, name="bench", email="bench@example.com", role="admin", actor=OPERATOR, correlation_id=uuid7()
        )
        value = await begin_session(connection, operator.id)
    await pool.close()
    return f"{cookie_name(settings, SESSION_COOKIE)}={value}"


@asynccontextmanager
async def dashboards(target: Usher, cookie: str, live: list[str]) -> AsyncIterator[None]:
    """Have `DASHBOARDS` live pages open, each of them updated at least once before it goes on.

    Raises:
        WrongAnswerError: one of them ended meanwhile.
    """
    address = urlsplit(target.admin_url)
    tasks = []
    first = []
    for number in range(DASHBOARDS):
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        path = live[number % len(live)]
        writer.write(
            f"GET {path}?live=1 HTTP/1.1\r\nHost: {address.netloc}\r\nCookie: {cookie}\r\n"
            "Accept: text/event-stream\r\nSec-Fetch-Site: same-origin\r\n\r\n".encode()
        )
        updated = asyncio.Event()
        first.append(updated)
        tasks.append(asyncio.create_task(_watch(reader, writer, updated), name=path))
    try:
        await asyncio.wait_for(asyncio.gather(*(updated.wait() for updated in first)), _FIRST_EVENT_SECONDS)
        yield
        if gone := [task.get_name() for task in tasks if task.done()]:
            raise WrongAnswerError(f"live pages ended: {gone}")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, updated: asyncio.Event) -> None:
    try:
        while text := await reader.read(1 << 16):
            if b"event: trouble" in text:
                return
            if b"event: " in text:
                updated.set()
    finally:
        writer.close()


def _sweep(database: asyncpg.Connection) -> Callable[[int], Awaitable[Sample]]:
    async def sample(_: int) -> Sample:
        times = []
        for _ in range(_LEAST):
            for queue in QUEUES:
                began = time.perf_counter()
                await due(database, queue, older_than_seconds=1, limit=100)
                times.append(time.perf_counter() - began)
        return Sample(times={"sweep": quantiles(times)})

    return sample


async def ops_section(bench: Bench) -> list[Workload]:
    """Every page, the scrape and the sweeper's look over a full ledger; creates with and without open dashboards."""
    async with AsyncExitStack() as stack:
        generator = await stack.enter_async_context(Generator(bench.load_processes))
        target = await stack.enter_async_context(usher(bench.folder, "ops", processes=bench.processes, workers=0))
        await ops_ledger.fill(target.database, ops_ledger.JOBS or max(bench.sizes), bench.say)
        return await measure(bench, generator, target)


async def measure(bench: Bench, generator: Generator, target: Usher) -> list[Workload]:
    """Measure a target whose ledger is filled."""
    examples = await target.database.fetchrow(_EXAMPLES)
    assert examples is not None
    values = dict(examples) | {"number": 4301, "digits": "43"}
    cookie = await _sign_in(target)
    pages = Pages(target, cookie)
    workloads, live = [], []
    for path in await page_routes():
        for name, address in addresses(path, values).items():
            workloads.append(Workload("ops", name, "pages", pages.sample_of(address, bench.seconds / 10)))
            if "?" not in address and pages.stay(f"{address}?live=1"):
                live.append(address)
    workloads.append(Workload("ops", SCRAPE, "", pages.scrape))
    workloads.append(Workload("ops", "sweeper's look", "", _sweep(target.database)))
    await measure_in_turn(workloads, bench.rounds, bench.say)
    alone, beside = (Load(bench, generator, target, "create", _CONNECTIONS) for _ in range(2))

    async def watched(number: int) -> Sample:
        async with dashboards(target, cookie, live):
            return await beside.sample(number + _OTHER_NAMES)

    creates = [
        Workload("ops", WITHOUT, "creates", alone.sample),
        Workload("ops", WITH, "creates", watched, beside=WITHOUT),
    ]
    await measure_in_turn(creates, bench.rounds, bench.say)
    return [*workloads, *creates]
