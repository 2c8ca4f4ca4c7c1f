"""`skybridge run` and `start`, and how the events of an execution are shown."""

from __future__ import annotations

import io
import os
import signal
import stat
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Self

import typer

from skybridge_client.cli import exits, text
from skybridge_client.cli.interrupts import on_ctrl_c
from skybridge_client.cli.output import Format, show, show_line, write_bytes
from skybridge_client.cli.session import Session, command, parsed, seconds
from skybridge_client.client import Client
from skybridge_client.errors import SkybridgeError
from skybridge_client.executions import ExecutionFields
from skybridge_client.messages import (
    Execution,
    ExecutionEvent,
    FailureReason,
    Gap,
    GapReason,
    OutputStream,
)

app = typer.Typer()

Name = Annotated[str, typer.Argument(metavar="NAME", help="The function.", show_default=False)]
Input = Annotated[
    str | None,
    typer.Argument(
        metavar="INPUT", help="Its input. Default: stdin where something is piped into it."
    ),
]
InputFile = Annotated[
    Path | None, typer.Option("--file", "-f", metavar="FILE", help="Read the input from a file.")
]

OPTIONS: dict[str, Any] = {
    "run_timeout": Annotated[
        float | None,
        typer.Option(parser=seconds, metavar="DURATION", help="Limits the running time."),
    ],
    "labels": Annotated[
        list[str] | None,
        typer.Option("--label", metavar="K=V", help="A label of the execution; repeatable."),
    ],
}
RequestId = Annotated[
    str,
    typer.Option(metavar="UUID", help="Repeat it with the same one, and it happens once."),
]


@command(
    app,
    "run",
    "skybridge run hello Ada",
    "skybridge run resize --file photo.jpg > small.jpg",
    "tar c src | skybridge run build",
    "skybridge run -i shell",
    options=OPTIONS,
)
def run(
    session: Session,
    name: Name,
    given: dict[str, Any],
    input_: Input = None,
    file: InputFile = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Pass stdin on as it comes.")
    ] = False,
    request_id: RequestId = "",
) -> None:
    """Run a function: its output on stdout, its log on stderr, its exit code as ours.

    Ctrl-C cancels it; a second Ctrl-C leaves at once.
    """
    fields = execution_fields(given)
    if interactive:
        if input_ is not None or file:
            raise typer.BadParameter("--interactive reads stdin: leave INPUT and --file out")
        events = session.client.attach(
            name, _live_stdin(), request_id=request_id, timeout=session.timeout, **fields
        )
    else:
        data = read_input(input_, file)
        events = session.client.stream(
            name, data, request_id=request_id, timeout=session.timeout, **fields
        )
    follow(session, events, cancel=True)


@command(
    app,
    "start",
    "skybridge start hello Ada",
    "skybridge executions wait $(skybridge start hello Ada -o name)",
    "skybridge start hello Ada --at 90m",
    options=OPTIONS,
)
def start(
    session: Session,
    name: Name,
    given: dict[str, Any],
    input_: Input = None,
    file: InputFile = None,
    at: Annotated[
        str, typer.Option(metavar="WHEN", help="Not before: 5m, 2026-01-31T12:00:00Z.")
    ] = "",
    request_id: RequestId = "",
) -> None:
    """Start a function and return; it is bound to no caller.

    If it fails, it is tried again where the function has more than one --max-attempts.
    """
    data = read_input(input_, file)
    start_time = parsed(text.parse_start, at) if at else None
    execution = session.client.start(
        name, data, start_time=start_time, request_id=request_id, **execution_fields(given)
    )
    if session.form is not Format.TABLE:
        show(execution, session.form)
        return
    typer.echo(text.short(execution.name))
    exits.say(f"follow it with: skybridge executions watch {text.short(execution.name)}")


def follow(session: Session, events: Iterable[ExecutionEvent], *, cancel: bool = False) -> None:
    """Shows events to the end, and exits with the execution's verdict.

    With `cancel` the first Ctrl-C cancels the execution; its events are still shown.
    """
    with _Interrupts(session.client, active=cancel) as interrupts:
        for event in events:
            interrupts.note(event)
            if session.json:
                show_line(event)
            else:
                show_event(event)
            if event.HasField("result"):
                settle(event.result.execution, quiet=session.json)


def settle(execution: Execution, *, quiet: bool = False) -> None:
    """Exits with the verdict of an execution that has ended, and says why it failed."""
    code = exits.of_execution(execution)
    # A function that ends with a code of its own has said why by itself.
    own = execution.failure.reason == FailureReason.FAILURE_REASON_EXIT_CODE
    if execution.failure.message and not own and not quiet:
        exits.say(" ".join(execution.failure.message.split()))
    if code:
        raise typer.Exit(code)


def show_event(event: ExecutionEvent) -> None:
    """Shows output and what is missing of it."""
    if event.HasField("output"):
        on_stderr = event.output.stream == OutputStream.OUTPUT_STREAM_STDERR
        write_bytes(event.output.data, to_stderr=on_stderr)
    elif event.HasField("gap"):
        show_gap(event.gap)


def show_gap(gap: Gap) -> None:
    """Says that output is missing."""
    length = f"{gap.length} bytes" if gap.HasField("length") else "some bytes"
    stream = text.word(OutputStream.DESCRIPTOR, gap.stream)
    reason = text.word(GapReason.DESCRIPTOR, gap.reason).replace("_", " ")
    exits.say(f"{length} of {stream} were not kept: {reason}")


def read_input(given: str | None, file: Path | None) -> bytes:
    """The input: an argument, a file, or what is piped in."""
    if given is not None and file:
        raise typer.BadParameter("INPUT and --file exclude each other")
    if given is not None:
        return given.encode(errors="surrogateescape")
    if file and str(file) != "-":
        return bytes(parsed(_read, file))
    return sys.stdin.buffer.read() if file or _is_piped() else b""


def execution_fields(given: dict[str, Any]) -> ExecutionFields:
    """The keywords that were given as options."""
    fields: ExecutionFields = {}
    if "run_timeout" in given:
        fields["run_timeout"] = given["run_timeout"]
    if "labels" in given:
        fields["labels"] = parsed(text.parse_pairs, given["labels"])
    return fields


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None


def _is_piped() -> bool:
    """Whether something is piped into stdin: neither a terminal nor /dev/null is."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, io.UnsupportedOperation):
        return True
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def _live_stdin() -> Iterator[bytes]:
    """What stdin gives, as soon as it gives it."""
    stdin: Any = sys.stdin.buffer
    while data := stdin.read1(64 * 1024):
        yield data


class _Interrupts:
    """Turns the first Ctrl-C into a cancel, so that the end of the execution is still seen."""

    def __init__(self, client: Client, *, active: bool) -> None:
        self._client = client
        self._active = active
        self._execution = ""
        self._wanted = False

    def __enter__(self) -> Self:
        if self._active:
            self._before = on_ctrl_c(self._interrupted)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._active:
            signal.signal(signal.SIGINT, self._before)
        if self._active and kind is BrokenPipeError:
            # Nobody reads the output any more, and nobody will come back for it.
            self._call_cancel()

    def note(self, event: ExecutionEvent) -> None:
        """Learns which execution is to be cancelled."""
        if not self._execution:
            self._execution = event.execution
            if self._wanted:
                self._cancel()

    def _interrupted(self, _: int, __: FrameType | None) -> None:
        if self._wanted:
            signal.signal(signal.SIGINT, self._before)
            signal.raise_signal(signal.SIGINT)
            return
        self._wanted = True
        exits.say("cancelling; once more leaves at once")
        if self._execution:
            self._cancel()

    def _cancel(self) -> None:
        # In a thread, since a signal handler must not wait for locks that its thread may hold.
        threading.Thread(target=self._call_cancel, daemon=True).start()

    def _call_cancel(self) -> None:
        try:
            self._client.cancel(self._execution)
        except SkybridgeError as error:
            exits.say(f"could not cancel: {error}")
