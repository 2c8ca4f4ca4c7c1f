"""`skybridge dead-letters ...`: what failed for good while nobody waited."""

from __future__ import annotations

from typing import Annotated

import typer

from skybridge_client.cli import exits, text
from skybridge_client.cli.functions import Filter, Limit, first
from skybridge_client.cli.output import Columns, show, show_list
from skybridge_client.cli.session import Session, command
from skybridge_client.dead_letters import EVERYTHING
from skybridge_client.messages import DeadLetter, FailureReason

app = typer.Typer(help="Deal with what failed for good.", no_args_is_help=True)

BATCH = 1000
"""Dead letters that a call purges at most."""

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="The dead letter's execution.", show_default=False)
]
Names = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="These ones.", show_default=False)
]
All = Annotated[bool, typer.Option("--all", help="All of the namespace.")]
Namespace = Annotated[str, typer.Option(help="Which namespace.")]

DEAD_LETTERS = Columns[DeadLetter](
    ("EXECUTION", "FUNCTION", "WHY", "ATTEMPTS", "ENDED", "REDRIVEN AS"),
    lambda letter: (
        text.short(letter.name),
        text.short(letter.execution.function),
        text.word(FailureReason.DESCRIPTOR, letter.execution.failure.reason),
        str(letter.execution.attempt),
        text.moment(letter.execution.end_time),
        text.short(letter.redriven_as),
    ),
)


@command(
    app,
    "list",
    "skybridge dead-letters list",
    "skybridge dead-letters list --filter 'function = \"resize\" AND reason = OUT_OF_MEMORY'",
    "skybridge dead-letters list --filter 'redriven = true'",
)
def list_(
    session: Session,
    filter_: Filter = "",
    namespace: Namespace = "default",
    limit: Limit = 50,
) -> None:
    """List dead letters, the newest first; those that were redriven only if asked for."""
    found = session.client.list_dead_letters(
        parent=f"namespaces/{namespace}", filter=filter_, page_size=limit
    )
    show_list(first(found, limit), "dead_letters", DEAD_LETTERS, session.form)


@command(app, "get", "skybridge dead-letters get 0197c5d2-8a4e-7b1c-9f60-5d3a2b1c0d9e")
def get(session: Session, name: Name) -> None:
    """Show a dead letter with its input, attempts and output."""
    show(session.client.get_dead_letter(name), session.form)


@command(
    app,
    "redrive",
    "skybridge dead-letters redrive 0197c5d2-8a4e-7b1c-9f60-5d3a2b1c0d9e",
    "skybridge dead-letters redrive --filter 'function = \"resize\"'",
    "skybridge dead-letters redrive --all",
)
def redrive(
    session: Session,
    names: Names = None,
    filter_: Filter = "",
    everything: All = False,
    namespace: Namespace = "default",
) -> None:
    """Make new executions of dead letters, each once; print their names.

    Exits with 1 if some could not be redriven.
    """
    wanted = _wanted(names, filter_, everything)
    for name in names or ():
        typer.echo(text.short(session.client.redrive_dead_letter(name)))
    refused = 0
    if wanted:
        parent = f"namespaces/{namespace}"
        for answer in session.client.redrive_dead_letters(wanted, parent=parent):
            for execution in answer.executions:
                typer.echo(text.short(execution))
            for each in answer.refused:
                exits.say(f"{text.short(each.name)}: {each.message}")
            refused += len(answer.refused)
    if refused:
        raise typer.Exit(1)


@command(
    app,
    "purge",
    "skybridge dead-letters purge 0197c5d2-8a4e-7b1c-9f60-5d3a2b1c0d9e",
    "skybridge dead-letters purge --filter 'end_time < \"2026-01-31T00:00:00Z\"'",
    "skybridge dead-letters purge --all",
)
def purge(
    session: Session,
    names: Names = None,
    filter_: Filter = "",
    everything: All = False,
    namespace: Namespace = "default",
) -> None:
    """Delete dead letters with their executions, input and output; print how many."""
    wanted = _wanted(names, filter_, everything)
    count = 0
    for name in names or ():
        session.client.get_dead_letter(name)  # another execution is not ours to delete
        session.client.delete_execution(name)
        count += 1
    while wanted:
        purged = session.client.purge_dead_letters(wanted, parent=f"namespaces/{namespace}")
        count += purged
        if purged < BATCH:
            break
    typer.echo(str(count))


def _wanted(names: list[str] | None, filter_: str, everything: bool) -> str:
    """The filter of those that were asked for; empty where they were named."""
    if sum(map(bool, (names, filter_, everything))) != 1:
        raise typer.BadParameter("give names, or --filter, or --all")
    return EVERYTHING if everything else filter_
