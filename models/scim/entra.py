"""How Microsoft Entra departs from the letter of SCIM, one tolerance a function.

"Case 51" is the number in the reference of interoperability cases, "wire §4" a section of the reference of
Entra's requests. None of these touches what was legal in the first place, but for role values that begin with
``{``, and each gives the same when it is applied again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

from models.errors import ClientError, InvalidValueError
from models.scim import json
from models.scim.schema import ENTERPRISE_URN

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from models.scim.schema import ResolvedPath, ResourceSchema

T = TypeVar("T")

SERVER_OWNED: Final = frozenset({"id", "meta"})
"""What clients send and only the server sets; taken without a word (case 53, wire §4)."""

MISPLACED: Final[Mapping[str, str]] = {"department": ENTERPRISE_URN, "manager": ENTERPRISE_URN}
"""What arrives beside its extension instead of inside it, by lower-case name, with the extension it belongs to.

Microsoft's own examples do so: on create with null, on PATCH with a manager (wire §4, §5.3 form 3).
"""

_BOOLEANS: Final = {"True": True, "true": True, "False": False, "false": False}
_ROLE_DEPTH: Final = 4


def find(schema: ResourceSchema, path: str) -> ResolvedPath | None:
    """Return what an attribute path names, also one that leaves out the extension (wire §5.3 form 3; case 33)."""
    if found := schema.find(path):
        return found
    urn = any_case(MISPLACED, path.partition(".")[0])
    return schema.find(f"{urn}:{path}") if urn else None


def boolean(value: Any) -> bool | None:
    """Read ``active`` or ``primary`` sent as a string (cases 51, 52, 63 and 64; wire §4).

    Returns:
        The boolean; None when the value is not one. ``"0"``, ``"no"`` and ``""`` are not, and a non-empty
        string is not true: ``"False"`` disables.
    """
    return _BOOLEANS.get(value) if isinstance(value, str) else None


def any_case(entries: Mapping[str, T], name: str) -> T | None:
    """Find what belongs to an attribute name in any letter case (case 52, wire §5.1 rule 8).

    Args:
        entries: By lower-case name.
        name: The attribute name as it was sent.
    """
    return entries.get(name.lower())


def unassigned(value: Any) -> bool:
    """Tell null, an empty list and an empty object, none of which is a value (case 48, RFC 7643 §2.5)."""
    return value is None or (not value and isinstance(value, (list, dict)))


def check_schemas(value: Any) -> None:
    """Check the form of ``schemas`` and nothing more (cases 49 and 50; wire §4, §7).

    Entra lists URIs that are foreign or misspelt and leaves out those of extensions that it sends, so what a
    document holds is told by its attributes and not by this list.

    Raises:
        InvalidValueError: It is not a list of strings.
    """
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidValueError("schemas must be a list of strings.")


def present_schemas(core: str, extensions: Collection[str], document: Mapping[str, Any]) -> list[str]:
    """Return the exact ``schemas``: the core schema and each extension that the document holds (case 49)."""
    return [core, *(urn for urn in extensions if urn in document)]


def manager(value: Any) -> Any:
    """Bring a manager into the form ``{"value": id}`` (cases 87 and 88; wire §5.3).

    It is sent as a bare id, as an object, as a list of one object, and as an empty string to unassign it.

    Returns:
        An object; None when it is unassigned; anything else as it was sent, for the type check to refuse.

    Raises:
        InvalidValueError: A list names several managers.
    """
    if isinstance(value, list):
        if len(value) > 1:
            raise InvalidValueError(f"{ENTERPRISE_URN}:manager takes one value, not {len(value)}.")
        value = value[0] if value else None
    if isinstance(value, str):
        value = {"value": value}
    if isinstance(value, dict) and any(name.lower() == "value" and item == "" for name, item in value.items()):
        return None
    return value


def role(value: Any) -> Any:
    """Bring a role into SCIM's form (case 91; wire §5.4).

    On PATCH in the legacy dialect the whole role is a JSON text inside ``value``, with ``id``, ``value`` and
    ``displayName``; on POST ``display`` is called ``displayName``. ``display`` wins when both are there.

    Returns:
        The role as an object; anything else as it was sent, for the type check to refuse.

    Raises:
        InvalidValueError: The text in ``value`` begins with ``{`` and is not a role.
    """
    if not isinstance(value, dict):
        return value
    names = {name.lower(): name for name in value}
    text = value.get(names.get("value", ""))
    packed = text if isinstance(text, str) and text.startswith("{") else None
    if packed is None and "displayname" not in names:
        return value
    result = {name: item for name, item in value.items() if name.lower() != "displayname"}
    alias = value.get(names.get("displayname", ""))
    if packed is not None:
        inner = _unpacked(packed)
        result[names["value"]] = inner["value"]
        alias = alias or inner.get("displayName") or inner.get("display")
    if alias is not None and value.get(names.get("display", "")) is None:
        result[names.get("display", "display")] = alias
    return result


def _unpacked(text: str) -> dict[str, Any]:
    try:
        inner = json.object_body(text.encode("utf-8", "surrogatepass"), max_depth=_ROLE_DEPTH)
    except ClientError as error:
        raise InvalidValueError("roles.value begins with { but is not a JSON object.") from error
    value = inner.get("value")
    if not isinstance(value, str) or not value or value.startswith("{"):
        raise InvalidValueError("roles.value is a JSON object without the name of a role in its value.")
    return inner
