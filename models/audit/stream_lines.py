"""The lines of a stream: events as they may leave, in the form that the place wants."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any, Final

import orjson

from models.audit.canonical import PLATFORM
from models.audit.ocsf import as_ocsf
from models.audit.redact import leaving

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.audit.streams import Stream

# With the salt, what a masked value was could be tried out against the leaves.
_KEPT_BACK: Final = ("salt", "personal_hash")


def leaving_key(stream: Stream, secret_key: str) -> bytes:
    """Return the key of the hashes in a tenant's streams: equal values look equal in all of them, nowhere else."""
    said = f"usher audit stream {stream.tenant_id or PLATFORM}"
    return hmac.digest(secret_key.encode(), said.encode(), "sha256")


def leaving_events(stream: Stream, events: Sequence[dict[str, Any]], secret_key: str) -> list[dict[str, Any]]:
    """Return events as they may leave, in the stream's format.

    Args:
        stream: whose format and levels.
        events: as `models.audit.lines` has them.
        secret_key: `USHER_SECRET_KEY`.
    """
    key = leaving_key(stream, secret_key)
    left = []
    for whole in events:
        event = leaving(whole, key, stream.levels)
        for name in _KEPT_BACK:
            event.pop(name, None)
        left.append(as_ocsf(event) if stream.format == "ocsf" else event)
    return left


def as_lines(events: Sequence[dict[str, Any]]) -> bytes:
    """Return events as NDJSON, each line ended."""
    return b"".join(orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE) for event in events)
