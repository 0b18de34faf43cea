"""What the commands share: a connection to the store, and printing for people or for programs."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import asyncpg
import orjson
import typer
from rich.console import Console
from rich.table import Table

from models.db import is_unavailable, open_pool
from models.errors import UsageError, UsherError
from models.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from models.db import Connection
    from models.settings import Settings

Result = TypeVar("Result")

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def with_store(work: Callable[[Connection, Settings], Awaitable[Result]]) -> Result:
    """Run ``work`` on a connection to the store that the settings name.

    Raises:
        UsageError: a setting is missing, or the store has not been migrated.
        UsherError: the store does not answer.
    """
    settings = load_settings()

    async def run() -> Result:
        pool = await open_pool(settings, name="cli", size=2)
        try:
            async with pool.acquire() as connection:
                return await work(connection, settings)
        finally:
            await pool.close()

    try:
        return asyncio.run(run())
    except (asyncpg.UndefinedTableError, asyncpg.InvalidParameterValueError) as error:
        raise UsageError("The database has no Usher tables yet; run `usher migrate` first.") from error
    except Exception as error:
        if is_unavailable(error) or isinstance(error, asyncpg.InvalidAuthorizationSpecificationError):
            raise UsherError(
                f"PostgreSQL does not answer: {type(error).__name__}. Is USHER_DATABASE_URL right?"
            ) from error
        raise


def print_json(value: Any) -> None:
    """Print ``value`` as JSON on standard output."""
    print(orjson.dumps(value, default=_plain, option=orjson.OPT_INDENT_2).decode())


def _plain(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value)


def cell(value: Any) -> str:
    """Return a value as a person reads it in a table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, list | tuple | set | frozenset):
        return ", ".join(str(item) for item in value)
    return str(value)


def print_table(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, empty: str) -> None:
    """Print rows as a table of these columns, or a sentence when there are none."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    count = 0
    for row in rows:
        table.add_row(*(cell(row[column]) for column in columns))
        count += 1
    Console().print(table if count else empty, soft_wrap=not count)


def duration(text: str) -> timedelta:
    """Read `90s`, `15m`, `24h`, `7d`.

    Raises:
        UsageError: it is none of these.
    """
    units = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
    number, unit = text[:-1], text[-1:]
    if unit not in units or not number.isdigit():
        raise UsageError(f"{text!r} is not a duration; write for example 90s, 15m, 24h or 7d.")
    return timedelta(**{units[unit]: int(number)})
