"""The headers that go with answers, whoever gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import HttpUrl

SERVER = "usher"
"""Instead of the names and versions of what answers."""
HEADERS = {
    "Server": SERVER,
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
"""Of every answer that is data and not a page."""


def transport_security(url: HttpUrl) -> dict[str, str]:
    """Return what keeps browsers to TLS, for a listener whose address as the world sees it has it."""
    return {"Strict-Transport-Security": "max-age=31536000"} if url.scheme == "https" else {}
