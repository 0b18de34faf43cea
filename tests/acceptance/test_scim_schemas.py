"""Schemas that a tenant defines: added by command, kept, checked, filtered and listed for that tenant alone."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from cli.schema import app
from models.errors import UsageError
from models.scim.schema import ENTERPRISE_URN
from tests.support.api import document, store, until
from tests.support.writing import audited, patch, setting

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.api import Api, Caller

pytestmark = pytest.mark.asyncio(loop_scope="module")

BADGE = "urn:ietf:params:scim:schemas:extension:contoso:2.0:Badge"
SCHEMA: dict[str, Any] = {
    "schemas": ["urn:ietf:params:scim:schemas:core:2.0:Schema"],
    "id": BADGE,
    "name": "Badge",
    "description": "What a person shows at the door",
    "attributes": [
        {"name": "number", "type": "integer", "description": "As printed"},
        {"name": "colour", "type": "string", "caseExact": False},
        {"name": "secret", "type": "string", "caseExact": True},
        {
            "name": "doors",
            "type": "complex",
            "multiValued": True,
            "subAttributes": [{"name": "value", "type": "string"}, {"name": "since", "type": "dateTime"}],
        },
    ],
}


@pytest.fixture
def schema_command(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs `usher schema …` against the module's store and returns what it prints; a dict becomes a file."""
    from cli import store as command_store

    monkeypatch.setattr(command_store, "load_settings", lambda: api.settings)

    def run(*words: Any) -> str:
        arguments = []
        for word in words:
            if isinstance(word, dict | list):
                file = tmp_path / f"{uuid.uuid4().hex}.json"
                file.write_text(json.dumps(word), encoding="utf-8")
                word = file  # noqa: PLW2901  the file stands for what is in it
            arguments.append(str(word))
        # The command has an event loop of its own, so it cannot run in the thread of the test's.
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as threads:
            result = threads.submit(CliRunner().invoke, app, arguments).result(30)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


async def known(caller: Caller, urn: str = BADGE, *, there: bool = True) -> None:
    """Wait until the front end knows a schema, or no longer knows it; 5 seconds are promised."""

    async def looked() -> bool:
        listed = {one["id"] for one in (await caller.get("/Schemas")).resources()}
        return (urn in listed) is there

    await until(looked, f"{urn} is {'listed' if there else 'gone'}", 5)


async def test_a_defined_schema_is_listed_for_its_tenant_and_for_nobody_else(
    api: Api, caller: Caller, schema_command: Callable[..., Any]
) -> None:
    stranger = await api.caller()
    added = json.loads(schema_command("add", caller.tenant.name, SCHEMA, "--json"))
    await known(caller)
    shown = (await caller.get(f"/Schemas/{BADGE}")).json
    assert {name: value for name, value in shown.items() if name != "meta"} == added
    assert [each["name"] for each in shown["attributes"]] == ["number", "colour", "secret", "doors"]
    types = {one["id"]: one for one in (await caller.get("/ResourceTypes")).resources()}
    assert [each["schema"] for each in types["User"]["schemaExtensions"]] == [ENTERPRISE_URN, BADGE]
    for one in (stranger, caller.bearing(None)):
        assert BADGE not in {each["id"] for each in (await one.get("/Schemas")).resources()}
        assert (await one.get(f"/Schemas/{BADGE}")).status == 404
    [event] = await audited(api.settings, caller.tenant.id, "tenant.settings.change")
    assert [(each["op"], each["path"]) for each in event["diff"]] == [("add", f"schemas[{BADGE}]")]


async def test_its_attributes_are_kept_checked_patched_and_filtered(
    api: Api, caller: Caller, schema_command: Callable[..., Any]
) -> None:
    schema_command("add", caller.tenant.name, SCHEMA)
    await known(caller)
    badge = {"number": 7, "colour": "Blue", "secret": "aB", "doors": [{"value": "north"}]}
    user = await caller.create(document("ana@contoso.example", **{BADGE: badge}))
    assert user[BADGE] == badge
    assert BADGE in user["schemas"]
    await caller.create(document("bo@contoso.example", **{BADGE: {"number": 8, "colour": "blue"}}))

    async def found(text: str) -> list[str]:
        return sorted(one["userName"][:2] for one in await caller.match(text))

    assert await found(f"{BADGE}:number eq 7") == ["an"]
    assert await found(f"{BADGE}:number gt 7") == ["bo"]
    assert await found(f'{BADGE}:colour eq "BLUE"') == ["an", "bo"]
    assert await found(f'{BADGE}:secret eq "ab"') == []
    assert await found(f'{BADGE}:doors[value eq "north"]') == ["an"]
    assert await found(f"{BADGE}:doors pr") == ["an"]
    for dialect in ("legacy", "compliant"):
        changed = await patch(caller, user["id"], setting(dialect, {f"{BADGE}:colour": f"red {dialect}"}))
        assert changed.status == 200, changed
        assert changed.json[BADGE] == {**badge, "colour": f"red {dialect}"}
    only = await caller.get(f"/Users/{user['id']}", attributes=f"{BADGE}:number")
    assert only.json[BADGE] == {"number": 7}
    (await caller.post("/Users", document("cy@contoso.example", **{BADGE: {"number": "x"}}))).error(400, "invalidValue")
    wrong = await patch(caller, user["id"], setting("compliant", {f"{BADGE}:number": "x"}))
    wrong.error(400, "invalidValue")
    updates = await audited(api.settings, caller.tenant.id, "scim.user.update")
    assert [each["changed"] for each in updates] == [[f"{BADGE}:colour"]] * 2


async def test_for_another_tenant_it_is_unknown(api: Api, caller: Caller, schema_command: Callable[..., Any]) -> None:
    schema_command("add", caller.tenant.name, SCHEMA)
    await known(caller)
    stranger = await api.caller()
    user = await stranger.create(document("ana@contoso.example", **{BADGE: {"number": "not even a number"}}))
    assert BADGE not in user
    (await stranger.get("/Users", filter=f"{BADGE}:number eq 7")).error(400, "invalidFilter")


async def test_groups_have_schemas_of_their_own(caller: Caller, schema_command: Callable[..., Any]) -> None:
    schema_command("add", caller.tenant.name, SCHEMA, "--resource", "Group")
    await known(caller)
    made = await caller.post("/Groups", {"displayName": "Doors", BADGE: {"number": 3}})
    assert made.status == 201, made
    assert made.json[BADGE] == {"number": 3}
    found = (await caller.get("/Groups", filter=f"{BADGE}:number eq 3")).resources()
    assert [one["id"] for one in found] == [made.json["id"]]
    assert BADGE not in await caller.create(document("ana@contoso.example", **{BADGE: {"number": 3}}))


async def test_a_schema_in_use_is_removed_by_force_only(caller: Caller, schema_command: Callable[..., Any]) -> None:
    name = caller.tenant.name
    schema_command("add", name, SCHEMA)
    await known(caller)
    user = await caller.create(document("ana@contoso.example", **{BADGE: {"number": 7}}))
    [row] = json.loads(schema_command("list", name, "--json"))
    assert row == {"urn": BADGE, "resource": "User", "name": "Badge", "attributes": 4, "held_by": 1}
    with pytest.raises(UsageError, match="1 users hold values"):
        schema_command("remove", name, BADGE.upper())
    schema_command("remove", name, BADGE, "--force")
    await known(caller, there=False)
    kept = (await caller.get(f"/Users/{user['id']}")).json
    assert kept[BADGE] == {"number": 7}
    changed = await patch(caller, user["id"], setting("compliant", {"title": "Chief"}))
    assert BADGE not in changed.json
    assert BADGE not in changed.json["schemas"]
    assert json.loads(schema_command("list", name, "--json")) == []


async def test_a_new_version_must_fit_what_is_stored(
    api: Api, caller: Caller, schema_command: Callable[..., Any]
) -> None:
    name = caller.tenant.name
    schema_command("add", name, SCHEMA)
    await known(caller)
    await caller.create(document("ana@contoso.example", **{BADGE: {"number": 7}}))
    with pytest.raises(UsageError, match="already; --replace"):
        schema_command("add", name, SCHEMA)
    more = {**SCHEMA, "attributes": [*SCHEMA["attributes"], {"name": "shape"}]}
    schema_command("add", name, more, "--replace")
    assert "shape" in schema_command("show", name, BADGE)
    for attributes, reason in (
        (SCHEMA["attributes"][1:], "number would be gone"),
        ([{"name": "number", "type": "string"}, *more["attributes"][1:]], "another type"),
        ([*more["attributes"], {"name": "size", "required": True}], "size would be required"),
    ):
        with pytest.raises(UsageError, match=reason):
            schema_command("add", name, {**SCHEMA, "attributes": attributes}, "--replace")
    schema_command("add", name, {**SCHEMA, "attributes": SCHEMA["attributes"][:2]}, "--replace", "--force")
    assert json.loads(schema_command("list", name, "--json"))[0]["attributes"] == 2
    events = await audited(api.settings, caller.tenant.id, "tenant.settings.change")
    assert [each["diff"][0]["op"] for each in events] == ["add", "replace", "replace"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": "Badge"}, "must be a URN"),
        ({"id": "urn:ietf:params:scim:schemas:core:2.0:User"}, "belongs to SCIM itself"),
        ({"id": ENTERPRISE_URN}, "already defined"),
        ({"attributes": []}, "not empty"),
        ({"attributes": [{"name": "a", "uniqueness": "server"}]}, "uniqueness"),
        ({"attributes": [{"name": "a b"}]}, "name must be"),
    ],
)
async def test_what_is_no_usable_schema_is_refused_in_words(
    change: dict[str, Any], message: str, api: Api, caller: Caller, schema_command: Callable[..., Any]
) -> None:
    with pytest.raises(UsageError, match=message):
        schema_command("add", caller.tenant.name, {**SCHEMA, **change})
    async with store(api.settings) as connection:
        assert await connection.fetchval("SELECT schemas FROM tenant WHERE id = $1", caller.tenant.id) == {}


async def test_what_is_no_json_object_or_no_resource_is_refused_in_words(
    caller: Caller, tmp_path: Path, schema_command: Callable[..., Any]
) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        schema_command("add", caller.tenant.name, tmp_path / "missing.json")
    with pytest.raises(UsageError, match="object"):
        schema_command("add", caller.tenant.name, [SCHEMA])
    with pytest.raises(UsageError, match="not to Door"):
        schema_command("add", caller.tenant.name, SCHEMA, "--resource", "door")
    with pytest.raises(UsageError, match="no schema"):
        schema_command("show", caller.tenant.name, BADGE)
    with pytest.raises(UsageError, match="no tenant"):
        schema_command("list", "nobody")
    for number in range(20):
        schema_command("add", caller.tenant.name, {**SCHEMA, "id": f"{BADGE}{number}"})
    with pytest.raises(UsageError, match="can have 20 schemas"):
        schema_command("add", caller.tenant.name, SCHEMA)
