"""`usher queue top`: the queues, live, in a terminal."""

from __future__ import annotations

import asyncio
import sys
import termios
import tty
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cli.show import Json, cell, print_json
from cli.store import with_store
from models import backlog, bulk, job_detail, pauses

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from models.db import Connection
    from models.settings import Settings

_STYLES = {"dead": "bold red", "retry": "yellow", "running": "cyan"}
_MOST_ROWS = 30


def add_to(app: typer.Typer) -> None:
    """Add the command to `usher queue`."""
    app.command("top")(top)


def top(
    every: Annotated[float, typer.Option(min=0.2, max=60, help="Seconds between looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Show it once and end, for scripts.")] = False,
    as_json: Json = False,
) -> None:
    """Watch the queues: counts, ages, pauses, dead jobs by error, bulk operations. q or Ctrl-C ends it."""

    async def work(connection: Connection, _: Settings) -> None:
        if as_json:
            print_json(await _look(connection))
        elif once:
            Console().print(_draw(await _look(connection)))
        else:
            await _watch(connection, every)

    try:
        with_store(work)
    except KeyboardInterrupt:
        raise typer.Exit from None


async def _look(connection: Connection) -> dict[str, Any]:
    groups, short = await job_detail.dead_groups(connection)
    return {
        "at": datetime.now(UTC),
        "queues": await backlog.stats(connection),
        "pauses": await pauses.list_pauses(connection),
        "dead": groups,
        "dead_counts_short": short,
        "bulk": [one for one in await bulk.list_operations(connection, limit=20) if one["state"] == "running"],
    }


def _table(title: str, columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=False)
    for column in columns:
        right = any(isinstance(row[column], int | float) for row in rows)
        table.add_column(column.replace("_", " "), justify="right" if right else "left", no_wrap=True)
    for row in rows[:_MOST_ROWS]:
        cells = []
        for column in columns:
            value = row[column]
            text = f"{value:.1f}" if isinstance(value, float) else cell(value)
            cells.append(Text(text, style=_STYLES.get(column, "") if value else "dim"))
        table.add_row(*cells)
    if len(rows) > _MOST_ROWS:
        table.caption = f"and {len(rows) - _MOST_ROWS} more"
    return table


def _draw(seen: dict[str, Any]) -> RenderableType:
    parts: list[RenderableType] = [Text(f"usher queue top   {cell(seen['at'])}", style="bold")]
    if seen["queues"]:
        columns = ("kind", "tenant", "waiting", "running", "retry", "dead", "oldest_seconds")
        parts.append(_table("Queues", columns, seen["queues"]))
    else:
        parts.append(Text("Nothing waits, nothing runs, nothing is dead."))
    if seen["pauses"]:
        parts.append(_table("Paused", ("kind", "tenant", "reason", "paused_by", "expires_at"), seen["pauses"]))
    if seen["dead"]:
        parts.append(_table("Dead", ("count", "kind", "error_code", "last_at", "example"), seen["dead"]))
    if seen["bulk"]:
        parts.append(_table("Bulk operations", ("action", "query", "expected", "applied", "skipped"), seen["bulk"]))
    return Group(*parts)


@contextmanager
def _keys(pressed: asyncio.Event) -> Iterator[None]:
    """Set ``pressed`` when q is typed, without a line's end; not where nobody types."""
    if not sys.stdin.isatty():
        yield
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    loop = asyncio.get_running_loop()

    def read() -> None:
        if sys.stdin.read(1) in ("q", "Q", ""):
            pressed.set()

    tty.setcbreak(number)
    loop.add_reader(number, read)
    try:
        yield
    finally:
        loop.remove_reader(number)
        termios.tcsetattr(number, termios.TCSADRAIN, before)


async def _watch(connection: Connection, every: float) -> None:
    over = asyncio.Event()
    console = Console()
    with _keys(over), Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        while not over.is_set():
            live.update(_draw(await _look(connection)), refresh=True)
            try:
                async with asyncio.timeout(every):
                    await over.wait()
            except TimeoutError:
                continue
