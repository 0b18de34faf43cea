"""Making ids: UUID version 7 (RFC 9562 §5.7), which sort by the time they were made."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from asyncpg.pgproto.pgproto import UUID as _UUID
from uuid_utils import uuid7

if TYPE_CHECKING:
    from uuid import UUID


def new_id() -> UUID:
    """Return a new id, of the class in which asyncpg reads ids.

    It is a `uuid.UUID`, made in a quarter of the time and written as text in a fifteenth of it; a create needs four.
    """
    return _UUID(uuid7().bytes)


def derived_id(origin: UUID, what: str) -> UUID:
    """Return the id of something that follows from ``origin``: always the same one, at the same place in time.

    Args:
        origin: an id of version 7.
        what: tells apart the several things that follow from it.
    """
    digest = sha256(origin.bytes + what.encode()).digest()
    return _UUID(origin.bytes[:8] + bytes([digest[0] & 0x3F | 0x80]) + digest[1:8])
