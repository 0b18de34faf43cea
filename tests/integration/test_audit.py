"""The audit log: what a create leaves behind, who may change it, and how it is asked."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from models.audit.actions import ACTIONS
from models.audit.query import search_events
from models.audit.record import SYSTEM, Event, record
from models.jobs import PROVISION
from tests.support.api import document, make_tenant, serving, work_email
from tests.support.ledger import counts, empty_ledger, shared_database
from tests.support.waiting import wait_until
from worker.context import Context
from worker.handlers import create
from worker.runner import Runner
from worker.smtp import SmtpPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from uuid import UUID

    from models.db import Connection
    from models.settings import Settings
    from tests.support.servers import Servers

ENTERPRISE = "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"


@pytest.fixture(scope="module")
def database_url(servers: Servers) -> Iterator[str]:
    with shared_database(servers) as url:
        yield url


@pytest.fixture
async def connection(database_url: str, pool: asyncpg.Pool) -> AsyncIterator[Connection]:
    await empty_ledger(database_url)
    async with pool.acquire() as one:
        yield one


@asynccontextmanager
async def applying(settings: Settings, pool: asyncpg.Pool) -> AsyncIterator[Runner]:
    """Run the runner of creates, without arq and Redis."""
    context = Context(settings, pool, SmtpPool(settings), lambda _queue, _ids: None)
    runner = Runner(context, PROVISION, {"user.create": create.HANDLER}, lanes=1, batch=100)
    task = asyncio.create_task(runner.serve())
    try:
        yield runner
    finally:
        runner.stop()
        await task


async def of_tenant(connection: Connection, tenant_id: UUID) -> list[dict[str, Any]]:
    """Return a tenant's events about SCIM, oldest first."""
    rows = await connection.fetch(
        "SELECT * FROM audit_event WHERE tenant_id = $1 AND action LIKE 'scim.%' ORDER BY occurred_at, id", tenant_id
    )
    return [dict(row) for row in rows]


def rebuild(diff: list[dict[str, Any]]) -> dict[str, Any]:
    """Make the document of a user that was created with these changes."""
    made: dict[str, Any] = {}
    for change in diff:
        assert set(change) == {"op", "path", "after"}
        assert change["op"] == "add"
        path = change["path"]
        urn, _, rest = path.rpartition(":")
        place = made.setdefault(urn, {}) if urn.startswith("urn:") else made
        name = rest if urn.startswith("urn:") else path
        if re.fullmatch(r"\w+\[.*\]", name, re.DOTALL):
            place.setdefault(name.partition("[")[0], []).append(change["after"])
            continue
        *parents, last = name.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = change["after"]
    return made


def by_type(values: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {value["type"]: value for value in values}


# What a create leaves behind


async def test_a_create_is_audited_when_accepted_and_when_applied(
    settings: Settings, pool: asyncpg.Pool, connection: Connection
) -> None:
    sent = document(
        "Ana@Example.com",
        externalId="e-1",
        name={"givenName": "Ana", "familyName": "Šimić"},
        emails=[work_email("ana@example.com", primary=True), {"type": "home", "value": "ana@home.example"}],
        active=True,
        **{ENTERPRISE: {"department": "R&D", "employeeNumber": "7"}},
    )
    sent["schemas"].append(ENTERPRISE)
    async with serving(settings) as api:
        caller = await api.caller()
        answer = await caller.post("/Users", sent)
        assert answer.status == 201
        async with applying(settings, pool):

            async def done() -> bool:
                return await counts(pool) == {"done": 1}

            await wait_until(done, "the create is applied")
    requested, applied = await of_tenant(connection, caller.tenant.id)
    for event, phase, outcome in ((requested, "requested", "pending"), (applied, "applied", "success")):
        assert (event["action"], event["phase"], event["outcome"]) == ("scim.user.create", phase, outcome)
        assert str(event["correlation_id"]) == answer.headers["X-Correlation-Id"]
        assert event["targets"] == [
            {"type": "User", "id": answer.json["id"], "label": "Ana@Example.com", "external_id": "e-1"}
        ]
        assert (event["target_type"], event["target_id"]) == ("User", answer.json["id"])
        assert event["reason"] is None
        assert event["severity"] == ACTIONS["scim.user.create"].severity
    assert requested["job_id"] == applied["job_id"] is not None
    assert requested["occurred_at"] < applied["occurred_at"]
    assert requested["xid"] != applied["xid"]
    assert (requested["actor_type"], requested["actor_id"]) == ("token", caller.tenant.token_id)
    assert applied["actor_type"] == "job"
    assert requested["context"] == {"method": "POST", "route": "/Users", "ip": "127.0.0.1"}
    assert (requested["diff"], requested["changed"]) == (None, None)

    stored = await connection.fetchval("SELECT doc FROM users WHERE tenant_id = $1", caller.tenant.id)
    rebuilt = {**rebuild(applied["diff"]), "schemas": stored["schemas"]}
    assert by_type(rebuilt.pop("emails")) == by_type(stored.pop("emails")), "their order means nothing"
    assert rebuilt == stored
    assert stored["name"] == sent["name"]
    assert applied["changed"] == [change["path"] for change in applied["diff"]]


async def test_a_taken_name_is_audited_as_denied_and_leaves_nothing_else(
    settings: Settings, connection: Connection
) -> None:
    async with serving(settings) as api:
        caller = await api.caller()
        first = await caller.create(document("ana@example.com"))
        answer = await caller.post("/Users", document("ANA@example.com"))
        answer.error(409, "uniqueness")
    requested, denied = await of_tenant(connection, caller.tenant.id)
    assert requested["target_id"] == first["id"]
    assert (denied["action"], denied["phase"], denied["outcome"]) == ("scim.user.create", "denied", "denied")
    assert (denied["reason"], denied["job_id"], denied["diff"]) == ("uniqueness", None, None)
    assert str(denied["correlation_id"]) == answer.headers["X-Correlation-Id"]
    assert denied["targets"][0]["label"] == "ANA@example.com"
    assert denied["target_id"] != first["id"]
    assert await counts(connection) == {"staged": 1}


async def test_neither_password_nor_token_is_kept_anywhere(
    settings: Settings, pool: asyncpg.Pool, connection: Connection, capfd: pytest.CaptureFixture[str]
) -> None:
    secrets = {"password": "hunter2-Geheim", "nested": "hunter3-Geheim"}
    async with serving(settings) as api:
        caller = await api.caller()
        await caller.create(document("ana@example.com", password=secrets["password"]))
        # An attribute that SCIM does not know, and the password in the wrong place.
        await caller.post("/Users", document("ben@example.com", name={"password": secrets["nested"]}))
        stranger = caller.bearing(caller.tenant.token[:-4] + "zzzz")
        (await stranger.get("/Users")).error(401)
        async with applying(settings, pool):

            async def done() -> bool:
                return set(await counts(pool)) == {"done"}

            await wait_until(done, "the creates are applied")
    texts = [await everything(connection), *capfd.readouterr()]
    for text in texts:
        assert secrets["password"] not in text
        assert secrets["nested"] not in text
        assert caller.tenant.token not in text
        assert caller.tenant.token.rpartition("_")[2] not in text
        assert stranger.token is not None
        assert stranger.token.rpartition("_")[2] not in text
    assert "ana@example.com" in texts[0]
    assert "@example.com" not in "".join(texts[1:]), "nor is there personal data in the log"


async def everything(connection: Connection) -> str:
    """Return every row of every table as text."""
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    parts = []
    await connection.execute("RESET ROLE")
    for table in tables:
        rows = await connection.fetch(f'SELECT t::text AS row FROM "{table["tablename"]}" AS t')  # noqa: S608  our own
        parts += [row["row"] for row in rows]
    await connection.execute("SET ROLE usher_app")
    return "\n".join(parts)


# Who may change it


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_event SET reason = 'x'",
        "DELETE FROM audit_event",
        "TRUNCATE audit_event",
        "DROP TABLE audit_event",
        "ALTER TABLE audit_event DISABLE TRIGGER ALL",
        "UPDATE audit_event_default SET reason = 'x'",
    ],
)
async def test_the_applications_role_can_add_events_but_not_change_them(statement: str, connection: Connection) -> None:
    await record(connection, [Event(action="ops.job.retry", phase="applied", actor=SYSTEM, correlation_id=uuid7())])
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(statement)


@pytest.mark.parametrize("statement", ["UPDATE audit_event SET reason = 'x'", "DELETE FROM audit_event"])
async def test_nor_does_a_slip_of_the_owner_change_them(statement: str, connection: Connection) -> None:
    await record(connection, [Event(action="ops.job.retry", phase="applied", actor=SYSTEM, correlation_id=uuid7())])
    async with connection.transaction():
        await connection.execute("SET LOCAL ROLE usher_maintenance")
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="audit events are insert-only"):
            async with connection.transaction():
                await connection.execute(statement)


async def test_an_event_comes_to_be_with_the_change_or_not_at_all(connection: Connection) -> None:
    correlation_id = uuid7()
    transaction = connection.transaction()
    await transaction.start()
    await record(
        connection, [Event(action="ops.job.retry", phase="applied", actor=SYSTEM, correlation_id=correlation_id)]
    )
    await transaction.rollback()
    count = "SELECT count(*) FROM audit_event WHERE correlation_id = $1"
    assert await connection.fetchval(count, correlation_id) == 0


async def test_an_action_that_is_not_registered_is_a_fault(connection: Connection) -> None:
    with pytest.raises(KeyError):
        await record(connection, [Event(action="ops.job.hide", phase="applied", actor=SYSTEM, correlation_id=uuid7())])
    await record(connection, [])


async def test_every_change_of_tokens_and_tenants_is_audited(settings: Settings, connection: Connection) -> None:
    tenant = await make_tenant(settings)
    page = await search_events(connection, "", tenant_id=tenant.id, secret=b"")
    events = page.events
    assert [event["action"] for event in events] == ["auth.token.issue", "tenant.settings.create"]
    assert tenant.token not in json.dumps(events, default=str)
    assert events[0]["targets"][0]["id"] == tenant.token_id


async def test_changed_are_the_paths_of_the_diff_whatever_they_are(connection: Connection) -> None:
    paths = ["title", "", "NULL", " a ", 'urn:x:"y"\\:z', "{a,b}", "č\n", None]
    events = [
        Event(
            action="scim.user.update",
            phase="applied",
            actor=SYSTEM,
            correlation_id=uuid7(),
            diff=[{"op": "add", "path": path, "after": 1} if path is not None else {"op": "add"} for path in some],
        )
        for some in (paths, [])
    ]
    ids = await record(connection, events)
    rows = await connection.fetch("SELECT id, diff, changed FROM audit_event WHERE id = ANY ($1)", ids)
    found = {row["id"]: (row["diff"], row["changed"]) for row in rows}
    assert found == {ids[0]: (events[0].diff, paths), ids[1]: ([], None)}
