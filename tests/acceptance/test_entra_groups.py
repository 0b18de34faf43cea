"""Interoperability cases of Entra by their number: groups (F, and 2, 30 to 32, 142, 143), each in both dialects.

No worker runs, so every member here is a user that is accepted and not applied, unless the test says otherwise.
What is not among them: 110 is about a page that does not exist; 111 about what Entra does not send. Of 99, members
that are unknown are not skipped: there is no such option.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import TYPE_CHECKING
from urllib.parse import quote_plus

import pytest

from models.scim.schema import GROUP_URN
from tests.support.api import document, store
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

if TYPE_CHECKING:
    from tests.support.api import Api, Caller

pytestmark = pytest.mark.asyncio(loop_scope="module")
in_both_dialects = pytest.mark.parametrize("dialect", DIALECTS)

NOBODY = "01990000-0000-7000-8000-00000000dead"


async def people(caller: Caller, count: int) -> list[str]:
    """Create users and return their ids."""
    names = [document(f"{uuid.uuid4().hex}@contoso.example") for _ in range(count)]
    return [user["id"] for user in await asyncio.gather(*map(caller.create, names))]


async def test_case_2_and_30_only_the_whole_name_matches(caller: Caller) -> None:
    for name in ("app", "app-test", "my app", "app%"):
        await create_group(caller, name)
    for text in ('displayName eq "app"', 'displayName eq "APP"', f'{GROUP_URN}:displayName eq "app"'):
        [found] = await match_groups(caller, text, excludedAttributes="members")
        assert found["displayName"] == "app"
    assert await match_groups(caller, 'displayName eq "ap"', excludedAttributes="members") == []
    assert await match_groups(caller, f'displayName eq "{uuid.uuid4()}"', excludedAttributes="members") == []


@in_both_dialects
@pytest.mark.parametrize("query", ["excludedAttributes=members", "attributes=id,displayName,externalId"])
async def test_case_31_members_are_really_left_out(caller: Caller, dialect: str, query: str) -> None:
    first, second = await people(caller, 2)
    body = json.dumps(group("Sales", first, externalId="s")).encode()
    created = await caller.send("POST", f"/Groups?{query}", body=body)
    assert created.status == 201
    path = f"/Groups/{created.json['id']}"
    answers = [
        created,
        await caller.send("GET", f"{path}?{query}"),
        await patch_group(caller, created.json["id"], adding(dialect, second), f"?{query}"),
        await patch_group(caller, created.json["id"], setting(dialect, displayName="Sales 2"), f"?{query}"),
        await put_group(caller, created.json["id"], group("Sales", first, externalId="s"), f"?{query}"),
    ]
    resources = [one.json for one in answers]
    for text in ('displayName eq "Sales"', 'externalId eq "s"', f'id eq "{created.json["id"]}"', 'displayName sw "S"'):
        listed = await caller.send("GET", f"/Groups?{query}&filter={quote_plus(text)}")
        resources += listed.resources()
    resources += (await caller.send("GET", f"/Groups?{query}")).resources()
    assert [one.status for one in answers] == [201, 200, 200, 200, 200]
    assert len(resources) == 10
    for one in resources:
        assert set(one) - {"schemas", "meta"} == {"id", "displayName", "externalId"}
    assert await members_of(caller, created.json["id"]) == [first]


async def test_case_32_reference_check(caller: Caller) -> None:
    member, stranger = await people(caller, 2)
    sales, other = await create_group(caller, "Sales", member), await create_group(caller, "Other")
    for user, this, found in ((member, sales, True), (stranger, sales, False), (member, other, False)):
        for text in (
            f'id eq "{this["id"]}" and members eq "{user}"',
            f'members eq "{user}" and id eq "{this["id"]}"',
            f'id eq "{this["id"]}" and members.value eq "{user}"',
            f'id eq "{this["id"]}" and members[value eq "{user}"]',
        ):
            resources = await match_groups(caller, text, attributes="id")
            expected = {"id": this["id"], "schemas": [GROUP_URN]}
            assert resources == ([expected] if found else []), text
    assert await match_groups(caller, f'members eq "{NOBODY}"', attributes="id") == []
    assert await match_groups(caller, 'members eq "nonsense"', attributes="id") == []


@in_both_dialects
async def test_case_92_replace_is_replace(caller: Caller, dialect: str) -> None:
    ids = await people(caller, 5)
    sales = await create_group(caller, "Sales", *ids)
    op = "Replace" if dialect == "legacy" else "replace"
    answer = await patch_group(
        caller, sales["id"], [{"op": op, "path": "members", "value": references([ids[0], ids[2]])}]
    )
    assert answer.status == 204
    assert sorted(await members_of(caller, sales["id"])) == sorted([ids[0], ids[2]])
    # A replacement that does not speak of members leaves them alone (entra-wire.md §7).
    for values in ({"displayName": "Sales 2"}, {"externalId": "s"}):
        assert (await patch_group(caller, sales["id"], setting(dialect, **values))).status == 204
    assert len(await members_of(caller, sales["id"])) == 2


@in_both_dialects
async def test_case_93_and_94_remove_takes_only_who_is_named(caller: Caller, dialect: str) -> None:
    ids = await people(caller, 4)
    sales = await create_group(caller, "Sales", *ids)
    assert (await patch_group(caller, sales["id"], removing(dialect, ids[0]))).status == 204
    assert await members_of(caller, sales["id"]) == sorted(ids[1:])
    assert (await patch_group(caller, sales["id"], removing(dialect, *ids[1:3]))).status == 204
    assert await members_of(caller, sales["id"]) == [ids[3]]
    path = "members" if dialect == "legacy" else f"{GROUP_URN}:members"
    assert (await patch_group(caller, sales["id"], [{"op": "remove", "path": path}])).status == 204
    assert await members_of(caller, sales["id"]) == []


@in_both_dialects
async def test_case_97_adding_and_removing_again_is_done_already(caller: Caller, dialect: str) -> None:
    member, stranger = await people(caller, 2)
    sales = await create_group(caller, "Sales", member)
    before = (await caller.get(f"/Groups/{sales['id']}")).json
    for operations in (
        adding(dialect, member),
        adding(dialect, member, member),
        removing(dialect, stranger),
        removing(dialect, NOBODY),
        removing(dialect, "no id at all"),
        adding(dialect, member) + removing(dialect, stranger),
    ):
        answer = await patch_group(caller, sales["id"], operations)
        assert (answer.status, answer.headers["ETag"]) == (204, before["meta"]["version"])
    assert (await caller.get(f"/Groups/{sales['id']}")).json == before


@in_both_dialects
async def test_case_98_and_99_unknown_members_are_named_and_nobody_is_added(caller: Caller, dialect: str) -> None:
    good, gone = await people(caller, 2)
    sales = await create_group(caller, "Sales")
    before = (await caller.get(f"/Groups/{sales['id']}")).json
    other = str(uuid.uuid4())
    for operations in (
        adding(dialect, NOBODY, good, other, "jyoung"),
        adding(dialect, good) + adding(dialect, NOBODY, other, "jyoung"),
        setting(dialect, displayName="New") + adding(dialect, NOBODY, good, other, "jyoung"),
    ):
        detail = (await patch_group(caller, sales["id"], operations)).error(400, "invalidValue")
        assert all(one in detail for one in (NOBODY, other, "jyoung"))
        assert good not in detail
    (await patch_group(caller, sales["id"], adding(dialect, sales["id"]))).error(400, "invalidValue")
    (await put_group(caller, sales["id"], group("New", good, NOBODY))).error(400, "invalidValue")
    (await caller.post("/Groups", group("New", good, NOBODY))).error(400, "invalidValue")
    assert (await caller.get(f"/Groups/{sales['id']}")).json == before
    assert await match_groups(caller, 'displayName eq "New"') == []
    assert (await caller.post("/Groups", group("New", gone))).status == 201  # the name was not taken by the failure


@in_both_dialects
async def test_case_101_and_102_concurrent_changes_of_one_group_all_count(caller: Caller, dialect: str) -> None:
    ids = await people(caller, 120)
    sales = await create_group(caller, "Sales", *ids[:20])
    changes = [removing(dialect, one) for one in ids[:20]] + [adding(dialect, one) for one in ids[20:]]
    answers = await asyncio.gather(*(patch_group(caller, sales["id"], one) for one in changes))
    assert [one.status for one in answers] == [204] * 120
    assert await members_of(caller, sales["id"]) == sorted(ids[20:])
    # Every change has a version of its own, and they are the answers' (RFC 7644 §3.14).
    assert sorted(int(one.headers["ETag"][3:-1]) for one in answers) == list(range(2, 122))


@in_both_dialects
async def test_case_104_only_the_value_is_needed(caller: Caller, dialect: str) -> None:
    ids = await people(caller, 4)
    sales = await create_group(caller, "Sales")
    op = "Add" if dialect == "legacy" else "add"
    for value in (
        [{"value": ids[0]}],
        [{"$ref": None, "display": None, "type": None, "value": ids[1]}],
        {"value": ids[2], "type": "user", "display": "Somebody"},
        [{"Value": ids[3], "$ref": f"{caller.scim_url}/Users/{ids[3]}"}],
    ):
        answer = await patch_group(caller, sales["id"], [{"op": op, "path": "members", "value": value}])
        assert answer.status == 204, answer
    assert await members_of(caller, sales["id"]) == sorted(ids)


@pytest.mark.parametrize("schemas", [[GROUP_URN], group("x")["schemas"], []])
async def test_case_105_create_with_no_members(caller: Caller, schemas: list[str]) -> None:
    sent = {"schemas": schemas, "externalId": "7d2b", "displayName": "Sales EMEA", "members": []}
    answer = await caller.post("/Groups", sent)
    assert answer.status == 201
    assert (
        answer.headers["Location"] == answer.json["meta"]["location"] == f"{caller.scim_url}/Groups/{answer.json['id']}"
    )
    assert answer.headers["ETag"] == answer.json["meta"]["version"] == 'W/"1"'
    assert answer.json["meta"]["resourceType"] == "Group"
    assert {key: answer.json[key] for key in answer.json if key not in ("id", "meta")} == {
        "schemas": [GROUP_URN],
        "externalId": "7d2b",
        "displayName": "Sales EMEA",
    }
    assert (await caller.get(f"/Groups/{answer.json['id']}")).json == answer.json
    assert await match_groups(caller, 'externalId eq "7d2b"') == [answer.json]


@in_both_dialects
async def test_case_106_a_name_is_one_group_s(caller: Caller, dialect: str) -> None:
    sales, other = await create_group(caller, "Sales Žilina"), await create_group(caller, "Other")
    detail = (await caller.post("/Groups", group("SALES žILINA"))).error(409, "uniqueness")
    assert "displayName" in detail
    (await patch_group(caller, other["id"], setting(dialect, displayName="sales žilina"))).error(409, "uniqueness")
    (await put_group(caller, other["id"], group("sales žilina"))).error(409, "uniqueness")
    # One's own name in other letters is no conflict; a name that was given up and one that was deleted are free.
    assert (await patch_group(caller, sales["id"], setting(dialect, displayName="SALES Žilina"))).status == 204
    assert (await patch_group(caller, sales["id"], setting(dialect, displayName="Marketing"))).status == 204
    assert await match_groups(caller, 'displayName eq "sales žilina"') == []
    [found] = await match_groups(caller, 'displayName eq "MARKETING"')
    assert found["id"] == sales["id"]
    assert (await patch_group(caller, other["id"], setting(dialect, displayName="Sales Žilina"))).status == 204
    assert (await caller.send("DELETE", f"/Groups/{other['id']}")).status == 204
    again = await create_group(caller, "sales žilina")
    assert again["id"] not in (sales["id"], other["id"])


@in_both_dialects
async def test_case_107_external_id_changes(caller: Caller, dialect: str) -> None:
    sales = await create_group(caller, "Sales", externalId="old")
    assert (await patch_group(caller, sales["id"], setting(dialect, externalId="new"))).status == 204
    assert await match_groups(caller, 'externalId eq "old"') == []
    [found] = await match_groups(caller, 'externalId eq "new"')
    assert (found["id"], found["externalId"]) == (sales["id"], "new")
    assert await match_groups(caller, 'externalId eq "NEW"') == []


@in_both_dialects
async def test_case_108_a_patch_is_answered_without_the_group(caller: Caller, dialect: str) -> None:
    [member] = await people(caller, 1)
    sales = await create_group(caller, "Sales")
    for number, operations in enumerate((adding(dialect, member), setting(dialect, displayName="New")), 2):
        answer = await patch_group(caller, sales["id"], operations)
        assert (answer.status, answer.content) == (204, b"")
        assert answer.headers["ETag"] == f'W/"{number}"'
    answer = await patch_group(caller, sales["id"], adding(dialect, member), "?attributes=displayName")
    assert (answer.status, answer.json) == (200, {"schemas": [GROUP_URN], "id": sales["id"], "displayName": "New"})
    answer = await patch_group(caller, sales["id"], adding(dialect, member), "?attributes=members")
    assert [one["value"] for one in answer.json["members"]] == [member]


@in_both_dialects
async def test_case_112_deleting_a_group_leaves_its_users(caller: Caller, dialect: str) -> None:
    ids = await people(caller, 3)
    sales = await create_group(caller, "Sales")
    assert (await patch_group(caller, sales["id"], adding(dialect, *ids))).status == 204
    answer = await caller.send("DELETE", f"/Groups/{sales['id']}")
    assert (answer.status, answer.content) == (204, b"")
    for user in ids:
        found = (await caller.get(f"/Users/{user}")).json
        assert (found["id"], "groups" in found) == (user, False)
    (await caller.get(f"/Groups/{sales['id']}")).error(404)
    (await caller.send("DELETE", f"/Groups/{sales['id']}")).error(404)
    (await patch_group(caller, sales["id"], adding(dialect, ids[0]))).error(404)
    (await patch_group(caller, sales["id"], setting(dialect, displayName="x"))).error(404)
    (await put_group(caller, sales["id"], group("x"))).error(404)
    assert await match_groups(caller, f'members eq "{ids[0]}"') == []


@in_both_dialects
async def test_case_142_ten_thousand_members_in_one_patch(api: Api, caller: Caller, dialect: str) -> None:
    async with store(api.settings) as connection:
        rows = await connection.fetch(
            "INSERT INTO users (tenant_id, id, work_email_keys, active, doc, created_at, last_modified)"
            " SELECT $1, gen_random_uuid(), '{}', true, jsonb_build_object('userName', 'u' || n), now(), now()"
            " FROM generate_series(1, 10001) AS n RETURNING id::text",
            caller.tenant.id,
        )
    ids = [row["id"] for row in rows]
    sales = await create_group(caller, "Sales")
    too_many = [{"op": "add", "path": "members", "value": [{"value": one} for one in ids]}]
    assert "10000" in (await patch_group(caller, sales["id"], too_many)).error(413)
    assert (await patch_group(caller, sales["id"], adding(dialect, *ids[:10_000]))).status == 204
    assert await members_of(caller, sales["id"]) == sorted(ids[:10_000])
    # A thousand operations is as many as one PATCH may have.
    assert (await patch_group(caller, sales["id"], removing(dialect, *ids[:1000]))).status == 204
    assert (await patch_group(caller, sales["id"], removing("legacy", *ids[1000:10_000]))).status == 204
    assert await members_of(caller, sales["id"]) == []


@in_both_dialects
async def test_case_143_members_of_another_tenant_are_unknown(api: Api, caller: Caller, dialect: str) -> None:
    stranger = await api.caller()
    [theirs] = await people(stranger, 1)
    their_group = await create_group(stranger, "Theirs")
    sales = await create_group(caller, "Sales")
    details: set[str] = set()
    for one in (theirs, their_group["id"], NOBODY):
        answer = await patch_group(caller, sales["id"], adding(dialect, one))
        details.add(answer.error(400, "invalidValue").replace(one, "…"))
    assert len(details) == 1
    for path in (f"/Groups/{their_group['id']}", f"/Groups/{NOBODY}"):
        (await caller.get(path)).error(404)
        (await caller.send("DELETE", path)).error(404)
        (await caller.send("PUT", path, body=json.dumps(group("Mine")).encode())).error(404)
    assert await match_groups(caller, f'id eq "{their_group["id"]}" or members eq "{theirs}"') == []
    assert (await create_group(caller, "Theirs"))["id"] != their_group["id"]
    assert (await stranger.get("/Groups")).resources() == [their_group]
