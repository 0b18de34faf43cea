"""Turns JSON values into values of their attribute's type: one compiled function an attribute.

A reader takes a value and a list, and returns the value to keep or None when it is unassigned. It adds to the
list the names of attributes that it leaves out. Values are kept as they were sent, but for booleans sent as
strings and for what `models.scim.entra` brings into form.
"""

from __future__ import annotations

import binascii
import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from models.errors import InvalidPathError, InvalidValueError
from models.scim import entra
from models.scim.json import kind_of
from models.scim.schema import ENTERPRISE_URN, GROUP_URN, USER_URN

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from models.scim.schema import Attribute, Extension, ResolvedPath, ResourceSchema

Reader = Callable[[Any, list[str]], Any]
Rules = dict[str, tuple[str, Reader, int]]
"""By name, as the schema spells it and in lower case: the schema's spelling, the reader, and how long a string is kept
without asking that; -1 where it has to be asked. Most values are plain strings, and a call costs more than the look."""

MAX_KEY = 512
"""Longest value, in characters, that is compared through an index."""
MAX_STRING = 64 * 1024
"""Longest other string, in characters."""
MAX_ITEMS = 10_000
"""Longest list."""

_KEYS: Final = frozenset(
    {
        (USER_URN, "userName"),
        (USER_URN, "externalId"),
        (USER_URN, "emails.value"),
        (GROUP_URN, "displayName"),
        (GROUP_URN, "externalId"),
    }
)
# These end up in mail headers and on one line of a list.
_ONE_LINE: Final = frozenset({(USER_URN, "userName"), (USER_URN, "emails.value")})
_PREPARED: Final[Mapping[str, Callable[[Any], Any]]] = {
    "roles": entra.role,
    f"{ENTERPRISE_URN}:manager": entra.manager,
}
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_DATE_TIME: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.\d+)?"
    r"(?:Z|[+-](?:(?:0\d|1[0-3]):[0-5]\d|14:00))?",
    re.ASCII,
)


def resource_rules(schema: ResourceSchema) -> Rules:
    """Return the readers of a resource's top level: core attributes and extension objects."""
    rules: Rules = {}
    for attribute in schema.attributes.values():
        _add(rules, attribute, _reader(schema, attribute, attribute.name), _plain(schema, attribute, attribute.name))
    rules["schemas"] = ("schemas", _schemas, -1)
    for name in entra.SERVER_OWNED:
        rules[name] = (name, _dropped, -1)
    for extension in schema.extensions.values():
        rules[extension.urn] = rules[extension.urn.lower()] = (
            extension.urn,
            _extension_reader(schema, extension),
            -1,
        )
    return rules


def read_members(
    value: dict[str, Any],
    rules: Rules,
    ignored: list[str],
    *,
    prefix: str = "",
    skipped: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Read the attributes of an object, in the order in which they were sent.

    Args:
        value: The object.
        rules: The readers of its attributes.
        ignored: Takes the paths of attributes that no rule knows.
        prefix: What stands before a name in a path.
        skipped: When given, takes unknown attributes in place of ``ignored``.

    Raises:
        InvalidValueError: A value is of another type than its attribute, or an attribute is there twice.
    """
    result: dict[str, Any] = {}
    for name, item in value.items():
        if not item and entra.unassigned(item):
            continue
        rule = rules.get(name) or entra.any_case(rules, name)
        if rule is None:
            if skipped is None:
                ignored.append(prefix + name)
            else:
                skipped[name] = item
            continue
        own_name, reader, plain = rule
        if item.__class__ is str and len(item) <= plain:
            kept = item
        else:
            kept = reader(item, ignored)
            if kept is None:
                continue
        if own_name in result and result[own_name] != kept:
            raise InvalidValueError(f"{prefix}{own_name} is given twice with different values.")
        result[own_name] = kept
    return result


def check_required(value: Mapping[str, Any], required: Iterable[str], prefix: str = "") -> None:
    """Raise InvalidValueError when a required attribute has no value."""
    for name in required:
        if name not in value:
            raise InvalidValueError(f"{prefix}{name} is required.")


def read_value(schema: ResourceSchema, path: ResolvedPath, value: Any, ignored: list[str]) -> Any:
    """Read the value of one attribute, sub-attribute or extension, as a whole document would be read.

    Returns:
        The value to keep; None when it is unassigned.

    Raises:
        InvalidValueError: The value is of another type than the attribute.
    """
    return None if entra.unassigned(value) else _reader_at(schema, path.canonical)(value, ignored)


@lru_cache(maxsize=4096)
def _reader_at(schema: ResourceSchema, canonical: str) -> Reader:
    path = schema.find(canonical)
    if path is None:
        raise InvalidPathError("The path names no attribute.")
    if path.sub_attribute is not None:
        return _single(schema, path.sub_attribute, path.canonical)
    if path.attribute is not None:
        return _reader(schema, path.attribute, path.canonical)
    if path.extension is None:
        raise InvalidPathError("The path names no attribute.")
    return _extension_reader(schema, path.extension)


def required_names(attributes: Mapping[str, Attribute]) -> tuple[str, ...]:
    """Return the names of the attributes that a client must give a value."""
    return tuple(item.name for item in attributes.values() if item.required and _is_kept(item))


def _is_kept(attribute: Attribute) -> bool:
    return attribute.mutability not in ("readOnly", "writeOnly") and attribute.returned != "never"


def _add(rules: Rules, attribute: Attribute, reader: Reader, plain: int) -> None:
    rules[attribute.name] = rules[attribute.name.lower()] = (attribute.name, reader, plain)


def _longest(schema: ResourceSchema, path: str) -> int:
    return MAX_KEY if (schema.urn, path) in _KEYS else MAX_STRING


def _plain(schema: ResourceSchema, attribute: Attribute, path: str) -> int:
    """Return up to which length any string is a value of the attribute, -1 if there is more to it."""
    plain = (
        attribute.type in ("string", "reference")
        and not attribute.multi_valued
        and _is_kept(attribute)
        and path not in _PREPARED
        and (schema.urn, path) not in _ONE_LINE
    )
    return _longest(schema, path) if plain else -1


def _reader(schema: ResourceSchema, attribute: Attribute, path: str) -> Reader:
    if not _is_kept(attribute):
        # A password is taken and dropped without a word; it is Entra's to keep, not ours.
        return _dropped if attribute.mutability == "writeOnly" else _noted(path)
    single = _single(schema, attribute, path)
    return _list(single, path, is_complex=attribute.type == "complex") if attribute.multi_valued else single


def _single(schema: ResourceSchema, attribute: Attribute, path: str) -> Reader:
    reader: Reader
    if attribute.type == "complex":
        reader = _complex(schema, attribute, path)
    elif attribute.type in ("string", "reference"):
        reader = _string(path, _longest(schema, path), one_line=(schema.urn, path) in _ONE_LINE)
    else:
        reader = _SIMPLE[attribute.type](path)
    prepare = _PREPARED.get(path)
    if prepare is None:
        return reader

    def prepared(value: Any, ignored: list[str]) -> Any:
        value = prepare(value)
        return None if value is None else reader(value, ignored)

    return prepared


def _extension_reader(schema: ResourceSchema, extension: Extension) -> Reader:
    prefix = f"{extension.urn}:"
    return _object(schema, extension.attributes, extension.urn, prefix)


def _complex(schema: ResourceSchema, attribute: Attribute, path: str) -> Reader:
    return _object(schema, attribute.sub_attributes, path, f"{path}.")


def _object(schema: ResourceSchema, attributes: Mapping[str, Attribute], path: str, prefix: str) -> Reader:
    rules: Rules = {}
    for attribute in attributes.values():
        below = prefix + attribute.name
        _add(rules, attribute, _reader(schema, attribute, below), _plain(schema, attribute, below))
    required = required_names(attributes)

    def read(value: Any, ignored: list[str]) -> Any:
        if not isinstance(value, dict):
            raise _wrong(path, "an object", value)
        result = read_members(value, rules, ignored, prefix=prefix)
        if not result:
            return None
        check_required(result, required, prefix)
        return result

    return read


def _list(single: Reader, path: str, *, is_complex: bool) -> Reader:
    def read(value: Any, ignored: list[str]) -> Any:
        if not isinstance(value, list):
            if not (is_complex and isinstance(value, dict)):
                raise _wrong(path, "a list", value)
            value = [value]
        if len(value) > MAX_ITEMS:
            raise InvalidValueError(f"{path} has more than {MAX_ITEMS} values.")
        result = []
        primaries = 0
        index = 0
        try:
            for index, item in enumerate(value):  # noqa: B007 -- read after the loop, by the error
                kept = None if item is None else single(item, ignored)
                if kept is None:
                    continue
                result.append(kept)
                if is_complex and kept.get("primary") is True:
                    primaries += 1
        except InvalidValueError as error:
            raise InvalidValueError(f"{error.detail.removesuffix('.')} (value {index + 1}).") from None
        if primaries > 1:  # case 60, RFC 7643 §2.4
            raise InvalidValueError(f"{path} has {primaries} values with primary true; at most one may be.")
        return result or None

    return read


def _string(path: str, limit: int, *, one_line: bool) -> Reader:
    def read(value: Any, _ignored: list[str]) -> Any:
        if not isinstance(value, str):
            raise _wrong(path, "a string", value)
        if len(value) > limit:
            raise InvalidValueError(f"{path} is longer than {limit} characters.")
        if one_line and not value.isprintable() and _CONTROL.search(value):
            raise InvalidValueError(f"{path} has a control character such as a line break; remove it.")
        return value

    return read


def _boolean(path: str) -> Reader:
    def read(value: Any, _ignored: list[str]) -> Any:
        if value is True or value is False:
            return value
        known = entra.boolean(value)
        if known is None:
            raise _wrong(path, 'true or false, or the string "True" or "False"', value)
        return known

    return read


def _integer(path: str) -> Reader:
    def read(value: Any, _ignored: list[str]) -> Any:
        if not isinstance(value, int) or isinstance(value, bool):
            raise _wrong(path, "an integer", value)
        return value

    return read


def _decimal(path: str) -> Reader:
    def read(value: Any, _ignored: list[str]) -> Any:
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise _wrong(path, "a number", value)
        return value

    return read


def _date_time(path: str) -> Reader:
    def read(value: Any, _ignored: list[str]) -> Any:
        if not isinstance(value, str) or not _is_date_time(value):
            raise _wrong(path, "a date and time such as 2026-01-31T12:00:00Z", value)
        return value

    return read


def _is_date_time(value: str) -> bool:
    match = _DATE_TIME.fullmatch(value)
    if match is None:
        return False
    year, month, day, hour, minute, second = map(int, match.groups())
    try:
        datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return False
    return True


def _binary(path: str) -> Reader:
    def read(value: Any, _ignored: list[str]) -> Any:
        if not isinstance(value, str) or not _is_base64(value):
            raise _wrong(path, "a base64 string", value)
        if len(value) > MAX_STRING:
            raise InvalidValueError(f"{path} is longer than {MAX_STRING} characters.")
        return value

    return read


def _is_base64(value: str) -> bool:
    try:
        binascii.a2b_base64(value, strict_mode=True)
    except ValueError:
        return False
    return True


_SIMPLE: Final[Mapping[str, Callable[[str], Reader]]] = {
    "boolean": _boolean,
    "integer": _integer,
    "decimal": _decimal,
    "dateTime": _date_time,
    "binary": _binary,
}


def _schemas(value: Any, _ignored: list[str]) -> None:
    entra.check_schemas(value)


def _dropped(_value: Any, _ignored: list[str]) -> None:
    """Leave out what is not the client's to set and no news to it."""


def _noted(path: str) -> Reader:
    def read(_value: Any, ignored: list[str]) -> None:
        ignored.append(path)

    return read


def _wrong(path: str, expected: str, value: Any) -> InvalidValueError:
    return InvalidValueError(f"{path} must be {expected}, not {kind_of(value)}.")
