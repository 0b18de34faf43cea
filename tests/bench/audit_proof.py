"""The section of the benchmark that proves the audit log: sealing, verifying and exporting, in events a second.

Processor time of `worker` is that of the process that hashes (one core of it); PostgreSQL's stands beside it.
"""

from __future__ import annotations

import os
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Final

from models.audit.export import WIDEST, Exported, export_events
from models.audit.keys import new_signer, read_signer
from models.audit.seal import seal_waiting
from models.audit.search import read_search
from models.audit.verify import verify
from models.db import open_pool
from models.settings import load_settings
from tests.bench.audit import EVENTS as KEPT_EVENTS
from tests.bench.audit_log import KEY_FILE, loaded
from tests.bench.generator import WrongAnswerError
from tests.bench.measure import Sample, Workload, measure_in_turn
from tests.bench.servers import usher

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

    from models.audit.keys import Signer
    from models.db import Connection
    from tests.bench.servers import Usher
    from tests.bench.workloads import Bench

EVENTS: Final = int(os.environ.get("BENCH_PROOF_EVENTS", "100000"))
"""How many are verified and exported in a round."""
FRESH: Final = 20_000
"""How many are written, and then sealed, in a round."""

# What the worker writes for a small user, in transactions of 200 as it does.
_WRITE = """
INSERT INTO audit_event (id, tenant_id, action, phase, outcome, severity, actor_type, actor_id, actor_label, targets,
                         correlation_id, job_id, context, diff, changed)
SELECT gen_random_uuid(), $1, 'scim.user.create', 'applied', 'success', 1, 'token', 'abc', 'Entra',
       jsonb_build_array(jsonb_build_object('type', 'User', 'id', gen_random_uuid(), 'external_id', 'e' || n,
                                            'label', 'user' || n || '@example.com')),
       gen_random_uuid(), gen_random_uuid(), '{"method": "POST", "route": "/Users", "ip": "192.0.2.7"}',
       jsonb_build_array(
           jsonb_build_object('op', 'add', 'path', 'userName', 'after', 'user' || n || '@example.com'),
           jsonb_build_object('op', 'add', 'path', 'name.givenName', 'after', 'Ana'),
           jsonb_build_object('op', 'add', 'path', 'name.familyName', 'after', 'Novak'),
           jsonb_build_object('op', 'add', 'path', 'active', 'after', true)),
       ARRAY['userName', 'name.givenName', 'name.familyName', 'active']
  FROM generate_series($2::int, $2 + 199) AS n
"""


class _Log:
    """The log of one Usher."""

    def __init__(self, target: Usher, connection: Connection, signer: Signer, bench: Bench) -> None:
        self.target, self.connection, self.signer = target, connection, signer
        self.path = bench.folder / "export.jsonl"

    async def write(self, count: int) -> None:
        for first in range(0, count, 200):
            await self.connection.execute(_WRITE, self.target.tenant_id, first)

    def timed(self, work: Callable[[], Awaitable[int]], before: Callable[[], Awaitable[None]] | None = None) -> Timed:
        return Timed(self, work, before)

    async def seal(self) -> int:
        return (await seal_waiting(self.connection, self.signer)).events

    async def verify(self) -> int:
        report = await verify(self.connection, [self.signer.verifier])
        if report.findings:
            raise WrongAnswerError(f"nobody touched the log, and verification found {report.findings[:3]}")
        return report.events

    async def export(self) -> int:
        now = await self.connection.fetchval("SELECT now()")
        done = Exported()
        with self.path.open("wb") as file:
            await export_events(
                self.connection,
                read_search("created:>370d", now=now, widest=WIDEST),
                tenant_id=None,
                form="jsonl",
                file=file,
                done=done,
            )
        return done.rows


class Timed:
    """How many events a second some work does."""

    def __init__(
        self, log: _Log, work: Callable[[], Awaitable[int]], before: Callable[[], Awaitable[None]] | None
    ) -> None:
        self._log, self._work, self._before = log, work, before

    async def sample(self, _: int) -> Sample:
        """Do it once."""
        if self._before:
            await self._before()
        began, ours, theirs = time.perf_counter(), time.process_time(), self._log.target.cpu_seconds()
        count = await self._work()
        seconds, mine = time.perf_counter() - began, time.process_time() - ours
        postgres = self._log.target.cpu_seconds()["postgres"] - theirs["postgres"]
        return Sample(rate=count / seconds, cpu_seconds={"worker": mine / count, "postgres": postgres / count})


async def proof_section(bench: Bench) -> list[Workload]:
    """Seal, verify and export; ``BENCH_PROOF_EVENTS`` says how many events, or the log is the one that is kept."""
    async with AsyncExitStack() as stack:
        if bench.keep:
            target, _, folder = await stack.enter_async_context(loaded(bench, "proof", KEPT_EVENTS))
            signer = read_signer(folder / KEY_FILE)
        else:
            target = await stack.enter_async_context(usher(bench.folder, "proof", processes=1, workers=0))
            signer = new_signer()
        settings = load_settings(
            database_url=target.database_url, redis_url="redis://127.0.0.1:1/0", secret_key="x" * 32
        )
        pool: asyncpg.Pool = await open_pool(settings, name="bench", size=1)
        stack.push_async_callback(pool.close)
        connection = await stack.enter_async_context(pool.acquire())
        log = _Log(target, connection, signer, bench)
        if not bench.keep:
            bench.say(f"proof: writing {EVENTS:,} events")
            await log.write(EVENTS)
        await log.seal()

        async def fresh() -> None:
            await log.write(FRESH)

        workloads = [
            Workload("proof", "seal", "events", log.timed(log.seal, fresh).sample),
            Workload("proof", "verify", "events", log.timed(log.verify).sample),
            Workload("proof", "export as JSON lines", "events", log.timed(log.export).sample),
        ]
        await measure_in_turn(workloads, bench.rounds, bench.say)
    return workloads
