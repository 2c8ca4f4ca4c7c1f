"""`skybridge-server`: reads the settings and calls what does the work.

Each command imports what it needs, so that `--help` and `config` answer at once.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skybridge_server import __version__
from skybridge_server.config import SettingsError, load_settings, show, unknown_variables
from skybridge_server.errors import SkybridgeError

if TYPE_CHECKING:
    from skybridge_server.repositories.backup import Backup, Progress

EX_CONFIG = 78
"""Exit code of sysexits.h: a service manager sees that a restart will not help."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="The server of Skybridge FaaS. Its settings are FAAS_ variables of the environment.",
    epilog="""\b
Examples:
  skybridge-server doctor    is this machine ready?
  skybridge-server config    every setting, and where it comes from
  skybridge-server serve     listen on 127.0.0.1:50051
  FAAS_LISTEN=unix:/run/skybridge.sock skybridge-server serve""",
)
File = Annotated[Path, typer.Argument(show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def main() -> None:
    """Run the command line."""
    # Before gRPC begins: it writes to stderr on its own; what one needs to know is logged.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    app(prog_name="skybridge-server")


@contextmanager
def _uncollected() -> Iterator[None]:
    """Spare an import the search for garbage, a tenth of its time: all that it makes stays.

    For the same reason no later search looks at it.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
]


@app.callback()
def _options(_: Version = False) -> None: ...


@app.command(epilog="Ends on SIGTERM and Ctrl-C; a second one does not wait for running calls.")
def serve() -> None:
    """Serve gRPC until stopped."""
    with _uncollected():
        from skybridge_server.process import run

    with _readable_errors():
        if not run(load_settings()):
            raise typer.Exit(1)


@app.command()
def migrate() -> None:
    """Bring the database up to date; `serve` does so, too."""
    from skybridge_server.repositories.schema import migrate as migrate_file

    with _readable_errors():
        path = load_settings().database
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in migrate_file(path):
            print(f"applied {name}")
        print(f"{path} is up to date")


@app.command(
    epilog="""\b
Examples:
  skybridge-server backup /backups/$(date +%F).db
  skybridge-server backup --json /backups/$(date +%F).db | jq -r .sha256"""
)
def backup(file: File, as_json: AsJson = False) -> None:
    """Copy the database to a FILE, which must not exist; a server that runs goes on.

    The copy is that of one moment, checked, and for its owner only: it holds all that functions
    were given and wrote.
    """
    from skybridge_server.repositories.backup import back_up
    from skybridge_server.repositories.vault import key_of

    with _readable_errors(), _progress() as progress:
        database = load_settings().database
        made = back_up(database, file, progress)
    if made.secrets:
        typer.echo(f"not in it: {key_of(database)}, the key of its secrets; keep a copy", err=True)
    if as_json:
        print(json.dumps(asdict(made), indent=2))
    else:
        print(f"{made.path}: {_describe(made)}; SHA-256 {made.sha256}")


@app.command(
    epilog="""\b
Examples:
  skybridge-server restore /backups/2026-01-31.db
  FAAS_DATABASE=/tmp/look.db skybridge-server restore --sha256 97e8... /backups/2026-01-31.db"""
)
def restore(
    file: File,
    sha256: Annotated[str, typer.Option(help="What `backup` said that it is.")] = "",
    as_json: AsJson = False,
) -> None:
    """Put a backup in place of the database; no server may use it meanwhile.

    The database that is there is kept beside it. What was accepted after the backup is gone; what
    waited then runs when the server starts, even if it has run since.
    """
    from skybridge_server.repositories.backup import restore as restore_file
    from skybridge_server.repositories.vault import key_of

    with _readable_errors(), _progress() as progress:
        database = load_settings().database
        made = restore_file(file, database, sha256=sha256, progress=progress)
    if made.database.secrets:
        typer.echo(f"its secrets need the key of its time: {key_of(database)}", err=True)
    if as_json:
        print(json.dumps(asdict(made), indent=2))
        return
    print(f"{made.database.path}: {_describe(made.database)}")
    if made.replaced:
        print(f"the database that was there is kept: {made.replaced}")


def _describe(made: Backup) -> str:
    return f"{made.executions:,} executions, {made.functions:,} functions, {made.bytes:,} bytes"


@contextmanager
def _progress() -> Iterator[Progress]:
    """Show progress on a terminal, on a line that is gone in the end."""
    shown = sys.stderr.isatty()

    def show(what: str) -> None:
        if shown:
            typer.echo(f"\r\033[K{what}", err=True, nl=False)

    try:
        yield show
    finally:
        if shown:
            typer.echo("\r\033[K", err=True, nl=False)


@app.command()
def config(as_json: AsJson = False) -> None:
    """Print every setting, its value and where it comes from; secrets are masked."""
    for problem in unknown_variables():
        typer.echo(f"warning: {problem.variable} {problem.description}", err=True)
    with _readable_errors():
        shown = show(load_settings())
    if as_json:
        print(json.dumps([asdict(setting) for setting in shown], indent=2))
        return
    width = max(len(setting.value) for setting in shown)
    for setting in shown:
        value = setting.value.ljust(width)
        print(f"{setting.variable:30} {value} {setting.source:11} {setting.description}")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Look whether a server can work on this machine, and say how to mend what is broken.

    The exit code is 1 if something is broken.
    """
    from skybridge_server import log
    from skybridge_server.config import LogFormat, LogLevel
    from skybridge_server.doctor import Health, examine

    log.configure(LogFormat.AUTO, LogLevel.WARNING)  # to stderr: what is found goes to stdout
    findings = asyncio.run(examine())
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{finding.health:7} {finding.subject}: {finding.message}")
            if finding.remedy:
                print(f"{'':7} -> {finding.remedy}")
    if any(finding.health is Health.BROKEN for finding in findings):
        raise typer.Exit(1)


@contextmanager
def _readable_errors() -> Iterator[None]:
    """Turn what the operator can mend into lines on stderr and an exit code."""
    try:
        yield
    except SettingsError as error:
        for problem in error.problems:
            typer.echo(f"{problem.variable}: {problem.description}", err=True)
        raise typer.Exit(EX_CONFIG) from None
    except (SkybridgeError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
