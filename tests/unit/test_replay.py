"""A diff leads from the one document to the other, and to no other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from models.scim.diff import net_diff
from models.scim.document import read_user
from models.scim.schema import ENTERPRISE_URN, USER_URN
from tests.support.patching import ANA, BADGE_URN, BARE, SCHEMA
from tests.support.replay import ReplayError, Step, after, in_any_order, read_path, replay
from tests.support.scim_values import resources

DOCUMENTS = resources(SCHEMA, "userName").map(lambda raw: read_user(raw, SCHEMA).doc)


def event(action: str, before: dict[str, Any], then: dict[str, Any]) -> dict[str, Any]:
    return {"action": action, "diff": net_diff(before, then, SCHEMA)}


@settings(max_examples=50)
@given(before=DOCUMENTS, then=DOCUMENTS, last=DOCUMENTS)
def test_any_life_is_replayed(before: dict[str, Any], then: dict[str, Any], last: dict[str, Any]) -> None:
    assert in_any_order(after(before, net_diff(before, then, SCHEMA), SCHEMA)) == in_any_order(then)
    changes = [event("scim.user.update", old, new) for old, new in ((before, then), (then, last), (last, last))]
    life = [event("scim.user.create", {}, before), *changes]
    user = replay(life, SCHEMA)
    assert user is not None
    assert in_any_order(user.doc) == in_any_order(last)
    assert user.version == 1 + sum(bool(change["diff"]) for change in changes)
    assert replay([*life, event("scim.user.delete", last, {})], SCHEMA) is None


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("userName", [Step("userName", ())]),
        ("name.givenName", [Step("name", ()), Step("givenName", ())]),
        ('emails[type eq "work"].value', [Step("emails", (("type", "work"),)), Step("value", ())]),
        (
            r'emails[type eq "wo\"] and .rk" and value eq "a:b"]',
            [Step("emails", (("type", 'wo"] and .rk'), ("value", "a:b")))],
        ),
        (
            f"{ENTERPRISE_URN}:manager.value",
            [Step(ENTERPRISE_URN, ()), Step("manager", ()), Step("value", ())],
        ),
        (f'{BADGE_URN}:tags[value eq "urn:x"]', [Step(BADGE_URN, ()), Step("tags", (("value", "urn:x"),))]),
    ],
)
def test_paths(path: str, steps: list[Step]) -> None:
    assert read_path(path) == steps


def test_what_does_not_follow_is_told() -> None:
    create = event("scim.user.create", {}, ANA)
    update = event("scim.user.update", ANA, {**ANA, "title": "Chief"})
    gone = event("scim.user.delete", ANA, {})
    for events, what in (
        ([create, create], "created twice"),
        ([update], "nobody for"),
        ([create, update, update], "replace title does not follow"),
        ([create, update, gone], "remove title does not follow"),
        ([create, event("scim.user.delete", BARE, {})], "would stay"),
    ):
        with pytest.raises(ReplayError, match=what):
            replay(events, SCHEMA)
    assert replay([gone], SCHEMA) is None  # it waited, and was never applied
    assert replay([], SCHEMA) is None


def test_what_is_redacted_is_left_out() -> None:
    assert after(BARE, [{"op": "add", "path": "password", "redacted": True}], SCHEMA) == {
        "schemas": [USER_URN],
        "userName": "ana@x.example",
        "active": True,
    }
