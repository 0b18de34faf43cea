"""Reading users: those in the store and those accepted but not yet applied, as one directory.

What a user's `groups` are is read with it, in the same statement, when it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING
from uuid import UUID

from models.db import for_tenant
from models.scim.filter_sql import Column, Relation
from models.scim.filter_value import literal
from models.scim.schema import USER, compare_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    import asyncpg

    from models.scim.filter import Lookup
    from models.scim.schema import ResourceSchema


@dataclass(slots=True)  # not frozen, which makes it cost three times as much: every request makes one
class Stored:
    """A resource as it is stored: its document as JSON text, and what `id` and `meta` are made of."""

    id: UUID
    doc: str
    version: int
    created_at: datetime
    last_modified: datetime
    rows: str = ""
    """The attribute that is rows of another table, as a member of a JSON object: `"groups": […]`; or nothing."""


WAITING = "kind = 'user.create' AND state IN ('staged', 'running', 'retry', 'dead')"
"""Of a job: that it is a create which is not applied yet."""

# The groups of the user `d` of the tenant $1, as a member of a JSON object; NULL when there are none.
GROUPS_OF = """(
    SELECT '"groups":' || json_agg(json_build_object('value', g.id, '$ref', {url} || '/Groups/' || g.id,
                                                    'display', g.doc -> 'displayName', 'type', 'direct') ORDER BY g.id)
      FROM membership AS m CROSS JOIN LATERAL (
           SELECT id, doc FROM groups WHERE tenant_id = m.tenant_id AND id = m.group_id LIMIT 1) AS g
     WHERE m.tenant_id = $1 AND m.member_id = d.id)"""


def _lookup(applied: str, waiting: str) -> tuple[str, str]:
    """Return the query for a lookup that each half answers from its own index, without groups and with.

    Args:
        applied: where the half of the applied users is, and what is asked of it.
        waiting: the same of the creates that wait.
    """
    query = f"""
SELECT d.*%s FROM (
    SELECT id, doc::text, version, created_at, last_modified FROM {applied} AND tenant_id = $1
    UNION ALL
    SELECT {waiting} AND tenant_id = $1
) AS d ORDER BY d.id
"""  # noqa: S608  constants only
    return for_tenant(query % ""), for_tenant(query % f", {GROUPS_OF.format(url='$3::text')}")


def _by_key(key: str) -> tuple[str, str]:
    return _lookup(
        f"users WHERE id = {key}",
        "resource_id, (payload -> 'doc')::text, 1, staged_at, staged_at FROM job"
        f" WHERE {WAITING} AND resource_id = {key}",
    )


def _by_search(applied: str, waiting: str) -> tuple[str, str]:
    # Through the views, behind whose walls PostgreSQL uses indexes on JSON (migration 0010).
    return _lookup(
        f"tenant_users WHERE {applied}",
        f"id, doc::text, version, created_at, last_modified FROM tenant_waiting_users WHERE {waiting}",
    )


_BY_ID = _by_key("$2")
_BY_USER_NAME = _by_key(
    "(SELECT resource_id FROM identifier WHERE tenant_id = $1 AND kind = 'userName' AND value_key = $2)"
)
_BY_EXTERNAL_ID = _by_search("external_id = $2", "external_id = $2")
# A person rarely has two work addresses; those who do are found by an index that holds only them.
_BY_WORK_EMAIL = _by_search(
    "(work_email_keys[1] = $2 OR (cardinality(work_email_keys) > 1 AND work_email_keys @> ARRAY[$2]))",
    "(work_email_keys ->> 0 = $2 OR (jsonb_array_length(work_email_keys) > 1 AND work_email_keys ? $2))",
)


def read_stored(row: asyncpg.Record) -> Stored:
    """Make a Stored of a row with its fields in their order; the last may be missing or NULL."""
    rows = row[5] if len(row) > 5 else None
    return Stored(row[0], row[1], row[2], row[3], row[4], rows or "")


async def get_user(pool: asyncpg.Pool, tenant_id: UUID, user_id: UUID, *, scim_url: str | None = None) -> Stored | None:
    """Return one user of a tenant, applied or still waiting, or None.

    Args:
        pool: where to read.
        tenant_id: whose user.
        user_id: which.
        scim_url: the SCIM base URL, when the user's groups are wanted as well.
    """
    rows = await _fetch(pool, _BY_ID, tenant_id, user_id, scim_url)
    return read_stored(rows[0]) if rows else None


def as_uuid(text: str) -> UUID | None:
    """Return the UUID that ``text`` is the canonical form of, else None: SCIM ids are case-exact."""
    try:
        value = UUID(text)
    except ValueError:
        return None
    return value if str(value) == text else None


async def find_users(
    pool: asyncpg.Pool, tenant_id: UUID, lookup: Lookup, *, scim_url: str | None = None
) -> list[Stored]:
    """Return the users that a matching query names; the cost does not grow with the directory.

    Args:
        pool: where to read.
        tenant_id: whose users.
        lookup: what they are looked up by.
        scim_url: the SCIM base URL, when the users' groups are wanted as well.
    """
    value: object = lookup.value
    if lookup.kind == "id":
        value = as_uuid(lookup.value)
        if value is None:
            return []
        query = _BY_ID
    elif lookup.kind == "userName":
        query, value = _BY_USER_NAME, compare_key(lookup.value)
    elif lookup.kind == "workEmail":
        query, value = _BY_WORK_EMAIL, compare_key(lookup.value)
    else:
        query = _BY_EXTERNAL_ID
    return [read_stored(row) for row in await _fetch(pool, query, tenant_id, value, scim_url)]


async def _fetch(
    pool: asyncpg.Pool, query: tuple[str, str], tenant_id: UUID, value: object, scim_url: str | None
) -> list[asyncpg.Record]:
    without, with_groups = query
    if scim_url is None:
        return await pool.fetch(without, tenant_id, value)
    return await pool.fetch(with_groups, tenant_id, value, scim_url)


@dataclass(frozen=True, slots=True)
class Source:
    """Where the resources of one type are listed from."""

    schema: ResourceSchema
    tables: tuple[str, ...]
    """Where they stand together, each with the columns that `compile_filter` asks for."""
    relations: Callable[[str], Mapping[str, Relation]]
    """Makes what a filter may ask of other tables, from the SCIM base URL."""
    rows: str = "NULL"
    """SQL for `Stored.rows` of the resource `d`, where one statement can have that too; `{url}` is the base URL's."""


@lru_cache(maxsize=8)
def _user_relations(scim_url: str) -> Mapping[str, Relation]:
    return {
        "groups": Relation(
            "membership AS m JOIN groups AS g ON g.tenant_id = m.tenant_id AND g.id = m.group_id"
            " WHERE m.tenant_id = r.tenant_id AND m.member_id = r.id",
            {
                "value": Column("m.group_id", "uuid"),
                "$ref": Column(f"({literal(scim_url + '/Groups/')} || m.group_id)"),
                "display": Column("(g.doc ->> 'displayName')"),
                "type": Column("'direct'::text"),
            },
        )
    }


# The halves of what the view `directory_user` puts together.
USERS = Source(USER, ("tenant_users", "tenant_waiting_users"), _user_relations, GROUPS_OF)
