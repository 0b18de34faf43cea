"""Interoperability cases of Entra by their number: changing users (D, E, G), each in both of its dialects.

What a PATCH does to a document is tested in depth in `tests/unit/test_scim_patch`; here it comes over HTTP, to users
that no worker has applied yet and to users that are applied. Of section D, 76 and 82 are there too; of section G, 118,
120 and 121 need roles, sessions and a rate of deletions, which there are not; 117 and 122 ask for documentation.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from models.scim.schema import ENTERPRISE_URN, USER_URN
from tests.support.api import document, store, until, work_email
from tests.support.writing import DIALECTS, PATCH_URN, audited, patch, removing, setting

if TYPE_CHECKING:
    from tests.support.api import Answer, Api, Caller

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.parametrize("dialect", DIALECTS)]

ANA = "ana@contoso.example"
MANAGER = f"{ENTERPRISE_URN}:manager"


async def changed(caller: Caller, user: dict[str, Any], operations: list[dict[str, Any]]) -> dict[str, Any]:
    """PATCH a user and check that the answer is what every read gives from then on (entra-cases.md 86)."""
    answer = await patch(caller, user["id"], operations)
    return await as_read(caller, answer)


async def as_read(caller: Caller, answer: Answer) -> dict[str, Any]:
    assert answer.status == 200, answer
    after = dict(answer.json)
    assert answer.headers["ETag"] == after["meta"]["version"]
    assert answer.headers["Location"] == after["meta"]["location"]
    single = await caller.get(f"/Users/{after['id']}")
    assert (single.json, single.headers["ETag"]) == (after, answer.headers["ETag"])
    assert await caller.match(f'userName eq "{after["userName"]}"') == [after]
    assert await caller.match(f'id eq "{after["id"]}"') == [after]
    return after


async def refused(caller: Caller, user: dict[str, Any], operations: Any, status: int, scim_type: str | None) -> str:
    """PATCH a user and check that nothing came of it."""
    detail = (await patch(caller, user["id"], operations)).error(status, scim_type)
    assert (await caller.get(f"/Users/{user['id']}")).json == user
    return detail


# D. PATCH user


async def test_case_62_letter_case_of_operations(caller: Caller, dialect: str) -> None:
    user = await caller.create(document(ANA))
    after = await changed(caller, user, setting(dialect, {"title": "Buyer", "displayName": "Ana"}, "add"))
    assert (after["title"], after["displayName"]) == ("Buyer", "Ana")
    after = await changed(caller, user, removing(dialect, "title"))
    assert "title" not in after
    assert [after["meta"]["version"], after["meta"]["created"]] == ['W/"3"', user["meta"]["created"]]
    assert after["meta"]["lastModified"] > user["meta"]["lastModified"]


async def test_case_63_65_113_114_119_disable_and_enable(caller: Caller, dialect: str) -> None:
    user = await caller.create(document(ANA, externalId="ana", title="Buyer"))
    for active in (False, True, False):
        after = await changed(caller, user, setting(dialect, {"active": active}))
        assert after["active"] is active
        assert (after["id"], after["externalId"], after["title"]) == (user["id"], "ana", "Buyer")
        assert await caller.match('externalId eq "ana"') == [after]
    (await caller.post("/Users", document(ANA))).error(409, "uniqueness")


@pytest.mark.parametrize("value", ["0", "no", "", 1, None, "truth"])
async def test_case_64_what_is_no_boolean_is_refused(caller: Caller, dialect: str, value: Any) -> None:
    user = await caller.create(document(ANA))
    answer = await patch(caller, user["id"], setting(dialect, {"active": value}))
    after = (await caller.get(f"/Users/{user['id']}")).json
    if value is None:
        assert "active" not in answer.json  # null unassigns (RFC 7643 §2.5)
        assert after == answer.json
    else:
        answer.error(400, "invalidValue")
        assert after["active"] is True


async def test_case_66_71_dotted_and_qualified_names(caller: Caller, dialect: str) -> None:
    user = await caller.create(document(ANA, name={"formatted": "A"}))
    values = {
        "name.givenName": "Ana",
        "name.familyName": "N",
        f"{ENTERPRISE_URN}:department": "Legal",
        f"{USER_URN}:title": "Buyer",
    }
    after = await changed(caller, user, setting(dialect, values))
    assert after["name"] == {"formatted": "A", "givenName": "Ana", "familyName": "N"}
    assert (after["title"], after[ENTERPRISE_URN]) == ("Buyer", {"department": "Legal"})
    assert after["schemas"] == [USER_URN, ENTERPRISE_URN]
    assert not any("." in name for name in after if not name.startswith("urn:"))


async def test_case_67_whole_extension_is_merged(caller: Caller, dialect: str) -> None:
    user = await caller.create(document(ANA, **{ENTERPRISE_URN: {"employeeNumber": "4711"}}))
    op = "Replace" if dialect == "legacy" else "replace"
    after = await changed(caller, user, [{"op": op, "value": {ENTERPRISE_URN: {"department": "Sales"}}}])
    assert after[ENTERPRISE_URN] == {"employeeNumber": "4711", "department": "Sales"}


@pytest.mark.parametrize("op", ["add", "replace"])
async def test_case_68_69_values_of_absent_elements(caller: Caller, dialect: str, op: str) -> None:
    user = await caller.create(document(ANA))
    values = {
        'phoneNumbers[type eq "work"].value': "+420 555",
        'addresses[type eq "work"].formatted': "Brno 1",
        'addresses[type eq "work"].locality': "Brno",
        'addresses[type eq "work"].region': "JM",
        'emails[type eq "work"].value': "ana@work.example",
        "active": False,
    }
    after = await changed(caller, user, setting(dialect, values, op))
    assert after["phoneNumbers"] == [{"type": "work", "value": "+420 555"}]
    assert after["addresses"] == [{"type": "work", "formatted": "Brno 1", "locality": "Brno", "region": "JM"}]
    assert after["active"] is False
    assert await caller.match('emails[type eq "work"].value eq "ANA@work.example"') == [after]


async def test_case_72_unknown_attributes_do_not_stop_the_others(caller: Caller, dialect: str) -> None:
    user = await caller.create(document(ANA))
    values = {"shoeSize": "42", "active": False, f"{ENTERPRISE_URN}:favourite": "blue", "title": "Buyer"}
    after = await changed(caller, user, setting(dialect, values))
    assert (after["active"], after["title"]) == (False, "Buyer")
    assert "shoeSize" not in after
    assert ENTERPRISE_URN not in after


async def test_case_74_147_repeated_patch_changes_nothing(api: Api, caller: Caller, dialect: str) -> None:
    user = await caller.create(document(ANA))
    operations = setting(dialect, {"title": "Buyer", 'emails[type eq "work"].value': ANA, "active": False})
    after = await changed(caller, user, operations)
    for _ in range(3):
        assert await changed(caller, user, operations) == after
    events = [event for event in await audited(api.settings, caller.tenant.id) if event["reason"] == "no_change"]
    assert [(event["action"], event["diff"], event["changed"]) for event in events] == [
        ("scim.user.update", [], [])
    ] * 3


async def test_case_75_one_bad_operation_undoes_all(caller: Caller, dialect: str) -> None:
    user = await caller.create(document(ANA))
    operations = setting(dialect, {"title": "Buyer", "active": False, 'emails[type eq "work"].value': "a@b.example"})
    for bad, scim_type in (
        ({"op": "replace", "path": "emails[type eq", "value": "x"}, "invalidPath"),
        ({"op": "replace", "path": "a..b", "value": "x"}, "invalidPath"),
        ({"op": "remove"}, "noTarget"),
        ({"op": "remove", "path": "userName"}, "mutability"),
        ({"op": "replace", "path": "name", "value": 7}, "invalidValue"),
        ({"op": "multiply", "path": "title", "value": "x"}, "invalidSyntax"),
    ):
        detail = await refused(caller, user, [*operations, bad], 400, scim_type)
        assert f"{len(operations) + 1}" in detail


async def test_case_76_extra_keys_are_ignored(caller: Caller, dialect: str) -> None:
    user = await caller.create(document(ANA))
    operations = [{**one, "name": "title"} for one in setting(dialect, {"title": "Buyer"})]
    body = {"schemas": [PATCH_URN], "id": str(uuid.uuid4()), "Operations": operations}
    answer = await caller.send("PATCH", f"/Users/{user['id']}", body=json.dumps(body).encode())
    assert (await as_read(caller, answer))["title"] == "Buyer"


@pytest.mark.parametrize("value", ["", None])
async def test_case_79_cleared_by_empty_string_and_by_null(caller: Caller, dialect: str, value: str | None) -> None:
    user = await caller.create(
        document(
            ANA,
            title="Buyer",
            name={"givenName": "Ana", "familyName": "N"},
            emails=[work_email(ANA), {"type": "home", "value": "h@x.example"}],
            **{ENTERPRISE_URN: {"department": "Sales"}},
        )
    )
    paths = ["title", "name.givenName", 'emails[type eq "work"].value', f"{ENTERPRISE_URN}:department"]
    after = await changed(caller, user, setting(dialect, dict.fromkeys(paths, value)))
    assert "title" not in after
    assert ENTERPRISE_URN not in after
    assert after["schemas"] == [USER_URN]
    assert (after["name"], after["emails"]) == ({"familyName": "N"}, [{"type": "home", "value": "h@x.example"}])
    assert await caller.match(f'emails[type eq "work"].value eq "{ANA}"') == []


async def test_case_80_what_is_not_sent_stays(caller: Caller, dialect: str) -> None:
    user = await caller.create(document(ANA, title="Buyer", nickName="Ani"))
    after = await changed(caller, user, setting(dialect, {"title": "Seller"}))
    assert after["nickName"] == "Ani"


async def test_case_81_rename(caller: Caller, dialect: str) -> None:
    user = await caller.create(document(ANA))
    other = await caller.create(document("boris@contoso.example"))
    await refused(
        caller, user, setting(dialect, {"userName": "BORIS@contoso.example", "title": "x"}), 409, "uniqueness"
    )
    after = await changed(caller, user, setting(dialect, {"userName": "Ana.Nov@contoso.example"}))
    assert after["userName"] == "Ana.Nov@contoso.example"
    assert await caller.match(f'userName eq "{ANA}"') == []
    assert await caller.match('userName eq "ana.nov@CONTOSO.example"') == [after]
    # Only the letter case: the name is the user's own.
    after = await changed(caller, user, setting(dialect, {"userName": "ANA.NOV@contoso.example"}))
    assert after["userName"] == "ANA.NOV@contoso.example"
    (await caller.post("/Users", document("ana.nov@contoso.example"))).error(409, "uniqueness")
    taken = await changed(caller, other, setting(dialect, {"userName": ANA.upper()}))  # it was given back
    assert taken["userName"] == ANA.upper()


async def test_case_83_add_to_a_list_keeps_what_is_there(caller: Caller, dialect: str) -> None:
    user = await caller.create(document(ANA, emails=[work_email(ANA)]))
    op = "Add" if dialect == "legacy" else "add"
    home = {"type": "home", "value": "h@x.example"}
    after = await changed(caller, user, [{"op": op, "path": "emails", "value": [home]}])
    assert after["emails"] == [work_email(ANA), home]
    assert await changed(caller, user, [{"op": op, "path": "emails", "value": [home]}]) == after


async def test_case_85_the_id_of_a_list_works(caller: Caller, dialect: str) -> None:
    await caller.create(document(ANA))
    [found] = (await caller.get("/Users")).resources()
    assert (await changed(caller, found, setting(dialect, {"title": "Buyer"})))["title"] == "Buyer"
    for unknown in (str(uuid.uuid4()), found["id"].upper(), "7"):
        (await patch(caller, unknown, setting(dialect, {"title": "Buyer"}))).error(404)


async def test_case_86_attributes_and_excluded_attributes_are_honoured(caller: Caller, dialect: str) -> None:
    user = await caller.create(document(ANA, title="Buyer"))
    answer = await patch(caller, user["id"], setting(dialect, {"title": "Seller"}), "?attributes=title")
    assert answer.json == {"id": user["id"], "schemas": [USER_URN], "title": "Seller"}
    answer = await patch(caller, user["id"], setting(dialect, {"title": "Clerk"}), "?excludedAttributes=userName,meta")
    assert (answer.status, "meta" in answer.json, answer.json["title"]) == (200, False, "Clerk")


# E. Manager and roles


@pytest.mark.parametrize("op", ["add", "replace"])
async def test_case_33_87_88_89_manager(caller: Caller, dialect: str, op: str) -> None:
    user = await caller.create(document(ANA))
    boss = await caller.create(document("boss@contoso.example"))
    other = await caller.create(document("other@contoso.example"))
    shapes = [
        setting(dialect, {MANAGER: boss["id"]}, op),
        [{"op": op.capitalize(), "path": MANAGER, "value": {"value": boss["id"]}}],
        [{"op": op, "path": "manager", "value": [{"$ref": boss["meta"]["location"], "value": boss["id"]}]}],
    ]
    for operations in shapes:
        after = await changed(caller, user, operations)
        assert after[ENTERPRISE_URN]["manager"]["value"] == boss["id"]
        for text in (f'id eq "{user["id"]}" and manager eq "{boss["id"]}"', f'{MANAGER} eq "{boss["id"]}"'):
            assert await caller.match(text, attributes="id") == [{"id": user["id"], "schemas": after["schemas"]}]
        assert await caller.match(f'id eq "{user["id"]}" and manager eq "{other["id"]}"') == []
        await changed(caller, user, setting(dialect, {MANAGER: other["id"]}, op))
    after = await changed(caller, user, setting(dialect, {MANAGER: ""}))
    assert (ENTERPRISE_URN in after, after["schemas"]) == (False, [USER_URN])
    await changed(caller, user, setting(dialect, {MANAGER: boss["id"]}, op))
    assert ENTERPRISE_URN not in await changed(caller, user, removing(dialect, MANAGER))


async def test_case_90_143_unknown_manager(api: Api, caller: Caller, dialect: str) -> None:
    user = await caller.create(document(ANA))
    stranger = await (await api.caller()).create(document("boss@contoso.example"))
    details = set()
    for wrong in (stranger["id"], str(uuid.uuid4()), "boss@contoso.example", user["id"].upper()):
        details.add(await refused(caller, user, setting(dialect, {MANAGER: wrong, "title": "x"}), 400, "invalidValue"))
        created = await caller.post("/Users", document("new@contoso.example", **{ENTERPRISE_URN: {"manager": wrong}}))
        details.add(created.error(400, "invalidValue"))
    assert len(details) == 1
    assert await caller.match('userName eq "new@contoso.example"') == []


async def test_case_91_role_inside_a_json_string(caller: Caller, dialect: str) -> None:
    user = await caller.create(document(ANA))
    role = '{"id":"06b07648-ecfe-589f-9d2f-6325724a46ee","value":"Admin","displayName":"Admin"}'
    op = "Add" if dialect == "legacy" else "add"
    after = await changed(caller, user, [{"op": op, "path": "roles", "value": [{"value": role}]}])
    assert [(one["value"], one["display"]) for one in after["roles"]] == [("Admin", "Admin")]
    await refused(caller, after, [{"op": op, "path": "roles", "value": [{"value": role[:-1]}]}], 400, "invalidValue")
    new = [{"primary": False, "type": "WindowsAzureActiveDirectoryRole", "display": "User", "value": "User"}]
    assert (await changed(caller, user, setting(dialect, {"roles": new})))["roles"] == new
    assert "roles" not in await changed(caller, user, setting(dialect, {"roles": []}))


# G. Lifecycle


async def test_case_115_tombstone_name_of_a_soft_deleted_user(caller: Caller, dialect: str) -> None:
    user = await caller.create(document(ANA))
    after = await changed(caller, user, setting(dialect, {"userName": uuid.uuid4().hex + ANA, "active": False}))
    assert (after["userName"], after["active"]) == (ANA, False)
    after = await changed(caller, user, setting(dialect, {"userName": ANA, "active": True}))
    assert (after["userName"], after["active"]) == (ANA, True)


# J. Limits and retries, as far as they are about writes


async def test_case_135_the_same_slow_update_twice(caller: Caller, dialect: str) -> None:
    user = await caller.create(document(ANA))
    operations = setting(dialect, {"title": "Buyer", "userName": "new@contoso.example"})
    answers = await asyncio.gather(*(patch(caller, user["id"], operations) for _ in range(5)))
    assert {answer.status for answer in answers} == {200}
    assert all(answer.json == answers[0].json for answer in answers)
    assert answers[0].json["meta"]["version"] == 'W/"2"'


async def test_case_136_142_a_thousand_operations_and_more(caller: Caller, dialect: str) -> None:
    user = await caller.create(document(ANA))
    op = "Replace" if dialect == "legacy" else "replace"
    operations = [{"op": op, "path": "title", "value": f"t{number}"} for number in range(1000)]
    assert (await changed(caller, user, operations))["title"] == "t999"
    (await patch(caller, user["id"], [*operations, operations[0]])).error(413)


# 148: what both dialects leave behind is the same


async def test_case_148_both_dialects_leave_the_same_events(api: Api, caller: Caller, dialect: str) -> None:
    boss = await caller.create(document("boss@contoso.example"))
    user = await caller.create(document(ANA, title="Buyer"))
    for values in (
        {"title": "Seller", 'emails[type eq "work"].value': "a@b.example", MANAGER: boss["id"]},
        {"active": False, "name.givenName": "Ana"},
        {"active": True, "title": ""},
        {"userName": "new@contoso.example"},
    ):
        await changed(caller, user, setting(dialect, values))
    events = [event for event in await audited(api.settings, caller.tenant.id) if event["phase"] == "applied"]
    events = [event for event in events if event["targets"][0]["id"] == user["id"]]
    assert [(event["action"], event["changed"]) for event in events] == [
        ("scim.user.create", ["active", "title", "userName"]),
        ("scim.user.update", ['emails[type eq "work"]', "title", f"{MANAGER}.value"]),
        ("scim.user.disable", ["active", "name.givenName"]),
        ("scim.user.enable", ["active", "title"]),
        ("scim.user.update", ["userName"]),
    ]
    assert events[4]["diff"] == [{"op": "replace", "path": "userName", "before": ANA, "after": "new@contoso.example"}]
    assert events[1]["diff"] == [
        {"op": "add", "path": 'emails[type eq "work"]', "after": {"type": "work", "value": "a@b.example"}},
        {"op": "replace", "path": "title", "before": "Buyer", "after": "Seller"},
        {"op": "add", "path": f"{MANAGER}.value", "after": boss["id"]},
    ]
    assert {event["actor_id"] for event in events[1:]} == {caller.tenant.token_id}
    assert all(event["context"]["route"] == "/Users/{id}" for event in events[1:])


async def test_refused_writes_are_audited(api: Api, caller: Caller, dialect: str) -> None:
    user = await caller.create(document(ANA))
    await caller.create(document("boris@contoso.example"))
    answer = await patch(caller, user["id"], setting(dialect, {"userName": "boris@contoso.example"}))

    async def denials() -> list[Any]:
        events = await audited(api.settings, caller.tenant.id, "scim.request.deny")
        return [(str(event["correlation_id"]), event["reason"]) for event in events]

    answer.error(409, "uniqueness")
    await until(denials, "the event of the refusal")
    assert await denials() == [(answer.headers["X-Correlation-Id"], "uniqueness")]


async def test_a_settled_create_is_applied_once(api: Api, caller: Caller, dialect: str) -> None:
    user = await caller.create(document(ANA))
    await changed(caller, user, setting(dialect, {"title": "Buyer"}))
    async with store(api.settings) as connection:
        jobs = await connection.fetch("SELECT state, payload FROM job WHERE resource_id = $1", uuid.UUID(user["id"]))
        assert [(row["state"], row["payload"]) for row in jobs] == [("done", None)]
        row = await connection.fetchrow("SELECT * FROM users WHERE id = $1", uuid.UUID(user["id"]))
    assert row is not None
    assert (row["version"], row["doc"]["title"]) == (2, "Buyer")
