"""Places that streams of audit events go to: real servers of each kind, under an authority of the test's own."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ssl
import threading
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@cache
def _certificates() -> tuple[bytes, bytes]:
    """Return an authority's certificate, and one under it for 127.0.0.1 and localhost with its key (PEM)."""
    now = datetime.now(UTC)
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])

    def certificate(name: x509.Name, public: ec.EllipticCurvePublicKey, *, is_authority: bool) -> x509.Certificate:
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(authority)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
        )
        if is_authority:
            usage = x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=True,
                crl_sign=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            )
            made = made.add_extension(usage, critical=True)
        else:
            names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
            made = made.add_extension(names, critical=False)
        return made.sign(authority_key, hashes.SHA256())

    root = certificate(authority, authority_key.public_key(), is_authority=True)
    own_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    own = certificate(own_name, key.public_key(), is_authority=False)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return root.public_bytes(Encoding.PEM), own.public_bytes(Encoding.PEM) + secret


@dataclass(frozen=True)
class Authority:
    """The files of the test's own authority."""

    file: Path
    """What is to be trusted."""
    server: ssl.SSLContext
    certificate: Path


def make_authority(folder: Path) -> Authority:
    """Write the certificates into a folder and return what serves with them."""
    root, own = _certificates()
    file, certificate = folder / "authority.pem", folder / "server.pem"
    file.write_bytes(root)
    certificate.write_bytes(own)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return Authority(file, context, certificate)


@dataclass
class Posted:
    """One request that came in."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def events(self) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in self.body.splitlines()]

    def is_signed_with(self, secret: str) -> bool:
        """Tell whether the signature is good, as docs/audit.md tells a receiver to."""
        moment, _, signature = self.headers["Usher-Signature"].partition(",v1=")
        said = moment.removeprefix("t=").encode() + b"." + self.body
        return hmac.compare_digest(hmac.new(secret.encode(), said, hashlib.sha256).hexdigest(), signature)


@dataclass
class Collector:
    """An HTTPS server that keeps what is posted to it."""

    url: str = ""
    posted: list[Posted] = field(default_factory=list)
    answers: list[int | str | None] = field(default_factory=list)
    """What to answer instead of 204, one after another: a status, a place to redirect to, or None to hang up."""
    held: asyncio.Event | None = None
    """While it is there and not set, what came in is not answered."""

    @property
    def events(self) -> list[dict[str, Any]]:
        """Every event that came, in order, also those that were not confirmed."""
        return [event for one in self.posted for event in one.events]

    async def take(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.posted.append(Posted(request.path, dict(request.headers), body))
        if self.held is not None:
            await self.held.wait()
        answer = self.answers.pop(0) if self.answers else 204
        if answer is None:
            assert request.transport is not None
            request.transport.abort()
        if isinstance(answer, str):
            return web.Response(status=302, headers={"Location": answer})
        return web.Response(status=answer or 500, text="x" * 100_000 if answer != 204 else None)


@asynccontextmanager
async def collecting(authority: Authority) -> AsyncIterator[Collector]:
    """Serve HTTPS on a free port of the loopback address."""
    collector = Collector()
    application = web.Application(client_max_size=1 << 26)
    application.router.add_route("*", "/{path:.*}", collector.take)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=authority.server)
    await site.start()
    collector.url = f"https://localhost:{runner.addresses[0][1]}/collect"
    try:
        yield collector
    finally:
        if collector.held is not None:
            collector.held.set()
        await runner.cleanup()


@dataclass
class Listener:
    """A syslog listener over TLS that keeps what it reads."""

    url: str = ""
    read: bytes = b""
    resets: int = 0
    """How many of the next connections to reset after the first bytes."""
    silent: bool = False
    """Whether to close without a word of TLS, as some receivers do."""

    @property
    def messages(self) -> list[bytes]:
        """The messages, by their counts."""
        rest, found = self.read, []
        while rest:
            count, _, rest = rest.partition(b" ")
            found.append(rest[: int(count)])
            rest = rest[int(count) :]
        return found

    @property
    def events(self) -> list[dict[str, Any]]:
        return [orjson.loads(one[one.index(b" - {") + 3 :]) for one in self.messages]


@asynccontextmanager
async def listening(authority: Authority) -> AsyncIterator[Listener]:
    """Listen on a free port of the loopback address."""
    listener = Listener()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if listener.resets:
            listener.resets -= 1
            await reader.read(10)
            writer.transport.abort()
            return
        whole = b""
        while data := await reader.read(1 << 16):
            whole += data
        listener.read += whole
        if listener.silent:
            writer.get_extra_info("socket")._sock.shutdown(1)
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0, ssl=authority.server)
    listener.url = f"syslog+tls://localhost:{server.sockets[0].getsockname()[1]}"
    try:
        yield listener
    finally:
        server.close()
        await server.wait_closed()


@contextmanager
def storing(authority: Authority) -> Iterator[str]:
    """Serve S3 by moto over HTTPS on a free port; give the address `https://localhost:PORT`."""
    from moto.moto_server.werkzeug_app import (  # it takes two seconds
        DomainDispatcherApplication,
        MotoRequestHandler,
        create_backend_app,
    )
    from werkzeug.serving import make_server

    class Quiet(MotoRequestHandler):
        def log_request(self, *_: object, **__: object) -> None:
            """Say nothing."""

    certificate = str(authority.certificate)
    server = make_server(
        "127.0.0.1",
        0,
        DomainDispatcherApplication(create_backend_app),
        threaded=True,
        request_handler=Quiet,
        ssl_context=(certificate, certificate),
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"https://localhost:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
