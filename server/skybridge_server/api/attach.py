"""The two directions of AttachExecution: what the caller sends, beside the events that go out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

from skybridge.faas.v1 import execution_service_pb2 as pb
from skybridge_server.api.convert.asked import check_chunk, check_signal
from skybridge_server.errors import FieldViolation, InvalidArgumentError
from skybridge_server.services.attach import AttachSession
from skybridge_server.services.rules import Violations

T = TypeVar("T")


async def forward(
    messages: AsyncIterator[pb.AttachExecutionRequest], session: AttachSession
) -> None:
    """Hand on what the caller sends; the end of the messages is the end of stdin."""
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
        await session.write(position, b"", True)


def unexpected(kind: str | None, expected: str) -> InvalidArgumentError:
    """Return the error for a message of the wrong kind."""
    found = f"is `{kind}`" if kind else "is none that this server knows"
    return InvalidArgumentError(FieldViolation(kind or "message", f"must be {expected}; {found}"))


async def alongside(events: AsyncIterator[T], other: asyncio.Task[None]) -> AsyncGenerator[T]:
    """Yield events while another task runs; if that fails, raise its error at once."""
    while True:
        following = asyncio.create_task(_next(events))
        try:
            if not other.done():
                await asyncio.wait((following, other), return_when=asyncio.FIRST_COMPLETED)
            if other.done():
                other.result()
            event = await following
        finally:
            if not following.done():
                following.cancel()
                # Until then the events are still being read, and cannot be closed.
                await asyncio.wait((following,))
        if event is None:
            return
        yield event


async def _next(events: AsyncIterator[T]) -> T | None:
    return await anext(events, None)
