"""Conditions on the version of a resource: If-Match and If-None-Match (RFC 7644 §3.14, RFC 9110 §13.1).

RFC 9110 has If-Match compare strongly, so that no weak tag ever matches; RFC 7644 §3.14 names weak tags in it all the
same. A version changes with every write, so here `W/"3"` and `"3"` are one tag, in both headers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.errors import InvalidValueError, PreconditionError

if TYPE_CHECKING:
    from aiohttp import web

_TAG = r'(?:W/)?"([\x21\x23-\x7e\x80-\uffff]*)"'
_TAGS = re.compile(rf"[ \t,]*{_TAG}(?:[ \t]*,[ \t,]*{_TAG})*[ \t,]*")
_ONE = re.compile(_TAG)


@dataclass(frozen=True, slots=True)
class _Tags:
    """The entity tags of a header."""

    any: bool
    opaque: frozenset[str]

    def match(self, version: int) -> bool:
        return self.any or str(version) in self.opaque


def _read(request: web.Request, name: str) -> _Tags | None:
    lines = request.headers.getall(name, None)
    if lines is None:
        return None
    text = ", ".join(lines)
    if text.strip() == "*":
        return _Tags(any=True, opaque=frozenset())
    if not _TAGS.fullmatch(text):
        raise InvalidValueError(f'{name} must be * or a list of entity tags such as W/"3", as ETag and meta.version.')
    return _Tags(any=False, opaque=frozenset(_ONE.findall(text)))


def is_unchanged(request: web.Request, version: int) -> bool:
    """Tell whether a GET is to be answered 304: If-None-Match names the version.

    A header that cannot be read is as if it were not there: that costs a body and nothing else.
    """
    if "If-None-Match" not in request.headers:
        return False
    try:
        tags = _read(request, "If-None-Match")
    except InvalidValueError:
        return False
    return tags is not None and tags.match(version)


@dataclass(frozen=True, slots=True)
class Precondition:
    """Which versions a write is meant for."""

    if_match: _Tags | None
    if_none_match: _Tags | None

    @classmethod
    def of(cls, request: web.Request) -> Precondition:
        """Read the conditions of a request; without any, every version will do.

        Raises:
            InvalidValueError: a header is malformed. To write as if it were not there could undo somebody's change.
        """
        return cls(_read(request, "If-Match"), _read(request, "If-None-Match"))

    def check(self, version: int) -> None:
        """See that a write may go on.

        Raises:
            PreconditionError: not on this version.
        """
        if self.if_match is not None and not self.if_match.match(version):
            raise PreconditionError(
                "If-Match names another version than the resource has; read it again and repeat the change."
            )
        if self.if_none_match is not None and self.if_none_match.match(version):
            raise PreconditionError("If-None-Match names the version that the resource has.")
