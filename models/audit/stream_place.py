"""Where a stream of audit events goes, as a URL without a secret in it.

https://siem.example.com/collect                     lines, posted and signed
syslog+tls://siem.example.com:6514                   RFC 5424 messages over TLS (RFC 5425)
s3+https://s3.example.com/bucket/prefix?region=…     objects of gzip lines
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from models.errors import UsageError

KINDS: Final = {"https": "https", "syslog+tls": "syslog", "s3+https": "s3"}
"""By the URL's scheme."""
_PORTS: Final = {"https": 443, "syslog": 6514, "s3": 443}
_REGION: Final = "us-east-1"
_LONGEST: Final = 1000  # characters


@dataclass(frozen=True, slots=True)
class Place:
    """A destination, read."""

    kind: str
    """`https`, `syslog` or `s3`."""
    url: str
    host: str
    port: int
    bucket: str = ""
    prefix: str = ""
    """Of the names of objects; without slashes around it."""
    region: str = ""

    @property
    def endpoint(self) -> str:
        """The address of an S3 service, without bucket and prefix."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}" if self.port != _PORTS["s3"] else f"https://{host}"


def read_place(text: str) -> Place:
    """Read a destination.

    Raises:
        UsageError: it is none, or has a secret in it; the message does not repeat it.
    """
    try:
        parts = urlsplit(text)
        kind, host, port = KINDS.get(parts.scheme, ""), parts.hostname, parts.port
    except ValueError:
        kind, host, port, parts = "", None, None, urlsplit("")
    if not kind or not host or len(text) > _LONGEST or not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(
            "A destination looks like https://siem.example.com/path, syslog+tls://siem.example.com:6514 or"
            " s3+https://s3.example.com/bucket/prefix?region=eu-west-1."
        )
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise UsageError("A destination holds no login; credentials come in with --credentials-stdin.")
    if _is_odd_number(host):
        raise UsageError("The host is a number in a form of its own; write the address with its four numbers.")
    if parts.query and kind != "s3":
        raise UsageError("A destination has no query string, as that would be shown; see --credentials-stdin.")
    if kind == "syslog" and parts.path not in ("", "/"):
        raise UsageError("A syslog destination is a host and a port, without a path.")
    port = port or _PORTS[kind]
    if kind != "s3":
        return Place(kind, text, host, port)
    bucket, _, prefix = unquote(parts.path).strip("/").partition("/")
    asked = dict(parse_qsl(parts.query))
    if not bucket or set(asked) - {"region"}:
        raise UsageError("An S3 destination is s3+https://HOST/BUCKET/PREFIX, with ?region=NAME where it needs one.")
    return Place(kind, text, host, port, bucket, prefix.strip("/"), asked.get("region") or _REGION)


def _is_odd_number(host: str) -> bool:
    """Tell whether some resolvers would take a host for an IPv4 address that it does not look like: 127.1, 0x7f.1."""
    try:
        ip_address(host.partition("%")[0])
    except ValueError:
        last = host.rstrip(".").rpartition(".")[2].lower()
        return last.isdigit() or last.startswith("0x")
    return False
