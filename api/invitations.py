"""`/invitations/{token}`: the page behind the link of an invitation e-mail.

Looking changes nothing, because mail scanners follow links; only the button (POST) accepts. The pages work without
scripts and fetch nothing but a tenant's logo.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from typing import TYPE_CHECKING

import structlog
from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from uuid_utils.compat import uuid7
from yarl import URL

from api.headers import HEADERS, transport_security
from api.keys import POOL, SETTINGS
from models.branding import Branding, read_branding
from models.db import is_unavailable
from models.invitations import OpenedInvitation, accept_invitation, find_invitation

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_log = structlog.get_logger("invitations")
_PAGES = Environment(
    loader=PackageLoader("api"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_NEUTRAL = read_branding({}, display_name="")
_STATUS = {"open": 200, "welcome": 200, "accepted": 410, "expired": 410, "withdrawn": 410, "unknown": 404, "busy": 503}
_HOST = re.compile(r"[A-Za-z0-9._:-]+")  # a name in ASCII or an address; yarl lets more pass
_HEADERS = {
    **HEADERS,
    "Referrer-Policy": "no-referrer",  # the address is the secret
    "X-Robots-Tag": "noindex",
}


def routes() -> list[web.AbstractRouteDef]:
    """Return the routes of the public listener that belong to invitations."""
    return [web.get("/invitations/{token}", _show), web.post("/invitations/{token}", _accept)]


def _sends_503(
    handler: Callable[[web.Request], Awaitable[web.Response]],
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def guarded(request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(request.config_dict[SETTINGS].request_seconds):
                response = await handler(request)
        except Exception as error:
            if not is_unavailable(error):
                raise
            _log.warning("An invitation could not be read", action="invitation.busy", error=type(error).__name__)
            response = _page("busy", None)
            response.headers["Retry-After"] = "30"
        response.headers.update(transport_security(request.config_dict[SETTINGS].public_url))
        return response

    return guarded


@_sends_503
async def _show(request: web.Request) -> web.Response:
    invitation = await find_invitation(request.config_dict[POOL], request.match_info["token"])
    return _page(invitation.standing if invitation else "unknown", invitation)


@_sends_503
async def _accept(request: web.Request) -> web.Response:
    token = request.match_info["token"]
    invitation, accepted = await accept_invitation(request.config_dict[POOL], token, correlation_id=uuid7())
    if invitation is None:
        return _page("unknown", None)
    if not accepted:
        return _page(invitation.standing, invitation)
    _log.info("An invitation was accepted", action="invitation.accept", invitation_id=str(invitation.id))
    target = _sign_in(invitation)
    if target is None:
        return _page("welcome", invitation)
    return web.Response(status=303, headers={**_HEADERS, "Location": str(target)})


def _sign_in(invitation: OpenedInvitation) -> URL | None:
    """Return where to sign in, encoded as it may stand in a header, if the tenant has such a place."""
    try:
        url = URL(invitation.sign_in_url or "")
    except ValueError:
        return None
    return url if url.scheme in ("http", "https") and _HOST.fullmatch(url.raw_host or "") else None


def _title(page: str, tenant_name: str) -> str:
    return {
        "open": f"You are invited to {tenant_name}",
        "welcome": f"Welcome to {tenant_name}",
        "accepted": "This invitation was accepted already",
        "expired": "This invitation has expired",
        "withdrawn": "This invitation no longer stands",
        "unknown": "There is no such invitation",
        "busy": "Please try again in a minute",
    }[page]


def _page(page: str, invitation: OpenedInvitation | None) -> web.Response:
    """Render one of the pages in `_STATUS`, in the tenant's colours if the tenant is known."""
    branding: Branding = invitation.branding if invitation else _NEUTRAL
    target = _sign_in(invitation) if invitation else None
    style = _PAGES.get_template("invitation.css").render(branding=branding)
    text = _PAGES.get_template("invitation.html").render(
        page=page,
        title=_title(page, invitation.tenant_name if invitation else ""),
        # Our own stylesheet; of the tenant's values only two checked colours come into it.
        style=Markup(style),  # noqa: S704  see above
        tenant_name=invitation.tenant_name if invitation else "",
        logo_url=branding.logo_url if branding.logo_url and branding.logo_url.startswith("https://") else None,
        sign_in_url=str(target) if target and page == "accepted" else None,
        support_email=branding.support_email,
    )
    response = web.Response(
        text=text, status=_STATUS[page], content_type="text/html", charset="utf-8", headers=_HEADERS
    )
    response.headers["Content-Security-Policy"] = _policy(style, target)
    return response


def _policy(style: str, target: URL | None) -> str:
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    # Browsers hold every redirect that follows the button to form-action: the sign-in page, and the identity provider
    # that it sends people on to, of which all we know is that it has a certificate.
    forms = f"'self' {target.origin()} https:" if target else "'self'"
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src https: data:; form-action {forms};"
        " base-uri 'none'; frame-ancestors 'none'"
    )
