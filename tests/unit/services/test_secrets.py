"""Secrets: who gets them, and what happens where they are missing."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import pytest

from skybridge_server.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
    RuntimeUnavailableError,
)
from skybridge_server.models.executions import FailureReason
from skybridge_server.models.functions import Contract, ContractKind, Scaling
from skybridge_server.models.names import FunctionName, SecretName
from skybridge_server.services.requests import RequestKey
from tests.unit.services.world import HELLO, SERVER_ID, World, until

DB = SecretName("default", "db")
KEY = RequestKey("CreateSecret", "r", "f")
FILES = {"password": "db"}


async def created(world: World, name: SecretName = DB, value: bytes = b"geheim") -> None:
    await world.services.secrets.create(name, value, key=None)


# -- for callers ---------------------------------------------------------------------------------


async def test_a_repeat_changes_nothing(world: World) -> None:
    secrets = world.services.secrets
    first = await secrets.create(DB, b"first", key=KEY)
    assert await secrets.create(DB, b"first", key=KEY) == first
    with pytest.raises(AlreadyExistsError) as caught:
        await secrets.create(DB, b"x", key=RequestKey("CreateSecret", "r", "another"))
    assert caught.value.reason == "REQUEST_ID_REUSED"
    with pytest.raises(AlreadyExistsError) as caught:
        await secrets.create(DB, b"x", key=None)
    assert caught.value.reason == "SECRET_EXISTS"
    assert await world.repositories.secrets.value(DB) == b"first"


async def test_changes_heed_the_etag(world: World) -> None:
    secrets = world.services.secrets
    first = await secrets.create(DB, b"first", key=None)
    changed = await secrets.update(DB, b"longer", etag=first.etag, key=None)
    assert (changed.value_bytes, changed.create_time) == (6, first.create_time)
    assert changed.etag != first.etag
    for stale in (
        secrets.update(DB, b"x", etag=first.etag, key=None),
        secrets.delete(DB, etag=first.etag, key=None),
    ):
        with pytest.raises(AbortedError):
            await stale
    await secrets.delete(DB, etag="", key=None)
    with pytest.raises(NotFoundError):
        await secrets.get(DB)


# -- for functions -------------------------------------------------------------------------------


async def test_containers_find_the_values_of_their_namespace(world: World) -> None:
    await created(world)
    await created(world, SecretName("red", "db"), b"red")
    red = FunctionName("red", "hello")
    for name in (HELLO, red):
        await world.deployed(name, secrets={"password": "db", "again": "db"})
        await world.run(name)
    files = [spec.files for spec in world.runtime.containers.created]
    assert files == [dict.fromkeys(("password", "again"), value) for value in (b"geheim", b"red")]


async def test_those_without_secrets_have_no_files(world: World) -> None:
    await created(world)
    await world.deployed()
    await world.run()
    assert world.runtime.containers.created[0].files == {}


async def test_another_value_is_for_containers_to_come(world: World) -> None:
    await created(world)
    await world.deployed(secrets=FILES)
    await world.run()
    await world.services.secrets.update(DB, b"new", etag="", key=None)
    await world.run()
    files = [spec.files["password"] for spec in world.runtime.containers.created]
    assert files == [b"geheim", b"new"]


async def test_containers_that_are_made_ahead_have_them_too(world: World) -> None:
    await created(world)
    await world.deployed(secrets=FILES, scaling=Scaling(min_instances=1))
    await until(lambda: len(world.services.ahead) == 1)
    assert world.runtime.containers.created[0].files == {"password": b"geheim"}
    # What replaces them once the function is deployed again has the new one.
    await world.services.secrets.update(DB, b"new", etag="", key=None)
    await world.deploy()
    await until(lambda: len(world.services.ahead) == 1)
    assert world.runtime.containers.created[-1].files == {"password": b"new"}


async def test_a_deployment_without_its_secrets_is_refused(world: World) -> None:
    await world.create(secrets=FILES)
    with pytest.raises(FailedPreconditionError, match="'namespaces/default/secrets/db'") as caught:
        await world.deploy()
    assert caught.value.reason == "SECRET_NOT_FOUND"
    await created(world)
    await world.deploy()


async def test_an_execution_without_its_secrets_fails_and_says_why(world: World) -> None:
    await created(world)
    await world.deployed(secrets=FILES)
    await world.services.secrets.delete(DB, etag="", key=None)
    execution = await world.run()
    assert execution.failure is not None
    assert execution.failure.reason is FailureReason.START_FAILED
    assert "create it, or take it out of spec.secrets" in execution.failure.message
    assert world.runtime.containers.created == []


async def test_a_rollback_to_what_lacks_its_secrets_is_refused(world: World) -> None:
    await created(world)
    await world.deployed(secrets=FILES)
    await world.deploy()
    await world.services.secrets.delete(DB, etag="", key=None)
    with pytest.raises(FailedPreconditionError) as caught:
        await world.services.deployments.rollback(HELLO, 0, etag="", key=None)
    assert caught.value.reason == "SECRET_NOT_FOUND"


async def test_files_that_others_left_are_looked_for(world: World) -> None:
    world.runtime.looked_for_files.clear()
    await world.services.sweeper.sweep()
    assert world.runtime.looked_for_files == [{"skybridge.server": SERVER_ID}]


async def test_an_engine_that_cannot_look_for_files_is_swept_all_the_same(
    world: World, logged: list[MutableMapping[str, Any]]
) -> None:
    world.runtime.gate.failures["forget_files"] = RuntimeUnavailableError("it went away")
    await world.services.sweeper.sweep()
    assert [entry["event"] for entry in logged][-1] == "files not looked for"


async def test_an_instance_without_its_secrets_is_not_made(world: World) -> None:
    await created(world)
    contract = Contract(kind=ContractKind.HTTP)
    await world.deployed(secrets=FILES, contract=contract)
    await world.services.secrets.delete(DB, etag="", key=None)
    execution = await world.run()
    assert execution.failure is not None
    assert execution.failure.reason is FailureReason.START_FAILED
