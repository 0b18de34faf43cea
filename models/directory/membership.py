"""Who is in which group: rows, each added and removed on its own, so that the size of a group never matters.

Whoever changes membership locks the members first (``FOR KEY SHARE``: they can be written to, but not deleted) and
the group after them, last of all; whoever deletes a user or a group locks it before its groups. So nobody becomes a
member while being deleted, and the two do not wait for each other in a circle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import orjson

from models import metrics
from models.audit.actions import ACTIONS
from models.directory.read import as_uuid
from models.errors import InvalidValueError, NotFoundError
from models.ids import new_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from uuid import UUID

    from models.audit.record import Actor
    from models.db import Connection
    from models.scim.patch_members import MemberChanges

_ADD = ACTIONS["scim.group.member.add"]
_REMOVE = ACTIONS["scim.group.member.remove"]
_MOST_NAMED = 20
_LONGEST_NAME = 64
_TARGETS = 100

# $1 tenant, $2 ids. A create moves from the ledger to the store in one transaction, so every statement sees it in one
# of the two; only who waited here for that very transaction sees it in neither, and has to look again.
_KNOWN = """
applied AS MATERIALIZED (
    SELECT id FROM users WHERE tenant_id = $1 AND id = ANY ($2::uuid[]) ORDER BY id FOR KEY SHARE
),
waiting AS MATERIALIZED (
    SELECT resource_id AS id FROM job
     WHERE tenant_id = $1 AND kind = 'user.create' AND state IN ('staged', 'running', 'retry', 'dead')
       AND resource_id = ANY (ARRAY(SELECT unnest($2::uuid[]) EXCEPT SELECT id FROM applied))
     ORDER BY resource_id FOR KEY SHARE
),
nested AS MATERIALIZED (
    SELECT id FROM groups
     WHERE tenant_id = $1 AND id = ANY (ARRAY(SELECT unnest($2::uuid[]) EXCEPT SELECT id FROM applied))
     ORDER BY id FOR KEY SHARE
),
known AS MATERIALIZED (
    SELECT id, 'User' AS type FROM applied
     UNION ALL SELECT id, 'User' FROM waiting
     UNION ALL SELECT id, 'Group' FROM nested
),
missing AS MATERIALIZED (
    SELECT unnest($2::uuid[]) AS id EXCEPT SELECT id FROM known
)"""
_LOCK_MEMBERS = f"WITH {_KNOWN} SELECT id FROM missing"  # noqa: S608  constants only

_EXISTS = "SELECT EXISTS (SELECT FROM groups WHERE tenant_id = $1 AND id = $2)"

# The row of the group is locked from here until the commit, which follows at once.
# The counts are taken before the group's row is written to, so that all rows are there by then.
_CHANGE = f"""
WITH {_KNOWN},
target AS MATERIALIZED (
    SELECT id, version, last_modified, jsonb_strip_nulls(jsonb_build_object(
               'type', 'Group', 'id', id, 'label', doc -> 'displayName', 'external_id', external_id)) AS named
      FROM groups WHERE tenant_id = $1 AND id = $3 AND NOT EXISTS (SELECT FROM missing)
       FOR NO KEY UPDATE
),
added AS (
    INSERT INTO membership (tenant_id, group_id, member_id, member_type)
    SELECT $1, target.id, known.id, known.type FROM known CROSS JOIN target ORDER BY known.id
    ON CONFLICT DO NOTHING
    RETURNING member_id, member_type
),
removed AS (
    DELETE FROM membership WHERE tenant_id = $1 AND group_id = (SELECT id FROM target) AND %s
    RETURNING member_id, member_type
),
change AS MATERIALIZED (
    SELECT '{_ADD.name}' AS action, * FROM added UNION ALL SELECT '{_REMOVE.name}', * FROM removed
),
changed AS (
    UPDATE groups SET version = version + 1, last_modified = greatest(last_modified, now())
     WHERE tenant_id = $1 AND id = $3 AND $5::boolean AND (SELECT count(*) FROM change) > 0
    RETURNING version, last_modified
),
audited AS (
    INSERT INTO audit_event (id, tenant_id, action, phase, outcome, reason, severity, actor_type, actor_id,
                             actor_label, targets, correlation_id, context)
    SELECT kind.event_id, $1, kind.action, 'applied', 'success', CASE WHEN told.members = 0 THEN 'no_change' END,
           kind.severity, $8, $9, $10, target.named || told.named, $11, $12::text::jsonb || told.counted
      FROM (VALUES ($6::uuid, '{_ADD.name}', {_ADD.severity}), ($7::uuid, '{_REMOVE.name}', {_REMOVE.severity}))
        AS kind (event_id, action, severity)
     CROSS JOIN target
     CROSS JOIN LATERAL (
         SELECT count(*) AS members,
                coalesce(jsonb_agg(jsonb_build_object('type', member_type, 'id', member_id) ORDER BY place)
                         FILTER (WHERE place <= {_TARGETS}), '[]') AS named,
                jsonb_strip_nulls(jsonb_build_object(
                    'members', count(*),
                    'members_sha256', CASE WHEN count(*) > {_TARGETS} THEN
                        encode(sha256(string_agg(member_id::text, E'\\n' ORDER BY place)::bytea), 'hex') END
                )) AS counted
           FROM (SELECT *, row_number() OVER (ORDER BY member_id) AS place FROM change WHERE action = kind.action)
             AS placed
     ) AS told
     WHERE told.members > 0 OR (kind.action = $13 AND NOT EXISTS (SELECT FROM change))
)
SELECT ARRAY(SELECT id FROM missing ORDER BY id) AS missing,
       (SELECT count(*) FROM added) AS added, (SELECT count(*) FROM removed) AS removed,
       latest.version, latest.last_modified
  FROM (SELECT) AS always
  LEFT JOIN (SELECT * FROM changed UNION ALL SELECT version, last_modified FROM target ORDER BY version DESC LIMIT 1)
         AS latest ON true
"""  # noqa: S608  constants only
_CHANGE_NAMED = _CHANGE % "member_id = ANY ($4::uuid[])"
# $4 says nothing here, but has to have a type.
_REPLACE_ALL = _CHANGE % "member_id NOT IN (SELECT unnest($2::uuid[])) AND $4::uuid[] IS NOT NULL"

# Groups that are in other groups come first, as they do for whoever deletes one: it locks that, and then its groups.
_FORGET = """
WITH held AS MATERIALIZED (
    SELECT id FROM groups
     WHERE tenant_id = $1 AND id IN (SELECT group_id FROM membership WHERE tenant_id = $1 AND member_id = $2)
     ORDER BY NOT EXISTS (SELECT FROM membership WHERE tenant_id = $1 AND member_id = groups.id), id
       FOR NO KEY UPDATE OF groups
),
left_behind AS (
    DELETE FROM membership WHERE tenant_id = $1 AND member_id = $2 RETURNING group_id
)
UPDATE groups SET version = version + 1, last_modified = greatest(last_modified, now())
  FROM held WHERE groups.tenant_id = $1 AND groups.id = held.id
RETURNING groups.id
"""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a write comes from, as its audit events tell."""

    tenant_id: UUID
    actor: Actor
    correlation_id: UUID
    context: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Changed:
    """What became of a change of membership."""

    version: int
    """The group's, afterwards."""
    last_modified: datetime
    """As above."""
    added: int
    removed: int


async def forget(connection: Connection, tenant_id: UUID, resource_id: UUID) -> list[UUID]:
    """Take a user or a group that is being deleted out of every group; part of the caller's transaction.

    To be called in a statement of its own after the one that deletes or locks the resource, so that nobody can make
    it a member any more. The groups' versions move.

    Returns:
        The groups that it was in.

    Raises:
        asyncpg.DeadlockDetectedError: two such transactions over the same groups met; the same may succeed again.
    """
    return [row["id"] for row in await connection.fetch(_FORGET, tenant_id, resource_id)]


async def lock_members(connection: Connection, tenant_id: UUID, group_id: UUID | None, ids: Iterable[str]) -> None:
    """See that members-to-be are there, and that nobody deletes them before the caller's transaction ends.

    Args:
        connection: in a transaction.
        tenant_id: whose users and groups may be named.
        group_id: the group that they shall be in; None if it is yet to be created.
        ids: as the client sent them.

    Raises:
        NotFoundError: there is no such group.
        InvalidValueError: an id is neither a user's nor another group's of this tenant; all such are named.
    """
    known: list[UUID] = []
    unknown: list[str] = []
    for text in dict.fromkeys(ids):
        value = as_uuid(text)
        if value is None:
            unknown.append(text)
        else:
            known.append(value)
    missing = known
    for _ in range(2):  # see `_KNOWN`
        if missing:
            missing = [row["id"] for row in await connection.fetch(_LOCK_MEMBERS, tenant_id, missing)]
    unknown.extend(map(str, missing))
    if unknown or (group_id is not None and group_id in known):
        await _refuse(connection, tenant_id, group_id, unknown)


async def change_members(
    connection: Connection,
    origin: Origin,
    group_id: UUID,
    changes: MemberChanges,
    *,
    alone: bool = True,
) -> Changed:
    """Change who is in a group, in one statement that costs the same for a small group and a large one.

    Members that are there already and members to remove that are not there count as done. What a member is, user or
    group, is looked up; what the client says of it is not asked. Groups may contain each other in a circle: nothing
    here follows membership from group to group.

    Args:
        connection: outside a transaction, or inside one that has locked the members and the group.
        origin: who asks.
        group_id: the group.
        changes: what to do.
        alone: whether this is all that the request asks for. If so the group's version moves here, and it is
            recorded when nothing has changed; otherwise the caller sees to both.

    Raises:
        NotFoundError: there is no such group.
        InvalidValueError: an id is neither a user's nor another group's of this tenant. Nothing is changed then.
    """
    add = [value for member in changes.add if (value := as_uuid(member.value))]
    if len(add) < len(changes.add) or group_id in add:  # refused, with every id that is unknown
        await lock_members(connection, origin.tenant_id, group_id, (member.value for member in changes.add))
    arguments = (
        origin.tenant_id,
        add,
        group_id,
        [value for text in changes.remove if (value := as_uuid(text))],
        alone,
        new_id(),
        new_id(),
        origin.actor.type,
        origin.actor.id,
        origin.actor.label,
        origin.correlation_id,
        orjson.dumps(origin.context).decode(),
        None if not alone else _ADD.name if add else _REMOVE.name,
    )
    statement = _REPLACE_ALL if changes.replace else _CHANGE_NAMED
    [row] = await connection.fetch(statement, *arguments)
    if row["missing"]:  # see `_KNOWN`
        [row] = await connection.fetch(statement, *arguments)
    if row["missing"]:
        await _refuse(connection, origin.tenant_id, group_id, [str(value) for value in row["missing"]])
    if row["version"] is None:
        raise missing_group()
    none = not row["added"] and not row["removed"]
    for action, members in ((_ADD, row["added"]), (_REMOVE, row["removed"])):
        if members or (none and action.name == arguments[-1]):
            metrics.AUDIT_EVENTS.add(1, action.name, "success")
    return Changed(row["version"], row["last_modified"], row["added"], row["removed"])


async def _refuse(connection: Connection, tenant_id: UUID, group_id: UUID | None, unknown: Sequence[str]) -> NoReturn:
    """Say why members cannot be added: for want of the group, of members, or because the group is its own."""
    if group_id is not None and not await connection.fetchval(_EXISTS, tenant_id, group_id):
        raise missing_group()
    if not unknown:
        raise InvalidValueError("A group cannot be a member of itself.")
    names = [text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…" for text in unknown]
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    raise InvalidValueError(
        f"There is no user or group with the id {', '.join(names[:_MOST_NAMED])}{more}. No member was added or removed."
    )


def missing_group() -> NotFoundError:
    """Return what is raised for want of a group."""
    return NotFoundError("There is no group with this id.")
