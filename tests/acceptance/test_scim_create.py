"""Creating users: section C of Entra's cases by number, entra-wire.md §4, and the examples of RFC 7643 §8."""

from __future__ import annotations

import json
import unicodedata
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from models.scim.schema import ENTERPRISE_URN, USER_URN
from tests.support.api import document, store, work_email
from tests.support.samples import sample

if TYPE_CHECKING:
    from tests.support.api import Api, Caller

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANA = "Ana.Nov@contoso.example"
PHONES = ["420555123", "+420 555 123", " 00420/555 123 ", "tel:+420-555-123"]


def kept(resource: dict[str, Any]) -> dict[str, Any]:
    """Return what the client sent of a resource: all but what the server adds."""
    return {name: value for name, value in resource.items() if name not in ("id", "meta", "schemas")}


async def test_wire_4_create_as_entra_sends_it(caller: Caller) -> None:
    sent = sample("entra-wire-4-create")
    began = datetime.now(UTC) - timedelta(seconds=5)
    answer = await caller.post("/Users", sent, **{"Content-Type": "application/scim+json; charset=utf-8"})
    assert answer.status == 201
    user, meta = answer.json, answer.json["meta"]
    assert user["schemas"] == [USER_URN, ENTERPRISE_URN]
    assert kept(user) == {name: value for name, value in sent.items() if name not in ("meta", "roles", "schemas")}
    assert str(uuid.UUID(user["id"])) == user["id"]
    assert meta["resourceType"] == "User"
    assert meta["location"] == answer.headers["Location"] == f"{caller.scim_url}/Users/{user['id']}"
    assert meta["version"] == answer.headers["ETag"]
    assert meta["created"] == meta["lastModified"]
    assert meta["created"].endswith("Z")
    assert began < datetime.fromisoformat(meta["created"]) < began + timedelta(seconds=30)
    read = await caller.get(f"/Users/{user['id']}")
    assert (read.json, read.headers["ETag"]) == (user, answer.headers["ETag"])


async def test_wire_4_every_documented_oddity_at_once(caller: Caller) -> None:
    sent = sample("entra-wire-4-oddities")
    boss = sent[ENTERPRISE_URN]["manager"] = (await caller.create(document("boss")))["id"]
    user = await caller.create(sent)
    assert user["schemas"] == [USER_URN, ENTERPRISE_URN]
    assert kept(user) == {
        "externalId": "ana.nov",
        "userName": "ana.nov@contoso.example",
        "active": True,
        "displayName": "Ana Nováková",
        "emails": [{"primary": True, "type": "work", "value": "ana.nov@contoso.example"}],
        "name": {"familyName": "Nováková", "givenName": "Ana"},
        ENTERPRISE_URN: {"department": "Procurement", "manager": {"value": boss}},
    }
    assert (await caller.get(f"/Users/{user['id']}")).json == user


@pytest.mark.parametrize("name", ["8.1-user-minimal", "8.2-user-full", "8.3-user-enterprise"])
async def test_rfc7643_8_examples(caller: Caller, name: str) -> None:
    sent = sample(f"rfc7643-{name}")
    if ENTERPRISE_URN in sent:  # a manager must be somebody
        sent[ENTERPRISE_URN]["manager"]["value"] = (await caller.create(document("boss")))["id"]
    user = await caller.create(sent)
    assert user["schemas"] == sent["schemas"]
    # The server's own: id and meta. Never returned: the password. Read-only: groups, the manager's displayName.
    expected = {key: value for key, value in kept(sent).items() if key not in ("password", "groups")}
    expected.setdefault("active", True)
    if ENTERPRISE_URN in expected:
        del expected[ENTERPRISE_URN]["manager"]["displayName"]
    assert kept(user) == expected
    assert user["id"] != sent["id"]
    assert (await caller.get(f"/Users/{user['id']}")).json == user
    assert await caller.match(f'userName eq "{sent["userName"]}"') == [user]


async def test_case_41_and_42_duplicate_in_any_letter_case(caller: Caller) -> None:
    user = await caller.create(document(ANA))
    for spelling in (ANA, ANA.lower(), ANA.upper()):
        assert "userName" in (await caller.post("/Users", document(spelling, title="other"))).error(409, "uniqueness")
    assert (await caller.get("/Users")).resources() == [user]


async def test_case_44_and_47_a_repeated_create_is_answered_409_so_that_entra_matches(caller: Caller) -> None:
    sent = document(ANA, externalId="b3c2")
    user = await caller.create(sent)
    detail = (await caller.post("/Users", sent)).error(409, "uniqueness")
    assert "Match it" in detail
    assert await caller.match('externalId eq "b3c2"') == [user]


async def test_case_48_explicit_nulls_are_unassigned(caller: Caller) -> None:
    nulls = dict.fromkeys(("title", "addresses", "phoneNumbers", "externalId", "name", "roles", ENTERPRISE_URN))
    user = await caller.create(document(ANA, **nulls, emails=[work_email(ANA, display=None)]))
    assert kept(user) == {"userName": ANA, "active": True, "emails": [work_email(ANA)]}


async def test_case_49_extension_that_schemas_does_not_list(caller: Caller) -> None:
    user = await caller.create(document(ANA, **{ENTERPRISE_URN: {"department": "Sales"}}))
    assert user["schemas"] == [USER_URN, ENTERPRISE_URN]
    assert user[ENTERPRISE_URN] == {"department": "Sales"}


async def test_case_50_foreign_and_malformed_schemas(caller: Caller) -> None:
    strange = ["http://schemas.microsoft.com/2006/11/ResourceManagement/ADSCIM/2.0/User", f"{ENTERPRISE_URN[:-5]}User"]
    for number, schemas in enumerate(([*strange, USER_URN], strange, [])):
        user = await caller.create({"schemas": schemas, "userName": f"user{number}"})
        assert user["schemas"] == [USER_URN]


@pytest.mark.parametrize(
    ("sent", "meant"),
    [("True", True), ("False", False), ("false", False), ("true", True), (False, False), (None, True)],
)
async def test_case_51_active_as_a_string(caller: Caller, sent: Any, meant: bool) -> None:
    user = await caller.create(document(ANA, active=sent))
    assert user["active"] is meant
    assert (await caller.match(f'userName eq "{ANA}" and active eq {json.dumps(meant)}')) == [user]


async def test_case_52_pascal_case_names(caller: Caller) -> None:
    sent = {
        "Schemas": [USER_URN],
        "UserName": ANA,
        "Active": True,
        "Emails": [{"Primary": "True", "Type": "work", "Value": ANA}],
        ENTERPRISE_URN.upper(): {"Department": "Sales"},
    }
    user = await caller.create(sent)
    assert kept(user) == {
        "userName": ANA,
        "active": True,
        "emails": [{"primary": True, "type": "work", "value": ANA}],
        ENTERPRISE_URN: {"department": "Sales"},
    }


async def test_case_53_id_and_meta_are_the_server_s(caller: Caller) -> None:
    mine = {"id": "my-own", "meta": {"created": "1999-01-01T00:00:00Z", "location": "http://evil.example"}}
    user = await caller.create(document(ANA, **mine))
    assert user["id"] != "my-own"
    assert user["meta"]["created"] > "2020"
    assert user["meta"]["location"].startswith(caller.scim_url)


async def test_case_54_unknown_attributes_are_ignored(caller: Caller) -> None:
    user = await caller.create(document(ANA, shoeSize=43, name={"familyName": "Nov", "maiden": "x"}, groups=[]))
    assert kept(user) == {"userName": ANA, "active": True, "name": {"familyName": "Nov"}}


async def test_case_55_guest(caller: Caller) -> None:
    guest = "ana_partner.example#EXT#@contoso.onmicrosoft.com"
    user = await caller.create(document(guest))
    assert user["userName"] == guest
    found = await caller.send("GET", f"/Users?filter=userName+eq+%22{guest.replace('#', '%23').replace('@', '%40')}%22")
    assert found.resources() == [user]


@pytest.mark.parametrize(
    "text",
    [
        "Žofie Nováková-Łęcka",
        unicodedata.normalize("NFD", "Žofie Nováková"),
        "\u202b\u05e9\u05dc\u05d5\u05dd\u202c 李小龍 \U0001f469\u200d\U0001f4bb",
        "  leading and trailing  ",
        "line\nbreak\ttab \x7f \u2028",
        '"quoted" \\ / \u00ad \ufeff \ufffd \uffff',
        "I\u0307stanbul ﬃ ß ẞ",
    ],
)
async def test_case_56_values_come_back_byte_for_byte(api: Api, caller: Caller, text: str) -> None:
    attributes = {"displayName": text, "title": text, "name": {"formatted": text}, "externalId": text[:100]}
    answer = await caller.post("/Users", document(ANA, **attributes))
    assert kept(answer.json) == {"userName": ANA, "active": True, **attributes}
    waiting = await caller.get(f"/Users/{answer.json['id']}")
    assert waiting.json == answer.json
    assert await caller.match(f"externalId eq {json.dumps(text[:100])}") == [answer.json]
    assert await caller.match(f"displayName eq {json.dumps(text, ensure_ascii=False)}") == [answer.json]
    async with store(api.settings) as connection:
        raw = await connection.fetchval(
            "SELECT payload -> 'doc' ->> 'title' FROM job WHERE resource_id = $1", waiting.json["id"]
        )
    assert raw.encode() == text.encode()


async def test_case_56_user_name_is_compared_after_nfc_and_folding(caller: Caller) -> None:
    user = await caller.create(document("žofie.straße@contoso.example"))
    for spelling in ("ŽOFIE.STRASSE@CONTOSO.EXAMPLE", unicodedata.normalize("NFD", "Žofie.Straße@contoso.example")):
        (await caller.post("/Users", document(spelling))).error(409, "uniqueness")
        assert await caller.match(f"userName eq {json.dumps(spelling)}") == [user]
    assert user["userName"] == "žofie.straße@contoso.example"


@pytest.mark.parametrize("phone", PHONES)
async def test_case_57_phone_numbers_are_not_reformatted(caller: Caller, phone: str) -> None:
    user = await caller.create(document(ANA, phoneNumbers=[{"type": "mobile", "value": phone}]))
    assert (await caller.get(f"/Users/{user['id']}")).json["phoneNumbers"] == [{"type": "mobile", "value": phone}]


async def test_case_58_order_of_values_is_kept(caller: Caller) -> None:
    phones = [{"type": kind, "value": str(number)} for number, kind in enumerate(["work", "fax", "mobile", "home"] * 5)]
    user = await caller.create(document(ANA, phoneNumbers=phones))
    assert user["phoneNumbers"] == phones
    assert (await caller.get(f"/Users/{user['id']}")).json["phoneNumbers"] == phones


async def test_case_60_two_primary_values(caller: Caller) -> None:
    emails = [work_email(ANA, primary=True), {"type": "home", "value": "a@x.example", "primary": "True"}]
    assert "primary" in (await caller.post("/Users", document(ANA, emails=emails))).error(400, "invalidValue")
    assert (await caller.get("/Users")).resources() == []


async def test_case_61_an_address_without_primary_stays_so(caller: Caller) -> None:
    emails = [{"type": "home", "value": "a@x.example"}, work_email(ANA, primary=True)]
    user = await caller.create(document(ANA, emails=emails))
    assert (await caller.get(f"/Users/{user['id']}")).json["emails"] == emails


async def test_passwords_are_neither_kept_nor_shown(api: Api, caller: Caller) -> None:
    user = await caller.create(document(ANA, password="correct horse battery staple"))
    assert "password" not in user
    async with store(api.settings) as connection:
        kept_anywhere = await connection.fetchval(
            "SELECT count(*) FROM job, audit_event"
            " WHERE strpos(job::text, 'battery staple') > 0 OR strpos(audit_event::text, 'battery staple') > 0"
        )
    assert kept_anywhere == 0


async def test_an_answer_carries_the_attributes_that_were_asked_for(caller: Caller) -> None:
    body = json.dumps(document(ANA, title="Buyer", emails=[work_email(ANA)])).encode()
    answer = await caller.send("POST", "/Users?attributes=title", body=body)
    user_id = answer.json["id"]
    assert answer.json == {"schemas": [USER_URN], "id": user_id, "title": "Buyer"}
    less = await caller.get(f"/Users/{user_id}", excludedAttributes="emails,meta,title")
    assert less.json == {"schemas": [USER_URN], "id": user_id, "userName": ANA, "active": True}
    [listed] = await caller.match(f'userName eq "{ANA}"', attributes="emails.value")
    assert listed == {"schemas": [USER_URN], "id": user_id, "emails": [{"value": ANA}]}


async def test_the_request_is_audited_with_the_create(api: Api, caller: Caller) -> None:
    answer = await caller.post("/Users", document(ANA, externalId="b3c2"))
    refused = await caller.post("/Users", document(ANA))
    async with store(api.settings) as connection:
        rows = await connection.fetch(
            "SELECT * FROM audit_event WHERE tenant_id = $1 AND action = 'scim.user.create' ORDER BY occurred_at",
            caller.tenant.id,
        )
    assert [(row["phase"], row["outcome"], row["reason"]) for row in rows] == [
        ("requested", "pending", None),
        ("denied", "denied", "uniqueness"),
    ]
    correlations = [str(row["correlation_id"]) for row in rows]
    assert correlations == [answer.headers["X-Correlation-Id"], refused.headers["X-Correlation-Id"]]
    assert {row["actor_id"] for row in rows} == {caller.tenant.token_id}
    [target] = rows[0]["targets"]
    assert target == {"type": "User", "id": answer.json["id"], "label": ANA, "external_id": "b3c2"}
    assert rows[0]["context"] == {"method": "POST", "route": "/Users", "ip": "127.0.0.1"}
