"""The api process: two listeners, and a stop that drops no request."""

from __future__ import annotations

import asyncio
import gc
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog
import uvloop
from aiohttp import web

from api.app import make_apps
from api.connections import Runner, allow_open_files
from api.keys import PAGES_POOL, POOL, RING, TENANT_POOL
from api.limits import LIMITS
from models import metrics, tracing
from models.heartbeat import Heartbeat, identify
from models.log import set_up_logging
from models.vitals import Vitals

if TYPE_CHECKING:
    from models.settings import Settings

# Objects made before the collector looks for cycles. Python's 700 is reached by the documents of ten requests, none
# of which hold cycles.
_COLLECT_AFTER = 50_000
_LONGEST_LINE = 64 * 1024  # bytes of a request line: the longest filter, with every character percent-encoded
_log = structlog.get_logger("api")


def make_runner(app: web.Application, settings: Settings) -> web.AppRunner:
    """Return what serves an application's requests."""
    return Runner(
        app,
        settings,
        access_log=None,
        handle_signals=False,
        keepalive_timeout=settings.idle_seconds,
        shutdown_timeout=settings.shutdown_seconds,
        lingering_time=settings.body_seconds,  # what was answered before all of it came is not read for longer either
        max_line_size=_LONGEST_LINE,
        # A compressed body is refused; inflating it first would only serve its sender.
        auto_decompress=False,
    )


async def serve(settings: Settings, *, share_ports: bool = False, drain_seconds: float = 0.0) -> None:
    """Serve until SIGTERM or SIGINT, then answer what is under way and return.

    Args:
        settings: where to listen and which servers to use.
        share_ports: whether other processes listen on the same ports (SO_REUSEPORT).
        drain_seconds: how long to stay reachable but not ready before the listeners close, so that a load
            balancer can look away.

    Raises:
        OSError: a port is taken.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    allow_open_files(settings)
    tracing.start(settings, "api")
    faces = await make_apps(settings)
    vitals = Vitals(
        settings,
        "api",
        pools={"api": faces.public[POOL], "scim": faces.public[TENANT_POOL], "pages": faces.internal[PAGES_POOL]},
        doorbell=faces.public[RING].doorbell,
        ping=faces.public[RING].ping,
    )
    for limit in LIMITS:
        metrics.REQUESTS_LIMITED.add(0, limit)  # a rate needs a beginning
    heartbeat = Heartbeat(faces.public[POOL], identify(faces.process_id, "api"), file=settings.beat_file)
    signs = [
        asyncio.create_task(heartbeat.run(), name="heartbeat"),
        asyncio.create_task(vitals.run(), name="vitals"),
    ]
    runners = []
    try:
        for app, host, port in (
            (faces.public, settings.host, settings.port),
            (faces.internal, settings.admin_host, settings.admin_port),
        ):
            runner = make_runner(app, settings)
            await runner.setup()
            runners.append(runner)
            await web.TCPSite(runner, host, port, reuse_port=share_ports or None, backlog=1024).start()
        # What was imported stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_COLLECT_AFTER, 20, 20)
        _log.info(
            "Listening",
            action="api.start",
            public=str(runners[0].addresses[0]),
            internal=str(runners[1].addresses[0]),
        )
        await stopping.wait()
        faces.draining.set()
        _log.info("Stopping", action="api.stop")
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(drain_seconds)
    finally:
        for runner in runners:
            await runner.cleanup()
        for sign in signs:
            sign.cancel()
        await asyncio.gather(*signs, return_exceptions=True)
        await heartbeat.stop()
        await faces.close()
        vitals.close()
        await tracing.stop()
    _log.info("Stopped", action="api.stopped")


def run(settings: Settings, *, share_ports: bool = False, drain_seconds: float = 0.0) -> None:
    """Run one api process to its end."""
    set_up_logging(settings)
    uvloop.run(serve(settings, share_ports=share_ports, drain_seconds=drain_seconds))
