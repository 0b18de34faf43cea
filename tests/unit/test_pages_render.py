from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from api.keys import SETTINGS
from api.pages.cookies import cookie_name, leave_message, set_cookie, take_message
from api.pages.guard import safe_next
from api.pages.live import event
from api.pages.render import _PAGES, age, number, polyline, query
from models.settings import Settings, load_settings
from tests.support.api import SECRET_KEY

MACROS: Any = _PAGES.globals["macros"]


def settings(admin_url: str = "http://127.0.0.1:8081", secret_key: str = SECRET_KEY) -> Settings:
    return load_settings(
        database_url="postgresql://h/d", redis_url="redis://h", secret_key=secret_key, admin_url=admin_url
    )


def request(cookies: str = "", **given: Any) -> web.Request:
    app = web.Application()
    app[SETTINGS] = settings(**given)
    return make_mocked_request("GET", "/", headers={"Cookie": cookies}, app=app)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "\N{EN DASH}"),
        (-3, "0 s"),
        (0, "0 s"),
        (0.34, "340 ms"),
        (4.25, "4.2 s"),
        (59.9, "60 s"),
        (60, "1 min"),
        (61, "1 min 1 s"),
        (7500, "2 h 5 min"),
        (90000, "1 d 1 h"),
        (timedelta(days=400), "400 d"),
    ],
)
def test_a_span_of_time_reads_as_people_say_it(seconds: float | timedelta | None, text: str) -> None:
    assert age(seconds) == text


def test_thousands_stand_apart() -> None:
    assert number(1234567) == "1\N{NARROW NO-BREAK SPACE}234\N{NARROW NO-BREAK SPACE}567"
    assert (number(None), number(0), number(2.5)) == ("\N{EN DASH}", "0", "2.5")


@given(st.lists(st.one_of(st.none(), st.floats(0, 1e12)), max_size=50))
def test_a_line_stays_in_its_picture(values: list[float | None]) -> None:
    points = [tuple(map(float, pair.split(","))) for pair in polyline(values, 120, 24).split()]
    assert len(points) == len(values)
    assert all(0 <= x <= 120 and 0 <= y <= 24 for x, y in points)


@given(st.dictionaries(st.text(min_size=1), st.text(min_size=1)), st.text())
def test_a_query_string_says_what_it_was_given(values: dict[str, str], changed: str) -> None:
    read = parse_qs(query(values, page=changed)[1:], keep_blank_values=True, strict_parsing=False)
    expected = {**values, "page": changed}
    assert {name: texts[0] for name, texts in read.items()} == {k: v for k, v in expected.items() if v}


@given(st.text())
def test_whatever_next_is_people_end_on_a_page_of_ours(url: str) -> None:
    target = safe_next(url)
    for absolute in (urljoin("https://usher.example.com/sign-in", target), "https://usher.example.com" + target):
        parts = urlsplit(absolute)
        assert (parts.scheme, parts.netloc) == ("https", "usher.example.com")
    assert urlsplit(target).path.split("/")[1] in {"ops", "admin", "account"}


@pytest.mark.parametrize(
    "url",
    [
        *("https://evil.example", "//evil.example/ops", "/\\evil.example", "/ops\\@evil", "/\t/evil.example/ops"),
        *("/sign-out", "/opsy", "ops", "", None, "javascript:alert(1)", "/ops\r\nSet-Cookie: x=y"),
    ],
)
def test_an_open_redirect_is_refused(url: str | None) -> None:
    assert safe_next(url) == "/ops"


@pytest.mark.parametrize("url", ["/ops/jobs?q=state:dead&page=2", "/admin/audit", "/account", "/ops"])
def test_a_page_of_ours_is_gone_on_to(url: str) -> None:
    assert safe_next(url) == url


@given(st.text(), st.sampled_from(["queues", "a-b"]))
def test_an_event_arrives_as_it_was_sent(data: str, name: str) -> None:
    """Parsed as the HTML Living Standard §9.2.6 says."""
    fields: list[tuple[str, str]] = []
    try:
        text = event(name, data).decode()
    except UnicodeEncodeError:
        return  # half a surrogate pair is in no page
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    assert lines[-2:] == ["", ""]
    for line in lines[:-2]:
        field, _, value = line.partition(":")
        fields.append((field, value.removeprefix(" ")))
    assert fields[0] == ("event", name)
    assert {field for field, _ in fields[1:]} == {"data"}
    assert "\n".join(value for _, value in fields[1:]) == data.replace("\r\n", "\n").replace("\r", "\n")


def test_cookies_are_out_of_reach_of_scripts_and_other_sites() -> None:
    response = web.Response()
    set_cookie(request(admin_url="https://usher.example.com"), response, "usher", "x")
    (morsel,) = response.cookies.values()
    assert morsel.key == "__Host-usher"
    assert (morsel["secure"], morsel["httponly"], morsel["samesite"], morsel["path"]) == (True, True, "Strict", "/")
    assert morsel["domain"] == ""


def test_over_plain_http_a_cookie_has_a_name_that_browsers_take() -> None:
    response = web.Response()
    set_cookie(request(admin_url="http://127.0.0.1:9123"), response, "usher", "x")
    (morsel,) = response.cookies.values()
    assert morsel.key == "usher-9123"
    assert (morsel["secure"], morsel["httponly"], morsel["samesite"]) == (False, True, "Strict")


def _sent(message: str) -> str:
    response = web.Response()
    leave_message(request(), response, message)
    (morsel,) = response.cookies.values()
    return f"{morsel.key}={morsel.coded_value}"


@given(st.text(min_size=1, max_size=300).filter(lambda text: text.isprintable()))
def test_a_message_reaches_the_next_page(message: str) -> None:
    assert take_message(request(_sent(message))) == message


@given(st.text(max_size=80))
def test_a_message_that_somebody_else_left_is_not_shown(text: str) -> None:
    name = cookie_name(settings(), "usher-message")
    value = "".join(letter for letter in text if letter.isascii() and letter.isalnum()) + ".0" * 3
    assert take_message(request(f"{name}={value}")) is None
    assert take_message(request(_sent("hello"), secret_key="another-secret-key-of-enough-length")) is None


def test_macros_say_states_in_text_shape_and_colour() -> None:
    html = str(MACROS.state("dead"))
    assert "dead" in html
    assert "✕" in html
    assert 'class="state bad"' in html
    assert "&lt;b&gt;" in str(MACROS.state("<b>"))
    moment = datetime(2026, 11, 24, 1, 30, 59, tzinfo=UTC)
    assert str(MACROS.time(moment)) == ('<time datetime="2026-11-24T01:30:59+00:00">2026-11-24 01:30:59 UTC</time>')
    assert "3 min ago" in str(MACROS.ago(moment, moment + timedelta(minutes=3)))


def test_a_sparkline_can_be_read_without_seeing_it() -> None:
    html = str(MACROS.sparkline([1, 5, 2], "Jobs a minute"))
    assert 'aria-label="Jobs a minute: lowest 1, highest 5, last 2"' in html
    assert html.count("<tr>") == 3
    assert "<polyline" in str(MACROS.sparkline([], "Nothing yet"))
