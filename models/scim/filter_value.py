"""One value against one operand, as SQL: the comparison operators of RFC 7644 §3.4.2.2 for each type."""

from __future__ import annotations

import base64
import re
import unicodedata
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from scim2_models.path import ORDERING_OPERATORS, STRING_OPERATORS, CompareOperator

from models.errors import InvalidFilterError

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.scim.schema import Attribute

Kind = Literal["json", "text", "uuid", "timestamptz"]
NEVER = "FALSE"
_SIGNS = {"eq": "=", "gt": ">", "ge": ">=", "lt": "<", "le": "<="}
LEAF = '.** ? (@.type() == "number" || @.type() == "boolean" || (@.type() == "string" && @ != ""))'

# An xsd:dateTime (RFC 7643 §2.3.5) that PostgreSQL can read, except that the day may be beyond the month's end.
_DATE_TIME = (
    r"(?!0000)[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])"
    r"T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,30})?"
    r"(?:Z|[+-](?:0[0-9]|1[0-3]):[0-5][0-9]|[+-]14:00)?"
)


@dataclass(frozen=True, slots=True)
class Operand:
    """A single value of a row or document that can be compared."""

    attribute: Attribute
    path: str
    """As an error names it."""
    sql: str
    kind: Kind = "json"
    """What ``sql`` yields."""

    @property
    def text(self) -> str:
        """Return SQL for the value as text, NULL when there is none."""
        return {"json": f"({self.sql} #>> '{{}}')", "uuid": f"({self.sql})::text"}.get(self.kind, self.sql)

    @property
    def absent(self) -> str:
        """Return SQL that is true when there is no value: missing and null are the same (RFC 7643 §2.5)."""
        if self.kind == "json":
            return f"COALESCE(jsonb_typeof({self.sql}), 'null') = 'null'"
        return f"{self.sql} IS NULL"

    @property
    def present(self) -> str:
        """Return SQL for ``pr``: a value that is neither null nor empty."""
        if self.kind == "json":
            return f"jsonb_path_exists({self.sql}, '${LEAF}')"
        return f"{self.sql} <> ''" if self.kind == "text" else f"{self.sql} IS NOT NULL"


def literal(text: str) -> str:
    """Return ``text`` as an SQL literal; only names from the schema registry come here."""
    return "'" + text.replace("'", "''") + "'"


def operand_value(attribute: Attribute, path: str, op: CompareOperator, value: Any) -> Any:
    """Return the filter's value in the form of the attribute's type.

    Args:
        attribute: What is compared; not complex.
        path: Its name for the error.
        op: The operator, which the type must know.
        value: The JSON value of the filter.

    Raises:
        InvalidFilterError: The type does not know the operator, or the value is of another type.
    """
    strings = attribute.type in ("string", "reference")
    if (op in ORDERING_OPERATORS and attribute.type in ("boolean", "binary")) or (
        op in STRING_OPERATORS and not strings
    ):
        raise InvalidFilterError(
            f"The operator {op.value} cannot be used on {path}, which is of type {attribute.type}."
        )
    if value is None:
        return None
    try:
        return _READERS[attribute.type](value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidFilterError(f"{path} must be compared with a value of type {attribute.type}.") from error


def compare(operand: Operand, op: CompareOperator, value: Any, param: Callable[[str, Any], str]) -> str:
    """Return SQL that is true when the operator holds; it may be NULL where it does not.

    Args:
        operand: The left side.
        op: Any operator but ``ne``, which is the negation of ``eq``, absent values included.
        value: What ``operand_value`` returned.
        param: Takes the SQL type and the value of a parameter and returns its placeholder.
    """
    if value is None:
        return operand.absent if op is CompareOperator.eq else NEVER
    match operand.attribute.type:
        case "boolean":
            return f"{operand.sql} = '{str(value).lower()}'::jsonb"
        case "integer" | "decimal":
            number = f"CASE jsonb_typeof({operand.sql}) WHEN 'number' THEN {operand.text}::numeric END"
            return f"({number}) {_SIGNS[op]} {param('text', str(value))}::numeric"
        case "dateTime":
            moment = operand.sql if operand.kind == "timestamptz" else f"({moment_sql(operand.text)})"
            return f"{moment} {_SIGNS[op]} {param('timestamptz', value)}"
    if op is CompareOperator.eq and operand.kind == "uuid":
        return f"{operand.sql} = {param('uuid', uuid.UUID(value))}" if _is_uuid(value) else NEVER
    return _compare_text(operand, op, value, param)


def _compare_text(operand: Operand, op: CompareOperator, value: str, param: Callable[[str, Any], str]) -> str:
    if op is CompareOperator.eq and operand.kind == "text" and operand.attribute.case_exact:
        return f"{operand.sql} = {param('text', value)}"  # as it stands: this is what its index holds
    if operand.attribute.case_exact or operand.attribute.type == "binary":
        left = f"normalize({operand.text}, NFC)"
        right = param("text", unicodedata.normalize("NFC", value))
    else:
        left = f"usher_fold({operand.text})"
        right = f"usher_fold({param('text', value)})"
    match op:
        case CompareOperator.co:
            return f"strpos({left}, {right}) > 0"
        case CompareOperator.sw:
            return f"starts_with({left}, {right})"
        case CompareOperator.ew:
            return f"right({left}, length({right})) = {right}"
        case CompareOperator.eq:
            return f"{left} = {right}"
        case _:  # by code point, whatever the collation of the database
            return f'{left} COLLATE "C" {_SIGNS[op]} {right} COLLATE "C"'


def moment_sql(text: str) -> str:
    """Return SQL for the moment that the text is an xsd:dateTime of, NULL where it is none; UTC unless it says."""
    # A cast that fails would fail the whole query, so it only sees what it can read: the day is added afterwards.
    first = f"left({text}, 8) || '01' || substr({text}, 11)"
    zone = f"CASE WHEN {text} ~ '(Z|[+-][0-9]{{2}}:[0-9]{{2}})$' THEN '' ELSE 'Z' END"
    days = f"make_interval(hours => 24 * (substr({text}, 9, 2)::int - 1))"
    return f"CASE WHEN {text} ~ '^(?:{_DATE_TIME})$' THEN ({first} || {zone})::timestamptz + {days} END"


def _is_uuid(value: str) -> bool:
    try:
        return str(uuid.UUID(value)) == value
    except ValueError:
        return False


def _read_string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _read_boolean(value: Any) -> bool:
    # Entra's roles[primary eq "True"]: entra-wire.md §5.4.
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise TypeError
    return value


def _read_decimal(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return value


def _read_integer(value: Any) -> int:
    number = _read_decimal(value)
    if number != int(number):
        raise ValueError
    return int(number)


def _read_binary(value: Any) -> str:
    text = _read_string(value)
    base64.b64decode(text, validate=True)
    return text


def _read_date_time(value: Any) -> datetime:
    text = _read_string(value)
    if not re.fullmatch(_DATE_TIME, text):
        raise ValueError
    moment = datetime.fromisoformat(text)
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


_READERS: dict[str, Callable[[Any], Any]] = {
    "string": _read_string,
    "reference": _read_string,
    "boolean": _read_boolean,
    "decimal": _read_decimal,
    "integer": _read_integer,
    "binary": _read_binary,
    "dateTime": _read_date_time,
}
