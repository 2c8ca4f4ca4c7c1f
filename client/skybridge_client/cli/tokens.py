"""`skybridge tokens ...` and `skybridge whoami`: who may do what."""

from __future__ import annotations

from typing import Annotated

import typer

from skybridge_client.cli import exits, text
from skybridge_client.cli.functions import Limit, first
from skybridge_client.cli.output import Columns, Format, show, show_list
from skybridge_client.cli.session import Session, command, parsed
from skybridge_client.messages import Role, Token
from skybridge_client.tokens import RoleName

app = typer.Typer(help="Say who may do what.", no_args_is_help=True)
whoami_app = typer.Typer()

Name = Annotated[str, typer.Argument(metavar="NAME", help="The token.", show_default=False)]

TOKENS = Columns[Token](
    ("TOKEN", "ROLE", "NAMESPACES", "CREATED", "EXPIRES", "DESCRIPTION"),
    lambda token: (
        text.short(token.name),
        text.word(Role.DESCRIPTOR, token.role),
        _namespaces(token),
        text.moment(token.create_time),
        text.moment(token.expire_time) if token.HasField("expire_time") else "never",
        token.description,
    ),
)


def _namespaces(token: Token) -> str:
    return ", ".join(each.removeprefix("namespaces/") for each in token.namespaces) or "all"


@command(
    app,
    "create",
    "skybridge tokens create ci --role developer --namespace team-a --expires 90d",
    "export SKYBRIDGE_TOKEN=$(skybridge tokens create web --role invoker)",
)
def create(
    session: Session,
    name: Name,
    role: Annotated[RoleName, typer.Option(help="What it may do.", show_default=False)],
    namespace: Annotated[
        list[str] | None, typer.Option(help="Where; repeatable. Default: everywhere.")
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="In 90d, or at 2026-01-31T12:00:00Z. Default: never."),
    ] = None,
    description: Annotated[str, typer.Option(help="What it is for, in words.")] = "",
) -> None:
    """Create a token, and write its secret, which is never shown again."""
    if session.form is Format.NAME:
        raise typer.BadParameter("-o name would lose the secret: leave it out, or use --json")
    created = session.client.create_token(
        name.removeprefix("tokens/"),
        role=role,
        namespaces=[f"namespaces/{each.removeprefix('namespaces/')}" for each in namespace or ()],
        description=description,
        expire_time=None if expires is None else parsed(text.parse_start, expires),
    )
    if session.form is Format.TABLE:
        exits.say("keep this secret: it is not shown again")
        typer.echo(created.secret)
    else:
        show(created, session.form)


@command(app, "list", "skybridge tokens list", "skybridge tokens list -o name")
def list_(session: Session, limit: Limit = 0) -> None:
    """List tokens by name, without their secrets."""
    found = session.client.list_tokens(page_size=limit)
    show_list(first(found, limit), "tokens", TOKENS, session.form)


@command(app, "get", "skybridge tokens get ci")
def get(session: Session, name: Name) -> None:
    """Show a token, without its secret."""
    show(session.client.get_token(name), session.form)


@command(app, "delete", "skybridge tokens delete ci")
def delete(session: Session, name: Name) -> None:
    """Delete a token: it is good no longer, from now on."""
    session.client.delete_token(name)


@command(whoami_app, "whoami", "skybridge whoami", "skybridge whoami --json | jq -r .token.role")
def whoami(session: Session) -> None:
    """Show whom the server takes you for, and what you may do."""
    found = session.client.caller()
    if session.form is not Format.TABLE:
        show(found.token if session.form is Format.NAME else found, session.form)
    elif found.token_required:
        name = text.short(found.token.name) or "the operator"
        typer.echo(f"{name}: {_about(found.token)}")
    else:
        typer.echo("anybody: the server asks for no token, and every caller may do everything")


def _about(token: Token) -> str:
    about = text.word(Role.DESCRIPTOR, token.role)
    about += f" in {_namespaces(token)}" if token.namespaces else " in all namespaces"
    if token.HasField("expire_time"):
        about += f", until {text.moment(token.expire_time)}"
    return about
