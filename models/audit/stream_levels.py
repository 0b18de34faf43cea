"""How much of an attribute leaves in a stream, where it is to be another level than `models.audit.redact` has."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from models.audit.redact import level
from models.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LEVELS: Final = ("hash", "mask", "full")
"""How much of an attribute may be chosen to leave."""


def check_levels(levels: Mapping[str, str]) -> dict[str, str]:
    """Return levels by attribute in small letters.

    Raises:
        UsageError: no such level, or an attribute that never leaves.
    """
    made = {}
    for path, wanted in levels.items():
        if wanted not in LEVELS:
            raise UsageError(f"There is no level {wanted}; there are {', '.join(LEVELS)}.")
        if not path.isascii() or not path.isalnum():
            raise UsageError(f"{path!r} is no attribute; write for example displayName=full.")
        if level(path) == "never":
            raise UsageError(f"{path} never leaves.")
        made[path.lower()] = wanted
    return made


def read_levels(texts: Iterable[str]) -> dict[str, str]:
    """Return levels as people write them: `displayName=full`.

    Raises:
        UsageError: a text is none.
    """
    made = {}
    for text in texts:
        path, equals, wanted = text.partition("=")
        if not equals:
            raise UsageError(f"{text!r} is no level; write for example displayName=full.")
        made[path.strip()] = wanted.strip()
    return check_levels(made)


def split_levels(text: str) -> list[str]:
    """Return the levels of one line, as `write_levels` makes it."""
    return [part for part in re.split(r"[,\s]+", text) if part]


def write_levels(levels: Mapping[str, str]) -> str:
    """Return levels as one line: `displayname=full, name=hash`."""
    return ", ".join(f"{path}={wanted}" for path, wanted in sorted(levels.items()))
