"""Which attributes of a resource an answer carries (RFC 7644 §3.9)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from models.scim.schema import Attribute, ResolvedPath, ResourceSchema

Tree = dict[str, Any]
"""Keys of a document; None below a key stands for its whole value, a tree for a part of it."""


@dataclass(frozen=True, slots=True)
class Projection:
    """A choice of attributes, ready to be applied to any number of resources."""

    keep: Tree | None
    """What is kept; None keeps everything."""
    drop: Tree
    """What is left out of that."""

    @classmethod
    def parse(cls, attributes: str | None, excluded: str | None, schema: ResourceSchema) -> Projection:
        """Read the ``attributes`` and ``excludedAttributes`` parameters.

        Names may be those of sub-attributes, carry a schema's URN, or be the URN of an extension; unknown ones
        are ignored. A parameter without any name in it counts as not given.

        Args:
            attributes: Comma-separated attribute paths to return, beside those that are always returned.
            excluded: Comma-separated attribute paths to leave out of what is returned by default.
            schema: What the paths are looked up in.

        Raises:
            InvalidValueError: Both parameters are given.
        """
        wanted, unwanted = _names(attributes), _names(excluded)
        if wanted and unwanted:
            raise InvalidValueError("attributes and excludedAttributes cannot be used together.")
        drop: Tree = {item.name: None for item in schema.attributes.values() if item.returned == "never"}
        if not wanted:
            for path in _found(unwanted, schema):
                _add_excluded(drop, path)
            return cls(None, drop)
        keep = _always(schema)
        for path in _found(wanted, schema):
            _put(keep, path.keys)
            if path.sub_attribute and path.attribute:
                for name in _always_names(path.attribute.sub_attributes):
                    _put(keep, (*path.keys[:-1], name))
        return cls(keep, drop)

    def includes(self, name: str) -> bool:
        """Tell whether anything of an attribute of the core schema can be in an answer.

        Args:
            name: The attribute as the schema spells it.
        """
        if self.keep is not None and name not in self.keep:
            return False
        return self.drop.get(name, {}) is not None

    def apply(self, resource: dict[str, Any]) -> dict[str, Any]:
        """Return the chosen part of a resource; the resource itself when that is all of it.

        Args:
            resource: A stored document with ``id`` and ``meta``. It is not changed.
        """
        if self.keep is not None:
            resource = _kept(resource, self.keep)
        if self.drop.keys().isdisjoint(resource):
            return resource
        return _without(resource, self.drop)


def project(
    resource: dict[str, Any], *, attributes: str | None, excluded: str | None, schema: ResourceSchema
) -> dict[str, Any]:
    """Return the part of one resource that a request asks for; for several, parse a `Projection` once.

    Raises:
        InvalidValueError: Both ``attributes`` and ``excluded`` are given.
    """
    return Projection.parse(attributes, excluded, schema).apply(resource)


def _names(parameter: str | None) -> list[str]:
    return [name for part in (parameter or "").split(",") if (name := part.strip())]


def _found(names: Iterable[str], schema: ResourceSchema) -> Iterator[ResolvedPath]:
    return (path for path in map(schema.find, names) if path is not None)


def _always(schema: ResourceSchema) -> Tree:
    tree: Tree = dict.fromkeys(_always_names(schema.attributes))
    for extension in schema.extensions.values():
        for name in _always_names(extension.attributes):
            _put(tree, (extension.urn, name))
    return tree


def _always_names(attributes: Mapping[str, Attribute]) -> Iterator[str]:
    return (item.name for item in attributes.values() if item.returned == "always")


def _add_excluded(drop: Tree, path: ResolvedPath) -> None:
    """Add what a path names to what is left out, but for any part of it that is always returned."""
    named = path.sub_attribute or path.attribute
    if named is not None:
        if named.returned == "always":
            return
        below = named.sub_attributes
    elif path.extension is not None:
        below = path.extension.attributes
    else:
        return
    if any(_always_names(below)):
        for item in below.values():
            if item.returned != "always":
                _put(drop, (*path.keys, item.name))
    else:
        _put(drop, path.keys)


def _put(tree: Tree, keys: tuple[str, ...]) -> None:
    for key in keys[:-1]:
        below = tree.setdefault(key, {})
        if below is None:
            return  # the whole is named already
        tree = below
    tree[keys[-1]] = None


def _kept(value: dict[str, Any], tree: Tree) -> dict[str, Any]:
    result = {}
    for key, item in value.items():
        if key not in tree:
            continue
        below = tree[key]
        part = item if below is None else _part(item, below, _kept)
        if below is None or part:
            result[key] = part
    return result


def _without(value: dict[str, Any], tree: Tree) -> dict[str, Any]:
    result = {}
    for key, item in value.items():
        if key not in tree:
            result[key] = item
        elif tree[key] is not None:
            part = _part(item, tree[key], _without)
            if part:
                result[key] = part
    return result


def _part(value: Any, tree: Tree, choose: Callable[[dict[str, Any], Tree], dict[str, Any]]) -> Any:
    """Apply a choice to a complex value or to each of several; what has nothing left goes."""
    if isinstance(value, list):
        return [part for item in value if (part := choose(item, tree))]
    return choose(value, tree)
