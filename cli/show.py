"""How commands print: tables for people, JSON for programs; and how they read a duration."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from models.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

_SHORTEST = 8  # letters that are left of a column at least
_GAP = 2
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LONGEST = timedelta(days=10_000)  # beyond it dates before our era come into play


def print_json(value: Any) -> None:
    """Print ``value`` as JSON on standard output."""
    print(orjson.dumps(value, default=_plain, option=orjson.OPT_INDENT_2).decode())


def _plain(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value)


def cell(value: Any) -> str:
    """Return a value as a person reads it in a table: one line, and nothing that commands the terminal."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    text = ", ".join(str(item) for item in value) if isinstance(value, list | tuple | set | frozenset) else str(value)
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def print_table(
    columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, empty: str, shorten: Sequence[str] = ()
) -> None:
    """Print rows as a table, or a sentence when there are none; a row is always one line.

    Args:
        columns: keys of the rows, in order.
        rows: what to show.
        empty: the sentence.
        shorten: columns whose values may be cut to fit a terminal. The others (ids, times) never are, and into a
            file or a pipe everything goes whole.
    """
    cells = [[cell(row[column]) for column in columns] for row in rows]
    if not cells:
        print(empty)
        return
    heads = [column.replace("_", " ") for column in columns]
    widths = [max(map(cell_len, texts)) for texts in zip(heads, *cells, strict=True)]
    console = Console()
    if console.is_terminal:
        _shrink(widths, [place for place, column in enumerate(columns) if column in shorten], console.width)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, _GAP, 0, 0))
    for head, width in zip(heads, widths, strict=True):
        table.add_column(Text(head), width=width, no_wrap=True, overflow="ellipsis")
    for texts in cells:
        table.add_row(*map(Text, texts))
    console.width = max(console.width, sum(widths) + _GAP * len(widths))
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip())


def _shrink(widths: list[int], places: Sequence[int], available: int) -> None:
    """Take from the widest of some columns until the table fits, or nothing more can be taken."""
    excess = sum(widths) + _GAP * (len(widths) - 1) - available
    while excess > 0 and places:
        widest = max(places, key=lambda place: widths[place])
        if widths[widest] <= _SHORTEST:
            return
        widths[widest] -= 1
        excess -= 1


def duration(text: str) -> timedelta:
    """Read `90s`, `15m`, `24h`, `7d`.

    Raises:
        UsageError: it is none of these, or longer than a person can mean.
    """
    number, unit = text[:-1], text[-1:]
    if unit not in _UNITS or not number.isascii() or not number.isdigit():
        raise UsageError(f"{text!r} is not a duration; write for example 90s, 15m, 24h or 7d.")
    try:
        read = timedelta(**{_UNITS[unit]: int(number)})
    except (OverflowError, ValueError):
        read = timedelta.max
    if read > _LONGEST:
        raise UsageError(f"{text!r} is too long a duration; at most {_LONGEST.days}d.")
    return read
