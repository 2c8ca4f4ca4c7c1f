"""A program that uses functions of a Skybridge server: a call for a result, a stream to follow."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from skybridge_client import Client, Execution, ExecutionState, OutputStream, SkybridgeError

FUNCTION = "hello-world"


class FunctionFailedError(Exception):
    """The function ran, and failed."""


def greet(client: Client, name: str) -> str:
    """One call: input in, result out."""
    execution = client.execute(FUNCTION, name.encode(), timeout=30)
    check(execution)
    return execution.output.decode().strip()


def follow(client: Client, names: list[str]) -> Iterator[str]:
    """The greetings as they come; a cut connection is resumed, and nothing comes twice."""
    for event in client.stream(FUNCTION, "\n".join(names).encode()):
        match event.WhichOneof("event"):
            case "state_change":
                state = ExecutionState.Name(event.state_change.state)
                yield state.removeprefix("EXECUTION_STATE_").lower()
            case "output" if event.output.stream == OutputStream.OUTPUT_STREAM_STDOUT:
                yield event.output.data.decode().rstrip()
            case "result":
                check(event.result.execution)


def check(execution: Execution) -> None:
    """A function that fails is a result: what may be raised, the caller decides."""
    if execution.state != ExecutionState.EXECUTION_STATE_SUCCEEDED:
        raise FunctionFailedError(execution.failure.message)


def main() -> None:
    # The address is $SKYBRIDGE_ADDRESS, or 127.0.0.1:50051.
    with Client() as client:
        print(greet(client, "Ada"))
        for line in follow(client, ["Grace", "Alan"]):
            print(line)


if __name__ == "__main__":
    try:
        main()
    except (SkybridgeError, FunctionFailedError) as error:
        # Such as: not deployed, queue full, no server. Each has a class of its own.
        sys.exit(f"{type(error).__name__}: {error}")
