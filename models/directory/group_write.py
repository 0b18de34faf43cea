"""Creating, changing and deleting groups; each is one transaction that has the row of the group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg

from models.audit.record import Event, record
from models.db import tenant_scope
from models.directory.membership import change_members, forget, lock_members, missing_group
from models.directory.read import Stored, read_stored
from models.errors import UnavailableError, UniquenessError
from models.scim.diff import net_diff
from models.scim.json import dumps
from models.scim.patch_members import MemberChanges
from models.scim.schema import GROUP, compare_key

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import datetime
    from uuid import UUID

    from models.db import Connection
    from models.directory.membership import Changed, Origin
    from models.scim.document import GroupDocument

    Edit = Callable[[dict[str, Any]], dict[str, Any]]
    Check = Callable[[int], None]

Result = TypeVar("Result")

_TRIES = 4

_RESERVE = """
INSERT INTO identifier (tenant_id, kind, value_key, resource_id) VALUES ($1, 'displayName', $2, $3)
ON CONFLICT DO NOTHING RETURNING resource_id
"""
_RELEASE = (
    "DELETE FROM identifier WHERE tenant_id = $1 AND kind = 'displayName' AND value_key = $2 AND resource_id = $3"
)
_INSERT = """
INSERT INTO groups (tenant_id, id, external_id, display_name_key, doc, created_at, last_modified)
VALUES ($1, $2, $3, $4, $5::text::jsonb, now(), now()) RETURNING created_at
"""
_LOCK = """
SELECT id, doc::text AS text, version, created_at, last_modified, doc, display_name_key
  FROM groups WHERE tenant_id = $1 AND id = $2
"""
_TO_WRITE = "FOR NO KEY UPDATE"
_TO_DELETE = "FOR UPDATE"
_UPDATE = """
UPDATE groups
   SET external_id = $3, display_name_key = $4, doc = $5::text::jsonb, version = version + 1,
       last_modified = greatest(last_modified, now())
 WHERE tenant_id = $1 AND id = $2
RETURNING id, doc::text, version, created_at, last_modified
"""
_DELETE = "DELETE FROM groups WHERE tenant_id = $1 AND id = $2"


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a write."""

    group: Stored
    members: Changed | None
    """Who came and went, if members were asked about."""


async def create_group(pool: asyncpg.Pool, origin: Origin, group_id: UUID, group: GroupDocument) -> Stored:
    """Store a new group and its members.

    Args:
        pool: where to write.
        origin: who asks.
        group_id: the id that it gets.
        group: what it is to be.

    Raises:
        UniquenessError: a group of this name exists, whatever the letter case.
        InvalidValueError: a member is neither a user nor a group of this tenant.
    """

    async def create(connection: Connection) -> Stored:
        ids = [member.value for member in group.members]
        if ids:
            await lock_members(connection, origin.tenant_id, None, ids)
        await _reserve(connection, origin.tenant_id, group.display_name_key, group_id)
        text = dumps(group.doc).decode()
        created_at: datetime = await connection.fetchval(
            _INSERT, origin.tenant_id, group_id, group.external_id, group.display_name_key, text
        )
        await _record(connection, origin, "scim.group.create", group_id, group.doc, net_diff({}, group.doc, GROUP))
        if ids:
            await change_members(connection, origin, group_id, MemberChanges(add=_once(group)), alone=False)
        return Stored(group_id, text, 1, created_at, created_at)

    return await _transact(pool, origin.tenant_id, create)


async def replace_group(
    pool: asyncpg.Pool, origin: Origin, group_id: UUID, group: GroupDocument, check: Check | None = None
) -> Written:
    """Replace a group and its members; members that are not named are members no more (RFC 7644 §3.5.1).

    Raises:
        as `write_group`.
    """
    members = MemberChanges(replace=True, add=_once(group))
    return await write_group(pool, origin, group_id, lambda _: group.doc, check=check, members=members)


async def patch_members(
    pool: asyncpg.Pool, origin: Origin, group_id: UUID, members: MemberChanges, check: Check | None = None
) -> Changed:
    """Change nothing but who is in a group; the way of nearly every PATCH.

    Args:
        pool: where to write.
        origin: who asks.
        group_id: the group.
        members: what to do.
        check: raises when the request is not meant for the version that it gets; None when any will do.

    Raises:
        NotFoundError: there is no such group.
        InvalidValueError: a member to add is neither a user nor a group of this tenant; nothing is changed.
        UnavailableError: too many write to the group at once.
    """

    async def at_once(connection: Connection) -> Changed:
        return await change_members(connection, origin, group_id, members)

    async def in_turn(connection: Connection) -> Changed:
        await _lock(connection, origin.tenant_id, group_id, check, members)
        return await at_once(connection)

    # One statement sees the members as they were when it began, not when its turn came. That is as good where it
    # only adds or only removes; else two such statements could come to what neither order of them gives.
    if check is None and not members.replace and not (members.add and members.remove):
        return await _transact(pool, origin.tenant_id, at_once)
    return await _transact(pool, origin.tenant_id, in_turn)


async def write_group(
    pool: asyncpg.Pool,
    origin: Origin,
    group_id: UUID,
    edit: Edit,
    *,
    check: Check | None = None,
    members: MemberChanges | None = None,
) -> Written:
    """Change a group's attributes, and its members if asked to; all or nothing.

    Args:
        pool: where to write.
        origin: who asks.
        group_id: the group.
        edit: returns what becomes of the document.
        check: raises when the request is not meant for the version that it gets; None when any will do.
        members: how its membership changes.

    Raises:
        NotFoundError: there is no such group.
        UniquenessError: the new name is another group's, whatever the letter case.
        InvalidValueError: a member is neither a user nor a group of this tenant.
        UnavailableError: too many write to the group at once.
        ClientError: whatever ``check`` and ``edit`` raise. Nothing is changed then.
    """
    tenant_id = origin.tenant_id

    async def write(connection: Connection) -> Written:
        locked = await _lock(connection, tenant_id, group_id, check, members)
        new = edit(locked.doc)
        diff = net_diff(locked.doc, new, GROUP)
        key = locked.key if new["displayName"] == locked.doc["displayName"] else compare_key(new["displayName"])
        if key != locked.key:  # the new name first, so that two who swap theirs do not wait in a circle
            await _reserve(connection, tenant_id, key, group_id)
            await connection.execute(_RELEASE, tenant_id, locked.key, group_id)
        changed = await change_members(connection, origin, group_id, members, alone=False) if members else None
        stored = locked.stored
        moved = changed is not None and bool(changed.added or changed.removed)
        if diff or moved:
            text = dumps(new).decode() if diff else stored.doc
            [row] = await connection.fetch(_UPDATE, tenant_id, group_id, new.get("externalId"), key, text)
            stored = read_stored(row)
        if diff or not moved:
            await _record(connection, origin, "scim.group.update", group_id, new, diff)
        return Written(stored, changed)

    return await _transact(pool, tenant_id, write)


async def delete_group(pool: asyncpg.Pool, origin: Origin, group_id: UUID, check: Check | None = None) -> None:
    """Delete a group. Its members stay what they are; groups that it was in lose it.

    Raises:
        NotFoundError: there is no such group.
        ClientError: whatever ``check`` raises.
    """

    async def delete(connection: Connection) -> None:
        locked = await _lock(connection, origin.tenant_id, group_id, check, how=_TO_DELETE)
        await change_members(connection, origin, group_id, MemberChanges(replace=True), alone=False)
        await forget(connection, origin.tenant_id, group_id)
        await connection.execute(_DELETE, origin.tenant_id, group_id)
        await connection.execute(_RELEASE, origin.tenant_id, locked.key, group_id)
        diff = net_diff(locked.doc, {}, GROUP)
        await _record(connection, origin, "scim.group.delete", group_id, locked.doc, diff)

    await _transact(pool, origin.tenant_id, delete)


@dataclass(frozen=True, slots=True)
class _Locked:
    """A group that nobody else writes to before the transaction ends."""

    stored: Stored
    doc: dict[str, Any]
    key: str


async def _lock(
    connection: Connection,
    tenant_id: UUID,
    group_id: UUID,
    check: Check | None,
    members: MemberChanges | None = None,
    how: str = _TO_WRITE,
) -> _Locked:
    """Lock a group, and before it whoever is to be its member."""
    if members and members.add:
        await lock_members(connection, tenant_id, group_id, (member.value for member in members.add))
    row = await connection.fetchrow(_LOCK + how, tenant_id, group_id)
    if row is None:
        raise missing_group()
    if check is not None:
        check(row["version"])
    return _Locked(Stored(*row[:5]), row["doc"], row["display_name_key"])


def _once(group: GroupDocument) -> tuple[Any, ...]:
    return tuple({member.value: member for member in group.members}.values())


async def _reserve(connection: Connection, tenant_id: UUID, key: str, group_id: UUID) -> None:
    if await connection.fetchval(_RESERVE, tenant_id, key, group_id) is None:
        raise UniquenessError(
            "A group with this displayName exists already (letter case does not matter)."
            " Match it by displayName instead of creating it again."
        )


async def _record(
    connection: Connection,
    origin: Origin,
    action: str,
    group_id: UUID,
    doc: dict[str, Any],
    diff: list[dict[str, Any]],
) -> None:
    target = {"type": "Group", "id": str(group_id), "label": doc["displayName"]}
    if "externalId" in doc:
        target["external_id"] = doc["externalId"]
    event = Event(
        action=action,
        phase="applied",
        reason=None if diff else "no_change",
        actor=origin.actor,
        correlation_id=origin.correlation_id,
        tenant_id=origin.tenant_id,
        targets=[target],
        context=origin.context,
        diff=diff,
    )
    await record(connection, [event])


async def _transact(pool: asyncpg.Pool, tenant_id: UUID, work: Callable[[Connection], Awaitable[Result]]) -> Result:
    """Do ``work`` in a transaction, again when it met another one that waited for it."""
    for attempt in range(1, _TRIES + 1):
        try:
            async with tenant_scope(pool, [tenant_id]) as connection:
                return await work(connection)
        except asyncpg.DeadlockDetectedError:
            if attempt == _TRIES:
                break
        except asyncpg.LockNotAvailableError:
            break
    raise UnavailableError("The group is being changed by many at once; please try again.")
