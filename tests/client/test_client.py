from __future__ import annotations

import datetime as dt
import inspect
import uuid
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

import skybridge_client
from skybridge.faas.v1 import (
    execution_service_pb2 as execution_service,
)
from skybridge.faas.v1 import (
    function_service_pb2 as function_service,
)
from skybridge.faas.v1 import (
    metrics_service_pb2 as metrics_service,
)
from skybridge.faas.v1 import (
    system_service_pb2 as system_service,
)
from skybridge_client import AsyncClient, Client, errors, executions, is_final
from skybridge_client.messages import (
    DeploymentPhase,
    Execution,
    ExecutionState,
    ExecutionView,
    Function,
    FunctionMetrics,
    OnDisconnect,
    Output,
    OutputStream,
    PulledImage,
    RegistryCredentials,
    Revision,
    Runtime,
)
from tests.client.conftest import Call
from tests.client.events import NAME, SUCCEEDED, journal
from tests.client.scripted import CUT, Abort, Scripted, hang

FUNCTION = Function(name="namespaces/default/functions/hello", etag="e1")
EXECUTION = Execution(name=NAME, state=SUCCEEDED, output=b"out")
REVISION = Revision(name=f"{FUNCTION.name}/revisions/2", number=2)
METRICS = FunctionMetrics(executions=3)
ONE_SECOND = Duration(seconds=1)

Expect = Callable[[Any], bool]

# method, arguments, rpc, answer, what is given, what the request must say
UNARY: list[tuple[str, dict[str, Any], str, Message, Any, dict[str, Any]]] = [
    (
        "create_function",
        {"function_id": "hello", "image": "busybox", "parent": "namespaces/a", "env": {"A": "1"}},
        "CreateFunction",
        function_service.CreateFunctionResponse(function=FUNCTION),
        FUNCTION,
        {"function_id": "hello", "parent": "namespaces/a", "function.spec.image": "busybox"},
    ),
    (
        "get_function",
        {"name": "hello"},
        "GetFunction",
        function_service.GetFunctionResponse(function=FUNCTION),
        FUNCTION,
        {"name": "hello"},
    ),
    (
        "update_function",
        {"function": "hello", "memory_bytes": 1 << 28, "update_mask": ["spec.env"], "etag": "e1"},
        "UpdateFunction",
        function_service.UpdateFunctionResponse(function=FUNCTION),
        FUNCTION,
        {
            "function.name": "hello",
            "function.spec.resources.memory_bytes": 1 << 28,
            "update_mask.paths": ["spec.resources.memory_bytes", "spec.env"],
            "etag": "e1",
        },
    ),
    (
        "delete_function",
        {"name": "hello", "force": True},
        "DeleteFunction",
        function_service.DeleteFunctionResponse(),
        None,
        {"name": "hello", "force": True},
    ),
    (
        "get_revision",
        {"name": "hello/revisions/2"},
        "GetRevision",
        function_service.GetRevisionResponse(revision=REVISION),
        REVISION,
        {"name": "hello/revisions/2"},
    ),
    (
        "rollback",
        {"name": "hello", "revision": 2},
        "RollbackFunction",
        function_service.RollbackFunctionResponse(function=FUNCTION),
        FUNCTION,
        {"name": "hello", "revision": 2},
    ),
    (
        "disable",
        {"name": "hello"},
        "DisableFunction",
        function_service.DisableFunctionResponse(function=FUNCTION),
        FUNCTION,
        {"name": "hello"},
    ),
    (
        "enable",
        {"name": "hello"},
        "EnableFunction",
        function_service.EnableFunctionResponse(function=FUNCTION),
        FUNCTION,
        {"name": "hello"},
    ),
    (
        "execute",
        {"function": "hello", "input": b"in", "run_timeout": 1, "labels": {"a": "b"}},
        "ExecuteFunction",
        execution_service.ExecuteFunctionResponse(execution=EXECUTION),
        EXECUTION,
        {"function": "hello", "input": b"in", "options.timeout": ONE_SECOND},
    ),
    (
        "start",
        {"function": "hello", "input": b"in", "traceparent": "00-ab-cd-01"},
        "StartExecution",
        execution_service.StartExecutionResponse(execution=EXECUTION),
        EXECUTION,
        {"function": "hello", "input": b"in", "options.traceparent": "00-ab-cd-01"},
    ),
    (
        "get_execution",
        {"name": "e", "view": "basic"},
        "GetExecution",
        execution_service.GetExecutionResponse(execution=EXECUTION),
        EXECUTION,
        {"name": "e", "view": ExecutionView.EXECUTION_VIEW_BASIC},
    ),
    (
        "cancel",
        {"execution": "e"},
        "CancelExecution",
        execution_service.CancelExecutionResponse(execution=EXECUTION),
        EXECUTION,
        {"name": "e"},
    ),
    (
        "delete_execution",
        {"name": "e"},
        "DeleteExecution",
        execution_service.DeleteExecutionResponse(),
        None,
        {"name": "e"},
    ),
    (
        "metrics",
        {"function": "hello", "window": 1},
        "GetFunctionMetrics",
        metrics_service.GetFunctionMetricsResponse(metrics=METRICS),
        METRICS,
        {"name": "hello", "window": ONE_SECOND},
    ),
    (
        "system_info",
        {},
        "GetSystemInfo",
        system_service.GetSystemInfoResponse(version="1"),
        system_service.GetSystemInfoResponse(version="1"),
        {},
    ),
    (
        "runtimes",
        {},
        "ListRuntimes",
        system_service.ListRuntimesResponse(runtimes=[Runtime(name="docker")]),
        [Runtime(name="docker")],
        {},
    ),
]

MUTATIONS = [
    "create_function",
    "update_function",
    "delete_function",
    "rollback",
    "disable",
    "enable",
    "execute",
    "start",
]


def at(message: Any, path: str) -> Any:
    for name in path.split("."):
        message = getattr(message, name)
    return message


@pytest.mark.parametrize("row", UNARY, ids=[row[0] for row in UNARY])
def test_a_method_sends_what_it_was_told_and_gives_what_came(
    row: tuple[str, dict[str, Any], str, Message, Any, dict[str, Any]],
    call: Call,
    server: Scripted,
) -> None:
    method, arguments, rpc, answer, given, says = row
    server.on(rpc, answer)
    assert call(method, **arguments) == given
    [request] = server.asked(rpc)
    for path, value in says.items():
        assert at(request, path) == value
    deadline = server.deadlines[0]
    assert deadline is not None
    assert deadline < executions.EXECUTE_TIMEOUT + 1


@pytest.mark.parametrize("method", MUTATIONS)
def test_a_write_is_repeated_under_one_request_id(
    method: str, call: Call, server: Scripted
) -> None:
    _, arguments, rpc, answer, given, _ = next(row for row in UNARY if row[0] == method)
    server.on(rpc, CUT).on(rpc, CUT).on(rpc, answer).on(rpc, answer).on(rpc, answer)
    assert call(method, **arguments) == given
    call(method, **arguments)
    call(method, **arguments, request_id="1b4e28ba-2fa1-11d2-883f-0016d3cca427")
    ids = [request.request_id for request in server.asked(rpc)]
    assert ids[0] == ids[1] == ids[2] != ids[3]
    assert all(uuid.UUID(each) for each in ids)
    assert ids[4] == "1b4e28ba-2fa1-11d2-883f-0016d3cca427"


@pytest.mark.parametrize("method", ["get_function", "get_execution", "metrics", "system_info"])
def test_a_read_is_repeated_while_the_server_is_unavailable(
    method: str, call: Call, server: Scripted
) -> None:
    _, arguments, rpc, answer, given, _ = next(row for row in UNARY if row[0] == method)
    server.on(rpc, CUT).on(rpc, CUT).on(rpc, answer)
    assert call(method, **arguments) == given


@pytest.mark.parametrize("method", ["cancel", "delete_execution"])
def test_a_write_without_request_id_is_not_repeated(
    method: str, call: Call, server: Scripted
) -> None:
    _, arguments, rpc, *_ = next(row for row in UNARY if row[0] == method)
    server.on(rpc, CUT)
    with pytest.raises(errors.UnavailableError):
        call(method, **arguments)
    assert len(server.requests) == 1


def test_only_unavailable_is_repeated(call: Call, server: Scripted) -> None:
    server.on("GetFunction", Abort(grpc.StatusCode.INTERNAL, reason="INTERNAL"))
    with pytest.raises(errors.InternalError):
        call("get_function", "hello")
    assert len(server.requests) == 1


def test_a_call_ends_at_its_timeout(call: Call, server: Scripted) -> None:
    server.on("CancelExecution", hang)
    with pytest.raises(errors.DeadlineExceededError):
        call("cancel", "e", timeout=0.1)


def test_the_default_timeout_is_the_clients(server: Scripted) -> None:
    server.on("CancelExecution", hang)
    with (
        Client(server.address, timeout=0.1) as client,
        pytest.raises(errors.DeadlineExceededError),
    ):
        client.cancel("e")


def functions_page(*names: str, token: str = "") -> function_service.ListFunctionsResponse:
    functions = [Function(name=name) for name in names]
    return function_service.ListFunctionsResponse(functions=functions, next_page_token=token)


def test_a_list_asks_for_its_pages_by_itself(call: Call, server: Scripted) -> None:
    server.on("ListFunctions", functions_page("a", "b", token="t1"))
    server.on("ListFunctions", functions_page(token="t2"))
    server.on("ListFunctions", functions_page("c"))
    functions = call("list_functions", filter="state = ACTIVE", order_by="name", page_size=2)
    assert [function.name for function in functions] == ["a", "b", "c"]
    asked = server.asked("ListFunctions")
    assert [request.page_token for request in asked] == ["", "t1", "t2"]
    assert {(ask.filter, ask.order_by, ask.page_size) for ask in asked} == {
        ("state = ACTIVE", "name", 2)
    }


def test_a_list_asks_for_no_page_that_nobody_reads(server: Scripted) -> None:
    server.on("ListFunctions", functions_page("a", "b", token="t1"))
    with Client(server.address) as client:
        assert next(iter(client.list_functions())).name == "a"
    assert len(server.requests) == 1


def test_revisions_and_executions_are_lists_too(call: Call, server: Scripted) -> None:
    revisions = function_service.ListRevisionsResponse(revisions=[REVISION])
    server.on("ListRevisions", revisions)
    found = execution_service.ListExecutionsResponse(executions=[EXECUTION])
    server.on("ListExecutions", found)
    assert call("list_revisions", "hello") == [REVISION]
    assert call("list_executions", filter='function = "hello"') == [EXECUTION]
    assert server.asked("ListRevisions")[0].parent == "hello"
    assert server.asked("ListExecutions")[0].filter == 'function = "hello"'


def test_a_deployment_gives_its_progress(call: Call, server: Scripted) -> None:
    steps = [
        function_service.DeployFunctionResponse(phase=DeploymentPhase.DEPLOYMENT_PHASE_RESOLVING),
        function_service.DeployFunctionResponse(revision=REVISION),
    ]
    server.on("DeployFunction", *steps)
    credentials = RegistryCredentials(username="u", password="p")
    assert call("deploy", "hello", etag="e1", registry_credentials=credentials) == steps
    [request] = server.asked("DeployFunction")
    assert (request.name, request.etag, request.registry_credentials) == (
        "hello",
        "e1",
        credentials,
    )
    assert request.request_id


def test_a_cut_deployment_is_an_error(call: Call, server: Scripted) -> None:
    server.on("DeployFunction", function_service.DeployFunctionResponse(), CUT)
    with pytest.raises(errors.UnavailableError):
        call("deploy", "hello")
    assert len(server.requests) == 1


def test_a_pull_gives_its_progress(call: Call, server: Scripted) -> None:
    step = system_service.PullImageResponse(image=PulledImage(image_id="sha256:ab"))
    server.on("PullImage", step)
    assert call("pull_image", "busybox", runtime="docker") == [step]
    [request] = server.asked("PullImage")
    assert (request.image, request.runtime) == ("busybox", "docker")


def test_logs(call: Call, server: Scripted) -> None:
    entry = execution_service.ReadLogsResponse(execution=NAME, output=Output(data=b"x"))
    server.on("ReadLogs", entry).on("ReadLogs", entry)
    since = dt.datetime(2026, 1, 31, tzinfo=dt.UTC)
    assert call("logs", "hello", follow=True, tail_lines=5, since=since, stream="stderr") == [entry]
    assert call("logs", "hello") == [entry]
    full, bare = server.asked("ReadLogs")
    assert (full.follow, full.tail_lines) == (True, 5)
    assert full.since.ToDatetime(dt.UTC) == since
    assert full.stream == OutputStream.OUTPUT_STREAM_STDERR
    assert not bare.HasField("since")
    with pytest.raises(ValueError, match="needs a zone"):
        call("logs", "hello", since=dt.datetime(2026, 1, 31))  # noqa: DTZ001 - that is the point


def test_stream_says_what_happens_when_the_caller_leaves(call: Call, server: Scripted) -> None:
    responses = [execution_service.StreamExecutionResponse(event=event) for event in journal(2)]
    server.on("StreamExecution", *responses)
    call("stream", "hello", b"in", on_disconnect="continue", disconnect_grace=1)
    [request] = server.asked("StreamExecution")
    assert request.on_disconnect == OnDisconnect.ON_DISCONNECT_CONTINUE
    assert request.disconnect_grace == ONE_SECOND
    with pytest.raises(ValueError, match="none of cancel, continue"):
        call("stream", "hello", on_disconnect="linger")


def waited(state: ExecutionState.ValueType) -> execution_service.WaitExecutionResponse:
    return execution_service.WaitExecutionResponse(execution=Execution(name=NAME, state=state))


def test_wait_polls_until_the_end(call: Call, server: Scripted) -> None:
    running, cancelling = (
        ExecutionState.EXECUTION_STATE_RUNNING,
        ExecutionState.EXECUTION_STATE_CANCELLING,
    )
    cancelled = ExecutionState.EXECUTION_STATE_CANCELLED
    for state in (running, cancelling, cancelled):
        server.on("WaitExecution", waited(state))
    assert call("wait", "e").state == cancelled
    assert len(server.asked("WaitExecution")) == 3


def test_wait_returns_at_its_timeout_with_what_is(call: Call, server: Scripted) -> None:
    running = ExecutionState.EXECUTION_STATE_RUNNING
    server.on("WaitExecution", waited(running))
    execution = call("wait", "e", timeout=0)
    assert not is_final(execution)
    [request] = server.asked("WaitExecution")
    assert 0 < request.timeout.ToNanoseconds() <= 1_000_000


def test_both_clients_have_the_same_documented_methods() -> None:
    def methods(client: type) -> dict[str, Any]:
        public = {name for name in vars(client) if not name.startswith("_")} - {"close"}
        return {name: getattr(client, name) for name in public}

    assert methods(Client) == methods(AsyncClient)
    rpcs = {method.name for row in skybridge_client.channel._services() for method in row.methods}
    assert len(methods(Client)) == len(rpcs)
    for name, method in methods(Client).items():
        assert inspect.getdoc(method), name


def test_a_method_shows_its_own_signature_and_words(server: Scripted) -> None:
    with Client(server.address) as client:
        assert list(inspect.signature(client.get_function).parameters) == ["name", "timeout"]
        assert inspect.getdoc(client.get_function) == "Returns a function. Raises NotFoundError."
        assert client.get_function.__name__ == "get_function"


def test_every_public_name_is_there_and_documented() -> None:
    for name in skybridge_client.__all__:
        assert inspect.getdoc(getattr(skybridge_client, name)) is not None or name in {
            "ExecutionState",
            "FailureReason",
            "FunctionState",
            "OutputStream",
        }, name
