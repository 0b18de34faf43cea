"""What is sent for a group, and what must come back (entra-wire.md §7)."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from cli.simulate.people import run_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cli.simulate.changes import Doc, Spoken

GROUP = "urn:ietf:params:scim:schemas:core:2.0:Group"
MICROSOFT_GROUP = "http://schemas.microsoft.com/2006/11/ResourceManagement/ADSCIM/2.0/Group"

_NAMES = ("Sales EMEA", "Účetní", "Research (EU)", "Équipe nº 1", "Zażółć", "営業部", "Legal, Risk")


@dataclass(slots=True, eq=False)
class Group:
    """A group as the simulation knows it.

    Attributes:
        number: its place in the directory.
        id: the server's, once it is created.
        meta: as last answered.
        members: ids of those who must be its members.
    """

    number: int
    display_name: str
    external_id: str
    id: str = ""
    meta: dict[str, Any] = field(default_factory=dict)
    members: set[str] = field(default_factory=set)

    @property
    def expected(self) -> Doc:
        """What the resource must hold beside ``id``, ``meta`` and ``members``."""
        return {"schemas": [GROUP], "externalId": self.external_id, "displayName": self.display_name}

    @property
    def match(self) -> str:
        """The filter by which Entra looks for the group."""
        return f'displayName eq "{self.display_name}"'

    @property
    def other_case(self) -> str:
        """The same filter in another letter case."""
        return f'displayName eq "{self.display_name.swapcase()}"'

    def body(self) -> Doc:
        """Return the create: without members, and in turn with Microsoft's schema or an empty list of members."""
        doc: Doc = {
            "schemas": [GROUP],
            "externalId": self.external_id,
            "displayName": self.display_name,
            "meta": {"resourceType": "Group"},
        }
        return doc | ({"members": []} if self.number % 2 else {"schemas": [GROUP, MICROSOFT_GROUP]})

    def path(self) -> str:
        """Return the address below the Tenant URL."""
        return f"/Groups/{quote(self.id, safe='')}"


def groups(seed: int, count: int) -> list[Group]:
    """Return the first ``count`` groups of the directory of ``seed``."""
    run = run_id(seed)
    return [
        Group(
            number=number,
            display_name=f"{_NAMES[number % len(_NAMES)]} {number} {run}",
            external_id=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{run}/groups/{number}")),
        )
        for number in range(count)
    ]


def add_members(ids: Iterable[str], dialect: Spoken) -> list[Doc]:
    """Return the operations that add members: in both dialects one, with the case of its verb apart."""
    verb = "Add" if dialect == "legacy" else "add"
    return [{"op": verb, "path": "members", "value": [{"$ref": None, "value": each} for each in ids]}]


def remove_members(ids: Iterable[str], dialect: Spoken) -> list[Doc]:
    """Return the operations that remove members: legacy lists them as a value, compliant selects each by a filter."""
    if dialect == "legacy":
        return [{"op": "Remove", "path": "members", "value": [{"$ref": None, "value": each} for each in ids]}]
    return [{"op": "remove", "path": f'members[value eq "{each}"]'} for each in ids]


def rename(name: str, dialect: Spoken, *, whole: bool) -> list[Doc]:
    """Return the operation that renames a group, by its path or (``whole``, compliant only) in an object."""
    if dialect == "legacy":
        return [{"op": "Replace", "path": "displayName", "value": name}]
    if whole:
        return [{"op": "replace", "value": {"displayName": name}}]
    return [{"op": "replace", "path": "displayName", "value": name}]
