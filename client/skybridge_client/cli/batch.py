"""`skybridge batch`: a function for each line of a file, many at once."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from skybridge_client.cli import exits, text
from skybridge_client.cli.run import OPTIONS, InputFile, Name, execution_fields
from skybridge_client.cli.session import Session, command, parsed
from skybridge_client.errors import SkybridgeError
from skybridge_client.executions import ExecutionFields
from skybridge_client.invocations import MAX_WINDOW, WINDOW, Answer, Invocation
from skybridge_client.messages import Execution, ExecutionState, FailureReason

app = typer.Typer()


@command(
    app,
    "batch",
    "skybridge batch resize --file jobs.jsonl > results.jsonl",
    "seq 1000 | skybridge batch hello --window 256",
    """printf '%s\\n' '{"n": 1}' '{"n": 2}' | skybridge batch hello""",
    options=OPTIONS,
)
def batch(
    session: Session,
    name: Name,
    given: dict[str, Any],
    file: InputFile = None,
    window: Annotated[
        int, typer.Option(min=1, max=MAX_WINDOW, help="How many are under way at once.")
    ] = WINDOW,
) -> None:
    """Run a function for each line of stdin or a file, and write a line of JSON for each.

    A line, such as a JSON document, is the input of one execution; empty ones are left out.
    What is written has the number of its line, and comes as executions end: `state` with
    `output` (JSON where it is JSON, else text, or `output_base64`), and `failure` or `error`.
    Exits with 1 unless all succeeded.
    """
    lines: dict[str, int] = {}
    failed = 0
    with ExitStack() as opened:
        source = parsed(lambda path: _opened(path, opened), file)
        asked = _invocations(name, source, execution_fields(given), lines)
        answers = session.client.invoke_stream(asked, window=window, timeout=session.timeout)
        for answer in answers:
            line = lines.pop(answer.invocation.request_id)
            print(json.dumps({"line": line, **_told(answer)}), flush=True)
            failed += not _succeeded(answer)
    if failed:
        exits.say(f"{failed} did not succeed")
        raise typer.Exit(exits.REFUSED)


def _opened(path: Path | None, opened: ExitStack) -> BinaryIO:
    if path is None or str(path) == "-":
        return sys.stdin.buffer
    try:
        return opened.enter_context(path.open("rb"))
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None


def _invocations(
    name: str, source: Iterable[bytes], fields: ExecutionFields, lines: dict[str, int]
) -> Iterator[Invocation]:
    """One for each line; `lines` gets its number, by the request id."""
    for number, line in enumerate(source, 1):
        if input_ := line.rstrip(b"\r\n"):
            invocation = Invocation(name, input_, fields)
            lines[invocation.request_id] = number
            yield invocation


def _succeeded(answer: Answer) -> bool:
    if answer.execution is None:
        return False
    return answer.execution.state == ExecutionState.EXECUTION_STATE_SUCCEEDED


def _told(answer: Answer) -> dict[str, Any]:
    if answer.error is not None:
        return {"error": _error(answer.error)}
    execution = answer.result()
    told = {
        "execution": text.short(execution.name),
        "state": _word(ExecutionState.DESCRIPTOR, execution.state),
        **_output(execution),
    }
    if execution.HasField("failure"):
        reason = _word(FailureReason.DESCRIPTOR, execution.failure.reason)
        told["failure"] = {"reason": reason, "message": execution.failure.message}
    return told


def _error(error: SkybridgeError) -> dict[str, str]:
    return {"code": error.code.name, "reason": error.reason, "message": str(error)}


def _output(execution: Execution) -> dict[str, Any]:
    try:
        output = execution.output.decode()
    except UnicodeDecodeError:
        return {"output_base64": base64.b64encode(execution.output).decode()}
    try:
        return {"output": json.loads(output)}
    except ValueError:
        return {"output": output}


def _word(enum: Any, number: int) -> str:
    return text.word(enum, number).upper()
