from __future__ import annotations

import json
from typing import Any

import pytest

from cli.simulate.body import USER
from cli.simulate.findings import CONTENT_TYPE, Answer, Finding
from cli.simulate.group_body import GROUP
from cli.simulate.judge import check_error, check_page
from cli.simulate.judge_writes import (
    check_deleted,
    check_group,
    check_ids,
    check_members_patched,
    check_patched,
    check_user,
)

Doc = dict[str, Any]

BEFORE = {
    "resourceType": "User",
    "created": "2026-01-02T03:04:05Z",
    "lastModified": "2026-01-02T03:04:05Z",
    "location": "https://x.example/scim/v2/Users/7",
    "version": 'W/"1"',
}
AFTER = BEFORE | {"lastModified": "2026-01-02T03:04:06Z", "version": 'W/"2"'}
EXPECTED = {"schemas": [USER], "userName": "ana@x.example", "active": True, "id": "7"}
GROUP_META = BEFORE | {"resourceType": "Group", "location": "https://x.example/scim/v2/Groups/8"}
KNOWN_GROUP = {"schemas": [GROUP], "displayName": "Sales", "externalId": "e8", "id": "8"}


def answer(status: int, doc: Any = None, etag: str = 'W/"2"', content_type: str = CONTENT_TYPE) -> Answer:
    raw = b"" if doc is None else json.dumps(doc).encode()
    return Answer(status, {"content-type": content_type, "etag": etag}, raw)


def user(**changes: Any) -> Doc:
    return EXPECTED | {"meta": AFTER} | changes


def group(**changes: Any) -> Doc:
    return KNOWN_GROUP | {"meta": GROUP_META} | changes


def one(findings: list[Finding], expected: str) -> None:
    assert [finding.expected for finding in findings if not finding.expected.startswith(expected)] == []
    assert findings


def test_right_answers_have_no_finding() -> None:
    assert check_patched(answer(200, user()), BEFORE, changes=True) == []
    assert check_patched(answer(200, user(meta=BEFORE), etag='W/"1"'), BEFORE, changes=False) == []
    assert check_patched(answer(204), BEFORE, changes=True) == []
    assert check_members_patched(answer(204)) == []
    assert check_members_patched(answer(200, group())) == []
    assert check_deleted(answer(204)) == []
    assert check_user(user(), EXPECTED, {}, {}, None) == []
    assert check_user(user(groups=[{"value": "8"}]), EXPECTED, {}, AFTER, {"8"}) == []
    assert check_group(group(), KNOWN_GROUP, members=None, meta=GROUP_META) == []
    assert check_group(group(members=[{"value": "7"}, {"value": "5"}]), KNOWN_GROUP, members={"5", "7"}) == []
    assert check_group(group(), KNOWN_GROUP, members=()) == []


@pytest.mark.parametrize(
    ("came", "changes", "expected"),
    [
        (answer(202, user()), True, "status 200"),
        (Answer(204, {}, b"{}"), True, "no body with status 204"),
        (answer(200, user(), content_type="application/json"), True, "Content-Type"),
        (answer(200, user(), etag='W/"1"'), True, "ETag"),
        (answer(200, user(meta=AFTER | {"created": "2026-01-02T03:04:07Z"})), True, "meta.created"),
        (answer(200, user(meta=AFTER | {"version": 'W/"1"'}), etag='W/"1"'), True, "meta.version is new"),
        (answer(200, user(meta=AFTER | {"lastModified": "2025-01-02T03:04:05Z"})), True, "meta.lastModified is not"),
        (answer(200, user(meta=AFTER | {"lastModified": "soon"})), True, "meta.lastModified is not"),
        (answer(200, user()), False, "meta (nothing changed)"),
    ],
)
def test_a_wrong_answer_to_the_patch_of_a_user(came: Answer, changes: bool, expected: str) -> None:
    one(check_patched(came, BEFORE, changes=changes), expected)


@pytest.mark.parametrize(
    ("changes", "groups", "expected"),
    [
        ({"id": "9"}, None, ("id = 7", "meta.location")),
        ({"active": False}, None, "active = true"),
        ({"nickName": "Ani"}, None, "no nickName"),
        ({"meta": AFTER | {"version": 'W/"3"'}}, None, "meta (as before)"),
        ({"groups": [{"value": "8"}]}, None, "groups"),
        ({"groups": [{"value": "8"}]}, {"8", "9"}, "groups"),
        ({}, {"8"}, "groups"),
    ],
)
def test_a_user_who_is_not_as_known(changes: Doc, groups: set[str] | None, expected: str | tuple[str, ...]) -> None:
    findings = check_user(user(**changes), EXPECTED, {}, AFTER, groups)
    assert findings
    assert all(finding.expected.startswith(expected) for finding in findings), findings


@pytest.mark.parametrize(
    ("came", "expected"),
    [
        (answer(404, {}), "status 200"),
        (Answer(204, {}, b"{}"), "no body with status 204"),
        (answer(200, group(members=[{"value": "7"}, {"value": "5"}])), "no members in the answer to a PATCH"),
    ],
)
def test_a_wrong_answer_to_the_patch_of_a_group(came: Answer, expected: str) -> None:
    findings = check_members_patched(came)
    one(findings, expected)
    assert len(findings) == 1


def test_a_wrong_answer_to_a_delete() -> None:
    one(check_deleted(answer(200, {})), "status 204")
    one(check_deleted(Answer(204, {}, b"gone")), "no body with status 204")


@pytest.mark.parametrize(
    ("changes", "members", "expected"),
    [
        ({"id": ""}, None, ("id is", "id =", "meta.location")),
        ({"displayName": "sales"}, None, "displayName = Sales"),
        ({"schemas": [GROUP, USER]}, None, "schemas"),
        ({"meta": BEFORE}, None, "meta"),
        ({"meta": GROUP_META | {"version": 'W/"2"'}}, None, "meta (as before)"),
        ({"externalId": None}, None, "externalId"),
        ({"members": []}, None, "no members, which are excluded"),
        ({"members": [{"value": "5"}]}, {"5", "7"}, "members: 2, among them 7"),
        ({"members": [{"value": "5"}, {"value": "6"}]}, {"5"}, "members: 1, without 6"),
        ({"members": [{"value": "5"}, {"value": "5"}]}, {"5"}, "members: each once"),
    ],
)
def test_a_group_that_is_not_as_known(changes: Doc, members: set[str] | None, expected: str | tuple[str, ...]) -> None:
    findings = check_group(group(**changes), KNOWN_GROUP, members=members, meta=GROUP_META)
    assert findings
    assert all(finding.expected.startswith(expected) for finding in findings), findings


def test_a_list_with_other_resources_than_asked_for() -> None:
    listed = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:ListResponse"], "Resources": [{"id": "7"}]}
    assert check_ids(answer(200, listed), ["7"], "users") == []
    one(check_ids(answer(200, listed), [], "users"), "users: 0, without 7")
    one(check_ids(answer(200, listed), ["7", "8"], "users"), "users: 2, among them 8")
    one(check_ids(answer(400, {}), ["7"], "users"), "status 200")


def test_a_page_that_is_not_the_one_asked_for() -> None:
    urn = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
    page = {"schemas": [urn], "totalResults": 9, "startIndex": 6, "itemsPerPage": 1, "Resources": [{"id": "7"}]}
    assert check_page(answer(200, page), 6) == []
    one(check_page(answer(200, page), 5), "startIndex = 5")
    one(check_page(answer(200, page | {"itemsPerPage": 5}), 6), "itemsPerPage = 1")
    one(check_page(answer(200, page | {"Resources": None}), 6), "Resources is a list")
    one(check_page(answer(200, page | {"schemas": []}), 6), "schemas")


def test_an_error_that_is_not_the_one_that_is_due() -> None:
    error = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:Error"], "status": "400", "scimType": "invalidValue"}
    named = error | {"detail": "There is no 9."}
    assert check_error(answer(400, named), 400, "invalidValue", names="9") == []
    assert check_error(answer(400, named), 400) == []
    one(check_error(answer(404, named), 400), "status 400")
    one(check_error(answer(400, named), 400, "uniqueness"), "scimType")
    one(check_error(answer(400, named), 400, "invalidValue", names="77"), "detail names 77")
    one(check_error(answer(400, error), 400), "detail says")
