from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from aiohttp import web
from uuid_utils.compat import uuid7

from api.ops import routes as ops
from api.pages.cookies import cookie_name
from api.pages.guard import SESSION_COOKIE, allowed
from api.pages.live import live_page, shared
from api.pages.render import fragment, page
from models.audit.record import OPERATOR
from models.links import make_link
from models.passwords import set_password
from models.sign_in import FREE_BY_NAME
from tests.support.api import Api, altered, fresh_settings, serving, store, until
from tests.support.pages import Browser, browser, make_operator, operators_pool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from aiohttp import ClientResponse

    from models.operators import Operator
    from tests.support.servers import Servers

pytestmark = pytest.mark.asyncio(loop_scope="module")

PASSWORD = "correct horse battery"
OF_PAGES = "default-src 'none'; script-src 'self'; style-src 'self';"
# Whoever has not signed in may ask for these, and for nothing else.
OPEN = {
    ("GET", "/"),
    ("GET", "/livez"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
    ("GET", "/static/{digest}/{name}"),
    ("GET", "/sign-in"),
    ("POST", "/sign-in"),
    ("POST", "/sign-in/link"),
    ("GET", "/sign-in/link/{token}"),
    ("POST", "/sign-in/link/{token}"),
    ("POST", "/theme"),
    # What answers 404 where the audit log has no address.
    ("GET", "/audit{tail}"),
    ("POST", "/audit{tail}"),
}


class _Trial:
    """A page for these tests: it can be slow, fail, or update itself."""

    def __init__(self) -> None:
        self.text = "first"
        self.made = 0

    def routes(self) -> list[web.AbstractRouteDef]:
        return [
            web.get("/ops/trial", self._show),
            web.post("/ops/trial", self._act),
            web.get("/ops/forgotten", self._forgotten),
        ]

    async def _forgotten(self, _: web.Request) -> web.StreamResponse:
        return web.Response(text="nothing asked who is there")

    async def _count(self) -> int:
        self.made += 1
        return self.made

    async def _show(self, request: web.Request) -> web.StreamResponse:
        return await allowed("view_jobs")(self._shown)(request)

    async def _act(self, request: web.Request) -> web.StreamResponse:
        return await allowed("retry_job")(self._shown)(request)

    async def _shown(self, request: web.Request) -> web.StreamResponse:
        from api.keys import PAGES_POOL

        match request.query.get("do"):
            case "slow":
                await request.config_dict[PAGES_POOL].execute("SELECT pg_sleep(10)")
            case "fail":
                raise RuntimeError("on purpose")
            case "shared":
                made = await asyncio.gather(*(shared(request, "trial", self._count, seconds=30) for _ in range(20)))
                return web.json_response(made)

        async def regions() -> dict[str, str]:
            values: dict[str, Any] = {"title": "Trial", "text": self.text, "code": 200}
            return {"trial": await fragment(request, "problem.html", "content", **values)}

        if "live" in request.query:
            return await live_page(request, regions, every_seconds=0.05)
        return await page(request, "problem.html", title="Trial", text=self.text, code=200)


TRIAL = _Trial()


@pytest.fixture(scope="module", autouse=True)
def trial() -> Iterator[None]:
    """One page more in every front end of this module."""
    before = ops._PAGES
    ops._PAGES = (*before, TRIAL)  # type: ignore[arg-type]  # it has what a module of pages has
    yield
    ops._PAGES = before


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(servers: Servers, trial: None) -> AsyncIterator[Api]:
    """A front end of the module's own."""
    async with fresh_settings(servers) as settings, serving(settings) as served:
        yield served


async def person(site: Api, role: str = "admin") -> Operator:
    """Return a new operator with a password, who has not signed in."""
    async with operators_pool(site.settings) as pool:
        operator = await make_operator(pool, role)
        async with pool.acquire() as connection:
            await set_password(connection, operator, PASSWORD, actor=OPERATOR, correlation_id=uuid7())
    return operator


async def link_of(site: Api, operator: Operator) -> str:
    async with operators_pool(site.settings) as pool, pool.acquire() as connection:
        secret = site.settings.secret_key.get_secret_value()
        token = await make_link(connection, operator, secret_key=secret, actor=OPERATOR, correlation_id=uuid7())
    return f"/sign-in/link/{token}"


def everything(site: Api) -> list[tuple[str, str]]:
    """Return every route of the internal listener: method and canonical path."""
    found = {
        (route.method, route.resource.canonical) for route in site.faces.internal.router.routes() if route.resource
    }
    methods = {(wanted, path) for method, path in found for wanted in (("GET", "POST") if method == "*" else (method,))}
    return sorted((method, path) for method, path in methods if method != "HEAD")


def concrete(path: str) -> str:
    path = path.removesuffix("{tail}")
    return re.sub(r"\{[^}]*\}", "01a20ab6-5dd8-7668-8a5f-b88463023ad9", path)


async def test_nothing_is_shown_or_done_without_signing_in(site: Api) -> None:
    nobody = await browser(site, None)
    walked = [route for route in everything(site) if route not in OPEN]
    assert len(walked) > 8
    name = cookie_name(site.settings, SESSION_COOKIE)
    for method, path in walked:
        for cookies in ({}, {name: "forged"}):
            nobody.cookies = dict(cookies)
            answer = await nobody.send(method, concrete(path), form={} if method == "POST" else None)
            assert answer.status in (303, 401), (method, path, answer.status)
            if answer.status == 303:
                assert answer.headers["Location"].startswith("/sign-in"), (method, path)


async def test_every_answer_carries_the_policy(site: Api) -> None:
    admin = await browser(site)
    for method, path in everything(site):
        if method != "GET":
            continue
        answer = await admin.get(concrete(path))
        policy = answer.headers["Content-Security-Policy"]
        page = not path.startswith("/audit")  # whose answers are data, which may load nothing at all
        assert policy.startswith(OF_PAGES if page else "default-src 'none';"), path
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        if "/static/" not in path:
            assert answer.headers["Cache-Control"] == "no-store", path


async def test_nothing_that_another_site_sends_is_done(site: Api) -> None:
    admin = await browser(site)
    posts = [path for method, path in everything(site) if method not in ("GET", "HEAD")]
    assert len(posts) > 8
    foreign: list[dict[str, str]] = [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": "", "Origin": "https://evil.example"},
    ]
    for path in posts:
        for headers in foreign:
            answer = await admin.send("POST", concrete(path), form={}, headers=headers)
            assert answer.status == 403, (path, headers, answer.status)
    assert (await admin.get("/account")).status == 200  # nobody was signed out by it


async def _bare(site: Api, headers: dict[str, str]) -> int:
    async with site.session.post(
        f"{site.internal_url}/sign-in/link", data={"word": "x"}, headers=headers, allow_redirects=False
    ) as response:
        return response.status


async def test_a_browser_that_says_only_its_origin_is_judged_by_it(site: Api) -> None:
    host = site.internal_url.removeprefix("http://")
    assert await _bare(site, {"Origin": site.internal_url}) == 303
    assert await _bare(site, {"Origin": site.settings.pages_url}) == 303  # a proxy may change Host
    for origin in ("https://evil.example", "null", f"http://{host}.evil.example", f"http://evil.example/{host}", ""):
        assert await _bare(site, {"Origin": origin}) == 403, origin
    assert await _bare(site, {}) == 403
    assert await _bare(site, {"Authorization": "Bearer x", "Cookie": "usher-8081=x"}) == 403


async def test_a_role_opens_what_it_may_and_the_page_says_why_not(site: Api) -> None:
    viewer = await browser(site, "viewer")
    assert (await viewer.get("/ops/trial")).status == 200
    for answer in (await viewer.post("/ops/trial"), await viewer.get("/admin/operators")):
        assert answer.status == 403
        assert "Your role is viewer" in answer.content.decode()
    assert viewer.operator is not None
    async with operators_pool(site.settings) as pool:
        rows = await pool.fetch(
            "SELECT reason, context FROM audit_event WHERE action = 'auth.request.deny' AND actor_id = $1 ORDER BY id",
            str(viewer.operator.id),
        )
    assert [(row["reason"], row["context"]["permission"]) for row in rows] == [
        ("permission", "retry_job"),
        ("permission", "manage_operators"),
    ]
    assert "/admin/operators" not in await viewer.read("/ops/trial")
    assert (await (await browser(site, "operator")).post("/ops/trial")).status == 200


async def test_a_person_signs_in_where_they_wanted_to_go_and_out_again(site: Api) -> None:
    operator = await person(site)
    someone = await browser(site, None)
    asked = await someone.get("/ops/trial?q=a%20b&page=2")
    assert asked.headers["Location"] == "/sign-in?next=%2Fops%2Ftrial%3Fq%3Da%2520b%26page%3D2"
    form = await someone.read(asked.headers["Location"])
    (wanted,) = re.findall(r'name="next" value="([^"]*)">\n<div', form)
    wrong = await someone.post("/sign-in", {"word": operator.name, "password": "wrong", "next": "/ops"})
    assert (wrong.status, SESSION_COOKIE in str(wrong.headers.getall("Set-Cookie", []))) == (403, False)  # type: ignore[attr-defined]
    assert "The name or the password is wrong." in wrong.content.decode()
    right = await someone.post(
        "/sign-in", {"word": operator.email, "password": PASSWORD, "next": wanted.replace("&amp;", "&")}
    )
    assert (right.status, right.headers["Location"]) == (303, "/ops/trial?q=a%20b&page=2")
    assert operator.name in await someone.follow(right)
    kept = dict(someone.cookies)
    assert "You are signed out." in await someone.follow(await someone.post("/sign-out"))
    someone.cookies = kept  # whoever copied the cookie has nothing of it
    assert (await someone.get("/ops/trial")).status == 303


@pytest.mark.parametrize("url", ["//evil.example", "https://evil.example/ops", "/\\evil.example", "/sign-out"])
async def test_signing_in_leads_to_no_other_site(site: Api, url: str) -> None:
    operator = await person(site)
    someone = await browser(site, None)
    answer = await someone.post("/sign-in", {"word": operator.name, "password": PASSWORD, "next": url})
    assert (answer.status, answer.headers["Location"]) == (303, "/ops")
    themed = await someone.post("/theme", {"theme": "dark", "next": url})
    assert themed.headers["Location"] == "/ops"


async def test_signing_in_makes_a_new_session_and_ends_the_old(site: Api) -> None:
    operator = await person(site)
    someone = await browser(site)
    before = dict(someone.cookies)
    await someone.post("/sign-in", {"word": operator.name, "password": PASSWORD})
    assert before.items() != someone.cookies.items()
    someone.cookies, after = before, dict(someone.cookies)
    assert (await someone.get("/account")).status == 303
    someone.cookies = after
    assert operator.name in await someone.read("/account")


async def test_guessing_has_to_wait(site: Api) -> None:
    operator = await person(site)
    someone = await browser(site, None)
    form = {"word": operator.name, "password": "wrong"}
    answers = [await someone.post("/sign-in", form) for _ in range(FREE_BY_NAME)]
    assert [answer.status for answer in answers] == [403] * FREE_BY_NAME
    async with operators_pool(site.settings) as pool:
        # As if there had been ten times as many: the longest wait, however slow this machine is.
        await pool.execute(
            "INSERT INTO sign_in_failure (id, key, failed_at)"
            " SELECT gen_random_uuid(), key, failed_at FROM sign_in_failure, generate_series(1, 9)"
        )
        told = await someone.post("/sign-in", {**form, "password": PASSWORD})
        assert told.status == 429
        assert 30 < int(told.headers["Retry-After"]) <= 60
        assert f"Wait {told.headers['Retry-After']} s" in told.content.decode()
        await pool.execute("DELETE FROM sign_in_failure")  # the other tests come from the same address


async def test_a_link_shows_a_button_and_signs_in_once(site: Api) -> None:
    operator = await person(site)
    path = await link_of(site, operator)
    scanner, someone = await browser(site, None), await browser(site, None)
    for _ in range(2):  # a mail scanner follows links, from elsewhere and without a cookie
        shown = await scanner.get(path, **{"Sec-Fetch-Site": "cross-site"})
        assert shown.status == 200
        assert f"Sign in as {operator.name}" in shown.content.decode()
    assert scanner.cookies == {}
    answer = await someone.post(path)
    assert (answer.status, answer.headers["Location"]) == (303, "/ops")
    assert operator.name in await someone.read("/account")
    for method in ("GET", "POST"):
        again = await scanner.send(method, path, form={} if method == "POST" else None)
        assert again.status == 410
        assert "has been used" in again.content.decode()
    assert (await scanner.get("/sign-in/link/" + "x" * 43)).status == 404


async def test_asking_for_a_link_tells_nobody_who_is_there(site: Api) -> None:
    operator = await person(site)
    async with operators_pool(site.settings) as pool:
        await pool.execute("DELETE FROM sign_in_failure")
    someone = await browser(site, None)
    texts = []
    for word in (operator.name, "nobody-at-all"):
        text = await someone.follow(await someone.post("/sign-in/link", {"word": word}))
        assert "a link is on its way" in text
        texts.append(re.sub(r"<time.*?</time>", "", text))
    assert texts[0] == texts[1]
    async with operators_pool(site.settings) as pool:
        assert await pool.fetchval("SELECT count(*) FROM job WHERE kind = 'operator.link'") == 1


async def test_a_link_in_a_mail_to_a_page_finds_the_session_that_there_is(site: Api) -> None:
    """Browsers keep a SameSite=Strict cookie back when another site leads here; a page of our own asks again."""
    someone = await browser(site)
    kept, someone.cookies = someone.cookies, {}
    answer = await someone.get("/ops/trial?a=1", **{"Sec-Fetch-Site": "cross-site"})
    assert answer.status == 200
    assert '<meta http-equiv="refresh" content="0; url=/ops/trial?a=1">' in answer.content.decode()
    someone.cookies = kept
    assert "first" in await someone.read("/ops/trial?a=1")


async def test_a_password_is_changed_and_the_others_are_out(site: Api) -> None:
    operator = await person(site)
    here, there = await browser(site, None), await browser(site, None)
    for one in (here, there):
        await one.post("/sign-in", {"word": operator.name, "password": PASSWORD})
    assert (await here.read("/account")).count("End it") == 1
    new = {"new": "another horse battery", "again": "another horse battery"}
    assert (await here.post("/account/password", {**new, "again": "else"})).status == 400
    assert (await here.post("/account/password", {"new": "short", "again": "short"})).status == 400
    assert "The password is changed" in await here.follow(await here.post("/account/password", new))
    assert (await there.get("/account")).status == 303

    # A quarter of an hour later the present one is asked for.
    async with operators_pool(site.settings) as pool:
        await pool.execute(
            "UPDATE operator_session SET created_at = created_at - interval '16 minutes' WHERE operator_id = $1",
            operator.id,
        )
    assert "Present password" in await here.read("/account")
    assert (await here.post("/account/password", {**new, "old": PASSWORD})).status == 400
    answer = await here.post("/account/password", {**new, "old": "another horse battery"})
    assert "The password is changed" in await here.follow(answer)


async def test_sessions_are_ended_by_their_owner_only(site: Api) -> None:
    operator = await person(site)
    browsers = [await browser(site, None) for _ in range(3)]
    for one in browsers:
        await one.post("/sign-in", {"word": operator.name, "password": PASSWORD})
    text = await browsers[0].read("/account")
    ids = re.findall(r'name="session" value="([0-9a-f]{64})"', text)
    assert len(ids) == 2
    stranger = await browser(site)
    assert "had ended already" in await stranger.follow(
        await stranger.post("/account/sessions/end", {"session": ids[0]})
    )
    assert "1 session ended" in await browsers[0].follow(
        await browsers[0].post("/account/sessions/end", {"session": ids[0]})
    )
    assert "1 session ended" in await browsers[0].follow(
        await browsers[0].post("/account/sessions/end", {"session": "others"})
    )
    assert [(await one.get("/account")).status for one in browsers] == [200, 303, 303]


async def test_an_admin_adds_changes_and_disables_people(site: Api) -> None:
    admin = await browser(site)
    text = await admin.follow(
        await admin.post("/admin/operators", {"name": "Cleo", "email": "cleo@example.com", "role": "viewer"})
    )
    assert "cleo was added" in text
    again = await admin.post("/admin/operators", {"name": "cleo", "email": "c@example.com", "role": "viewer"})
    assert (again.status, "already" in again.content.decode()) == (400, True)
    for form, said in (
        ({"email": "cleo@example.org", "role": "operator"}, "cleo was changed"),
        ({"access": "disabled"}, "shut out"),
        ({"access": "enabled"}, "let in again"),
    ):
        assert said in await admin.follow(await admin.post("/admin/operators/cleo", form))
    listed = await admin.read("/admin/operators")
    assert "cleo@example.org" in listed
    assert "on its way" in await admin.follow(await admin.post("/admin/operators/cleo/link"))
    assert (await admin.get("/admin/operators/nobody")).status == 400
    # Whoever is made less may less at once, in the session that they have.
    other = await browser(site)
    assert other.operator is not None
    await admin.post(f"/admin/operators/{other.operator.name}", {"role": "viewer"})
    assert (await other.get("/admin/operators")).status == 403


async def test_a_choice_of_colours_is_kept_without_scripts(site: Api) -> None:
    someone = await browser(site)
    assert 'data-theme="auto"' in await someone.read("/ops/trial")
    answer = await someone.post("/theme", {"theme": "dark", "next": "/ops/trial"})
    assert 'data-theme="dark"' in await someone.follow(answer)
    await someone.post("/theme", {"theme": '"><script>', "next": "/ops/trial"})
    assert 'data-theme="dark"' in await someone.read("/ops/trial")


async def test_files_are_kept_for_as_long_as_they_stay_the_same(site: Api) -> None:
    nobody = await browser(site, None)
    text = await nobody.read("/sign-in")
    for url in re.findall(r'(?:href|src)="(/static/[^"]+)"', text):
        answer = await nobody.get(url)
        assert (answer.status, answer.headers["Cache-Control"]) == (200, "public, max-age=31536000, immutable")
        stale = await nobody.get(re.sub(r"/static/[0-9a-f]+/", "/static/000000000000/", url))
        assert (stale.status, stale.headers["Cache-Control"]) == (200, "no-store")
    for path in (
        "/static/0/../app.py",
        "/static/0/%2e%2e/app.py",
        "/static/0/vendor/VENDORED.md",
        "/static/0/none.css",
    ):
        assert (await nobody.get(path)).status == 404, path


async def test_a_failure_is_a_page_that_says_what_to_do(site: Api) -> None:
    someone = await browser(site)
    for path, status, said in (
        ("/ops/nowhere", 404, "There is no such page"),
        ("/ops/trial?do=slow", 503, "Narrow it"),
        ("/ops/trial?do=fail", 500, "a fault of Usher"),
    ):
        answer = await someone.get(path)
        assert (answer.status, answer.headers["Content-Type"]) == (status, "text/html; charset=utf-8")
        assert said in answer.content.decode()
        assert "on purpose" not in answer.content.decode()
    put = await someone.send("PUT", "/ops/trial")
    assert (put.status, put.headers["Allow"]) == (405, "GET,HEAD,POST")
    for path in ("/ops/trial", "/account/password"):  # also where no form is read
        assert (await someone.post(path, {"new": "y" * 70_000})).status == 413


def _cookie(someone: Browser) -> dict[str, str]:
    return {"Cookie": "; ".join(f"{name}={value}" for name, value in someone.cookies.items())}


async def _event(response: ClientResponse) -> tuple[str, str]:
    async with asyncio.timeout(10):
        while True:
            lines = (await response.content.readuntil(b"\n\n")).decode().splitlines()
            if lines[0].startswith("event: "):
                return lines[0][7:], "\n".join(line[6:] for line in lines[1:] if line)


async def test_a_live_page_sends_what_changed_and_ends_when_its_person_is_out(site: Api) -> None:
    someone = await browser(site)
    TRIAL.text = "first"
    url = site.internal_url + "/ops/trial?live=1"
    async with site.session.get(url, headers=_cookie(someone)) as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        name, html = await _event(response)
        assert (name, "first" in html) == ("trial", True)
        TRIAL.text = "second <b>"
        name, html = await _event(response)
        assert (name, "second &lt;b&gt;" in html) == ("trial", True)
        await someone.post("/sign-out")
        assert await _event(response) == ("over", "signed out")
        async with asyncio.timeout(10):
            assert await response.content.read() == b""
    async with site.session.get(url) as response:
        assert response.status == 401
    TRIAL.text = "first"


async def test_a_live_page_ends_when_its_person_is_given_another_role(site: Api) -> None:
    admin, someone = await browser(site), await browser(site, "operator")
    assert someone.operator is not None
    async with site.session.get(site.internal_url + "/ops/trial?live=1", headers=_cookie(someone)) as response:
        await _event(response)
        await admin.post(f"/admin/operators/{someone.operator.name}", {"role": "viewer"})
        async with asyncio.timeout(10):
            assert b"event: over" not in await response.content.read()
    assert (await someone.get("/ops/trial")).status == 200


async def test_what_many_look_at_is_asked_for_once(site: Api) -> None:
    TRIAL.made = 0
    someone = await browser(site)
    assert (await someone.get("/ops/trial?do=shared")).json == [1] * 20
    assert (await (await browser(site)).get("/ops/trial?do=shared")).json == [1] * 20


async def test_a_process_that_stops_waits_for_no_live_page(servers: Servers) -> None:
    async with fresh_settings(servers, shutdown_seconds=20) as settings, serving(settings) as served:
        someone = await browser(served)
        url = served.internal_url + "/ops/trial?live=1"
        async with served.session.get(url, headers=_cookie(someone)) as response:
            await _event(response)
            await served.faces.internal.shutdown()  # as a runner does before it waits for its handlers
            async with asyncio.timeout(5):
                assert b"event: " not in await response.content.read()


async def test_with_https_cookies_are_for_this_host_only(servers: Servers) -> None:
    async with fresh_settings(servers) as plain:
        settings = altered(plain, admin_url="https://usher.example.com")
        async with serving(settings) as served:
            operator = await person(served)
            someone = await browser(served, None)
            answer = await someone.post("/sign-in", {"word": operator.name, "password": PASSWORD})
            cookie = answer.headers["Set-Cookie"]
            assert re.fullmatch(
                r"__Host-usher=[\w-]{43}; HttpOnly; Max-Age=604800; Path=/; SameSite=Strict; Secure", cookie
            )


async def test_the_store_being_away_is_said_and_passes(servers: Servers) -> None:
    async with fresh_settings(servers) as settings, serving(settings) as served:
        someone = await browser(served)
        assert (await someone.get("/account")).status == 200

        async def away() -> bool:
            async with store(settings) as connection:
                await connection.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name LIKE 'usher pages %' AND datname = current_database()"
                )
            return (await someone.get("/account")).status in (200, 503)

        await until(away, "a page in spite of lost connections")
        await until(lambda: _is_back(someone), "the page to be back")


async def _is_back(someone: Browser) -> bool:
    return (await someone.get("/account")).status == 200
