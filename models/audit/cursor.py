"""Where a walk through the audit log stands: signed, bound to the search and to whose it is.

A cursor repeats the moment that its search was first made at. So a time range that counts back from now stays what
it was on every page, and partitions outside of it are never opened.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

from models.errors import ExpiredCursorError, InvalidCursorError

if TYPE_CHECKING:
    from collections.abc import Sequence

CURSOR_SECONDS: Final = 24 * 3600
"""How long a walk may rest between two pages."""

_LAYOUT = struct.Struct(">BQqq16s")
_VERSION = 1
_SIGNATURE_BYTES = 16
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Place:
    """The event after which the next page begins, and when the walk began."""

    occurred_at: datetime
    id: UUID
    as_of: datetime


def make_cursor(secret: bytes, walk: Sequence[str], place: Place, now: float) -> str:
    """Return the cursor of a place, in letters that need no escaping in a URL.

    Args:
        secret: what it is signed with.
        walk: whose walk it is and through what: all that must be the same on each page.
        place: where the page before ended.
        now: seconds since 1970.
    """
    content = _LAYOUT.pack(
        _VERSION, int(now) + CURSOR_SECONDS, _ticks(place.occurred_at), _ticks(place.as_of), place.id.bytes
    )
    return base64.urlsafe_b64encode(_signature(secret, walk, content) + content).rstrip(b"=").decode()


def read_cursor(secret: bytes, walk: Sequence[str], cursor: str, now: float) -> Place:
    """Return the place that a cursor stands for.

    Args:
        secret: what it was signed with.
        walk: what it was made for.
        cursor: what the client sent.
        now: seconds since 1970.

    Raises:
        InvalidCursorError: it was not made here, or not for this search; the error does not say which.
        ExpiredCursorError: it is too old.
    """
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise InvalidCursorError from error
    signature, content = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
    same = hmac.compare_digest(signature, _signature(secret, walk, content))
    # Two spellings of the same bytes are two cursors; only the one that was given out is good.
    if not same or base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != cursor:
        raise InvalidCursorError
    version, expires, occurred, as_of, event_id = _LAYOUT.unpack(content)
    if version != _VERSION:
        raise InvalidCursorError
    if expires <= now:
        raise ExpiredCursorError
    return Place(_EPOCH + occurred * _TICK, UUID(bytes=event_id), _EPOCH + as_of * _TICK)


def _ticks(moment: datetime) -> int:
    """Return whole microseconds since 1970, exactly: no way through a float."""
    return (moment - _EPOCH) // _TICK


def _signature(secret: bytes, walk: Sequence[str], content: bytes) -> bytes:
    key = hmac.digest(secret, b"usher audit cursor", hashlib.sha256)  # the secret signs other things too
    bound = hashlib.sha256(json.dumps(list(walk)).encode()).digest()
    return hmac.digest(key, bound + content, hashlib.sha256)[:_SIGNATURE_BYTES]
