"""Takes the changes of membership out of a PATCH on a group: members are rows, not a list in its document.

What is left over is for ``models.scim.patch.apply_operations``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from scim2_models.path import CompareOperator, Comparison, FilterNode, LogicalExpr, LogicalOperator

from models.errors import (
    ClientError,
    InvalidFilterError,
    InvalidPathError,
    InvalidValueError,
    MutabilityError,
    TooLargeError,
)
from models.scim.document import Member, read_group
from models.scim.patch_path import Operation, Target, read_operations, resolve
from models.scim.schema import GROUP

if TYPE_CHECKING:
    from collections.abc import Iterable

    from models.scim.schema import ResourceSchema


@dataclass(frozen=True, slots=True)
class MemberChanges:
    """What all operations together do to a group's membership, in whatever order they came.

    Apply ``replace`` first, then ``remove``, then ``add``: no id is in both of these.
    """

    replace: bool = False
    """Whoever is not in ``add`` is no member any more."""
    add: tuple[Member, ...] = ()
    remove: frozenset[str] = frozenset()
    """Ids; empty when ``replace``."""

    def __bool__(self) -> bool:
        """Tell whether anything is asked for."""
        return bool(self.replace or self.add or self.remove)


def split_member_operations(
    body: Any, schema: ResourceSchema = GROUP, *, max_operations: int = 1000, max_members: int = 10_000
) -> tuple[MemberChanges, list[Operation]]:
    """Read the body of a PATCH on a group and part it.

    Members are understood in every form that Entra sends (entra-wire.md §7): a list with ``add``, ``replace`` and,
    beside the path, ``remove``; ``members[value eq "…"]``; and inside an object without a path. A bare ``remove`` of
    ``members`` removes all.

    Args:
        body: The parsed JSON body.
        schema: The group schema.
        max_operations: How many operations are taken.
        max_members: How many members they may name altogether.

    Returns:
        The change of membership, and the operations on everything else.

    Raises:
        InvalidSyntaxError: The body is not a PATCH request.
        TooLargeError: It has too many operations or members.
        InvalidPathError, InvalidFilterError, InvalidValueError, MutabilityError: A change of members cannot be carried
            out; the detail says which.
    """
    changes = _Changes(max_members)
    rest: list[Operation] = []
    for number, operation in enumerate(read_operations(body, max_operations=max_operations), 1):
        try:
            left = _take(operation, schema, changes)
        except ClientError as error:
            raise type(error)(f"Operation {number} ({operation.op}): {error.detail}") from error
        if left:
            rest.append(left)
    return changes.net(), rest


class _Changes:
    """Folds one change after another."""

    def __init__(self, max_members: int) -> None:
        self.left = self.max_members = max_members
        self.replaced = False
        self.added: dict[str, Member] = {}
        self.removed: set[str] = set()

    def add(self, members: Iterable[Member]) -> None:
        for member in members:
            self.removed.discard(member.value)
            self.added[member.value] = member

    def remove(self, ids: Iterable[str]) -> None:
        for identifier in ids:
            self.added.pop(identifier, None)
            if not self.replaced:
                self.removed.add(identifier)

    def clear(self) -> None:
        self.replaced = True
        self.added.clear()
        self.removed.clear()

    def read(self, value: Any) -> list[Member]:
        """Read members in any form; null, an empty string and an empty list are none."""
        items = value if isinstance(value, list) else [value]
        self.count(len(items))
        objects = [{"value": item} if isinstance(item, str) else item for item in items if item not in (None, "")]
        return read_group({"displayName": "-", "members": objects}).members

    def count(self, number: int) -> None:
        self.left -= number
        if self.left < 0:
            raise TooLargeError(f"The PATCH names more than {self.max_members} members.")

    def net(self) -> MemberChanges:
        return MemberChanges(self.replaced, tuple(self.added.values()), frozenset(self.removed))


def _take(operation: Operation, schema: ResourceSchema, changes: _Changes) -> Operation | None:
    """Carry out what an operation does to members; return the rest of it, if any."""
    target = resolve(schema, operation.path)
    if not isinstance(target, Target):
        return operation
    if target.path.attribute is None and target.path.extension is None:
        return _take_from_object(operation, schema, changes)
    if not _is_members(target):
        return operation
    _change(target, operation, changes)
    return None


def _is_members(target: Target) -> bool:
    return target.path.extension is None and bool(target.path.attribute and target.path.attribute.name == "members")


def _take_from_object(operation: Operation, schema: ResourceSchema, changes: _Changes) -> Operation | None:
    if operation.op == "remove" or not isinstance(operation.value, dict):
        return operation
    rest: dict[str, Any] = {}
    for name, item in operation.value.items():
        try:
            target = resolve(schema, name) if name else None
        except InvalidPathError:
            target = None  # no name of anything: left out, and named, with the rest
        if isinstance(target, Target) and _is_members(target):
            _change(target, replace(operation, path=name, value=item), changes)
        else:
            rest[name] = item
    return replace(operation, value=rest) if rest or not operation.value else None


def _change(target: Target, operation: Operation, changes: _Changes) -> None:
    sub = target.path.sub_attribute
    selected = _selected_ids(target.condition) if target.condition else None
    if sub:
        raise MutabilityError(f"members.{sub.name} cannot be changed: remove the member and add another one.")
    if operation.op == "remove":
        if selected is not None:
            changes.count(len(selected))
            changes.remove(selected)
        elif operation.value is None:
            changes.clear()
        else:
            changes.remove(member.value for member in changes.read(operation.value))
        return
    if not operation.has_value:
        raise InvalidValueError("A value is needed.")
    # As with other lists, what a filter selects comes to be where it is not: entra-wire.md §5.2.
    members = changes.read(operation.value if selected is None else selected)
    if operation.op == "replace" and selected is None:
        changes.clear()
    changes.add(members)


def _selected_ids(condition: FilterNode) -> list[str]:
    """Return the ids that a filter selects: those that it compares ``value`` with by ``eq`` and ``or``."""
    either = isinstance(condition, LogicalExpr) and condition.op is LogicalOperator.or_
    ids: list[str] = []
    for term in condition.terms if isinstance(condition, LogicalExpr) and either else (condition,):
        plain = isinstance(term, Comparison) and term.op is CompareOperator.eq and isinstance(term.value, str)
        if not isinstance(term, Comparison) or not plain or str(term.attr_path).lower() != "value":
            raise InvalidFilterError('Members are selected by their value only: members[value eq "…"].')
        ids.append(term.value)
    return ids
