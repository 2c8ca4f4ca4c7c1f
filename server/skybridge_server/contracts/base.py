"""How a warm instance is spoken to: one conversation with each, whatever its contract.

A conversation knows sockets and bytes. What becomes of the instance, and of the execution when
the conversation breaks, others decide. Every method may be cancelled.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from skybridge_server.models.executions import Failure
from skybridge_server.models.values import value


@value(frozen=True, slots=True)
class Call:
    """One execution, as an instance is asked to do it."""

    execution: str
    """Id of the execution: ASCII without spaces; an instance never has two calls of one at once."""
    function: str
    """Full name of the function."""
    revision: int
    input: bytes
    content_type: str
    """Media type of `input`; '' where the caller named none."""
    headers: Mapping[str, str]
    """Of the caller, passed on; those that belong to the contract are left out."""
    deadline: datetime
    traceparent: str
    """W3C trace context; '' without a trace."""


@value(frozen=True, slots=True)
class Answer:
    """What an instance said, once all of it has gone to the sink."""

    failure: Failure | None
    """None: the function succeeded."""
    content_type: str
    headers: Mapping[str, str]
    """Names in lower case; values of a name that comes twice are joined with ', '."""
    status: int
    """HTTP status; 0 where the contract has none."""
    reusable: bool
    """Whether the instance may take another call."""


Sink = Callable[[bytes], Awaitable[object] | None]
"""Takes output as it arrives, in chunks of 1 byte to 64 KiB.

None: go on. An awaitable: it is awaited before the next chunk, and in the meantime the instance is
held back once 256 KiB wait. What a sink raises ends the call, and `call` raises it.
"""

Connect = Callable[[], Awaitable[socket.socket]]
"""Gives a new connected stream socket into the instance, non-blocking; the caller closes it.

OSError: nothing listens there (yet).
"""


class Exchange(Protocol):
    """A call that an instance has been given, and its answer as it comes."""

    def on_whole(self, call: Callable[[], None]) -> None:
        """Have something called, once, at the end of the answer, or when it gets a large one.

        What it raises would end the connection. `answer` takes it back.
        """
        ...

    @property
    def collected(self) -> Sequence[bytes] | None:
        """All of the output, once the answer has ended well; None before, and if it broke."""
        ...

    def end(self) -> Answer:
        """Return the answer whose output was `collected`."""
        ...

    async def answer(self, sink: Sink) -> Answer:
        """Give the output to a sink, and return the answer; raises as `Conversation.call` does."""
        ...

    def abandon(self) -> None:
        """Let go of it: nobody waits for the answer, and the instance is of no use any more."""
        ...


class Conversation(Protocol):
    """How an instance is spoken to.

    After an InstanceError the instance is of no use any more, and neither is one whose call was
    cancelled or whose sink failed: only `close` may then be called. The owner also calls `close`
    when the instance has ended by itself, which not every contract can see.
    """

    async def ready(self) -> None:
        """Return once the instance takes calls; the caller bounds it by the start timeout.

        InitError: the function cannot be initialised. ProtocolError: it speaks something else.
        """
        ...

    def begin(self, call: Call) -> Exchange | None:
        """Have an execution done, as `call` does; None: that needs `connect` first."""
        ...

    async def connect(self) -> None:
        """Get ready to `begin` a call. OSError, InstanceError: it cannot, and nothing was sent."""
        ...

    async def call(self, call: Call, sink: Sink) -> Answer:
        """Have an execution done; several at once, where the function allows that.

        A failure of the function is an answer. ProtocolError: what came is not the protocol.
        InstanceGoneError: the connection ended before the answer did; the engine may know why.
        InvalidArgumentError: a header of the call cannot be sent; nothing was.
        """
        ...

    async def close(self) -> None:
        """Let go of all connections; calls that wait raise InstanceGoneError."""
        ...
