"""What a client asks of a list, read from the parameters of a GET or the body of a POST to `.search`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from api.requests import only_parameter, query_integer, query_text
from models.errors import InvalidCountError, InvalidSyntaxError, InvalidValueError
from models.scim import entra

if TYPE_CHECKING:
    from collections.abc import Mapping

    from aiohttp import web


@dataclass(frozen=True, slots=True)
class Query:
    """What a client asks of a list (RFC 7644 §3.4.2, RFC 9865 §2)."""

    attributes: str | None = None
    """Names with commas between them, as in the parameter of that name."""
    excluded: str | None = None
    """As above: `excludedAttributes`."""
    filter: str | None = None
    sort_by: str | None = None
    sort_order: str | None = None
    start_index: int = 1
    count: int | None = None
    cursor: str | None = None
    """Empty for the first page of a walk by cursor; None pages by index."""


def query_of(request: web.Request) -> Query:
    """Read the parameters of a GET.

    Raises:
        InvalidValueError: a number is malformed, or a value holds what cannot be stored.
        InvalidCountError: the count is malformed, in a walk by cursor.
    """
    if not request.query_string:
        return Query()
    # A matching query has nothing but its filter, and asking for each of the others costs more than it does.
    if filter_ := only_parameter(request, "filter"):
        return Query(filter=filter_)
    cursor = query_text(request, "cursor")
    count: int | None = None
    if query_text(request, "count"):
        try:
            count = query_integer(request, "count", 0, least=0)
        except InvalidValueError as error:
            if cursor is None:
                raise
            raise InvalidCountError(error.detail) from error
    return Query(
        attributes=query_text(request, "attributes"),
        excluded=query_text(request, "excludedAttributes"),
        filter=query_text(request, "filter"),
        sort_by=query_text(request, "sortBy"),
        sort_order=query_text(request, "sortOrder"),
        start_index=query_integer(request, "startIndex", 1, least=1),
        count=count,
        cursor=cursor,
    )


def query_of_body(body: Mapping[str, Any]) -> Query:
    """Read a SearchRequest (RFC 7644 §3.4.3). What it does not know it ignores, as in a GET.

    Raises:
        InvalidValueError: a value is of another type than its name asks for.
        InvalidCountError: the count is, in a walk by cursor.
        InvalidSyntaxError: `schemas` is no list of strings.
    """
    given = {name.lower(): value for name, value in body.items() if value is not None}
    try:
        entra.check_schemas(given.get("schemas", []))
    except InvalidValueError as error:
        raise InvalidSyntaxError(error.detail) from error
    cursor = _string(given, "cursor")
    count = given.get("count")
    if "count" in given and not _is_integer(count):
        error_class = InvalidValueError if cursor is None else InvalidCountError
        raise error_class("count must be a whole number.")
    start_index = given.get("startindex", 1)
    if not _is_integer(start_index):
        raise InvalidValueError("startIndex must be a whole number.")
    return Query(
        attributes=_names(given, "attributes"),
        excluded=_names(given, "excludedAttributes"),
        filter=_string(given, "filter"),
        sort_by=_string(given, "sortBy"),
        sort_order=_string(given, "sortOrder"),
        start_index=max(start_index, 1),
        count=None if count is None else max(count, 0),
        cursor=cursor,
    )


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _string(given: Mapping[str, Any], name: str) -> str | None:
    value = given.get(name.lower())
    if value is not None and not isinstance(value, str):
        raise InvalidValueError(f"{name} must be a string.")
    return value


def _names(given: Mapping[str, Any], name: str) -> str | None:
    value = given.get(name.lower())
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return ",".join(value)
    if value is not None and not isinstance(value, str):
        raise InvalidValueError(f"{name} must be a list of strings.")
    return value
