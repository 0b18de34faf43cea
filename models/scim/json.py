"""JSON in and out: strict, and only what PostgreSQL can hold and what comes back exactly as it was sent.

Of duplicate names in one object the last one counts, as RFC 8259 §4 leaves open and orjson does.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import orjson

from models.errors import InvalidSyntaxError, InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Callable

_DIGITS: Final = bytes.maketrans(b"123456789.E", b"0000000000e")
_LONG: Final = b"0" * 16  # a double holds every number of 15 digits exactly
_TINY: Final = b"e-000"
_INT_MIN, _INT_MAX = -(2**63), 2**64 - 1
_PATH_LENGTH: Final = 200


class _Inexact:
    """Stands where a number stood that would come back as another one."""


def parse(body: bytes, *, max_depth: int) -> Any:
    """Return the value that a JSON text holds.

    The searches for NUL, deep nesting and inexact numbers look at the raw bytes first and walk the value only
    when those give reason to.

    Args:
        body: The text, UTF-8 without a byte order mark.
        max_depth: How many objects and lists may lie inside each other.

    Raises:
        InvalidSyntaxError: The text is not JSON (RFC 8259), not UTF-8, has a lone surrogate, or is nested
            deeper than ``max_depth``.
        InvalidValueError: It has U+0000, which a jsonb column cannot hold, or a number that cannot come back
            exactly: an integer outside -2^63 … 2^64-1, or a decimal that a double does not hold.
    """
    if not body:
        raise InvalidSyntaxError("The body is empty; a JSON object is expected.")
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        # The error object carries the whole body: it must not travel further.
        reason, place = error.msg, f"line {error.lineno}, column {error.colno}"
    else:
        _check(body, value, max_depth)
        return value
    if "UTF-8" in reason and "BOM" not in reason:
        raise InvalidSyntaxError("The body is not valid UTF-8.")
    if "infinity" in reason:
        raise InvalidValueError(f"A number is beyond the range of a double ({place}).")
    if "depth" in reason or ("memory" in reason and _openings(body) > max_depth):
        raise _too_deep(max_depth)
    raise InvalidSyntaxError(f"The body is not valid JSON: {reason} ({place}).")


def object_body(body: bytes, *, max_depth: int) -> dict[str, Any]:
    """Return the JSON object that a request's body must be.

    Raises:
        InvalidSyntaxError: As `parse`, or the value is not an object.
        InvalidValueError: As `parse`.
    """
    value = parse(body, max_depth=max_depth)
    if not isinstance(value, dict):
        raise InvalidSyntaxError(f"The body must be a JSON object, not {kind_of(value)}.")
    return value


def dumps(value: Any) -> bytes:
    """Return a JSON value as compact UTF-8."""
    return orjson.dumps(value)


def kind_of(value: Any) -> str:
    """Return what a JSON value is called in a message, with its article."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, list) else "an object"


def _check(body: bytes, value: Any, max_depth: int) -> None:
    # More opening brackets than levels allowed is the rule only for long lists; few bodies are walked.
    if _openings(body) > max_depth and _deeper(value, max_depth):
        raise _too_deep(max_depth)
    if b"\\u0000" in body:
        place = _where(value, _has_nul)
        if place:
            raise InvalidValueError(f"The character U+0000 cannot be stored; remove it ({place}).")
    digits = body.translate(_DIGITS)
    if _LONG in digits or _TINY in digits:
        exact = json.loads(body, parse_int=_integer, parse_float=_decimal)
        place = _where(exact, _is_inexact)
        if place:
            raise InvalidValueError(
                f"The number cannot be kept exactly; send it with fewer digits or as a string ({place})."
            )


def _openings(body: bytes) -> int:
    return body.count(b"[") + body.count(b"{")


def _deeper(value: Any, levels: int) -> bool:
    """Return whether objects and lists lie inside each other more than ``levels`` deep."""
    level = [value] if isinstance(value, dict | list) else []
    while level and levels:
        levels -= 1
        level = [
            item
            for holder in level
            for item in (holder.values() if isinstance(holder, dict) else holder)
            if isinstance(item, dict | list)
        ]
    return bool(level)


def _where(value: Any, wrong: Callable[[Any], bool], path: str = "", separator: str = "") -> str | None:
    """Return where the first wrong leaf or name is, in words for an administrator, or None."""
    if isinstance(value, dict):
        for name, item in value.items():
            if wrong(name):
                return f"in a name inside {path or 'the body'}"[:_PATH_LENGTH]
            below = ":" if name[:4].lower() == "urn:" else "."
            found = _where(item, wrong, f"{path}{separator}{name}", below)
            if found:
                return found
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found = _where(item, wrong, f"{path}[{index}]", ".")
            if found:
                return found
    elif wrong(value):
        return f"in {path or 'the body'}"[:_PATH_LENGTH]
    return None


def _has_nul(leaf: Any) -> bool:
    return isinstance(leaf, str) and "\0" in leaf


def _is_inexact(leaf: Any) -> bool:
    return isinstance(leaf, _Inexact)


def _integer(text: str) -> int | _Inexact:
    value = int(text)  # of 309 digits at most: orjson has refused longer ones
    return value if _INT_MIN <= value <= _INT_MAX else _Inexact()


def _decimal(text: str) -> float | _Inexact:
    value = float(text)
    if value == 0:
        mantissa = text.lower().partition("e")[0]
        return _Inexact() if mantissa.strip("-0.") else value
    return value if Decimal(text) == Decimal(repr(value)) else _Inexact()


def _too_deep(max_depth: int) -> InvalidSyntaxError:
    return InvalidSyntaxError(f"The body is nested deeper than {max_depth} levels.")
