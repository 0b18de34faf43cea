"""The Ed25519 keys under the seals, in the text forms of C2SP signed notes.

The private key is one line in a file of its own, outside the database; beside it, in `FILE.pub`, stand the public
keys, the present one and those before it. Whoever verifies trusts these, never what the database says of keys.
"""

from __future__ import annotations

import binascii
import os
from base64 import b64decode, b64encode
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from models.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

NAME = "usher-audit"
_PRIVATE = "PRIVATE+KEY"
_ED25519 = b"\x01"


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key."""

    key_id: str
    """`name+hash`: eight hexadecimal digits tell the keys of one name apart."""
    text: str
    """`name+hash+base64`, as C2SP writes a verifier key."""
    key: Ed25519PublicKey

    def holds(self, body: bytes, signature: bytes) -> bool:
        """Tell whether ``signature`` is this key's under ``body``."""
        try:
            self.key.verify(signature, body)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key and its public half."""

    verifier: Verifier
    key: Ed25519PrivateKey

    def sign(self, body: bytes) -> bytes:
        """Return the signature under ``body``, 64 bytes."""
        return self.key.sign(body)


def _verifier(name: str, key: Ed25519PublicKey) -> Verifier:
    raw = _ED25519 + key.public_bytes_raw()
    digest = sha256(name.encode() + b"\n" + raw).hexdigest()
    key_id = f"{name}+{digest[:8]}"
    return Verifier(key_id, f"{key_id}+{b64encode(raw).decode()}", key)


def new_signer(name: str = NAME) -> Signer:
    """Make a key."""
    key = Ed25519PrivateKey.generate()
    return Signer(_verifier(name, key.public_key()), key)


def signer_text(signer: Signer) -> str:
    """Return the line that a key file holds."""
    return f"{_PRIVATE}+{signer.verifier.key_id}+{b64encode(_ED25519 + signer.key.private_bytes_raw()).decode()}"


def _raw(text: str) -> bytes:
    raw = b64decode(text, validate=True)
    if len(raw) != 33 or raw[:1] != _ED25519:
        raise ValueError(text)
    return raw[1:]


def read_verifier(text: str) -> Verifier:
    """Read a public key in its text form.

    Raises:
        UsageError: it is none.
    """
    try:
        name, _, encoded = text.strip().split("+", 2)
        made = _verifier(name, Ed25519PublicKey.from_public_bytes(_raw(encoded)))
    except (ValueError, binascii.Error):
        made = None
    if made is None or made.text != text.strip():
        raise UsageError("A public key looks like usher-audit+01234567+AQ…; this is none.")
    return made


def read_signer(path: Path) -> Signer:
    """Read a key file.

    Raises:
        UsageError: there is none, or what it holds is none; the message never has its content.
    """
    try:
        text = path.read_text(encoding="ascii").strip()
        name, encoded = _parts(text)
        key = Ed25519PrivateKey.from_private_bytes(_raw(encoded))
    except OSError as error:
        raise UsageError(f"USHER_AUDIT_KEY_FILE cannot be read: {error.strerror}: {path}") from error
    except ValueError as error:
        raise UsageError(f"USHER_AUDIT_KEY_FILE holds no key: {path}. `usher audit key --new` makes one.") from error
    return Signer(_verifier(name, key.public_key()), key)


def _parts(text: str) -> tuple[str, str]:
    """Return name and key of `PRIVATE+KEY+name+hash+base64`; base64 may have a plus of its own."""
    first, second, name, _, encoded = text.split("+", 4)
    if f"{first}+{second}" != _PRIVATE:
        raise ValueError(first)
    return name, encoded


def public_file(path: Path) -> Path:
    """Return where the public keys of a key file stand."""
    return path.with_name(f"{path.name}.pub")


def write_key(path: Path) -> Signer:
    """Make a key and write it to ``path`` (mode 600); the public one is added to those beside it.

    A key that was there is replaced: its public half stays, so that what it signed can be verified.
    """
    signer = new_signer()
    path.parent.mkdir(parents=True, exist_ok=True)
    # The public half first: a key must never sign what nobody could verify.
    with public_file(path).open("a", encoding="ascii") as file:
        file.write(f"{signer.verifier.text}\n")
        file.flush()
        os.fsync(file.fileno())
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"{signer_text(signer)}\n")
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    return signer


def read_verifiers(path: Path) -> list[Verifier]:
    """Read a file of public keys, one a line.

    Raises:
        UsageError: a line is none, or the file cannot be read.
    """
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The public keys cannot be read: {path}") from error
    return [read_verifier(text) for text in lines if text.strip()]


def by_id(verifiers: Iterable[Verifier]) -> dict[str, Verifier]:
    """Return the keys by their ids."""
    return {verifier.key_id: verifier for verifier in verifiers}
