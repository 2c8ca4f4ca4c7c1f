"""The two directions of AttachExecution: what the caller sends, and what goes out meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from skybridge.faas.v1 import execution_service_pb2 as pb
from skybridge_server.api.convert.asked import check_chunk, check_signal
from skybridge_server.errors import FieldViolation, InvalidArgumentError
from skybridge_server.models.journal import Event
from skybridge_server.services.attach import AttachSession
from skybridge_server.services.requests import Heartbeat, InputAck
from skybridge_server.services.violations import Violations

Item = Event | Heartbeat | InputAck
T = TypeVar("T")


async def exchange(
    messages: AsyncIterator[pb.AttachExecutionRequest], session: AttachSession, heartbeat: timedelta
) -> AsyncGenerator[Item]:
    """Yield what goes to the caller, up to the result, while the session gets what he sends."""
    sequence = 0
    outgoing, incoming = session.events(heartbeat), _forward(messages, session)
    async with aclosing(_merge(outgoing, incoming)) as items:
        async for item in items:
            if isinstance(item, _Probe):
                yield Heartbeat(sequence, datetime.now(UTC))
            else:
                sequence = item.sequence
                yield item


def unexpected(kind: str | None, expected: str) -> InvalidArgumentError:
    """Return the error for a message of the wrong kind."""
    found = f"is `{kind}`" if kind else "is none that this server knows"
    return InvalidArgumentError(FieldViolation(kind or "message", f"must be {expected}; {found}"))


class _Probe:
    """Asks for a message to the caller: it only goes out if he is still there."""


async def _forward(
    messages: AsyncIterator[pb.AttachExecutionRequest], session: AttachSession
) -> AsyncGenerator[_Probe]:
    """Hand on what the caller sends; the end of his messages is the end of stdin."""
    position, ended = 0, False
    async for message in messages:
        match message.WhichOneof("message"):
            case "input":
                chunk = message.input
                with Violations() as wrong:
                    check_chunk(chunk, wrong)
                await session.write(chunk.offset, chunk.data, chunk.end_of_input)
                position, ended = chunk.offset + len(chunk.data), chunk.end_of_input
            case "signal":
                with Violations() as wrong:
                    check_signal(message.signal, wrong)
                await session.signal(message.signal.name)
            case kind:
                raise unexpected(kind, "`input` or `signal`, after the first message")
    if not ended:
        # A call that was cut looks the same at first: its messages end. But then the probe fails,
        # this is not resumed, and stdin stays open for the caller to come back.
        yield _Probe()
        await session.write(position, b"", True)


async def _merge(outgoing: AsyncGenerator[T], incoming: AsyncGenerator[T]) -> AsyncGenerator[T]:
    """Yield the items of both as they come, until `outgoing` ends.

    Either is resumed only once its last item was taken. An error of either ends both.
    """
    following = {source: asyncio.create_task(_next(source)) for source in (outgoing, incoming)}
    try:
        while True:
            await asyncio.wait(following.values(), return_when=asyncio.FIRST_COMPLETED)
            for source, task in tuple(following.items()):
                if not task.done():
                    continue
                item = task.result()
                if item is not None:
                    yield item
                    following[source] = asyncio.create_task(_next(source))
                elif source is outgoing:
                    return
                else:
                    del following[source]
    finally:
        for task in following.values():
            task.cancel()
        await asyncio.gather(*following.values(), return_exceptions=True)
        for source in (outgoing, incoming):
            await source.aclose()


async def _next(source: AsyncIterator[T]) -> T | None:
    return await anext(source, None)
