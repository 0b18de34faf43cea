"""Finding jobs by a search: pages in order of age, and counts that stop.

A search that names an id, a person, an externalId or a correlation is narrowed to the jobs that these lead to. One
that asks only for open jobs reads those; any other walks the ledger in order of time, `WINDOW` jobs a page.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from models import job_find_sql as sql
from models.errors import UsageError
from models.job_search import TEXT, Search, Term, as_uuid, parse_search, read_age

if TYPE_CHECKING:
    from collections.abc import Iterable

    from models.db import Connection

_NARROWING = (TEXT, "id", "user", "externalId", "correlation")
_RARE = frozenset(("running", "dead", "cancelled"))
_CLOCKS = timedelta(minutes=1)
"""How far the clocks that ids were made by may be from the database's."""
_LAST = "\U0010ffff"  # no character comes after it


@dataclass(frozen=True, slots=True)
class Query:
    """A search with its names looked up, ready to be run again and again."""

    search: Search
    states: frozenset[str]
    ids: frozenset[UUID] | None = None
    """The only jobs that can match; any can if None."""
    excluded: frozenset[UUID] = frozenset()
    tenants: tuple[tuple[bool, tuple[UUID, ...]], ...] = ()
    """Whether not to be of these tenants, and which."""
    now: datetime = field(default_factory=datetime.now)
    bound_at: datetime | None = None
    """Jobs staged later do not match."""
    cut: bool = False
    """Whether names led to more jobs than are looked at."""

    def only(self, states: Iterable[str]) -> Query:
        """Return the query for jobs that are in one of these states too."""
        return replace(self, states=self.states & frozenset(states))


@dataclass(frozen=True, slots=True)
class Page:
    """Jobs of a page, in order."""

    jobs: list[dict[str, Any]]
    after: UUID | None
    """Where the next page begins; None if this is the last."""
    note: str | None = None
    """What was left out, in words."""


async def resolve(connection: Connection, search: Search | str) -> Query:
    """Look up what a search names.

    Raises:
        UsageError: it cannot be read, or names a tenant that there is not.
    """
    if isinstance(search, str):
        search = parse_search(search)
    tenants = [(term.negated, await _tenants(connection, term)) for term in search.terms if term.qualifier == "tenant"]
    asked = [ids for negated, ids in tenants if not negated]
    within = list(set.intersection(*map(set, asked))) if asked else None
    ids: frozenset[UUID] | None = None
    excluded: frozenset[UUID] = frozenset()
    cut = False
    for term in search.terms:
        if term.qualifier not in _NARROWING:
            continue
        found: set[UUID] = set()
        for value in term.values:
            led, more = await _candidates(connection, term.qualifier, value, within)
            found |= led
            cut = cut or more
        if term.negated:
            excluded |= found
        else:
            ids = frozenset(found if ids is None else ids & found)
    now = await connection.fetchval("SELECT now()")
    return Query(search, search.states(), ids, excluded, tuple(tenants), now, cut=cut)


async def _tenants(connection: Connection, term: Term) -> tuple[UUID, ...]:
    rows = await connection.fetch("SELECT id, name FROM tenant WHERE name = ANY ($1)", list(term.values))
    missing = sorted(set(term.values) - {row["name"] for row in rows})
    if missing:
        raise UsageError(f"There is no tenant {', '.join(missing)}. `usher tenant list` shows them.")
    return tuple(row["id"] for row in rows)


async def _candidates(
    connection: Connection, qualifier: str, value: str, tenants: list[UUID] | None
) -> tuple[set[UUID], bool]:
    """Return the jobs that a narrowing value leads to, and whether there may be more."""
    uuid = as_uuid(value)
    if qualifier == "id":
        return ({uuid} if uuid else set()), False
    if qualifier == "correlation":
        return await _correlated(connection, uuid) if uuid else (set(), False)
    if uuid is not None and qualifier in (TEXT, "user"):
        owners = await connection.fetch("SELECT id FROM tenant WHERE $1::uuid[] IS NULL OR id = ANY ($1)", tenants)
        jobs, cut = await _jobs_of(connection, [(row["id"], uuid) for row in owners])
        if qualifier == TEXT:
            correlated, more = await _correlated(connection, uuid)
            jobs, cut = jobs | correlated | {uuid}, cut or more
        return jobs, cut
    if qualifier == "externalId":
        rows = await connection.fetch(sql.PEOPLE_BY_EXTERNAL_ID, tenants, value, sql.MOST_PEOPLE)
        people = {(row["tenant_id"], row["user_id"]) for row in rows}
        return await _jobs_of(connection, people | await _former(connection, tenants, "external_id", value))
    from models.scim.schema import compare_key  # noqa: PLC0415  slow to import, and seldom needed at the terminal

    prefix = qualifier == TEXT or value.endswith("*")
    key = compare_key(value.removesuffix("*"))
    rows = await connection.fetch(sql.PEOPLE_BY_NAME, tenants, key, key + _LAST if prefix else key, sql.MOST_PEOPLE)
    people = {(row["tenant_id"], row["user_id"]) for row in rows}
    if not value.endswith("*"):
        people |= await _former(connection, tenants, "label", value)
    jobs, cut = await _jobs_of(connection, people)
    return jobs, cut or len(rows) == sql.MOST_PEOPLE


async def _former(connection: Connection, tenants: list[UUID] | None, key: str, value: str) -> set[tuple[UUID, UUID]]:
    rows = await connection.fetch(sql.FORMER_PEOPLE, tenants, key, value, sql.MOST_CANDIDATES)
    return {(row["tenant_id"], row["user_id"]) for row in rows}


async def _jobs_of(connection: Connection, people: Iterable[tuple[UUID, UUID]]) -> tuple[set[UUID], bool]:
    people = list(people)
    rows = await connection.fetch(
        sql.JOBS_OF_PEOPLE, [tenant for tenant, _ in people], [user for _, user in people], sql.MOST_CANDIDATES
    )
    return {row["id"] for row in rows}, len(rows) == sql.MOST_CANDIDATES


async def _correlated(connection: Connection, correlation_id: UUID) -> tuple[set[UUID], bool]:
    rows = await connection.fetch(sql.CORRELATED, [correlation_id], sql.MOST_CANDIDATES)
    people = {(row["tenant_id"], UUID(row["user_id"])) for row in rows if as_uuid(row["user_id"] or "")}
    of_people, cut = await _jobs_of(connection, people)
    told = {row["job_id"] for row in rows if row["job_id"]}
    found = await connection.fetch(sql.WITH_CORRELATION, list(told | of_people), [correlation_id])
    return {row["id"] for row in found}, cut or len(rows) == sql.MOST_CANDIDATES


class _Where:
    """Collects conditions and their values."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._conditions = ["true"]

    def value(self, value: Any, kind: str) -> str:
        self.values.append(value)
        return f"${len(self.values)}::{kind}"

    def add(self, condition: str, *, negated: bool = False) -> None:
        self._conditions.append(f"NOT coalesce({condition}, false)" if negated else f"({condition})")

    def __str__(self) -> str:
        return " AND ".join(self._conditions)


def _where(query: Query) -> _Where:
    where = _Where()
    for negated, tenant_ids in query.tenants:
        where.add(f"tenant_id = ANY ({where.value(list(tenant_ids), 'uuid[]')})", negated=negated)
    for term in query.search.terms:
        if term.qualifier in ("kind", "queue"):
            where.add(f"{term.qualifier} = ANY ({where.value(list(term.values), 'text[]')})", negated=term.negated)
        elif term.qualifier == "error":
            where.add(" OR ".join(_error(where, value) for value in term.values), negated=term.negated)
        elif term.qualifier == "age":
            ages = [read_age(value) for value in term.values]
            where.add(
                " OR ".join(
                    f"staged_at {'<' if sign == '>' else '>'} {where.value(query.now - age, 'timestamptz')}"
                    for sign, age in ages
                ),
                negated=term.negated,
            )
    if query.bound_at is not None:
        where.add(f"staged_at <= {where.value(query.bound_at, 'timestamptz')}")
    if query.ids is not None:
        where.add(f"id = ANY ({where.value(list(query.ids), 'uuid[]')})")
    if query.excluded:
        where.add(f"id = ANY ({where.value(list(query.excluded), 'uuid[]')})", negated=True)
    return where


def _error(where: _Where, value: str) -> str:
    code, tilde, fingerprint = value.rpartition("~")
    if tilde:
        return (
            f"(error_code = {where.value(code, 'text')}"
            f" AND {sql.FINGERPRINT.strip()} = {where.value(fingerprint, 'text')})"
        )
    if value.endswith("*"):
        return f"starts_with(lower(error_code), {where.value(value[:-1].lower(), 'text')})"
    return f"lower(error_code) = {where.value(value.lower(), 'text')}"


def _id_at(moment: datetime) -> UUID:
    """Return the least id that can have been made at a moment (RFC 9562 §5.7: its first 48 bits are milliseconds)."""
    return UUID(int=max(0, int(moment.timestamp() * 1000)) << 80)


def _edge(query: Query, where: _Where, after: UUID | None, *, newest: bool) -> str:
    """Return the condition on ids that a page begins with: behind ``after``, and no further than ages allow."""
    bounds = [f"id {'<' if newest else '>'} {where.value(after, 'uuid')}"] if after is not None else []
    for term in query.search.terms:
        if term.qualifier != "age" or term.negated:
            continue
        ages = [read_age(value) for value in term.values]
        if all(sign == ">" for sign, _ in ages):
            youngest = query.now - min(age for _, age in ages) + _CLOCKS
            bounds.append(f"id < {where.value(_id_at(youngest), 'uuid')}")
        elif all(sign == "<" for sign, _ in ages):
            oldest = query.now - max(age for _, age in ages) - _CLOCKS
            bounds.append(f"id > {where.value(_id_at(oldest), 'uuid')}")
    return " AND ".join(bounds) or "true"


async def find_ids(
    connection: Connection, query: Query, *, after: UUID | None = None, limit: int, newest: bool = True
) -> tuple[list[UUID], UUID | None]:
    """Return ids of jobs that match, in order of age.

    Args:
        connection: where to read.
        query: from `resolve`.
        after: the id that the page before ended with.
        limit: most ids.
        newest: whether the newest come first.

    Returns:
        The ids; and, if a walk ended at its limit before the page was full, the id that it ended with.
    """
    if not query.states or query.ids == frozenset():
        return [], None
    order = "DESC" if newest else "ASC"

    async def run(statement: Any, start: UUID | None, wanted: int) -> list[UUID]:
        where = _where(query)
        edge = _edge(query, where, start, newest=newest)
        most = where.value(wanted, "int")
        text = statement(query.states, str(where), edge=edge, order=order, limit=most)
        return [row["id"] for row in await connection.fetch(text, *where.values)]

    if query.ids is not None or query.states == {"cancelled"}:  # whose index is in order of the id
        return await run(_narrow_ids, after, limit), None
    walked: list[UUID] = []
    is_open = query.states <= frozenset(sql.OPEN)
    # What is open is mostly new: the newest of it are soon found by a walk, the oldest only behind all that is done.
    if not (query.states <= _RARE or (is_open and not newest)):
        walked = await run(sql.window_ids, after, limit)
        if len(walked) == limit:
            return walked, None
        reached = await _window_end(connection, query, after, newest=newest)
        if reached is None or not is_open:
            return walked, reached
        after = reached
    return walked + await run(sql.open_ids, after, limit - len(walked)), None


def _narrow_ids(states: frozenset[str], where: str, *, edge: str, order: str, limit: str) -> str:
    return f"SELECT id FROM job WHERE {sql.in_states(states)} AND {edge} AND {where} ORDER BY id {order} LIMIT {limit}"  # noqa: S608  made of constants and placeholders


async def _window_end(connection: Connection, query: Query, after: UUID | None, *, newest: bool) -> UUID | None:
    """Return the last id of a whole window, or None if the ledger ends before."""
    where = _Where()
    edge = _edge(query, where, after, newest=newest)
    end = sql.window_end(edge=edge, order="DESC" if newest else "ASC")
    reached: UUID | None = await connection.fetchval(end, *where.values)
    return reached


async def count(connection: Connection, query: Query) -> int:
    """Return how many jobs match, no more than `job_find_sql.MOST_COUNTED`; of ended ones among the newest `WINDOW`."""
    if not query.states or query.ids == frozenset():
        return 0
    where = _where(query)
    edge = _edge(query, where, None, newest=True)
    most = where.value(sql.MOST_COUNTED, "int")
    if query.ids is not None:
        statement = _narrow_ids
    else:
        statement = _uncounted if query.states <= frozenset((*sql.OPEN, "cancelled")) else sql.window_ids
    ids = statement(query.states, str(where), edge=edge, order="DESC", limit=most)
    found: int = await connection.fetchval(sql.counted(ids), *where.values)
    return found


def _uncounted(states: frozenset[str], where: str, *, edge: str, order: str, limit: str) -> str:  # noqa: ARG001  as the others
    """Return what can be counted without the rows themselves, and in no order, so that it ends when there is enough."""
    held = f"{sql.in_states(states)} AND {edge} AND {where}"
    return f"""
(SELECT 1 FROM job WHERE kind = 'user.create' AND {held}
 UNION ALL SELECT 1 FROM job WHERE kind <> 'user.create' AND {held}) LIMIT {limit}
"""  # noqa: S608  as above


async def find_page(
    connection: Connection, query: Query, *, after: UUID | None = None, limit: int = 100, newest: bool = True
) -> Page:
    """Return one page of jobs, without their payload.

    Args:
        connection: where to read.
        query: from `resolve`.
        after: `Page.after` of the page before.
        limit: most jobs.
        newest: whether the newest come first.
    """
    ids, reached = await find_ids(connection, query, after=after, limit=limit + 1, newest=newest)
    more = len(ids) > limit
    ids = ids[:limit]
    rows = {row["id"]: dict(row) for row in await connection.fetch(sql.SHOWN, ids)}
    notes = []
    if reached is not None and not more:
        notes.append(
            f"Only {sql.WINDOW:,} jobs were looked at; go on from there, or name an id, a user or a correlation."
        )
    if query.cut:
        notes.append(
            f"The names lead to more than {sql.MOST_PEOPLE:,} people or {sql.MOST_CANDIDATES:,} jobs; only as many were"
            " looked at."
        )
    return Page([rows[one] for one in ids if one in rows], ids[-1] if more else reached, " ".join(notes) or None)
