from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from skybridge.faas.v1 import metrics_service_pb2 as metrics_service
from skybridge.faas.v1 import system_service_pb2 as system_service
from skybridge_client.cli.app import app
from skybridge_client.cli.output import fields
from skybridge_client.messages import (
    ContractKind,
    ExecutionState,
    FailureCount,
    FailureReason,
    FunctionMetrics,
    LatencySummary,
    Limits,
    Runtime,
    RuntimeState,
    StateCount,
)
from tests.client.commands import skybridge
from tests.client.scripted import Scripted


def milliseconds(number: int) -> Duration:
    return Duration(nanos=number * 1_000_000)


METRICS = FunctionMetrics(
    function="namespaces/default/functions/hello",
    executions=5,
    states=[StateCount(state=ExecutionState.EXECUTION_STATE_SUCCEEDED, count=4)],
    failures=[FailureCount(reason=FailureReason.FAILURE_REASON_EXIT_CODE, count=1)],
    run=LatencySummary(p50=milliseconds(10), p95=milliseconds(20), p99=milliseconds(30)),
)


def answered(metrics: FunctionMetrics) -> Message:
    return metrics_service.GetFunctionMetricsResponse(metrics=metrics)


def test_metrics(server: Scripted) -> None:
    server.on("GetFunctionMetrics", answered(METRICS)).on("GetFunctionMetrics", answered(METRICS))
    shown = skybridge(server, "metrics", "hello", "--since", "1d").text
    assert re.search(r"succeeded +4\n", shown)
    assert re.search(r"failed: exit_code +1\n", shown)
    assert re.search(r"processor time +unknown\n", shown)
    assert re.search(r"run +10ms +20ms +30ms\n", shown)
    assert skybridge(server, "metrics", "hello", "--json").json["executions"] == "5"
    day, default = server.asked("GetFunctionMetrics")
    assert day.window.seconds == 86400
    assert not default.HasField("window")


def test_repeated_messages_are_numbered() -> None:
    paths = {path for path, _ in fields(METRICS)}
    assert {"states[0].state", "states[0].count", "failures[0].count"} <= paths


def test_metrics_with_known_use(server: Scripted) -> None:
    known = FunctionMetrics(cpu=milliseconds(5), peak_memory_bytes=1 << 20)
    server.on("GetFunctionMetrics", answered(known))
    shown = skybridge(server, "metrics", "hello").text
    assert re.search(r"processor time +5ms\n", shown)
    assert re.search(r"peak memory +1 MiB\n", shown)


def test_system(server: Scripted) -> None:
    info = system_service.GetSystemInfoResponse(
        version="1.2.3",
        limits=Limits(max_input_bytes=3 << 20, allowed_images=["a/*", "b c"]),
        contracts=[ContractKind.CONTRACT_KIND_STDIO],
    )
    server.on("GetSystemInfo", info)
    lines = skybridge(server, "system").text.splitlines()
    shown = dict(line.split(maxsplit=1) for line in lines)
    assert shown == {
        "version": "1.2.3",
        "limits.max_input_bytes": "3 MiB",
        "limits.allowed_images": "'a/*' 'b c'",
        "contracts": "stdio",
    }


def test_runtimes(server: Scripted) -> None:
    runtimes = [
        Runtime(
            name="docker", default=True, state=RuntimeState.RUNTIME_STATE_READY, cgroup_version=2
        ),
        Runtime(name="other", state=RuntimeState.RUNTIME_STATE_UNAVAILABLE, state_message="gone"),
    ]
    for _ in range(2):
        server.on("ListRuntimes", system_service.ListRuntimesResponse(runtimes=runtimes))
    _, docker, other = skybridge(server, "runtimes").text.splitlines()
    assert docker.split() == ["docker", "*", "ready", "v2"]
    assert other.split() == ["other", "unavailable", "gone"]
    assert len(skybridge(server, "runtimes", "--json").json["runtimes"]) == 2


# The command line as a whole


def commands(group: typer.Typer, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for command in group.registered_commands:
        assert command.name
        yield (*path, command.name)
    for inner in group.registered_groups:
        assert inner.typer_instance
        own = (inner.name,) if inner.name else ()
        yield from commands(inner.typer_instance, (*path, *own))


def test_these_are_the_commands() -> None:
    assert {" ".join(path) for path in commands(app)} == {
        *(f"function {verb}" for verb in ("create", "get", "list", "update", "delete", "deploy")),
        *(f"function {verb}" for verb in ("rollback", "revisions", "disable", "enable")),
        *(f"executions {verb}" for verb in ("list", "get", "watch", "wait", "cancel", "delete")),
        *(f"instances {verb}" for verb in ("list", "get", "stop")),
        *(f"schedules {verb}" for verb in ("create", "get", "list", "update", "delete")),
        *(f"schedules {verb}" for verb in ("pause", "resume", "trigger")),
        *(f"dead-letters {verb}" for verb in ("list", "get", "redrive", "purge")),
        *("run", "start", "batch", "logs", "metrics", "system", "runtimes", "drain", "up"),
        *(f"secrets {verb}" for verb in ("create", "get", "list", "update", "delete")),
        *(f"tokens {verb}" for verb in ("create", "get", "list", "delete")),
        "whoami",
    }


@pytest.mark.parametrize("path", list(commands(app)), ids=" ".join)
def test_every_command_explains_itself_with_examples(path: tuple[str, ...]) -> None:
    ran = skybridge(None, *path, "--help")
    assert ran.code == 0
    assert "Examples:" in ran.text
    assert f"skybridge {' '.join(path)}" in " ".join(ran.text.partition("Examples:")[2].split())
    for option in ("--address", "--tls-ca", "--timeout", "--json", "--output"):
        assert option in ran.text


def test_the_help_tells_the_exit_codes() -> None:
    ran = skybridge(None, "--help")
    assert "69 server or engine unavailable" in " ".join(ran.text.split())
    assert "--install-completion" in ran.text


def test_without_the_extra_the_command_says_how_to_get_it() -> None:
    code = "import sys; sys.modules['typer'] = None; import skybridge_client.cli as c; c.main()"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert ran.stderr == (
        "skybridge: the command needs typer: pip install 'skybridge-faas-client[cli]'\n"
    )


def test_a_defect_in_what_the_command_imports_is_not_hidden() -> None:
    code = "import sys; sys.modules['tarfile'] = None; import skybridge_client.cli as c; c.main()"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError" in ran.stderr


def test_the_client_alone_needs_neither_typer_nor_rich() -> None:
    code = (
        "import sys, skybridge_client; "
        "assert not {'typer', 'rich', 'docker', 'peewee'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_drain(server: Scripted) -> None:
    answer = system_service.DrainServerResponse(running_executions=2, queued_executions=30)
    for _ in range(3):
        server.on("DrainServer", answer)
    assert skybridge(server, "drain").text == "2 executions run, 30 wait\n"
    skybridge(server, "drain", "--grace", "5m", "--handover")
    assert skybridge(server, "drain", "--cancel", "--json").json["queuedExecutions"] == 30
    default, handover, cancel = server.asked("DrainServer")
    assert not default.HasField("grace")
    assert [each.policy for each in (default, handover, cancel)] == [0, 2, 1]
    assert handover.grace.seconds == 300
