"""`skybridge executions ...` and `skybridge logs`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from skybridge_client.cli import exits, text
from skybridge_client.cli.functions import Filter, Limit, OrderBy, first
from skybridge_client.cli.output import Columns, show, show_line, show_list, write_bytes
from skybridge_client.cli.run import follow, settle, show_gap
from skybridge_client.cli.session import Session, command, parsed
from skybridge_client.executions import is_final
from skybridge_client.messages import Execution, ExecutionState, FailureReason, OutputStream

app = typer.Typer(help="Look at executions, and control them.", no_args_is_help=True)
logs_app = typer.Typer()

Name = Annotated[str, typer.Argument(metavar="NAME", help="The execution.", show_default=False)]

EXECUTIONS = Columns[Execution](
    ("EXECUTION", "FUNCTION", "STATE", "TOOK", "CREATED", "WHY"),
    lambda execution: (
        text.short(execution.name),
        text.short(execution.function),
        text.word(ExecutionState.DESCRIPTOR, execution.state),
        text.duration(execution.timings.total) if is_final(execution) else "",
        text.moment(execution.create_time),
        text.word(FailureReason.DESCRIPTOR, execution.failure.reason),
    ),
)


@command(
    app,
    "list",
    "skybridge executions list --function hello",
    "skybridge executions list --filter 'state = FAILED' --limit 0 -o name",
)
def list_(
    session: Session,
    function: Annotated[str, typer.Option(help="Only those of a function.")] = "",
    filter_: Filter = "",
    order_by: OrderBy = "",
    namespace: Annotated[str, typer.Option(help="Which namespace.")] = "default",
    limit: Limit = 50,
) -> None:
    """List executions, the newest first."""
    terms = [f'function = "{function}"'] if function else []
    found = session.client.list_executions(
        parent=f"namespaces/{namespace}",
        filter=" AND ".join([*terms, *([filter_] if filter_ else [])]),
        order_by=order_by,
        page_size=limit,
    )
    show_list(first(found, limit), "executions", EXECUTIONS, session.form)


@command(app, "get", "skybridge executions get 0197c5d2-8a4e-7b1c-9f60-5d3a2b1c0d9e")
def get(session: Session, name: Name) -> None:
    """Show an execution with its output and the end of its log."""
    show(session.client.get_execution(name), session.form)


@command(
    app,
    "watch",
    "skybridge executions watch 0197c5d2-8a4e-7b1c-9f60-5d3a2b1c0d9e",
    "skybridge executions watch 0197c5d2-8a4e-7b1c-9f60-5d3a2b1c0d9e --after 17 --json",
)
def watch(
    session: Session,
    name: Name,
    after: Annotated[int, typer.Option(min=0, help="Last event already seen.")] = 0,
) -> None:
    """Follow an execution from its start to its end; exits as `run` does.

    Leaving does not touch the execution.
    """
    follow(session, session.client.watch(name, after_sequence=after, timeout=session.timeout))


@command(
    app,
    "wait",
    "skybridge executions wait 0197c5d2-8a4e-7b1c-9f60-5d3a2b1c0d9e --timeout 5m",
)
def wait(session: Session, name: Name) -> None:
    """Wait until an execution has ended, show it, and exit as `run` does.

    After --timeout it shows the execution as it is, and exits with 124.
    """
    execution = session.client.wait(name, timeout=session.timeout)
    show(execution, session.form)
    if not is_final(execution):
        exits.say("it has not ended yet; --timeout gives more time")
        raise typer.Exit(exits.TIMED_OUT)
    settle(execution, quiet=session.json)


@command(app, "cancel", "skybridge executions cancel 0197c5d2-8a4e-7b1c-9f60-5d3a2b1c0d9e")
def cancel(session: Session, name: Name) -> None:
    """Stop an execution; one that has ended stays as it is."""
    show(session.client.cancel(name), session.form)


@command(app, "delete", "skybridge executions delete 0197c5d2-8a4e-7b1c-9f60-5d3a2b1c0d9e")
def delete(session: Session, name: Name) -> None:
    """Delete an execution that has ended, and all it wrote."""
    session.client.delete_execution(name)


@command(
    logs_app,
    "logs",
    "skybridge logs hello --tail 20",
    "skybridge logs -f hello --since 5m",
    "skybridge logs 0197c5d2-8a4e-7b1c-9f60-5d3a2b1c0d9e --stream stderr",
)
def logs(
    session: Session,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A function or an execution.", show_default=False)
    ],
    wait_for_more: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on as new output comes.")
    ] = False,
    tail: Annotated[int, typer.Option(min=0, help="Only the last lines; 0: all.")] = 0,
    since: Annotated[
        str, typer.Option(metavar="WHEN", help="Only what is newer: 5m, 2026-01-31T12:00:00Z.")
    ] = "",
    stream: Annotated[
        Literal["stdout", "stderr"] | None, typer.Option(help="Only one of the two.")
    ] = None,
    attempt: Annotated[
        int, typer.Option(min=0, help="Which attempt of an execution; 0: the last.")
    ] = 0,
) -> None:
    """Show what an execution, or all executions of a function, wrote."""
    for entry in session.client.logs(
        text.execution_or_function(name),
        follow=wait_for_more,
        tail_lines=tail,
        since=parsed(text.parse_since, since) if since else None,
        stream=stream,
        attempt=attempt,
        timeout=session.timeout,
    ):
        if session.json:
            show_line(entry)
        elif entry.HasField("output"):
            on_stderr = entry.output.stream == OutputStream.OUTPUT_STREAM_STDERR
            write_bytes(entry.output.data, to_stderr=on_stderr)
        elif entry.HasField("gap"):
            show_gap(entry.gap)
