"""The only place of the worker that touches arq: its Worker, built explicitly, and ringing for jobs.

arq executes rings and nothing else. Attempts, results and time limits belong to the ledger, so whatever arq
does with them is switched off or made harmless (reference/reliability.md §2 and §6).
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson
import structlog
from arq.connections import ArqRedis
from arq.worker import Worker, func
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from models.jobs import RUN_JOBS, redis_queue
from worker.cancel import cancel_all, carry_through

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from uuid import UUID

    from models.settings import Settings

_RING_SECONDS = 25
_KEEP_MS = 7 * 24 * 3600 * 1000
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0

_log = structlog.get_logger("worker")


def make_redis(settings: Settings) -> ArqRedis:
    """Return a client that rides out short outages of Redis."""
    return ArqRedis(
        ConnectionPool.from_url(
            settings.redis_url.get_secret_value(),
            socket_timeout=5,
            socket_connect_timeout=5,
            health_check_interval=15,
            retry=Retry(ExponentialBackoff(cap=1, base=0.05), retries=3),
            # OSError too: without it a refused connection still ends arq's loop (reliability.md §2, 1).
            retry_on_error=[RedisConnectionError, RedisTimeoutError, OSError],
        ),
        job_serializer=orjson.dumps,
        job_deserializer=orjson.loads,
        expires_extra_ms=_KEEP_MS,
    )


async def press(redis: ArqRedis, queue: str, job_ids: list[UUID]) -> None:
    """Ring for jobs of a queue."""
    await redis.enqueue_job(RUN_JOBS, [str(job_id) for job_id in job_ids], _queue_name=redis_queue(queue))


class RingWorker(Worker):
    """An arq worker that knows what it still writes to Redis about rings whose tasks were cancelled.

    arq shields that from a cancellation: it goes on beside whoever hangs up, and would connect anew behind him.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.finishing: set[asyncio.Task[Any]] = set()

    def _note(self) -> None:
        task = asyncio.current_task()
        if task is not None:
            self.finishing.add(task)
            task.add_done_callback(self.finishing.discard)

    async def finish_job(self, *args: Any, **options: Any) -> None:
        """Do as arq does, and be known of meanwhile."""
        self._note()
        await super().finish_job(*args, **options)

    async def finish_failed_job(self, *args: Any, **options: Any) -> None:
        """Do as arq does, and be known of meanwhile."""
        self._note()
        await super().finish_failed_job(*args, **options)


def make_worker(settings: Settings, queue: str, answer: Callable[[], Awaitable[None]]) -> RingWorker:
    """Return an arq worker for one queue that calls ``answer`` for every ring."""

    async def run_jobs(ctx: dict[Any, Any], *args: Any, **kwargs: Any) -> None:  # noqa: ARG001  arq's signature
        # The ids told arq's side which jobs there are; which of them is next is the ledger's to say.
        await answer()

    return RingWorker(
        functions=[func(run_jobs, name=RUN_JOBS)],
        queue_name=redis_queue(queue),
        redis_pool=make_redis(settings),
        handle_signals=False,
        max_jobs=settings.worker_slots,
        queue_read_limit=settings.worker_slots + 10,
        poll_delay=settings.poll_seconds,
        job_timeout=_RING_SECONDS,
        max_tries=1000,
        keep_result=0,
        log_results=False,
        allow_abort_jobs=False,
        job_serializer=orjson.dumps,
        job_deserializer=orjson.loads,
        expires_extra_ms=_KEEP_MS,
    )


async def answer_rings(settings: Settings, queue: str, answer: Callable[[], Awaitable[None]]) -> None:
    """Run an arq worker until cancelled; when Redis throws it out, build a new one after a pause."""
    pause = _FIRST_PAUSE_SECONDS
    while True:
        began = time.monotonic()
        worker = make_worker(settings, queue, answer)
        polling = asyncio.create_task(worker.async_run(), name=f"arq {queue} polling")
        try:
            # Waiting beside it and not for it: a cancellation then ends this task at once, whatever arq does with its.
            await asyncio.wait([polling])
            polling.result()
        except Exception as error:  # noqa: BLE001  arq lets every fault of its polling out
            _log.warning("Redis is out of reach", action="worker.redis_lost", queue=queue, error=type(error).__name__)
        finally:
            # Whoever stops while it hangs up, because it was told to rest, cancels it once more.
            await carry_through(_hang_up(worker, polling))
        if time.monotonic() - began > _LONGEST_PAUSE_SECONDS * 2:
            pause = _FIRST_PAUSE_SECONDS  # it had worked in between
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


async def _hang_up(worker: RingWorker, polling: asyncio.Task[None]) -> None:
    """Stop a worker: it takes no more rings, and those it had are only rings."""
    worker.allow_pick_jobs = False
    polls = [task for task in (polling, worker.main_task) if task is not None]
    await cancel_all(polls)
    rings = list(worker.tasks.values())  # only now: while it was being cancelled it may have taken another one
    await cancel_all(rings)
    await asyncio.gather(*polls, *rings, *worker.finishing, return_exceptions=True)
    with suppress(OSError, RedisConnectionError, RedisTimeoutError):  # it may be gone already
        await worker.pool.aclose(close_connection_pool=True)
