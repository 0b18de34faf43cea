"""The pages' cookies: their names, their attributes, and a signed message for the next page."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING

from api.keys import SETTINGS

if TYPE_CHECKING:
    from aiohttp import web

    from models.settings import Settings

_LONGEST_MESSAGE = 800  # characters; browsers drop cookies beyond 4096 bytes


def cookie_name(settings: Settings, what: str) -> str:
    """Return the name of a cookie of this instance.

    With https browsers hold `__Host-` cookies to this very host. Over plain http, as on a machine of one's own, they
    refuse that prefix; the port keeps instances on one host apart there, which browsers do not.
    """
    secure = settings.admin_url.scheme == "https"
    return f"__Host-{what}" if secure else f"{what}-{settings.admin_url.port or 80}"


def set_cookie(
    request: web.Request, response: web.StreamResponse, what: str, value: str, *, max_age: int | None = None
) -> None:
    """Set a cookie that scripts cannot read and other sites cannot send; ``max_age`` in seconds."""
    settings = request.config_dict[SETTINGS]
    response.set_cookie(
        cookie_name(settings, what),
        value,
        max_age=max_age,
        path="/",
        secure=settings.admin_url.scheme == "https",
        httponly=True,
        samesite="Strict",
    )


def read_cookie(request: web.Request, what: str) -> str | None:
    """Return what the browser sent for one of our cookies."""
    return request.cookies.get(cookie_name(request.config_dict[SETTINGS], what))


def drop_cookie(request: web.Request, response: web.StreamResponse, what: str) -> None:
    """Have the browser forget a cookie."""
    set_cookie(request, response, what, "", max_age=0)


def _mac(settings: Settings, text: str) -> str:
    key = settings.secret_key.get_secret_value().encode()
    return hmac.new(key, f"page message:{text}".encode(), hashlib.sha256).hexdigest()


def leave_message(request: web.Request, response: web.StreamResponse, message: str) -> None:
    """Have the next page show ``message``."""
    text = base64.urlsafe_b64encode(message[:_LONGEST_MESSAGE].encode(errors="replace")).decode().rstrip("=")
    value = f"{text}.{_mac(request.config_dict[SETTINGS], text)}"
    set_cookie(request, response, "usher-message", value, max_age=60)


def take_message(request: web.Request) -> str | None:
    """Return the message that the last answer left, if it is ours."""
    text, _, mac = (read_cookie(request, "usher-message") or "").partition(".")
    if not text or not text.isascii() or not mac.isascii():
        return None
    if not hmac.compare_digest(mac, _mac(request.config_dict[SETTINGS], text)):
        return None
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode(errors="replace")
