"""`usher audit verify|prove|key|erase|retain|hold|…`: the proof of the audit log, and what is removed from it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer
from uuid_utils.compat import uuid7

from cli.audit_export import export
from cli.show import Json, print_json, print_table
from cli.store import with_store
from models import tenants
from models.audit import erasure, holds
from models.audit.anchors import read_anchors
from models.audit.canonical import PLATFORM
from models.audit.keys import Signer, Verifier, public_file, read_signer, read_verifier, read_verifiers, write_key
from models.audit.proof import UnprovenError
from models.audit.proof import prove as prove_event
from models.audit.record import OPERATOR
from models.audit.retention import retain as remove_old
from models.audit.seal import know_key, seal_waiting
from models.audit.verify import verify as verify_log
from models.errors import UsageError
from models.settings import load_settings

if TYPE_CHECKING:
    from models.audit.findings import Report
    from models.audit.retention import Removed
    from models.audit.seal import Sealed
    from models.db import Connection
    from models.settings import Settings

Tenant = Annotated[str | None, typer.Option(help="A tenant's short name.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without it only the question is shown.")]
Anchors = Annotated[Path | None, typer.Option(help="The anchors; USHER_AUDIT_ANCHOR_FILE if not given.")]
EventId = Annotated[UUID, typer.Argument(help="The event's id.")]
UserId = Annotated[UUID, typer.Argument(help="The user's id.")]
HoldId = Annotated[UUID, typer.Argument(help="The hold's id.")]
_MOST_SHOWN = 100
_INCOMPLETE = 3


def _signer(settings: Settings) -> Signer:
    if settings.audit_key_file is None:
        raise UsageError("USHER_AUDIT_KEY_FILE is not set.")
    return read_signer(settings.audit_key_file)


def _trusted(settings: Settings, keys: list[str]) -> list[Verifier]:
    if keys:
        return [read_verifier(text) for text in keys]
    path = settings.audit_key_file
    return read_verifiers(public_file(path)) if path and public_file(path).exists() else []


def _moment(text: str | None, *, end: bool = False) -> datetime | None:
    """Read a date or a moment; of a date its beginning, or its end."""
    if text is None:
        return None
    try:
        read = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no moment; write 2026-06-01 or 2026-06-01T12:00:00Z.") from error
    if end and len(text) == len("2026-06-01"):
        read += timedelta(days=1)
    return read if read.tzinfo else read.replace(tzinfo=UTC)


async def _tenant_id(connection: Connection, tenant: str | None) -> UUID | None:
    return (await tenants.find_tenant(connection, tenant))["id"] if tenant else None


def verify(
    since: Annotated[str | None, typer.Option("--from", help="Rows from this moment on (UTC).")] = None,
    until: Annotated[str | None, typer.Option("--to", help="Rows up to this moment or the end of this day.")] = None,
    anchors: Anchors = None,
    key: Annotated[
        list[str] | None, typer.Option(help="A public key to trust; those beside USHER_AUDIT_KEY_FILE if not given.")
    ] = None,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Verify the audit log: exit status 0 clean, 2 tampering found, 3 incomplete."""
    first, last = _moment(since), _moment(until, end=True)
    if first and last and first >= last:
        raise UsageError("--from must be before --to.")
    if anchors is not None:
        read_anchors(anchors)  # a mistake in its name is said before anything is read

    async def work(connection: Connection, settings: Settings) -> Report:
        path = anchors or settings.audit_anchor_file
        known = read_anchors(path) if path and (anchors or path.exists()) else None
        stream = await _tenant_id(connection, tenant)
        trusted = _trusted(settings, key or [])
        return await verify_log(connection, trusted, anchors=known, stream=stream, since=first, until=last)

    report = with_store(work)
    if as_json:
        print_json(report.as_dict())
    else:
        _show(report)
    if report.exit_code:
        raise typer.Exit(report.exit_code)


def _show(report: Report) -> None:
    rows = [{**finding.as_dict(), "tenant": _stream(finding.stream)} for finding in report.findings[:_MOST_SHOWN]]
    if rows:
        print_table(("class", "tenant", "seal", "event", "detail"), rows, empty="", shorten=("detail",))
        print()
    print(
        f"{report.outcome.capitalize()}: {report.events} events under {report.seals} seals of {report.streams} streams,"
        f" {report.anchors} anchors, {report.erased} events erased, {report.removed} removed;"
        f" {len(report.findings)} findings, {report.seconds:.1f} s."
    )
    for sentence in report.incomplete:
        print(sentence)


def _stream(stream: UUID) -> str:
    return "installation" if stream == PLATFORM else str(stream)


def prove(
    event_id: EventId,
    tenant: Tenant = None,
) -> None:
    """Print an event, and the proof that it is under a signed seal; in JSON always."""

    async def work(connection: Connection, _: Settings) -> dict[str, Any] | None:
        return await prove_event(connection, event_id, tenant_id=await _tenant_id(connection, tenant))

    try:
        proof = with_store(work)
    except UnprovenError as error:
        print(error.detail)
        raise typer.Exit(_INCOMPLETE) from error
    if proof is None:
        raise UsageError(f"There is no event {event_id}.")
    print_json(proof)


def key(
    new: Annotated[bool, typer.Option("--new", help="Make a key; the one before is kept as a public key.")] = False,
    if_missing: Annotated[bool, typer.Option("--if-missing", help="With --new: only if there is none yet.")] = False,
) -> None:
    """Show the public keys that seals are verified with, the present one last."""
    path = load_settings().audit_key_file
    if path is None:
        raise UsageError("USHER_AUDIT_KEY_FILE is not set.")
    if if_missing and not new:
        raise UsageError("--if-missing goes with --new.")
    if new and not (if_missing and path.exists()):
        write_key(path)
    for verifier in read_verifiers(public_file(path)):
        print(verifier.text)


def seal() -> None:
    """Seal now what workers would seal within a minute."""

    async def work(connection: Connection, settings: Settings) -> Sealed:
        signer = _signer(settings)
        await know_key(connection, signer)
        return await seal_waiting(connection, signer)

    done = with_store(work)
    print(f"{done.events} events sealed in {done.seals} seals." if not done.skipped else "A worker is sealing.")


def erase(
    user_id: UserId,
    tenant: Annotated[str, typer.Option(help="The tenant's short name.")],
    yes: Yes = False,
) -> None:
    """Erase a person's values from the audit log; the events and their proof stay."""
    if not yes:
        raise UsageError("What is erased cannot be brought back. Say --yes if it is meant.")

    async def work(connection: Connection, _: Settings) -> int:
        found = await tenants.find_tenant(connection, tenant)
        return await erasure.erase_person(
            connection, tenant_id=found["id"], user_id=user_id, actor=OPERATOR, correlation_id=uuid7()
        )

    print(f"{with_store(work)} events no longer say who it was.")


def retain() -> None:
    """Remove now what is older than its tenant wants it kept, as workers do every day."""

    async def work(connection: Connection, settings: Settings) -> Removed:
        return await remove_old(connection, _signer(settings), actor=OPERATOR, correlation_id=uuid7())

    done = with_store(work)
    held = " A legal hold kept others in place." if done.held else ""
    print(f"{done.events} events removed, {len(done.months)} months of them whole.{held}")


def hold(
    reason: Annotated[str, typer.Option(help="Why; it is kept.")],
    tenant: Tenant = None,
) -> None:
    """Place a legal hold on a tenant's events, or on everybody's: nothing is removed or erased."""

    async def work(connection: Connection, _: Settings) -> UUID:
        tenant_id = await _tenant_id(connection, tenant)
        return await holds.place_hold(
            connection, tenant_id=tenant_id, reason=reason, actor=OPERATOR, correlation_id=uuid7()
        )

    print(with_store(work))


def list_holds(as_json: Json = False) -> None:
    """List the legal holds that are open."""

    async def work(connection: Connection, _: Settings) -> list[dict[str, Any]]:
        return await holds.open_holds(connection)

    rows = with_store(work)
    if as_json:
        print_json(rows)
        return
    print_table(("id", "tenant", "reason", "placed_by", "placed_at"), rows, empty="No legal hold.", shorten=("reason",))


def release(hold_id: HoldId) -> None:
    """Release a legal hold."""

    async def work(connection: Connection, _: Settings) -> None:
        await holds.release_hold(connection, hold_id, actor=OPERATOR, correlation_id=uuid7())

    with_store(work)


def mount(app: typer.Typer) -> None:
    """Add the commands of this module to `usher audit`."""
    for name, command in (
        ("verify", verify),
        ("prove", prove),
        ("key", key),
        ("seal", seal),
        ("erase", erase),
        ("retain", retain),
        ("hold", hold),
        ("holds", list_holds),
        ("release", release),
        ("export", export),
    ):
        app.command(name)(command)
