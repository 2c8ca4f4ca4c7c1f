"""Containers of a real engine that are created ahead of the executions that start them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import docker
import pytest
from docker.models.containers import Container

from skybridge_client import AsyncClient, Patience
from skybridge_client.errors import InvalidArgumentError
from tests.support.functions import BUSYBOX, GATED, deploy, new_id, told, until_output
from tests.support.server import Server
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.docker

Serve = Callable[..., Server]
STUBBORN = Patience(tries=1000, first_tries=1000, first_pause=0.05, longest_pause=0.2)


async def ahead(server: Server, revision: int | None = None) -> dict[str, Container]:
    """Return the containers that wait, by their ids."""
    wanted = ["skybridge.ahead"]
    if revision is not None:
        wanted.append(f"skybridge.revision={revision}")
    found = await asyncio.to_thread(server.containers, *wanted)
    return {str(each.id): each for each in found if each.status == "created"}


async def until_ahead(server: Server, count: int, revision: int | None = None) -> set[str]:
    """Wait until so many wait, and nothing else of the server is left."""

    async def there() -> bool:
        return (
            len(await ahead(server, revision))
            == len(await asyncio.to_thread(server.containers))
            == count
        )

    await until(there, f"{count} containers ahead")
    return set(await ahead(server, revision))


@asynccontextmanager
async def caller(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address, patience=STUBBORN, timeout=PATIENCE) as client:
        yield client


async def leave(server: Server, client: AsyncClient, *names: str) -> None:
    """Delete the functions, and see that they leave nothing."""
    for name in names:
        await client.delete_function(name)
    await asyncio.to_thread(server.settle)


async def test_executions_take_what_is_there_and_it_is_made_again(server: Server) -> None:
    async with caller(server) as client:
        script = "cat; env | grep -c '^SKYBRIDGE_'; hostname"
        name = await deploy(client, script, min_instances=2)
        made = await until_ahead(server, 2)
        answers = await asyncio.gather(*(client.execute(name, b"%d\n" % n) for n in range(4)))
        assert [each.output.splitlines()[:2] for each in answers] == [
            [b"%d" % n, b"2"] for n in range(4)
        ]
        assert all(each.cold_start for each in answers)
        new = await until_ahead(server, 2)
        assert not made & new, "one was used twice, or not at all"
        await leave(server, client, name)


async def test_an_execution_starts_the_one_that_was_created_before(server: Server) -> None:
    async with caller(server) as client:
        name = await deploy(client, GATED, min_instances=1)
        (made,) = await until_ahead(server, 1)
        started = await client.start(name)
        await until_output(client, started.name)
        everyone = {str(each.id): each for each in await asyncio.to_thread(server.containers)}
        running = everyone[made]
        assert running.status == "running"
        assert started.name.rpartition("/")[2] in str(running.name)
        await asyncio.to_thread(running.kill, "SIGUSR1")
        ended = await client.wait(started.name, timeout=PATIENCE)
        assert ended.output == b"ready\ndone\n"
        await until_ahead(server, 1)
        await leave(server, client, name)


async def test_each_revision_has_its_own(server: Server) -> None:
    async with caller(server) as client:
        name = await deploy(client, "echo 1", min_instances=1)
        await client.update_function(name, command=["echo", "2"])
        async for _ in client.deploy(name):
            pass
        await until_ahead(server, 1, revision=2)
        assert (await client.execute(name)).output == b"2\n"
        await client.rollback(name)
        await until_ahead(server, 1, revision=1)
        assert (await client.execute(name)).output == b"1\n"
        await client.disable(name)
        await until_ahead(server, 0)
        await leave(server, client, name)


async def test_one_that_is_removed_from_outside_fails_nothing(
    server: Server, docker_client: docker.DockerClient
) -> None:
    async with caller(server) as client:
        name = await deploy(client, "echo done", min_instances=1)
        for _ in range(3):
            (made,) = await until_ahead(server, 1)
            await asyncio.to_thread(docker_client.containers.get(made).remove)
            ended = await client.execute(name)  # whether it was noticed by now or not
            assert told(ended)[0] == "SUCCEEDED", ended.failure.message
        await until_ahead(server, 1)
        await leave(server, client, name)


async def test_the_input_cannot_be_in_its_environment(server: Server) -> None:
    async with caller(server) as client:
        with pytest.raises(InvalidArgumentError, match=r"scaling\.min_instances") as caught:
            await client.create_function(new_id(), image=BUSYBOX, input_mode="env", min_instances=1)
        fields = [each.field for each in caught.value.violations]
        assert fields == ["function.spec.contract.input"]


async def test_a_crash_leaks_none_and_loses_nothing(serve: Serve) -> None:
    server = serve()
    async with caller(server) as client:
        name = await deploy(client, GATED, min_instances=2)
        made = await until_ahead(server, 2)
        started = await client.start(name)
        await until_output(client, started.name)
        server.kill()
        server.start()
        running = await asyncio.to_thread(server.containers, "skybridge.ahead")
        (taken,) = [each for each in running if each.status == "running"]
        assert str(taken.id) in made
        await asyncio.to_thread(taken.kill, "SIGUSR1")
        ended = await client.wait(started.name, timeout=PATIENCE)
        assert (told(ended)[0], ended.output) == ("SUCCEEDED", b"ready\ndone\n")
        assert not made & await until_ahead(server, 2)
    await asyncio.to_thread(server.stop)  # which leaves none
