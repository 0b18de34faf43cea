"""What a search of the audit log means: qualifiers, their values, and the stretch of time that always bounds it.

One language for API, command line and pages (reference/audit-logs.md §3.3). Whose events may be seen is no part of
it: that is an argument of its own (`models.audit.query`), which no text can widen.
"""

from __future__ import annotations

import ipaddress
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from models.audit.actions import ACTIONS
from models.audit.grammar import TEXT, Term, Value, read_terms
from models.audit.moments import EARLIEST, SHAPES, Range, read_range
from models.errors import InvalidQueryError

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo

QUALIFIERS: Final[dict[str, str]] = {
    "action": "An action, or several as in scim.user.*",
    "actor": "Who: the kind (token, operator, system, job, person), or else the id or the label as it was at the time",
    "attribute": 'What was changed, by SCIM path; emails finds emails[type eq "work"].value too',
    "correlation": "The id that joins everything that one request led to",
    "created": "When: " + ", ".join(SHAPES),
    "id": "The event's own id",
    "ip": "Where the request came from: an address or a network as 10.0.0.0/8",
    "job": "A job's id",
    "outcome": "pending, success, failure or denied",
    "phase": "requested, applied, failed or denied",
    "reason": "The reason's code, or several as in http_*",
    "severity": "1 to 5 or informational, low, medium, high, critical; >=3, 2..4",
    "target": "On what: the id, userName, externalId or name as it was at the time",
    "tenant": "A tenant's short name or id",
}
"""Every qualifier, with what it takes."""

ACTORS: Final = ("token", "operator", "system", "job", "person")
RARE_ACTORS: Final = ("operator", "system", "person")
"""Those that do little beside the others; an index holds their events alone."""
OUTCOMES: Final = ("pending", "success", "failure", "denied")
PHASES: Final = ("requested", "applied", "failed", "denied")
SEVERITIES: Final = ("informational", "low", "medium", "high", "critical")

DEFAULT_WINDOW: Final = timedelta(days=7)
WIDEST_WINDOW: Final = timedelta(days=92)
SHORTEST_TEXT: Final = 3  # characters
_NARROWING: Final = frozenset({"target", "correlation", "id", "job"})


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that must hold of an event (or must not), any of its values sufficing."""

    name: str
    values: tuple[Any, ...]
    negated: bool = False
    rare: bool = False
    """Of actors: that none of the names is a token's, so that only `RARE_ACTORS` can be meant."""


@dataclass(frozen=True, slots=True)
class Search:
    """A search that can be carried out: conditions that all must hold, within a stretch of time."""

    conditions: tuple[Condition, ...]
    since: datetime
    """The first moment that is in it."""
    until: datetime
    """The first moment that is no longer in it; never later than `as_of`."""
    as_of: datetime

    @property
    def narrow(self) -> bool:
        """Whether it names something that few events are about, so that it may reach far back."""
        return any(each.name in _NARROWING and not each.negated for each in self.conditions)

    @property
    def has_text(self) -> bool:
        """Whether labels must be read to answer it."""
        return any(each.name == TEXT for each in self.conditions)


def read_search(
    text: str, *, now: datetime, zone: tzinfo = UTC, window: timedelta = DEFAULT_WINDOW, widest: timedelta | None = None
) -> Search:
    """Return what a text asks for.

    Args:
        text: what a person or program wrote; may be empty.
        now: the database's clock; nothing later is found.
        zone: whose days `created:` means.
        window: how far back to look when the text does not say.
        widest: how far apart the ends may be, unless the text names a target, correlation, id or job; by default
            92 days. An export, which reads in the background, allows itself more.

    Raises:
        InvalidQueryError: it cannot be read, names something unknown or asks for too long a time.
    """
    widest = WIDEST_WINDOW if widest is None else widest
    conditions: list[Condition] = []
    ranges: list[tuple[Term, Range]] = []
    for term in read_terms(text):
        if term.name == "created":
            ranges.append((term, _created(term, now, zone)))
            continue
        read = _READERS.get(term.name)
        if read is None:
            raise _unknown(term)
        conditions.append(Condition(term.name, tuple(_each(term, read)), term.negated))
    narrow = any(each.name in _NARROWING and not each.negated for each in conditions)
    since = max((begin for _, (begin, _) in ranges if begin is not None), default=None)
    until = min([end for _, (_, end) in ranges if end is not None] + [now])
    if since is None:
        since = EARLIEST if narrow else until - window
    since = min(since, until)
    if until - since > widest and not narrow:
        raise InvalidQueryError(
            f"The time range is longer than {widest.days} days. Narrow it with created:, or name a target:,"
            " correlation:, id: or job:.",
            position=ranges[-1][0].position if ranges else None,
            expected=SHAPES if ranges else (),
        )
    return Search(tuple(conditions), since, until, now)


def _unknown(term: Term) -> InvalidQueryError:
    near = get_close_matches(term.name, QUALIFIERS, n=1)
    hint = f" Did you mean {near[0]}:?" if near else ""
    return InvalidQueryError(
        f"There is no qualifier {term.name}:.{hint} There are {', '.join(f'{name}:' for name in QUALIFIERS)}."
        " Put text that holds a colon in quotes.",
        position=term.position,
        expected=[f"{name}:" for name in QUALIFIERS],
    )


def _each(term: Term, read: Callable[[Value], list[Any]]) -> list[Any]:
    found: list[Any] = []
    for value in term.values:
        if not value.text.strip():
            raise InvalidQueryError(f"The value of {term.name}: is empty.", position=value.position)
        found += read(value)
    return found


def _wrong(value: Value, sentence: str, expected: tuple[str, ...] | list[str] = ()) -> InvalidQueryError:
    return InvalidQueryError(sentence, position=value.position, expected=expected)


def _created(term: Term, now: datetime, zone: tzinfo) -> Range:
    first = term.values[0]
    if term.negated or len(term.values) > 1:
        raise InvalidQueryError(
            "created: takes one range and no -; write created:<… and created:>… for what is around.",
            position=term.position,
            expected=SHAPES,
        )
    found = read_range(first.text, now, zone)
    if found is None:
        raise _wrong(first, f"{first.text!r} is no time; write for example {', '.join(SHAPES)}.", SHAPES)
    return found


def _action(value: Value) -> list[Any]:
    wanted = value.text.lower()
    if wanted.endswith("*"):
        found = [name for name in ACTIONS if name.startswith(wanted[:-1])]
    else:
        found = [name for name in ACTIONS if name == wanted]
    if not found:
        raise _wrong(value, f"There is no action {value.text}; there are {', '.join(ACTIONS)}.", list(ACTIONS))
    return found


def _one_of(words: tuple[str, ...], what: str) -> Callable[[Value], list[Any]]:
    def read(value: Value) -> list[Any]:
        if value.text.lower() not in words:
            raise _wrong(value, f"{value.text!r} is no {what}; there are {', '.join(words)}.", words)
        return [value.text.lower()]

    return read


def _uuid(value: Value) -> list[Any]:
    try:
        return [UUID(value.text)]
    except ValueError:
        raise _wrong(value, f"{value.text!r} is no id; an id has 32 hexadecimal digits.") from None


def _network(value: Value) -> list[Any]:
    try:
        return [ipaddress.ip_network(value.text, strict=False)]
    except ValueError:
        raise _wrong(
            value,
            f"{value.text!r} is no address; write for example 192.0.2.7 or 10.0.0.0/8.",
            ("192.0.2.7", "10.0.0.0/8"),
        ) from None


def _level(text: str) -> int | None:
    if text.lower() in SEVERITIES:
        return SEVERITIES.index(text.lower()) + 1
    return int(text) if text in ("1", "2", "3", "4", "5") else None


def _severity(value: Value) -> list[Any]:
    text = value.text
    first, dots, last = text.partition("..")
    if dots:
        low, high = _level(first), _level(last)
    else:
        sign = next((sign for sign in (">=", "<=", ">", "<") if text.startswith(sign)), "")
        level = _level(text.removeprefix(sign))
        low = high = level
        if level is not None and sign:
            low, high = {">=": (level, 5), "<=": (1, level), ">": (level + 1, 5), "<": (1, level - 1)}[sign]
    if low is None or high is None:
        raise _wrong(value, f"{text!r} is no severity; write 1 to 5, a name, >=3 or 2..4.", ("1..5", *SEVERITIES))
    return list(range(low, high + 1)) or [0]


def _text(value: Value) -> list[Any]:
    if len(unicodedata.normalize("NFC", value.text.strip())) < SHORTEST_TEXT:
        raise _wrong(
            value,
            f"Free text needs at least {SHORTEST_TEXT} characters; or use a qualifier: "
            f"{', '.join(f'{name}:' for name in QUALIFIERS)}.",
            [f"{name}:" for name in QUALIFIERS],
        )
    return [value.text.strip()]


def _plain(value: Value) -> list[Any]:
    return [value.text]


_READERS: Final[dict[str, Callable[[Value], list[Any]]]] = {
    "action": _action,
    "actor": _plain,
    "attribute": _plain,
    "correlation": _uuid,
    "id": _uuid,
    "ip": _network,
    "job": _uuid,
    "outcome": _one_of(OUTCOMES, "outcome"),
    "phase": _one_of(PHASES, "phase"),
    "reason": _plain,
    "severity": _severity,
    "target": _plain,
    "tenant": _plain,
    TEXT: _text,
}
