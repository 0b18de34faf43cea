"""The mail catcher's page: what was sent, newest first, and each message as its reader sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined

from cli.embedded.behaviour import Behaviour, Conduct
from cli.embedded.mailbox import Mailbox
from models.errors import UsageError

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

PAGE = 50  # messages
MAILBOX = web.AppKey("MAILBOX", Mailbox)
CONDUCT = web.AppKey("CONDUCT", Conduct)
TEMPLATES = web.AppKey("TEMPLATES", Environment)

_OWN_NAMES = {"127.0.0.1", "localhost", "[::1]"}
_POLICY = (
    "default-src 'none'; style-src 'self'; frame-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# What is in a message is a stranger's: no scripts, nothing fetched, no way out of its frame but a link that opens anew.
_MESSAGE_POLICY = (
    "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; "
    "style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)


def make_app(mailbox: Mailbox, conduct: Conduct) -> web.Application:
    """Build the application over a mailbox and the conduct that tests may change."""
    app = web.Application(middlewares=[guard])
    app[MAILBOX] = mailbox
    app[CONDUCT] = conduct
    app[TEMPLATES] = Environment(
        loader=PackageLoader("cli.embedded"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    app.add_routes(
        [
            web.get("/", show_list),
            web.get("/mailbox.css", show_style),
            web.get("/messages.json", list_messages),
            web.delete("/messages", clear_messages),
            web.get("/messages/{id:[0-9]+}", show_message),
            web.get("/messages/{id:[0-9]+}/html", show_html),
            web.get("/messages/{id:[0-9]+}.eml", send_raw),
            web.get("/behaviour", show_behaviour),
            web.post("/behaviour", change_behaviour),
        ]
    )
    return app


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Keep other sites in the same browser from reading invitations or changing anything."""
    name = request.host.rsplit(":", 1)[0] if not request.host.endswith("]") else request.host
    if name not in _OWN_NAMES:  # a name that was pointed at this machine (DNS rebinding)
        raise web.HTTPMisdirectedRequest(text="This mailbox answers to 127.0.0.1 and localhost only.\n")
    origin = request.headers.get("Sec-Fetch-Site", "none")
    if request.method not in {"GET", "HEAD"} and origin not in {"none", "same-origin"}:
        raise web.HTTPForbidden(text="Not from another site.\n")
    response = await handler(request)
    response.headers.setdefault("Content-Security-Policy", _POLICY)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    response.headers["Cache-Control"] = "no-store"
    return response


async def show_list(request: web.Request) -> web.Response:
    """A page of the list, newest first."""
    text = request.query.get("q", "").strip()
    page = _number(request, "page", 1, smallest=1)
    total, messages = request.app[MAILBOX].newest((page - 1) * PAGE, PAGE, text)

    def link(number: int) -> str:
        return "/?" + urlencode({"q": text, "page": number} if text else {"page": number})

    return _page(
        request,
        "mailbox.html",
        total=total,
        messages=messages,
        q=text,
        page=page,
        first=(page - 1) * PAGE + 1,
        newer=link(page - 1) if page > 1 else None,
        older=link(page + 1) if page * PAGE < total else None,
    )


async def show_message(request: web.Request) -> web.Response:
    """One message: headers, text part, HTML part in a frame that can do nothing."""
    opened = request.app[MAILBOX].open(request.match_info["id"])
    if opened is None:
        raise web.HTTPNotFound(text="There is no such message.\n")
    return _page(request, "message.html", id=request.match_info["id"], message=opened)


async def show_html(request: web.Request) -> web.Response:
    """The HTML part alone, for the frame."""
    opened = request.app[MAILBOX].open(request.match_info["id"])
    if opened is None or opened.html is None:
        raise web.HTTPNotFound(text="There is no such part.\n")
    response = web.Response(
        text=f'<!doctype html><base target="_blank">{opened.html}', content_type="text/html", charset="utf-8"
    )
    response.headers["Content-Security-Policy"] = _MESSAGE_POLICY
    return response


async def show_style(request: web.Request) -> web.Response:
    """The style sheet of both pages."""
    style = request.app[TEMPLATES].get_template("mailbox.css").render()
    return web.Response(text=style, content_type="text/css", charset="utf-8")


async def list_messages(request: web.Request) -> web.Response:
    """``{"total": n, "messages": [...]}``, newest first; ``q``, ``offset`` and ``limit`` narrow it."""
    offset = _number(request, "offset", 0, smallest=0)
    limit = _number(request, "limit", 1000, smallest=0)
    total, messages = request.app[MAILBOX].newest(offset, limit, request.query.get("q", ""))
    return web.json_response({"total": total, "messages": [vars(message) for message in messages]})


async def send_raw(request: web.Request) -> web.Response:
    """The message as it came."""
    content = request.app[MAILBOX].raw(request.match_info["id"])
    if content is None:
        raise web.HTTPNotFound(text="There is no such message.\n")
    # text/plain, so that a browser shows the source and nothing opens it
    return web.Response(body=content, content_type="text/plain", charset="utf-8")


async def clear_messages(request: web.Request) -> web.Response:
    """Throw every message away."""
    request.app[MAILBOX].clear()
    return web.Response(status=204)


async def show_behaviour(request: web.Request) -> web.Response:
    """How SMTP is answered, and how often that was shown."""
    conduct = request.app[CONDUCT]
    return web.json_response({**vars(conduct.behaviour), "shown": conduct.shown})


async def change_behaviour(request: web.Request) -> web.Response:
    """Answer SMTP in another way from now on."""
    try:
        behaviour = Behaviour.parse(await request.json())
    except (ValueError, UsageError) as error:
        raise web.HTTPBadRequest(text=f"{error}\n") from error
    request.app[CONDUCT].change(behaviour)
    return await show_behaviour(request)


def _number(request: web.Request, name: str, default: int, *, smallest: int) -> int:
    text = request.query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise web.HTTPBadRequest(text=f"{name} must be a whole number.\n")
    return max(int(text), smallest)


def _page(request: web.Request, template: str, **values: Any) -> web.Response:
    text = request.app[TEMPLATES].get_template(template).render(values)
    return web.Response(text=text, content_type="text/html", charset="utf-8")
