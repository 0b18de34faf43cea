"""Applies a PATCH to a document, in the RFC's dialect and in both of Entra's (RFC 7644 §3.5.2; entra-wire.md §5)."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from models.errors import (
    ClientError,
    InvalidPathError,
    InvalidValueError,
    MutabilityError,
    NoTargetError,
    TooLargeError,
)
from models.scim import entra
from models.scim.diff import net_diff
from models.scim.json import kind_of
from models.scim.patch_list import add_elements, is_shell, keep_one_primary, primaries, without
from models.scim.patch_path import Operation, Target, Unknown, eq_terms, read_operations, resolve
from models.scim.reader import MAX_ITEMS, read_value
from models.scim.schema import ResolvedPath, compare_key

if TYPE_CHECKING:
    from collections.abc import Iterable

    from models.scim.schema import Attribute, ResourceSchema

_HOLDERS = (dict, list)  # a union made at each look costs more than the look
_MAX_IGNORED = 100
_MAX_NAME = 200
_MAX_WORK = 300_000  # elements looked at; keeps one request under about a second
# What Entra renames a user to when it is deleted softly: its object id in front of the name.
_TOMBSTONE = re.compile(r"[0-9a-f]{32}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Patched:
    """The outcome of a PATCH."""

    doc: dict[str, Any]
    """The new document; equal to the old one when nothing changed."""
    changed: bool
    """Whether the two differ in more than the order of values."""
    ignored: tuple[str, ...]
    """Names of attributes that were left out: unknown to the schema, or not the client's to set."""


def apply_patch(doc: dict[str, Any], body: Any, schema: ResourceSchema, *, max_operations: int = 1000) -> Patched:
    """Apply the body of a PATCH to a document, which itself stays as it is.

    Where the RFC and Entra pull apart, both are served: ``add`` and ``replace`` on selected elements that do not
    exist create them from a filter of nothing but ``eq``; ``remove`` with a value beside the path removes those
    values; null and an empty string unassign; unknown attributes are left out and named; of two elements marked
    primary the newer is. The userName that Entra gives to a softly deleted user is not taken (entra-cases.md 115).

    Args:
        doc: As ``read_user`` or ``read_group`` made it.
        body: The parsed JSON body.
        schema: The resource type, with the tenant's extensions.
        max_operations: How many operations are taken.

    Raises:
        InvalidSyntaxError: The body is not a PATCH request.
        TooLargeError: It has too many operations.
        InvalidPathError, InvalidFilterError, NoTargetError, InvalidValueError, MutabilityError: An operation cannot
            be carried out; the detail says which. Nothing is applied then.
    """
    return apply_operations(doc, read_operations(body, max_operations=max_operations), schema)


def apply_operations(doc: dict[str, Any], operations: Iterable[Operation], schema: ResourceSchema) -> Patched:
    """Apply operations to a document; the part of ``apply_patch`` that comes after reading the body."""
    patch = _Patch(orjson.loads(orjson.dumps(doc)), schema)
    for number, operation in enumerate(operations, 1):
        try:
            patch.apply(operation)
        except ClientError as error:
            raise type(error)(f"Operation {number} ({operation.op}): {error.detail}") from error
    patch.finish()
    names = tuple(dict.fromkeys(name[:_MAX_NAME] for name in patch.ignored))[:_MAX_IGNORED]
    if patch.doc == doc or not net_diff(doc, patch.doc, schema):
        return Patched(orjson.loads(orjson.dumps(doc)), False, names)
    return Patched(patch.doc, True, names)


class _Patch:
    """A document while it is patched."""

    def __init__(self, doc: dict[str, Any], schema: ResourceSchema) -> None:
        self.doc = doc
        self.schema = schema
        self.ignored: list[str] = []
        self.user_name = doc.get("userName")
        self.work = 0

    def apply(self, operation: Operation) -> None:
        target = resolve(self.schema, operation.path)
        if operation.op == "remove":
            if operation.path is None:
                raise NoTargetError("A path is needed.")
            if isinstance(target, Target):
                self._remove(target, operation.value)
        elif not operation.has_value:
            raise InvalidValueError("A value is needed.")
        elif isinstance(target, Target):
            self._write(target, operation.value, overwrite=operation.op == "replace")
        if isinstance(target, Unknown):
            self.ignored.append(target.name)

    def finish(self) -> None:
        """Bring the document into the form in which a whole one would have been read."""
        for name, value in list(self.doc.items()):
            if isinstance(value, _HOLDERS):
                # An extension that the tenant has no longer would be dropped from a whole document too.
                if name.startswith("urn:") and name.lower() not in self.schema.extensions:
                    del self.doc[name]
                else:
                    _drop_empty(self.doc, name, value)
        urns = [extension.urn for extension in self.schema.extensions.values()]
        self.doc["schemas"] = entra.present_schemas(self.schema.urn, urns, self.doc)

    def _write(self, target: Target, value: Any, *, overwrite: bool) -> None:
        path = target.path
        if path.attribute is None:
            self._write_object(path, value, overwrite=overwrite)
        elif not self._is_writable(path, value):
            return
        elif path.attribute.multi_valued:
            self._write_list(target, path.attribute, value, overwrite=overwrite)
        elif path.sub_attribute:
            self._write_sub_attribute(path, path.attribute, path.sub_attribute, value)
        elif path.attribute.type == "complex":
            self._write_complex(path, path.attribute, value)
        else:
            self._assign(self._holder(path), path.attribute, path, self._read(path, value))

    def _write_object(self, path: ResolvedPath, value: Any, *, overwrite: bool) -> None:
        """Write the attributes of the resource or of an extension; those not mentioned stay."""
        urn = path.extension.urn if path.extension else ""
        if urn and overwrite and value in (None, ""):
            self._remove(Target(path), None)
            return
        if not isinstance(value, dict):
            raise InvalidValueError(f"{urn or 'A value without a path'} must be an object, not {kind_of(value)}.")
        for name, item in value.items():
            if not urn and (name.lower() in entra.SERVER_OWNED or name.lower() == "schemas"):
                continue
            try:
                target = resolve(self.schema, f"{urn}:{name}" if urn else name)
            except InvalidPathError:
                target = Unknown(name)
            if isinstance(target, Unknown) or not name:
                self.ignored.append(name)
            else:
                self._write(target, item, overwrite=overwrite)

    def _write_complex(self, path: ResolvedPath, attribute: Attribute, value: Any) -> None:
        if not isinstance(value, dict) or "$ref" in attribute.sub_attributes:
            # What names another resource is one value: the old $ref must not stay beside a new id.
            self._assign(self._holder(path), attribute, path, self._read(path, value))
            return
        for name, item in value.items():
            sub = attribute.sub_attributes.get(name.lower())
            if sub is None or sub.mutability == "readOnly":
                self.ignored.append(f"{path.canonical}.{name}")
            else:
                self._write_sub_attribute(replace(path, sub_attribute=sub), attribute, sub, item)

    def _write_sub_attribute(self, path: ResolvedPath, attribute: Attribute, sub: Attribute, value: Any) -> None:
        parent = self._holder(path).setdefault(attribute.name, {})
        kept = self._read(path, value)
        if sub.name == "value" and "$ref" in attribute.sub_attributes and kept != parent.get("value"):
            parent.clear()
        self._assign(parent, sub, path, kept)

    def _write_list(self, target: Target, attribute: Attribute, value: Any, *, overwrite: bool) -> None:
        path = target.path
        elements = self._elements(target, attribute)
        before = primaries(elements)
        if target.matches or path.sub_attribute:
            self._write_elements(target, attribute, elements, value)
        else:
            simple = attribute.type != "complex" and value not in (None, "") and not isinstance(value, list)
            kept = self._read(path, [value] if simple else value)
            if overwrite:
                self._assign(self._holder(path), attribute, path, kept)
                return
            add_elements(elements, kept or [], attribute)
        if len(elements) > MAX_ITEMS:
            raise InvalidValueError(f"{path.canonical} has more than {MAX_ITEMS} values.")
        keep_one_primary(elements, before, path.canonical)

    def _write_elements(self, target: Target, attribute: Attribute, elements: list[Any], value: Any) -> None:
        """Write to the selected elements, or to one made from the filter when there are none."""
        clears = entra.unassigned(value) or value == ""
        chosen = [number for number, element in enumerate(elements) if not target.matches or target.matches(element)]
        created = not chosen
        if created:
            if clears:
                return
            elements.append(self._described(target, attribute))
            chosen = [len(elements) - 1]
        if clears and not target.path.sub_attribute:
            elements[:] = [element for number, element in enumerate(elements) if number not in chosen]
            return
        for number in chosen:
            if attribute.type == "complex":
                self._write_element(target.path, attribute, elements[number], value)
            else:
                elements[number] = self._read(target.path, [value])[0]
        if created and target.matches and not target.matches(elements[-1]):
            raise InvalidValueError(f"The value of {target.path.canonical} contradicts the filter in the path.")
        if clears:
            written = set(chosen)
            elements[:] = [each for number, each in enumerate(elements) if number not in written or not is_shell(each)]

    def _write_element(self, path: ResolvedPath, attribute: Attribute, element: dict[str, Any], value: Any) -> None:
        if path.sub_attribute or not isinstance(value, dict | list):
            value = {path.sub_attribute.name if path.sub_attribute else "value": value}
        elif isinstance(value, list) and len(value) == 1:
            value = value[0]
        if attribute.name == "roles":
            value = entra.role(value)
        if not isinstance(value, dict):
            raise InvalidValueError(f"A value of {path.canonical} must be an object, not {kind_of(value)}.")
        for name, item in value.items():
            sub = attribute.sub_attributes.get(name.lower())
            if sub is None or sub.mutability == "readOnly":
                self.ignored.append(f"{attribute.name}.{name}")
            else:
                sub_path = replace(path, sub_attribute=sub)
                self._assign(element, sub, sub_path, self._read(sub_path, item))

    def _described(self, target: Target, attribute: Attribute) -> Any:
        """Return the element that a filter describes (entra-wire.md §5.2)."""
        terms = eq_terms(target.condition) if target.condition else {}
        if terms is None:
            raise NoTargetError(f"No value of {target.path.canonical} matches the filter.")
        if attribute.type != "complex":
            return terms.get("value")
        subs = [(attribute.sub_attributes[name.lower()], value) for name, value in terms.items()]
        read = {sub.name: self._read(replace(target.path, sub_attribute=sub), value) for sub, value in subs}
        return {name: value for name, value in read.items() if value is not None}

    def _remove(self, target: Target, value: Any) -> None:
        path, attribute, sub = target.path, target.path.attribute, target.path.sub_attribute
        if attribute is None:
            if path.extension is None:
                raise NoTargetError("The resource as a whole cannot be removed so.")
            if any(each.required for each in path.extension.attributes.values()):
                raise MutabilityError(f"{path.extension.urn} has a required attribute and cannot be removed.")
            self.doc.pop(path.extension.urn, None)
        elif path.canonical == "schemas":
            raise MutabilityError("schemas is required and cannot be unassigned.")
        elif not self._is_writable(path, None):
            return
        elif attribute.multi_valued:
            self._remove_elements(target, attribute, value)
        elif sub:
            parent = self._holder(path).setdefault(attribute.name, {})
            self._assign(parent, sub, path, None)
        else:
            self._assign(self._holder(path), attribute, path, None)

    def _remove_elements(self, target: Target, attribute: Attribute, value: Any) -> None:
        path, sub = target.path, target.path.sub_attribute
        elements = self._elements(target, attribute)
        if sub:
            chosen = [element for element in elements if not target.matches or target.matches(element)]
            for element in chosen:
                self._assign(element, sub, path, None)
            elements[:] = [each for each in elements if not (is_shell(each) and any(each is one for one in chosen))]
            return
        if target.matches:
            left = [element for element in elements if not target.matches(element)]
        elif value is None:
            left = []
        else:
            left = without(elements, value, attribute)
        if left or not elements:
            elements[:] = left
        else:
            self._assign(self._holder(path), attribute, path, None)

    def _is_writable(self, path: ResolvedPath, value: Any) -> bool:
        """Tell whether a value may be written; one that is taken and never kept may not."""
        for part in (path.attribute, path.sub_attribute):
            if part and part.mutability == "readOnly":
                raise MutabilityError(f"{path.canonical} is read-only.")
            if part and (part.mutability == "writeOnly" or part.returned == "never"):
                return False
        if path.canonical == "schemas":  # follows from what the document holds
            entra.check_schemas(value)
            return False
        return True

    def _read(self, path: ResolvedPath, value: Any) -> Any:
        """Return a value as it is kept, None when it unassigns (entra-cases.md 79)."""
        target = path.sub_attribute or path.attribute
        if value == "" and target and target.type != "boolean":
            return None
        return read_value(self.schema, path, value, self.ignored)

    def _assign(self, holder: dict[str, Any], attribute: Attribute, path: ResolvedPath, value: Any) -> None:
        old = holder.get(attribute.name)
        if attribute.mutability == "immutable" and old is not None and old != value:
            raise MutabilityError(f"{path.canonical} has a value and cannot be changed.")
        if value is None:
            if attribute.required:
                raise MutabilityError(f"{path.canonical} is required and cannot be unassigned.")
            holder.pop(attribute.name, None)
        elif path.canonical == "userName" and self._is_tombstone(value):
            self.ignored.append("userName")
        elif attribute.required and attribute.type == "string" and not value.strip():
            raise InvalidValueError(f"{path.canonical} must not be blank.")
        else:
            holder[attribute.name] = value

    def _is_tombstone(self, user_name: str) -> bool:
        known = self.user_name and compare_key(user_name[32:]) == compare_key(self.user_name)
        return bool(known and _TOMBSTONE.fullmatch(user_name[:32]))

    def _holder(self, path: ResolvedPath) -> dict[str, Any]:
        holder: dict[str, Any] = self.doc.setdefault(path.extension.urn, {}) if path.extension else self.doc
        return holder

    def _elements(self, target: Target, attribute: Attribute) -> list[Any]:
        elements: list[Any] = self._holder(target.path).setdefault(attribute.name, [])
        self.work += len(elements) * target.cost
        if self.work > _MAX_WORK:
            raise TooLargeError("The PATCH has too many operations on lists of too many values.")
        return elements


def _drop_empty(holder: dict[str, Any], name: str, value: dict[str, Any] | list[Any]) -> None:
    if isinstance(value, dict):
        for inner_name, inner in list(value.items()):
            if isinstance(inner, _HOLDERS):
                _drop_empty(value, inner_name, inner)
    if not value:
        del holder[name]
