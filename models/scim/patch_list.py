"""The values of a multi-valued attribute under PATCH: which are the same, which is primary (RFC 7644 §3.5.2).

A value is told by its ``value`` and, where both have one, its ``type``; a list may not hold the same pair twice
(RFC 7643 §2.4). Of a value without ``value``, all of it counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.errors import InvalidValueError
from models.scim import entra
from models.scim.filter_match import comparable

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from models.scim.schema import Attribute

_LABELS = frozenset({"type", "primary"})
_MAX_LOOSE = 100


def add_elements(elements: list[Any], new: Sequence[Any], attribute: Attribute) -> None:
    """Add values to a list; one that is there already takes on what the new one says differently.

    Entra's legacy dialect adds the same role again and again, without the type that it had on create.

    Args:
        elements: The list, which is changed.
        new: Values as ``read_value`` returns them.
        attribute: What they are values of.
    """
    known: dict[Hashable, dict[Hashable, Any]] = {}
    for element in elements:
        known.setdefault(_key(attribute, element), {}).setdefault(_type(attribute, element), element)
    for element in new:
        same = known.setdefault(_key(attribute, element), {})
        kind = _type(attribute, element)
        present = same.get(kind)
        if present is None and same:
            present = next(iter(same.values())) if kind is None else same.get(None)
        if present is None:
            elements.append(element)
            same[kind] = element
        elif isinstance(present, dict):
            present.update(
                {name: value for name, value in element.items() if not _equal(attribute, name, present, value)}
            )


def without(elements: Sequence[Any], descriptions: Any, attribute: Attribute) -> list[Any]:
    """Return the values that none of those beside a ``remove`` means (entra-cases.md 93).

    Of a description without ``value``, all that is given must agree. Null says nothing: Entra sends ``"$ref": null``.

    Args:
        elements: The list, which stays as it is.
        descriptions: What stood beside the path: objects or plain values, or one of them.
        attribute: What they are values of.

    Raises:
        InvalidValueError: Too many descriptions are without ``value``.
    """
    types: dict[Hashable, set[Hashable]] = {}
    loose: list[dict[str, Any]] = []
    for one in descriptions if isinstance(descriptions, list) else [descriptions]:
        described = _description(attribute, one)
        if "value" in described:
            types.setdefault(_key(attribute, described), set()).add(_type(attribute, described))
        elif described:
            loose.append(described)
    if len(loose) > _MAX_LOOSE:
        raise InvalidValueError(f"{attribute.name}: name the values to remove by their value.")

    def is_meant(element: Any) -> bool:
        kinds = types.get(_key(attribute, element))
        if kinds and (None in kinds or _type(attribute, element) in {None, *kinds}):
            return True
        return any(all(_equal(attribute, name, element, value) for name, value in one.items()) for one in loose)

    return [element for element in elements if not is_meant(element)]


def is_shell(element: Any) -> bool:
    """Tell whether nothing is left of an element but what labels it."""
    return isinstance(element, dict) and element.keys() <= _LABELS


def primaries(elements: Sequence[Any]) -> list[int]:
    """Return the identities of the elements that are marked primary."""
    return [id(element) for element in elements if isinstance(element, dict) and element.get("primary") is True]


def keep_one_primary(elements: Sequence[Any], before: Sequence[int], path: str) -> None:
    """Unmark what was primary before when something else has become so (entra-cases.md 60).

    Args:
        elements: The elements after an operation.
        before: What ``primaries`` said before it.
        path: The attribute, for the error.

    Raises:
        InvalidValueError: One operation marked several.
    """
    marked = [identity for identity in primaries(elements) if identity not in before]
    if len(marked) > 1:
        raise InvalidValueError(f"{path}: only one value may be primary.")
    for element in elements if marked else ():
        if id(element) != marked[0] and element.get("primary") is True:
            element["primary"] = False


def _description(attribute: Attribute, given: Any) -> dict[str, Any]:
    """Return what is said of an element, by the names that the schema has."""
    if attribute.name == "roles":
        given = entra.role(given)
    if not isinstance(given, dict):
        return {"value": given}
    subs = {name.lower(): value for name, value in given.items() if value is not None}
    return {
        attribute.sub_attributes[name].name if name in attribute.sub_attributes else name: subs[name] for name in subs
    }


def _key(attribute: Attribute, element: Any) -> Hashable:
    """Return what is equal for elements that are the same, whatever their type."""
    value = element.get("value") if isinstance(element, dict) else element
    if value is None:
        return frozenset(
            (name, repr(comparable(attribute.sub_attributes[name.lower()], element[name]))) for name in element
        )
    if isinstance(value, dict | list):
        return object()
    key: Hashable = comparable(attribute.sub_attributes.get("value", attribute), value)
    return key


def _type(attribute: Attribute, element: Any) -> Hashable:
    sub = attribute.sub_attributes.get("type")
    value = element.get("type") if sub and isinstance(element, dict) else None
    return comparable(sub, value) if sub and isinstance(value, str) else None


def _equal(attribute: Attribute, name: str, element: Any, value: Any) -> bool:
    sub = attribute.sub_attributes.get(name.lower())
    return bool(sub and isinstance(element, dict) and comparable(sub, element.get(sub.name)) == comparable(sub, value))
