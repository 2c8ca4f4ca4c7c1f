"""What no caller may send: each rpc names every wrong field at once, by its path."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from skybridge.faas.v1 import execution_service_pb2 as executions
from skybridge.faas.v1 import function_pb2
from skybridge.faas.v1 import function_service_pb2 as functions
from skybridge.faas.v1 import metrics_service_pb2 as metrics
from skybridge.faas.v1 import system_service_pb2 as system
from tests.api.served import Served, all_of, refusal
from tests.support.waiting import PATIENCE

MIB = 1 << 20
LONG = Duration(seconds=2**63 - 1)
NEGATIVE = Duration(seconds=-1)
TOO_MUCH = {
    "image": "No Image",
    "command": ["", "nul\0"],
    "args": ["x" * (33 << 10)],
    "env": {"A B": "", "SKYBRIDGE_X": "", "OK": "nul\0"},
    "working_dir": "relative",
    "contract": {"kind": 77, "input": -1},
    "resources": {
        "memory_bytes": -1,
        "cpu_millis": 9,
        "pids": 1,
        "tmp_bytes": 2**63 - 1,
        "output_bytes": 1,
    },
    "timeouts": {
        "queue": NEGATIVE,
        "start": LONG,
        "execution": Duration(),
        "shutdown_grace": Duration(seconds=1, nanos=-1),
    },
    "scaling": {"max_concurrency": -1, "max_queue_depth": -1},
    "network": 9,
    "isolation": {"user": "root", "writable_root": True, "oci_runtime": "runsc"},
    "pull_policy": 9,
    "runtime": "no such",
    "retention": {"execution_age": NEGATIVE, "executions": -1, "revisions": 2_000_000},
    "destinations": {"on_success": {"function": "No"}, "on_failure": {"url": "ftp://x"}},
    "retry_policy": {"max_attempts": 101, "jitter": 2, "retry_on": [1, 8, 99], "exit_codes": [256]},
}
TOO_MUCH_PATHS = {
    "image",
    "command[0]",
    "command[1]",
    "args[0]",
    "env[A B]",
    "env[SKYBRIDGE_X]",
    "env[OK]",
    "working_dir",
    "contract.kind",
    "contract.input",
    "resources.memory_bytes",
    "resources.cpu_millis",
    "resources.pids",
    "resources.tmp_bytes",
    "resources.output_bytes",
    "timeouts.queue",
    "timeouts.start",
    "timeouts.execution",
    "timeouts.shutdown_grace",
    "scaling.max_concurrency",
    "scaling.max_queue_depth",
    "network",
    "isolation.user",
    "isolation.writable_root",
    "isolation.oci_runtime",
    "pull_policy",
    "runtime",
    "retention.execution_age",
    "retention.executions",
    "retention.revisions",
    "destinations.on_success.function",
    "destinations.on_failure.url",
    "destinations.on_failure.secret",
    "retry_policy.max_attempts",
    "retry_policy.jitter",
    "retry_policy.retry_on[1]",
    "retry_policy.retry_on[2]",
    "retry_policy.exit_codes",
}
"""Paths below `function.spec`, more than the 25 that an answer has room for."""


def function(**fields: Any) -> function_pb2.Function:
    return function_pb2.Function(**fields)


def options(**fields: Any) -> executions.ExecutionOptions:
    return executions.ExecutionOptions(**fields)


CASES: list[tuple[str, Message, list[str]]] = [
    (
        "CreateFunction",
        functions.CreateFunctionRequest(),
        ["function_id", "function.spec.image"],
    ),
    (
        "CreateFunction",
        functions.CreateFunctionRequest(
            parent="../x",
            function_id="..",
            request_id="1",
            function=function(
                description="x" * 1025,
                labels={"A": "\0"},
                spec={"image": "a b", "network": 7, "resources": {"pids": 1}},
            ),
        ),
        [
            "parent",
            "function_id",
            "function.spec.network",
            "function.description",
            "function.labels[A]",
            "function.labels[A]",
            "function.spec.image",
            "function.spec.resources.pids",
            "request_id",
        ],
    ),
    (
        "CreateFunction",
        functions.CreateFunctionRequest(
            function_id="hello", function=function(spec={"image": "a", "env": {"A": "x" * MIB}})
        ),
        ["function.spec.env"],
    ),
    ("GetFunction", functions.GetFunctionRequest(), ["name"]),
    ("GetFunction", functions.GetFunctionRequest(name="ab\ncd"), ["name"]),
    ("GetFunction", functions.GetFunctionRequest(name="namespaces/a/functions/../b"), ["name"]),
    ("GetFunction", functions.GetFunctionRequest(name="x" * MIB), ["name"]),
    (
        "ListFunctions",
        functions.ListFunctionsRequest(
            parent="default", page_size=-1, page_token="x", filter="state", order_by="uid"
        ),
        ["parent", "filter", "order_by", "page_size", "page_token"],
    ),
    (
        "ListFunctions",
        functions.ListFunctionsRequest(filter="x" * 1025, page_token="\0" * MIB),
        ["filter", "page_token"],
    ),
    (
        "UpdateFunction",
        ParseDict(
            {"function": {"description": "x"}, "updateMask": "uid,spec.nonsense", "requestId": "x"},
            functions.UpdateFunctionRequest(),
        ),
        ["function.name", "update_mask", "update_mask", "request_id"],
    ),
    (
        "UpdateFunction",
        ParseDict(
            {"function": {"name": "hello", "spec": {"runtime": "x"}}, "updateMask": "spec"},
            functions.UpdateFunctionRequest(),
        ),
        ["function.spec.image", "function.spec.runtime"],
    ),
    ("DeleteFunction", functions.DeleteFunctionRequest(request_id="x"), ["name", "request_id"]),
    (
        "DeployFunction",
        functions.DeployFunctionRequest(
            name="Hello",
            request_id="x",
            registry_credentials=functions.RegistryCredentials(
                username="x" * 256, password="\0" + "x" * 8192
            ),
        ),
        [
            "name",
            "registry_credentials.username",
            "registry_credentials.password",
            "registry_credentials.password",
            "request_id",
        ],
    ),
    (
        "DeployFunction",
        functions.DeployFunctionRequest(
            name="hello", registry_credentials=functions.RegistryCredentials(username="\0")
        ),
        ["registry_credentials.password", "registry_credentials.username"],
    ),
    ("GetRevision", functions.GetRevisionRequest(name="hello"), ["name"]),
    ("GetRevision", functions.GetRevisionRequest(name="hello/revisions/0"), ["name"]),
    (
        "ListRevisions",
        functions.ListRevisionsRequest(page_size=-5, page_token="x"),
        ["parent", "page_size", "page_token"],
    ),
    (
        "RollbackFunction",
        functions.RollbackFunctionRequest(name="-", revision=-1, request_id="x"),
        ["name", "revision", "request_id"],
    ),
    ("DisableFunction", functions.DisableFunctionRequest(request_id="x"), ["name", "request_id"]),
    ("EnableFunction", functions.EnableFunctionRequest(request_id="x"), ["name", "request_id"]),
    *(
        (
            rpc,
            request(
                function="",
                input=b"x" * (3 * MIB + 1),
                request_id="x",
                options=options(timeout=NEGATIVE, labels={"A": "x"}, traceparent="x"),
            ),
            [
                "function",
                "request_id",
                "input",
                "options.timeout",
                "options.labels[A]",
                "options.traceparent",
            ],
        )
        for rpc, request in (
            ("ExecuteFunction", executions.ExecuteFunctionRequest),
            ("StartExecution", executions.StartExecutionRequest),
            ("StreamExecution", executions.StreamExecutionRequest),
        )
    ),
    (
        "ExecuteFunction",
        executions.ExecuteFunctionRequest(function="hello", options=options(timeout=LONG)),
        ["options.timeout"],
    ),
    (
        "StreamExecution",
        executions.StreamExecutionRequest(
            function="hello",
            on_disconnect=5,  # type: ignore[arg-type] # what the test is about
            disconnect_grace=Duration(seconds=3601),
            heartbeat_interval=Duration(nanos=999_999_999),
        ),
        ["on_disconnect", "disconnect_grace", "heartbeat_interval"],
    ),
    (
        "StreamExecution",
        executions.StreamExecutionRequest(
            function="hello", disconnect_grace=NEGATIVE, heartbeat_interval=LONG
        ),
        ["disconnect_grace", "heartbeat_interval"],
    ),
    (
        "WatchExecution",
        executions.WatchExecutionRequest(
            name="hello", after_sequence=-1, heartbeat_interval=Duration(seconds=601)
        ),
        ["name", "after_sequence", "heartbeat_interval"],
    ),
    (
        "GetExecution",
        executions.GetExecutionRequest(name="..", view=9),  # type: ignore[arg-type] # the test
        ["name", "view"],
    ),
    (
        "ListExecutions",
        executions.ListExecutionsRequest(
            parent="namespaces/..",
            page_size=-(2**31),
            page_token="!",
            filter='create_time >= "now" AND state = x',
            order_by="name",
        ),
        ["parent", "filter", "filter", "order_by", "page_size", "page_token"],
    ),
    (
        "WaitExecution",
        executions.WaitExecutionRequest(name="", timeout=Duration(seconds=301)),
        ["name", "timeout"],
    ),
    ("CancelExecution", executions.CancelExecutionRequest(name="x"), ["name"]),
    ("DeleteExecution", executions.DeleteExecutionRequest(name="x"), ["name"]),
    (
        "ReadLogs",
        executions.ReadLogsRequest(
            name="namespaces/default/executions/x",
            tail_lines=-1,
            since=Timestamp(nanos=-1),
            stream=3,  # type: ignore[arg-type] # what the test is about
        ),
        ["name", "tail_lines", "since", "stream"],
    ),
    (
        "GetFunctionMetrics",
        metrics.GetFunctionMetricsRequest(window=Duration(seconds=31 * 86_400 + 1)),
        ["name", "window"],
    ),
    (
        "GetFunctionMetrics",
        metrics.GetFunctionMetricsRequest(name="hello", window=Duration()),
        ["window"],
    ),
    (
        "PullImage",
        system.PullImageRequest(
            runtime="x",
            registry_credentials=functions.RegistryCredentials(username="x"),
        ),
        ["image", "runtime", "registry_credentials.password"],
    ),
]

STREAMS = {"DeployFunction", "StreamExecution", "WatchExecution", "ReadLogs", "PullImage"}


async def send(served: Served, rpc: str, request: Message) -> object:
    stubs = (served.functions, served.executions, served.metrics, served.system)
    method = next(getattr(stub, rpc) for stub in stubs if hasattr(stub, rpc))
    call = method(request, timeout=PATIENCE)
    return await (all_of(call) if rpc in STREAMS else call)


@pytest.mark.parametrize(
    ("rpc", "request_", "fields"), CASES, ids=[f"{n}-{case[0]}" for n, case in enumerate(CASES)]
)
async def test_every_wrong_field_is_named(
    served: Served, rpc: str, request_: Message, fields: list[str]
) -> None:
    refused = await refusal(lambda: send(served, rpc, request_))
    assert (refused.code, refused.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
    assert refused.fields == fields


async def test_a_spec_with_everything_wrong(served: Served) -> None:
    request = functions.CreateFunctionRequest(function_id="hello", function=function(spec=TOO_MUCH))
    refused = await refusal(lambda: send(served, "CreateFunction", request))
    assert refused.code is StatusCode.INVALID_ARGUMENT
    expected = {f"function.spec.{path}" for path in TOO_MUCH_PATHS}
    assert set(refused.fields) < expected
    assert len(refused.fields) == 25
    assert f"and {len(expected) - 25} more" in refused.message


async def test_wrong_values_are_named_before_what_is_missing(served: Served) -> None:
    """A request that can never work is INVALID_ARGUMENT, whether its function exists or not."""
    request = executions.ExecuteFunctionRequest(function="unknown", request_id="x")
    refused = await refusal(lambda: send(served, "ExecuteFunction", request))
    assert refused.fields == ["request_id"]


async def test_too_big_an_input_says_the_way_out(served: Served) -> None:
    request = executions.ExecuteFunctionRequest(function="hello", input=b"x" * (3 * MIB + 1))
    refused = await refusal(lambda: send(served, "ExecuteFunction", request))
    assert "AttachExecution" in refused.message


async def test_a_request_past_the_transport_limit(served: Served) -> None:
    request = executions.ExecuteFunctionRequest(function="hello", input=b"x" * (9 * MIB))
    with pytest.raises(Exception, match="larger than max") as caught:
        await send(served, "ExecuteFunction", request)
    assert getattr(caught.value, "code")() is StatusCode.RESOURCE_EXHAUSTED  # noqa: B009


async def test_fields_of_a_newer_client_are_ignored(served: Served) -> None:
    await served.create()
    request = functions.GetFunctionRequest.FromString(b"\x0a\x05hello\xa2\x1f\x03new")
    answer = await served.functions.GetFunction(request, timeout=PATIENCE)
    assert answer.function.name.endswith("/hello")
