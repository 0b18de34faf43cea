"""Reading users: those in the store and those accepted but not yet applied, as one directory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from models.scim.filter_sql import compile_filter
from models.scim.schema import USER, compare_key

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg
    from scim2_models.path import FilterNode

    from models.scim.filter import Lookup


@dataclass(frozen=True, slots=True)
class Stored:
    """A resource as it is stored: its document as JSON text, and what `id` and `meta` are made of."""

    id: UUID
    doc: str
    version: int
    created_at: datetime
    last_modified: datetime


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list: the number of all matches, and the resources asked for."""

    total: int
    resources: list[Stored]


def _both(users: str, waiting: str) -> str:
    """Return the query for a lookup that each half of the directory answers from its own index."""
    return f"""
SELECT id, doc::text, version, created_at, last_modified FROM users WHERE tenant_id = $1 AND {users}
UNION ALL
SELECT resource_id, (payload -> 'doc')::text, 1, staged_at, staged_at FROM job
 WHERE tenant_id = $1 AND kind = 'user.create' AND state IN ('staged', 'running', 'retry', 'dead') AND {waiting}
 ORDER BY id
"""  # noqa: S608  constants only


_NAMED = "(SELECT resource_id FROM identifier WHERE tenant_id = $1 AND kind = 'userName' AND value_key = $2)"
_BY_ID = _both("id = $2", "resource_id = $2")
_BY_USER_NAME = _both(f"id = {_NAMED}", f"resource_id = {_NAMED}")
_BY_EXTERNAL_ID = _both("external_id = $2", "payload ->> 'external_id' = $2")
# A person rarely has two work addresses; those who do are found by an index that holds only them.
_BY_WORK_EMAIL = _both(
    "(work_email_keys[1] = $2 OR (cardinality(work_email_keys) > 1 AND work_email_keys @> ARRAY[$2]))",
    "(payload -> 'work_email_keys' ->> 0 = $2"
    " OR (jsonb_array_length(payload -> 'work_email_keys') > 1 AND payload -> 'work_email_keys' ? $2))",
)


def _stored(row: asyncpg.Record) -> Stored:
    return Stored(*row)


async def get_user(pool: asyncpg.Pool, tenant_id: UUID, user_id: UUID) -> Stored | None:
    """Return one user of a tenant, applied or still waiting, or None."""
    row = await pool.fetchrow(_BY_ID, tenant_id, user_id)
    return _stored(row) if row else None


def as_uuid(text: str) -> UUID | None:
    """Return the UUID that ``text`` is the canonical form of, else None: SCIM ids are case-exact."""
    try:
        value = UUID(text)
    except ValueError:
        return None
    return value if str(value) == text else None


async def find_users(pool: asyncpg.Pool, tenant_id: UUID, lookup: Lookup) -> list[Stored]:
    """Return the users that a matching query names; the cost does not grow with the directory."""
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
    return [_stored(row) for row in await pool.fetch(query, tenant_id, value)]


async def list_users(
    pool: asyncpg.Pool, tenant_id: UUID, *, tree: FilterNode | None, start_index: int, count: int
) -> Page:
    """Return a page of a tenant's users, oldest first, and the number of all that match.

    Args:
        pool: where to read.
        tenant_id: whose users.
        tree: a parsed filter, or None for everybody.
        start_index: 1 for the first (RFC 7644 §3.4.2.4).
        count: most resources to return; 0 only counts.

    Raises:
        InvalidFilterError: the filter names what this resource type does not have.
    """
    where, values = "", []
    if tree is not None:
        fragment = compile_filter(tree, USER, first_param=2)
        where, values = f" AND ({fragment.sql})", fragment.params
    total: int = await pool.fetchval(
        f"SELECT count(*) FROM directory_user AS r WHERE r.tenant_id = $1{where}",  # noqa: S608  values are parameters
        tenant_id,
        *values,
    )
    if count == 0 or start_index > total:
        return Page(total, [])
    last = len(values) + 1
    rows = await pool.fetch(
        "SELECT r.id, r.doc::text, r.version, r.created_at, r.last_modified FROM directory_user AS r"  # noqa: S608  as above
        f" WHERE r.tenant_id = $1{where} ORDER BY r.id LIMIT ${last + 1} OFFSET ${last + 2}",
        tenant_id,
        *values,
        count,
        start_index - 1,
    )
    return Page(total, [_stored(row) for row in rows])
