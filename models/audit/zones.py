"""Time zones by their IANA names: whose days a search means, and whose clock a page shows."""

from __future__ import annotations

from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from models.errors import InvalidQueryError

UTC_NAME = "UTC"


@cache
def zone_names() -> tuple[str, ...]:
    """Return the names that people choose from: places, and UTC first; only UTC where the system knows no zones."""
    places = sorted(name for name in available_timezones() if "/" in name and not name.startswith(("Etc/", "SystemV/")))
    return (UTC_NAME, *places)


def find_zone(name: str) -> ZoneInfo:
    """Return the zone called ``name``.

    Raises:
        InvalidQueryError: there is none.
    """
    if name not in zone_names():
        raise InvalidQueryError(f"There is no time zone {name!r}; write for example UTC or Europe/Berlin.")
    return ZoneInfo(name)
