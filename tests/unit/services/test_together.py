"""One of many executions for one caller: who leaves just as it takes longer leaves it once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from skybridge_server.models.names import FunctionName
from skybridge_server.services.requests import ExecutionRequest
from skybridge_server.services.together import Member, Outcome


@dataclass
class Running:
    """What has begun, as far as that is looked at."""

    end: asyncio.Future[None]
    over: bool = False


@dataclass
class Service:
    """Begins one execution, which others may go on with once."""

    begun: Running
    deeds: list[str] = field(default_factory=list)

    def begin(self, _: ExecutionRequest, **__: Any) -> Running:
        return self.begun

    def leave(self, begun: Running) -> None:
        self.deeds.append("leave")
        begun.over = True

    async def go_on(self, _: Running) -> None:
        self.deeds.append("go on")


async def deeds_of(*, leaving: bool) -> list[str]:
    told: list[Outcome] = []
    begun = Running(asyncio.get_running_loop().create_future())
    service: Any = Service(begun)
    request = ExecutionRequest(FunctionName("default", "hello"), b"")
    member = Member(service, request, told.append, time_left=None)
    begun.end.set_result(None)  # it takes longer; nobody has heard of that yet
    if leaving:
        member.leave()
    for _ in range(3):
        await asyncio.sleep(0)
    deeds: list[str] = service.deeds
    return deeds


async def test_what_takes_longer_goes_on() -> None:
    assert await deeds_of(leaving=False) == ["go on"]


async def test_what_was_left_just_then_does_not_go_on_as_well() -> None:
    assert await deeds_of(leaving=True) == ["leave"]
