"""Every setting, read once from the environment (``USHER_*``) into one frozen object."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, HttpUrl, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from models.address import is_address
from models.errors import UsageError

_HOST = re.compile(r"(?:\[[^\]]*\]|[^:\[\]]*)(?::\d{1,5})?")  # with a port or without


class Settings(BaseSettings):
    """What an Usher process needs to know. Frozen: a value that was read never changes under its reader."""

    model_config = SettingsConfigDict(env_prefix="USHER_", frozen=True, extra="ignore", hide_input_in_errors=True)

    # Servers behind Usher. The URLs carry passwords, so they hide in repr.
    database_url: SecretStr = Field(description="PostgreSQL 15 to 18, `postgresql://user:password@host:port/database`.")
    database_role: str = Field(
        default="usher_app",
        pattern=r"^[a-z_][a-z0-9_]*$",
        description="Role that api and worker take on after connecting; it cannot change or delete audit events."
        " Requests that speak for a tenant run as `usher_tenant`.",
    )
    redis_url: SecretStr = Field(
        description="Redis 6.2 or later, or Valkey, `redis://host:port/number`; `rediss://` for TLS."
    )
    smtp_url: SecretStr = Field(
        default=SecretStr("smtp://127.0.0.1:1025"),
        description="`smtp://` (plain), `smtp+starttls://` or `smtps://`; `user:password@` where the server wants it.",
    )
    secret_key: SecretStr = Field(
        description="At least 32 random characters. Invitation links derive from it: a new one ends those already sent."
    )

    # Where Usher is reached
    public_url: HttpUrl = Field(
        default=HttpUrl("http://127.0.0.1:8080"),
        description="Address of the public listener as the world sees it; `meta.location` and links start so.",
    )
    host: str = Field(default="127.0.0.1", description="Address that the public listener binds.")
    port: int = Field(default=8080, ge=0, le=65535, description="Port of the public listener; 0 takes any free one.")
    admin_host: str = Field(default="127.0.0.1", description="Address that the internal listener binds.")
    admin_port: int = Field(
        default=8081,
        ge=0,
        le=65535,
        description="Port of the internal listener (health, pages); 0 takes any free one.",
    )
    trusted_proxies: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = Field(
        default=(),
        description="Networks, separated by commas, of proxies whose `X-Forwarded-For` is believed: `10.20.0.0/16`."
        " Without any, the client is whoever opened the connection.",
    )
    admin_url: HttpUrl = Field(
        default=HttpUrl("http://127.0.0.1:8081"),
        description="Address of the internal listener as operators type it; with `https` their cookies are `Secure`.",
    )

    # Logs
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe level that is written."
    )
    log_format: Literal["json", "console"] = Field(
        default="json", description="`json` writes one object a line, `console` is for people."
    )

    # Probes
    beat_file: Path | None = Field(
        default=None,
        description="File that a process touches every 5 seconds while its event loop turns, for a container's probe.",
    )

    # Metrics and traces
    metrics_dir: Path | None = Field(
        default=None,
        description="Folder where the processes of one machine count together for `/metrics`, each in a file of it;"
        " without one each tells of itself only.",
    )
    metrics_tenants: int = Field(
        default=0,
        ge=0,
        le=50,
        description="For how many tenants, those with the oldest work first, `/metrics` tells the age of it.",
    )
    worker_admin_port: int | None = Field(
        default=None,
        ge=0,
        le=65535,
        description="Port on which a worker answers `/livez` and `/metrics`, on `USHER_ADMIN_HOST`; none by default.",
    )
    otlp_endpoint: HttpUrl | None = Field(
        default=None,
        description="Address of an OpenTelemetry collector (OTLP over HTTP), such as `http://127.0.0.1:4318`, that"
        " traces are sent to; without one there are none.",
    )
    revision: str = Field(
        default="unknown",
        pattern=r"^[\w.+:/-]{1,64}$",
        description="What `usher_build_info` calls the revision that runs.",
    )

    # Tokens
    token_days: int = Field(
        default=365, ge=1, le=3650, description="Days that a new token lives unless told otherwise."
    )
    token_cache_seconds: float = Field(
        default=3.0,
        ge=0,
        le=5,
        description="Seconds that a process may trust what it last read about a token.",
    )

    # Limits of a connection
    max_connections: int = Field(
        default=4096,
        ge=16,
        description="Connections that one process keeps open on each listener. When one more comes, the oldest idle one"
        " is closed; if none is idle, the new one is answered 503.",
    )
    peer_connections: int = Field(
        default=1024,
        ge=1,
        description="The same for connections from one address, but for those of `USHER_TRUSTED_PROXIES`.",
    )
    head_seconds: float = Field(
        default=10.0, gt=0, description="Seconds in which the head of a request must arrive; beyond it 408."
    )
    idle_seconds: float = Field(
        default=75.0,
        gt=0,
        description="Seconds that a connection stays open between requests; longer than a proxy in front keeps it.",
    )

    # Limits of a request
    max_body_bytes: int = Field(default=1_048_576, ge=1024, description="Largest request body in bytes; beyond it 413.")
    max_json_depth: int = Field(default=32, ge=4, le=200, description="Deepest nesting of a JSON body; beyond it 400.")
    body_seconds: float = Field(default=10.0, gt=0, description="Seconds in which a request body must arrive.")
    request_seconds: float = Field(
        default=7.0,
        gt=0,
        lt=60,
        description="Seconds after which a request is answered 503; Entra itself gives up at 60, and comes back after"
        " a 503.",
    )
    token_rate: float = Field(
        default=500.0,
        ge=0,
        description="Requests a second that one token may send to one process, twice as many at once; beyond it 429."
        " 0 is no limit. Entra sends about 25.",
    )
    token_in_flight: int = Field(
        default=256,
        ge=1,
        description="Requests of one token that one process has in hand at once; beyond it 429.",
    )
    page_size: int = Field(default=100, ge=1, description="Resources in a list answer when the request names no count.")
    max_page_size: int = Field(default=1000, ge=1, description="Most resources in one list answer.")

    # Accepting creates
    intake_batch: int = Field(default=24, ge=1, le=2000, description="Most creates that one commit carries.")
    intake_in_flight: int = Field(
        default=2, ge=1, le=8, description="Commits of creates that may be under way at once."
    )
    database_pool: int = Field(default=10, ge=2, description="Connections to PostgreSQL that a process keeps.")

    # Jobs
    job_batch: int = Field(default=200, ge=1, le=2000, description="Most jobs that one worker transaction carries.")
    job_days: float = Field(
        default=30.0,
        gt=0,
        le=3650,
        description="Days after which jobs that are done or cancelled leave the ledger; dead ones stay until somebody"
        " acts.",
    )
    lease_seconds: float = Field(default=30.0, gt=0, description="Seconds a worker owns a job without a sign of life.")
    lease_beat_seconds: float = Field(default=10.0, gt=0, description="Seconds between a worker's signs of life.")
    sweep_seconds: float = Field(
        default=5.0,
        gt=0,
        description="Seconds between looks for jobs that are due, left behind or unknown to Redis.",
    )
    poll_seconds: float = Field(default=0.05, gt=0, le=5, description="Seconds between a worker's looks into Redis.")
    worker_slots: int = Field(default=50, ge=1, description="arq jobs that one worker process runs at once.")
    shutdown_seconds: float = Field(
        default=20.0, gt=0, description="Seconds that a stopping process gives the work in its hands."
    )

    # The proof of the audit log
    audit_key_file: Path | None = Field(
        default=None,
        description="File with the private key that seals the audit log, made by `usher audit key --new`; the public"
        " keys stand beside it, in `.pub`. A worker without it seals nothing.",
    )
    audit_anchor_file: Path | None = Field(
        default=None,
        description="File that every stream's last seal is appended to each hour; keep it where nobody who can change"
        " the database can change it.",
    )
    audit_export_dir: Path | None = Field(
        default=None, description="Folder of exports that pages asked for, shared by api and worker; without it none."
    )
    audit_stream_allow: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = Field(
        default=(),
        description="Networks, separated by commas, that streams may go to though they are not public:"
        " `10.20.0.0/16,fd00::/8`.",
    )
    audit_stream_ca_file: Path | None = Field(
        default=None,
        description="File of certificates (PEM) of authorities that streams trust beside the system's.",
    )

    # Invitations
    mail_from: str = Field(default="invitations@usher.localhost", description="Sender address of invitation e-mails.")
    invitation_days: int = Field(
        default=7, ge=1, le=90, description="Days that an invitation link works after it is sent."
    )
    smtp_connections: int = Field(default=4, ge=1, le=64, description="SMTP connections that a worker keeps at most.")
    smtp_seconds: float = Field(
        default=30.0, gt=0, description="Seconds that one exchange with the SMTP server may take."
    )

    @field_validator("secret_key")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        if len(value.get_secret_value()) < 32:
            raise ValueError("must have at least 32 characters")
        return value

    @field_validator("audit_stream_allow", "trusted_proxies", mode="before")
    @classmethod
    def _networks(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return [ip_network(part.strip()) for part in value.split(",") if part.strip()]
        except ValueError as error:
            raise ValueError("must be networks such as 10.20.0.0/16,fd00::/8") from error

    @field_validator("database_url")
    @classmethod
    def _is_postgresql(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("must start with postgresql://")
        hosts = urlsplit(value.get_secret_value()).netloc.rpartition("@")[2].split(",")
        if not all(_HOST.fullmatch(host) for host in hosts):
            raise ValueError("must name its server as host:port; special characters of a password are written %40")
        return value

    @field_validator("mail_from")
    @classmethod
    def _is_address(cls, value: str) -> str:
        if not is_address(value):
            raise ValueError("must be an e-mail address")
        return value

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must start with redis://, rediss:// or unix://")
        return value

    @field_validator("smtp_url")
    @classmethod
    def _is_smtp(cls, value: SecretStr) -> SecretStr:
        if not value.get_secret_value().startswith(("smtp://", "smtp+starttls://", "smtps://")):
            raise ValueError("must start with smtp://, smtp+starttls:// or smtps://")
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.lease_beat_seconds * 2 >= self.lease_seconds:
            raise ValueError("USHER_LEASE_BEAT_SECONDS must be less than half of USHER_LEASE_SECONDS")
        if self.page_size > self.max_page_size:
            raise ValueError("USHER_PAGE_SIZE must not be larger than USHER_MAX_PAGE_SIZE")
        return self

    @property
    def base_url(self) -> str:
        """``public_url`` without a slash at its end."""
        return str(self.public_url).rstrip("/")

    @property
    def pages_url(self) -> str:
        """``admin_url`` without a slash at its end."""
        return str(self.admin_url).rstrip("/")

    @property
    def scim_url(self) -> str:
        """The Tenant URL that administrators paste into Entra."""
        return f"{self.base_url}/scim/v2"


def load_settings(**overrides: Any) -> Settings:
    """Read the settings, refusing to start on a wrong one.

    Args:
        overrides: values that win over the environment, by field name.

    Raises:
        UsageError: names every ``USHER_*`` variable that is missing or wrong, and why; never its value.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        lines = []
        for item in error.errors(include_input=False, include_url=False):
            name = "_".join(str(part) for part in item["loc"])
            lines.append(f"USHER_{name.upper()}: {item['msg']}" if name else str(item["msg"]))
        raise UsageError("The settings are not usable:\n  " + "\n  ".join(lines)) from None
