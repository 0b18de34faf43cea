"""The audit log is asked: every qualifier, walks by cursor, whose events one may see, and what is given up."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import orjson
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from models.audit import query
from models.audit.cursor import Place
from models.audit.query import Follower, asking, count_facets, find_event, search_events
from models.audit.record import OPERATOR, Actor, Event, record
from models.audit.search import QUALIFIERS
from models.errors import ExpiredCursorError, InvalidCursorError, InvalidQueryError
from models.tokens import issue_token
from tests.support.ledger import empty_ledger, new_tenant, shared_database, stage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from models.db import Connection
    from tests.support.servers import Servers

SECRET = b"signs cursors"


@pytest.fixture(scope="module")
def database_url(servers: Servers) -> Iterator[str]:
    with shared_database(servers) as url:
        yield url


@pytest.fixture
async def connection(database_url: str, pool: asyncpg.Pool) -> AsyncIterator[Connection]:
    await empty_ledger(database_url)
    async with pool.acquire() as one:
        yield one


class Known:
    """A few events of two tenants, each at a time of its own."""

    def __init__(self, acme: UUID, other: UUID) -> None:
        self.acme, self.other = acme, other
        self.user = {
            "type": "User",
            "id": str(uuid7()),
            "label": f"Ana.{uuid7()}@example.com",
            "external_id": f"e-{uuid7()}",
        }
        self.mail = {"type": "Invitation", "id": str(uuid7()), "label": "Zoë's E-Mail"}
        self.ids: list[UUID] = []
        self.job_id: UUID | None = None


@pytest.fixture
async def known(connection: Connection) -> Known:
    known = Known(await new_tenant(connection), await new_tenant(connection))
    (job,) = await stage(connection, known.acme, payload={})
    known.job_id = job.id
    actor = Actor("token", id="abcdefghijkl", label="Entra Prod")
    diff = [
        {"op": "replace", "path": 'emails[type eq "work"].value', "before": "x", "after": "y"},
        {"op": "add", "path": "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:department", "after": "R"},
    ]
    user = known.user
    near, far = {"ip": "10.1.2.3"}, {"ip": "2001:db8::7"}
    common: list[dict[str, Any]] = [
        {"action": "scim.user.create", "phase": "requested", "actor": actor, "targets": [user], "context": near},
        {"action": "scim.user.update", "phase": "applied", "actor": Actor("job"), "targets": [user], "diff": diff},
        {"action": "invitation.email.send", "phase": "failed", "actor": Actor("job"), "targets": [user, known.mail]},
        {"action": "scim.request.deny", "phase": "denied", "actor": actor, "reason": "invalidValue", "context": far},
        {"action": "scim.user.create", "phase": "requested", "actor": actor, "targets": [{**user, "id": "0"}]},
        {"action": "auth.token.issue", "phase": "applied", "actor": OPERATOR, "context": {"ip": None}},
    ]
    for place, (each, tenant_id) in enumerate(zip(common, [known.acme] * 4 + [known.other] * 2, strict=True)):
        known.ids.append(job.correlation_id if place == 2 else uuid7())
        job_id = job.id if place == 2 else None
        # Each in a transaction, hence at a time, of its own.
        await record(connection, [Event(**each, tenant_id=tenant_id, correlation_id=known.ids[-1], job_id=job_id)])
    return known


async def places(connection: Connection, known: Known, text: str, tenant_id: UUID | None) -> list[int]:
    """Return which of the known events a search finds, in the order found."""
    page = await search_events(connection, text, tenant_id=tenant_id, secret=SECRET)
    assert page.next is None
    assert page.events == sorted(page.events, key=lambda event: (event["occurred_at"], event["id"]), reverse=True)
    return [known.ids.index(event["correlation_id"]) for event in page.events if event["correlation_id"] in known.ids]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", [3, 2, 1, 0]),
        ("action:scim.user.create", [0]),
        ("action:scim.user.*", [1, 0]),
        ("action:scim.user.*,invitation.*", [2, 1, 0]),
        ("-action:scim.*,tenant.*", [2]),
        ("action:auth.token.issue", []),
        ("actor:job", [2, 1]),
        ("actor:JOB,token", [3, 2, 1, 0]),
        ("actor:ABCDEFGHIJKL", []),
        ("actor:abcdefghijkl", [3, 0]),
        ('actor:"ENTRA PROD"', [3, 0]),
        ("actor:ush_abcdefghijkl", [3, 0]),
        ("-actor:job -action:tenant.*", [3, 0]),
        ("attribute:emails", [1]),
        ("attribute:Emails.value", []),
        ("attribute:department", [1]),
        ("attribute:urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:department", [1]),
        ("attribute:email", []),
        ("-attribute:emails -action:tenant.*", [3, 2, 0]),
        ("outcome:failure", [2]),
        ("outcome:failure,denied", [3, 2]),
        ("-outcome:success", [3, 2, 0]),
        ("phase:requested", [0]),
        ("reason:invalidvalue", [3]),
        ("reason:invalid*", [3]),
        ("reason:valid*", []),
        ("-reason:invalidValue -action:tenant.*", [2, 1, 0]),
        ("ip:10.1.2.3", [0]),
        ("ip:10.0.0.0/8", [0]),
        ("ip:10.0.0.0/8,2001:db8::/32", [3, 0]),
        ("ip:11.0.0.0/8", []),
        ("-ip:10.0.0.0/8 -action:tenant.*", [3, 2, 1]),
        ("severity:>=2 -action:tenant.*", []),
        ("severity:informational", [3, 2, 1, 0]),
        ("created:>1h", [3, 2, 1, 0]),
        ("created:<1h", []),
        ("created:2000-01-01", []),
        ("zoë's", [2]),
        ('"ZOE\u0308\'S e-mail"', [2]),
        ('-"zoë\'s" action:*', [3, 1, 0]),
        ("example", [2, 1, 0]),
        ("entra", [3, 0]),
        ("nobody", []),
        ('"s e-mail"', [2]),
        (r'"\"label\""', []),
        ("label", []),
        ("exam_le", []),
        ("50%", []),
    ],
)
async def test_each_qualifier_finds_what_it_says(
    text: str, expected: list[int], known: Known, connection: Connection
) -> None:
    assert await places(connection, known, text, known.acme) == expected


async def test_events_about_somebody_by_id_name_or_external_id(known: Known, connection: Connection) -> None:
    user = known.user
    for name in (user["id"], user["label"], user["label"].upper(), user["external_id"]):
        assert await places(connection, known, f'target:"{name}"', known.acme) == [2, 1, 0]
    assert await places(connection, known, f"target:{user['label']}", None) == [4, 2, 1, 0]
    assert await places(connection, known, f"target:{known.mail['id']}", known.acme) == [2], "also what stands second"
    assert await places(connection, known, 'target:"ZOE\u0308\'S e-mail",nobody', known.acme) == [2]
    assert await places(connection, known, f"target:{user['label'][:-1]}", known.acme) == []
    assert await places(connection, known, r'target:"\""', known.acme) == []
    assert await places(connection, known, f"target:{user['id']} -outcome:failure created:>1h", known.acme) == [1, 0]
    # Whoever names somebody need not say when.
    page = await search_events(connection, f"target:{user['id']}", tenant_id=known.acme, secret=SECRET)
    assert page.search.since < datetime(2000, 1, 1, tzinfo=UTC)


async def test_actors_by_name_over_all_tenants(known: Known, connection: Connection) -> None:
    name, label = f"olga-{uuid7()}", f"Entra {uuid7()}"
    issued = await issue_token(
        connection, tenant_id=known.acme, scopes=["scim"], label=label, days=1, actor=OPERATOR, correlation_id=uuid7()
    )
    token = Actor("token", issued.id, label)
    for actor in (token, Actor("operator", str(uuid7()), name), Actor("operator", str(uuid7()), label)):
        known.ids.append(uuid7())
        about: dict[str, Any] = {"actor": actor, "tenant_id": known.acme, "correlation_id": known.ids[-1]}
        await record(connection, [Event(action="scim.user.update", phase="applied", **about)])
    of_token, of_olga, of_namesake = range(6, 9)
    assert await places(connection, known, f"actor:{name.upper()}", None) == [of_olga]
    assert await places(connection, known, f"actor:{issued.id}", None) == [of_token]
    assert await places(connection, known, f"actor:{issued.text}", None) == [of_token]
    assert await places(connection, known, f'actor:"{label}"', None) == [of_namesake, of_token]
    assert await places(connection, known, f'actor:"{label}",{name}', None) == [of_namesake, of_olga, of_token]
    assert await places(connection, known, f"actor:{name}", known.acme) == [of_olga]
    assert await places(connection, known, f"-actor:{name} actor:operator created:>1h action:scim.*", None) == [
        of_namesake
    ]
    facets = await query.count_facets(connection, f'actor:"{label}"', tenant_id=None)
    assert facets.actions == {"scim.user.update": 2}


async def test_events_by_their_ids(known: Known, connection: Connection) -> None:
    assert await places(connection, known, f"correlation:{known.ids[1]}", known.acme) == [1]
    assert await places(connection, known, f"correlation:{known.ids[1]},{known.ids[3]}", known.acme) == [3, 1]
    assert await places(connection, known, f"correlation:{known.ids[4]}", known.acme) == []
    assert await places(connection, known, f"job:{known.job_id}", known.acme) == [2]
    assert await places(connection, known, f"job:{uuid7()}", known.acme) == []
    page = await search_events(connection, f"correlation:{known.ids[1]}", tenant_id=None, secret=SECRET)
    event = page.events[0]
    assert await places(connection, known, f"id:{event['id']}", known.acme) == [1]
    assert await places(connection, known, f"id:{event['id']}", known.other) == []
    assert await find_event(connection, event["id"], tenant_id=known.acme) == event
    assert await find_event(connection, event["id"], tenant_id=None) == event
    assert await find_event(connection, event["id"], tenant_id=known.other) is None
    assert await find_event(connection, uuid7(), tenant_id=known.acme) is None
    assert await find_event(connection, UUID(int=7), tenant_id=None) is None


async def test_tenants_by_name_and_id_within_what_one_may_see(known: Known, connection: Connection) -> None:
    name = await connection.fetchval("SELECT name FROM tenant WHERE id = $1", known.other)
    assert await places(connection, known, f"tenant:{name}", None) == [5, 4]
    assert await places(connection, known, f"tenant:{known.other},{known.acme}", None) == [5, 4, 3, 2, 1, 0]
    assert await places(connection, known, f"-tenant:{name} tenant:{known.acme},{known.other}", None) == [3, 2, 1, 0]
    assert await places(connection, known, f"tenant:{name}", known.acme) == []


async def test_an_event_is_given_whole(known: Known, connection: Connection) -> None:
    page = await search_events(connection, "phase:applied action:scim.*", tenant_id=known.acme, secret=SECRET)
    (event,) = page.events
    assert (event["action"], event["outcome"], event["actor_type"]) == ("scim.user.update", "success", "job")
    assert event["targets"] == [known.user]
    assert event["changed"] == [change["path"] for change in event["diff"]]
    assert set(query.COLUMNS.split(", ")) == set(event)


# Whose events

_WORDS = st.one_of(
    st.sampled_from([f"{name}:" for name in QUALIFIERS]),
    st.sampled_from(["-", ",", '"', "*", "..", " ", " OR ", "--", "/*", "$1", "'; ", ")", "true", "tenant_id"]),
    st.sampled_from(["action:*", "outcome:success", "severity:1..5", "actor:token", "created:>1h", "example"]),
    st.text(max_size=6),
)


@examples(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
async def test_no_text_shows_another_tenants_events(data: st.DataObject, known: Known, connection: Connection) -> None:
    words = data.draw(st.lists(_WORDS, max_size=8))
    named = data.draw(st.sampled_from(["", f"tenant:{known.other} ", f"target:{known.user['id']},0 "]))
    text = named + "".join(words)
    try:
        page = await search_events(connection, text, tenant_id=known.acme, secret=SECRET)
        facets = await count_facets(connection, text, tenant_id=known.acme)
    except InvalidQueryError as refused:
        position = refused.position
    else:
        position = None
        page_is_own(page.events, facets.counted, known)
    assert position is None or 0 <= position <= len(text)


def page_is_own(events: list[dict[str, Any]], counted: int, known: Known) -> None:
    assert {event["tenant_id"] for event in events} <= {known.acme}
    assert counted == len(events) <= 5


# Pages


async def many(connection: Connection, tenant_id: UUID, count: int) -> list[UUID]:
    """Write events, three at each moment; return their correlation ids, newest first."""
    ids = [uuid7() for _ in range(count)]
    for start in range(0, count, 3):
        await record(
            connection,
            [
                Event(
                    action="ops.job.retry" if place % 2 else "ops.job.cancel",
                    phase="applied",
                    actor=OPERATOR,
                    tenant_id=tenant_id,
                    correlation_id=ids[place],
                    targets=[{"type": "Job", "id": str(place), "label": f"number {place}"}],
                )
                for place in range(start, min(start + 3, count))
            ],
        )
    return ids[::-1]


async def walk(connection: Connection, text: str, tenant_id: UUID | None, limit: int) -> list[list[UUID]]:
    pages, cursor = [], None
    while True:
        page = await search_events(connection, text, tenant_id=tenant_id, secret=SECRET, cursor=cursor, limit=limit)
        pages.append([event["correlation_id"] for event in page.events])
        if page.next is None:
            return pages
        cursor = page.next


@pytest.mark.parametrize("limit", [1, 4, 25, 26])
@pytest.mark.parametrize("text", ["action:ops.*", "number action:ops.*", 'target:"number 3","number 4","number 20"'])
async def test_a_walk_gives_every_event_once(
    text: str, limit: int, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query, "MOST_READ", 5)  # so that free text runs out of events to read on the way
    tenant_id = await new_tenant(connection)
    ids = await many(connection, tenant_id, 25)
    pages = await walk(connection, text, tenant_id, limit)
    flat = [one for page in pages for one in page]
    assert sorted(flat) == sorted(set(flat)), "none twice"
    wanted = ids if "target" not in text else [ids[24 - place] for place in (20, 4, 3)]
    assert set(flat) == set(wanted)
    assert all(len(page) <= limit for page in pages)
    if "number action" not in text:
        assert len(pages) == max(1, -(-len(wanted) // limit)), "no page is empty, none is short but the last"


async def test_a_walk_is_not_disturbed_by_what_comes_meanwhile(connection: Connection) -> None:
    tenant_id = await new_tenant(connection)
    ids = await many(connection, tenant_id, 6)
    first = await search_events(connection, "action:ops.*", tenant_id=tenant_id, secret=SECRET, limit=2)
    await many(connection, tenant_id, 3)
    second = await search_events(
        connection, "action:ops.*", tenant_id=tenant_id, secret=SECRET, limit=10, cursor=first.next
    )
    assert {event["correlation_id"] for event in first.events + second.events} == set(ids)
    assert (second.as_of, second.search.since) == (first.as_of, first.search.since)
    assert not first.complete, "events may still come to be in a range that ends now"
    old = await search_events(connection, "created:<3m", tenant_id=tenant_id, secret=SECRET)
    assert old.complete


async def test_cursors_that_were_not_given_out_for_this_are_refused(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant_id, other = await new_tenant(connection), await new_tenant(connection)
    await many(connection, tenant_id, 3)
    page = await search_events(connection, "action:ops.*", tenant_id=tenant_id, secret=SECRET, limit=1)
    cursor = page.next
    assert cursor is not None
    raw = bytearray(base64.urlsafe_b64decode(cursor + "=="))
    forged = []
    for place in range(len(raw)):
        changed = bytearray(raw)
        changed[place] ^= 1
        forged.append(base64.urlsafe_b64encode(changed).rstrip(b"=").decode())
    for bad in [*forged, "x", "é", cursor[:-1], cursor + "A", cursor + "=", "A" * 70, "\x00"]:
        with pytest.raises(InvalidCursorError):
            await search_events(connection, "action:ops.*", tenant_id=tenant_id, secret=SECRET, cursor=bad)
    foreign: Sequence[tuple[str, UUID | None, bytes]] = [
        ("action:ops.*", other, SECRET),
        ("action:ops.*", None, SECRET),
        ("action:*", tenant_id, SECRET),
        ("action:ops.*", tenant_id, b"another secret"),
    ]
    for text, whose, secret in foreign:
        with pytest.raises(InvalidCursorError):
            await search_events(connection, text, tenant_id=whose, secret=secret, cursor=cursor)
    monkeypatch.setattr("models.audit.query.time.time", lambda: datetime.now(UTC).timestamp() + 25 * 3600)
    with pytest.raises(ExpiredCursorError):
        await search_events(connection, "action:ops.*", tenant_id=tenant_id, secret=SECRET, cursor=cursor)


async def test_counts_by_action_and_outcome_stop_at_a_sample(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant_id = await new_tenant(connection)
    await many(connection, tenant_id, 9)
    facets = await count_facets(connection, "action:ops.*", tenant_id=tenant_id)
    assert facets.actions == {"ops.job.cancel": 5, "ops.job.retry": 4}
    assert facets.outcomes == {"success": 9}
    assert (facets.counted, facets.all_counted) == (9, True)
    monkeypatch.setattr(query, "MOST_COUNTED", 5)
    facets = await count_facets(connection, "action:ops.*", tenant_id=tenant_id)
    assert (facets.counted, facets.all_counted) == (5, False)


# What takes too long


async def test_a_search_that_takes_too_long_says_how_to_narrow_it(connection: Connection) -> None:
    async def ask() -> None:
        async with asking(connection):
            await connection.execute("SET LOCAL statement_timeout = '20ms'")
            await connection.execute("SELECT pg_sleep(5)")

    with pytest.raises(InvalidQueryError, match=r"longer than 2 seconds\. Narrow the time range"):
        await ask()
    assert await connection.fetchval("SHOW statement_timeout") == "15s", "the limits end with the question"


async def test_nothing_can_be_written_while_asking(connection: Connection) -> None:
    async def write() -> None:
        async with asking(connection):
            await connection.execute("DELETE FROM job")

    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await write()


async def fill(database_url: str, tenant_id: UUID, count: int) -> None:
    """Write many events of this month, each about a user of its own, and have them counted by the planner."""
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        "INSERT INTO audit_event (occurred_at, id, tenant_id, action, phase, outcome, severity, actor_type, targets,"
        " correlation_id, context)"
        " SELECT greatest(now() - n * interval '1 s', date_trunc('month', now())), gen_random_uuid(),"
        " CASE WHEN n % 10 = 0 THEN $1 ELSE gen_random_uuid() END, 'scim.user.update', 'applied', 'success', 1,"
        " CASE WHEN n % 500 = 0 THEN 'operator' ELSE 'token' END,"
        " jsonb_build_array(jsonb_build_object('type', 'User', 'id', gen_random_uuid(), 'label', 'u' || n)),"
        " gen_random_uuid(), jsonb_build_object('ip', '10.0.' || n % 200 || '.' || n / 200)"
        " FROM generate_series(1, $2) AS n",
        tenant_id,
        count,
    )
    await connection.execute("ANALYZE audit_event")
    await connection.close()


async def test_plans_open_only_the_partitions_of_the_range(connection: Connection, database_url: str) -> None:
    from models.audit.search import read_search

    tenant_id = await new_tenant(connection)
    await fill(database_url, tenant_id, 20_000)
    now = await connection.fetchval("SELECT now()")

    async def plan(text: str, whose: UUID | None = tenant_id) -> str:
        sql, values = query.page_sql(read_search(text, now=now), whose, None, 9)
        async with asking(connection):
            return str(await connection.fetchval(f"EXPLAIN (FORMAT JSON) {sql}", *values))

    month = now.astimezone(UTC).strftime("audit_event_%Y%m")
    first = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    this_month = f"created:{first:%Y-%m-%dT%H:%M:%SZ}..*"
    newest = await plan(this_month)
    assert re.findall(r'"Relation Name": "(\w+)"', newest) == [month]
    # The index has the order wanted, so nothing is sorted however many there are.
    assert '"Sort"' not in newest
    assert r'"Index Name": "audit_event_\d+_tenant_id_occurred_at_id_idx"'.replace("\\d+", month[12:]) in newest
    assert f"{month}_usher_fold_json_idx" in await plan("target:u77")
    assert f"{month}_occurred_at_id_idx" in await plan("actor:operator", None), "the index of rare actors"
    assert f"{month}_correlation_id_idx" in await plan(f"correlation:{uuid7()}")
    assert f"{month}_expr_tenant_id_occurred_at_idx" in await plan("ip:192.0.2.9", None), "the index by address"
    assert f"{month}_action_occurred_at_id_idx" in await plan("action:scim.user.create", None)
    assert f"{month}_tenant_id_occurred_at_id_idx1" in await plan("outcome:failure"), "the index of what went wrong"
    event = await plan(f"id:{uuid7()}")
    assert re.findall(r'"Relation Name": "(\w+)"', event.split("CTE found")[1].split("CTE page")[0])[:1] == [month]


async def test_a_far_page_begins_where_the_last_one_ended(connection: Connection, database_url: str) -> None:
    from models.audit.search import read_search

    await fill(database_url, await new_tenant(connection), 20_000)
    now = await connection.fetchval("SELECT now()")
    row = await connection.fetchrow(
        "SELECT occurred_at, id FROM audit_event ORDER BY occurred_at DESC, id DESC OFFSET 15000 LIMIT 1"
    )
    assert row is not None

    async def blocks(after: Place | None) -> int:
        sql, values = query.page_sql(read_search("", now=now), None, after, 9)
        async with asking(connection):
            await connection.execute("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
            [plan] = orjson.loads(
                await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {sql}", *values)
            )
        return int(plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"])

    # It neither opens nor walks through what lies between: some 100 blocks of the index.
    assert await blocks(Place(row["occurred_at"], row["id"], now)) <= await blocks(None) + 10


# Following


async def test_a_follower_gives_each_event_once_whatever_the_order_of_commits(
    connection: Connection, pool: asyncpg.Pool
) -> None:
    tenant_id = await new_tenant(connection)

    def event(place: int) -> Event:
        return Event(
            action="ops.job.retry",
            phase="applied",
            actor=OPERATOR,
            tenant_id=tenant_id,
            correlation_id=UUID(int=place),
        )

    async def seen(most: int = 10_000) -> list[int]:
        return [found["correlation_id"].int for found in await follower.look(connection, most)]

    await record(connection, [event(1)])
    follower = Follower("action:ops.job.*", tenant_id=tenant_id)
    assert await seen() == [], "what was before the first look is not new"
    async with pool.acquire() as slow:
        late = slow.transaction()
        await late.start()
        await record(slow, [event(2)])
        await record(connection, [event(3)])
        assert await seen() == [3]
        assert await seen() == []
        await record(connection, [event(4)])
        assert await seen() == [4]
        await late.commit()
    assert await seen() == [2], "it was written first and committed last"
    assert await seen() == []
    for place in range(5, 12):
        await record(connection, [event(place)])
    # More than one look can carry come in the looks after.
    assert [await seen(3) for _ in range(4)] == [[5, 6, 7], [8, 9, 10], [11], []]


async def test_a_follower_refuses_a_search_that_cannot_be_read(connection: Connection) -> None:
    with pytest.raises(InvalidQueryError, match="no qualifier colour:"):
        await Follower("colour:red", tenant_id=None).look(connection)


def test_two_minutes_are_longer_than_any_transaction() -> None:
    from models import db

    longest = timedelta(seconds=2 * db.STATEMENT_SECONDS + 30)
    assert longest < query.SETTLED
