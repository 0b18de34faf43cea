"""What is sent for a person, in every shape that Entra is known to use, and what must come back.

The shapes follow entra-wire.md §4 and entra-cases.md C. ``returned`` is this client's own reading of how a server
may normalise a create; it shares no code with the server, so that it can judge it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from cli.simulate.people import Person

Dialect = Literal["legacy", "compliant", "mixed"]

USER = "urn:ietf:params:scim:schemas:core:2.0:User"
ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"
MISSPELT_ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0User"
CUSTOM = "urn:ietf:params:scim:schemas:extension:Contoso:2.0:User"

SHAPES = ("default", "four", "nulls", "undeclared", "custom", "roles", "pascal")

_BOOLEANS = frozenset({"active", "primary"})
_READ_ONLY = frozenset({"id", "meta", "schemas"})
# At the core level these belong to no schema; Microsoft's Example 2 sends them there as null.
_NOT_CORE = frozenset({"department", "manager"})


@dataclass(frozen=True, slots=True)
class Match:
    """The question by which Entra looks for a person before it writes (entra-wire.md §3)."""

    path: str
    value: str
    case_exact: bool

    @property
    def filter(self) -> str:
        """The filter expression, not yet encoded for a URL."""
        return _equals(self.path, self.value)

    @property
    def other_case(self) -> str:
        """The same question with the value in another letter case."""
        return _equals(self.path, self.value.swapcase())


@dataclass(frozen=True, slots=True)
class Create:
    """A create of one person.

    Attributes:
        shape: which of ``SHAPES`` the body has.
        body: the JSON object that is sent.
        expected: what a resource that came of it must hold beside ``id`` and ``meta``; ``schemas`` in any order.
        optional: members that a server may return so or leave out (extensions that it need not know).
        match: how Entra looks for this person.
        invitable: whether the person is active and has an e-mail address.
    """

    person: Person
    shape: str
    body: dict[str, Any]
    expected: dict[str, Any]
    optional: dict[str, Any]
    match: Match
    invitable: bool

    def in_other_case(self) -> dict[str, Any]:
        """Return the body with the userName in another letter case and without its externalId."""
        body = {name: value for name, value in self.body.items() if name.lower() != "externalid"}
        name = next(name for name in body if name.lower() == "username")
        return {**body, name: body[name].swapcase()}


def compose(person: Person, dialect: Dialect, manager_id: str | None = None) -> Create:
    """Compose the create of a person.

    Args:
        person: who.
        dialect: ``legacy`` sends booleans as strings, ``compliant`` as booleans, ``mixed`` takes turns.
        manager_id: id of a user who is already there; some people get them as manager, as a bare string.
    """
    shape = SHAPES[person.number % len(SHAPES)]
    body = _SHAPE_BODIES[shape](person)
    if manager_id is not None and person.number % 10 == 3 and ENTERPRISE in body:
        body[ENTERPRISE]["manager"] = manager_id
    expected = returned(body)
    optional = {CUSTOM: expected.pop(CUSTOM)} if CUSTOM in expected else {}
    sent = body
    if dialect == "legacy" or (dialect == "mixed" and person.number // len(SHAPES) % 2 == 0):
        sent = _with_string_booleans(sent)
    if shape == "pascal":
        sent = _with_pascal_names(sent)
    return Create(
        person=person,
        shape=shape,
        body=sent,
        expected=expected,
        optional=optional,
        match=_match(person, expected),
        invitable=bool(expected["active"] and expected.get("emails")),
    )


def returned(body: dict[str, Any]) -> dict[str, Any]:
    """Return what must come back for a body: values as sent, the unassigned left out, booleans as booleans.

    ``id`` and ``meta`` are the server's, so they are not in it. ``schemas`` names the core and each extension that
    holds something. ``active`` is true where it was not sent (entra-cases.md 152).
    """
    doc: dict[str, Any] = {"active": True}
    for name, value in body.items():
        kept = None if name in _READ_ONLY or name in _NOT_CORE else _assigned(name, value)
        if kept is not None:
            doc[name] = kept
    if isinstance(manager := doc.get(ENTERPRISE, {}).get("manager"), str):
        doc[ENTERPRISE]["manager"] = {"value": manager}
    doc["schemas"] = [USER, *(urn for urn in (ENTERPRISE,) if urn in doc)]
    return doc


def _assigned(name: str, value: Any) -> Any:
    """Return the value without its nulls and empty lists, or None if nothing is left (RFC 7643 §2.5)."""
    if isinstance(value, dict):
        kept = {key: item for key, raw in value.items() if (item := _assigned(key, raw)) is not None}
        return kept or None
    if isinstance(value, list):
        return [item for raw in value if (item := _assigned(name, raw)) is not None] or None
    if name in _BOOLEANS and isinstance(value, str):
        return {"true": True, "false": False}[value.lower()]
    return value


def _match(person: Person, expected: dict[str, Any]) -> Match:
    if person.number % 5 == 1 and "externalId" in expected:
        return Match("externalId", expected["externalId"], case_exact=True)
    if person.number % 7 in (1, 3) and person.mail:
        return Match('emails[type eq "work"].value', person.mail, case_exact=False)
    return Match("userName", person.user_name, case_exact=False)


def _equals(path: str, value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{path} eq "{escaped}"'


def _emails(person: Person) -> list[dict[str, Any]]:
    return [{"primary": True, "type": "work", "value": person.mail}] if person.mail else []


def _name(person: Person) -> dict[str, Any]:
    return {"formatted": person.display_name, "familyName": person.family_name, "givenName": person.given_name}


def _default(person: Person) -> dict[str, Any]:
    """The default attribute mapping, with a client's ``meta`` and empty ``roles``."""
    emails = _emails(person)
    if person.number % 3 == 0:  # a proxyAddress
        emails.append({"primary": False, "type": "other", "value": person.other_mail})
    return {
        "schemas": [USER, ENTERPRISE],
        "externalId": person.nickname,
        "userName": person.user_name,
        "active": person.active,
        "displayName": person.display_name,
        "emails": emails,
        "meta": {"resourceType": "User"},
        "name": _name(person),
        "title": person.title,
        "preferredLanguage": person.language,
        "addresses": [
            {"type": "work", "primary": False, "locality": person.city, "postalCode": person.postal_code},
            {"type": "other", "primary": False, "formatted": f"Room {person.number}\n{person.city}"},
        ],
        "phoneNumbers": [{"type": "mobile", "primary": False, "value": person.mobile}],
        "roles": [],
        ENTERPRISE: {"department": person.department, "employeeNumber": person.employee_number},
    }


def _four(person: Person) -> dict[str, Any]:
    """The four attributes of a create-only set-up: no ``active``, no ``externalId``."""
    body: dict[str, Any] = {
        "schemas": [USER],
        "userName": person.user_name,
        "name": {"givenName": person.given_name, "familyName": person.family_name},
    }
    return body | ({"emails": [{"type": "work", "value": person.mail}]} if person.mail else {})


def _nulls(person: Person) -> dict[str, Any]:
    """Microsoft's Example 2: nulls everywhere, also at the core level, and a misspelt extension URN."""
    return {
        "schemas": [USER, MISSPELT_ENTERPRISE],
        "externalId": person.object_id,
        "userName": person.user_name,
        "active": person.active,
        "addresses": None,
        "displayName": person.display_name,
        "emails": _emails(person) or None,
        "meta": {"created": None, "location": None, "resourceType": "User", "version": None},
        "name": {**_name(person), "honorificPrefix": None},
        "phoneNumbers": None,
        "preferredLanguage": None,
        "title": None,
        "department": None,
        "manager": None,
    }


def _undeclared(person: Person) -> dict[str, Any]:
    """An extension object whose URN is missing from ``schemas`` (case 49) and an ``id`` of the client's (case 53)."""
    return {**_default(person), "schemas": [USER], "id": person.object_id, "externalId": person.object_id}


def _custom(person: Person) -> dict[str, Any]:
    """A custom extension, whose URN Entra does not send in ``schemas``."""
    return {
        "schemas": [USER],
        "externalId": person.object_id,
        "userName": person.user_name,
        "active": person.active,
        "displayName": person.display_name,
        "emails": _emails(person),
        CUSTOM: {"costObject": person.employee_number},
    }


def _roles(person: Person) -> dict[str, Any]:
    """An app role, as SingleAppRoleAssignment sends it on create (entra-wire.md §5.4)."""
    role = {"primary": True, "type": "WindowsAzureActiveDirectoryRole", "value": "Admin"}
    return {**_default(person), "externalId": person.object_id, "roles": [role]}


_SHAPE_BODIES = {
    "default": _default,
    "four": _four,
    "nulls": _nulls,
    "undeclared": _undeclared,
    "custom": _custom,
    "roles": _roles,
    "pascal": _nulls,  # the spelling is changed after what must come back is known
}


def _with_string_booleans(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _with_string_booleans(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_with_string_booleans(item) for item in value]
    return str(value) if isinstance(value, bool) else value


def _with_pascal_names(value: Any) -> Any:
    """Spell attribute names as .NET does (case 52); URNs and ``schemas`` stay."""
    if isinstance(value, dict):
        return {
            name if ":" in name or name == "schemas" else name[0].upper() + name[1:]: _with_pascal_names(item)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [_with_pascal_names(item) for item in value]
    return value
