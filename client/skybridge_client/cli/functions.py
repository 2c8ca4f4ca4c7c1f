"""`skybridge function ...`: manages functions and their revisions."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from skybridge_client.cli import text
from skybridge_client.cli.output import Columns, show, show_line, show_list
from skybridge_client.cli.progress import Steps
from skybridge_client.cli.session import Session, command
from skybridge_client.cli.specs import OPTIONS, function_fields
from skybridge_client.messages import (
    DeploymentPhase,
    Function,
    FunctionState,
    RegistryCredentials,
    Revision,
)

app = typer.Typer(help="Manage functions and their revisions.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The function.", show_default=False)]
Etag = Annotated[str, typer.Option(help="Refuse if the function has changed since this etag.")]
Limit = Annotated[int, typer.Option(min=0, help="How many at most; 0: all.")]
Filter = Annotated[str, typer.Option("--filter", help="Which ones, in the API's filter language.")]
OrderBy = Annotated[str, typer.Option(help="Order, such as `create_time desc`.")]

FUNCTIONS = Columns[Function](
    ("NAME", "STATE", "REVISION", "UPDATED", "IMAGE"),
    lambda function: (
        text.short(function.name),
        text.word(FunctionState.DESCRIPTOR, function.state),
        function.active_revision.rpartition("/")[2],
        text.moment(function.update_time),
        function.spec.image,
    ),
)

REVISIONS = Columns[Revision](
    ("REVISION", "ACTIVE", "CREATED", "PLATFORM", "SIZE", "IMAGE"),
    lambda revision: (
        str(revision.number),
        "*" if revision.active else "",
        text.moment(revision.create_time),
        revision.platform,
        text.size(revision.image_bytes),
        revision.spec.image,
    ),
)


@command(
    app,
    "create",
    "skybridge function create hello --image busybox --arg echo --arg hello",
    "skybridge function create resize --image ghcr.io/acme/resize:1.2 --memory 256MiB",
    options=OPTIONS,
)
def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its id.", show_default=False)],
    given: dict[str, Any],
    namespace: Annotated[str, typer.Option(help="Where to create it.")] = "default",
    dry_run: Annotated[bool, typer.Option(help="Check everything, create nothing.")] = False,
) -> None:
    """Create a function. It can be executed after `function deploy`."""
    created = session.client.create_function(
        name,
        parent=f"namespaces/{namespace}",
        validate_only=dry_run,
        **function_fields(given),
    )
    show(created, session.form)


@command(
    app,
    "get",
    "skybridge function get hello",
    "skybridge function get hello --json | jq -r .spec.image",
)
def get(session: Session, name: Name) -> None:
    """Show a function."""
    show(session.client.get_function(name), session.form)


@command(
    app,
    "list",
    "skybridge function list",
    "skybridge function list --filter 'state = ACTIVE AND labels.team = \"blue\"' -o name",
)
def list_(
    session: Session,
    filter_: Filter = "",
    order_by: OrderBy = "",
    namespace: Annotated[str, typer.Option(help="Which namespace.")] = "default",
    limit: Limit = 0,
) -> None:
    """List functions."""
    found = session.client.list_functions(
        parent=f"namespaces/{namespace}", filter=filter_, order_by=order_by, page_size=limit
    )
    show_list(first(found, limit), "functions", FUNCTIONS, session.form)


@command(
    app,
    "update",
    "skybridge function update hello --memory 256MiB --execution-timeout 2m",
    "skybridge function update hello --reset spec.env",
    options=OPTIONS,
)
def update(
    session: Session,
    name: Name,
    given: dict[str, Any],
    reset: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Set a field back to its default; repeatable."),
    ] = None,
    etag: Etag = "",
    dry_run: Annotated[bool, typer.Option(help="Check everything, change nothing.")] = False,
) -> None:
    """Change a function; executions see it after the next `function deploy`."""
    if not given and not reset:
        raise typer.BadParameter("nothing to change: see skybridge function update --help")
    changed = session.client.update_function(
        name,
        update_mask=reset or (),
        etag=etag,
        validate_only=dry_run,
        **function_fields(given),
    )
    show(changed, session.form)


@command(
    app,
    "delete",
    "skybridge function delete hello",
    "skybridge function delete hello --force",
)
def delete(
    session: Session,
    name: Name,
    force: Annotated[bool, typer.Option(help="Cancel its executions first.")] = False,
    etag: Etag = "",
) -> None:
    """Delete a function and its revisions."""
    session.client.delete_function(name, force=force, etag=etag)


@command(
    app,
    "deploy",
    "skybridge function deploy hello",
    "pass registry | skybridge function deploy hello --username me --password-stdin",
)
def deploy(
    session: Session,
    name: Name,
    etag: Etag = "",
    username: Annotated[str, typer.Option(help="User name at the image's registry.")] = "",
    password_stdin: Annotated[
        bool,
        typer.Option(
            "--password-stdin",
            help="Read its password from stdin and not from $SKYBRIDGE_REGISTRY_PASSWORD.",
        ),
    ] = False,
) -> None:
    """Deploy a function: pull its image if need be, and activate a new revision."""
    credentials = None
    if username:
        credentials = RegistryCredentials(username=username, password=_password(password_stdin))
    revision = follow_deployment(session, name, etag, credentials)
    if revision and not session.json:
        show_list([revision], "revisions", REVISIONS, session.form)


@command(
    app,
    "rollback",
    "skybridge function rollback hello",
    "skybridge function rollback hello --revision 3",
)
def rollback(
    session: Session,
    name: Name,
    revision: Annotated[
        int, typer.Option(min=0, help="Which revision; 0: the one before the active one.")
    ] = 0,
    etag: Etag = "",
) -> None:
    """Activate an earlier revision, at once."""
    show(session.client.rollback(name, revision, etag=etag), session.form)


@command(app, "revisions", "skybridge function revisions hello")
def revisions(session: Session, name: Name, limit: Limit = 0) -> None:
    """List the revisions of a function, the newest first."""
    found = session.client.list_revisions(name, page_size=limit)
    show_list(first(found, limit), "revisions", REVISIONS, session.form)


@command(app, "disable", "skybridge function disable hello")
def disable(session: Session, name: Name, etag: Etag = "") -> None:
    """Refuse new executions of a function; running ones go on."""
    show(session.client.disable(name, etag=etag), session.form)


@command(app, "enable", "skybridge function enable hello")
def enable(session: Session, name: Name, etag: Etag = "") -> None:
    """Allow executions of a disabled function again."""
    show(session.client.enable(name, etag=etag), session.form)


def first(items: Iterator[Any], limit: int) -> Iterator[Any]:
    """The first items of a list; all with limit 0."""
    return itertools.islice(items, limit or None)


def follow_deployment(
    session: Session,
    name: str,
    etag: str = "",
    credentials: RegistryCredentials | None = None,
    *,
    quiet: bool = False,
) -> Revision | None:
    """Deploys and shows the progress, unless `quiet`; returns the new revision."""
    revision = None
    with Steps() as steps:
        for progress in session.client.deploy(
            name, etag=etag, registry_credentials=credentials, timeout=session.timeout
        ):
            if session.json and not quiet:
                show_line(progress)
            elif progress.HasField("layer"):
                steps.layer(progress.layer)
            elif progress.HasField("phase"):
                steps.step(f"{text.word(DeploymentPhase.DESCRIPTOR, progress.phase)} {name}")
            revision = progress.revision if progress.HasField("revision") else revision
    return revision


def _password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    return os.environ.get("SKYBRIDGE_REGISTRY_PASSWORD", "")
