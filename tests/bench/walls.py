"""What the second wall between tenants costs: processor time of a create, a match and a PATCH with it and without.

    .venv/bin/python -m tests.bench.walls

The api's own code in this process, without HTTP, on a small store of its own: as it is; under `usher_app`, from which
the policies hold nothing back; and without the wall, its statements and transactions sent as they would be if there
were none. All in turn, round by round. A figure is the median of its rounds; look at differences, not at sums.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch
from uuid import UUID

from uuid_utils.compat import uuid7

from models import db
from models.audit.record import Actor
from models.db import TENANT_ROLE, open_pool
from models.directory.find import UserFinder
from models.directory.write import Change, UserWriter
from models.intake import Create, Intake
from models.scim.document import read_user
from models.scim.filter import Lookup
from models.scim.json import dumps
from models.scim.patch import Patched
from tests.support.api import apply_all, fresh_settings, store
from tests.support.servers import running_servers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

    from models.settings import Settings

TENANT, ACTOR = UUID(int=1), Actor("token", "bench", "bench")
ROUNDS, EACH, TOGETHER = 7, 192, (1, 16, 64)
_SCOPE, _SCOPE_END = ") AS scope (tenants)\n CROSS JOIN LATERAL (SELECT asked.* FROM (", ") AS asked WHERE scope."


class Unwalled(db.Session):
    """Sends statements as they would be if there were no wall."""

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        if query.startswith("BEGIN; SELECT set_config(") or query == "COMMIT":
            return ""
        return await super().execute(query, *args, **options)

    async def _execute(self, query: str, *args: Any, **options: Any) -> Any:
        if _SCOPE in query:
            query = query.partition(_SCOPE)[2].rpartition(_SCOPE_END)[0]
        query = query.replace("set_config('usher.tenants', $14, true)", "$14::text")
        return await super()._execute(query, *args, **options)  # type: ignore[misc]  # the stubs lack it


class Side:
    """The parts of an api process on one pool."""

    def __init__(self, name: str, pool: asyncpg.Pool, settings: Settings) -> None:
        self.name, self.pool = name, pool
        self.intake = Intake(pool, settings, lambda *_: None)
        self.finder = UserFinder(pool, limit=settings.intake_batch, in_flight=settings.intake_in_flight)
        self.writer = UserWriter(pool, settings, lambda *_: None)
        self.made = 0

    async def create(self, _: int) -> None:
        self.made += 1
        user = read_user({"userName": f"{self.name}-{uuid7()}@x.example", "externalId": str(self.made)})
        made = (TENANT, uuid7(), uuid7(), user, dumps(user.doc).decode(), ACTOR, uuid7(), {"route": "/Users"})
        await self.intake.accept(Create(*made))

    async def match(self, number: int) -> None:
        [_] = await self.finder.find(TENANT, Lookup("userName", f"user{number}@x.example"))

    async def change(self, ids: list[UUID], number: int) -> None:
        def edit(doc: dict[str, Any]) -> Patched:
            return Patched({**doc, "title": str(uuid7())}, changed=True, ignored=())

        await self.writer.update(Change(TENANT, ids[number], edit, lambda _: None, ACTOR, uuid7(), {"route": "/Users"}))


def _busy(pids: list[int]) -> float:
    """Return the microseconds that processes have run for."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e3


async def _measure(side: Side, act: Callable[[int], Awaitable[None]], together: int) -> tuple[float, float]:
    """Return the microseconds of this process and of PostgreSQL for one act, with so many under way."""
    pids = [holder._con.get_server_pid() for holder in side.pool._holders if holder._con]  # type: ignore[attr-defined]  # as above
    began, busy = time.process_time(), _busy(pids)
    for first in range(0, EACH, together):
        await asyncio.gather(*(act(number) for number in range(first, first + together)))
    return (time.process_time() - began) * 1e6 / EACH, (_busy(pids) - busy) / EACH


async def _run(settings: Settings) -> None:
    async with store(settings) as connection:
        await connection.execute("INSERT INTO tenant (id, name, display_name) VALUES ($1, 'bench', '')", TENANT)
    sides = [
        Side("wall", await open_pool(settings, name="scim", role=TENANT_ROLE), settings),
        Side("usher_app", await open_pool(settings, name="scim"), settings),
    ]
    with patch.object(db, "Session", Unwalled):
        sides.append(Side("without", await open_pool(settings, name="scim"), settings))
    ids = [uuid7() for _ in range(EACH)]
    for number, user_id in enumerate(ids):
        user = read_user({"userName": f"user{number}@x.example", "externalId": f"e{number}"})
        made = (TENANT, user_id, uuid7(), user, dumps(user.doc).decode(), ACTOR, uuid7(), {"route": "/Users"})
        await sides[0].intake.accept(Create(*made))
    await apply_all(settings)
    async with store(settings) as connection:
        await connection.execute("VACUUM ANALYZE")
    acts: dict[str, Callable[[Side], Callable[[int], Awaitable[None]]]] = {
        "create": lambda side: side.create,
        "match": lambda side: side.match,
        "change": lambda side: partial(side.change, ids),
    }
    print("µs for one         together  " + "  ".join(f"{side.name:>20}" for side in sides) + "   (api + PostgreSQL)")  # noqa: T201
    for what, act_of in acts.items():
        for together in TOGETHER:
            taken: dict[str, list[tuple[float, float]]] = {side.name: [] for side in sides}
            for number in range(ROUNDS + 1):
                for side in sides:
                    figures = await _measure(side, act_of(side), together)
                    if number:
                        taken[side.name].append(figures)
            middle = {
                name: [statistics.median(part) for part in zip(*all_, strict=True)] for name, all_ in taken.items()
            }
            told = "  ".join(f"{api:7.0f} + {server:6.0f}     " for api, server in middle.values())
            more = sum(middle["wall"]) / sum(middle["without"]) - 1
            print(f"{what:<16} {together:>10}  {told}  {more:+.1%}", flush=True)  # noqa: T201
    for side in sides:
        await side.intake.close()
        await side.finder.close()
        await side.writer.close()
        await side.pool.close()


def main() -> None:
    """Measure, and print."""
    with running_servers(on_disk=True) as servers:

        async def run() -> None:
            async with fresh_settings(servers) as settings:
                await _run(settings)

        asyncio.run(run())


if __name__ == "__main__":
    main()
