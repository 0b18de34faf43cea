"""Replaces a document by another (RFC 7644 §3.5.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.errors import MutabilityError
from models.scim import entra
from models.scim.diff import net_diff
from models.scim.patch import Patched

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.scim.document import UserDocument
    from models.scim.schema import Attribute, ResourceSchema


def apply_put(doc: dict[str, Any], new: UserDocument, schema: ResourceSchema) -> Patched:
    """Return what becomes of ``doc`` when ``new`` replaces it; neither is changed.

    What the new document leaves out is unassigned. Two things stay as they are: an immutable attribute that has a
    value, and ``active``, so that a client that does not speak of it lets nobody in again who was shut out.

    Raises:
        MutabilityError: an immutable attribute has another value.
    """
    after = dict(new.doc)
    after.setdefault("active", doc.get("active", True))
    _keep_immutable(doc, after, schema.attributes, "")
    for extension in schema.extensions.values():
        old = doc.get(extension.urn)
        if old:
            inner = dict(after.get(extension.urn, {}))
            _keep_immutable(old, inner, extension.attributes, f"{extension.urn}:")
            if inner:
                after[extension.urn] = inner
    urns = [extension.urn for extension in schema.extensions.values()]
    after["schemas"] = entra.present_schemas(schema.urn, urns, after)
    if not net_diff(doc, after, schema):
        return Patched(doc, False, new.ignored)
    return Patched(after, True, new.ignored)


def _keep_immutable(
    old: Mapping[str, Any], new: dict[str, Any], attributes: Mapping[str, Attribute], prefix: str
) -> None:
    for attribute in attributes.values():
        if attribute.mutability != "immutable" or attribute.name not in old:
            continue
        value = old[attribute.name]
        if new.setdefault(attribute.name, value) != value:
            raise MutabilityError(f"{prefix}{attribute.name} has a value and cannot be changed.")
