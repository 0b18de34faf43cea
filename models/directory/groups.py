"""Reading groups. Their members are rows of another table and are read only when they are asked for."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from models.db import for_tenant
from models.directory.read import Source, Stored, as_uuid, read_stored
from models.errors import TooManyError
from models.scim.filter_sql import Column, Relation
from models.scim.filter_value import literal
from models.scim.schema import GROUP, compare_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    import asyncpg

    from models.db import Connection
    from models.scim.filter import Lookup

MOST_MEMBERS = 100_000
"""Most members in one answer, 15 MB of JSON; beyond them they have to be excluded."""

_SELECT = "SELECT id, doc::text, version, created_at, last_modified FROM groups WHERE tenant_id = $1 AND"
_BY_ID = for_tenant(f"{_SELECT} id = $2")
_BY_EXTERNAL_ID = for_tenant(f"{_SELECT} external_id = $2 ORDER BY id")
_NAMED = "SELECT resource_id FROM identifier WHERE tenant_id = $1 AND kind = 'displayName' AND value_key = $2"
_BY_DISPLAY_NAME = for_tenant(f"{_SELECT} id = ({_NAMED})")

# The members of groups $2 as JSON. A display name is left out: it would mean reading every member's document, which
# takes four times as long.
_MEMBERS = for_tenant(f"""
SELECT group_id, count(*), string_agg(
           format('{{"value":"%1$s","$ref":"%2$s/%3$ss/%1$s","type":"%3$s"}}', member_id, $3::text, member_type), ','
           ORDER BY member_id)
  FROM (SELECT group_id, member_id, member_type FROM membership WHERE tenant_id = $1 AND group_id = ANY ($2::uuid[])
         ORDER BY group_id, member_id LIMIT {MOST_MEMBERS + 1}) AS m
 GROUP BY group_id
""")  # noqa: S608  constants only


@lru_cache(maxsize=8)
def _relations(scim_url: str) -> Mapping[str, Relation]:
    location = f"{literal(scim_url + '/')} || m.member_type || 's/' || m.member_id"
    return {
        "members": Relation(
            "membership AS m WHERE m.tenant_id = r.tenant_id AND m.group_id = r.id",
            {
                "value": Column("m.member_id", "uuid"),
                "type": Column("m.member_type"),
                "$ref": Column(f"({location})"),
            },
        )
    }


GROUPS = Source(GROUP, ("tenant_groups",), _relations)


async def get_group(
    pool: asyncpg.Pool, tenant_id: UUID, group_id: UUID, *, scim_url: str, members: bool
) -> Stored | None:
    """Return one group of a tenant, or None.

    Args:
        pool: where to read.
        tenant_id: whose group.
        group_id: which.
        scim_url: the SCIM base URL.
        members: whether its members are wanted; if not they are not read.

    Raises:
        TooManyError: it has more members than `MOST_MEMBERS`.
    """
    row = await pool.fetchrow(_BY_ID, tenant_id, group_id)
    if row is None:
        return None
    [group] = await _complete(pool, tenant_id, [read_stored(row)], scim_url, members=members)
    return group


async def find_groups(
    pool: asyncpg.Pool, tenant_id: UUID, lookup: Lookup, *, scim_url: str, members: bool
) -> list[Stored]:
    """Return the groups that a matching query names, by `id`, `externalId` or `displayName`.

    Args and errors are those of `get_group`.
    """
    value: object = lookup.value
    if lookup.kind == "id":
        value = as_uuid(lookup.value)
        if value is None:
            return []
        query = _BY_ID
    elif lookup.kind == "displayName":
        query, value = _BY_DISPLAY_NAME, compare_key(lookup.value)
    else:
        query = _BY_EXTERNAL_ID
    found = [read_stored(row) for row in await pool.fetch(query, tenant_id, value)]
    return await _complete(pool, tenant_id, found, scim_url, members=members)


async def with_members(
    store: asyncpg.Pool | Connection, tenant_id: UUID, groups: Sequence[Stored], scim_url: str
) -> list[Stored]:
    """Return groups together with their members.

    Raises:
        TooManyError: there are more than `MOST_MEMBERS`.
    """
    rows = await store.fetch(_MEMBERS, tenant_id, [group.id for group in groups], scim_url)
    if sum(row["count"] for row in rows) > MOST_MEMBERS:
        raise TooManyError(
            f"The answer would hold more than {MOST_MEMBERS} members."
            " Ask with excludedAttributes=members, or for fewer groups at once."
        )
    members = {row["group_id"]: f'"members":[{row["string_agg"]}]' for row in rows}
    return [replace(group, rows=members.get(group.id, "")) for group in groups]


async def _complete(
    pool: asyncpg.Pool, tenant_id: UUID, groups: list[Stored], scim_url: str, *, members: bool
) -> list[Stored]:
    return await with_members(pool, tenant_id, groups, scim_url) if members and groups else groups
