"""Changing and deleting users over HTTP: PUT, DELETE, conditions, invitations, and many writers at once."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from uuid_utils.compat import uuid7

from models.invitations import Skipped, begin_sending
from models.jobs import EMAIL, PROVISION, claim
from models.provision import apply_creates
from models.scim.schema import ENTERPRISE_URN, USER_URN
from tests.support.api import Api, Caller, document, fresh_settings, serving, store, until, work_email
from tests.support.writing import PATCH_URN, audited, delete, patch, put, setting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from models.settings import Settings
    from tests.support.servers import Servers

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANA = "ana@contoso.example"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(servers: Servers) -> AsyncIterator[Api]:
    async with fresh_settings(servers) as settings, serving(settings) as served:
        yield served


@pytest_asyncio.fixture(loop_scope="module", params=["waiting", "applied"])
async def caller(api: Api, request: pytest.FixtureRequest) -> AsyncIterator[Caller]:
    """A client of a tenant of the test's own, whose creates wait, or are applied at once."""
    client = await api.caller()
    if request.param == "waiting":
        yield client
        return
    stop = asyncio.Event()

    async def work() -> None:
        while not stop.is_set():
            await apply_all(api.settings)
            await asyncio.sleep(0.01)

    task = asyncio.create_task(work())
    yield client
    stop.set()
    await task


async def apply_all(settings: Settings) -> None:
    """Apply every create that waits, as a worker does."""
    async with store(settings) as connection:
        lease = uuid7()
        jobs = await claim(connection, PROVISION, lease_token=lease, lease_seconds=30, limit=100)
        if jobs:
            await apply_creates(connection, jobs, lease)


# PUT


async def test_put_replaces(caller: Caller) -> None:
    user = await caller.create(
        document(ANA, title="Buyer", externalId="a", emails=[work_email(ANA)], **{ENTERPRISE_URN: {"department": "S"}})
    )
    sent = document(
        "ana.nov@contoso.example", id=str(uuid.uuid4()), meta={"version": "7"}, nickName="Ani", active="False"
    )
    answer = await put(caller, user["id"], {**sent, "groups": [{"value": "x"}], "password": "secret", "title": None})
    assert answer.status == 200
    after = answer.json
    assert {name: value for name, value in after.items() if name != "meta"} == {
        "id": user["id"],
        "schemas": [USER_URN],
        "userName": "ana.nov@contoso.example",
        "nickName": "Ani",
        "active": False,
    }
    assert (after["meta"]["version"], answer.headers["ETag"]) == ('W/"2"', 'W/"2"')
    assert answer.headers["Location"] == user["meta"]["location"] == after["meta"]["location"]
    assert (await caller.get(f"/Users/{user['id']}")).json == after
    for gone in (f'userName eq "{ANA}"', 'externalId eq "a"', f'emails[type eq "work"].value eq "{ANA}"'):
        assert await caller.match(gone) == []
    again = await put(caller, user["id"], sent)
    assert (again.status, again.json) == (200, after)
    await caller.create(document(ANA))  # the name was given back


@pytest.mark.parametrize("said", [{}, {"active": None}])
async def test_put_that_does_not_say_active_lets_nobody_in_again(caller: Caller, said: dict[str, None]) -> None:
    user = await caller.create(document(ANA, active=False))
    answer = await put(caller, user["id"], {**document(ANA, title="Buyer"), **said})
    assert (answer.status, answer.json["active"], answer.json["title"]) == (200, False, "Buyer")
    back = await put(caller, user["id"], document(ANA, active=True))
    assert (back.json["active"], "title" in back.json) == (True, False)
    again = await put(caller, user["id"], {**document(ANA), **said})
    assert again.json == back.json, "nothing to change"


async def test_put_checks_before_it_takes_anything_away(caller: Caller) -> None:
    user = await caller.create(document(ANA, title="Buyer"))
    await caller.create(document("boris@contoso.example"))
    for body, status, scim_type in (
        ({"schemas": [USER_URN], "title": "x"}, 400, "invalidValue"),
        (document(" "), 400, "invalidValue"),
        (document(ANA, name=7), 400, "invalidValue"),
        (document(ANA, **{ENTERPRISE_URN: {"manager": str(uuid.uuid4())}}), 400, "invalidValue"),
        ([], 400, "invalidSyntax"),
        (document("BORIS@contoso.example"), 409, "uniqueness"),
    ):
        (await put(caller, user["id"], body)).error(status, scim_type)
        assert (await caller.get(f"/Users/{user['id']}")).json == user


async def test_put_creates_nothing(caller: Caller) -> None:
    for unknown in (str(uuid.uuid4()), "x"):
        (await put(caller, unknown, document(ANA))).error(404)
    assert (await caller.get("/Users")).resources() == []


async def test_put_honours_attributes(caller: Caller) -> None:
    user = await caller.create(document(ANA))
    answer = await put(caller, user["id"], document(ANA, title="Buyer"), "?attributes=title")
    assert answer.json == {"id": user["id"], "schemas": [USER_URN], "title": "Buyer"}


# DELETE (entra-cases.md 116)


async def test_deleted_is_gone_everywhere_and_its_name_is_free(api: Api, caller: Caller) -> None:
    user = await caller.create(document(ANA, externalId="a", emails=[work_email(ANA)]))
    answer = await delete(caller, user["id"])
    assert (answer.status, answer.content) == (204, b"")
    path = f"/Users/{user['id']}"
    (await caller.get(path)).error(404)
    (await delete(caller, user["id"])).error(404)
    (await put(caller, user["id"], document(ANA))).error(404)
    (await patch(caller, user["id"], setting("legacy", {"active": True}))).error(404)
    for text in (f'userName eq "{ANA}"', f'id eq "{user["id"]}"', 'externalId eq "a"', "userName pr"):
        assert await caller.match(text) == []
    assert (await caller.get("/Users")).resources() == []
    await apply_all(api.settings)  # and nothing comes back
    assert (await caller.get("/Users")).resources() == []
    again = await caller.create(document(ANA))
    assert again["id"] != user["id"]
    assert (await caller.get("/Users")).resources() == [again]
    events = await audited(api.settings, caller.tenant.id, "scim.user.delete")
    assert [event["phase"] for event in events] == ["applied"]
    assert {change["op"] for change in events[0]["diff"]} == {"remove"}
    assert events[0]["targets"] == [{"type": "User", "id": user["id"], "label": ANA, "external_id": "a"}]


async def test_delete_of_a_create_that_cannot_be_applied(api: Api) -> None:
    caller = await api.caller()
    user = await caller.create(document(ANA))
    async with store(api.settings) as connection:
        await connection.execute("UPDATE job SET state = 'dead' WHERE resource_id = $1", uuid.UUID(user["id"]))
    assert (await delete(caller, user["id"])).status == 204
    async with store(api.settings) as connection:
        state = await connection.fetchval("SELECT state FROM job WHERE resource_id = $1", uuid.UUID(user["id"]))
        left = await connection.fetchval("SELECT count(*) FROM identifier WHERE tenant_id = $1", caller.tenant.id)
    assert (state, left) == ("cancelled", 0)
    events = await audited(api.settings, caller.tenant.id, "scim.user.")
    assert [(event["action"], event["phase"], event["reason"]) for event in events] == [
        ("scim.user.create", "requested", None),
        ("scim.user.create", "failed", "user_deleted"),
        ("scim.user.delete", "applied", None),
    ]


async def test_a_user_is_written_with_its_groups_and_forgotten_by_them_when_deleted(api: Api) -> None:
    caller = await api.caller()
    user = await caller.create(document(ANA))
    async with store(api.settings) as connection:
        group = uuid.uuid4()
        await connection.execute(
            "INSERT INTO groups (tenant_id, id, display_name_key, doc, created_at, last_modified)"
            " VALUES ($1, $2, 'g', '{\"displayName\": \"g\"}'::text::jsonb, now(), now())",
            caller.tenant.id,
            group,
        )
        member = "INSERT INTO membership (tenant_id, group_id, member_id, member_type) VALUES ($1, $2, $3, 'User')"
        await connection.execute(member, caller.tenant.id, group, uuid.UUID(user["id"]))
        for values in ({"title": "x"}, {"title": "x"}, {"userName": "new"}):  # each way of a write
            answer = await patch(caller, user["id"], setting("legacy", values))
            assert [one["value"] for one in answer.json["groups"]] == [str(group)]
            assert (await caller.get(f"/Users/{user['id']}")).json == answer.json
        answer = await patch(caller, user["id"], setting("legacy", {"title": "y"}), "?excludedAttributes=groups")
        assert "groups" not in answer.json
        assert (await delete(caller, user["id"])).status == 204
        assert await connection.fetchval("SELECT count(*) FROM membership WHERE tenant_id = $1", caller.tenant.id) == 0
        assert await connection.fetchval("SELECT version FROM groups WHERE id = $1", group) == 2


# Conditions (entra-cases.md 139)


async def test_if_match(caller: Caller) -> None:
    user = await caller.create(document(ANA))
    path, title = f"/Users/{user['id']}", iter(range(100))

    def change() -> list[dict[str, Any]]:
        return setting("compliant", {"title": f"t{next(title)}"})

    for stale in ('W/"2"', '"7"', '"2", W/"3"', '""', 'W/"1x"'):
        (await patch(caller, user["id"], change(), If_Match=stale)).error(412)
        (await put(caller, user["id"], document("x"), If_Match=stale)).error(412)
        (await delete(caller, user["id"], If_Match=stale)).error(412)
    for wrong in ("1", 'W/"1', "W/1", '"1" "1"', '* , "1"', 'w/"1"', ""):
        (await patch(caller, user["id"], change(), If_Match=wrong)).error(400, "invalidValue")
    assert (await caller.get(path)).json == user
    for version, good in enumerate(('W/"1"', '"2"', '"9", W/"3" ,', "*"), 2):
        answer = await patch(caller, user["id"], change(), If_Match=good)
        assert (answer.status, answer.headers["ETag"]) == (200, f'W/"{version}"')
    (await patch(caller, user["id"], change(), If_None_Match="*")).error(412)
    (await patch(caller, user["id"], change(), If_None_Match='W/"5"')).error(412)
    assert (await patch(caller, user["id"], change(), If_None_Match='W/"1"')).status == 200
    (await patch(caller, str(uuid.uuid4()), change(), If_Match="*")).error(404)
    assert (await delete(caller, user["id"], If_Match='W/"6"')).status == 204


async def test_if_none_match(caller: Caller) -> None:
    user = await caller.create(document(ANA))
    path = f"/Users/{user['id']}"
    for known in ('W/"1"', '"1"', '"7",W/"1"', "*"):
        answer = await caller.send("GET", path, headers={"If-None-Match": known})
        assert (answer.status, answer.content, answer.headers["ETag"]) == (304, b"", 'W/"1"')
    for other in ('W/"2"', "1", ""):
        answer = await caller.send("GET", path, headers={"If-None-Match": other})
        assert (answer.status, answer.json) == (200, user)
    await patch(caller, user["id"], setting("legacy", {"title": "x"}))
    assert (await caller.send("GET", path, headers={"If-None-Match": 'W/"1"'})).status == 200
    (await caller.send("GET", f"/Users/{uuid.uuid4()}", headers={"If-None-Match": "*"})).error(404)


async def test_if_match_lets_one_of_many_through(caller: Caller) -> None:
    user = await caller.create(document(ANA))
    answers = await asyncio.gather(
        *(patch(caller, user["id"], setting("legacy", {"title": f"t{n}"}), If_Match='W/"1"') for n in range(20))
    )
    assert Counter(answer.status for answer in answers) == {200: 1, 412: 19}
    [won] = [answer.json for answer in answers if answer.status == 200]
    assert (await caller.get(f"/Users/{user['id']}")).json == won


# Many writers


async def test_no_change_is_lost(api: Api, caller: Caller) -> None:
    users = [await caller.create(document(f"u{number}")) for number in range(5)]
    second = [caller]
    async with serving(api.settings) as other:  # another process would do the same
        second.append(caller.at(other.scim_url))
        answers = await asyncio.gather(
            *(
                patch(
                    second[number % 2],
                    user["id"],
                    [{"op": "add", "path": "emails", "value": [{"type": "other", "value": f"{number}@x.example"}]}],
                )
                for number in range(40)
                for user in users
            )
        )
    assert {answer.status for answer in answers} == {200}
    for user in users:
        after = (await caller.get(f"/Users/{user['id']}")).json
        assert {email["value"] for email in after["emails"]} == {f"{number}@x.example" for number in range(40)}
        assert after["meta"]["version"] == 'W/"41"'
    versions = Counter((answer.json["id"], answer.json["meta"]["version"]) for answer in answers)
    assert set(versions.values()) == {1}


@pytest.mark.parametrize("deletes", [False, True], ids=["change", "delete"])
async def test_what_waited_for_a_worker_is_on_record_after_it(api: Api, deletes: bool) -> None:
    """Its transaction had begun before the worker's got its id, by which the audit log is in order."""
    caller = await api.caller()
    user = await caller.create(document(ANA))
    async with store(api.settings) as worker, store(api.settings) as other:
        lease = uuid7()
        claimed = worker.transaction()
        await claimed.start()
        jobs = list(await claim(worker, PROVISION, lease_token=lease, lease_seconds=30, limit=1000))
        write = delete(caller, user["id"]) if deletes else patch(caller, user["id"], setting("legacy", {"title": "x"}))
        writing = asyncio.create_task(write)

        async def waits() -> bool:
            return bool(await other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

        await until(waits, "the write to wait for the worker")
        between = await other.fetchval("SELECT pg_current_xact_id()::text::bigint")
        await apply_creates(worker, jobs, lease)
        await claimed.commit()
        assert (await writing).status == (204 if deletes else 200)
        events = await other.fetch(
            "SELECT action, xid::text::bigint AS xid FROM audit_event WHERE target_id = $1 AND phase = 'applied'"
            " ORDER BY xid, id",
            user["id"],
        )
    assert [event["action"] for event in events] == [
        "scim.user.create",
        f"scim.user.{'delete' if deletes else 'update'}",
    ]
    assert events[0]["xid"] < between < events[1]["xid"]


async def test_renames_deletes_and_creates_at_once_end_with_one_user_a_name(api: Api, caller: Caller) -> None:
    users = [await caller.create(document(f"u{number}")) for number in range(10)]

    async def rename(user: dict[str, Any], turn: int) -> None:
        answer = await patch(caller, user["id"], setting("legacy", {"userName": f"U{turn % 13}"}))
        assert answer.status in (200, 409), answer

    await asyncio.gather(
        *(rename(user, place * 3 + turn * 7) for turn in range(8) for place, user in enumerate(users)),
        *(caller.post("/Users", document(f"u{number}")) for number in range(13)),
    )
    found = (await caller.get("/Users")).resources()
    names = [user["userName"].lower() for user in found]
    assert len(names) == len(set(names))
    async with store(api.settings) as connection:
        rows = await connection.fetch(
            "SELECT value_key, resource_id FROM identifier WHERE tenant_id = $1", caller.tenant.id
        )
    assert {row["value_key"]: str(row["resource_id"]) for row in rows} == {
        user["userName"].lower(): user["id"] for user in found
    }
    answers = await asyncio.gather(*(delete(caller, user["id"]) for user in found for _ in range(3)))
    assert Counter(answer.status for answer in answers) == {204: len(found), 404: 2 * len(found)}
    async with store(api.settings) as connection:
        for table in ("identifier", "users"):
            query = f"SELECT count(*) FROM {table} WHERE tenant_id = $1"  # noqa: S608  constants
            assert await connection.fetchval(query, caller.tenant.id) == 0


async def test_patches_of_many_users_share_commits(api: Api) -> None:
    caller = await api.caller()
    users = [await caller.create(document(f"u{number}")) for number in range(60)]
    await apply_all(api.settings)
    await asyncio.gather(*(patch(caller, user["id"], setting("legacy", {"title": "x"})) for user in users))
    async with store(api.settings) as connection:
        commits = await connection.fetchval(
            "SELECT count(DISTINCT xid) FROM audit_event WHERE tenant_id = $1 AND action = 'scim.user.update'",
            caller.tenant.id,
        )
    assert commits < 30


# Invitations


async def invitations(api: Api, caller: Caller) -> list[tuple[Any, ...]]:
    async with store(api.settings) as connection:
        rows = await connection.fetch(
            "SELECT email, invitation.state, invitation.error_code, kind FROM invitation"
            " LEFT JOIN job ON job.resource_id = invitation.id WHERE invitation.tenant_id = $1 ORDER BY email",
            caller.tenant.id,
        )
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("waits", [True, False])
async def test_an_invitation_follows_the_first_activation_and_no_mere_update(api: Api, waits: bool) -> None:
    caller = await inviting(api)
    user = await caller.create(document(ANA, active=False, emails=[work_email(ANA)]))
    if not waits:
        await apply_all(api.settings)
    await patch(caller, user["id"], setting("legacy", {"title": "x", 'emails[type eq "work"].value': "new@x.example"}))
    assert await invitations(api, caller) == []
    await patch(caller, user["id"], setting("legacy", {"active": True}))
    expected = [("new@x.example", "pending", None, "invitation.send")]
    assert await invitations(api, caller) == expected
    for values in ({"active": False}, {"active": True}, {'emails[type eq "work"].value': ANA}, {"title": "y"}):
        await patch(caller, user["id"], setting("legacy", values))
    assert await invitations(api, caller) == expected
    async with store(api.settings) as connection:
        [row] = await connection.fetch(
            "SELECT job.correlation_id, action FROM job JOIN audit_event USING (correlation_id)"
            " WHERE job.tenant_id = $1 AND kind = 'invitation.send'",
            caller.tenant.id,
        )
    assert row["action"] == "scim.user.enable"
    await delete(caller, user["id"])
    assert await invitations(api, caller) == [("new@x.example", "failed", "user_deleted", "invitation.send")]


async def test_an_invitation_follows_the_first_address(api: Api) -> None:
    caller = await inviting(api)
    user = await caller.create(document(ANA))
    await patch(caller, user["id"], setting("compliant", {'emails[type eq "work"].value': ANA}))
    assert await invitations(api, caller) == [(ANA, "pending", None, "invitation.send")]


async def test_whoever_was_shut_out_when_the_invitation_was_due_is_invited_on_being_let_in(api: Api) -> None:
    caller = await inviting(api)
    user = await caller.create(document(ANA, emails=[work_email(ANA)]))
    await apply_all(api.settings)
    await patch(caller, user["id"], setting("legacy", {"active": False}))
    async with store(api.settings) as connection:
        lease = uuid7()
        claimed = await claim(connection, EMAIL, lease_token=lease, lease_seconds=30, limit=100)
        [job] = [job for job in claimed if job.tenant_id == caller.tenant.id]
        skipped = await begin_sending(
            connection, job, lease, secret_key="k" * 32, invitation_days=7, mail_domain="usher.example.com"
        )
    assert skipped == Skipped("user_inactive")
    in_vain = (ANA, "failed", "user_inactive", "invitation.send")
    assert await invitations(api, caller) == [in_vain]
    for active in (True, False, True):  # and once only, while that one waits
        await patch(caller, user["id"], setting("legacy", {"active": active}))
    assert sorted(await invitations(api, caller)) == [in_vain, (ANA, "pending", None, "invitation.send")]


async def inviting(api: Api) -> Caller:
    caller = await api.caller()
    async with store(api.settings) as connection:
        await connection.execute("UPDATE tenant SET invitations = true WHERE id = $1", caller.tenant.id)
    return caller


async def test_every_denied_write_is_audited_with_its_reason(api: Api) -> None:
    caller = await api.caller()
    user = await caller.create(document(ANA))
    await patch(caller, user["id"], setting("legacy", {"title": "x"}), If_Match='"9"')
    await delete(caller, str(uuid.uuid4()))
    await caller.send("PATCH", f"/Users/{user['id']}", body=b'{"schemas": ["' + PATCH_URN.encode() + b'"]}')

    async def reasons() -> Any:
        events = await audited(api.settings, caller.tenant.id, "scim.request.deny")
        return len(events) == 3 and sorted(event["reason"] for event in events)

    await until(reasons, "three refusals")
    assert await reasons() == ["http_404", "http_412", "invalidSyntax"]
