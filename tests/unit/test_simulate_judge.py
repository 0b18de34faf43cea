from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from cli.simulate import judge
from cli.simulate.body import CUSTOM, ENTERPRISE, USER
from cli.simulate.findings import CONTENT_TYPE, Answer, Finding

EXPECTED = {
    "schemas": [USER, ENTERPRISE],
    "userName": "ana@x.example",
    "active": True,
    "emails": [{"type": "work", "primary": True, "value": "ana@x.example"}, {"type": "other", "value": "b@x.example"}],
    ENTERPRISE: {"manager": {"value": "9"}},
}
OPTIONAL = {CUSTOM: {"costObject": "1"}}

Doc = dict[str, Any]
Headers = dict[str, str]
Break = Callable[[Doc, Headers], object]


def resource() -> Doc:
    meta = {
        "resourceType": "User",
        "created": "2026-01-02T03:04:05Z",
        "lastModified": "2026-01-02T03:04:05.123+00:00",
        "location": "https://x.example/scim/v2/Users/7",
        "version": 'W/"1"',
    }
    copy: Doc = json.loads(json.dumps(EXPECTED))
    return copy | {"id": "7", "meta": meta}


def headers() -> Headers:
    return {
        "content-type": "application/scim+json; charset=utf-8",
        "location": "https://x.example/scim/v2/Users/7",
        "etag": 'W/"1"',
    }


def answer(status: int, doc: Any, with_headers: Headers | None = None) -> Answer:
    return Answer(status, with_headers or headers(), json.dumps(doc).encode())


def a_list(*resources: Any, **changes: Any) -> Doc:
    return {
        "schemas": [judge.LIST_RESPONSE],
        "totalResults": len(resources),
        "startIndex": 1,
        "itemsPerPage": len(resources),
        "Resources": list(resources),
    } | changes


def an_error(**changes: Any) -> Doc:
    return {"schemas": [judge.ERROR], "status": "409", "scimType": "uniqueness", "detail": "Taken."} | changes


def one(findings: list[Finding], expected: str) -> None:
    assert [expected in finding.expected for finding in findings] == [True], findings


def test_a_right_create_has_no_findings() -> None:
    assert judge.check_created(answer(201, resource()), EXPECTED, OPTIONAL) == []


def test_a_server_may_add_to_a_reference_and_keep_an_extension() -> None:
    doc = resource()
    doc[ENTERPRISE]["manager"] |= {"$ref": "https://x.example/scim/v2/Users/9", "displayName": "B"}
    doc |= {CUSTOM: {"costObject": "1"}, "schemas": [CUSTOM, ENTERPRISE, USER], "groups": []}
    assert judge.check_created(answer(201, doc), EXPECTED, OPTIONAL) == []


BROKEN_RESOURCES: dict[str, tuple[Break, str]] = {
    "no id": (lambda doc, _: doc.pop("id"), "id is a non-empty string"),
    "schemas miss an extension": (lambda doc, _: doc.update(schemas=[USER]), "schemas ="),
    "schemas hold one twice": (lambda doc, _: doc["schemas"].append(USER), "schemas ="),
    "schemas miss a kept extension": (lambda doc, _: doc.update({CUSTOM: {"costObject": "1"}}), "schemas ="),
    "schemas are no list": (lambda doc, _: doc.update(schemas=USER), "schemas ="),
    "value changed": (lambda doc, _: doc.update(userName="Ana@x.example"), "userName ="),
    "value lost": (lambda doc, _: doc.pop("userName"), "userName ="),
    "boolean as string": (lambda doc, _: doc.update(active="True"), "active ="),
    "boolean as number": (lambda doc, _: doc.update(active=1), "active ="),
    "order changed": (lambda doc, _: doc["emails"].reverse(), "emails ="),
    "manager as string": (lambda doc, _: doc[ENTERPRISE].update(manager="9"), f"{ENTERPRISE} ="),
    "null kept": (lambda doc, _: doc.update(title=None), "title"),
    "attribute from nowhere": (lambda doc, _: doc.update(password="x"), "no password"),
    "extension changed": (
        lambda doc, _: doc.update({CUSTOM: {"costObject": "2"}}, schemas=[USER, ENTERPRISE, CUSTOM]),
        f"{CUSTOM} =",
    ),
    "other resourceType": (lambda doc, _: doc["meta"].update(resourceType="user"), "meta.resourceType"),
    "no version": (lambda doc, heads: (doc["meta"].pop("version"), heads.pop("etag")), "meta.version"),
    "version is no tag": (lambda doc, heads: (doc["meta"].update(version="1"), heads.update(etag="1")), "meta.version"),
    "created is no time": (lambda doc, _: doc["meta"].update(created="yesterday"), "meta.created"),
    "time without offset": (lambda doc, _: doc["meta"].update(lastModified="2026-01-02T03:04:05"), "meta.lastModified"),
    "no Location": (lambda _, heads: heads.pop("location"), "Location"),
    "other Location": (lambda _, heads: heads.update(location="/Users/7"), "Location"),
    "no ETag": (lambda _, heads: heads.pop("etag"), "ETag"),
    "other ETag": (lambda _, heads: heads.update(etag='W/"2"'), "ETag"),
    "wrong content type": (lambda _, heads: heads.update({"content-type": "application/json"}), "Content-Type"),
}


@pytest.mark.parametrize("name", BROKEN_RESOURCES)
def test_a_wrong_create_is_reported(name: str) -> None:
    spoil, expected = BROKEN_RESOURCES[name]
    doc, heads = resource(), headers()
    spoil(doc, heads)
    findings = judge.check_created(answer(201, doc, heads), EXPECTED, OPTIONAL)
    assert any(expected in finding.expected for finding in findings), findings
    assert len(findings) <= 2


@pytest.mark.parametrize(
    "location", ["/scim/v2/Users/7", "https://x.example/scim/v2/Users/8", "https://x.example/Users/7?aadOptscim062020"]
)
def test_a_wrong_location_is_reported_even_if_the_header_agrees(location: str) -> None:
    doc = resource()
    doc["meta"]["location"] = location
    one(judge.check_created(answer(201, doc, headers() | {"location": location}), EXPECTED, {}), "meta.location")


@pytest.mark.parametrize("status", [200, 202, 400, 409, 500])
def test_only_201_is_a_create(status: int) -> None:
    one(judge.check_created(answer(status, resource()), EXPECTED, {}), "status 201")


@pytest.mark.parametrize("raw", [b"", b"<html>", b"[]", b"null", b'"x"'])
def test_a_body_that_is_no_object_is_reported(raw: bytes) -> None:
    one(judge.check_created(Answer(201, headers(), raw), EXPECTED, {}), "a JSON object")
    one(judge.check_listed(Answer(200, headers(), raw), 0), "a JSON object")


def test_no_answer_is_reported_with_its_reason() -> None:
    (finding,) = judge.check_read(Answer(None, {}, failure="no answer within 60 seconds"), resource())
    assert finding.came == "no answer within 60 seconds"


def test_a_right_list_has_no_findings() -> None:
    assert judge.check_listed(answer(200, a_list()), 0) == []
    assert judge.check_listed(answer(200, a_list(resource())), 1) == []


@pytest.mark.parametrize(
    ("doc", "expected"),
    [
        (a_list(schemas=[]), "schemas"),
        (a_list(totalResults=1), "totalResults"),
        (a_list(totalResults="0"), "totalResults"),
        (a_list(startIndex=0), "startIndex"),
        (a_list(itemsPerPage=20), "itemsPerPage"),
        (a_list(Resources=None), "Resources is a list"),
        ({name: value for name, value in a_list().items() if name != "Resources"}, "Resources is a list"),
    ],
)
def test_a_wrong_empty_list_is_reported(doc: Doc, expected: str) -> None:
    one(judge.check_listed(answer(200, doc), 0), expected)


def test_a_second_hit_is_reported() -> None:
    findings = judge.check_listed(answer(200, a_list(resource(), resource())), 1)
    assert [finding.expected for finding in findings] == ["totalResults = 1", "number of Resources = 1"]


def test_a_probe_answered_404_is_reported() -> None:
    one(judge.check_listed(answer(404, an_error(status="404")), 0), "status 200")


def test_a_read_shows_what_was_shown_before() -> None:
    assert judge.check_read(answer(200, resource()), resource()) == []


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda doc: doc.update(id="8"), "id (as before)"),
        (lambda doc: doc["meta"].update(lastModified="2026-01-02T03:04:06Z"), "meta (as before)"),
        (lambda doc: doc.pop("emails"), "emails (as before)"),
        (lambda doc: doc.update(nickName="A"), "nickName (as before)"),
    ],
)
def test_a_read_that_differs_is_reported(spoil: Callable[[Doc], object], expected: str) -> None:
    doc = resource()
    spoil(doc)
    one(judge.check_read(answer(200, doc), resource()), expected)


def test_a_read_without_its_tag_is_reported() -> None:
    one(judge.check_read(answer(200, resource(), {"content-type": CONTENT_TYPE}), resource()), "ETag")


def test_a_right_conflict_has_no_findings() -> None:
    assert judge.check_conflict(answer(409, an_error())) == []


@pytest.mark.parametrize(
    ("doc", "expected"),
    [
        (an_error(schemas=[]), "schemas"),
        (an_error(status=409), "status"),
        (an_error(scimType=None), "scimType"),
        (an_error(detail=""), "detail"),
    ],
)
def test_a_wrong_conflict_is_reported(doc: Doc, expected: str) -> None:
    one(judge.check_conflict(answer(409, doc)), expected)


def test_a_duplicate_that_is_created_is_reported() -> None:
    one(judge.check_conflict(answer(201, resource())), "status 409")


def a_config(**changes: Any) -> Doc:
    return {
        "schemas": [judge.SERVICE_PROVIDER_CONFIG],
        "filter": {"supported": True},
        "authenticationSchemes": [{"type": "oauthbearertoken"}],
    } | changes


def test_a_right_service_provider_config_has_no_findings() -> None:
    assert judge.check_service_provider_config(answer(200, a_config())) == []


@pytest.mark.parametrize(
    ("doc", "expected"),
    [
        (a_config(schemas=None), "schemas"),
        (a_config(filter={"supported": False}), "filter.supported"),
        (a_config(filter=None), "filter.supported"),
        (a_config(authenticationSchemes=[]), "authenticationSchemes"),
    ],
)
def test_a_wrong_service_provider_config_is_reported(doc: Doc, expected: str) -> None:
    one(judge.check_service_provider_config(answer(200, doc)), expected)


def test_resource_types_must_list_users() -> None:
    users = {"endpoint": "/Users", "schema": USER}
    assert judge.check_resource_types(answer(200, a_list(users))) == []
    one(judge.check_resource_types(answer(200, a_list({**users, "endpoint": "/users"}))), "endpoint /Users")


def some_schemas() -> list[Doc]:
    plain = {"type": "string", "mutability": "readWrite", "returned": "default", "uniqueness": "none"}
    names = (
        "userName",
        "active",
        "displayName",
        "name",
        "emails",
        "title",
        "preferredLanguage",
        "addresses",
        "phoneNumbers",
    )
    sub = {"name": "value", **plain}
    return [
        {"id": USER, "attributes": [{"name": name, **plain, "subAttributes": [dict(sub)]} for name in names]},
        {"id": ENTERPRISE, "attributes": [{"name": "department", **plain}]},
    ]


def test_right_schemas_have_no_findings() -> None:
    assert judge.check_schemas(answer(200, a_list(*some_schemas()))) == []


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda docs: docs.pop(1), f"the schema {ENTERPRISE}"),
        (lambda docs: docs.pop(0), f"the schema {USER}"),
        (lambda docs: docs[0]["attributes"].pop(0), "the attribute username"),
        (lambda docs: docs[0]["attributes"].append({"name": "password"}), "no attribute password"),
        (lambda docs: docs[0]["attributes"][0].update(mutability="read-write"), "mutability of"),
        (lambda docs: docs[0]["attributes"][0]["subAttributes"][0].update(type="String"), "type of"),
        (lambda docs: docs[0].update(description=None), "description left out"),
    ],
)
def test_wrong_schemas_are_reported(spoil: Callable[[list[Doc]], object], expected: str) -> None:
    docs = some_schemas()
    spoil(docs)
    findings = judge.check_schemas(answer(200, a_list(*docs)))
    assert any(expected in finding.expected for finding in findings), findings


@pytest.mark.parametrize("value", [None, 1, "x", [], [None], {}, {"attributes": 1}, {"meta": 1, "filter": 1}])
def test_nonsense_is_reported_and_never_an_exception(value: Any) -> None:
    for doc in (value, a_list(value), a_list(Resources=value)):
        nonsense = answer(200, doc)
        assert judge.check_created(answer(201, doc), EXPECTED, OPTIONAL)
        assert judge.check_read(nonsense, resource())
        assert judge.check_service_provider_config(nonsense)
        assert judge.check_resource_types(nonsense)
        assert judge.check_schemas(nonsense)
        assert judge.check_conflict(answer(409, doc))
