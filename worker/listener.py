"""`/livez` and `/metrics` of a worker, where a port for them is set: for containers, which share no folder.

It answers from a thread, so that it can tell when the event loop has stopped turning.
"""

from __future__ import annotations

import json
from threading import Thread
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog

from models import exposition
from models.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

    from models.settings import Settings
    from models.vitals import Vitals

_log = structlog.get_logger("worker")


class _Quiet(WSGIRequestHandler):
    """A handler without an access log."""

    timeout = 5.0
    """Seconds that a client may take over its request: one at a time is answered."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name of the base class
        """Say nothing."""


class Listener:
    """The internal listener of a worker; does nothing where no port is set."""

    def __init__(self, settings: Settings, vitals: Vitals) -> None:
        """Listen.

        Raises:
            UsageError: the port is taken.
        """
        self._vitals = vitals
        self._server: WSGIServer | None = None
        if settings.worker_admin_port is None:
            return
        host, port = settings.admin_host, settings.worker_admin_port
        try:
            self._server = make_server(host, port, self._answer, handler_class=_Quiet)
        except OSError as error:
            raise UsageError(
                f"Cannot listen on {host}:{port}: {error.strerror}. Set USHER_WORKER_ADMIN_PORT."
            ) from error
        Thread(target=self._server.serve_forever, name="listener", daemon=True).start()
        _log.info("Listening", action="worker.listen", internal=f"{host}:{self.port}")

    @property
    def port(self) -> int | None:
        """The port that it listens on."""
        return self._server.server_port if self._server else None

    def _answer(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        status, media_type = "200 OK", "application/json"
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            status, body = "405 Method Not Allowed", b'{"status":"GET only"}'
        elif environ["PATH_INFO"] == "/metrics":
            body, media_type = exposition.write(environ.get("HTTP_ACCEPT", ""), {}, own=True)
        elif environ["PATH_INFO"] == "/livez":
            turning = self._vitals.turning
            status = status if turning else "503 Service Unavailable"
            body = json.dumps({"status": "alive" if turning else "the event loop is stuck"}).encode()
        else:
            status, body = "404 Not Found", b'{"status":"there are /livez and /metrics"}'
        start_response(status, [("Content-Type", media_type), ("Content-Length", str(len(body)))])
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
