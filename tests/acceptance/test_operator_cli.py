from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.pages import Browser

if TYPE_CHECKING:
    from tests.support.api import Api

pytestmark = pytest.mark.asyncio(loop_scope="module")


def usher(api: Api, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    """Run `usher operator` with the settings of a front end."""
    settings = api.settings
    environment = {
        **os.environ,
        "USHER_DATABASE_URL": settings.database_url.get_secret_value(),
        "USHER_REDIS_URL": settings.redis_url.get_secret_value(),
        "USHER_SECRET_KEY": settings.secret_key.get_secret_value(),
        "USHER_ADMIN_URL": api.internal_url,
    }
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "operator", *words],
        env=environment,
        input=typed,
        capture_output=True,
        text=True,
        check=False,
    )


def printed(api: Api, *words: str, typed: str = "") -> Any:
    """Return what a command that must succeed prints as JSON."""
    done = usher(api, *words, "--json", typed=typed)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def test_the_shell_does_all_that_the_page_of_operators_does(api: Api) -> None:
    assert printed(api, "list") == []
    added = printed(api, "add", "ana", "--email", "ana@example.com", "--role", "admin")
    assert (added["name"], added["role"], added["has_password"]) == ("ana", "admin", False)
    typed = "correct horse battery\n"
    added = printed(api, "add", "bo", "--email", "bo@example.com", "--role", "viewer", "--password-stdin", typed=typed)
    assert added["has_password"] is True
    assert typed.strip() not in json.dumps(added)

    browser = Browser(api.session, api.internal_url)
    answer = await browser.post("/sign-in", {"word": "bo", "password": typed.strip()})
    assert answer.status == 303
    changed = printed(api, "change", "bo", "--role", "operator", "--email", "b@example.com")
    assert (changed["role"], changed["email"]) == ("operator", "b@example.com")
    assert "(operator)" in await browser.read("/account")

    link = printed(api, "link", "ana")
    assert link["url"].startswith(f"{api.internal_url}/sign-in/link/")
    plain = usher(api, "link", "ana")
    (url,) = plain.stdout.splitlines()  # alone, so that a shell can take it
    other = Browser(api.session, api.internal_url)
    for one in (link["url"], url):
        assert (await other.post(one.removeprefix(api.internal_url))).status == 303

    assert printed(api, "disable", "bo")["disabled_at"] is not None
    assert (await browser.get("/account")).status == 303
    assert printed(api, "change", "bo", "--enable")["disabled_at"] is None
    assert [one["name"] for one in printed(api, "list")] == ["ana", "bo"]
    assert "b@example.com" in usher(api, "list").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("add", "cleo", "--email", "nothing", "--role", "viewer"), "e-mail address"),
        (("add", "cleo", "--email", "c@example.com", "--role", "root"), "viewer, operator, admin"),
        (("add", "Cleo!", "--email", "c@example.com", "--role", "viewer"), "small letters"),
        (("change", "nobody", "--role", "viewer"), "no operator nobody"),
        (("change", "nobody"), "Nothing to change"),
        (("link", "nobody"), "no operator nobody"),
        (("disable", "nobody"), "no operator nobody"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
async def test_a_mistake_is_a_sentence_and_changes_nothing(api: Api, words: tuple[str, ...], said: str) -> None:
    done = usher(api, *words)
    assert (done.returncode, said in done.stderr) == (2, True), done.stderr


async def test_a_bad_password_leaves_nobody_behind(api: Api) -> None:
    done = usher(
        api, "add", "dora", "--email", "d@example.com", "--role", "viewer", "--password-stdin", typed="short\n"
    )
    assert done.returncode == 2
    assert "12" in done.stderr
    assert "short" not in done.stderr.replace("too short", "")
    assert "dora" not in [one["name"] for one in printed(api, "list")]
