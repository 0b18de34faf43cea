"""Answers of the audit API: JSON, and failures as problem details (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from models.errors import (
    ClientError,
    ForbiddenError,
    HttpError,
    InvalidQueryError,
    MethodNotAllowedError,
    RateLimitError,
    UnauthenticatedError,
    UnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.audit.query import Facets, Page

NDJSON = "application/x-ndjson"
PROBLEM = "application/problem+json"


def as_json(value: Any) -> bytes:
    """Return ``value`` as JSON; moments end in Z."""
    return orjson.dumps(value, default=str, option=orjson.OPT_UTC_Z)


def json_answer(value: Any) -> web.Response:
    """Return a 200 with a JSON body."""
    return web.Response(body=as_json(value), content_type="application/json")


def page_body(page: Page) -> dict[str, Any]:
    """Return what a page of events is told as."""
    return {
        "events": page.events,
        "next": page.next,
        "since": page.search.since,
        "until": page.search.until,
        "as_of": page.as_of,
        "complete": page.complete,
    }


def facets_body(facets: Facets) -> dict[str, Any]:
    """Return what counts are told as."""
    return {
        "counted": facets.counted,
        "all_counted": facets.all_counted,
        "action": facets.actions,
        "outcome": facets.outcomes,
        "since": facets.search.since,
        "until": facets.search.until,
        "as_of": facets.search.as_of,
    }


def problem_answer(error: HttpError, allow: str = "GET, HEAD") -> web.Response:
    """Return a failure with its sentence, and the place in the search that it is about if it is about one."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": _plain_detail(error),
    }
    if error.scim_type and isinstance(error, ClientError):
        body["code"] = error.scim_type
    if isinstance(error, InvalidQueryError):
        body["code"] = "invalidQuery"
        if error.position is not None:
            body["position"] = error.position
        if error.expected:
            body["expected"] = list(error.expected)
    return web.Response(status=error.status, body=as_json(body), content_type=PROBLEM, headers=_headers(error, allow))


def _plain_detail(error: HttpError) -> str:
    if isinstance(error, UnauthenticatedError):
        return (
            "A valid bearer token with the scope audit is required; `usher token issue TENANT --scope audit` makes one."
        )
    return error.detail


def _headers(error: HttpError, allow: str) -> Mapping[str, str]:
    if isinstance(error, UnauthenticatedError):
        return {"WWW-Authenticate": 'Bearer realm="audit"'}
    if isinstance(error, ForbiddenError):
        return {"WWW-Authenticate": 'Bearer realm="audit", error="insufficient_scope", scope="audit"'}
    if isinstance(error, MethodNotAllowedError):
        return {"Allow": allow}
    if isinstance(error, UnavailableError):
        return {"Retry-After": "5"}
    if isinstance(error, RateLimitError):
        return {"Retry-After": str(error.retry_seconds)}
    return {}
