"""`usher audit stream`: the places outside that get audit events as they come."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from cli.show import Json, print_json, print_table
from cli.store import with_store
from models import tenants
from models.audit import streams
from models.audit.record import OPERATOR
from models.audit.stream_levels import LEVELS, read_levels
from models.audit.stream_trouble import in_words
from models.audit.streams import FORMATS
from models.errors import UsageError
from worker.streamer import try_stream

if TYPE_CHECKING:
    from models.audit.streams import Stream
    from models.db import Connection
    from models.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Send audit events to a SIEM (HTTPS, S3, syslog over TLS).")

_COLUMNS = ("id", "tenant", "destination", "format", "condition", "lag", "sent", "failures", "error_code")

StreamId = Annotated[UUID, typer.Argument(help="The stream's id, as `usher audit stream ls` shows it.")]
Format = Annotated[str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")]
NewFormat = Annotated[str | None, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")]
Level = Annotated[
    list[str] | None,
    typer.Option(help=f"How much of an attribute leaves, such as displayName=full: {', '.join(LEVELS)}; repeatable."),
]
CredentialsStdin = Annotated[
    bool,
    typer.Option(
        "--credentials-stdin",
        help="Read from standard input: the Authorization header for HTTPS, ACCESS_KEY_ID:SECRET_ACCESS_KEY for S3.",
    ),
]
_PLACE = "https://HOST/PATH, syslog+tls://HOST:PORT or s3+https://HOST/BUCKET/PREFIX?region=NAME."


def _credentials(wanted: bool) -> str | None:
    return sys.stdin.readline().rstrip("\r\n") if wanted else None


def _row(stream: Stream) -> dict[str, Any]:
    return {**stream.as_dict(), "tenant": stream.tenant or "installation", "lag": f"{stream.lag:.0f} s"}


def _show(stream: Stream, secret: str | None, as_json: bool) -> None:
    if as_json:
        print_json({**stream.as_dict(), **({"secret": secret} if secret else {})})
        return
    print(stream.id)
    if secret:
        print(f"Secret of the signatures, shown this once: {secret}", file=sys.stderr)


@app.command("add")
def add(
    destination: Annotated[str, typer.Argument(help=_PLACE)],
    tenant: Annotated[str | None, typer.Option(help="Whose events; the installation's own if not given.")] = None,
    form: Format = "jsonl",
    level: Level = None,
    credentials_stdin: CredentialsStdin = False,
    history: Annotated[bool, typer.Option("--history", help="Send also what is in the log already.")] = False,
    as_json: Json = False,
) -> None:
    """Have a tenant's events, or the installation's own, sent to a place from now on."""
    credentials = _credentials(credentials_stdin)

    async def work(connection: Connection, settings: Settings) -> tuple[Stream, str | None]:
        return await streams.add_stream(
            connection,
            tenant_id=(await tenants.find_tenant(connection, tenant))["id"] if tenant else None,
            destination=destination,
            form=form,
            credentials=credentials,
            levels=read_levels(level or ()),
            history=history,
            secret_key=settings.secret_key.get_secret_value(),
            actor=OPERATOR,
        )

    _show(*with_store(work), as_json)


@app.command("ls")
def list_(as_json: Json = False) -> None:
    """List the streams: where they go, how far behind they are, and what is wrong."""

    async def work(connection: Connection, _: Settings) -> list[Stream]:
        return await streams.list_streams(connection)

    found = with_store(work)
    if as_json:
        print_json([stream.as_dict() for stream in found])
    else:
        empty = "No streams. `usher audit stream add DESTINATION` adds one."
        print_table(_COLUMNS, map(_row, found), empty=empty, shorten=("destination",))


@app.command("change")
def change(
    stream_id: StreamId,
    destination: Annotated[str | None, typer.Option(help=_PLACE)] = None,
    form: NewFormat = None,
    level: Level = None,
    credentials_stdin: CredentialsStdin = False,
    new_secret: Annotated[
        bool, typer.Option("--new-secret", help="Sign with a new secret from now on, and print it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Change what is given and leave the rest; it is tried again at once, from where it stands."""
    if destination is None and form is None and level is None and not credentials_stdin and not new_secret:
        raise UsageError("Nothing to change; see `usher audit stream change --help`.")
    credentials = _credentials(credentials_stdin)

    async def work(connection: Connection, settings: Settings) -> tuple[Stream, str | None]:
        return await streams.change_stream(
            connection,
            stream_id,
            destination=destination,
            form=form,
            credentials=credentials,
            levels=None if level is None else read_levels(level),
            renew_secret=new_secret,
            secret_key=settings.secret_key.get_secret_value(),
            actor=OPERATOR,
        )

    _show(*with_store(work), as_json)


@app.command("pause")
def pause(stream_id: StreamId) -> None:
    """Send nothing more until it is resumed; nothing is lost."""

    async def work(connection: Connection, _: Settings) -> bool:
        return await streams.pause_stream(connection, stream_id, actor=OPERATOR)

    print("Paused." if with_store(work) else "It was paused already.")


@app.command("resume")
def resume(stream_id: StreamId) -> None:
    """Go on where it stopped; one that fails is tried again at once."""

    async def work(connection: Connection, _: Settings) -> bool:
        return await streams.resume_stream(connection, stream_id, actor=OPERATOR)

    print("It goes on." if with_store(work) else "It was not paused; it is tried again at once.")


@app.command("rm")
def remove(stream_id: StreamId) -> None:
    """Send nothing more and forget the stream, with where it stood."""

    async def work(connection: Connection, _: Settings) -> None:
        await streams.remove_stream(connection, stream_id, actor=OPERATOR)

    with_store(work)
    print("Removed.")


@app.command("test")
def try_(stream_id: StreamId, as_json: Json = False) -> None:
    """Send one event, that of the test, at once from this machine; exit status 1 if it is not confirmed."""

    async def work(connection: Connection, settings: Settings) -> tuple[UUID, str | None]:
        return await try_stream(connection, stream_id, settings, actor=OPERATOR)

    event_id, code = with_store(work)
    if as_json:
        print_json({"event_id": event_id, "confirmed": code is None, "error_code": code})
    else:
        print(f"Event {event_id} was {'confirmed.' if code is None else f'not confirmed. {in_words(code)}'}")
    if code is not None:
        raise typer.Exit(1)
