"""Asking the audit log: pages of events newest first, one event, counts, and what is new.

Whose events may be seen is an argument of every function here, `tenant_id`, and no text of a search can widen it.
A question that PostgreSQL cannot answer in two seconds is given up with a word on how to narrow it.
"""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from models.audit.cursor import Place, make_cursor, read_cursor
from models.audit.filter_sql import Where, text_of, token_id, where, written_about
from models.audit.search import ACTORS, DEFAULT_WINDOW, Search, read_search
from models.db import named_tenants
from models.errors import InvalidQueryError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from datetime import tzinfo
    from uuid import UUID

    from models.db import Connection

MOST_EVENTS: Final = 500
"""On one page."""
MOST_COUNTED: Final = 10_000
"""Events that counts are made of."""
STATEMENT_SECONDS: Final = 2
SETTLED: Final = timedelta(minutes=2)
"""No transaction of Usher lives so long: to what is older, no event can be added any more."""
MOST_READ: Final = 50_000
"""Events whose labels are read for free text before a page ends, full or not."""

COLUMNS: Final = (
    "occurred_at, id, tenant_id, action, phase, outcome, reason, severity, actor_type, actor_id, actor_label,"
    " targets, correlation_id, job_id, context, diff, changed, schema_version"
)
_NEWEST = "ORDER BY occurred_at DESC, id DESC"
# A custom plan sees which partitions a time range needs, and how rare what is asked for is.
_LIMITS = f"""
SELECT set_config('statement_timeout', '{STATEMENT_SECONDS}s', true),
       set_config('plan_cache_mode', 'force_custom_plan', true), set_config('usher.tenants', $1, true), now() AS now
"""
_TOKENS = """
SELECT name FROM unnest($1::text[]) AS name
 WHERE EXISTS (SELECT FROM token WHERE token.id = name OR usher_fold(label) = usher_fold(name))
"""


@dataclass(frozen=True, slots=True)
class Page:
    """Events newest first, and where to go on."""

    events: list[dict[str, Any]]
    next: str | None
    """The cursor of the page after this one; None at the end."""
    search: Search
    complete: bool
    """Whether no event can be added to the range of time any more."""

    @property
    def as_of(self) -> datetime:
        """Nothing later than this is on any page of the walk."""
        return self.search.as_of


@asynccontextmanager
async def asking(connection: Connection, tenant_id: UUID | None = None) -> AsyncIterator[datetime]:
    """Read under the limits of a search; gives the database's clock.

    Args:
        connection: where to read; not in a transaction.
        tenant_id: whom the transaction speaks for; None for all, who are seen only by roles that may see all.

    Raises:
        InvalidQueryError: a statement took too long.
    """
    try:
        async with connection.transaction(readonly=True):
            row = await connection.fetchrow(_LIMITS, named_tenants([tenant_id] if tenant_id else []))
            assert row is not None  # noqa: S101  a SELECT without FROM has a row
            yield row["now"]
    except asyncpg.QueryCanceledError as error:
        raise InvalidQueryError(
            f"The search takes longer than {STATEMENT_SECONDS} seconds. Narrow the time range with created:, or name"
            " an action:, target: or correlation:."
        ) from error


async def search_events(
    connection: Connection,
    text: str,
    *,
    tenant_id: UUID | None,
    secret: bytes,
    cursor: str | None = None,
    limit: int = 100,
    zone: tzinfo = UTC,
    window: timedelta = DEFAULT_WINDOW,
) -> Page:
    """Return a page of the events that a search finds.

    Args:
        connection: where to read; not in a transaction.
        text: the search (`models.audit.search`).
        tenant_id: whose events may be seen; None for all.
        secret: what cursors are signed with.
        cursor: the `next` of the page before, of the same search.
        limit: most events, 1 to `MOST_EVENTS`.
        zone: whose days `created:` means.
        window: how far back to look when the text does not say.

    Raises:
        InvalidQueryError: the search cannot be read, or takes too long.
        InvalidCursorError, ExpiredCursorError: the cursor is none of this search.
    """
    walk = (str(tenant_id), text, str(zone), str(window))
    place = read_cursor(secret, walk, cursor, time.time()) if cursor else None
    async with asking(connection, tenant_id) as now:
        search = read_search(text, now=place.as_of if place else now, zone=zone, window=window)
        search = await _look_up_actors(connection, search, tenant_id)
        rows, last = await _page(connection, search, tenant_id, place, limit)
    events = [dict(row) for row in rows[:limit]]
    if len(rows) > limit:
        last = (events[-1]["occurred_at"], events[-1]["id"])
    following = make_cursor(secret, walk, Place(*last, search.as_of), time.time()) if last else None
    return Page(events, following, search, complete=search.until <= now - SETTLED)


async def _look_up_actors(connection: Connection, search: Search, tenant_id: UUID | None) -> Search:
    """Say of names that are no token's that they are of rare actors; jobs have no name, and tokens stay for ever.

    Else a search for one operator would read all that tokens and jobs did in its range of time. Who speaks for one
    tenant sees no token, and reads that tenant's events only.
    """
    names = {
        token_id(value) or value
        for each in search.conditions
        if each.name == "actor"
        for value in each.values
        if value.lower() not in ACTORS
    }
    if not names or tenant_id is not None:
        return search
    rows = await connection.fetch(_TOKENS, list(names))
    of_tokens = {row["name"] for row in rows}
    conditions = [
        replace(each, rare=not any((token_id(value) or value) in of_tokens for value in each.values))
        if each.name == "actor"
        else each
        for each in search.conditions
    ]
    return replace(search, conditions=tuple(conditions))


async def _page(
    connection: Connection, search: Search, tenant_id: UUID | None, after: Place | None, limit: int
) -> tuple[list[asyncpg.Record], tuple[datetime, UUID] | None]:
    """Return the rows after a place, one more than asked for if there is one; and where reading stopped early."""
    if search.has_text and not search.narrow:
        return await _page_by_text(connection, search, tenant_id, after, limit)
    sql, values = page_sql(search, tenant_id, after, limit + 1)
    return await connection.fetch(sql, *values), None


def page_sql(search: Search, tenant_id: UUID | None, after: Place | None, most: int) -> tuple[str, list[Any]]:
    """Return the statement for at most ``most`` events after a place, newest first, and its parameters."""
    made = _behind(search, tenant_id, after)
    limit = made.add(most)
    if not search.narrow:
        return f"SELECT {COLUMNS} FROM tenant_audit_events WHERE {made} {_NEWEST} LIMIT {limit}", made.values  # noqa: S608  values are parameters
    # The index that finds the few comes first, and only then the order: the other way round, a rare name would mean
    # reading everything.
    sql = (
        f"WITH found AS MATERIALIZED (SELECT occurred_at, id FROM tenant_audit_events WHERE {made}),"  # noqa: S608  as above
        f" page AS MATERIALIZED (SELECT occurred_at, id FROM found {_NEWEST} LIMIT {limit})"
        f" SELECT {COLUMNS} FROM page JOIN tenant_audit_events USING (occurred_at, id) {_NEWEST}"
    )
    return sql, made.values


async def _page_by_text(
    connection: Connection, search: Search, tenant_id: UUID | None, after: Place | None, limit: int
) -> tuple[list[asyncpg.Record], tuple[datetime, UUID] | None]:
    """Read labels of at most `MOST_READ` events; the page after goes on behind the last that was read."""
    made = _behind(search, tenant_id, after, text=False)
    given = len(made.values)
    read = f"SELECT {COLUMNS} FROM tenant_audit_events WHERE {made} {_NEWEST} LIMIT {MOST_READ}"  # noqa: S608  values are parameters
    wanted = text_of(search, made)
    most = made.add(limit + 1)
    sql = f"SELECT * FROM ({read}) AS read WHERE {wanted} {_NEWEST} LIMIT {most}"  # noqa: S608  as above
    rows = await connection.fetch(sql, *made.values)
    if len(rows) > limit:
        return rows, None
    row = await connection.fetchrow(
        f"SELECT occurred_at, id FROM tenant_audit_events WHERE {made} {_NEWEST} OFFSET {MOST_READ - 1} LIMIT 1",  # noqa: S608  as above
        *made.values[:given],
    )
    return rows, (row["occurred_at"], row["id"]) if row else None


def _behind(search: Search, tenant_id: UUID | None, after: Place | None, *, text: bool = True) -> Where:
    """Return what must hold of the events of a page that begins after a place."""
    if after is None:
        return where(search, tenant_id, text=text)
    # The bound in time lets the planner leave out partitions, which it does not do for a comparison of rows; and it is
    # the only one from above, for of several PostgreSQL begins at the first, and walks from there.
    made = where(replace(search, until=after.occurred_at + timedelta(microseconds=1)), tenant_id, text=text)
    made.parts.append(f"(occurred_at, id) < ({made.add(after.occurred_at)}::timestamptz, {made.add(after.id)}::uuid)")
    return made


async def find_event(connection: Connection, event_id: UUID, *, tenant_id: UUID | None) -> dict[str, Any] | None:
    """Return one event whole, or None if there is none with this id that may be seen.

    Its id says when it was written, and that is where it is looked for: within a minute, then within a day.
    """
    async with asking(connection, tenant_id):
        for drift in (timedelta(minutes=1), timedelta(days=1)):
            around = written_about(event_id, drift)
            if around is None:
                return None
            row = await connection.fetchrow(
                f"SELECT {COLUMNS} FROM tenant_audit_events WHERE id = $1 AND occurred_at BETWEEN $2 AND $3"  # noqa: S608  constants
                " AND ($4::uuid IS NULL OR tenant_id = $4)",
                event_id,
                *around,
                tenant_id,
            )
            if row is not None:
                return dict(row)
    return None


@dataclass(frozen=True, slots=True)
class Facets:
    """How often each action and outcome is among the newest events that a search finds."""

    counted: int
    all_counted: bool
    """Whether these are all; there may be more than `MOST_COUNTED`."""
    actions: dict[str, int]
    outcomes: dict[str, int]
    search: Search


async def count_facets(
    connection: Connection, text: str, *, tenant_id: UUID | None, zone: tzinfo = UTC, window: timedelta = DEFAULT_WINDOW
) -> Facets:
    """Count actions and outcomes; arguments and errors as for `search_events`."""
    async with asking(connection, tenant_id) as now:
        search = read_search(text, now=now, zone=zone, window=window)
        search = await _look_up_actors(connection, search, tenant_id)
        made = where(search, tenant_id)
        order = "" if search.narrow else _NEWEST
        rows = await connection.fetch(
            f"SELECT action, outcome, count(*) AS events FROM (SELECT action, outcome FROM tenant_audit_events"  # noqa: S608  values are parameters
            f" WHERE {made} {order} LIMIT {made.add(MOST_COUNTED + 1)}) AS sample GROUP BY action, outcome",
            *made.values,
        )
    actions: dict[str, int] = {}
    outcomes: dict[str, int] = {}
    for row in rows:
        actions[row["action"]] = actions.get(row["action"], 0) + row["events"]
        outcomes[row["outcome"]] = outcomes.get(row["outcome"], 0) + row["events"]
    counted = sum(actions.values())
    return Facets(min(counted, MOST_COUNTED), counted <= MOST_COUNTED, _by_count(actions), _by_count(outcomes), search)


def _by_count(counts: dict[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


class Follower:
    """Gives each event that comes to be, once: what `usher audit tail -f` prints.

    Events become visible when their transaction commits, not in the order of their time. All transactions below the
    oldest that was under way at one look had been seen by then; the next look asks for those from it on.
    """

    def __init__(self, text: str, *, tenant_id: UUID | None, zone: tzinfo = UTC) -> None:
        self._text, self._tenant_id, self._zone = text, tenant_id, zone
        self._horizon: str | None = None
        self._given: dict[UUID, int] = {}  # with their transactions' ids

    async def look(self, connection: Connection, most: int = 10_000) -> list[dict[str, Any]]:
        """Return what is new since the last look, oldest first; the first look finds nothing.

        Raises:
            InvalidQueryError: the search cannot be read, or takes too long.
        """
        async with asking(connection, self._tenant_id) as now:
            search = read_search(self._text, now=now, zone=self._zone)
            # The range of time ends in the future here, and begins where no transaction can still be at work.
            search = replace(search, since=max(search.since, now - SETTLED), until=now + timedelta(days=1))
            made = where(search, self._tenant_id)
            made.parts.append(f"xid >= {made.add(self._horizon)}::text::xid8")
            made.parts.append(f"id <> ALL ({made.add(list(self._given))}::uuid[])")
            rows = await connection.fetch(
                "SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS horizon, found.* FROM (VALUES (1)) AS one"  # noqa: S608  values are parameters
                f" LEFT JOIN LATERAL (SELECT {COLUMNS}, xid::text FROM tenant_audit_events WHERE {made}"
                f" ORDER BY occurred_at, id LIMIT {made.add(most)}) AS found ON true",
                *made.values,
            )
        new = [dict(row) for row in rows if row["id"] is not None]
        for event in new:
            del event["horizon"]
            self._given[event["id"]] = int(event.pop("xid"))
        if len(rows) < most:
            self._horizon = rows[0]["horizon"]
            seen_whole = int(rows[0]["horizon"])
            self._given = {event_id: xid for event_id, xid in self._given.items() if xid >= seen_whole}
        return new
