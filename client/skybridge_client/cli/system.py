"""`skybridge metrics`, `system`, `runtimes` and `drain`."""

from __future__ import annotations

from typing import Annotated

import typer

from skybridge_client.cli import text
from skybridge_client.cli.output import Columns, Format, show, show_list, show_table
from skybridge_client.cli.session import Session, command, seconds
from skybridge_client.messages import (
    ExecutionState,
    FailureReason,
    FunctionMetrics,
    LatencySummary,
    Runtime,
    RuntimeState,
)

app = typer.Typer()

RUNTIMES = Columns[Runtime](
    ("NAME", "DEFAULT", "STATE", "ENGINE", "PLATFORM", "CGROUP", "MESSAGE"),
    lambda runtime: (
        runtime.name,
        "*" if runtime.default else "",
        text.word(RuntimeState.DESCRIPTOR, runtime.state),
        runtime.engine,
        runtime.platform,
        f"v{runtime.cgroup_version}" if runtime.cgroup_version else "",
        runtime.state_message,
    ),
)


@command(
    app,
    "metrics",
    "skybridge metrics hello",
    "skybridge metrics hello --since 1d --json",
)
def metrics(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The function.", show_default=False)],
    since: Annotated[
        float | None,
        typer.Option(parser=seconds, metavar="DURATION", help="How far back. Default: 1h."),
    ] = None,
) -> None:
    """Sum up what the executions of a function did."""
    found = session.client.metrics(name, window=since)
    if session.form is Format.TABLE:
        _show_metrics(found)
    else:
        show(found, session.form)


@command(app, "system", "skybridge system", "skybridge system --json | jq .limits")
def system(session: Session) -> None:
    """Show versions, limits and load of the server."""
    show(session.client.system_info(), session.form)


@command(app, "runtimes", "skybridge runtimes")
def runtimes(session: Session) -> None:
    """List the container engines of the server."""
    show_list(session.client.runtimes(), "runtimes", RUNTIMES, session.form)


@command(app, "drain", "skybridge drain", "skybridge drain --grace 5m --handover")
def drain(
    session: Session,
    grace: Annotated[
        float | None,
        typer.Option(
            parser=seconds,
            metavar="DURATION",
            help="How long what runs may go on. Default: as the server is set.",
        ),
    ] = None,
    handover: Annotated[
        bool | None,
        typer.Option(
            "--handover/--cancel",
            help="Leave what runs longer to the server's next start, or cancel it. "
            "Default: as the server is set.",
        ),
    ] = None,
) -> None:
    """Stop the server: no new calls, and what runs may end first."""
    left = session.client.drain(grace=grace, handover=handover)
    if session.form is Format.TABLE:
        typer.echo(f"{left.running_executions} executions run, {left.queued_executions} wait")
    else:
        show(left, session.form)


def _show_metrics(found: FunctionMetrics) -> None:
    states = {text.word(ExecutionState.DESCRIPTOR, each.state): each.count for each in found.states}
    failures = {
        text.word(FailureReason.DESCRIPTOR, each.reason): each.count for each in found.failures
    }
    show_table(
        ("", ""),
        [
            ("function", text.short(found.function)),
            ("from", text.moment(found.start_time)),
            ("to", text.moment(found.end_time)),
            ("executions", str(found.executions)),
            *((f"  {state}", str(count)) for state, count in states.items()),
            *((f"  failed: {reason}", str(count)) for reason, count in failures.items()),
            ("cold starts", str(found.cold_starts)),
            ("processor time", text.duration(found.cpu) if found.HasField("cpu") else "unknown"),
            (
                "peak memory",
                text.size(found.peak_memory_bytes) if found.peak_memory_bytes else "unknown",
            ),
        ],
    )
    typer.echo()
    phases = ("queue", "start", "run", "total")
    rows = [_latency(phase, getattr(found, phase)) for phase in phases]
    show_table(("PHASE", "P50", "P95", "P99"), rows)


def _latency(phase: str, summary: LatencySummary) -> tuple[str, str, str, str]:
    percentiles = (summary.p50, summary.p95, summary.p99)
    p50, p95, p99 = (text.duration(each) for each in percentiles)
    return phase, p50, p95, p99
