"""`usher operator`: the people who may sign in to the pages."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from uuid_utils.compat import uuid7

from cli.show import Json, print_json, print_table
from cli.store import with_store
from models.audit.record import OPERATOR
from models.errors import UsageError
from models.links import LINK_MINUTES, make_link
from models.operators import ROLES, Operator, add_operator, change_operator, find_operator, list_operators
from models.passwords import check_password, set_password

if TYPE_CHECKING:
    from models.db import Connection
    from models.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Add, list, change and disable people who may sign in; make links.")

_COLUMNS = ("name", "email", "role", "has_password", "created_at", "disabled_at", "last_sign_in_at")

Name = Annotated[str, typer.Argument(help="Name of the operator.")]
Email = Annotated[str | None, typer.Option(help="E-mail address; links to sign in go there.")]
Role = Annotated[str | None, typer.Option(help=f"What they may do: {', '.join(ROLES)}.")]
PasswordStdin = Annotated[bool, typer.Option("--password-stdin", help="Read a password from standard input.")]


def _show(operator: Operator, as_json: bool) -> None:
    if as_json:
        print_json(asdict(operator))
    else:
        print_table(_COLUMNS, [asdict(operator)], empty="", shorten=("email",))


def _password(wanted: bool) -> str | None:
    return sys.stdin.readline().rstrip("\r\n") if wanted else None


async def _give(connection: Connection, operator: Operator, password: str) -> Operator:
    await set_password(connection, operator, password, actor=OPERATOR, correlation_id=uuid7())
    return await find_operator(connection, operator.name)


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Short name: small letters, digits, dots, dashes.")],
    email: Annotated[str, typer.Option(help="E-mail address; links to sign in go there.")],
    role: Annotated[str, typer.Option(help=f"What they may do: {', '.join(ROLES)}.")],
    password_stdin: PasswordStdin = False,
    as_json: Json = False,
) -> None:
    """Add a person; then give them a way in with `usher operator link`."""
    password = _password(password_stdin)

    async def work(connection: Connection, _: Settings) -> Operator:
        async with connection.transaction():
            added = await add_operator(
                connection, name=name, email=email, role=role, actor=OPERATOR, correlation_id=uuid7()
            )
            return await _give(connection, added, password) if password is not None else added

    _show(with_store(work), as_json)


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the operators."""

    async def work(connection: Connection, _: Settings) -> list[Operator]:
        return await list_operators(connection)

    rows: list[dict[str, Any]] = [asdict(operator) for operator in with_store(work)]
    if as_json:
        print_json(rows)
    else:
        print_table(_COLUMNS, rows, empty="No operators yet. `usher operator add NAME` adds one.", shorten=("email",))


@app.command("change")
def change(
    name: Name,
    email: Email = None,
    role: Role = None,
    password_stdin: PasswordStdin = False,
    enable: Annotated[bool, typer.Option("--enable", help="Let in again whoever was disabled.")] = False,
    as_json: Json = False,
) -> None:
    """Change what is given and leave the rest; a new password signs them out everywhere."""
    if email is None and role is None and not password_stdin and not enable:
        raise UsageError("Nothing to change; see `usher operator change --help`.")
    password = _password(password_stdin)

    async def work(connection: Connection, _: Settings) -> Operator:
        found = await find_operator(connection, name)
        if password is not None:
            check_password(password, found)
        async with connection.transaction():
            if email is not None or role is not None or enable:
                found = await change_operator(
                    connection,
                    name,
                    email=email,
                    role=role,
                    disabled=False if enable else None,
                    actor=OPERATOR,
                    correlation_id=uuid7(),
                )
            return await _give(connection, found, password) if password is not None else found

    _show(with_store(work), as_json)


@app.command("disable")
def disable(name: Name, as_json: Json = False) -> None:
    """Shut a person out and sign them out everywhere, at once."""

    async def work(connection: Connection, _: Settings) -> Operator:
        return await change_operator(connection, name, disabled=True, actor=OPERATOR, correlation_id=uuid7())

    _show(with_store(work), as_json)


@app.command("link")
def link(name: Name, as_json: Json = False) -> None:
    """Print a link that signs a person in once."""

    async def work(connection: Connection, settings: Settings) -> dict[str, Any]:
        operator = await find_operator(connection, name)
        if operator.disabled_at:
            raise UsageError(
                f"{operator.name} is disabled; `usher operator change {operator.name} --enable` undoes it."
            )
        token = await make_link(
            connection,
            operator,
            secret_key=settings.secret_key.get_secret_value(),
            actor=OPERATOR,
            correlation_id=uuid7(),
        )
        return {"name": operator.name, "url": f"{settings.pages_url}/sign-in/link/{token}", "minutes": LINK_MINUTES}

    made = with_store(work)
    if as_json:
        print_json(made)
    else:
        print(made["url"])
        print(f"It signs {made['name']} in once, within {LINK_MINUTES} minutes.", file=sys.stderr)
