"""Doing the jobs of one queue: claim under a lease, run the handler, record how it ended.

A ring, the sweeper or the end of a batch makes it look into the ledger; it never trusts Redis to know what
there is. Jobs of one kind are done together where the handler can; when such a batch fails it is halved
until the job at fault is alone, and only that one counts as failed. An outage of the store is nobody's fault:
its jobs are given back untried.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

import asyncpg
import structlog
from uuid_utils.compat import uuid7

from models import jobs as ledger
from models import tracing
from models.db import is_unavailable
from models.errors import PermanentJobError, RetryableJobError
from worker import measure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from uuid import UUID

    from models.db import Connection
    from models.jobs import Claim, Ending, Job
    from worker.context import Context, Handler

_JOB_SECONDS = 90.0
_PAUSE_SECONDS = 1.0
_CONTENTION_SECONDS = 0.05
# Outages that are the server's for certain. Any other (a connection that broke, memory that ran out) can be a
# job's doing, so a job is excused from it only so often.
_SERVERS_OWN = (
    asyncpg.AdminShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.DiskFullError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.TooManyConnectionsError,
)
_MOST_EXCUSES = 3

Result = TypeVar("Result")

_log = structlog.get_logger("runner")


class Runner:
    """Serves one queue of the ledger."""

    def __init__(
        self, context: Context, queue: str, handlers: Mapping[str, Handler], *, lanes: int, batch: int
    ) -> None:
        """Take what to do with which kind.

        Args:
            context: what handlers are given.
            queue: which queue to serve.
            handlers: by kind.
            lanes: most batches (or single jobs, for kinds that are not done together) at once.
            batch: most jobs of one claim; never more than there are free lanes for single jobs.
        """
        self._context = context
        self._queue = queue
        self._handlers = handlers
        self._lanes = lanes
        self._batch = batch
        self._singly = all(not handler.together for handler in handlers.values())
        self._awake = asyncio.Event()
        self._stopping = False
        self._resting = False
        self._waiting: list[asyncio.Future[None]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._leases: dict[UUID, int] = {}
        self._excused: Counter[UUID] = Counter()
        self._doubtful: set[UUID] = set()

    @property
    def lanes(self) -> int:
        """Most batches, or single jobs, at once."""
        return self._lanes

    @property
    def busy(self) -> int:
        """How many lanes are in use."""
        return len(self._tasks)

    def wake(self) -> None:
        """Have it look into the ledger."""
        self._awake.set()

    def rest(self, *, resting: bool) -> None:
        """Take no more jobs until told otherwise; what is in hand goes on."""
        self._resting = resting
        self.wake()

    async def answer(self) -> None:
        """Answer a ring: wake, and return when what was due has been done (or is in hand elsewhere).

        A runner that stops answers at once: the ledger remembers the jobs.
        """
        if self._stopping:
            return
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self.wake()
        await done

    async def serve(self) -> None:
        """Do jobs until `stop`; ends when the last batch in hand has."""
        beat = asyncio.create_task(self._beat())
        try:
            while not self._stopping:
                await self._look()
            await self._until_idle()
        finally:
            beat.cancel()
            self._answer(self._waiting)

    def stop(self) -> None:
        """Take no more jobs; what is in hand goes on."""
        self._stopping = True
        self.wake()

    async def give_back(self) -> None:
        """Cancel what is still in hand and give it back untried."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if not self._leases:
            return
        try:
            async with self._context.pool.acquire() as connection:
                given = sum([await ledger.release(connection, lease) for lease in list(self._leases)])
        except Exception as error:
            if not is_unavailable(error):
                raise
            _log.warning("Jobs are left to their lease", action="job.left", error=type(error).__name__)
        else:
            _log.info("Jobs were given back", action="job.release", queue=self._queue, jobs=given)

    def _answer(self, waiting: list[asyncio.Future[None]]) -> None:
        for done in waiting:
            if not done.done():
                done.set_result(None)

    async def _look(self) -> None:
        """Claim once, start what was claimed, and wait until there is reason to look again."""
        if len(self._tasks) >= self._lanes:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            return
        self._awake.clear()
        waiting, self._waiting = self._waiting, []
        if self._resting:
            self._answer(waiting)
            await self._awake.wait()
            return
        free = self._lanes - len(self._tasks)
        limit = min(self._batch, free) if self._singly else self._batch
        lease = uuid7()
        try:
            claimed = await self._claim(lease, limit)
        except Exception as error:
            self._answer(waiting)
            if not is_unavailable(error):
                raise
            self._doubtful.add(lease)
            _log.warning("The ledger does not answer", action="ledger.unavailable", error=type(error).__name__)
            await asyncio.sleep(_PAUSE_SECONDS)
            self._awake.set()
            return
        if claimed:
            await self._do_claimed(claimed, lease, waiting)
        else:
            self._answer(waiting)
        if not claimed.more:
            await self._awake.wait()
        elif not claimed:  # others are taking what is due
            await asyncio.sleep(_CONTENTION_SECONDS)

    async def _claim(self, lease: UUID, limit: int) -> Claim:
        settings = self._context.settings
        async with self._context.pool.acquire() as connection:
            for doubtful in list(self._doubtful):  # claims whose answer was lost may have been made
                await ledger.release(connection, doubtful)
                self._doubtful.discard(doubtful)
            return await ledger.claim(
                connection, self._queue, lease_token=lease, lease_seconds=settings.lease_seconds, limit=limit
            )

    async def _do_claimed(self, claimed: Claim, lease: UUID, waiting: list[asyncio.Future[None]]) -> None:
        """Start what was claimed; wait for it only if it holds jobs that may have taken their worker down."""
        self._leases[lease] = 1  # held until everything of it has been started
        started = self._start([job for job in claimed if not job.lost], lease)
        lost = [job for job in claimed if job.lost]
        for suspect in (False, True):
            if some := [job for job in lost if job.suspect is suspect]:
                await self._until_idle()  # nothing else is in hand that they could take along
                started += self._start(some, lease)
        asyncio.gather(*started, return_exceptions=True).add_done_callback(lambda _: self._answer(waiting))
        self._let_go(lease)
        if lost:
            await self._until_idle()

    async def _until_idle(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, jobs: list[Job], lease: UUID) -> list[asyncio.Task[None]]:
        started = []
        for kind, group in groupby(sorted(jobs, key=lambda job: job.kind), key=lambda job: job.kind):
            same = list(group)
            self._context.tally.started(kind, len(same), [job.waited for job in same if job.attempts == 1])
            measure.started(self._queue, kind, same)
            handler = self._handlers.get(kind)
            batches = [same] if handler is not None and handler.together else [[job] for job in same]
            started += [asyncio.create_task(self._do(handler, batch, lease)) for batch in batches]
        self._leases[lease] += len(started)
        for task in started:
            self._tasks.add(task)
            task.add_done_callback(lambda ended: self._ended(ended, lease))
        return started

    def _ended(self, task: asyncio.Task[None], lease: UUID) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return  # `give_back` still needs the lease
        self._let_go(lease)
        error = task.exception()
        if error is not None:
            _log.error("A batch was left to its lease", action="job.left", **_trace(error))

    def _let_go(self, lease: UUID) -> None:
        self._leases[lease] -= 1
        if not self._leases[lease]:
            del self._leases[lease]

    async def _do(self, handler: Handler | None, jobs: list[Job], lease: UUID) -> None:
        readable = []
        for job in jobs:
            nobody = None if handler else PermanentJobError("unknown_kind", f"Nobody does {job.kind}.")
            if refused := nobody or ledger.refusal(job):
                await self._fail(handler, job, lease, refused, 0.0)
            else:
                readable.append(job)
        if handler is not None and readable:
            await self._try(handler, readable, lease)

    async def _try(self, handler: Handler, jobs: Sequence[Job], lease: UUID) -> None:
        scope = asyncio.timeout(_JOB_SECONDS)
        began = time.monotonic()
        try:
            async with scope:
                with tracing.processing(self._queue, jobs):
                    ended = await handler.run(self._context, jobs, lease)
        except Exception as error:  # noqa: BLE001  whatever a handler raises is recorded with its job
            cause: Exception = error
            if scope.expired():
                cause = RetryableJobError("timeout", f"It took longer than {_JOB_SECONDS:g} seconds.")
            elif self._excuse(jobs, error):
                await self._untried(jobs, lease, error)
                return
            if len(jobs) == 1:
                await self._fail(handler, jobs[0], lease, cause, time.monotonic() - began)
                return
            middle = len(jobs) // 2
            await self._try(handler, jobs[:middle], lease)
            await self._try(handler, jobs[middle:], lease)
        else:
            for job in jobs:
                self._excused.pop(job.id, None)
            self._tell([job for job in jobs if job.id in ended], time.monotonic() - began)
            if len(ended) < len(jobs):
                missed = len(jobs) - len(ended)
                _log.warning("Jobs were overtaken by another worker", action="job.overtaken", jobs=missed)

    def _tell(self, done: Sequence[Job], seconds: float) -> None:
        """Count jobs of one kind that were done together, and write them into the log."""
        if not done:
            return
        self._context.tally.done(done[0].kind, len(done), seconds)
        measure.done(self._queue, done, seconds)
        for job in done:
            _log.info("Done", action="job.done", **_named(job))

    def _excuse(self, jobs: Sequence[Job], error: Exception) -> bool:
        """Tell whether an error is an outage that these jobs are not to blame for."""
        # A statement that ran out of its time says nothing about the server, but something about the batch.
        if not is_unavailable(error) or isinstance(error, asyncpg.QueryCanceledError):
            return False
        if isinstance(error, _SERVERS_OWN):
            return True
        if any(self._excused[job.id] >= _MOST_EXCUSES for job in jobs):
            return False
        self._excused.update(job.id for job in jobs)
        return True

    async def _insist(self, write: Callable[[Connection], Awaitable[Result]]) -> Result:
        """Write about jobs in hand, through an outage of the store: until it is over nobody else can have them."""
        while True:
            try:
                async with self._context.pool.acquire() as connection, connection.transaction():
                    return await write(connection)
            except Exception as error:
                if not is_unavailable(error):
                    raise
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _fail(self, handler: Handler | None, job: Job, lease: UUID, error: Exception, seconds: float) -> None:
        async def end(connection: Connection) -> Ending | None:
            return await ledger.fail(
                connection,
                job,
                lease,
                error,
                process_id=self._context.process_id,
                took_seconds=seconds,
                trace=_trace(error)["trace"],
            )

        async def end_and_tell(connection: Connection) -> Ending | None:
            ending = await end(connection)
            if ending is not None and handler is not None:
                await handler.failed(connection, ending)
            return ending

        self._excused.pop(job.id, None)
        try:
            ending = await self._insist(end_and_tell)
        except Exception as another:  # noqa: BLE001  the attempt must end, whatever else cannot be written
            _log.error("A failure could not be told", action="job.untold", kind=job.kind, **_trace(another))
            ending = await self._insist(end)
        if ending is not None:  # otherwise whoever freed it has counted it
            self._context.tally.failed(job.kind, seconds, dead=ending.state == "dead")
        code = getattr(error, "code", type(error).__name__)
        measure.failed(self._queue, job, ending, code, seconds)
        _log.warning(
            "Failed",
            action="job.failed",
            **_named(job),
            state=ending.state if ending else "lease lost",
            error=code,
        )

    async def _untried(self, jobs: Sequence[Job], lease: UUID, error: Exception) -> None:
        """Give jobs back that met an outage of the store, not a fault of their own."""
        _log.warning("The store does not answer", action="job.untried", jobs=len(jobs), error=type(error).__name__)
        await asyncio.sleep(_PAUSE_SECONDS)
        await self._insist(lambda connection: ledger.release(connection, lease, [job.id for job in jobs]))
        self.wake()

    async def _beat(self) -> None:
        settings = self._context.settings
        pause = settings.lease_beat_seconds
        while True:
            await asyncio.sleep(pause)
            pause = settings.lease_beat_seconds
            try:
                async with self._context.pool.acquire() as connection:
                    for lease in list(self._leases):
                        await ledger.extend_lease(connection, lease, settings.lease_seconds)
            except Exception as error:  # noqa: BLE001  whatever it is, the next beat may get through
                pause = min(pause, _PAUSE_SECONDS)
                _log.warning("A lease was not extended", action="lease.missed", error=type(error).__name__)


def _named(job: Job) -> dict[str, str | int]:
    """Return what the log calls an attempt by."""
    return {
        "kind": job.kind,
        "job_id": str(job.id),
        "tenant_id": str(job.tenant_id),
        "correlation_id": str(job.correlation_id),
        "attempt": job.attempts,
    }


def _trace(error: BaseException) -> dict[str, str]:
    """Return what the log may say of an error: its class and where it was raised, but not its text."""
    places = []
    trace = error.__traceback__
    while trace is not None:
        places.append(f"{trace.tb_frame.f_globals.get('__name__')}:{trace.tb_lineno}")
        trace = trace.tb_next
    return {"error": type(error).__name__, "trace": " > ".join(places)}
