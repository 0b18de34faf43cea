"""The section of the benchmark that reads: matches, filters and pages in directories of several sizes."""

from __future__ import annotations

import http.client
import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING
from urllib.parse import quote

from tests.bench import store
from tests.bench.generator import Generator, WrongAnswerError, serving
from tests.bench.measure import Workload, measure_in_turn
from tests.bench.scripts import user_name
from tests.bench.servers import usher
from tests.bench.workloads import HTTP, Load

if TYPE_CHECKING:
    from tests.bench.servers import Usher
    from tests.bench.workloads import Bench

FILTERS = {
    "title": "title",
    "familyName": "name.familyName",
    "department": "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:department",
}
FAR_PAGE = 5_000

_PAGE = 20  # users; page 5 000 is there from 100 000 users on
_CONNECTIONS = (1, 16)
_MOST_CONNECTIONS = 64  # of the smallest directory only, beside the HTTP ceiling


async def match_section(bench: Bench) -> list[Workload]:
    """Match by userName, eq on other attributes, and pages by cursor; each size has a store of its own."""
    async with AsyncExitStack() as stack:
        generator = await stack.enter_async_context(Generator(bench.load_processes))
        workloads = []
        for size in bench.sizes:
            bench.say(f"match: loading {size} users")
            target = await stack.enter_async_context(
                usher(bench.folder, f"match{size}", processes=bench.processes, workers=0)
            )
            await store.fill(target, size)
            await store.make_rare(target, size)
            for connections in _CONNECTIONS:
                load = Load(bench, generator, target, "match", connections, population=size)
                workloads.append(Workload("match", f"match among {size} @{connections}", "matches", load.sample))
            for name, path in FILTERS.items():
                load = Load(bench, generator, target, "filter", 1, population=size, target_of=path)
                workloads.append(Workload("match", f"{name} eq among {size} @1", "lists", load.sample))
            if size >= FAR_PAGE * _PAGE and size == max(bench.sizes):
                for page, cursor in _walk(target).items():
                    last = user_name(store.FILLED, page * _PAGE - 1)
                    asked = f"count={_PAGE}&cursor={quote(cursor, safe='')} {last}"
                    load = Load(bench, generator, target, "page", 1, population=size, target_of=asked)
                    workloads.append(Workload("match", f"page {page} of {size} @1", "pages", load.sample))
            if size == min(bench.sizes):
                bare = await stack.enter_async_context(serving("tests.bench.bare"))
                http = f"{HTTP} @{_MOST_CONNECTIONS}"
                ceiling = Load(bench, generator, bare, "create", _MOST_CONNECTIONS)
                load = Load(bench, generator, target, "match", _MOST_CONNECTIONS, population=size)
                name = f"match among {size} @{_MOST_CONNECTIONS}"
                workloads.append(Workload("match", http, "requests", ceiling.sample))
                workloads.append(Workload("match", name, "matches", load.sample, http))
        workloads.sort(key=lambda workload: int(workload.name.rpartition("@")[2]))
        await measure_in_turn(workloads, bench.rounds, bench.say)
    return workloads


def _walk(target: Usher) -> dict[int, str]:
    """Walk from page to page and return the cursors of the first page and of a far one."""
    connection = http.client.HTTPConnection(target.host, target.port)
    cursor = ""
    for page in range(1, FAR_PAGE):
        # Only the cursors are of interest on the way; the pages that are measured are read whole.
        query = f"count={_PAGE}&cursor={quote(cursor, safe='')}"
        connection.request("GET", f"/scim/v2/Users?{query}", headers={"Authorization": f"Bearer {target.token}"})
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200 or "nextCursor" not in (doc := json.loads(body)):
            raise WrongAnswerError(f"page {page} was answered {answer.status}, without another: {body[:300]!r}")
        cursor = doc["nextCursor"]
    connection.close()
    return {1: "", FAR_PAGE: cursor}
