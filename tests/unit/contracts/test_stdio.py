"""What a function of the STDIO contract can know of its execution."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from skybridge_server.contracts.stdio import environment
from skybridge_server.models.executions import Execution
from skybridge_server.models.functions import Contract, FunctionSpec, InputMode
from skybridge_server.models.names import ExecutionName, FunctionName

NOON = datetime(2026, 1, 31, 12, 0, 0, 123456, UTC)
SPEC = FunctionSpec("busybox", env={"MINE": "1"})
EXECUTION = Execution(
    ExecutionName("default", "e1"), FunctionName("default", "hello"), "uid", 3, NOON
)


def test_the_environment() -> None:
    assert environment(SPEC, EXECUTION, b"input", NOON) == {
        "MINE": "1",
        "SKYBRIDGE_EXECUTION_ID": "e1",
        "SKYBRIDGE_FUNCTION": "namespaces/default/functions/hello",
        "SKYBRIDGE_REVISION": "3",
        "SKYBRIDGE_ATTEMPT": "1",
        "SKYBRIDGE_DEADLINE": "2026-01-31T12:00:00.123+00:00",
    }


def test_a_trace_goes_on() -> None:
    traced = replace(EXECUTION, traceparent="00-trace")
    assert environment(SPEC, traced, b"", NOON)["TRACEPARENT"] == "00-trace"


def test_input_in_the_environment_where_it_is_asked_for() -> None:
    spec = replace(SPEC, contract=Contract(input=InputMode.ENV))
    assert environment(spec, EXECUTION, "grüße".encode(), NOON)["SKYBRIDGE_INPUT"] == "grüße"
    assert environment(spec, EXECUTION, b"", NOON)["SKYBRIDGE_INPUT"] == ""


def test_nobody_can_pretend_to_be_us() -> None:
    spec = replace(SPEC, env={"SKYBRIDGE_FUNCTION": "another"})
    found = environment(spec, EXECUTION, b"", NOON)["SKYBRIDGE_FUNCTION"]
    assert found == "namespaces/default/functions/hello"
