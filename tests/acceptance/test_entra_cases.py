"""Interoperability cases of Entra by their number: connection (A) and matching (B).

Those of creating users (C) are in `test_scim_create`, of lists (H) in `test_scim_lists`, of discovery (I) in
`test_scim_discovery`, of errors and safety (J, K) in `test_scim_errors` and `test_bad_input`; 11, 19, 46 and 144, which
are about tokens, in `test_tokens`; 43, two creates at one moment, in `test_scim_races`. What is in none of them:

* 13 to 16 are about an OAuth token endpoint, which there is not; 12 is refused like any other unknown token.
* 17 and 18 ask for documentation and for a rate limit, which there is not: nothing answers 429.
* 30 to 32, 142 and 143 are about groups: `test_entra_groups`. 135 is in `test_entra_patch`, 139 in
  `integration/test_directory_write` and `integration/test_groups`; 137 needs a limit on users, which there is not.
"""

from __future__ import annotations

import base64
import json
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from models.scim.schema import ENTERPRISE_URN, USER_URN
from tests.support.api import LIST_URN, SCIM_TYPE, document, work_email

if TYPE_CHECKING:
    from tests.support.api import Api, Caller

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANA = "Ana.Nov@contoso.example"
EMPTY_LIST = {"schemas": [LIST_URN], "totalResults": 0, "startIndex": 1, "itemsPerPage": 0, "Resources": []}


@pytest_asyncio.fixture(loop_scope="module", params=["waiting", "applied"])
async def caller(api: Api, request: pytest.FixtureRequest) -> Caller:
    """A client of a tenant of the test's own, for whose users there is no worker, or a very quick one."""
    return replace(await api.caller(), applies=api.settings if request.param == "applied" else None)


def ids(resources: list[Any]) -> list[str]:
    return [one["id"] for one in resources]


# A. Connection, transport, authentication


@pytest.mark.parametrize("attribute", ["userName", "externalId", 'emails[type eq "work"].value', "id"])
async def test_case_1_and_38_probe_finds_an_empty_list(caller: Caller, attribute: str) -> None:
    answer = await caller.get("/Users", filter=f'{attribute} eq "{uuid.uuid4()}"')
    assert (answer.status, answer.json) == (200, EMPTY_LIST)


@pytest.mark.parametrize("attribute", ["displayName", "externalId"])
async def test_case_2_and_153_group_probe_finds_an_empty_list(caller: Caller, attribute: str) -> None:
    answer = await caller.get("/Groups", excludedAttributes="members", filter=f'{attribute} eq "{uuid.uuid4()}"')
    assert (answer.status, answer.json) == (200, EMPTY_LIST)


async def test_case_3_no_user_agent(caller: Caller) -> None:
    await caller.create(document(ANA))
    path = "/Users?filter=userName+eq+%22ana.nov%40contoso.example%22"
    answer = await caller.send("GET", path, without=["User-Agent", "Accept", "Accept-Encoding"])
    assert len(answer.resources()) == 1


@pytest.mark.parametrize("method", ["PATCH", "DELETE", "PUT"])
async def test_case_4_every_verb_reaches_the_application(caller: Caller, method: str) -> None:
    user = await caller.create(document(ANA))
    answer = await caller.send(method, f"/Users/{user['id']}", body=b"{}")
    assert answer.status < 500  # and a SCIM message, or `send` would have failed


@pytest.mark.parametrize("flag", ["aadOptscim062020", "aadOptscim062020=true", "AzureAdScimPatch2017"])
async def test_case_5_feature_flag_is_ignored(caller: Caller, flag: str) -> None:
    answer = await caller.send("POST", f"/Users?{flag}", body=json.dumps(document(ANA)).encode())
    assert answer.status == 201
    assert "?" not in answer.json["meta"]["location"] + answer.headers["Location"]
    for query in (f"{flag}&filter=userName+eq+%22{ANA}%22", f"filter=userName+eq+%22{ANA}%22&{flag}"):
        found = (await caller.send("GET", f"/Users?{query}")).resources()
        assert [one["meta"] for one in found] == [answer.json["meta"]]


async def test_case_5_feature_flag_in_the_middle_is_explained(caller: Caller) -> None:
    answer = await caller.send("GET", "?aadOptscim062020/Users")
    assert "feature flags" in answer.error(404)


@pytest.mark.parametrize("path", ["/Users/?", "//Users?", "//Users//?", "/users?", "/USERS/?"])
async def test_case_6_slashes_and_letter_case_of_the_path(caller: Caller, path: str) -> None:
    user = await caller.create(document(ANA))
    found = await caller.send("GET", f"{path}filter=userName+eq+%22{ANA}%22")
    assert ids(found.resources()) == [user["id"]]
    single = path.rstrip("?").rstrip("/")
    assert (await caller.send("GET", f"{single}/{user['id']}/")).json["id"] == user["id"]


async def test_case_6_slashes_before_the_base(caller: Caller) -> None:
    origin = caller.scim_url.removesuffix("/scim/v2")
    answer = await caller.send("GET", f"{origin}//scim/v2/Users?filter=userName+eq+%22x%22")
    assert answer.json == EMPTY_LIST


@pytest.mark.parametrize("path", ["", "/"])
async def test_case_7_root_is_no_fault(caller: Caller, path: str) -> None:
    assert (await caller.send("GET", path)).json == EMPTY_LIST


async def test_case_8_every_answer_has_the_scim_media_type(caller: Caller) -> None:
    user = await caller.create(document(ANA))
    answers = [
        await caller.get("/Users"),
        await caller.get(f"/Users/{user['id']}"),
        await caller.get("/Schemas"),
        await caller.get("/Users", filter="("),
        await caller.get("/Users/unknown"),
        await caller.bearing(None).get("/Users"),
        await caller.send("POST", "/Schemas", body=b"{}"),
        await caller.send("POST", "/Users", body=b"{}", headers={"Content-Type": "text/plain"}),
    ]
    assert [one.status for one in answers] == [200, 200, 200, 400, 404, 401, 405, 415]
    assert {one.headers["Content-Type"] for one in answers} == {SCIM_TYPE}


@pytest.mark.parametrize(
    "content_type",
    [
        "application/scim+json; charset=utf-8",
        "application/scim+json;charset=UTF-8",
        'application/scim+json; charset="utf-8"',
        "Application/SCIM+JSON",
        "application/json",
        "application/json; charset=utf-8",
    ],
)
async def test_case_9_content_type_with_parameters(caller: Caller, content_type: str) -> None:
    body = json.dumps(document("žofie@contoso.example"), ensure_ascii=False).encode()
    answer = await caller.send("POST", "/Users", body=body, headers={"Content-Type": content_type})
    assert (answer.status, answer.json["userName"]) == (201, "žofie@contoso.example")


async def test_case_10_secret_token_is_short(caller: Caller) -> None:
    assert caller.token
    assert len(caller.token) <= 100


async def test_case_12_entra_s_own_jwt_is_refused(caller: Caller) -> None:
    claims = {"iss": f"https://sts.windows.net/{uuid.uuid4()}/", "aud": "8adf8e6e-67b2-4cf2-a259-e3dc5476c621"}
    parts = [json.dumps(part).encode() for part in ({"alg": "RS256", "typ": "JWT"}, claims)]
    jwt = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in [*parts, b"signature"]).decode()
    (await caller.bearing(jwt).get("/Users")).error(401)


# B. Matching queries


async def test_case_20_user_name_in_another_letter_case(caller: Caller) -> None:
    user = await caller.create(document(ANA))
    for spelling in (ANA, ANA.lower(), ANA.upper(), ANA.title()):
        assert await caller.match(f'userName eq "{spelling}"') == [user]


async def test_case_21_and_22_external_id_is_case_exact_and_echoed(caller: Caller) -> None:
    object_id = "B3c2F6a0-3c1b-4d52-9a39-5f2f1c7f0f11"
    user = await caller.create(document(ANA, externalId=object_id))
    assert user["externalId"] == object_id
    assert await caller.match(f'externalId eq "{object_id}"') == [user]
    assert await caller.match(f'externalId eq "{object_id.lower()}"') == []
    assert await caller.match("externalId eq " + object_id) == [user]  # without quotes: entra-wire.md §3


@pytest.mark.parametrize(
    "text", ['employee eq "x"', 'name.middle eq "x"', 'urn:x:2.0:User:a eq "x"', 'password eq "x"']
)
async def test_case_23_unknown_attribute_is_refused_not_ignored(caller: Caller, text: str) -> None:
    await caller.create(document(ANA))
    (await caller.get("/Users", filter=text)).error(400, "invalidFilter")


@pytest.mark.parametrize(
    "text",
    [
        f'USERNAME eq "{ANA}"',
        f'userName EQ "{ANA}"',
        f'  userName  eq  "{ANA}"  ',
        f'(userName eq "{ANA}")',
        f'userName eq "{ANA}" and active eq true',
        f'active eq "True" and userName eq "{ANA}"',
        f'not (userName ne "{ANA}")',
        f'userName sw "{ANA[:5]}" or title pr',
        'userName eq "Ana.\\u004eov@contoso.example"',
    ],
)
async def test_case_24_every_spelling_of_a_filter_is_read(caller: Caller, text: str) -> None:
    user = await caller.create(document(ANA))
    await caller.create(document("other@contoso.example"))
    assert ids(await caller.match(text)) == [user["id"]]


@pytest.mark.parametrize("form", ['emails[type eq "work"].value eq "{}"', 'emails[type eq "work"] eq "{}"'])
async def test_case_26_value_path_looks_at_that_element_only(caller: Caller, form: str) -> None:
    home = {"type": "home", "value": "ana@home.example"}
    user = await caller.create(document(ANA, emails=[home, work_email("Ana@Contoso.example")]))
    assert ids(await caller.match(form.format("ana@contoso.EXAMPLE"))) == [user["id"]]
    assert await caller.match(form.format("ana@home.example")) == []


async def test_case_28_unfiltered_element_and_qualified_name(caller: Caller) -> None:
    home = {"type": "home", "value": "ana@home.example"}
    user = await caller.create(document(ANA, emails=[home, work_email("ana@contoso.example")]))
    for value in ("ana@home.example", "ana@contoso.example"):
        assert ids(await caller.match(f'emails.value eq "{value}"')) == [user["id"]]
    assert ids(await caller.match(f'{USER_URN}:userName eq "{ANA}"')) == [user["id"]]


async def test_case_29_extension_attribute_as_matching_key(caller: Caller) -> None:
    user = await caller.create(document(ANA, **{ENTERPRISE_URN: {"employeeNumber": "4711"}}))
    assert ids(await caller.match(f'{ENTERPRISE_URN}:employeeNumber eq "4711"')) == [user["id"]]
    assert await caller.match(f'{ENTERPRISE_URN}:employeeNumber eq "471"') == []


async def test_case_33_reference_check_of_a_manager(caller: Caller) -> None:
    manager = (await caller.create(document("boss")))["id"]
    user = await caller.create(document(ANA, **{ENTERPRISE_URN: {"manager": {"value": manager}}}))
    for text in (
        f'id eq "{user["id"]}" and manager eq "{manager}"',  # as Entra writes it
        f'manager eq "{manager}" and id eq "{user["id"]}"',
        f'{ENTERPRISE_URN}:manager.value eq "{manager}" and id eq "{user["id"]}"',
    ):
        found = await caller.match(text, attributes="id")
        assert [set(one) for one in found] == [{"schemas", "id"}]
        assert ids(found) == [user["id"]]
        assert await caller.match(text.replace(manager, str(uuid.uuid4())), attributes="id") == []


async def test_case_34_inactive_users_are_returned(caller: Caller) -> None:
    user = await caller.create(document(ANA, active=False))
    assert user["active"] is False
    assert await caller.match(f'userName eq "{ANA}"') == [user]
    assert (await caller.get(f"/Users/{user['id']}")).json == user
    assert (await caller.get("/Users")).resources() == [user]


async def test_case_35_and_152_a_match_is_the_whole_resource(caller: Caller) -> None:
    await caller.create(document(ANA, title="Buyer", name={"familyName": "Nov"}))
    [found] = await caller.match(f'userName eq "{ANA.lower()}"')
    assert found == (await caller.get(f"/Users/{found['id']}")).json
    assert (found["userName"], found["active"], found["schemas"]) == (ANA, True, [USER_URN])
    assert "null" not in json.dumps(found)


@pytest.mark.parametrize(
    ("encoded", "value"),
    [
        ("ana%2Btest%40x.example", "ana+test@x.example"),
        ("ana+test%40x.example", "ana test@x.example"),
        ("ana%20test@x.example", "ana test@x.example"),
        ("%C3%A1na%40x.example", "ána@x.example"),
        ("a%26b%3Dc%3Bd%25%40x.example", "a&b=c;d%@x.example"),
    ],
)
async def test_case_36_percent_encoding_of_a_value(caller: Caller, encoded: str, value: str) -> None:
    user = await caller.create(document(value))
    found = await caller.send("GET", f"/Users?filter=userName+eq+%22{encoded}%22")
    assert ids(found.resources()) == [user["id"]]


async def test_case_37_quote_and_backslash_in_a_value(caller: Caller) -> None:
    for name in ('Team "A"', "back\\slash", "it's; DROP TABLE users --", "100%_", "tab\tbed"):
        user = await caller.create(document(str(uuid.uuid4()), displayName=name))
        assert ids(await caller.match(f"displayName eq {json.dumps(name)}")) == [user["id"]]
    for broken in ('displayName eq "Team', 'displayName eq "a"b"', 'displayName eq "\\x"', 'displayName eq "a" "b"'):
        (await caller.get("/Users", filter=broken)).error(400, "invalidFilter")


async def test_case_40_two_accounts_share_a_work_address(caller: Caller) -> None:
    emails = [work_email("shared@contoso.example")]
    both = [await caller.create(document(f"{name}@contoso.example", emails=emails)) for name in ("ana", "eva")]
    answer = await caller.get("/Users", filter='emails[type eq "work"].value eq "shared@contoso.example"')
    assert answer.json["totalResults"] == 2
    assert answer.resources() == both
