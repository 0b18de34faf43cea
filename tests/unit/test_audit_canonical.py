"""The canonical form: the same bytes whichever way they are written, and no digit beyond the hash."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.audit.canonical import _dump, _dump_exactly, _load_exactly, leaf_of, personal_hash

ID = "01a20b51-c3fd-776e-9701-871251ccc02b"
EVENT: dict[str, Any] = {
    "id": ID,
    "xid": "12345",
    "occurred_at": "2026-11-24T01:02:03.123456Z",
    "tenant_id": ID,
    "action": "scim.user.create",
    "phase": "applied",
    "outcome": "success",
    "reason": None,
    "severity": 1,
    "actor_type": "token",
    "actor_id": "abc",
    "actor_label": "Entra",
    "targets": [{"type": "User", "id": "7", "label": "ana@example.com"}],
    "target_type": "User",
    "target_id": "7",
    "correlation_id": ID,
    "job_id": None,
    "context": {"route": "/Users", "ip": "192.0.2.7"},
    "diff": [{"op": "add", "path": "title", "after": "Šef \u2028"}],
    "changed": ["title"],
    "schema_version": 1,
    "salt": ID,
    "personal_hash": None,
    "erasure_id": None,
}
PERSONAL = {"actor_label", "diff", "salt", "personal_hash", "erasure_id"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=15,
)


def text(**changes: Any) -> str:
    return json.dumps({**EVENT, **changes}, ensure_ascii=False)


@given(JSON)
def test_the_fast_and_the_exact_writer_agree(value: Any) -> None:
    written = orjson.dumps({"value": value}).decode()
    assert _dump(orjson.loads(written)) == _dump_exactly(_load_exactly(written))


@pytest.mark.parametrize("field", EVENT)
def test_every_field_is_under_the_leaf(field: str) -> None:
    other: Any = {
        "xid": "12346",
        "salt": "01a20b51-c3fd-776e-9701-871251ccc02c",
        "severity": 2,
        "targets": [{"type": "User", "id": "7", "label": "eve@example.com"}],
        "context": {"route": "/Users", "ip": "192.0.2.8"},
        "id": "01a20b51-c3fd-776e-9701-871251ccc02c",
    }.get(field, "00")
    changed = leaf_of(text(**{field: other}))
    assert changed.hash != leaf_of(text()).hash or not changed.sound


@pytest.mark.parametrize(
    ("one", "other"),
    [("1.10", "1.1"), ("12345678901234567890123", "12345678901234567890124"), ("0.1", "0.10000000000000001")],
)
def test_no_digit_of_a_number_is_beyond_the_hash(one: str, other: str) -> None:
    written = [text(diff=[{"op": "add", "path": "x", "after": "N"}]).replace('"N"', number) for number in (one, other)]
    assert leaf_of(written[0]).hash != leaf_of(written[1]).hash


def test_an_erased_event_has_the_leaf_that_it_had() -> None:
    erased = text(
        actor_label=None,
        diff=None,
        salt=None,
        targets=[{"type": "User", "id": "7"}],
        context={"route": "/Users"},
        personal_hash=personal_hash(text()).hex(),
        erasure_id=ID,
    )
    assert leaf_of(erased).hash == leaf_of(text()).hash
    assert leaf_of(erased).sound


@pytest.mark.parametrize(
    "left",
    [
        {"actor_label": "Eve"},
        {"diff": []},
        {"targets": [{"type": "User", "id": "7", "label": "eve@example.com"}]},
        {"context": {"route": "/Users", "ip": "192.0.2.9"}},
        {"erasure_id": None},
    ],
)
def test_an_event_half_erased_contradicts_itself(left: dict[str, Any]) -> None:
    erased: dict[str, Any] = {
        "actor_label": None,
        "diff": None,
        "salt": None,
        "targets": [{"type": "User", "id": "7"}],
        "context": {"route": "/Users"},
        "personal_hash": personal_hash(text()).hex(),
        "erasure_id": ID,
        **left,
    }
    assert not leaf_of(text(**erased)).sound
