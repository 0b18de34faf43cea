"""make audit-deps: every locked dependency is asked about, and no answer is not taken for a good one."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import weaknesses

if TYPE_CHECKING:
    from collections.abc import Iterator

BAD = "aiohttp"


class Database(BaseHTTPRequestHandler):
    """Knows one weakness."""

    results: int | None = None

    def do_POST(self) -> None:
        queries = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
        results: list[Any] = [
            {"vulns": [{"id": "GHSA-1"}, {"id": "GHSA-2"}]} if query["package"]["name"] == BAD else {}
            for query in queries
        ]
        body = json.dumps({"results": results[: self.results]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Database) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(weaknesses, "SERVICE", url)
        yield url
        server.shutdown()
        thread.join()


def test_every_locked_dependency_is_found() -> None:
    lock = weaknesses.LOCK.read_text(encoding="utf-8")
    packages = dict(weaknesses.pinned(lock))
    assert len(packages) == lock.count("\n    # via") > 30
    assert {"aiohttp", "asyncpg", "cryptography", "uvloop"} <= set(packages)
    assert weaknesses.pinned("a-b==1.0 ; sys_platform == 'win32' \\\n    --hash=sha256:0") == [("a-b", "1.0")]


def test_a_known_weakness_is_told(service: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert weaknesses.main() == 1
    said = capsys.readouterr().out
    assert f"{BAD} " in said
    assert "GHSA-1, GHSA-2" in said
    assert "1 with known weaknesses" in said


def test_none_known_is_good(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.test_weaknesses.BAD", "nothing")
    assert weaknesses.known(service, [("a", "1"), ("b", "2")]) == {}


def test_half_an_answer_is_none(
    service: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Database, "results", 3)
    assert weaknesses.main() == 2
    assert "Nothing was audited" in capsys.readouterr().err


def test_nobody_to_ask_is_said_and_fails(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(weaknesses, "SERVICE", "http://127.0.0.1:1")
    assert weaknesses.main() == 2
    assert "did not answer" in capsys.readouterr().err
