"""Points in time as people write them in a search: dates, moments and ages, alone or as ranges."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import tzinfo

SHAPES: Final = ("2026-06-01..2026-06-30", ">=2026-06-01", "<2026-06-01T12:00Z", ">24h", "7d..1d")
"""What `created:` takes, by example."""

_AGE = re.compile(r"(\d{1,6})([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")
_MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:?\d{2})?", re.IGNORECASE)
_TICK = timedelta(microseconds=1)
EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(9000, 1, 1, tzinfo=UTC)

Range = tuple[datetime | None, datetime | None]
"""The first moment that is in it, and the first that is no longer; None for no bound."""


def read_range(text: str, now: datetime, zone: tzinfo) -> Range | None:
    """Return the range that ``text`` means, or None if it means none.

    Args:
        text: one of `SHAPES`; a day means all of it, an age alone means from then until now.
        now: what ages count back from.
        zone: whose days are meant, and whose clock where no zone is written.
    """
    found = re.fullmatch(r"(>=|<=|>|<)?(.*)", text, re.DOTALL)
    assert found is not None  # noqa: S101  it matches anything
    sign, rest = found.groups()
    if sign is None and ".." in rest:
        first, _, last = rest.partition("..")
        begin = (None, None) if first == "*" else _span(first, now, zone)
        end = (None, None) if last == "*" else _span(last, now, zone)
        return None if begin is None or end is None else (begin[0], end[1])
    span = _span(rest, now, zone)
    if span is None:
        return None
    begins, ends = span
    if sign is None:
        return (begins, None) if _AGE.fullmatch(rest) else span
    return {">=": (begins, None), ">": (ends, None), "<": (None, begins), "<=": (None, ends)}[sign]


def _span(text: str, now: datetime, zone: tzinfo) -> tuple[datetime, datetime] | None:
    """Return the stretch of time that a date (a day) or a moment or an age (one microsecond) is."""
    try:
        if age := _AGE.fullmatch(text):
            moment = now - timedelta(**{_UNITS[age[2]]: int(age[1])})
            return _clamp(moment), _clamp(moment) + _TICK
        if _DAY.fullmatch(text):
            day = date.fromisoformat(text)
            after = day + timedelta(days=1)
            return _clamp(datetime.combine(day, time(), zone)), _clamp(datetime.combine(after, time(), zone))
        if _MOMENT.fullmatch(text):
            moment = datetime.fromisoformat(text.upper())
            moment = _clamp(moment if moment.tzinfo else moment.replace(tzinfo=zone))
            return moment, moment + _TICK
    except OverflowError:
        return (EARLIEST, EARLIEST + _TICK) if _AGE.fullmatch(text) else (LATEST, LATEST + _TICK)
    except ValueError:
        return None
    return None


def _clamp(moment: datetime) -> datetime:
    """Return a moment in UTC, within what the store's clock can show."""
    try:
        return min(max(moment.astimezone(UTC), EARLIEST), LATEST)
    except OverflowError:
        return EARLIEST if moment.year < 2000 else LATEST
