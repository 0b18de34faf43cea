"""What a stream's place is to know us by, as it is given, kept and read."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

import orjson

from models.crypt import decrypt, encrypt
from models.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

_SECRET_BYTES: Final = 32
_MOST_CHARACTERS: Final = 4000


def _owner(stream_id: UUID) -> str:
    return f"audit stream {stream_id}"


def unlock(stream_id: UUID, stored: bytes | None, secret_key: str) -> dict[str, str]:
    """Return what is kept: `secret` and `authorization`, or `access_key` and `secret_key`.

    Raises:
        UnreadableSecretError: it was stored under another `USHER_SECRET_KEY`.
    """
    if stored is None:
        return {}
    found: dict[str, str] = orjson.loads(decrypt(secret_key, _owner(stream_id), stored))
    return found


def lock(stream_id: UUID, kept: Mapping[str, str], secret_key: str) -> bytes | None:
    """Return it as it is kept; None if there is nothing."""
    return encrypt(secret_key, _owner(stream_id), orjson.dumps(dict(kept)).decode()) if kept else None


def new_secret() -> str:
    """Make the secret under which what is posted is signed."""
    return secrets.token_urlsafe(_SECRET_BYTES)


def read_credentials(kind: str, text: str | None) -> dict[str, str]:
    """Return the parts of what somebody gave as credentials.

    Raises:
        UsageError: they are none for that kind; the message does not repeat them.
    """
    if text is not None and (not text.isascii() or not text.isprintable() or len(text) > _MOST_CHARACTERS):
        raise UsageError("The credentials hold what cannot be sent.")
    if kind == "s3":
        access_key, _, secret_key = (text or "").strip().partition(":")
        if not access_key or not secret_key:
            raise UsageError("An S3 destination needs credentials: ACCESS_KEY_ID:SECRET_ACCESS_KEY.")
        return {"access_key": access_key, "secret_key": secret_key}
    if kind == "syslog" and text:
        raise UsageError("A syslog destination takes no credentials.")
    return {"authorization": text.strip()} if text and text.strip() else {}
