"""Random walks through the life of users, in both dialects, with creates that wait, against a plain model."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from uuid_utils.compat import uuid7

from models.jobs import PROVISION, claim
from models.provision import apply_creates
from models.scim.schema import ENTERPRISE_URN
from tests.support.api import Api, Caller, document, fresh_settings, serving, store, work_email
from tests.support.writing import DIALECTS, delete, patch, put, removing, setting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import Servers

NAMES = st.sampled_from(["ana", "ANA", "Boris", "boris", "zofie", "ŽOFIE", "žofie"])
WORK = 'emails[type eq "work"].value'
DEPARTMENT = f"{ENTERPRISE_URN}:department"
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "title": st.sampled_from(["", "Buyer", "Seller"]),
        "active": st.booleans(),
        WORK: st.sampled_from(["", "a@x.example", "b@x.example"]),
        DEPARTMENT: st.sampled_from(["", "Sales"]),
        "userName": NAMES,
    },
).filter(bool)
DIALECT = st.sampled_from(DIALECTS)


def key(name: str) -> str:
    return name.casefold()


class Directory(RuleBasedStateMachine):
    """The model: for each id, the four attributes and the version."""

    runner: ClassVar[asyncio.Runner]
    api: ClassVar[Api]
    users = Bundle("users")
    deleted = Bundle("deleted")

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, dict[str, Any]] = {}
        self.created = 0

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    def owner(self, name: str) -> str | None:
        return next((one for one, user in self.model.items() if key(user["userName"]) == key(name)), None)

    @initialize()
    def begin(self) -> None:
        self.caller: Caller = self.run(self.api.caller())

    @rule(target=users, name=NAMES, title=st.sampled_from([None, "Buyer"]), active=st.booleans())
    def create(self, name: str, title: str | None, active: bool) -> Any:
        answer = self.run(self.caller.post("/Users", document(name, title=title, active=active)))
        if self.owner(name):
            answer.error(409, "uniqueness")
            return multiple()
        assert answer.status == 201, answer
        self.created += 1
        self.model[answer.json["id"]] = {"userName": name, "title": title, "active": active, "version": 1}
        return answer.json["id"]

    def expect(self, user_id: str, values: dict[str, Any], answer: Any) -> None:
        user = self.model[user_id]
        if "userName" in values and self.owner(values["userName"]) not in (None, user_id):
            answer.error(409, "uniqueness")
            return
        assert answer.status == 200, answer
        changed = {**user, **{name: None if value in ("", None) else value for name, value in values.items()}}
        if any(changed.get(name) != user.get(name) for name in values):
            changed["version"] += 1
        self.model[user_id] = changed
        assert seen(answer.json) == wanted(user_id, changed)

    @rule(user_id=users, values=VALUES, dialect=DIALECT, op=st.sampled_from(["add", "replace"]))
    def change(self, user_id: str, values: dict[str, Any], dialect: str, op: str) -> None:
        answer = self.run(patch(self.caller, user_id, setting(dialect, values, op)))
        self.expect(user_id, values, answer)

    @rule(
        user_id=users,
        paths=st.sets(st.sampled_from(["title", WORK.removesuffix(".value"), DEPARTMENT]), min_size=1),
        dialect=DIALECT,
    )
    def unassign(self, user_id: str, paths: set[str], dialect: str) -> None:
        answer = self.run(patch(self.caller, user_id, removing(dialect, *sorted(paths))))
        self.expect(user_id, {WORK if "[" in path else path: None for path in paths}, answer)

    @rule(user_id=users, values=VALUES, dialect=DIALECT)
    def refuse(self, user_id: str, values: dict[str, Any], dialect: str) -> None:
        bad = {"op": "remove", "path": "userName"}
        self.run(patch(self.caller, user_id, [*setting(dialect, values), bad])).error(400, "mutability")

    @rule(user_id=users, values=VALUES, dialect=DIALECT, off=st.sampled_from([-1, 1]))
    def stale(self, user_id: str, values: dict[str, Any], dialect: str, off: int) -> None:
        tag = f'W/"{self.model[user_id]["version"] + off}"'
        self.run(patch(self.caller, user_id, setting(dialect, values), If_Match=tag)).error(412)

    @rule(user_id=users, name=NAMES, title=st.sampled_from([None, "Buyer"]), email=st.booleans())
    def replace(self, user_id: str, name: str, title: str | None, email: bool) -> None:
        sent = document(name, title=title, emails=[work_email("c@x.example")] if email else None)
        active = self.model[user_id].get("active")
        values = {"userName": name, "title": title, "active": active is not False, DEPARTMENT: None}
        values[WORK] = "c@x.example" if email else None
        self.expect(user_id, values, self.run(put(self.caller, user_id, sent)))

    @rule(target=deleted, user_id=consumes(users))
    def delete(self, user_id: str) -> str:
        assert self.run(delete(self.caller, user_id)).status == 204
        del self.model[user_id]
        return user_id

    @rule(user_id=deleted, dialect=DIALECT)
    def stay_deleted(self, user_id: str, dialect: str) -> None:
        self.run(self.caller.get(f"/Users/{user_id}")).error(404)
        self.run(patch(self.caller, user_id, setting(dialect, {"active": True}))).error(404)
        self.run(put(self.caller, user_id, document("new"))).error(404)
        self.run(delete(self.caller, user_id)).error(404)

    @rule(most=st.integers(1, 3))
    def work(self, most: int) -> None:
        async def apply() -> None:
            async with store(self.api.settings) as connection:
                lease = uuid7()
                jobs = await claim(connection, PROVISION, lease_token=lease, lease_seconds=30, limit=most)
                if jobs:
                    await apply_creates(connection, jobs, lease)

        self.run(apply())

    @invariant()
    def all_reads_agree(self) -> None:
        if not hasattr(self, "caller"):
            return
        listed = self.run(self.caller.get("/Users")).resources()
        assert {user["id"]: seen(user) for user in listed} == {
            one: wanted(one, user) for one, user in self.model.items()
        }
        for user_id, user in self.model.items():
            assert [
                one["id"] for one in self.run(self.caller.match(f"userName eq {json.dumps(user['userName'])}"))
            ] == [user_id]
            if user.get(WORK):
                found = self.run(self.caller.match(f'emails[type eq "work"].value eq "{user[WORK].upper()}"'))
                assert user_id in [one["id"] for one in found]

    def teardown(self) -> None:
        if hasattr(self, "caller"):
            self.run(self.traces())

    async def traces(self) -> None:
        """See that the store has nothing of those who are gone, and an event of everything."""
        tenant = self.caller.tenant.id
        async with store(self.api.settings) as connection:
            rows = await connection.fetch("SELECT resource_id, value_key FROM identifier WHERE tenant_id = $1", tenant)
            assert {str(row["resource_id"]): row["value_key"] for row in rows} == {
                one: key(user["userName"]) for one, user in self.model.items()
            }
            events = await connection.fetch(
                "SELECT targets -> 0 ->> 'id' AS id, action, phase, reason FROM audit_event"
                " WHERE tenant_id = $1 AND starts_with(action, 'scim.user.')",
                tenant,
            )
        for one, user in self.model.items():
            writes = [row for row in events if row["id"] == one and row["reason"] is None]
            writes = [row for row in writes if row["action"] != "scim.user.create"]
            assert len(writes) == user["version"] - 1
        assert (
            sum(row["action"] == "scim.user.create" and row["phase"] == "requested" for row in events) == self.created
        )
        assert sum(row["action"] == "scim.user.delete" for row in events) == self.created - len(self.model)


def seen(user: dict[str, Any]) -> dict[str, Any]:
    """Return what the model knows of a user as a resource has it."""
    emails = [email["value"] for email in user.get("emails", []) if email["type"] == "work"]
    return {
        "id": user["id"],
        "userName": user["userName"],
        "title": user.get("title"),
        "active": user["active"],
        "email": emails[0] if emails else None,
        "department": user.get(ENTERPRISE_URN, {}).get("department"),
        "version": user["meta"]["version"],
    }


def wanted(user_id: str, user: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": user_id,
        "userName": user["userName"],
        "title": user.get("title"),
        "active": user["active"],
        "email": user.get(WORK),
        "department": user.get(DEPARTMENT),
        "version": f'W/"{user["version"]}"',
    }


@pytest.fixture
def walking(servers: Servers) -> Iterator[None]:
    """Serve the front end on an event loop that the walks run on, step by step."""
    with asyncio.Runner() as runner:
        made = fresh_settings(servers)
        values = runner.run(made.__aenter__())
        served = serving(values)
        Directory.runner, Directory.api = runner, runner.run(served.__aenter__())
        try:
            yield
        finally:
            runner.run(served.__aexit__(None, None, None))
            runner.run(made.__aexit__(None, None, None))


def test_users_live_as_the_model_does(walking: None) -> None:
    run_state_machine_as_test(
        Directory,
        settings=settings(
            max_examples=12, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
