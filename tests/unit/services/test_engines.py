"""Which engine answers: seen within two seconds, told to all who asked, whatever they do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from skybridge_server.errors import FailedPreconditionError, RuntimeUnavailableError
from skybridge_server.services.engines import Engines
from tests.fakes.runtime import FakeRuntime


def of(*names: str) -> tuple[Engines, list[FakeRuntime]]:
    runtimes = [FakeRuntime(name) for name in names]
    return Engines({each.name: each for each in runtimes}, names[0]), runtimes


async def test_an_engine_is_not_ready_before_it_was_asked() -> None:
    engines, _ = of("docker")
    with pytest.raises(RuntimeUnavailableError, match="not asked yet"):
        engines.check("")
    await engines.open()
    engines.check("")
    assert engines.ready
    await engines.close()


async def test_names() -> None:
    engines, (docker, other) = of("docker", "other")
    assert (engines.get(""), engines.get("docker"), engines.get("other")) == (docker, docker, other)
    for call in (engines.get, engines.check):
        with pytest.raises(FailedPreconditionError, match="it has docker, other") as refused:
            call("unknown")
        assert refused.value.reason == "UNKNOWN_RUNTIME"


async def test_flapping_is_told_each_time_and_within_two_seconds() -> None:
    engines, (docker, _) = of("docker", "other")
    told: list[bool] = []
    engines.on_change(lambda: told.append(engines.ready))
    await engines.open()
    told.clear()
    for _ in range(3):
        for away in (True, False):
            docker.gate.away = away
            await asyncio.sleep(2)
            assert engines.ready is not away
    assert told == [False, True] * 3
    await asyncio.sleep(60)
    assert len(told) == 6
    await engines.close()


async def test_status_tells_why_and_what_was_known() -> None:
    engines, (docker, other) = of("docker", "other")
    other.gate.away = True
    await engines.open()
    docker.gate.away = True
    await asyncio.sleep(2)
    first, second = engines.status()
    assert (first.name, first.default, first.ready) == ("docker", True, False)
    assert "it is away" in first.message
    assert first.info == docker.info
    assert (second.default, second.ready, second.info) == (False, False, None)
    await engines.close()


async def test_the_readiness_of_the_server_is_that_of_the_default_engine() -> None:
    engines, (_, other) = of("docker", "other")
    other.gate.away = True
    await engines.open()
    assert engines.ready
    with pytest.raises(RuntimeUnavailableError):
        engines.check("other")
    await engines.close()


async def test_a_callback_that_breaks_stops_neither_the_others_nor_the_watch(
    logged: list[dict[str, Any]],
) -> None:
    engines, (docker,) = of("docker")
    told: list[bool] = []

    def break_() -> None:
        raise ValueError("a defect")

    engines.on_change(break_)
    engines.on_change(lambda: told.append(engines.ready))
    await engines.open()
    for away in (True, False):
        docker.gate.away = away
        await asyncio.sleep(2)
    assert told == [True, False, True]
    assert [entry["event"] for entry in logged].count("callback broke") == 3
    await engines.close()


async def test_a_check_that_breaks_counts_as_no_answer(logged: list[dict[str, Any]]) -> None:
    engines, (docker,) = of("docker")
    docker.gate.failures["check"] = ValueError("a defect")
    await engines.open()
    with pytest.raises(RuntimeUnavailableError):
        engines.check("")
    assert "engine check broke" in [entry["event"] for entry in logged]
    docker.gate.failures.clear()
    await asyncio.sleep(2)
    engines.check("")
    await engines.close()


async def test_one_engine_that_hangs_does_not_hide_another() -> None:
    engines, (docker, other) = of("docker", "other")
    await engines.open()
    docker.gate.hold("check")
    other.gate.away = True
    await asyncio.sleep(2)
    assert not engines.status()[1].ready
    await engines.close()
