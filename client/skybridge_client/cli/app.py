"""The command and its subcommands, put together."""

from __future__ import annotations

import typer

from skybridge_client.cli import (
    batch,
    dead_letters,
    executions,
    exits,
    functions,
    instances,
    schedules,
    secrets,
    system,
    tokens,
    up,
)
from skybridge_client.cli import run as run_command
from skybridge_client.cli.session import take_common

app = typer.Typer(
    name="skybridge",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    epilog=exits.HELP,
)
take_common(app, "Run functions in containers: manage, deploy and execute them.")
app.add_typer(functions.app, name="function")
app.add_typer(executions.app, name="executions")
app.add_typer(instances.app, name="instances")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(schedules.app, name="schedules")
app.add_typer(secrets.app, name="secrets")
app.add_typer(tokens.app, name="tokens")
for group in (
    run_command.app,
    batch.app,
    up.app,
    executions.logs_app,
    system.app,
    tokens.whoami_app,
):
    app.add_typer(group)


def run() -> None:
    """Runs the command line."""
    app(prog_name="skybridge")
