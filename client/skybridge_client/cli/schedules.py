"""`skybridge schedules ...`: manages schedules, which execute functions by the clock."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from skybridge_client.cli import text
from skybridge_client.cli.functions import Filter, Limit, first
from skybridge_client.cli.output import Columns, show, show_list
from skybridge_client.cli.session import Session, command, parsed, seconds
from skybridge_client.messages import Schedule
from skybridge_client.schedules import ScheduleFields

app = typer.Typer(help="Execute functions by the clock.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule.", show_default=False)]
Etag = Annotated[str, typer.Option(help="Refuse if the schedule has changed since this etag.")]

PANEL = "The schedule"


def _option(kind: Any, name: str, about: str, **more: Any) -> Any:
    return Annotated[kind | None, typer.Option(name, help=about, rich_help_panel=PANEL, **more)]


_TIME: dict[str, Any] = {"parser": seconds, "metavar": "DURATION"}

OPTIONS: dict[str, Any] = {
    "function": _option(str, "--function", "What to execute."),
    "cron": _option(str, "--cron", "When: minute, hour, day of month, month, day of week."),
    "time_zone": _option(str, "--time-zone", "Where --cron is meant. Default: UTC."),
    "interval": _option(float, "--interval", "Or: so often, such as 1h for each hour.", **_TIME),
    "input": _option(str, "--input", "Input of each execution."),
    "input_file": _option(Path, "--input-file", "Read the input from a file.", metavar="FILE"),
    "run_timeout": _option(float, "--run-timeout", "Limits the running time.", **_TIME),
    "labels": _option(
        list[str], "--label", "A label of each execution; repeatable, replaces all.", metavar="K=V"
    ),
    "overlap_policy": _option(
        Literal["skip", "queue", "cancel_previous"],
        "--overlap",
        "What to do while the execution before runs.",
    ),
    "catch_up_window": _option(
        float, "--catch-up-window", "How late a due time may still fire.", **_TIME
    ),
    "jitter": _option(float, "--jitter", "Fire up to so much later.", **_TIME),
}
"""An option for each keyword of ScheduleFields, and one for input from a file."""

SCHEDULES = Columns[Schedule](
    ("SCHEDULE", "FUNCTION", "WHEN", "NEXT", "LAST", "FIRED", "SKIPPED", "MISSED", "MESSAGE"),
    lambda schedule: (
        text.short(schedule.name),
        text.short(schedule.function),
        _when(schedule),
        _next(schedule),
        text.moment(schedule.last_due_time) if schedule.HasField("last_due_time") else "",
        str(schedule.fired_count),
        str(schedule.skipped_count),
        str(schedule.missed_count),
        schedule.state_message,
    ),
)


def _when(schedule: Schedule) -> str:
    if schedule.HasField("interval"):
        return f"every {text.duration(schedule.interval)}"
    return f"{schedule.cron} {schedule.time_zone}"


def _next(schedule: Schedule) -> str:
    if schedule.paused:
        return "paused"
    return text.moment(schedule.next_time) if schedule.HasField("next_time") else "never"


@command(
    app,
    "create",
    "skybridge schedules create nightly --function report --cron '30 4 * * *'"
    " --time-zone Europe/Berlin",
    "skybridge schedules create poll --function fetch --interval 5m --jitter 30s --overlap queue",
    options=OPTIONS,
)
def create(
    session: Session,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Its id.", show_default=False)],
    given: dict[str, Any],
    namespace: Annotated[str, typer.Option(help="Where to create it.")] = "default",
    dry_run: Annotated[bool, typer.Option(help="Check everything, create nothing.")] = False,
) -> None:
    """Create a schedule; it is due from now on."""
    created = session.client.create_schedule(
        name,
        parent=f"namespaces/{namespace}",
        validate_only=dry_run,
        **_fields(given),
    )
    show(created, session.form)


@command(
    app,
    "get",
    "skybridge schedules get nightly",
    "skybridge schedules get nightly --json | jq -r .nextTime",
)
def get(session: Session, name: Name) -> None:
    """Show a schedule."""
    show(session.client.get_schedule(name), session.form)


@command(
    app,
    "list",
    "skybridge schedules list",
    "skybridge schedules list --filter 'function = \"report\" AND paused = true' -o name",
)
def list_(
    session: Session,
    filter_: Filter = "",
    namespace: Annotated[str, typer.Option(help="Which namespace.")] = "default",
    limit: Limit = 0,
) -> None:
    """List schedules by name."""
    found = session.client.list_schedules(
        parent=f"namespaces/{namespace}", filter=filter_, page_size=limit
    )
    show_list(first(found, limit), "schedules", SCHEDULES, session.form)


@command(
    app,
    "update",
    "skybridge schedules update nightly --cron '0 5 * * *'",
    "skybridge schedules update nightly --input-file request.json --reset jitter",
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
    """Change a schedule."""
    if not given and not reset:
        raise typer.BadParameter("nothing to change: see skybridge schedules update --help")
    changed = session.client.update_schedule(
        name,
        update_mask=reset or (),
        etag=etag,
        validate_only=dry_run,
        **_fields(given),
    )
    show(changed, session.form)


@command(app, "delete", "skybridge schedules delete nightly")
def delete(session: Session, name: Name, etag: Etag = "") -> None:
    """Delete a schedule; its executions go on."""
    session.client.delete_schedule(name, etag=etag)


@command(app, "pause", "skybridge schedules pause nightly")
def pause(session: Session, name: Name, etag: Etag = "") -> None:
    """Let a schedule never be due, until it is resumed."""
    show(session.client.pause_schedule(name, etag=etag), session.form)


@command(app, "resume", "skybridge schedules resume nightly")
def resume(session: Session, name: Name, etag: Etag = "") -> None:
    """Let a paused schedule be due again, from now on."""
    show(session.client.resume_schedule(name, etag=etag), session.form)


@command(
    app,
    "trigger",
    "skybridge schedules trigger nightly",
    'skybridge executions watch "$(skybridge schedules trigger nightly -o name)"',
)
def trigger(session: Session, name: Name) -> None:
    """Start an execution of a schedule now, and show it; its due times stay."""
    execution = session.client.trigger_schedule(name)
    show(session.client.get_execution(execution), session.form)


def _fields(given: Mapping[str, Any]) -> ScheduleFields:
    """The keywords that were given as options; the input as bytes, K=V words as a dictionary."""
    fields: Any = {key: value for key, value in given.items() if key != "input_file"}
    if "input" in fields and "input_file" in given:
        raise typer.BadParameter("give --input or --input-file, not both")
    if "input" in fields:
        fields["input"] = fields["input"].encode()
    if "input_file" in given:
        fields["input"] = parsed(_read, given["input_file"])
    if "labels" in fields:
        fields["labels"] = parsed(text.parse_pairs, fields["labels"])
    return ScheduleFields(**fields)  # type: ignore[typeddict-item]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
