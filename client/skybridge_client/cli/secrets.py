"""`skybridge secrets ...`: manages values that functions find in files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from skybridge_client.cli import text
from skybridge_client.cli.functions import Limit, first
from skybridge_client.cli.output import Columns, show, show_list
from skybridge_client.cli.session import Session, command
from skybridge_client.messages import Secret

app = typer.Typer(help="Manage values that functions find in files.", no_args_is_help=True)

MAX_BYTES = 64 * 1024

Name = Annotated[str, typer.Argument(metavar="NAME", help="The secret.", show_default=False)]
File = Annotated[
    Path | None,
    typer.Option("--file", metavar="FILE", help="Read the value from a file. Default: stdin."),
]
Etag = Annotated[str, typer.Option(help="Refuse if the secret has changed since this etag.")]
Namespace = Annotated[str, typer.Option(help="Which namespace.")]

SECRETS = Columns[Secret](
    ("SECRET", "SIZE", "CREATED", "UPDATED"),
    lambda secret: (
        text.short(secret.name),
        text.size(secret.value_bytes),
        text.moment(secret.create_time),
        text.moment(secret.update_time),
    ),
)


@command(
    app,
    "create",
    "pass show db | skybridge secrets create db-password",
    "skybridge secrets create tls-key --file server.key --namespace team-a",
)
def create(
    session: Session, name: Name, file: File = None, namespace: Namespace = "default"
) -> None:
    """Create a secret from stdin or a file, as it is: a newline at its end belongs to it."""
    value = _read(file)
    created = session.client.create_secret(name, value, parent=_parent(namespace))
    show(created, session.form)


@command(app, "list", "skybridge secrets list", "skybridge secrets list -o name")
def list_(session: Session, namespace: Namespace = "default", limit: Limit = 0) -> None:
    """List secrets by name, without their values."""
    found = session.client.list_secrets(parent=_parent(namespace), page_size=limit)
    show_list(first(found, limit), "secrets", SECRETS, session.form)


@command(app, "get", "skybridge secrets get db-password")
def get(session: Session, name: Name) -> None:
    """Show a secret, without its value."""
    show(session.client.get_secret(name), session.form)


@command(app, "update", "pass show db | skybridge secrets update db-password")
def update(session: Session, name: Name, file: File = None, etag: Etag = "") -> None:
    """Set another value; deploy the functions that use it again, to replace what is kept."""
    show(session.client.update_secret(name, _read(file), etag=etag), session.form)


@command(app, "delete", "skybridge secrets delete db-password")
def delete(session: Session, name: Name, etag: Etag = "") -> None:
    """Delete a secret."""
    session.client.delete_secret(name, etag=etag)


def _parent(namespace: str) -> str:
    return f"namespaces/{namespace.removeprefix('namespaces/')}"


def typed() -> bool:
    """Whether stdin is a terminal, where a value would be shown, or nothing at all."""
    return sys.stdin is None or sys.stdin.isatty()


def _read(file: Path | None) -> bytes:
    """The value: not from the command line, where all on this machine could read it."""
    if file is not None:
        try:
            with file.open("rb") as opened:
                return _bounded(opened)
        except OSError as error:
            raise typer.BadParameter(f"{file}: {error.strerror}") from None
    if typed():
        raise typer.BadParameter("pipe the value to this command, or name a file with --file")
    return _bounded(sys.stdin.buffer)


def _bounded(source: BinaryIO) -> bytes:
    value = source.read(MAX_BYTES + 1)
    if len(value) > MAX_BYTES:
        raise typer.BadParameter(f"a secret has at most {text.size(MAX_BYTES)}")
    return value
