"""The worker process: a runner and an arq worker for each queue, and the sweeper, under one roof.

If any of them ends in an error that it does not handle itself, the process ends rather than limp.
"""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import structlog
import uvloop
from uuid_utils.compat import uuid7

from models import tracing
from models.db import open_pool
from models.doorbell import Doorbell
from models.heartbeat import Heartbeat, identify
from models.jobs import EMAIL, KINDS
from models.log import set_up_logging
from models.vitals import Vitals
from worker.bulk import carry_out_forever
from worker.context import Context
from worker.duty import Duty
from worker.handlers import HANDLERS
from worker.listener import Listener
from worker.runner import Runner
from worker.schedules import Scheduler
from worker.settings import make_redis, press
from worker.smtp import SmtpPool
from worker.streamer import stream_forever
from worker.sweeper import sweep_forever

if TYPE_CHECKING:
    from uuid import UUID

    from models.settings import Settings

_LANES = 2  # while one batch is written, the next is read

_log = structlog.get_logger("worker")


def _make_runner(context: Context, queue: str) -> Runner:
    handlers = {kind: HANDLERS[kind] for kind in KINDS if KINDS[kind].queue == queue}
    settings = context.settings
    if queue == EMAIL:
        lanes = settings.smtp_connections * 2
        return Runner(context, queue, handlers, lanes=lanes, batch=lanes)
    return Runner(context, queue, handlers, lanes=_LANES, batch=settings.job_batch)


async def work(settings: Settings, queues: tuple[str, ...]) -> None:
    """Do the jobs of ``queues`` until SIGTERM or SIGINT, then finish what is in hand or give it back."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    tracing.start(settings, "worker")
    redis = make_redis(settings)
    runners: dict[str, Runner] = {}

    async def _press(queue: str, job_ids: list[UUID]) -> None:
        await press(redis, queue, job_ids)

    def _wake(queue: str) -> None:
        # Redis is out of reach: this process serves its own ring.
        if queue in runners:
            runners[queue].wake()

    doorbell = Doorbell(_press, unanswered=_wake)
    process_id = uuid7()
    pool = await open_pool(settings, name="worker", process_id=process_id)
    context = Context(settings, pool, SmtpPool(settings), doorbell.ring, process_id)
    runners.update({queue: _make_runner(context, queue) for queue in queues})
    duty = Duty(settings, runners)
    vitals = Vitals(
        settings,
        "worker",
        pools={"worker": pool},
        doorbell=doorbell,
        ping=redis.ping,
        slots=lambda: [(queue, runner.lanes, runner.busy) for queue, runner in runners.items()],
    )
    listener = Listener(settings, vitals)
    heartbeat = Heartbeat(
        pool,
        identify(context.process_id, "worker", queues=queues, slots=sum(runner.lanes for runner in runners.values())),
        tally=context.tally,
        busy=lambda: sum(runner.busy for runner in runners.values()),
        told=duty.told,
        file=settings.beat_file,
    )
    _log.info("Working", action="worker.start", queues=list(queues))
    try:
        async with asyncio.TaskGroup() as group:
            serving = [group.create_task(runner.serve(), name=f"runner {queue}") for queue, runner in runners.items()]
            others = [group.create_task(duty.listen(queue), name=f"arq {queue}") for queue in runners]
            others.append(group.create_task(heartbeat.run(), name="heartbeat"))
            others.append(group.create_task(vitals.run(), name="vitals"))
            others.append(group.create_task(Scheduler(context).keep(), name="schedules"))
            others.append(group.create_task(carry_out_forever(context), name="bulk operations"))
            others.append(group.create_task(stream_forever(context), name="audit streams"))
            others.append(group.create_task(sweep_forever(context, HANDLERS, queues), name="sweeper"))
            await stopping.wait()
            _log.info("Stopping", action="worker.stop")
            for runner in runners.values():
                runner.stop()
            for task in others:
                task.cancel()
            _, left = await asyncio.wait(serving, timeout=settings.shutdown_seconds)
            for task in left:
                task.cancel()
    finally:
        for runner in runners.values():
            await runner.give_back()
        await heartbeat.stop()
        await doorbell.close()
        await context.smtp.close()
        await context.pool.close()
        await redis.aclose(close_connection_pool=True)
        listener.close()
        vitals.close()
        await tracing.stop()
    _log.info("Stopped", action="worker.stopped")


def run(settings: Settings, *, queues: tuple[str, ...]) -> None:
    """Run one worker process to its end."""
    set_up_logging(settings)
    uvloop.run(work(settings, queues))
