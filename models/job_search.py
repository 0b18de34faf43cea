"""The search language of the ledger: `state:dead kind:invitation.send -tenant:acme age:>1h "ana@example.com"`.

A comma between values means or, a dash before a qualifier not, quotes hold a value together. Text without a qualifier
is the id of a job, of a user or of a correlation, or the beginning of a userName. `models.job_find` runs what is read
here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn
from uuid import UUID

from lark import Lark, Token, Transformer, UnexpectedInput
from lark.exceptions import VisitError

from models.backlog import STATES
from models.errors import UsageError
from models.jobs import KINDS, QUEUES

if TYPE_CHECKING:
    from collections.abc import Sequence

QUALIFIERS = {
    "state": f"one of {', '.join(STATES)}",
    "kind": f"one of {', '.join(KINDS)}",
    "queue": f"one of {', '.join(QUEUES)}",
    "tenant": "a tenant's short name",
    "user": "a userName, its beginning with * at the end, or a user's id",
    "externalId": "a user's externalId",
    "error": "an error's code, its beginning with * at the end, or code~fingerprint as dead letters show it",
    "age": "time since the job was staged: >5m, <2h; s, m, h, d",
    "id": "a job's id",
    "correlation": "the correlation id of a request",
}
"""Every qualifier, and what it takes."""

TEXT = ""
"""The qualifier of text that has none."""

LONGEST = 2000
"""Most characters of a search."""

_MOST_VALUES = 200
_GRAMMAR = r"""
start: _SPACE? (term (_SPACE term)*)? _SPACE?
term: QUALIFIER value ("," value)* | value
value: QUOTED | WORD
QUALIFIER.2: /-?[A-Za-z_]+:/
QUOTED.2: /"(\\["\\]|[^"\\])*"/
WORD: /[^\s",][^\s",]*/
_SPACE: /\s+/
"""
_WORD = re.compile(r'[^\s",]+')
_QUALIFIED = re.compile(r"-?[A-Za-z_]+:")
_AGE = re.compile(r"([<>])(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_CANONICAL = {name.lower(): name for name in QUALIFIERS}
_CHOICES: dict[str, Sequence[str]] = {"state": STATES, "kind": tuple(KINDS), "queue": QUEUES}


@dataclass(frozen=True, slots=True)
class Term:
    """One condition: any of the values, or none of them."""

    qualifier: str
    """A key of `QUALIFIERS`, or `TEXT`."""
    values: tuple[str, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Search:
    """Conditions that must all hold."""

    terms: tuple[Term, ...] = ()

    def __str__(self) -> str:
        """Write the search in its language; reading that gives an equal search."""
        return " ".join(map(_write, self.terms))

    def states(self) -> frozenset[str]:
        """Return the states that a job may be in."""
        allowed = frozenset(STATES)
        for term in self.terms:
            if term.qualifier == "state":
                allowed = allowed - set(term.values) if term.negated else allowed & set(term.values)
        return allowed


def _write(term: Term) -> str:
    values = ",".join(_quote(value, bare=term.qualifier == TEXT) for value in term.values)
    return f"{'-' if term.negated else ''}{term.qualifier}:{values}" if term.qualifier != TEXT else values


def _quote(value: str, *, bare: bool) -> str:
    if _WORD.fullmatch(value) and not (bare and _QUALIFIED.match(value)):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


class _Reader(Transformer[Token, Search]):
    """Makes a Search of the syntax tree."""

    def value(self, children: list[Token]) -> Token:
        (token,) = children
        text = re.sub(r"\\(.)", r"\1", token[1:-1]) if token.type == "QUOTED" else str(token)
        return Token("VALUE", text, column=token.column)

    def term(self, children: list[Token]) -> Term:
        first, *rest = children
        if first.type != "QUALIFIER":
            if not first.strip():
                _refuse("Here is no text", first.column, "quotes must hold something")
            return Term(TEXT, (str(first),))
        negated = first.startswith("-")
        wanted = first.lstrip("-").rstrip(":")
        qualifier = _CANONICAL.get(wanted.lower())
        if qualifier is None:
            _refuse(f"There is no qualifier {wanted}:", first.column, f"there are {', '.join(QUALIFIERS)}")
        return Term(qualifier, tuple(dict.fromkeys(_check(qualifier, value) for value in rest)), negated)

    def start(self, children: list[Term]) -> Search:
        return Search(tuple(children))


def _refuse(what: str, column: int | None, instead: str) -> NoReturn:
    raise UsageError(f"{what} (at character {column}); {instead}.")


def _check(qualifier: str, token: Token) -> str:
    """Return a value as it is compared.

    Raises:
        UsageError: the qualifier takes no such value.
    """
    value = str(token)
    if qualifier in _CHOICES:
        value = value.lower()
        if value not in _CHOICES[qualifier]:
            _refuse(f"There is no {qualifier} {value}", token.column, f"there are {', '.join(_CHOICES[qualifier])}")
    elif qualifier == "age" and not _AGE.fullmatch(value):
        _refuse(f"{value!r} is no age", token.column, "write for example age:>5m or age:<2h")
    elif qualifier in ("id", "correlation"):
        uuid = as_uuid(value)
        if uuid is None:
            _refuse(f"{value!r} is no id", token.column, f"{qualifier}: takes one such as {UUID(int=1 << 120)}")
        value = str(uuid)
    elif not value.strip("*"):
        _refuse(f"{qualifier}: lacks a value", token.column, f"it takes {QUALIFIERS[qualifier]}")
    return value


_PARSER = Lark(_GRAMMAR, parser="lalr")


def parse_search(text: str) -> Search:
    """Read a search.

    Raises:
        UsageError: an unknown qualifier or value, or something that cannot be read; says where and what there is.
    """
    if len(text) > LONGEST:
        raise UsageError(f"A search has at most {LONGEST} characters.")
    if any(letter == "\x00" or "\ud800" <= letter <= "\udfff" for letter in text):
        raise UsageError("A search cannot hold NUL characters or halves of characters.")
    try:
        tree = _PARSER.parse(text)
    except UnexpectedInput as error:
        column = len(text) + 1 if getattr(error, "token", None) == Token("$END", "") else error.column
        raise UsageError(
            f"The search cannot be read (at character {column}): a term is text or qualifier:value,"
            f" without space around the colon; quotes come in pairs. Qualifiers are {', '.join(QUALIFIERS)}."
        ) from error
    search = _read(tree)
    if sum(len(term.values) for term in search.terms) > _MOST_VALUES:
        raise UsageError(f"A search has at most {_MOST_VALUES} values.")
    return search


def _read(tree: object) -> Search:
    try:
        return _Reader().transform(tree)  # type: ignore[arg-type]  # what the parser made
    except VisitError as error:
        raise error.orig_exc from None


def as_uuid(text: str) -> UUID | None:
    """Return the UUID that a text is, if it is one."""
    try:
        return UUID(text)
    except ValueError:
        return None


def read_age(value: str) -> tuple[str, timedelta]:
    """Return the sign and the length of an age that `parse_search` let pass."""
    match = _AGE.fullmatch(value)
    assert match is not None  # noqa: S101  see above
    return match[1], timedelta(**{_UNITS[match[3]]: int(match[2])})
