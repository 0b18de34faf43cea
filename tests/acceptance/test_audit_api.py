"""The audit API over HTTP: what it answers, to whom, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.core.result import Ok
from uuid_utils.compat import uuid7

from api.audit import openapi
from api.audit.routes import ROUTES
from models.audit.keys import new_signer
from models.audit.record import OPERATOR, Event, record
from models.audit.seal import seal_waiting
from models.audit.search import QUALIFIERS
from models.tokens import issue_token
from tests.support.api import Answer, Api, document, make_tenant, store
from tests.support.pages import operators_pool

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.api import Tenant

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Reader:
    """A client of the audit API."""

    def __init__(self, api: Api, tenant: Tenant, base_url: str) -> None:
        self.api, self.tenant, self.base_url = api, tenant, base_url

    async def __call__(
        self, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None, **query: Any
    ) -> Answer:
        sent = {"Authorization": f"Bearer {self.tenant.token}", **(headers or {})}
        url = self.base_url + path + (f"?{urlencode(query)}" if query else "")
        async with self.api.session.request(method, url, headers=sent) as response:
            answer = Answer(response.status, response.headers, await response.read())
        assert uuid.UUID(answer.headers["X-Correlation-Id"]), answer
        assert answer.headers["Cache-Control"] == "no-store"
        if answer.status >= 400 and method != "HEAD":
            assert answer.headers["Content-Type"] == "application/problem+json", answer
            assert answer.json["status"] == answer.status
        return answer

    async def events(self, q: str = "", **query: Any) -> list[dict[str, Any]]:
        answer = await self("/audit/events", q=q, **query)
        assert answer.status == 200, answer.content
        return list(answer.json["events"])


async def reader(api: Api, *, internal: bool = False, **token: Any) -> Reader:
    tenant = await make_tenant(api.settings, **{"scopes": ("audit", "scim"), **token})
    base = api.internal_url if internal else api.scim_url.removesuffix("/scim/v2")
    return Reader(api, tenant, base)


async def many(api: Api, tenant: Tenant, count: int) -> None:
    async with store(api.settings) as connection:
        await record(
            connection,
            [
                Event(
                    action="ops.job.retry",
                    phase="applied",
                    actor=OPERATOR,
                    tenant_id=tenant.id,
                    correlation_id=uuid7(),
                    targets=[{"type": "Job", "id": str(place), "label": f"number {place}"}],
                )
                for place in range(count)
            ],
        )


@pytest.mark.parametrize("internal", [False, True])
async def test_events_are_paged_on_both_listeners(api: Api, internal: bool) -> None:
    ask = await reader(api, internal=internal)
    await many(api, ask.tenant, 7)
    seen: list[str] = []
    cursor = ""
    while True:
        answer = await ask("/audit/events", q="action:ops.*", limit=3, cursor=cursor)
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("application/json")
        page = answer.json
        assert set(page) == {"events", "next", "since", "until", "as_of", "complete"}
        seen += [event["targets"][0]["id"] for event in page["events"]]
        span = datetime.fromisoformat(page["until"]) - datetime.fromisoformat(page["since"])
        assert span == timedelta(days=7)
        assert page["complete"] is False
        if page["next"] is None:
            break
        cursor = page["next"]
    assert seen == [str(place) for place in range(6, -1, -1)]


async def test_one_user_can_be_followed_from_the_request_on(api: Api) -> None:
    ask = await reader(api)
    created = await api.session.post(
        f"{api.scim_url}/Users",
        json=document("Ana@Example.com"),
        headers={"Authorization": f"Bearer {ask.tenant.token}"},
    )
    assert created.status == 201
    (event,) = await ask.events("target:ana@example.com action:scim.user.*")
    assert event["correlation_id"] == created.headers["X-Correlation-Id"]
    assert (event["phase"], event["actor_id"]) == ("requested", ask.tenant.token_id)
    assert event["occurred_at"].endswith("Z")
    assert await ask.events(f"correlation:{event['correlation_id']}") == [event]
    one = await ask(f"/audit/events/{event['id']}")
    assert (one.status, one.json) == (200, {**event, "seal": None})
    head = await ask(f"/audit/events/{event['id']}", method="HEAD")
    assert (head.status, head.content) == (200, b"")


async def test_an_event_has_its_seal_and_on_demand_the_proof(api: Api) -> None:
    ask = await reader(api)
    (event,) = await ask.events("action:auth.token.issue")
    path = f"/audit/events/{event['id']}"
    assert (await ask(path, proof="true")).json == {**event, "seal": None, "proof": None}
    async with operators_pool(api.settings) as pool, pool.acquire() as connection:
        await seal_waiting(connection, new_signer())
    sealed = (await ask(path)).json
    assert "proof" not in sealed
    assert sealed["seal"]["count"] == 2
    proof = (await ask(path, proof="true")).json["proof"]
    assert (proof["event"]["id"], proof["root"], proof["count"]) == (event["id"], sealed["seal"]["root"], 2)
    assert (await ask(path, proof="maybe")).status == 400


async def test_a_stream_goes_on_to_the_end_a_line_an_event(api: Api) -> None:
    ask = await reader(api)
    await many(api, ask.tenant, 1203)
    answer = await ask("/audit/events", q="action:ops.*", headers={"Accept": "application/x-ndjson"})
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    events = [json.loads(line) for line in answer.content.splitlines()]
    assert [event["targets"][0]["id"] for event in events] == [str(place) for place in range(1202, -1, -1)]
    few = await ask("/audit/events", q="action:ops.*", limit=2, headers={"Accept": "application/x-ndjson"})
    assert [json.loads(line) for line in few.content.splitlines()] == events[:2]
    refused = await ask("/audit/events", q="colour:red", headers={"Accept": "application/x-ndjson"})
    assert refused.status == 400


async def test_counts(api: Api) -> None:
    ask = await reader(api)
    await many(api, ask.tenant, 3)
    facets = (await ask("/audit/facets", q="")).json
    assert facets["action"] == {"ops.job.retry": 3, "auth.token.issue": 1, "tenant.settings.create": 1}
    assert facets["outcome"] == {"success": 5}
    assert (facets["counted"], facets["all_counted"]) == (5, True)


async def test_another_tenants_events_are_not_there(api: Api) -> None:
    ask, other = await reader(api), await reader(api)
    (theirs,) = await other.events("action:auth.token.issue")
    answer = await ask(f"/audit/events/{theirs['id']}")
    assert answer.status == 404
    assert answer.content == (await ask(f"/audit/events/{uuid7()}")).content, "as if there were none"
    assert await ask.events(f"tenant:{other.tenant.name},{other.tenant.id}") == []
    assert await ask.events(f"id:{theirs['id']}") == []
    assert await ask.events(f"target:{other.tenant.token_id}") == []
    assert {event["tenant_id"] for event in await ask.events()} == {str(ask.tenant.id)}
    # Nor is a cursor good for anybody else.
    await many(api, other.tenant, 2)
    cursor = (await other("/audit/events", limit=1)).json["next"]
    assert (await ask("/audit/events", limit=1, cursor=cursor)).status == 400


@pytest.mark.parametrize(
    ("query", "position", "word"),
    [
        ({"q": "action:auth.* colour:red"}, 14, "colour:"),
        ({"q": "created:2020-01-01..2026-01-01"}, 0, "longer than 92 days"),
        ({"q": "ab"}, 0, "at least 3 characters"),
        ({"cursor": "x"}, None, "cursor"),
        ({"limit": "0"}, None, "1 to 500"),
        ({"limit": "501"}, None, "1 to 500"),
        ({"limit": "x"}, None, "1 to 500"),
        ({"zone": "Mars/Base"}, None, "no time zone"),
        ({"query": "action:auth.*"}, None, "There is no parameter 'query'; there are q, cursor, limit, zone."),
        ({"q": "a\x00b"}, None, "cannot be stored"),
    ],
)
async def test_what_cannot_be_read_is_refused_with_its_place(
    api: Api, query: dict[str, str], position: int | None, word: str
) -> None:
    ask = await reader(api)
    answer = await ask("/audit/events?" + urlencode(query))
    assert answer.status == 400
    assert answer.json.get("position") == position
    assert word in answer.json["detail"]
    if "colour" in str(query):
        assert answer.json["expected"] == [f"{name}:" for name in QUALIFIERS]


async def test_only_tokens_of_its_scope_are_let_in(api: Api) -> None:
    ask = await reader(api, scopes=("scim",))
    for path in ROUTES:
        refused = await ask(path.format(id=uuid7()))
        assert refused.status == 403
        assert 'scope="audit"' in refused.headers["WWW-Authenticate"]
        nobody = await ask(path.format(id=uuid7()), headers={"Authorization": "Bearer ush_nobody"})
        assert nobody.status == 401
        assert nobody.headers["WWW-Authenticate"].startswith("Bearer")
    async with store(api.settings) as connection:
        issued = await issue_token(
            connection, tenant_id=ask.tenant.id, scopes=["audit"], actor=OPERATOR, correlation_id=uuid7()
        )

    async def recorded() -> int:
        good = {"Authorization": f"Bearer {issued.text}"}
        answer = await ask("/audit/facets", q="action:auth.request.deny", headers=good)
        return int(answer.json["counted"])

    # Whose a refused token was is known when it is revoked, say; a stranger's belongs to nobody.
    async with store(api.settings) as connection:
        await connection.execute("UPDATE token SET revoked_at = now() WHERE id = $1", ask.tenant.token_id)
        deadline = asyncio.get_running_loop().time() + 15
        while not await recorded():
            assert asyncio.get_running_loop().time() < deadline, "a refused token is in the audit log of its tenant"
            await ask("/audit/facets")
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_it_is_only_read(api: Api, method: str) -> None:
    ask = await reader(api)
    answer = await ask("/audit/events", method=method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD")


async def test_unknown_addresses_are_told_so(api: Api) -> None:
    ask = await reader(api)
    for path in ("/audit", "/audit/", "/audit/event", "/audit/events/", "/audit/events/x/y", "/audit/events/%00"):
        assert (await ask(path)).status == 404, path


async def test_no_search_is_in_the_log(api: Api, capfd: pytest.CaptureFixture[str]) -> None:
    ask = await reader(api)
    await ask.events("target:somebody-secret")
    await ask("/audit/events/somebody-secret")
    out = "".join(capfd.readouterr())
    assert "audit.request" in out
    assert "somebody-secret" not in out


async def test_the_document_has_the_routes(api: Api) -> None:
    ask = await reader(api)
    described = (await ask(openapi.PATH, headers={"Authorization": ""})).json
    assert described == json.loads(json.dumps(openapi.document()))
    assert set(described["paths"]) == {*ROUTES, openapi.PATH}
    names = re.findall(r"`(\w+):`", described["paths"]["/audit/events"]["get"]["parameters"][0]["description"])
    assert names == list(QUALIFIERS)


# Held to its document by an independent judge


SEARCHES = st.lists(
    st.sampled_from(
        [
            *(
                "action:scim.user.*",
                "-outcome:failure,denied",
                "target:ana@example.com",
                '"some text"',
                "reason:http_*",
            ),
            *("created:24h", "ip:10.0.0.0/8", "severity:>=2", f"correlation:{uuid.UUID(int=1)}", "attribute:emails"),
        ]
    ),
    max_size=4,
    unique=True,
).map(" ".join)


async def test_schemathesis_finds_nothing(api: Api) -> None:
    schemathesis.openapi.format("usher-search", SEARCHES)
    schemathesis.openapi.format("usher-cursor", st.just(""))
    schemathesis.openapi.format("usher-zone", st.sampled_from(["UTC", "Europe/Berlin"]))
    ask = await reader(api)
    await many(api, ask.tenant, 5)
    failures = await asyncio.to_thread(judge, ask)
    assert failures == []


def judge(ask: Reader) -> list[str]:
    """Send what schemathesis makes of the document, from another thread; return what it holds against the answers."""
    import hypothesis
    from schemathesis import GenerationMode

    config = SchemathesisConfig()
    config.projects.default.generation.modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
    schema = schemathesis.openapi.from_dict(openapi.document(), config=config)
    schema.config.update(base_url=ask.base_url)
    found: list[str] = []
    sent = 0
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()
        for mode in GenerationMode:
            strategy = operation.as_strategy(generation_mode=mode)

            @hypothesis.settings(
                max_examples=25,
                derandomize=True,
                database=None,
                deadline=None,
                suppress_health_check=list(hypothesis.HealthCheck),
                phases=[hypothesis.Phase.generate],
            )
            @hypothesis.given(strategy)
            def run(case: Any) -> None:
                nonlocal sent
                sent += 1
                try:
                    case.call_and_validate(headers={"Authorization": f"Bearer {ask.tenant.token}"})
                except schemathesis.errors.FailureGroup as failed:
                    found.extend(f"{case.method} {case.formatted_path}: {each}" for each in failed.exceptions)

            try:
                run()
            except hypothesis.errors.Unsatisfiable:
                continue  # nothing can be sent wrongly where nothing can be sent
    assert sent > 100
    return found
