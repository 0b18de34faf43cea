"""`usher api`, `usher worker`, `usher migrate`: the processes of a production set-up."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from typing import Annotated

import asyncpg
import sqlalchemy.exc
import typer

from models.errors import UsageError, UsherError
from models.settings import load_settings


def api(
    processes: Annotated[int, typer.Option(min=1, max=64, help="Processes that share the ports.")] = 1,
    share_ports: Annotated[bool, typer.Option("--share-ports", hidden=True)] = False,
    drain_seconds: Annotated[
        float, typer.Option(min=0, help="Seconds to stay reachable, but not ready, before stopping.")
    ] = 0.0,
) -> None:
    """Serve SCIM, invitations, health and pages."""
    from api.main import run  # noqa: PLC0415  the other commands start faster without aiohttp

    settings = load_settings()
    if processes == 1:
        try:
            run(settings, share_ports=share_ports, drain_seconds=drain_seconds)
        except OSError as error:
            raise UsageError(
                f"Cannot listen on {settings.host}:{settings.port} and {settings.admin_host}:{settings.admin_port}:"
                f" {error.strerror}. Set USHER_PORT and USHER_ADMIN_PORT to free ports."
            ) from error
        return
    if 0 in (settings.port, settings.admin_port):
        raise UsageError("Several processes share their ports, so USHER_PORT and USHER_ADMIN_PORT cannot be 0.")
    command = [sys.executable, "-m", "cli.main", "api", "--share-ports", "--drain-seconds", str(drain_seconds)]
    sys.exit(_run_together(command, processes))


def _run_together(command: list[str], count: int) -> int:
    """Run ``count`` copies of a command; when one ends or a signal comes, stop all; return the worst status."""
    children = [subprocess.Popen(command) for _ in range(count)]  # noqa: S603  our own command

    def stop(*_: object) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    status = 0
    for _ in children:
        _, ended = os.wait()
        status = max(status, abs(os.waitstatus_to_exitcode(ended)))
        stop()
    return status


def worker(
    queue: Annotated[
        list[str] | None, typer.Option(help="Queue to serve: provision or email; all of them when not given.")
    ] = None,
) -> None:
    """Apply accepted creates, send invitations, look after the ledger."""
    from models.jobs import QUEUES  # noqa: PLC0415  as above
    from worker.main import run  # noqa: PLC0415  as above

    unknown = sorted(set(queue or ()) - set(QUEUES))
    if unknown:
        raise UsageError(f"Unknown queue {', '.join(unknown)}; there are {', '.join(QUEUES)}.")
    run(load_settings(), queues=tuple(queue) if queue else QUEUES)


def migrate() -> None:
    """Bring the database to the newest schema; safe to run again."""
    from models.migrations.run import head, upgrade  # noqa: PLC0415  as above

    settings = load_settings()
    try:
        asyncio.run(upgrade(settings.database_url.get_secret_value()))
    except (OSError, asyncpg.PostgresError, sqlalchemy.exc.DBAPIError) as error:
        cause = getattr(error, "orig", None) or error
        raise UsherError(f"The migration failed and nothing was changed: {cause}") from error
    print(f"The database is at migration {head()}.")
