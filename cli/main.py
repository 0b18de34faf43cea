"""The `usher` command: its list of commands; each is imported when it is asked for, and only then."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from models.errors import UsageError, UsherError

if TYPE_CHECKING:
    from collections.abc import Callable

# Name: where it is (a function, or a Typer with commands of its own), and the sentence that `usher --help` shows,
# which must be the first of its own help.
COMMANDS = {
    "up": ("cli.up:up", "Run everything here: PostgreSQL, Redis, a mail catcher, the API and workers."),
    "api": ("cli.processes:api", "Serve SCIM, invitations, health and pages."),
    "worker": ("cli.processes:worker", "Apply accepted creates, send invitations, look after the ledger."),
    "migrate": ("cli.processes:migrate", "Bring the database to the newest schema; safe to run again."),
    "tenant": ("cli.tenant:app", "Add, list and change tenants (customers); capture what they send."),
    "schema": ("cli.schema:app", "Add, list, show and remove a tenant's own schemas."),
    "token": ("cli.token:app", "Issue, list, rotate and revoke bearer tokens."),
    "operator": ("cli.operator:app", "Add, list, change and disable people who may sign in; make links."),
    "queue": ("cli.queue:app", "Show the queues and find jobs; retry, cancel, discard, pause and resume them."),
    "requests": (
        "cli.requests:requests",
        "List what clients sent lately, newest first: refusals and tolerated deviations in words, nobody's data.",
    ),
    "mail": ("cli.mail:app", "Find invitation e-mails, send them again, suppress addresses."),
    "process": ("cli.process:app", "Show the processes that live; tell a worker to take no more jobs."),
    "schedule": ("cli.schedule:app", "Show what runs on a schedule and how it went; ask for a run."),
    "cycle": (
        "cli.cycle:cycle",
        "Show how far cycles are: users accepted, applied and invited, and when what is accepted will be done.",
    ),
    "audit": ("cli.audit:app", "Ask the audit log: list events, follow them, show one whole."),
    "simulate": (
        "cli.simulate.command:simulate",
        "Play Microsoft Entra against a SCIM server and report every answer that Entra would stumble over.",
    ),
}


def load(name: str) -> typer.core.TyperCommand | TyperGroup:
    """Import a command."""
    module, attribute = COMMANDS[name][0].split(":")
    found: typer.Typer | Callable[..., None] = getattr(import_module(module), attribute)
    if isinstance(found, typer.Typer):
        group = get_group(found)
        group.name = name
        return group
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")
    alone.command(name)(found)
    command = get_command(alone)
    assert isinstance(command, typer.core.TyperCommand)  # noqa: S101  what a Typer of one function is
    return command


class Later(TyperGroup):
    """A group that knows its commands by name and sentence, and loads the one that is called."""

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Replace what stands in for the command by the command."""
        name, command, rest = super().resolve_command(ctx, args)
        return (name, load(name), rest) if name in COMMANDS else (name, command, rest)


app = typer.Typer(
    cls=Later,
    name="usher",
    help="Takes the users that Microsoft Entra pushes over SCIM 2.0 and makes them members of an application.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _stand_in() -> None: ...


for _name, (_, _sentence) in COMMANDS.items():
    app.command(_name, help=_sentence)(_stand_in)


@app.command("version")
def show_version() -> None:
    """Print the version."""
    print(version("usher"))


def main() -> None:
    """Run the command; a mistake of the person who typed it is a sentence and exit status 2."""
    try:
        app(prog_name="usher")
    except UsageError as error:
        print(f"usher: {error.detail}", file=sys.stderr)
        sys.exit(2)
    except UsherError as error:
        print(f"usher: {error.detail}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
