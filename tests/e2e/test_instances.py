"""Functions that speak HTTP on instances that are kept, in containers of a real engine."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import docker
import pytest
from docker.models.containers import Container

from skybridge_client import AsyncClient, Execution, Patience
from skybridge_client.errors import FailedPreconditionError, NotFoundError
from skybridge_client.messages import Instance, InstanceState
from tests.support.crowd import watched_crowd
from tests.support.functions import (
    RUNNING,
    collect,
    deploy_python,
    output,
    reach,
    states,
    told,
)
from tests.support.http_function import LAMBDA, deploy_http
from tests.support.server import Server
from tests.support.waiting import PATIENCE, until, wait_until

pytestmark = pytest.mark.docker

Serve = Callable[..., Server]
BUDGET = 10


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of this module's own, with a budget; it stops in peace and leaves nothing."""
    made = Server(
        tmp_path_factory.mktemp("instances"),
        FAAS_MAX_INSTANCES=str(BUDGET),
        FAAS_MAX_CONCURRENT_EXECUTIONS="100",
    )
    try:
        made.start()
        yield made
        made.stop()
    finally:
        made.discard()


@pytest.fixture
async def client(server: Server) -> AsyncGenerator[AsyncClient, None]:
    once = Patience(tries=1, first_tries=1)
    async with AsyncClient(server.address, patience=once, timeout=PATIENCE) as made:
        yield made


async def instances(client: AsyncClient, function: str) -> list[Instance]:
    return [each async for each in client.list_instances(function=function)]


async def container_of(client: AsyncClient, execution: Execution) -> str:
    return (await client.get_instance(execution.instance)).container


@pytest.mark.parametrize("network", ["none", "egress"])
async def test_one_instance_does_one_execution_after_the_other(
    client: AsyncClient, network: str
) -> None:
    name = await deploy_http(client, network="egress" if network == "egress" else "none")
    first = await client.execute(name, b"who")
    assert first.cold_start
    assert first.timings.HasField("init")
    others = [await client.execute(name, b"who") for _ in range(3)]
    assert {each.output for each in others} == {first.output}
    assert {each.instance for each in others} == {first.instance}
    assert not any(each.cold_start for each in others)
    (instance,) = await instances(client, name)
    assert (instance.executions, instance.state) == (4, InstanceState.INSTANCE_STATE_IDLE)


@pytest.mark.parametrize("network", ["none", "egress"])
async def test_a_lambda_runtime_asks_for_its_executions(client: AsyncClient, network: str) -> None:
    name = await deploy_python(
        client,
        LAMBDA,
        contract="lambda",
        network="egress" if network == "egress" else "none",
    )
    answers = [await client.execute(name, b"%d" % n) for n in range(3)]
    assert [each.output for each in answers] == [
        b'{"served": %d, "got": %d}' % (n + 1, n) for n in range(3)
    ]
    assert told(await client.execute(name, b'"die"')) == ("FAILED", "EXIT_CODE")
    assert (await client.execute(name, b"5")).output == b'{"served": 1, "got": 5}'


async def test_what_goes_with_the_data_goes_both_ways(client: AsyncClient) -> None:
    name = await deploy_http(client, path="/work?x=1", env={"MINE": "here"})

    async def ask(question: bytes, **options: object) -> bytes:
        return (await client.execute(name, question, **options)).output  # type: ignore[arg-type]

    assert await ask(b"field content-type", content_type="text/x-mine") == b"text/x-mine"
    assert await ask(b"field ce-id", headers={"ce-id": "7"}) == b"7"
    assert await ask(b"path") == b"/work?x=1"
    assert [await ask(b"env " + key) for key in (b"PORT", b"MINE")] == [b"8080", b"here"]
    assert await ask(b"env K_SERVICE") == name.encode()
    answer = await client.execute(name, b"typed")
    assert (answer.content_type, answer.http_status) == ("application/json", 200)
    assert answer.headers["x-mine"] == "yes"
    kept = await client.get_execution(answer.name)
    assert (kept.content_type, kept.output, kept.instance) == (
        answer.content_type,
        b"{}",
        answer.instance,
    )


async def test_what_a_response_streams_is_seen_while_it_comes(client: AsyncClient) -> None:
    name = await deploy_http(client, instance_concurrency=2)
    seen = []
    async for event in client.stream(name, b"stream"):
        seen.append(event)
        if event.HasField("output") and event.output.data == b"one":
            assert (await client.execute(name, b"go")).output == b"gone"
    assert output(seen) == b"onetwo"
    assert states(seen) == ["QUEUED", "STARTING", "RUNNING", "SUCCEEDED"]


async def test_an_execution_that_was_started_alone_is_stored_before_it_runs(
    client: AsyncClient,
) -> None:
    name = await deploy_http(client)
    await client.execute(name, b"x")
    started = await client.start(name, b"echo this")
    ended = await client.wait(started.name)
    assert ended.output == b"echo this"
    events = await collect(client.watch(started.name))
    assert states(events) == ["QUEUED", "RUNNING", "SUCCEEDED"]


async def test_a_deferred_execution_is_known_at_once_and_kept(client: AsyncClient) -> None:
    name = await deploy_http(client, durability="deferred")
    await client.execute(name, b"cold")
    answers = [await client.execute(name, b"%d" % n) for n in range(20)]
    for answer in answers:
        found = await client.get_execution(answer.name)
        assert (found.state, found.output) == (answer.state, answer.output)
    listed = [each async for each in client.list_executions(filter=f'function = "{name}"')]
    assert len(listed) <= 21
    await until(lambda: _count(client, name, 21), "all deferred executions to be in the store")


async def test_a_deferred_execution_that_just_came_to_be_stored_answers_with_its_output(
    client: AsyncClient,
) -> None:
    name = await deploy_http(client, durability="deferred", instance_concurrency=50)
    # What takes 250 ms is stored as it runs: the answer comes before, while or after that is done.
    inputs = [b"slow %d" % (40 + n % 20) for n in range(100)]
    for some in (inputs[:50], inputs[50:]):
        answers = await asyncio.gather(*(client.execute(name, input_) for input_ in some))
        assert [answer.output for answer in answers] == some


async def _count(client: AsyncClient, name: str, count: int) -> bool:
    listed = [each async for each in client.list_executions(filter=f'function = "{name}"')]
    return len(listed) == count


async def test_a_log_belongs_to_its_execution(client: AsyncClient) -> None:
    name = await deploy_http(client)

    words = [b"word-%d" % number for number in range(60)]
    logs = [(await client.execute(name, b"say " + word)).log_tail for word in words]
    assert logs == [word + b"\n" for word in words]
    assert (await client.execute(name, b"quiet")).log_tail == b""


# --- functions that fail ------------------------------------------------------------------------


async def test_an_answer_may_be_a_failure(client: AsyncClient) -> None:
    name = await deploy_http(client)
    failed = await client.execute(name, b"fail this is why")
    assert told(failed) == ("FAILED", "FUNCTION_ERROR")
    assert (failed.output, failed.http_status) == (b"this is why", 500)
    assert (await client.execute(name, b"who")).instance == failed.instance


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        (b"die 3", "EXIT_CODE"),
        (b"half", "INSTANCE_DIED"),
        (b"garbage", "PROTOCOL_ERROR"),
    ],
)
async def test_an_instance_that_breaks_fails_its_execution_alone(
    client: AsyncClient, word: bytes, reason: str
) -> None:
    name = await deploy_http(client)
    await client.execute(name, b"x")
    broken = await client.execute(name, word)
    assert told(broken) == ("FAILED", reason)
    after = await client.execute(name, b"x")
    assert told(after)[0] == "SUCCEEDED"
    assert after.instance != broken.instance


async def test_an_instance_that_closes_after_each_answer_is_kept(client: AsyncClient) -> None:
    name = await deploy_http(client)
    answers = [await client.execute(name, b"close") for _ in range(5)]
    assert {each.output for each in answers} == {b"closed"}
    assert len({each.instance for each in answers}) == 1


async def test_an_instance_that_was_killed_while_idle_is_replaced(
    client: AsyncClient, docker_client: docker.DockerClient
) -> None:
    name = await deploy_http(client)
    first = await client.execute(name, b"x")
    docker_client.containers.get(await container_of(client, first)).kill()

    async def noticed() -> bool:
        return not await instances(client, name)

    await until(noticed, "the dead instance to be noticed")
    second = await client.execute(name, b"x")
    assert told(second)[0] == "SUCCEEDED"


async def test_what_comes_just_as_an_idle_instance_dies_is_done_by_another(
    client: AsyncClient, docker_client: docker.DockerClient
) -> None:
    name = await deploy_http(client)
    for _ in range(3):
        before = await client.execute(name, b"x")
        kill_unseen(docker_client.containers.get(await container_of(client, before)))
        after = await client.execute(name, b"x")
        assert told(after)[0] == "SUCCEEDED"
        assert after.instance != before.instance


def kill_unseen(container: Container) -> None:
    """End its process without the engine, which may tell it later."""
    process = Path(f"/proc/{container.attrs['State']['Pid']}")
    os.kill(int(process.name), signal.SIGKILL)
    wait_until(lambda: not process.exists(), "the process to be gone")


async def test_an_instance_that_was_killed_while_busy_fails_what_it_did(
    client: AsyncClient, docker_client: docker.DockerClient
) -> None:
    name = await deploy_http(client)
    started = await client.start(name, b"wait")
    running = await reach(client, started.name, RUNNING)
    docker_client.containers.get(await container_of(client, running)).kill()
    ended = await client.wait(started.name)
    assert told(ended) == ("FAILED", "SIGNAL")
    assert told(await client.execute(name, b"x"))[0] == "SUCCEEDED"


async def test_an_instance_that_does_not_return_in_time_is_killed(client: AsyncClient) -> None:
    name = await deploy_http(client, execution_timeout=2, shutdown_grace=0)
    await client.execute(name, b"x")
    late = await client.execute(name, b"wait")
    assert told(late) == ("TIMED_OUT", "EXECUTION_TIMEOUT")
    after = await client.execute(name, b"x")
    assert told(after)[0] == "SUCCEEDED"
    assert after.instance != late.instance


async def test_an_answer_that_stops_half_way_is_cut_off_in_time(client: AsyncClient) -> None:
    name = await deploy_http(client, execution_timeout=2, shutdown_grace=0)
    before = await client.execute(name, b"x")
    late = await client.execute(name, b"stream")
    assert (told(late), late.output) == (("TIMED_OUT", "EXECUTION_TIMEOUT"), b"one")
    after = await client.execute(name, b"x")
    assert told(after)[0] == "SUCCEEDED"
    assert after.instance != before.instance


async def test_a_cancelled_execution_that_returns_leaves_its_instance(client: AsyncClient) -> None:
    name = await deploy_http(client, instance_concurrency=2, shutdown_grace=60)
    started = await client.start(name, b"wait")
    running = await reach(client, started.name, RUNNING)
    await client.cancel(started.name)
    await client.execute(name, b"go")
    assert told(await client.wait(started.name)) == ("CANCELLED", "CANCELLED")
    assert (await client.execute(name, b"x")).instance == running.instance


async def test_a_caller_that_leaves_takes_its_instance_along(client: AsyncClient) -> None:
    name = await deploy_http(client, shutdown_grace=0)
    before = await client.execute(name, b"x")
    calling = asyncio.create_task(client.execute(name, b"wait"))

    async def busy() -> bool:
        (instance,) = await instances(client, name)
        return instance.state == InstanceState.INSTANCE_STATE_BUSY

    await until(busy, "the instance to be busy")
    calling.cancel()
    await asyncio.gather(calling, return_exceptions=True)
    assert (await client.execute(name, b"x")).instance != before.instance


async def test_an_instance_that_leaks_processes_is_replaced(client: AsyncClient) -> None:
    name = await deploy_http(client, pids=40)
    first = await client.execute(name, b"fork 3")
    assert (await client.execute(name, b"who")).output == first.output

    async def replaced() -> bool:
        return (await client.execute(name, b"who")).output != first.output

    assert (await client.execute(name, b"fork 20")).output == first.output
    await until(replaced, "another instance")


# --- starts that fail ---------------------------------------------------------------------------


async def test_an_instance_that_never_listens_fails_the_execution(client: AsyncClient) -> None:
    name = await deploy_python(
        client, "import time; time.sleep(1000)", contract="http", start_timeout=1
    )
    assert told(await client.execute(name)) == ("TIMED_OUT", "START_TIMEOUT")


async def test_a_deployment_whose_instances_crash_fails_with_what_they_wrote(
    client: AsyncClient,
) -> None:
    with pytest.raises(FailedPreconditionError, match="no module named soup") as caught:
        await deploy_python(
            client, "raise SystemExit('no module named soup')", contract="http", min_instances=1
        )
    assert caught.value.reason == "INSTANCES_NOT_READY"


# --- many of them -------------------------------------------------------------------------------


async def test_a_revision_is_replaced_under_load_without_a_failure(client: AsyncClient) -> None:
    name = await deploy_http(client, env={"VERSION": "0"}, min_instances=1)
    done = asyncio.Event()
    seen: set[bytes] = set()

    async def call() -> None:
        while not done.is_set():
            execution = await client.execute(name, b"env VERSION")
            assert told(execution)[0] == "SUCCEEDED", execution
            revision = execution.revision.rpartition("/")[2]
            assert execution.output == b"%d" % (int(revision) - 1), "another revision's instance"
            seen.add(execution.output)

    callers = [asyncio.create_task(call()) for _ in range(4)]
    try:
        for version in ("1", "2"):
            await client.update_function(name, env={"VERSION": version})
            async for _ in client.deploy(name):
                pass
            assert (await client.execute(name, b"env VERSION")).output == version.encode()
    finally:
        done.set()
        results = await asyncio.gather(*callers, return_exceptions=True)
    assert results == [None] * 4
    assert seen >= {b"0", b"2"}

    async def drained() -> bool:
        revisions = {each.revision for each in await instances(client, name)}
        return {each.rpartition("/")[2] for each in revisions} == {"3"}

    await until(drained, "the instances of old revisions to go")


async def test_many_callers_of_many_functions_share_the_budget(
    client: AsyncClient, docker_client: docker.DockerClient
) -> None:
    functions = await asyncio.gather(*(deploy_http(client) for _ in range(50)))

    async def call(number: int) -> None:
        name = functions[number % len(functions)]
        execution = await client.execute(name, b"env K_SERVICE")
        assert execution.output == name.encode()

    with watched_crowd(docker_client, *functions) as crowd:
        await asyncio.gather(*(call(number) for number in range(300)))

        async def all_is_told() -> bool:
            listed = [await instances(client, name) for name in functions]
            return crowd.kept == sum(map(len, listed))

        await until(all_is_told, "the engine to tell of all containers")
    assert crowd.started >= len(functions)
    assert crowd.most_kept <= BUDGET


# --- stopping -----------------------------------------------------------------------------------


async def test_an_instance_can_be_stopped(client: AsyncClient) -> None:
    name = await deploy_http(client)
    started = await client.start(name, b"wait")
    running = await reach(client, started.name, RUNNING)
    stopped = await client.stop_instance(running.instance)
    assert stopped.state == InstanceState.INSTANCE_STATE_STOPPING
    assert told(await client.execute(name, b"x"))[0] == "SUCCEEDED"
    await client.stop_instance(running.instance, force=True)
    await client.wait(started.name)

    async def gone() -> bool:
        with suppress(NotFoundError):
            await client.get_instance(running.instance)
            return False
        return True

    await until(gone, "the instance to be removed")


async def test_a_deleted_function_leaves_no_instance(client: AsyncClient, server: Server) -> None:
    name = await deploy_http(client, min_instances=1)
    label = f"skybridge.function=namespaces/default/functions/{name}"
    assert len(server.containers(label)) == 1
    await client.delete_function(name)
    wait_until(lambda: not server.containers(label), "the instances to go")


async def test_a_server_that_may_not_enter_networks_relays(serve: Serve) -> None:
    server = serve(ready=False)
    if os.geteuid() == 0:  # others may not anyway
        server.under = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    server.start()
    async with AsyncClient(server.address) as client:
        for network in ("none", "egress"):
            name = await deploy_http(client, network="egress" if network == "egress" else "none")
            answers = [await client.execute(name, b"who") for _ in range(3)]
            assert len({answer.output for answer in answers}) == 1
        name = await deploy_python(client, LAMBDA, contract="lambda")
        assert (await client.execute(name, b"5")).output == b'{"served": 1, "got": 5}'
    ways = [event["way"] for event in server.events() if "way" in event]
    assert [way.partition(":")[0] for way in ways] == ["by relay"]
    server.stop()
    assert not server.containers()
    wait_until(lambda: not server.sandboxes(), "the networks to go")
