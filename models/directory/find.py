"""Looking users up by what identifies them, for one process: lookups that arrive together share a statement.

A statement of its own costs a lookup more processor time, here and in PostgreSQL, than all that it reads. Those of one
statement are one tenant's, so that it speaks for nobody else.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import asyncpg

from models.batch import Batcher
from models.db import ACQUIRE_SECONDS, for_tenant, is_unavailable
from models.directory.read import WAITING, as_uuid, find_users, read_stored
from models.directory.write_sql import GROUPS_IF_WANTED
from models.scim.filter import Lookup
from models.scim.schema import compare_key

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from models.directory.read import Stored
    from models.scim.filter import LookupKind


class _Asked(NamedTuple):
    """One lookup among those of a batch."""

    tenant_id: UUID
    value: str
    scim_url: str | None


def _many(value_type: str, applied: str, waiting: str, named: str = "") -> str:
    # The halves are limited or fenced each for itself (OFFSET 0), so that the planner probes the indexes for each row
    # of `wanted`, however many there are; it cannot know, and is not shown the arrays, so that one plan does for all.
    # Of one who is named, the second half is read only where the first has nobody.
    end = "LIMIT 1" if named else "OFFSET 0"
    return for_tenant(f"""
WITH wanted AS MATERIALIZED (
    SELECT $1::uuid AS tenant_id, w.*
      FROM unnest((SELECT $2::{value_type}[]), (SELECT $3::text[])) WITH ORDINALITY AS w (value, url, place)
)
SELECT d.*, {GROUPS_IF_WANTED}, place FROM wanted {named} CROSS JOIN LATERAL (
    SELECT id, doc::text, version, created_at, last_modified FROM {applied} AND one.tenant_id = wanted.tenant_id
    UNION ALL
    SELECT {waiting} AND one.tenant_id = wanted.tenant_id
    {end}) AS d
""")  # noqa: S608  constants only


def _many_named(value_type: str, named: str) -> str:
    return _many(
        value_type,
        "users AS one WHERE one.id = named.id",
        "resource_id, (payload -> 'doc')::text, 1, staged_at, staged_at FROM job AS one"
        f" WHERE {WAITING} AND resource_id = named.id",
        named,
    )


def _many_searched(applied: str, waiting: str) -> str:
    # Through the views, as a lone lookup.
    return _many(
        "text",
        f"tenant_users AS one WHERE {applied}",
        f"id, doc::text, version, created_at, last_modified FROM tenant_waiting_users AS one WHERE {waiting}",
    )


_ITSELF = "CROSS JOIN LATERAL (SELECT wanted.value AS id) AS named"
_BY_NAME = """CROSS JOIN LATERAL (
    SELECT resource_id AS id FROM identifier
     WHERE identifier.tenant_id = wanted.tenant_id AND kind = 'userName' AND value_key = wanted.value
     LIMIT 1) AS named"""
_MANY: dict[LookupKind, str] = {
    "id": _many_named("uuid", _ITSELF),
    "userName": _many_named("text", _BY_NAME),
    "externalId": _many_searched("external_id = wanted.value", "external_id = wanted.value"),
    "workEmail": _many_searched(
        "(work_email_keys[1] = wanted.value"
        " OR (cardinality(work_email_keys) > 1 AND work_email_keys @> ARRAY[wanted.value]))",
        "(work_email_keys ->> 0 = wanted.value"
        " OR (jsonb_array_length(work_email_keys) > 1 AND work_email_keys ? wanted.value))",
    ),
}


class UserFinder:
    """Finds users, each lookup at the cost of its part of a statement; a lone one waits for nobody."""

    def __init__(self, pool: asyncpg.Pool, *, limit: int, in_flight: int) -> None:
        """Take the pool to read on, the most lookups of a statement, and the most statements at once."""
        self._pool = pool
        self._batchers: dict[LookupKind, Batcher[_Asked, list[Stored]]] = {
            kind: Batcher(
                partial(self._read, kind),
                limit=limit,
                in_flight=in_flight,
                isolate=lambda error: isinstance(error, asyncpg.PostgresError) and not is_unavailable(error),
                apart=lambda asked: asked.tenant_id,
            )
            for kind in _MANY
        }

    async def find(self, tenant_id: UUID, lookup: Lookup, *, scim_url: str | None = None) -> list[Stored]:
        """Return the users that a matching query names, in the order of their ids.

        Args:
            tenant_id: whose users.
            lookup: what they are looked up by.
            scim_url: the SCIM base URL, when the users' groups are wanted as well.
        """
        return await self._batchers[lookup.kind].submit(_Asked(tenant_id, lookup.value, scim_url))

    async def _read(self, kind: LookupKind, asked: Sequence[_Asked]) -> list[list[Stored]]:
        if len(asked) == 1:
            [(tenant_id, value, scim_url)] = asked
            return [await find_users(self._pool, tenant_id, Lookup(kind, value), scim_url=scim_url)]
        return await find_many(self._pool, kind, asked[0].tenant_id, [one[1:] for one in asked])

    async def close(self) -> None:
        """Wait for the statements that are under way."""
        for batcher in self._batchers.values():
            await batcher.drain()


async def find_many(
    pool: asyncpg.Pool, kind: LookupKind, tenant_id: UUID, asked: Sequence[tuple[str, str | None]]
) -> list[list[Stored]]:
    """Return for each of several lookups of one kind the users that it names, in the order of their ids.

    Args:
        pool: where to read.
        kind: what they are looked up by.
        tenant_id: whose users.
        asked: the value as the client wrote it, and the SCIM base URL where groups are wanted as well.
    """
    values: list[object]
    if kind == "id":
        values = [as_uuid(value) for value, _ in asked]  # NULL, which nobody has, of what is no id
    elif kind == "externalId":
        values = [value for value, _ in asked]
    else:
        values = [compare_key(value) for value, _ in asked]
    async with pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
        rows = await connection.fetch(_MANY[kind], tenant_id, values, [url for _, url in asked])
    found: list[list[Stored]] = [[] for _ in asked]
    for row in rows:
        found[row[6] - 1].append(read_stored(row))
    for each in found:
        if len(each) > 1:
            each.sort(key=lambda stored: stored.id)
    return found
