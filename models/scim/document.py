"""Reads a User or Group as a client sends it into the document that is stored and returned.

Reading a stored document again gives the same document.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from models.errors import InvalidSyntaxError, InvalidValueError
from models.scim import entra
from models.scim.json import kind_of
from models.scim.reader import (
    Rules,
    check_required,
    read_members,
    read_value,
    required_names,
    resource_rules,
)
from models.scim.schema import GROUP, USER, compare_key

if TYPE_CHECKING:
    from models.scim.schema import ResolvedPath, ResourceSchema

_MAX_IGNORED: Final = 100
_MAX_IGNORED_LENGTH: Final = 200
_MEMBER_TYPES: Final = {"user": "User", "group": "Group"}


@dataclass(slots=True)  # not frozen, which makes it cost three times as much: every request makes one
class UserDocument:
    """A User that may be stored, and what is looked up or sent by it."""

    doc: dict[str, Any]
    """As stored and returned: canonical names, values as sent, exact ``schemas``; neither ``id``, ``meta``,
    ``password`` and readOnly attributes nor anything unassigned. Of a stored one only a PATCH takes ``active`` out."""
    user_name: str
    user_name_key: str
    """`compare_key` of the userName: unique in a tenant."""
    external_id: str | None
    work_email_keys: list[str]
    """`compare_key` of each ``emails[type eq "work"].value``, in order."""
    active: bool
    """Whether the user may sign in: so it is of one who has no ``active``."""
    primary_email: str | None
    """Where an invitation goes: the primary address, else the first for work, else the first."""
    ignored: tuple[str, ...]
    """Paths of attributes that were left out because no schema has them, they are read-only, or misplaced."""


@dataclass(frozen=True, slots=True)
class Member:
    """One value of a Group's ``members``."""

    value: str
    """The member's id."""
    type: str
    """``User`` or ``Group``."""


@dataclass(frozen=True, slots=True)
class GroupDocument:
    """A Group that may be stored."""

    doc: dict[str, Any]
    """As stored: canonical names, values as sent, without ``members``, which are rows of their own."""
    display_name: str
    display_name_key: str
    """`compare_key` of the displayName: unique in a tenant."""
    external_id: str | None
    members: list[Member]
    ignored: tuple[str, ...]
    """Paths of attributes that were left out because no schema has them or they are read-only."""


def read_user(raw: Any, schema: ResourceSchema = USER, *, new: bool = True) -> UserDocument:
    """Read a User in any form that Entra sends.

    Args:
        raw: A parsed JSON value, as `models.scim.json.parse` gives it.
        schema: The User schema of the tenant.
        new: Whether it is a user to be, who is ``active`` unless it says otherwise.

    Raises:
        InvalidSyntaxError: It is not an object.
        InvalidValueError: ``userName`` is missing or blank, or a value does not fit its attribute; the detail
            names the attribute and what it takes, never the value.
    """
    doc, ignored = _read_resource(raw, schema)
    if not doc["userName"].strip():
        raise InvalidValueError("userName must not be blank.")
    if new:
        doc.setdefault("active", True)
    return known_user(doc, ignored)


def known_user(doc: dict[str, Any], ignored: tuple[str, ...] = ()) -> UserDocument:
    """Return what a document is looked up by, of one that has the form in which it is stored.

    Args:
        doc: As ``read_user`` or ``apply_patch`` gives it.
        ignored: What was left out of it.
    """
    work_email_keys, primary_email = _emails(doc.get("emails", ()))
    user_name = doc["userName"]
    return UserDocument(
        doc=doc,
        user_name=user_name,
        user_name_key=compare_key(user_name),
        external_id=doc.get("externalId"),
        work_email_keys=work_email_keys,
        active=doc.get("active", True),
        primary_email=primary_email,
        ignored=ignored,
    )


def read_group(raw: Any, schema: ResourceSchema = GROUP) -> GroupDocument:
    """Read a Group in any form that Entra sends.

    Raises:
        InvalidSyntaxError: It is not an object.
        InvalidValueError: ``displayName`` is missing or blank, a member has no ``value``, or a value does not
            fit its attribute.
    """
    doc, ignored = _read_resource(raw, schema)
    display_name = doc["displayName"]
    if not display_name.strip():
        raise InvalidValueError("displayName must not be blank.")
    return GroupDocument(
        doc=doc,
        display_name=display_name,
        display_name_key=compare_key(display_name),
        external_id=doc.get("externalId"),
        members=[_member(item) for item in doc.pop("members", ())],
        ignored=ignored,
    )


def read_attribute(path: ResolvedPath, value: Any, schema: ResourceSchema) -> Any:
    """Read one attribute's value as `read_user` and `read_group` would, for a write to a part of a document.

    Args:
        path: What is written; `ResourceSchema.find` gives it. A multi-valued attribute takes its whole list.
        value: The value as it was sent.
        schema: The schema that resolved the path.

    Returns:
        The value to keep; None when it is unassigned.

    Raises:
        InvalidValueError: The value does not fit the attribute.
    """
    return read_value(schema, path, value, [])


@lru_cache(maxsize=1024)
def _compiled(schema: ResourceSchema) -> tuple[Rules, tuple[str, ...], tuple[str, ...]]:
    """Return the readers, the required attributes and the extensions' URNs of a schema."""
    required = tuple(name for name in required_names(schema.attributes) if name != "schemas")
    return resource_rules(schema), required, tuple(item.urn for item in schema.extensions.values())


def _read_resource(raw: Any, schema: ResourceSchema) -> tuple[dict[str, Any], tuple[str, ...]]:
    if not isinstance(raw, dict):
        raise InvalidSyntaxError(f"A {schema.name} must be a JSON object, not {kind_of(raw)}.")
    rules, required, urns = _compiled(schema)
    ignored: list[str] = []
    unknown: dict[str, Any] = {}
    content = read_members(raw, rules, ignored, skipped=unknown)
    if unknown:
        _place(unknown, content, schema, ignored)
    if content.get("externalId") == "":
        del content["externalId"]
    check_required(content, required)
    doc = {"schemas": entra.present_schemas(schema.urn, urns, content), **content}
    names = dict.fromkeys(name[:_MAX_IGNORED_LENGTH] for name in ignored) if ignored else ()
    return doc, tuple(names)[:_MAX_IGNORED]


def _place(unknown: dict[str, Any], content: dict[str, Any], schema: ResourceSchema, ignored: list[str]) -> None:
    """Put what belongs into an extension there, unless the extension has it already; note the rest."""
    for name, value in unknown.items():
        urn = entra.any_case(entra.MISPLACED, name)
        path = schema.find(f"{urn}:{name}") if urn else None
        if urn is None or path is None or path.attribute is None:
            ignored.append(name)
            continue
        kept = read_value(schema, path, value, ignored)
        if kept is not None and content.setdefault(urn, {}).setdefault(path.attribute.name, kept) is not kept:
            ignored.append(name)


def _emails(emails: Any) -> tuple[list[str], str | None]:
    work_keys = []
    primary = work = first = None
    for email in emails:
        value = email.get("value")
        if not value or value.isspace():
            continue
        first = first or value
        if email.get("type", "").lower() == "work":
            work = work or value
            work_keys.append(compare_key(value))
        if email.get("primary") is True:
            primary = value
    return work_keys, primary or work or first


def _member(value: dict[str, Any]) -> Member:
    member_id = value.get("value")
    if not member_id:
        raise InvalidValueError("members.value is required: the id of the member.")
    kind = entra.any_case(_MEMBER_TYPES, value.get("type", "User"))
    if kind is None:
        raise InvalidValueError("members.type must be User or Group.")
    return Member(member_id, kind)
