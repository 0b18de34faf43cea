"""Making pages of templates: what every page shows, how values look, and the headers that go with it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined

from api.headers import SERVER, transport_security
from api.keys import SETTINGS
from api.pages.cookies import drop_cookie, leave_message, read_cookie, take_message
from api.pages.static import static_url
from models.sessions import Session

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

SESSION = web.RequestKey("session", Session)
"""Who asks; set by `api.pages.guard`."""
THEMES = ("auto", "light", "dark")

# Address, name, permission; a page is offered once its route exists.
_NAVIGATION = (
    ("/ops", "Overview", "view_jobs"),
    ("/ops/jobs", "Jobs", "view_jobs"),
    ("/ops/dead", "Dead letters", "view_jobs"),
    ("/ops/bulk", "Bulk", "view_jobs"),
    ("/ops/queues", "Queues", "view_jobs"),
    ("/ops/workers", "Workers", "view_jobs"),
    ("/ops/schedules", "Schedules", "view_jobs"),
    ("/ops/emails", "E-mails", "view_jobs"),
    ("/ops/requests", "Requests", "view_jobs"),
    ("/ops/tenants", "Tenants", "view_jobs"),
    ("/ops/cycle", "Cycle", "view_jobs"),
    ("/admin/audit", "Audit", "view_audit"),
    ("/admin/tokens", "Tokens", "manage_tokens"),
    ("/admin/operators", "Operators", "manage_operators"),
)
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    # Not `no-referrer`: browsers then send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Robots-Tag": "noindex",
}
_TITLES = {
    400: "That cannot be done so",
    401: "Sign in first",
    403: "You may not do that",
    404: "There is no such page",
    405: "That address takes no such request",
    408: "That took too long",
    409: "Something changed meanwhile",
    413: "That is too much",
    410: "That is over",
    429: "Too fast",
    500: "Something went wrong here",
    503: "Not just now",
}


def _seconds(value: float | timedelta) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


def age(value: float | timedelta | None) -> str:
    """Return a span of time, in seconds or as a timedelta, as people say it: `340 ms`, `4 s`, `2 h 5 min`."""
    if value is None:
        return "\N{EN DASH}"
    seconds = max(_seconds(value), 0.0)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds else "0 s"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    for name, size, below, smaller in (
        ("min", 60, 3600, "s"),
        ("h", 3600, 86400, "min"),
        ("d", 86400, float("inf"), "h"),
    ):
        if seconds < below:
            step = {"s": 1, "min": 60, "h": 3600}[smaller]
            whole, rest = divmod(int(seconds), size)
            return f"{whole} {name} {rest // step} {smaller}" if rest // step else f"{whole} {name}"
    raise AssertionError  # the last row takes everything


def utc(value: datetime) -> str:
    """Return a moment as text: `2026-11-24 01:30:59 UTC`."""
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def number(value: float | None) -> str:
    """Return a number with thin spaces between its thousands; a dash for none."""
    if value is None:
        return "\N{EN DASH}"
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"
    return text.replace(",", "\N{NARROW NO-BREAK SPACE}")


def polyline(values: Sequence[float | None], width: float, height: float) -> str:
    """Return the `points` of an SVG polyline through ``values``, the highest at the top; gaps lie at the bottom."""
    top = max((value or 0 for value in values), default=0) or 1
    step = width / max(len(values) - 1, 1)
    return " ".join(
        f"{place * step:.1f},{height - (value or 0) / top * height:.1f}" for place, value in enumerate(values)
    )


def query(values: Mapping[str, Any], **changes: Any) -> str:
    """Return a query string of ``values`` with some changed; None takes one away."""
    merged = {**values, **changes}
    text = urlencode({name: value for name, value in merged.items() if value not in (None, "")})
    return f"?{text}" if text else "?"


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("api"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(age=age, utc=utc, number=number)
    made.globals.update(static=static_url, polyline=polyline, query=query, themes=THEMES)
    made.globals["macros"] = made.get_template("macros.html").module
    return made


_PAGES = _environment()


async def secure(request: web.Request, response: web.StreamResponse) -> None:
    """Give every answer of the internal listener its security headers; a signal of the application."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers.setdefault("Cache-Control", "no-store")
    response.headers["Server"] = SERVER
    response.headers.update(transport_security(request.config_dict[SETTINGS].admin_url))


def offered(request: web.Request) -> list[tuple[str, str]]:
    """Return the pages that the person may see: address and name."""
    session = request.get(SESSION)
    if session is None:
        return []
    routes = {resource.canonical for resource in request.app.router.resources()}
    return [
        (path, name) for path, name, permission in _NAVIGATION if path in routes and session.operator.may(permission)
    ]


def theme(request: web.Request) -> str:
    """Return which of `THEMES` the browser asked for."""
    wanted = read_cookie(request, "usher-theme")
    return wanted if wanted in THEMES else "auto"


def _values(request: web.Request, values: Mapping[str, Any]) -> dict[str, Any]:
    session = request.get(SESSION)
    return {
        "person": session.operator if session else None,
        "now": datetime.now(UTC),
        "path": request.path,
        "path_qs": request.path_qs,
        "title": "",
        **values,
    }


def _render(request: web.Request, template: str, status: int, values: Mapping[str, Any]) -> web.Response:
    message = take_message(request)
    pages = offered(request)
    here = max((path for path, _ in pages if (request.path + "/").startswith(path + "/")), key=len, default=None)
    frame = {"message": message, "navigation": pages, "here": here, "theme": theme(request)}
    text = _PAGES.get_template(template).render(_values(request, values), frame=frame)
    response = web.Response(text=text, status=status, content_type="text/html", charset="utf-8")
    if message is not None:
        drop_cookie(request, response, "usher-message")
    return response


async def page(request: web.Request, template: str, *, status: int = 200, **values: Any) -> web.Response:
    """Return a page.

    Args:
        request: whose person, navigation, theme and waiting message the page shows.
        template: below `api/templates`, extending `layout.html`.
        status: of the answer.
        values: for the template, which has `person`, `now`, `path` and `path_qs` beside.
    """
    return _render(request, template, status, values)


async def fragment(request: web.Request, template: str, block: str, **values: Any) -> str:
    """Return what one block of a template renders, for a live region.

    Args:
        request: as for `page`.
        template: as for `page`.
        block: name of a block in it; it sees ``values``, not what other blocks or the top of the template set.
        values: as for `page`.

    Raises:
        KeyError: the template has no such block.
    """
    found = _PAGES.get_template(template)
    return "".join(found.blocks[block](found.new_context(_values(request, values))))


def redirect(request: web.Request, url: str, message: str | None = None) -> web.Response:
    """Return a redirect (303) after an action; the next page shows ``message``."""
    response = web.Response(status=303, headers={"Location": url})
    if message:
        leave_message(request, response, message)
    return response


def problem(request: web.Request, status: int, message: str) -> web.Response:
    """Return a page that says what is wrong and what to mend."""
    title = _TITLES.get(status, "That did not work")
    return _render(request, "problem.html", status, {"title": title, "text": message, "code": status})
