"""`usher api`, `usher worker`, `usher migrate`: the processes of a production set-up."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

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
    settings = load_settings()
    if processes == 1:
        from api.main import run  # noqa: PLC0415  whoever only supervises needs no aiohttp

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
    if settings.metrics_dir is not None:
        sys.exit(_run_together(command, processes, settings.metrics_dir))
    # Any of them may be the one that is asked for /metrics.
    with tempfile.TemporaryDirectory(prefix="usher-metrics-") as folder:
        status = _run_together(command, processes, Path(folder))
    sys.exit(status)


def _run_together(command: list[str], count: int, metrics_dir: Path) -> int:
    """Run ``count`` copies of a command; when one ends or a signal comes, stop all; return the worst status."""
    environment = {**os.environ, "USHER_METRICS_DIR": str(metrics_dir)}
    children: list[subprocess.Popen[bytes]] = []
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True
        for child in children:
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    while len(children) < count and not stopping:
        children.append(subprocess.Popen(command, env=environment))  # noqa: S603  our own command
    if stopping:
        stop()  # also the one that was being started when the signal came
    status = 0
    for _ in children:
        _, ended = os.wait()
        code = os.waitstatus_to_exitcode(ended)
        # One that was asked to stop before it could listen for that, or again when it no longer did, stopped as asked.
        if not (stopping and code == -signal.SIGTERM):
            status = max(status, abs(code))
        if not stopping:
            stop()
    return status


def worker(
    queue: Annotated[
        list[str] | None, typer.Option(help="Queue to serve: provision or email; all of them when not given.")
    ] = None,
) -> None:
    """Apply accepted creates, send invitations, look after the ledger."""
    from models.jobs import QUEUES  # noqa: PLC0415  `usher api` does without

    unknown = sorted(set(queue or ()) - set(QUEUES))
    if unknown:
        raise UsageError(f"Unknown queue {', '.join(unknown)}; there are {', '.join(QUEUES)}.")
    settings = load_settings()

    from cli.store import explain  # noqa: PLC0415  as above
    from worker.main import run  # noqa: PLC0415  as above

    try:
        run(settings, queues=tuple(dict.fromkeys(queue)) if queue else QUEUES)
    except Exception as error:
        explained = explain(error)
        if explained is None:
            raise
        raise explained from error


def migrate() -> None:
    """Bring the database to the newest schema; safe to run again."""
    settings = load_settings()

    import asyncpg  # noqa: PLC0415  the other commands start faster without these
    import sqlalchemy.exc  # noqa: PLC0415  as above

    from models.migrations.run import head, upgrade  # noqa: PLC0415  as above

    try:
        asyncio.run(upgrade(settings.database_url.get_secret_value()))
    except (
        OSError,
        TimeoutError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        sqlalchemy.exc.SQLAlchemyError,
    ) as error:
        cause = getattr(error, "orig", None) or error
        raise UsherError(f"The migration failed and nothing was changed: {cause}") from error
    print(f"The database is at migration {head()}.")
