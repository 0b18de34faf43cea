"""Lists: a page of the resources of one type or of several, by number or after the one where the last page ended.

The default order is that of the ids, which are UUIDs of version 7: the order of coming. By cursor a page begins behind
a resource, so whoever comes or goes in between, each resource that exists during the whole walk is read exactly once.
By index a page begins behind a number of resources. Newcomers stand at the end, so they move nobody, with one
exception: an id is given before its create is committed, by the clock of the process that accepts it, so a newcomer
may come to stand before users who are younger than that clock is behind, plus the time that the create takes (20
seconds at most). Where a page has already gone past those, its last user is read a second time on the next; nobody is
ever left out by a newcomer. A deletion while somebody reads by index moves everyone behind it by one: that is what
index paging is, and what cursors are for.

The total is counted: exactly and every time by index, which costs what walking an index of the tenant costs. By
cursor only as far as `MOST_COUNTED`, beyond which there is none (RFC 9865 allows that), so that every page costs the
same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from models.db import tenant_scope
from models.directory.read import Source, Stored, read_stored
from models.scim.cursor import Position
from models.scim.filter_sql import compile_filter
from models.scim.sort import sort_key

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import asyncpg
    from scim2_models.path import FilterNode

    from models.db import Connection
    from models.scim.schema import ResourceSchema
    from models.scim.sort import Order

MOST_COUNTED: Final = 1_000
"""Most resources that a page by cursor counts."""


@dataclass(frozen=True, slots=True)
class Part:
    """What a list takes of one resource type."""

    source: Source
    schema: ResourceSchema
    """What the tenant's resources of this type may hold."""
    tree: FilterNode | None = None
    """A parsed filter, or None for all."""
    rows: bool = False
    """Whether `Stored.rows` is wanted as well."""


@dataclass(frozen=True, slots=True)
class Listed:
    """Part of a list."""

    total: int | None
    """The number of all that match; None when they are too many to be counted for each page of a walk by cursor."""
    resources: list[tuple[int, Stored]]
    """Each with the place of its part among those that were asked for."""
    next: Position | None = None
    """By cursor: behind which the next page begins, None on the last page."""


class _Query:
    """The statements of one list.

    Every table of every part is an arm of its own, ordered and limited by itself: PostgreSQL walks the index of each
    and merges them. Through the view it would sort everyone who waits.
    """

    def __init__(self, tenant_id: UUID, parts: Sequence[Part], order: Order | None, scim_url: str) -> None:
        self.parts = parts
        self.order = order
        self.scim_url = scim_url
        self.values: list[Any] = [tenant_id]
        self.arms = [arm for number, part in enumerate(parts) for arm in self._arms(number, part)]
        self.filter_values = len(self.values)

    def _arms(self, number: int, part: Part) -> list[tuple[str, str]]:
        """Return for each table of a part what a row is made of, and where it comes from."""
        relations = part.source.relations(self.scim_url)
        key = "NULL::text" if self.order is None else sort_key(self.order, part.schema, relations)
        where = "r.tenant_id = $1"
        if part.tree is not None:
            fragment = compile_filter(
                part.tree,
                part.schema,
                first_param=len(self.values) + 1,
                relations=relations,
                base_url=self.scim_url,
            )
            self.values += fragment.params
            where += f" AND ({fragment.sql})"
        row = f"{number} AS part, r.id, r.doc, r.version, r.created_at, r.last_modified, {key} AS key"
        return [(row, f"FROM {table} AS r WHERE {where}") for table in part.source.tables]

    def param(self, value: Any) -> str:
        self.values.append(value)
        return f"${len(self.values)}"

    def total(self, most: int | None) -> tuple[str, list[Any]]:
        """Return a statement that counts, no further than ``most``, with its parameters."""
        values = self.values[: self.filter_values]
        if most is None:
            return "SELECT " + " + ".join(f"(SELECT count(*) {origin})" for _, origin in self.arms), values
        each = " UNION ALL ".join(f"SELECT {origin}" for _, origin in self.arms)
        return f"SELECT count(*) FROM ({each} LIMIT {most}) AS c", values  # noqa: S608  values are parameters

    def page(self, bounds: str, limit: int, offset: int) -> str:
        """Return a statement for the page; ``bounds`` says of a row `d` where it may begin.

        What is costly to write, documents and rows of other tables, is written of the page only.
        """
        order = self._order()
        enough = self.param(offset + limit)
        merged = " UNION ALL ".join(
            f"(SELECT * FROM (SELECT {row} {origin}) AS d{bounds} ORDER BY {order} LIMIT {enough})"  # noqa: S608  as above
            for row, origin in self.arms
        )
        window = f"LIMIT {self.param(limit)} OFFSET {self.param(offset)}"
        return (
            f"SELECT d.id, d.doc::text, d.version, d.created_at, d.last_modified, {self._rows()}, d.part, d.key::text"  # noqa: S608  as above
            f" FROM (SELECT * FROM ({merged}) AS d ORDER BY {order} {window}) AS d ORDER BY {order}"
        )

    def _order(self) -> str:
        # As RFC 7644 §3.4.2.3 has it: who has no value comes last, or first when descending. So does PostgreSQL.
        if self.order is None:
            return "d.id"
        return f"d.key{self.order.collation} {'DESC' if self.order.descending else 'ASC'}, d.id"

    def _rows(self) -> str:
        wanted = [(number, part.source.rows) for number, part in enumerate(self.parts) if part.rows]
        if all(sql == "NULL" for _, sql in wanted):
            return "NULL::text"
        url = f"{self.param(self.scim_url)}::text"
        return "CASE d.part " + " ".join(f"WHEN {number} THEN {sql.format(url=url)}" for number, sql in wanted) + " END"

    def behind(self, position: Position) -> str:
        """Return the condition that a row `d` comes behind a position."""
        later = f"d.id > {self.param(position.id)}"
        if self.order is None:
            return f" WHERE {later}"
        if position.key is None:
            return f" WHERE {'d.key IS NOT NULL OR' if self.order.descending else 'd.key IS NULL AND'} {later}"
        here = f"{self.param(position.key)}::text::{self.order.type}"
        collation = self.order.collation
        beyond = (
            f"d.key < {here}{collation}" if self.order.descending else f"d.key > {here}{collation} OR d.key IS NULL"
        )
        return f" WHERE {beyond} OR (d.key = {here}{collation} AND {later})"

    def from_number(self, offset: int) -> str:
        """Return the condition that a row `d` is not among the first of a whole list: walks the indexes alone."""
        skip = self.param(offset)
        each = " UNION ALL ".join(f"(SELECT r.id {origin} ORDER BY r.id LIMIT {skip} + 1)" for _, origin in self.arms)
        return f" WHERE d.id >= (SELECT i.id FROM ({each}) AS i ORDER BY i.id OFFSET {skip} LIMIT 1)"  # noqa: S608  as above


async def list_by_index(
    pool: asyncpg.Pool,
    tenant_id: UUID,
    parts: Sequence[Part],
    *,
    start_index: int,
    count: int,
    scim_url: str,
    order: Order | None = None,
) -> Listed:
    """Return a page by its number, and the number of all that match (RFC 7644 §3.4.2.4).

    Args:
        pool: where to read.
        tenant_id: whose resources.
        parts: of which types.
        start_index: 1 for the first.
        count: most resources to return; 0 only counts.
        scim_url: the SCIM base URL.
        order: other than that of their coming.

    Raises:
        InvalidFilterError: a filter names what its resource type does not have.
    """
    query = _Query(tenant_id, parts, order, scim_url)
    async with tenant_scope(pool, [tenant_id]) as connection:
        return await _by_index(connection, query, start_index, count)


async def _by_index(connection: Connection, query: _Query, start_index: int, count: int) -> Listed:
    statement, values = query.total(None)
    total: int = await connection.fetchval(statement, *values)
    if count == 0 or start_index > total:
        return Listed(total, [])
    offset = start_index - 1
    if offset and query.order is None and all(part.tree is None for part in query.parts):
        statement = query.page(query.from_number(offset), count, 0)
    else:
        statement = query.page("", count, offset)
    found = [_read(row) for row in await connection.fetch(statement, *query.values)]
    return Listed(max(total, offset + len(found)), found)


async def list_by_cursor(
    pool: asyncpg.Pool,
    tenant_id: UUID,
    parts: Sequence[Part],
    *,
    after: Position | None,
    count: int,
    scim_url: str,
    order: Order | None = None,
) -> Listed:
    """Return the page behind a position (RFC 9865); a cursor is made of `Listed.next`.

    Args:
        pool: where to read.
        tenant_id: whose resources.
        parts: of which types.
        after: where the last page ended; None for the first page.
        count: most resources to return; 0 only counts, and counts all.
        scim_url: the SCIM base URL.
        order: other than that of their coming, and the same on every page.

    Raises:
        InvalidFilterError: a filter names what its resource type does not have.
    """
    query = _Query(tenant_id, parts, order, scim_url)
    async with tenant_scope(pool, [tenant_id]) as connection:
        return await _by_cursor(connection, query, after, count)


async def _by_cursor(connection: Connection, query: _Query, after: Position | None, count: int) -> Listed:
    statement, values = query.total(MOST_COUNTED + 1 if count else None)
    total: int | None = await connection.fetchval(statement, *values)
    if count == 0 or total == 0:
        return Listed(total, [])
    statement = query.page(query.behind(after) if after else "", count + 1, 0)
    rows = await connection.fetch(statement, *query.values)
    found = [_read(row) for row in rows[:count]]
    if total is not None and total > MOST_COUNTED:
        total = None
    last = rows[count - 1] if len(rows) > count else None
    return Listed(total, found, Position(last["id"], last["key"]) if last else None)


def _read(row: asyncpg.Record) -> tuple[int, Stored]:
    return row["part"], read_stored(row)
