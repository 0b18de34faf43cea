"""An Usher of a module's own as its operators have it: an api, a worker, a mail server that can be stopped."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
from uuid_utils.compat import uuid7

from cli.embedded.folder import keep_audit_key
from cli.embedded.mail import EmbeddedMail
from models.audit.record import OPERATOR
from models.links import make_link
from models.operators import add_operator
from models.tenants import add_tenant
from models.tokens import issue_token
from tests.support.api import Caller, Tenant, altered, document, fresh_settings, store, work_email
from tests.support.processes import Process, environment, free_ports
from tests.support.servers import MailboxReader, reachable_folder
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    import asyncpg

    from models.settings import Settings
    from tests.support.servers import Servers

_SIMULATE_SECONDS = 600.0


@dataclass
class World:
    """Real processes, the customers and people in them."""

    settings: Settings
    folder: Path
    mail: EmbeddedMail
    mailbox: MailboxReader
    session: aiohttp.ClientSession
    people: int = 0

    @property
    def scim_url(self) -> str:
        """The Tenant URL as it is pasted into Entra."""
        return f"http://127.0.0.1:{self.settings.port}/scim/v2"

    @property
    def pages_url(self) -> str:
        """Where the pages are, without a slash at its end."""
        return f"http://127.0.0.1:{self.settings.admin_port}"

    async def tenant(self, name: str, **values: Any) -> Caller:
        """Add a customer with a token for SCIM and for its audit events; return it as Entra."""
        async with store(self.settings) as connection:
            row = await add_tenant(connection, name=name, actor=OPERATOR, correlation_id=uuid7(), **values)
            issued = await issue_token(
                connection, tenant_id=row["id"], scopes=("scim", "audit"), actor=OPERATOR, correlation_id=uuid7()
            )
        tenant = Tenant(row["id"], name, issued.id, issued.text)
        return Caller(self.session, self.scim_url, tenant, issued.text)

    async def sign_in_link(self, role: str = "admin") -> str:
        """Add an operator and return a link that signs them in, as `usher operator link` prints it."""
        self.people += 1
        name = f"{role}-{self.people}"
        async with store(self.settings) as connection:
            operator = await add_operator(
                connection,
                name=name,
                email=f"{name}@example.com",
                role=role,
                actor=OPERATOR,
                correlation_id=uuid7(),
            )
            token = await make_link(
                connection,
                operator,
                secret_key=self.settings.secret_key.get_secret_value(),
                actor=OPERATOR,
                correlation_id=uuid7(),
            )
        return f"{self.pages_url}/sign-in/link/{token}"

    async def usher(self, *arguments: str, status: int = 0) -> str:
        """Run an `usher` command over the same servers and return what it prints."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cli.main", *arguments),
            env=environment(self.settings),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_SIMULATE_SECONDS):
                output, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode == status, (arguments, process.returncode, errors.decode())
        return output.decode()

    async def simulate(self, caller: Caller, users: int, *arguments: str) -> dict[str, Any]:
        """Have `usher simulate` push users and return its report, after a look that nothing deviated."""
        where = ("--url", caller.scim_url, "--token", caller.tenant.token)
        output = await self.usher("simulate", *where, "--users", str(users), "--json", *arguments)
        report: dict[str, Any] = json.loads(output)
        assert report["deviations"] == []
        return report

    async def create(self, caller: Caller, user_name: str) -> dict[str, Any]:
        """Have Entra create one user, who can be invited."""
        name = {"givenName": user_name.partition("@")[0].capitalize(), "familyName": "Example"}
        return await caller.create(
            document(user_name, name=name, active=True, emails=[work_email(user_name, primary=True)])
        )

    def store(self) -> AbstractAsyncContextManager[asyncpg.Connection]:
        """Connect to the database with every right."""
        return store(self.settings)

    async def count(self, query: str, *arguments: Any) -> int:
        """Return what a query counts."""
        async with store(self.settings) as connection:
            return int(await connection.fetchval(query, *arguments))

    async def until_jobs(self, state: str, count: int, kind: str = "invitation.send", seconds: float = 30) -> None:
        """Wait until at least so many jobs of a kind are in a state."""

        async def enough() -> bool:
            query = "SELECT count(*) FROM job WHERE kind = $1 AND state = $2"
            return await self.count(query, kind, state) >= count

        _: bool = await wait_until(enough, f"{count} {kind} jobs are {state}", seconds)

    async def mend(self) -> None:
        """Undo what a test that failed has left of its outage."""
        if self.mail.poll() is not None:
            await self.start_mail()
        await self.mailbox.behave()

    async def stop_mail(self) -> None:
        """Stop the mail server, as an outage does."""
        await asyncio.to_thread(self.mail.stop)

    async def start_mail(self) -> None:
        """Start it again at the same address."""
        await asyncio.to_thread(self.mail.start)


@asynccontextmanager
async def running_world(servers: Servers) -> AsyncIterator[World]:
    """Start an api and a worker over a new database, and a mail server; end them all afterwards."""
    port, admin_port = free_ports(2)
    with reachable_folder() as folder:
        mail = EmbeddedMail(folder)
        keep_audit_key(folder / "audit.key")
        await asyncio.to_thread(mail.start)
        addresses = {
            "port": port,
            "admin_port": admin_port,
            "public_url": f"http://127.0.0.1:{port}",
            "admin_url": f"http://127.0.0.1:{admin_port}",
        }
        files = {"audit_key_file": folder / "audit.key", "audit_anchor_file": folder / "audit.anchors"}
        async with (
            fresh_settings(servers, smtp_url=mail.smtp_url, audit_export_dir=folder / "exports", **files) as base,
            aiohttp.ClientSession() as session,
        ):
            settings = altered(base, **addresses)
            names = ("api", "worker")
            processes = [Process(settings, [name], folder / f"{name}.log") for name in names]
            mailbox = MailboxReader(mail.smtp_url, mail.page_url, session)
            try:
                await asyncio.gather(*(process.start() for process in processes))
                yield World(settings, folder, mail, mailbox, session)
            finally:
                await asyncio.gather(*(process.kill() for process in processes))
                await asyncio.to_thread(mail.stop)
