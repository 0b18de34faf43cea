"""The mail catcher: takes every message, keeps it, shows it on a page and sends nothing on.

Run by itself: ``python -m cli.embedded.mail --folder DIR --port P --page-port Q [--reply "451 try later"]``.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import os
import socket
import sys
from pathlib import Path
from typing import ClassVar

from cli.embedded.folder import LOOPBACK, is_free, keep_port
from cli.embedded.process import Child
from cli.embedded.server import EmbeddedServer
from models.errors import UsageError


class EmbeddedMail(EmbeddedServer):
    """SMTP on one loopback port and a page that shows what was sent on another."""

    name: ClassVar[str] = "mail"

    def __init__(self, data_dir: Path, port: int = 0, page_port: int = 0) -> None:
        super().__init__(data_dir, port)
        self.child = Child(self.home, self.name)
        self.wanted_page_port = page_port
        self.page_port = 0

    @property
    def url(self) -> str:
        """``smtp://127.0.0.1:port``."""
        return f"smtp://{LOOPBACK}:{self.port}"

    @property
    def smtp_url(self) -> str:
        """The same address under the name that tells it from the page's."""
        return self.url

    @property
    def page_url(self) -> str:
        """``http://127.0.0.1:page_port``."""
        return f"http://{LOOPBACK}:{self.page_port}"

    def _spawn(self) -> None:
        if not self.page_port:
            self.page_port = keep_port(self.home, "mailbox", self.wanted_page_port)
        folder = self.home / "mail"
        folder.mkdir(mode=0o700, exist_ok=True)
        command = [
            *(sys.executable, "-m", "cli.embedded.mail", "--folder", str(folder)),
            *("--port", str(self.port), "--page-port", str(self.page_port)),
        ]
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("USHER_")}
        self.child.spawn(command, {**environment, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"})

    def _answers(self) -> bool:
        page = http.client.HTTPConnection(LOOPBACK, self.page_port, timeout=2)
        try:
            page.request("GET", "/behaviour")
            if page.getresponse().status != 200:
                return False
            with socket.create_connection((LOOPBACK, self.port), timeout=2) as connection:
                greeting = connection.recv(64)
                connection.sendall(b"QUIT\r\n")
                return greeting.startswith(b"220 ")
        except (OSError, http.client.HTTPException):
            return False
        finally:
            page.close()

    def _try_again(self) -> bool:
        if not self.wanted_page_port and not is_free(self.page_port):
            self.page_port = 0
            if is_free(self.port):
                self._spawn()
                return True
        return super()._try_again()


def main() -> None:
    """Run the catcher in this process until it is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m cli.embedded.mail", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where the messages are kept")
    parser.add_argument("--host", default=LOOPBACK, help="address to bind (default: %(default)s)")
    parser.add_argument("--port", type=int, default=1025, help="SMTP port (default: %(default)s)")
    parser.add_argument("--page-port", type=int, default=8025, help="port of the page (default: %(default)s)")
    parser.add_argument("--reply", help="answer every message with this SMTP reply, such as '451 try later'")
    options = parser.parse_args()

    # Imported here: `usher up` needs only the class above, and starts sooner without these.
    from cli.embedded.behaviour import Behaviour, Conduct  # noqa: PLC0415 -- as said
    from cli.embedded.catcher import serve  # noqa: PLC0415 -- as said

    try:
        conduct = Conduct(Behaviour.parse({"reply": options.reply}))
    except UsageError as error:
        parser.error(error.detail)
    asyncio.run(serve(options.folder, options.host, options.port, options.page_port, conduct))


if __name__ == "__main__":
    main()
