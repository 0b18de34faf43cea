"""Random walks through users and groups, in both dialects, with creates that wait, against a plain model."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from tests.support.api import Api, Caller, apply_all, document, fresh_settings, serving
from tests.support.groups import (
    DIALECTS,
    adding,
    group,
    match_groups,
    patch_group,
    put_group,
    references,
    removing,
    setting,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.api import Answer
    from tests.support.servers import Servers

NAMES = st.sampled_from(["sales", "Sales", "žluť", "ŽLUŤ", "ops"])
EXTERNAL = st.sampled_from([None, "e1", "e2"])
DIALECT = st.sampled_from(DIALECTS)


@dataclass
class Group:
    """What a group must look like."""

    name: str
    external_id: str | None
    members: set[str] = field(default_factory=set)
    version: int = 1


class Directory(RuleBasedStateMachine):
    """The model: the users, and for each group its attributes, members and version."""

    runner: ClassVar[asyncio.Runner]
    api: ClassVar[Api]
    users = Bundle("users")
    groups = Bundle("groups")
    gone = Bundle("gone")

    def __init__(self) -> None:
        super().__init__()
        self.people: set[str] = set()
        self.model: dict[str, Group] = {}
        self.named = 0

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    @initialize()
    def begin(self) -> None:
        self.caller: Caller = self.run(self.api.caller())

    def taken(self, name: str, but: str | None = None) -> bool:
        return any(one != but and known.name.casefold() == name.casefold() for one, known in self.model.items())

    def unknown(self, ids: set[str], group_id: str | None = None) -> bool:
        return group_id in ids or not ids <= self.people | self.model.keys()

    @rule(target=users)
    def create_user(self) -> str:
        self.named += 1
        user_id: str = self.run(self.caller.create(document(f"u{self.named}@contoso.example")))["id"]
        self.people.add(user_id)
        return user_id

    @rule(target=gone, user_id=consumes(users))
    def delete_user(self, user_id: str) -> str:
        assert self.run(self.caller.send("DELETE", f"/Users/{user_id}")).status == 204
        self.people.remove(user_id)
        self.forget(user_id)
        return user_id

    def forget(self, one: str) -> None:
        for known in self.model.values():
            if one in known.members:
                known.members.remove(one)
                known.version += 1

    @rule()
    def work(self) -> None:
        self.run(apply_all(self.api.settings))

    @rule(
        target=groups,
        name=NAMES,
        external_id=EXTERNAL,
        members=st.lists(st.one_of(users, groups, gone), max_size=3),
    )
    def create_group(self, name: str, external_id: str | None, members: list[str]) -> Any:
        answer = self.run(self.caller.post("/Groups", group(name, *members, externalId=external_id)))
        if self.unknown(set(members)):
            answer.error(400, "invalidValue")
            return multiple()
        if self.taken(name):
            answer.error(409, "uniqueness")
            return multiple()
        assert answer.status == 201, answer
        self.model[answer.json["id"]] = Group(name, external_id, set(members))
        self.check(answer.json)
        return answer.json["id"]

    @rule(target=gone, group_id=consumes(groups))
    def delete_group(self, group_id: str) -> str:
        assert self.run(self.caller.send("DELETE", f"/Groups/{group_id}")).status == 204
        del self.model[group_id]
        self.forget(group_id)
        return group_id

    @rule(
        group_id=groups,
        dialect=DIALECT,
        add=st.lists(st.one_of(users, users, users, groups, gone), max_size=4),
        remove=st.lists(st.one_of(users, groups, gone), max_size=3),
        name=st.none() | NAMES,
    )
    def change(self, group_id: str, dialect: str, add: list[str], remove: list[str], name: str | None) -> None:
        operations = (
            (adding(dialect, *add) if add else [])
            + (removing(dialect, *remove) if remove else [])
            + (setting(dialect, displayName=name) if name else [])
        )
        if not operations:
            return
        answer = self.run(patch_group(self.caller, group_id, operations))
        known = self.model[group_id]
        wanted = (known.members | set(add)) - set(remove)
        self.expect(answer, group_id, wanted, set(add) - set(remove), name, known.external_id, 204)

    @rule(
        group_id=groups,
        dialect=DIALECT,
        members=st.lists(st.one_of(users, users, groups, gone), max_size=4),
        name=st.none() | NAMES,
    )
    def replace_members(self, group_id: str, dialect: str, members: list[str], name: str | None) -> None:
        if dialect == "legacy":
            operations = [{"op": "Replace", "path": "members", "value": references(members)}]
            operations += setting(dialect, displayName=name) if name else []
        else:
            values = {"members": references(members)} | ({"displayName": name} if name else {})
            operations = setting(dialect, **values)
        answer = self.run(patch_group(self.caller, group_id, operations))
        known = self.model[group_id]
        self.expect(answer, group_id, set(members), set(members), name, known.external_id, 204)

    @rule(
        group_id=groups,
        members=st.lists(st.one_of(users, users, groups, gone), max_size=4),
        name=NAMES,
        external_id=EXTERNAL,
    )
    def put(self, group_id: str, members: list[str], name: str, external_id: str | None) -> None:
        answer = self.run(put_group(self.caller, group_id, group(name, *members, externalId=external_id)))
        self.expect(answer, group_id, set(members), set(members), name, external_id, 200)
        if answer.status == 200:
            self.check(answer.json)

    def expect(
        self,
        answer: Answer,
        group_id: str,
        members: set[str],
        added: set[str],
        name: str | None,
        external_id: str | None,
        status: int,
    ) -> None:
        """Check the answer to a write, and have the model follow."""
        known = self.model[group_id]
        name = name or known.name
        if self.unknown(added, group_id):
            answer.error(400, "invalidValue")
            return
        if self.taken(name, group_id):
            answer.error(409, "uniqueness")
            return
        changed = (name, external_id, members) != (known.name, known.external_id, known.members)
        self.model[group_id] = Group(name, external_id, members, known.version + changed)
        assert (answer.status, answer.headers["ETag"]) == (status, f'W/"{self.model[group_id].version}"')

    def check(self, resource: dict[str, Any]) -> None:
        """Check a group as it was answered."""
        known = self.model[resource["id"]]
        assert resource["displayName"] == known.name
        assert resource.get("externalId") == known.external_id
        assert resource["meta"]["version"] == f'W/"{known.version}"'
        members = {one["value"]: one["type"] for one in resource.get("members", ())}
        assert members == {one: "User" if one in self.people else "Group" for one in known.members}

    @rule(group_id=gone, dialect=DIALECT)
    def what_is_gone_stays_gone(self, group_id: str, dialect: str) -> None:
        for kind in ("Users", "Groups"):
            self.run(self.caller.get(f"/{kind}/{group_id}")).error(404)
            self.run(self.caller.send("DELETE", f"/{kind}/{group_id}")).error(404)
        self.run(patch_group(self.caller, group_id, adding(dialect, group_id))).error(404)
        self.run(patch_group(self.caller, group_id, removing(dialect, group_id))).error(404)

    @rule(group_id=groups, user_id=st.one_of(users, gone))
    def reference_check(self, group_id: str, user_id: str) -> None:
        found = self.run(match_groups(self.caller, f'id eq "{group_id}" and members eq "{user_id}"', attributes="id"))
        assert bool(found) is (user_id in self.model[group_id].members)

    @rule(name=NAMES)
    def match(self, name: str) -> None:
        found = self.run(match_groups(self.caller, f'displayName eq "{name}"', excludedAttributes="members"))
        expected = [one for one, known in self.model.items() if known.name.casefold() == name.casefold()]
        assert [one["id"] for one in found] == expected

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        listed = self.run(self.caller.get("/Groups")).resources()
        assert {one["id"] for one in listed} == self.model.keys()
        for one in listed:
            self.check(one)
        users = self.run(self.caller.get("/Users")).resources()
        assert {one["id"] for one in users} == self.people
        for one in users:
            groups = [(each["value"], each["display"], each["type"]) for each in one.get("groups", ())]
            assert groups == [
                (group_id, known.name, "direct")
                for group_id, known in sorted(self.model.items())
                if one["id"] in known.members
            ]
            assert one["meta"]["version"] == 'W/"1"'  # what is read-only moves no version


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


def test_groups_live_as_the_model_does(walking: None) -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(
        Directory,
        settings=settings(
            max_examples=15, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
