"""`skybridge instances ...`: shows the containers that are kept for functions, and stops them."""

from __future__ import annotations

from typing import Annotated

import typer

from skybridge_client.cli import text
from skybridge_client.cli.functions import Limit, first
from skybridge_client.cli.output import Columns, show, show_list
from skybridge_client.cli.session import Session, command
from skybridge_client.messages import Instance, InstanceState

app = typer.Typer(help="Show and stop containers that are kept.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The instance.", show_default=False)]

INSTANCES = Columns[Instance](
    ("INSTANCE", "FUNCTION", "REVISION", "STATE", "RUNNING", "EXECUTIONS", "CREATED"),
    lambda instance: (
        text.short(instance.name),
        text.short(instance.function),
        instance.revision.rpartition("/")[2],
        text.word(InstanceState.DESCRIPTOR, instance.state),
        str(instance.running),
        str(instance.executions),
        text.moment(instance.create_time),
    ),
)


@command(
    app,
    "list",
    "skybridge instances list",
    "skybridge instances list --function resize -o name",
)
def list_(
    session: Session,
    function: Annotated[str, typer.Option(help="Only those of a function.")] = "",
    namespace: Annotated[str, typer.Option(help="Which namespace.")] = "default",
    limit: Limit = 0,
) -> None:
    """List instances, the oldest first."""
    found = session.client.list_instances(
        parent=f"namespaces/{namespace}", function=function, page_size=limit
    )
    show_list(first(found, limit), "instances", INSTANCES, session.form)


@command(app, "get", "skybridge instances get 01890a5d-ac96-774b-bcce-b302099a8057")
def get(session: Session, name: Name) -> None:
    """Show an instance, with the end of what it wrote."""
    show(session.client.get_instance(name), session.form)


@command(app, "stop", "skybridge instances stop 01890a5d-ac96-774b-bcce-b302099a8057")
def stop(
    session: Session,
    name: Name,
    force: Annotated[bool, typer.Option("--force", help="Stop its executions, too.")] = False,
) -> None:
    """Let an instance end once its executions have."""
    show(session.client.stop_instance(name, force=force), session.form)
