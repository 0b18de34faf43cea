"""The `usher` command: one file a group, all registered here."""

from __future__ import annotations

import sys
from importlib.metadata import version

import typer

from cli import audit, processes, queue, tenant, token
from cli.simulate.command import simulate
from cli.up import up
from models.errors import UsageError, UsherError

app = typer.Typer(
    name="usher",
    help="Takes the users that Microsoft Entra pushes over SCIM 2.0 and makes them members of an application.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command("up")(up)
app.command("api")(processes.api)
app.command("worker")(processes.worker)
app.command("migrate")(processes.migrate)
app.command("simulate")(simulate)
app.command("audit")(audit.audit)
app.add_typer(tenant.app, name="tenant")
app.add_typer(token.app, name="token")
app.add_typer(queue.app, name="queue")


@app.command("version")
def show_version() -> None:
    """Print the version."""
    print(version("usher"))


def main() -> None:
    """Run the command; a mistake of the person who typed it is a sentence and exit status 2."""
    try:
        app()
    except UsageError as error:
        print(f"usher: {error.detail}", file=sys.stderr)
        sys.exit(2)
    except UsherError as error:
        print(f"usher: {error.detail}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
