"""Discovery: section I of Entra's cases, by number."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from models.scim.schema import ENTERPRISE_URN, USER_URN
from tests.support.api import document, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.api import Api, Caller

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANA = "Ana.Nov@contoso.example"


async def test_case_129_and_130_schemas_without_nulls_and_passwords(caller: Caller) -> None:
    schemas = {one["id"]: one for one in (await caller.get("/Schemas")).resources()}
    assert {USER_URN, ENTERPRISE_URN} < set(schemas)
    assert not list(_strange(schemas))
    attributes = {one["name"]: one for one in schemas[USER_URN]["attributes"]}
    for name in ("emails", "phoneNumbers", "addresses"):
        [kind] = [one for one in attributes[name]["subAttributes"] if one["name"] == "type"]
        assert "work" in kind["canonicalValues"]
    for urn, schema in schemas.items():
        assert (await caller.get(f"/Schemas/{urn}")).json == schema
        assert schema["meta"]["location"] == f"{caller.scim_url}/Schemas/{urn}"


def _strange(value: Any) -> Iterator[str]:
    """Yield what Entra's validator stumbles over: nulls, names that are not in camelCase, the password."""
    if value is None or value == "password":
        yield str(value)
    elif isinstance(value, list):
        for item in value:
            yield from _strange(item)
    elif isinstance(value, dict):
        yield from (name for name in value if "_" in name)
        yield from _strange([*value.values()])


async def test_case_131_the_configuration_is_true_to_what_works(caller: Caller) -> None:
    config = (await caller.get("/ServiceProviderConfig")).json
    user = await caller.create(document(ANA))
    for feature, method, path in (("patch", "PATCH", f"/Users/{user['id']}"), ("bulk", "POST", "/Bulk")):
        answer = await caller.send(method, path, body=b"{}")
        assert config[feature]["supported"] is (answer.status not in (404, 405, 501))
    assert config["filter"]["supported"] is True
    types = {one["endpoint"]: one for one in (await caller.get("/ResourceTypes")).resources()}
    for endpoint in ("/Users", "/Groups"):
        answer = await caller.post(endpoint, {})
        assert (endpoint in types) is (answer.status != 501)
    assert (await caller.get("/ResourceTypes/User")).json == types["/Users"]


async def test_case_132_location_is_the_configured_address(api: Api) -> None:
    async with serving(api.settings) as served:
        caller = await served.caller()
        spoofed = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"}
        body = json.dumps(document(ANA)).encode()
        created = await caller.send("POST", "/Users", body=body, headers=spoofed)
        location = created.json["meta"]["location"]
        assert location == created.headers["Location"] == f"{served.scim_url}/Users/{created.json['id']}"
        for path in ("/Users", "/Schemas", "/ResourceTypes", "/ServiceProviderConfig"):
            assert b"evil" not in (await caller.send("GET", path, headers=spoofed)).content
