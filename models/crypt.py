"""Secrets that must be used again, kept encrypted: AES-256-GCM under a key derived from `USHER_SECRET_KEY`.

Whoever has the database alone cannot read them. With another `USHER_SECRET_KEY` nobody can: they are given anew.
"""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from models.errors import UsherError

_VERSION: Final = b"\x01"
_NONCE_BYTES: Final = 12


class UnreadableSecretError(UsherError):
    """A stored secret cannot be read: USHER_SECRET_KEY is not the one that it was stored under."""


def _cipher(secret_key: str) -> AESGCM:
    derived = HKDF(SHA256(), length=32, salt=None, info=b"usher stored secrets").derive(secret_key.encode())
    return AESGCM(derived)


def encrypt(secret_key: str, owner: str, text: str) -> bytes:
    """Return ``text`` encrypted.

    Args:
        secret_key: `USHER_SECRET_KEY`.
        owner: what the secret belongs to, such as `stream:ID`; it cannot be read as anybody else's.
        text: the secret.
    """
    nonce = os.urandom(_NONCE_BYTES)
    return _VERSION + nonce + _cipher(secret_key).encrypt(nonce, text.encode(), owner.encode())


def decrypt(secret_key: str, owner: str, stored: bytes) -> str:
    """Return what `encrypt` was given.

    Raises:
        UnreadableSecretError: another key, another owner, or damaged.
    """
    if stored[:1] != _VERSION:
        raise UnreadableSecretError
    nonce, rest = stored[1 : 1 + _NONCE_BYTES], stored[1 + _NONCE_BYTES :]
    try:
        return _cipher(secret_key).decrypt(nonce, rest, owner.encode()).decode()
    except (InvalidTag, ValueError) as error:
        raise UnreadableSecretError from error
