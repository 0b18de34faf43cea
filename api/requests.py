"""Reading what a request carries, with an error that says what to mend."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from aiohttp import web

from models.errors import BodyTimeoutError, InvalidSyntaxError, InvalidValueError, MediaTypeError, TooLargeError
from models.scim.json import object_body

if TYPE_CHECKING:
    from models.settings import Settings

_MEDIA_TYPES = ("application/scim+json", "application/json")


@lru_cache(maxsize=64)  # a client sends the same with every request
def _check_media_type(encoding: str, header: str | None) -> None:
    if encoding.lower() != "identity":
        raise MediaTypeError("A compressed body is not accepted; send it without Content-Encoding.")
    if header is None:
        raise MediaTypeError("The Content-Type is missing; send application/scim+json.")
    media_type, _, parameters = header.partition(";")
    if media_type.strip().lower() not in _MEDIA_TYPES:
        raise MediaTypeError("The body must be sent as application/scim+json or application/json.")
    charset = parameters.lower().partition("charset=")[2].partition(";")[0].strip(' "')
    if charset not in ("", "utf-8", "utf8"):
        raise MediaTypeError("The body must be encoded in UTF-8.")


async def read_object(request: web.Request, settings: Settings) -> dict[str, Any]:
    """Return the JSON object that is the request's body.

    Raises:
        MediaTypeError: 415, another Content-Type, charset or any Content-Encoding.
        TooLargeError: 413, more bytes than `max_body_bytes`.
        BodyTimeoutError: 408, it did not arrive within `body_seconds`.
        InvalidSyntaxError, InvalidValueError: 400, not what JSON or the store can hold.
    """
    _check_media_type(request.headers.get("Content-Encoding", "identity"), request.headers.get("Content-Type"))
    if (request.content_length or 0) > settings.max_body_bytes:
        raise TooLargeError(f"The body is larger than {settings.max_body_bytes} bytes.")
    try:
        if request.content.is_eof():  # it came with the head, as Entra's bodies do: no clock needed
            body = await request.read()
        else:
            async with asyncio.timeout(settings.body_seconds):
                body = await request.read()
    except TimeoutError:
        raise BodyTimeoutError(f"The body did not arrive within {settings.body_seconds:g} seconds.") from None
    except web.HTTPRequestEntityTooLarge:
        raise TooLargeError(f"The body is larger than {settings.max_body_bytes} bytes.") from None
    except web.HTTPException:
        raise
    except ValueError as error:  # what aiohttp makes of a body that contradicts its headers
        raise InvalidSyntaxError("The body does not match the headers of the request.") from error
    return object_body(body, max_depth=settings.max_json_depth)


def query_text(request: web.Request, name: str) -> str | None:
    """Return a query parameter, in any letter case of its name (the first, if it is repeated).

    Raises:
        InvalidValueError: it holds U+0000 or half a surrogate pair, which no stored value can equal.
    """
    if not request.query_string:
        return None
    query = request.query
    value = query.get(name)
    if value is None:
        wanted = name.lower()
        value = next((text for key, text in query.items() if key.lower() == wanted), None)
    return None if value is None else _storable(name, value)


def only_parameter(request: web.Request, name: str) -> str | None:
    """Return a query parameter if it is there in this spelling, with something in it, and nothing else is.

    Raises:
        InvalidValueError: as `query_text`.
    """
    query = request.query
    return _storable(name, query[name]) if len(query) == 1 and query.get(name) else None


def _storable(name: str, value: str) -> str:
    if "\x00" in value or not _encodable(value):
        raise InvalidValueError(f"The parameter {name} holds a character that cannot be stored.")
    return value


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def query_integer(request: web.Request, name: str, default: int, *, least: int) -> int:
    """Return a whole number from the query; a smaller one than ``least`` counts as it (RFC 7644 §3.4.2.4).

    Raises:
        InvalidValueError: it is not a whole number.
    """
    text = query_text(request, name)
    if text is None or text == "":
        return default
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit()):
        raise InvalidValueError(f"{name} must be a whole number.")
    # More digits than any directory has users: spares int() a number of a megabyte.
    number = int(digits) if len(digits) < 19 else 10**18
    return max(-number if text.startswith("-") else number, least)
