"""What the server tells of itself, read by scim2-models as an independent judge."""

from __future__ import annotations

from typing import Any

import pytest
import scim2_models

from models.scim.discovery import resource_types, schemas, service_provider_config
from models.scim.document import read_user
from models.scim.schema import COMMON, ENTERPRISE_URN, GROUP, GROUP_URN, USER, USER_URN
from tests.support.samples import sample

BASE = "https://usher.example/scim/v2"
BADGE = "urn:ietf:params:scim:schemas:extension:Badge:2.0:User"
TENANTS = USER.with_extensions([{"id": BADGE, "name": "Badge", "attributes": [{"name": "colour"}]}])


def by_id(resources: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {resource["id"]: resource for resource in resources}


def attribute(schema: dict[str, Any], path: str) -> dict[str, Any]:
    name, _, sub = path.partition(".")
    found: dict[str, Any] = next(item for item in schema["attributes"] if item["name"] == name)
    return attribute({"attributes": found["subAttributes"]}, sub) if sub else found


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def test_the_configuration_is_valid_and_true_by_default() -> None:
    config = service_provider_config(BASE, max_results=200, max_payload=1_048_576)
    judged = scim2_models.ServiceProviderConfig.model_validate(
        config, scim_ctx=scim2_models.Context.RESOURCE_QUERY_RESPONSE
    )
    assert judged.model_dump() == config
    supported = {name: value["supported"] for name, value in config.items() if "supported" in value}
    assert supported == {
        "patch": False,
        "bulk": False,
        "filter": True,
        "changePassword": False,
        "sort": False,
        "etag": True,
    }
    assert config["filter"]["maxResults"] == 200
    assert config["bulk"] == {"supported": False, "maxOperations": 0, "maxPayloadSize": 1_048_576}
    assert config["pagination"] == {
        "cursor": False,
        "index": True,
        "defaultPaginationMethod": "index",
        "maxPageSize": 200,
    }
    assert config["meta"] == {
        "resourceType": "ServiceProviderConfig",
        "location": f"{BASE}/ServiceProviderConfig",
    }
    assert [scheme["type"] for scheme in config["authenticationSchemes"]] == ["oauthbearertoken"]


@pytest.mark.parametrize("flag", ["patch", "bulk", "filtering", "change_password", "sort", "etag"])
def test_each_flag_of_the_configuration_can_be_set(flag: str) -> None:
    name = {"filtering": "filter", "change_password": "changePassword"}.get(flag, flag)
    for value in (True, False):
        flags: Any = {flag: value}
        config = service_provider_config(BASE, max_results=1, max_payload=1, **flags)
        assert config[name]["supported"] is value
    paged = service_provider_config(BASE, max_results=9, max_payload=1, page_size=5, cursor_seconds=60)["pagination"]
    assert paged == {
        "cursor": True,
        "index": True,
        "defaultPaginationMethod": "index",
        "defaultPageSize": 5,
        "maxPageSize": 9,
        "cursorTimeout": 60,
    }


def test_the_resource_types_are_valid() -> None:
    both = resource_types(BASE, groups=True)
    for document in both:
        judged = scim2_models.ResourceType.model_validate(
            document, scim_ctx=scim2_models.Context.RESOURCE_QUERY_RESPONSE
        )
        assert judged.model_dump() == {key: value for key, value in document.items() if value != []}
    user, group = both
    assert (user["id"], user["name"], user["endpoint"], user["schema"]) == ("User", "User", "/Users", USER_URN)
    assert user["schemaExtensions"] == [{"schema": ENTERPRISE_URN, "required": False}]
    assert user["meta"] == {"resourceType": "ResourceType", "location": f"{BASE}/ResourceTypes/User"}
    assert (group["endpoint"], group["schema"], group["schemaExtensions"]) == ("/Groups", GROUP_URN, [])


def test_groups_are_told_of_only_when_they_work() -> None:
    assert [document["id"] for document in resource_types(BASE)] == ["User"]


def test_a_tenants_schema_is_told_of() -> None:
    (user,) = resource_types(BASE, user=TENANTS)
    assert {"schema": BADGE, "required": False} in user["schemaExtensions"]
    document = by_id(schemas(BASE, [TENANTS]))[BADGE]
    assert document["name"] == "Badge"
    assert attribute(document, "colour")["mutability"] == "readWrite"


def test_the_schemas_are_valid() -> None:
    documents = schemas(BASE, [TENANTS, GROUP])
    for document in documents:
        judged = scim2_models.Schema.model_validate(document, scim_ctx=scim2_models.Context.RESOURCE_QUERY_RESPONSE)
        assert judged.model_dump() == document
        assert document["meta"] == {"resourceType": "Schema", "location": f"{BASE}/Schemas/{document['id']}"}
    assert len(by_id(documents)) == len(documents)


def test_the_schemas_of_discovery_itself_are_there() -> None:
    """RFC 7643 §8.7.2; conformance checkers ask for them."""
    names = [document["name"] for document in schemas(BASE, [USER])]
    assert names == ["User", "EnterpriseUser", "ServiceProviderConfig", "ResourceType", "Schema"]


def test_case_129_no_null_camel_case_and_canonical_values() -> None:
    documents = by_id(schemas(BASE, [USER, GROUP]))
    assert None not in leaves(list(documents.values()))
    user = documents[USER_URN]
    assert attribute(user, "userName")["mutability"] == "readWrite"
    assert attribute(user, "userName")["uniqueness"] == "server"
    assert attribute(user, "emails.type")["canonicalValues"] == ["work", "home", "other"]
    assert attribute(user, "phoneNumbers.type")["canonicalValues"][:3] == ["work", "home", "mobile"]
    assert attribute(documents[GROUP_URN], "members.type")["canonicalValues"] == ["User", "Group"]
    # A member's display is not kept, and RFC 7643 §4.2 does not have it.
    members = attribute(documents[GROUP_URN], "members")["subAttributes"]
    assert [each["name"] for each in members] == ["value", "$ref", "type"]
    assert attribute(documents[ENTERPRISE_URN], "manager.$ref")["referenceTypes"] == ["User"]


def test_wire_8_every_attribute_of_the_default_mapping_is_listed() -> None:
    documents = by_id(schemas(BASE, [USER]))
    mapped = ("externalId", "userName", "active", "displayName", "title", "preferredLanguage", "name.givenName")
    for path in (*mapped, "emails.value", "phoneNumbers.value", "addresses.postalCode", "roles.primary"):
        assert attribute(documents[USER_URN], path)["name"] == path.rpartition(".")[2]
    for path in ("department", "employeeNumber", "manager.value"):
        assert attribute(documents[ENTERPRISE_URN], path)["name"] == path.rpartition(".")[2]


def test_case_130_the_password_is_hidden() -> None:
    user = by_id(schemas(BASE, [USER]))[USER_URN]
    assert "password" not in [item["name"] for item in user["attributes"]]


def test_the_schemas_list_what_the_registry_holds() -> None:
    listed = {item["name"].lower() for item in by_id(schemas(BASE, [USER]))[USER_URN]["attributes"]}
    assert listed == USER.attributes.keys() - {"password", "schemas", "meta"}
    assert {"id", "externalid"} == listed & COMMON


def test_a_client_that_discovers_the_schemas_reads_our_users_whole() -> None:
    found = {key: scim2_models.Schema.model_validate(item) for key, item in by_id(schemas(BASE, [USER])).items()}
    core: Any = scim2_models.Resource.from_schema(found[USER_URN])
    model = core[scim2_models.Extension.from_schema(found[ENTERPRISE_URN])]
    resource = read_user(sample("rfc7643-8.3-user-enterprise")).doc | {"id": "1"}
    assert model.model_validate(resource).model_dump() == resource
