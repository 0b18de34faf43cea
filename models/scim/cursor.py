"""Cursors (RFC 9865): where a walk through a list stands, signed, so that nobody can make or change one.

A cursor holds the last resource of a page and no number of them, so it costs the same on every page, and users that
come or go in between shift nothing. It is worth nothing in other hands: every page asks for a token again, and the
signature covers whose walk it is and through what.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from models.errors import ExpiredCursorError, InvalidCountError, InvalidCursorError

if TYPE_CHECKING:
    from collections.abc import Sequence

CURSOR_SECONDS: Final = 3600
"""How long a walk may rest between two pages."""

_HEAD = struct.Struct(">BQI16sB")
_VERSION = 1
_SIGNATURE_BYTES = 16
_MOST_COUNT = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Position:
    """The resource after which the next page begins."""

    id: UUID
    key: str | None = None
    """What it was sorted by, as PostgreSQL writes it; None for no value, and when nothing but the id decides."""


def make_cursor(
    secret: bytes, walk: Sequence[str], position: Position, count: int, now: float, *, seconds: int = CURSOR_SECONDS
) -> str:
    """Return the cursor of a position, in unreserved characters only (RFC 3986 §2.3).

    Args:
        secret: What it is signed with.
        walk: Whose walk it is and through what: everything that must be the same on each page.
        position: The last resource of the page before.
        count: Resources that the walk has on a page.
        now: Seconds since 1970.
        seconds: How long it is good for.
    """
    head = _HEAD.pack(
        _VERSION, int(now) + seconds, min(count, _MOST_COUNT), position.id.bytes, position.key is not None
    )
    content = head + (position.key or "").encode()
    return base64.urlsafe_b64encode(_signature(secret, walk, content) + content).rstrip(b"=").decode()


def read_cursor(secret: bytes, walk: Sequence[str], cursor: str, count: int | None, now: float) -> tuple[Position, int]:
    """Return the position that a cursor stands for, and the count of its walk.

    Args:
        secret: What it was signed with.
        walk: What it was made for.
        cursor: What the client sent; not empty.
        count: Resources on a page that the client asks for now; None if it does not say.
        now: Seconds since 1970.

    Raises:
        InvalidCursorError: It was not made here, or not for this walk; the error does not say which.
        ExpiredCursorError: It is too old.
        InvalidCountError: The count is another one than on the pages before.
    """
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise InvalidCursorError from error
    signature, content = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
    # Two spellings of the same bytes are two cursors; only the one that was given out is good.
    if not hmac.compare_digest(signature, _signature(secret, walk, content)) or not _is_canonical(cursor, raw):
        raise InvalidCursorError
    version, expires, per_page, last, has_key = _HEAD.unpack_from(content)
    if version != _VERSION:
        raise InvalidCursorError
    if expires <= now:
        raise ExpiredCursorError
    if count is not None and count != per_page:
        raise InvalidCountError("count must be the same on every page of a walk by cursor.")
    return Position(UUID(bytes=last), content[_HEAD.size :].decode() if has_key else None), per_page


def _signature(secret: bytes, walk: Sequence[str], content: bytes) -> bytes:
    key = hmac.digest(secret, b"usher list cursor", hashlib.sha256)  # the secret signs other things too
    bound = hashlib.sha256(json.dumps(list(walk)).encode()).digest()
    return hmac.digest(key, bound + content, hashlib.sha256)[:_SIGNATURE_BYTES]


def _is_canonical(cursor: str, raw: bytes) -> bool:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode() == cursor
