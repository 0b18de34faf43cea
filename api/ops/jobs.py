"""`/ops/jobs`: finding jobs, and what may be done to all that a search finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from api.keys import PAGES_POOL
from api.pages.guard import allowed, person
from api.pages.render import page
from models.backlog import STATES
from models.errors import UsageError
from models.job_actions import ACTIONS
from models.job_find import Page, Query, count, find_page, resolve
from models.job_find_sql import MOST_COUNTED
from models.job_search import QUALIFIERS, as_uuid, parse_search
from models.jobs import KINDS, QUEUES

if TYPE_CHECKING:
    from uuid import UUID

    from models.db import Connection
    from models.operators import Operator

PAGE = 100  # jobs
_MOST_TENANTS = 50
_PRESETS = (
    ("Everything", ""),
    ("Open", "state:staged,running,retry,dead"),
    ("Waiting", "state:staged"),
    ("Running", "state:running"),
    ("In retry", "state:retry"),
    ("Dead", "state:dead"),
    ("Old", "state:staged,retry age:>10m"),
)


async def _suggestions(connection: Connection, text: str) -> list[str]:
    """Return how a search could go on: each qualifier with each of its values, behind what stands there."""
    names = await connection.fetch("SELECT name FROM tenant ORDER BY name LIMIT $1", _MOST_TENANTS)
    values = {"state": STATES, "kind": tuple(KINDS), "queue": QUEUES, "tenant": [row["name"] for row in names]}
    values["age"] = (">5m", ">1h", ">1d", "<1h")
    known = [f"{qualifier}:{value}" for qualifier, some in values.items() for value in some]
    known += [f"{qualifier}:" for qualifier in QUALIFIERS if qualifier not in values]
    head = text.rstrip()
    return [f"{head} {one}" if head else one for one in known]


def permitted(operator: Operator) -> list[str]:
    """Return the actions that a person may take on single jobs."""
    return [action for action in ACTIONS if operator.may(f"{action}_job")]


def _start(request: web.Request) -> UUID | None:
    text = request.query.get("after", "")
    after = as_uuid(text)
    if text and after is None:
        raise UsageError("The address of the page is not whole: after is no job's id. Search again.")
    return after


async def _found(connection: Connection, query: Query, after: UUID | None, *, newest: bool) -> tuple[Page, int | None]:
    """Return a page; with the number of all, if this is the first."""
    found = await find_page(connection, query, after=after, limit=PAGE, newest=newest)
    if after is not None:
        return found, None
    if found.after is None:
        return found, len(found.jobs)
    return found, await count(connection, query)


@allowed("view_jobs")
async def _show(request: web.Request) -> web.StreamResponse:
    text = request.query.get("q", "").strip()
    newest = request.query.get("order") != "oldest"
    operator = person(request)
    values: dict[str, Any] = {"found": None, "total": None, "error": None, "text": text, "actions": []}
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        try:
            search = parse_search(text)
            query = await resolve(connection, search)
            values["found"], values["total"] = await _found(connection, query, _start(request), newest=newest)
        except UsageError as error:
            values["error"] = error.detail
        else:
            values["text"] = str(search)
            if search.terms and operator.may("bulk"):
                able = [action for action in permitted(operator) if query.only(ACTIONS[action].states).states]
                values["actions"] = able if values["found"].jobs else []
        suggestions = await _suggestions(connection, values["text"])
    return await page(
        request,
        "ops/jobs.html",
        status=400 if values["error"] else 200,
        newest=newest,
        first="after" not in request.query,
        suggestions=suggestions,
        presets=_PRESETS,
        qualifiers=QUALIFIERS,
        most=MOST_COUNTED,
        **values,
    )


def routes() -> list[web.AbstractRouteDef]:
    """Return the routes of this page."""
    return [web.get("/ops/jobs", _show)]
