"""What a stream's error codes mean, in words."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

_WORDS: Final = {
    "address_refused": "The host's address is not public, and USHER_AUDIT_STREAM_ALLOW does not name its network.",
    "ca_file": "The file of USHER_AUDIT_STREAM_CA_FILE cannot be read.",
    "certificate": "The host's certificate is not valid for its name, or by no authority that is trusted.",
    "connection": "The connection broke off.",
    "connection_refused": "Nothing listens at that host and port.",
    "http": "The answer was no answer of HTTP.",
    "internal": "That is a fault of Usher's; the worker's log has more.",
    "log_behind": "The server's transaction ids are behind the stream: it was filled from a dump.",
    "name_unknown": "The host's name is not known.",
    "secret_unreadable": "USHER_SECRET_KEY was changed: give the credentials anew, with a new secret.",
    "timeout": "It did not answer in time.",
    "tls": "No TLS connection could be made.",
    "unconfirmed": "It broke the connection off before it had read everything.",
}
_HTTP: Final = {
    401: "The credentials were refused",
    403: "The credentials were refused",
    404: "There is no such address",
    413: "What was sent is too large for it",
    429: "It asks for more time",
}
_PHRASES: Final = {status.value: f" {status.phrase}" for status in HTTPStatus}


def in_words(code: str | None) -> str:
    """Return what an error code means; nothing for none."""
    if code is None:
        return ""
    number = code.removeprefix("http_")
    if number == code or not number.isdigit():
        return _WORDS.get(code, code)
    status = int(number)
    said = _HTTP.get(
        status, "It sends elsewhere, which is not followed" if 300 <= status < 400 else "It did not accept"
    )
    return f"{said} (HTTP {status}{_PHRASES.get(status, '')})."
