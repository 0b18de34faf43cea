"""Groups over HTTP beyond Entra's cases: users' groups, nesting, conditions, filters, audit events, races."""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from structlog.testing import capture_logs
from uuid_utils.compat import uuid7

from models.audit.record import OPERATOR
from models.directory.groups import MOST_MEMBERS
from models.job_actions import cancel
from models.jobs import PROVISION, claim
from models.provision import apply_creates
from models.scim.schema import GROUP_URN
from tests.support.api import Api, Caller, apply_all, document, fresh_settings, serving, store, until
from tests.support.groups import (
    DIALECTS,
    adding,
    create_group,
    group,
    match_groups,
    members_of,
    patch_group,
    put_group,
    references,
    removing,
    setting,
)
from tests.support.writing import audited

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable

    import asyncpg

    from tests.support.api import Answer
    from tests.support.servers import Servers

pytestmark = pytest.mark.asyncio(loop_scope="module")
in_both_dialects = pytest.mark.parametrize("dialect", DIALECTS)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(servers: Servers) -> AsyncIterator[Api]:
    async with fresh_settings(servers) as settings, serving(settings) as served:
        yield served


@pytest_asyncio.fixture(loop_scope="module")
async def caller(api: Api) -> Caller:
    return await api.caller()


async def people(caller: Caller, *names: str) -> list[str]:
    return [(await caller.create(document(f"{name}@contoso.example")))["id"] for name in names]


async def group_of(caller: Caller, group_id: str) -> dict[str, Any]:
    answer = await caller.get(f"/Groups/{group_id}")
    assert answer.status == 200, answer
    return dict(answer.json)


# Users' groups


async def test_a_user_shows_the_groups_that_it_is_in(api: Api, caller: Caller) -> None:
    [ana, boris] = await people(caller, "ana", "boris")
    before = (await caller.get(f"/Users/{ana}")).json
    sales = await create_group(caller, 'Sales "EMEA" \\ žluť', ana)
    other = await create_group(caller, "Other", ana, boris)
    expected = [
        {
            "value": one["id"],
            "$ref": f"{caller.scim_url}/Groups/{one['id']}",
            "display": one["displayName"],
            "type": "direct",
        }
        for one in (sales, other)
    ]

    async def check() -> None:
        answers = [
            (await caller.get(f"/Users/{ana}")).json,
            *await caller.match('userName eq "ana@contoso.example"'),
            *await caller.match(f'id eq "{ana}"'),
            *await caller.match(f'id eq "{ana}" and active eq true'),
        ]
        assert len(answers) == 4
        for one in answers:
            assert one["groups"] == expected
            assert {key: one[key] for key in one if key != "groups"} == before
        for query in ("excludedAttributes=groups", "attributes=userName"):
            assert "groups" not in (await caller.send("GET", f"/Users/{ana}?{query}")).json
            [listed] = (await caller.send("GET", f"/Users?{query}&filter=id+eq+%22{ana}%22")).resources()
            assert "groups" not in listed
        only = (await caller.get(f"/Users/{ana}", attributes="groups.value")).json
        assert only["groups"] == [{"value": one["id"]} for one in (sales, other)]
        by_id = {one["id"]: one.get("groups") for one in (await caller.get("/Users")).resources()}
        assert by_id == {ana: expected, boris: expected[1:]}

    await check()
    await apply_all(api.settings)
    await check()


async def test_users_are_found_by_their_groups(api: Api, caller: Caller) -> None:
    [ana, boris, ema] = await people(caller, "ana", "boris", "ema")
    await apply_all(api.settings)
    [zoe] = await people(caller, "zoe")  # still waiting
    sales = await create_group(caller, "Sales", ana, zoe)
    other = await create_group(caller, "Other", ana, boris)
    for text, expected in {
        f'groups.value eq "{sales["id"]}"': {ana, zoe},
        f'groups eq "{sales["id"]}"': {ana, zoe},
        f'groups[value eq "{other["id"]}" and display eq "OTHER"]': {ana, boris},
        f'groups[value eq "{other["id"]}" and display eq "Sales"]': set(),
        'groups.display sw "sal"': {ana, zoe},
        f'groups.$ref eq "{caller.scim_url}/Groups/{other["id"]}"': {ana, boris},
        'groups.type eq "direct"': {ana, boris, zoe},
        'groups.type eq "indirect"': set(),
        "not (groups pr)": {ema},
        f'groups ne "{sales["id"]}"': {boris, ema},
        f'groups eq "{uuid.uuid4()}"': set(),
    }.items():
        assert {one["id"] for one in await caller.match(text, attributes="id")} == expected, text


@in_both_dialects
async def test_what_a_client_says_of_a_user_s_groups_is_not_taken(caller: Caller, dialect: str) -> None:
    [ana] = await people(caller, "ana")
    sales = await create_group(caller, "Sales")
    created = await caller.create(document("b@contoso.example", groups=[{"value": sales["id"]}]))
    assert "groups" not in created
    operations = json.dumps({"Operations": adding(dialect, sales["id"])}).replace('"members"', '"groups"')
    await caller.send("PATCH", f"/Users/{ana}", body=operations.encode())
    assert "groups" not in (await caller.get(f"/Users/{ana}")).json
    assert await members_of(caller, sales["id"]) == []


@in_both_dialects
async def test_a_deleted_user_is_in_no_group(api: Api, caller: Caller, dialect: str) -> None:
    [ana, boris] = await people(caller, "ana", "boris")
    groups = [await create_group(caller, f"g{number}") for number in range(3)]
    for one in groups[:2]:
        assert (await patch_group(caller, one["id"], adding(dialect, ana, boris))).status == 204
    before = [await group_of(caller, one["id"]) for one in groups]
    if dialect == "compliant":
        await apply_all(api.settings)
    assert (await caller.send("DELETE", f"/Users/{ana}")).status == 204
    after = [await group_of(caller, one["id"]) for one in groups]
    assert [len(one.get("members", ())) for one in after] == [1, 1, 0]
    assert [one["meta"]["version"] for one in before] == ['W/"2"', 'W/"2"', 'W/"1"']
    assert [one["meta"]["version"] for one in after] == ['W/"3"', 'W/"3"', 'W/"1"']
    (await patch_group(caller, groups[0]["id"], adding(dialect, ana))).error(400, "invalidValue")


async def test_a_create_that_is_cancelled_leaves_its_groups(api: Api, caller: Caller) -> None:
    [ana, boris] = await people(caller, "ana", "boris")
    sales = await create_group(caller, "Sales", ana, boris)
    async with store(api.settings) as connection:
        await cancel(
            connection,
            await connection.fetchval("SELECT id FROM job WHERE resource_id = $1", uuid.UUID(ana)),
            actor=OPERATOR,
        )
    after = await group_of(caller, sales["id"])
    assert ([one["value"] for one in after["members"]], after["meta"]["version"]) == ([boris], 'W/"2"')


# Nesting


@in_both_dialects
async def test_groups_in_groups(caller: Caller, dialect: str) -> None:
    [ana] = await people(caller, "ana")
    inner, outer = await create_group(caller, "Inner", ana), await create_group(caller, "Outer")
    # What a member is does not depend on what the client calls it.
    [operation] = adding(dialect, inner["id"], ana)
    operation["value"][1]["type"] = "Group"
    assert (await patch_group(caller, outer["id"], [operation])).status == 204
    members = (await group_of(caller, outer["id"]))["members"]
    assert {one["value"]: one["type"] for one in members} == {inner["id"]: "Group", ana: "User"}
    assert {one["$ref"] for one in members} == {
        f"{caller.scim_url}/Groups/{inner['id']}",
        f"{caller.scim_url}/Users/{ana}",
    }
    for text, found in {
        'members.type eq "Group"': [outer["id"]],
        f'members[value eq "{ana}" and type eq "User"]': [inner["id"], outer["id"]],
        f'members[value eq "{ana}" and type eq "Group"]': [],
        f'members.$ref ew "/Groups/{inner["id"]}"': [outer["id"]],
        "members pr": [inner["id"], outer["id"]],
    }.items():
        assert sorted(one["id"] for one in await match_groups(caller, text)) == sorted(found), text
    # In a circle: allowed, since nothing follows membership from group to group. In itself: refused.
    assert (await patch_group(caller, inner["id"], adding(dialect, outer["id"]))).status == 204
    for one in (inner, outer):
        assert "itself" in (await patch_group(caller, one["id"], adding(dialect, one["id"]))).error(400, "invalidValue")
        assert "itself" in (await put_group(caller, one["id"], group("x", one["id"]))).error(400, "invalidValue")
    version = (await group_of(caller, outer["id"]))["meta"]["version"]
    assert (await caller.send("DELETE", f"/Groups/{inner['id']}")).status == 204
    after = await group_of(caller, outer["id"])
    assert ([one["value"] for one in after["members"]], after["meta"]["version"] > version) == ([ana], True)


# PUT, PATCH and conditions


async def test_put_replaces_attributes_and_members(caller: Caller) -> None:
    [ana, boris] = await people(caller, "ana", "boris")
    sales = await create_group(caller, "Sales", ana, externalId="s")
    answer = await put_group(caller, sales["id"], group("Sales 2", boris, ana, boris))
    assert answer.status == 200
    assert answer.json == await group_of(caller, sales["id"])
    assert answer.headers["ETag"] == answer.json["meta"]["version"] == 'W/"2"'
    assert ("externalId" in answer.json, answer.json["displayName"]) == (False, "Sales 2")
    assert {one["value"] for one in answer.json["members"]} == {ana, boris}
    # The same again changes nothing; what is left out is cleared (RFC 7644 §3.5.1).
    again = await put_group(caller, sales["id"], group("Sales 2", ana, boris), "?excludedAttributes=members")
    assert (again.json["meta"], "members" in again.json) == (answer.json["meta"], False)
    answer = await put_group(caller, sales["id"], group("Sales 2"))
    assert (answer.json["meta"]["version"], "members" in answer.json) == ('W/"3"', False)
    wrongs: list[Any] = [{}, group(""), group("x", members="nobody"), [], None]
    for wrong in wrongs:
        assert (await put_group(caller, sales["id"], wrong)).status == 400
    assert (await put_group(caller, str(uuid.uuid4()), group("New"))).status == 404
    assert await group_of(caller, sales["id"]) == answer.json


@in_both_dialects
async def test_a_patch_is_all_or_nothing(caller: Caller, dialect: str) -> None:
    [ana, boris] = await people(caller, "ana", "boris")
    sales = await create_group(caller, "Sales", ana)
    both = setting(dialect, displayName="New", externalId="n") + adding(dialect, boris) + removing(dialect, ana)
    for bad in (
        {"op": "remove", "path": "displayName"},
        {"op": "replace", "path": "displayName", "value": " "},
        {"op": "add", "path": "members", "value": [{"display": "nobody"}]},
        {"op": "replace", "path": "members.value", "value": boris},
        {"op": "remove", "path": 'members[display eq "x"]'},
        {"op": "add", "path": 'members[value eq "x"'},
        {"op": "move", "path": "members"},
    ):
        assert (await patch_group(caller, sales["id"], [*both, bad])).status == 400, bad
    assert await group_of(caller, sales["id"]) == (await match_groups(caller, 'displayName eq "sales"'))[0]
    assert await members_of(caller, sales["id"]) == [ana]
    assert (await patch_group(caller, sales["id"], both)).headers["ETag"] == 'W/"2"'  # one request, one version
    after = await group_of(caller, sales["id"])
    assert (after["displayName"], after["externalId"], [one["value"] for one in after["members"]]) == (
        "New",
        "n",
        [boris],
    )
    assert after["meta"]["lastModified"] > after["meta"]["created"] == sales["meta"]["created"]


async def test_a_replacement_that_costs_many_members_is_logged(caller: Caller) -> None:
    """Entra sends one by mistake to servers that show members in spite of excludedAttributes (entra-cases.md 92)."""
    ids = await people(caller, *(f"u{number}" for number in range(12)))
    sales = await create_group(caller, "Sales", *ids)
    with capture_logs() as lines:
        await patch_group(caller, sales["id"], removing("compliant", ids[0]))
        await put_group(caller, sales["id"], group("Sales", *ids[2:]))
        await patch_group(caller, sales["id"], [{"op": "Replace", "path": "members", "value": references(ids[:1])}])
    [line] = [one for one in lines if one["action"] == "group.shrunk"]
    assert (line["log_level"], line["group_id"], line["removed"], line["added"]) == ("warning", sales["id"], 10, 1)


@in_both_dialects
async def test_conditions_on_the_version(caller: Caller, dialect: str) -> None:
    [ana] = await people(caller, "ana")
    sales = await create_group(caller, "Sales")
    path = f"/Groups/{sales['id']}"
    current = await caller.send("GET", path, headers={"If-None-Match": 'W/"1"'})
    assert (current.status, current.content, current.headers["ETag"]) == (304, b"", 'W/"1"')
    assert (await caller.send("GET", path, headers={"If-None-Match": 'W/"2"'})).json == sales
    stale = {"If_Match": 'W/"7"'}
    for answer in (
        await patch_group(caller, sales["id"], adding(dialect, ana), **stale),
        await patch_group(caller, sales["id"], setting(dialect, displayName="x"), **stale),
        await put_group(caller, sales["id"], group("x"), **stale),
        await caller.send("DELETE", path, headers={"If-Match": 'W/"7"'}),
    ):
        answer.error(412)
    assert await group_of(caller, sales["id"]) == sales
    done = await patch_group(caller, sales["id"], adding(dialect, ana), If_Match='W/"1"')
    assert (done.status, done.headers["ETag"]) == (204, 'W/"2"')
    done = await patch_group(caller, sales["id"], setting(dialect, displayName="New"), If_Match='W/"1", W/"2"')
    assert (done.status, done.headers["ETag"]) == (204, 'W/"3"')
    # Of many who want to change the same version one may.
    answers = await asyncio.gather(
        *(patch_group(caller, sales["id"], removing(dialect, ana), If_Match='W/"3"') for _ in range(12))
    )
    assert sorted(one.status for one in answers) == [204] + [412] * 11
    assert (await caller.send("DELETE", path, headers={"If-Match": "*"})).status == 204


async def test_unknown_attributes_are_left_out(caller: Caller) -> None:
    sales = await create_group(caller, "Sales", shoeSize=43, members=[])
    assert set(sales) == {"schemas", "id", "displayName", "meta"}
    answer = await patch_group(caller, sales["id"], setting("compliant", shoeSize=43, displayName="New"))
    assert answer.status == 204
    answer = await patch_group(caller, sales["id"], setting("legacy", shoeSize=44))
    assert (answer.status, answer.headers["ETag"]) == (204, 'W/"2"')


# Matching and listing


async def test_filters_on_groups(caller: Caller) -> None:
    [ana] = await people(caller, "ana")
    sales = await create_group(caller, "Sales Straße", ana, externalId="S1")
    other = await create_group(caller, "Other")
    for text, expected in {
        'displayName eq "SALES STRASSE"': [sales],  # as it is when the name is reserved
        'displayName co "str"': [sales],
        'displayName eq "Other" and externalId pr': [],
        'displayName eq "Other" or externalId eq "S1"': [sales, other],
        'externalId eq "s1"': [],
        f'id eq "{other["id"]}"': [other],
        f'id eq "{other["id"].upper()}"': [],
        'meta.resourceType eq "Group"': [sales, other],
        f'meta.location eq "{sales["meta"]["location"]}"': [sales],
        f'meta.created ge "{sales["meta"]["created"]}"': [sales, other],
        f'schemas eq "{GROUP_URN}"': [sales, other],
        "not (members pr)": [other],
    }.items():
        assert await match_groups(caller, text) == expected, text
    for text in ('userName eq "x"', "members.display pr", 'displayName gt 5 and (members eq "x"', 'nothing eq "x"'):
        (await caller.get("/Groups", filter=text)).error(400, "invalidFilter")


async def test_more_members_than_an_answer_holds(api: Api, caller: Caller) -> None:
    sales, small = await create_group(caller, "Sales"), await create_group(caller, "Small")
    async with store(api.settings) as connection:
        await connection.execute(
            "INSERT INTO membership (tenant_id, group_id, member_id, member_type)"
            " SELECT $1, $2, gen_random_uuid(), 'User' FROM generate_series(1, $3)",
            caller.tenant.id,
            uuid.UUID(sales["id"]),
            MOST_MEMBERS,
        )
        assert len((await group_of(caller, sales["id"]))["members"]) == MOST_MEMBERS
        await connection.execute(
            "INSERT INTO membership (tenant_id, group_id, member_id, member_type)"
            " VALUES ($1, $2, gen_random_uuid(), 'User')",
            caller.tenant.id,
            uuid.UUID(small["id"]),
        )
    assert "excludedAttributes=members" in (await caller.get("/Groups")).error(400, "tooMany")
    for one in (sales, small):
        assert (await caller.get(f"/Groups/{one['id']}")).status == 200
    listed = (await caller.get("/Groups", excludedAttributes="members")).resources()
    assert [one["id"] for one in listed] == [sales["id"], small["id"]]


# Audit events


@in_both_dialects
async def test_every_write_is_recorded_alike_in_both_dialects(api: Api, caller: Caller, dialect: str) -> None:
    [ana, boris] = sorted(await people(caller, "ana", "boris"))
    sales = await create_group(caller, "Sales", externalId="s")
    asked = [
        adding(dialect, ana, boris),
        adding(dialect, ana),
        removing(dialect, boris),
        removing(dialect, boris),
        setting(dialect, displayName="New"),
        setting(dialect, displayName="New"),
        setting(dialect, displayName="Sales", externalId="t") + adding(dialect, boris) + removing(dialect, ana),
    ]
    correlations = [(await patch_group(caller, sales["id"], one)).headers["X-Correlation-Id"] for one in asked]
    (await patch_group(caller, sales["id"], adding(dialect, str(uuid.uuid4())))).error(400, "invalidValue")
    assert (await caller.send("DELETE", f"/Groups/{sales['id']}")).status == 204
    events = await audited(api.settings, caller.tenant.id, "scim.group.")
    this = {"type": "Group", "id": sales["id"], "label": "Sales", "external_id": "s"}
    new = {**this, "label": "New"}
    user = {one: {"type": "User", "id": one} for one in (ana, boris)}

    def change(path: str, before: str, after: str) -> dict[str, str]:
        return {"op": "replace", "path": path, "before": before, "after": after}

    seen = [
        (event["action"].removeprefix("scim.group."), event["reason"], event["targets"], event["diff"])
        for event in events
    ]
    last = {**this, "external_id": "t"}
    final = [*seen[7:9]]
    assert seen[:7] == [
        (
            "create",
            None,
            [this],
            [
                {"op": "add", "path": "displayName", "after": "Sales"},
                {"op": "add", "path": "externalId", "after": "s"},
            ],
        ),
        ("member.add", None, [this, user[ana], user[boris]], None),
        ("member.add", "no_change", [this], None),
        ("member.remove", None, [this, user[boris]], None),
        ("member.remove", "no_change", [this], None),
        ("update", None, [new], [change("displayName", "Sales", "New")]),
        ("update", "no_change", [new], []),
    ]
    # One request that does all three is told by one event for each, in one transaction.
    assert sorted(final, key=str) == sorted(
        [("member.add", None, [new, user[boris]], None), ("member.remove", None, [new, user[ana]], None)], key=str
    )
    assert seen[9] == (
        "update",
        None,
        [last],
        [change("displayName", "New", "Sales"), change("externalId", "s", "t")],
    )
    assert seen[10:] == [
        ("member.remove", None, [last, user[boris]], None),
        (
            "delete",
            None,
            [last],
            [
                {"op": "remove", "path": "displayName", "before": "Sales"},
                {"op": "remove", "path": "externalId", "before": "t"},
            ],
        ),
    ]
    assert [str(event["correlation_id"]) for event in events[1:10]] == [*correlations, *correlations[-1:] * 2]
    assert {(event["phase"], event["actor_id"]) for event in events} == {("applied", caller.tenant.token_id)}
    assert {event["context"]["route"] for event in events[1:]} == {"/Groups/{id}"}
    denied = await audited(api.settings, caller.tenant.id, "scim.request.deny")
    assert [event for event in denied if event["reason"] != "invalidValue"] == []


async def test_many_members_are_counted_rather_than_listed(api: Api, caller: Caller) -> None:
    ids = sorted(await people(caller, *(f"u{number}" for number in range(101))))
    await create_group(caller, "Sales", *ids)
    [_, event] = await audited(api.settings, caller.tenant.id, "scim.group.")
    assert [one["id"] for one in event["targets"][1:]] == ids[:100]
    assert event["context"]["members"] == 101
    assert event["context"]["members_sha256"] == hashlib.sha256("\n".join(ids).encode()).hexdigest()


# Races


async def test_one_of_many_creates_gets_the_name(caller: Caller) -> None:
    answers = await asyncio.gather(*(caller.post("/Groups", group(name)) for name in ("Sales", "SALES") * 10))
    assert sorted(one.status for one in answers) == [201] + [409] * 19
    assert len((await caller.get("/Groups")).resources()) == 1


async def test_renames_at_once_leave_every_name_to_one(caller: Caller) -> None:
    groups = [await create_group(caller, name) for name in "abcd"]
    for _ in range(5):
        wishes = [(one["id"], name) for one in groups for name in "abcdef"]
        answers = await asyncio.gather(
            *(patch_group(caller, one, setting("compliant", displayName=name)) for one, name in wishes)
        )
        assert {one.status for one in answers} <= {204, 409}
        names = [one["displayName"] for one in (await caller.get("/Groups")).resources()]
        assert len(set(names)) == 4
        for name in "abcdef":
            assert len(await match_groups(caller, f'displayName eq "{name}"')) == names.count(name)


async def test_nobody_becomes_a_member_while_being_deleted(api: Api, caller: Caller) -> None:
    """Whichever is first: a member that is gone leaves no row, whether it was waiting, applied or a group."""
    sales = await create_group(caller, "Sales")
    for turn in range(12):
        users = await people(caller, f"a{turn}", f"b{turn}")
        if turn % 2:
            await apply_all(api.settings)
        nested = await create_group(caller, f"n{turn}")
        paths = [f"/Users/{users[0]}", f"/Users/{users[1]}", f"/Groups/{nested['id']}"]
        ids = [path.rpartition("/")[2] for path in paths]
        answers = await asyncio.gather(
            *(caller.send("DELETE", path) for path in paths),
            *(patch_group(caller, sales["id"], adding("compliant", one)) for one in ids),
            patch_group(caller, nested["id"], adding("compliant", *users)),
        )
        assert [one.status for one in answers[:3]] == [204] * 3
        assert {one.status for one in answers[3:6]} <= {204, 400}
    assert await members_of(caller, sales["id"]) == []
    async with store(api.settings) as connection:
        left = await connection.fetchval("SELECT count(*) FROM membership WHERE tenant_id = $1", caller.tenant.id)
    assert left == 0


async def test_creates_that_are_applied_meanwhile_stay_known(api: Api, caller: Caller) -> None:
    """A member moves from the ledger to the store while it is added; it is never taken for unknown."""
    sales = await create_group(caller, "Sales")
    added: list[str] = []
    for turn in range(10):
        users = await people(caller, *(f"u{turn}-{number}" for number in range(8)))
        applying = asyncio.create_task(apply_all(api.settings))
        answers = await asyncio.gather(
            *(patch_group(caller, sales["id"], adding("legacy", one)) for one in users[:4]),
            patch_group(caller, sales["id"], adding("legacy", *users[4:])),
        )
        await applying
        assert [one.status for one in answers] == [204] * 5
        added += users
    assert await members_of(caller, sales["id"]) == sorted(added)


@asynccontextmanager
async def held_up(api: Api, request: Awaitable[Answer]) -> AsyncIterator[tuple[asyncpg.Connection, list[Answer]]]:
    """Run what is done within while a request waits for it; the answer is there afterwards."""
    answers: list[Answer] = []
    async with store(api.settings) as connection:
        async with connection.transaction():
            yield connection, answers
            waiting = asyncio.ensure_future(request)

            async def waits() -> bool:
                return bool(
                    await connection.fetchval(
                        "SELECT count(*) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
                    )
                )

            await until(waits, "the request waits for the transaction")
        answers.append(await waiting)


async def test_a_member_that_is_being_applied_is_waited_for(api: Api, caller: Caller) -> None:
    [ana] = await people(caller, "ana")
    sales = await create_group(caller, "Sales")
    for change in (adding("legacy", ana), setting("legacy", displayName="New") + adding("legacy", ana)):
        [zoe] = await people(caller, f"zoe{len(change)}")
        change[-1]["value"].append({"value": zoe})
        async with held_up(api, patch_group(caller, sales["id"], change)) as (connection, answers):
            lease = uuid7()
            jobs = await claim(connection, PROVISION, lease_token=lease, lease_seconds=30, limit=100)
            assert jobs
            await apply_creates(connection, jobs, lease)
        assert [one.status for one in answers] == [204]
        assert zoe in await members_of(caller, sales["id"])


@pytest.mark.parametrize("applied", [True, False])
async def test_a_member_that_is_being_deleted_is_unknown(api: Api, caller: Caller, applied: bool) -> None:
    [ana] = await people(caller, "ana")
    if applied:
        await apply_all(api.settings)
    sales = await create_group(caller, "Sales")
    async with held_up(api, patch_group(caller, sales["id"], adding("legacy", ana))) as (connection, answers):
        if applied:
            await connection.execute("DELETE FROM users WHERE id = $1", uuid.UUID(ana))
        else:
            await connection.execute("SELECT FROM job WHERE resource_id = $1 FOR UPDATE", uuid.UUID(ana))
            await connection.execute("UPDATE job SET state = 'cancelled' WHERE resource_id = $1", uuid.UUID(ana))
    assert ana in answers[0].error(400, "invalidValue")
    assert await members_of(caller, sales["id"]) == []


async def test_a_group_that_is_being_deleted_takes_nobody_in(api: Api, caller: Caller) -> None:
    [ana] = await people(caller, "ana")
    sales = await create_group(caller, "Sales")
    async with held_up(api, patch_group(caller, sales["id"], adding("legacy", ana))) as (connection, answers):
        await connection.execute("DELETE FROM groups WHERE id = $1", uuid.UUID(sales["id"]))
    answers[0].error(404)
    assert "groups" not in (await caller.get(f"/Users/{ana}")).json
    async with store(api.settings) as connection:
        assert await connection.fetchval("SELECT count(*) FROM membership WHERE member_id = $1", uuid.UUID(ana)) == 0


async def test_changes_of_many_members_at_once_end_in_some_order(caller: Caller) -> None:
    ids = await people(caller, *(f"u{number}" for number in range(12)))
    sales = await create_group(caller, "Sales")
    sets = [sorted(ids[:6]), sorted(ids[3:9]), sorted(ids[6:])]
    for _ in range(4):
        replacing = [[{"op": "replace", "path": "members", "value": references(one)}] for one in sets]
        answers = await asyncio.gather(*(patch_group(caller, sales["id"], one) for one in replacing * 3))
        assert {one.status for one in answers} == {204}
        assert await members_of(caller, sales["id"]) in sets  # the last one's, and nothing of another


async def test_groups_of_tenants_do_not_mix(api: Api, caller: Caller) -> None:
    other = await api.caller()
    [ana] = await people(caller, "ana")
    [eve] = await people(other, "ana")
    await create_group(caller, "Sales", ana)
    await create_group(other, "Sales", eve)
    for one, user in ((caller, ana), (other, eve)):
        [found] = (await one.get("/Groups")).resources()
        assert [member["value"] for member in found["members"]] == [user]
        assert await match_groups(one, f'members eq "{eve if user == ana else ana}"') == []
