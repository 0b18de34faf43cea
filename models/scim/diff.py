"""What differs between two states of a resource, by SCIM path.

It looks at the states only, so however a change was asked for, the same change has the same diff.
"""

from __future__ import annotations

import json
from functools import lru_cache
from json.encoder import encode_basestring
from operator import itemgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.scim.schema import ResourceSchema

_BY_TYPE = (("type",), ("type", "value"), ("value",))
_BY_VALUE = (("value",), ("type", "value"), ("type",))

Change = dict[str, Any]


def net_diff(before: Mapping[str, Any], after: Mapping[str, Any], schema: ResourceSchema) -> list[Change]:
    """Return the changes that lead from one document to the other, ordered by path.

    An element of a list is told by its ``type`` where the schema names types (there is one work e-mail), else by
    its ``value``. An element that comes or goes is one change; one that stays and differs has a change for each of
    its sub-attributes (``emails[type eq "work"].value``). Where elements cannot be told apart, and for lists of
    plain values, the list is one value. A mere change of order is none, and ``schemas`` follows from the rest.

    Args:
        before: The document as it was, with canonical names; empty for a create.
        after: The document as it is; empty for a delete.
        schema: The resource type.

    Returns:
        ``{"op": "add", "path": …, "after": …}``, ``{"op": "replace", "path": …, "before": …, "after": …}`` or
        ``{"op": "remove", "path": …, "before": …}``. The values are those of the documents, not copies.
    """
    differ = _Differ(_lists_by_type(schema))
    differ.objects(before, after, "")
    differ.changes.sort(key=itemgetter("path"))
    return differ.changes


@lru_cache(maxsize=64)
def _lists_by_type(schema: ResourceSchema) -> frozenset[str]:
    """Return the paths of the lists whose elements have types of a known set."""
    places = [("", schema.attributes), *((f"{each.urn}:", each.attributes) for each in schema.extensions.values())]
    return frozenset(
        f"{prefix}{attribute.name}"
        for prefix, attributes in places
        for attribute in attributes.values()
        if "type" in attribute.sub_attributes and attribute.sub_attributes["type"].canonical_values
    )


class _Differ:
    def __init__(self, by_type: frozenset[str]) -> None:
        self.by_type = by_type
        self.changes: list[Change] = []

    def objects(self, before: Mapping[str, Any], after: Mapping[str, Any], prefix: str) -> None:
        for name, new in after.items():
            old = before.get(name)
            if new != old and name != "schemas":
                if isinstance(new, str):
                    self._add(prefix + name, old, new)  # as nearly all, whatever it was
                else:
                    self._value(old, new, prefix, name)
        for name, old in before.items():
            if name not in after and name != "schemas":
                self._value(old, None, prefix, name)

    def _value(self, old: Any, new: Any, prefix: str, name: str) -> None:
        path = prefix + name
        known = old if new is None else new
        if isinstance(known, dict) and (old is None or isinstance(old, dict)):
            below = f"{path}:" if not prefix and ":" in name else f"{path}."  # only an extension's name is a URN
            self.objects(old or {}, new or {}, below)
        elif isinstance(known, list) and (old is None or isinstance(old, list)):
            self._lists(old or [], new or [], path)
        else:
            self._add(path, old, new)

    def _lists(self, before: list[Any], after: list[Any], path: str) -> None:
        for names in _BY_TYPE if path in self.by_type else _BY_VALUE:
            old_by_key, new_by_key = _by_identity(before, names), _by_identity(after, names)
            if old_by_key is None or new_by_key is None:
                continue
            for key, new in new_by_key.items():
                old = old_by_key.get(key)
                if old is None:
                    self._add(_element(path, names, key), None, new)
                elif old != new:
                    self.objects(old, new, f"{_element(path, names, key)}.")
            for key, old in old_by_key.items():
                if key not in new_by_key:
                    self._add(_element(path, names, key), old, None)
            return
        if sorted(map(_quote, before)) != sorted(map(_quote, after)):
            self._add(path, before or None, after or None)

    def _add(self, path: str, old: Any, new: Any) -> None:
        if old is None:
            self.changes.append({"op": "add", "path": path, "after": new})
        elif new is None:
            self.changes.append({"op": "remove", "path": path, "before": old})
        else:
            self.changes.append({"op": "replace", "path": path, "before": old, "after": new})


def _by_identity(elements: list[Any], names: tuple[str, ...]) -> dict[tuple[Any, ...], dict[str, Any]] | None:
    """Return the elements by what tells them apart, or None if that does not."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for element in elements:
        if not isinstance(element, dict):
            return None
        key = tuple([element.get(name) for name in names])
        if None in key or key in found:
            return None
        found[key] = element
    return found


def _element(path: str, names: tuple[str, ...], key: tuple[Any, ...]) -> str:
    terms = [f"{name} eq {_quote(part)}" for name, part in zip(names, key, strict=True)]
    return f"{path}[{' and '.join(terms)}]"


def _quote(value: Any) -> str:
    if isinstance(value, str):
        return encode_basestring(value)
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
