"""What the audit log keeps of values and what of it leaves: the registry by attribute path."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.audit.redact import LEVELS, REGISTRY, hashed, keep, leaving, level, mask

KEY = b"a key"
URN = "urn:example:params:scim:schemas:extension:acme:2.0:User"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("password", "never"),
        ("Password", "never"),
        ("urn:ietf:params:scim:schemas:core:2.0:User:password", "never"),
        ("name.password", "never"),
        (f"{URN}:apiKey", "never"),
        (f"{URN}:client_secret", "never"),
        (f"{URN}:wifiPassword", "never"),
        (f"{URN}:secretQuestion.answer", "never"),
        (f"{URN}:passcode", "never"),
        ("emails", "mask"),
        ('emails[type eq "work"].value', "mask"),
        ('emails[type eq "password"].value', "mask"),
        ("name.familyName", "mask"),
        ("userName", "mask"),
        ("externalId", "hash"),
        ("title", "full"),
        ("active", "full"),
        ("urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:department", "full"),
        (f"{URN}:passport", "full"),
        ("", "full"),
    ],
)
def test_the_level_of_an_attribute(path: str, expected: str) -> None:
    assert level(path) == expected


def test_the_registry_has_known_levels_in_small_letters() -> None:
    assert set(REGISTRY.values()) <= set(LEVELS)
    assert all(name == name.lower() for name in REGISTRY)


SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=12, max_size=30).map(lambda s: f"S3-{s}")
NAMES = st.sampled_from(["password", "PASSWORD", "passwd", "clientSecret", "api_key", "accessToken", "privateKey"])
PLACES = st.sampled_from(["{}", "name.{}", f"{URN}:{{}}", '{}[type eq "x"].value', "emails.{}"])


@given(SECRETS, NAMES, PLACES, st.sampled_from(["add", "replace", "remove"]))
def test_no_secret_is_kept_by_path(secret: str, name: str, place: str, op: str) -> None:
    diff = [{"op": op, "path": place.format(name), "before": secret, "after": [secret, {"value": secret}]}]
    (kept,) = keep(diff)
    assert kept == {"op": op, "path": place.format(name), "redacted": True}


@given(SECRETS, NAMES, st.integers(0, 4))
def test_no_secret_is_kept_however_deep_in_a_value(secret: str, name: str, depth: int) -> None:
    value: Any = {name: secret, "type": "x"}
    for place in range(depth):
        value = [value] if place % 2 else {"inner": value}
    item: dict[str, Any] = {"op": "add", "path": "name", "after": value}
    kept = keep([item])
    text = json.dumps(kept)
    assert json.dumps(secret)[1:-1] not in text
    assert '"type": "x"' in text


def test_everything_else_is_kept_as_it_is() -> None:
    diff: list[dict[str, Any]] = [
        {"op": "add", "path": "emails", "after": [{"value": "ana@example.com", "primary": True}]},
        {"op": "replace", "path": "active", "before": True, "after": False},
    ]
    assert keep(diff) == diff
    assert keep([]) == []


def test_what_leaves_is_masked_hashed_or_whole() -> None:
    event: dict[str, Any] = {
        "action": "scim.user.update",
        "actor_type": "token",
        "actor_label": "Entra",
        "targets": [
            {"type": "User", "id": "1", "label": "ana@example.com", "external_id": "e-1"},
            {"type": "Group", "id": "2", "label": "Sales"},
        ],
        "diff": [
            {"op": "replace", "path": "name.familyName", "before": "Kovač", "after": "Horvat"},
            {
                "op": "add",
                "path": 'emails[value eq "ana@example.com"]',
                "after": {"value": "ana@x.org", "primary": True},
            },
            {"op": "replace", "path": "externalId", "before": "a", "after": "b"},
            {"op": "replace", "path": "title", "before": "x", "after": "y"},
            {"op": "replace", "path": "password", "redacted": True},
        ],
    }
    left = leaving(event, KEY)
    name, email, external_id, title, password = left["diff"]
    assert (name["before"], name["after"], name["redacted"]) == ("K***", "H***", True)
    assert email["after"] == {"value": "a***@x.org", "primary": True}
    assert email["path"] == 'emails[value eq "***"]'
    assert external_id["before"] == hashed("a", KEY) != external_id["after"]
    assert title == {"op": "replace", "path": "title", "before": "x", "after": "y"}
    assert password == {"op": "replace", "path": "password", "redacted": True}
    assert left["targets"] == [
        {"type": "User", "id": "1", "label": "a***@example.com", "external_id": hashed("e-1", KEY)},
        {"type": "Group", "id": "2", "label": "Sales"},
    ]
    assert left["actor_label"] == "Entra"
    assert "Kova" in str(event), "the event itself stays what it was"
    whole = leaving(event, KEY, {"name": "full", "username": "full", "password": "full"})
    assert whole["diff"][0] == event["diff"][0]
    assert whole["diff"][4] == password, "never is never"
    assert whole["targets"][0]["label"] == "ana@example.com"
    assert (
        leaving({"diff": None, "targets": [], "actor_label": "Ana", "actor_type": "person"}, KEY)["actor_label"]
        == "A***"
    )


@given(st.text(min_size=1, max_size=30))
def test_a_mask_shows_little_and_a_hash_nothing(text: str) -> None:
    shown = mask(text).replace("***", "")
    assert len(shown.partition("@")[0]) <= 1
    assert hashed(text, KEY) == hashed(text, KEY) != hashed(text, b"another")
    assert text not in hashed(text, KEY) or len(text) < 5
