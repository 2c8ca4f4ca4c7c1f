"""LAMBDA: the server hosts the AWS Lambda Runtime API, and the instance comes to fetch its work.

The API of version 2018-06-01, for one instance: it sees its own executions and no others. Runtimes
end themselves after any answer but a good one, and after a connection that breaks while they wait
for work: so none is refused that behaves, and a poll is kept open for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from skybridge_server.contracts import lambda_errors
from skybridge_server.contracts.base import Answer, Call, Sink
from skybridge_server.contracts.heads import RequestHead
from skybridge_server.contracts.http1_server import ServerConnection, Upload
from skybridge_server.contracts.lambda_events import DEFAULT_REGION, arn
from skybridge_server.contracts.lambda_requests import (
    ACCEPTED,
    NO_SUCH_PATH,
    WRONG_ID,
    WRONG_MODE,
    ErrorOutput,
    Invocation,
    Output,
    Report,
)
from skybridge_server.errors import InitError, InstanceError, InstanceGoneError, ProtocolError
from skybridge_server.models.names import FunctionName

MAX_CONNECTIONS = 256
"""More than any runtime needs, and too few to use up the server's descriptors."""

_ROOT = "/2018-06-01/runtime/"
_INVOCATION = re.compile(_ROOT + r"invocation/([^/]+)/(response|error)")
_MODE = "lambda-runtime-function-response-mode"


class LambdaConversation:
    """Speaks to one instance, over the connections that it makes."""

    def __init__(
        self, function: FunctionName, revision: int, *, region: str = DEFAULT_REGION
    ) -> None:
        self._arn = arn(function, revision, region)
        self._waiting: deque[Invocation] = deque()
        self._polls: deque[ServerConnection] = deque()
        self._fetched: dict[str, Invocation] = {}
        self._connections: set[ServerConnection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._initialised = asyncio.Event()
        self._error: InstanceError | None = None

    def accepted(self, sock: socket.socket) -> None:
        """Take a connection that the instance made to RUNTIME_API; it is closed with us."""
        task = asyncio.get_running_loop().create_task(self._serve(sock))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def ready(self) -> None:
        await self._initialised.wait()
        if self._error is not None:
            raise self._error

    def begin(self, call: Call) -> LambdaExchange:
        if self._error is not None:
            raise self._error
        invocation = Invocation(call, self._arn)
        self._waiting.append(invocation)
        self._hand_out()
        return LambdaExchange(self, invocation)

    async def connect(self) -> None:
        """It is the instance that connects; once it has ended, it will not."""
        if self._error is not None:
            raise self._error

    async def call(self, call: Call, sink: Sink) -> Answer:
        return await self.begin(call).answer(sink)

    def forget(self, invocation: Invocation) -> None:
        """Do not hand out an invocation that still waits."""
        with contextlib.suppress(ValueError):
            self._waiting.remove(invocation)

    async def close(self) -> None:
        self._end(InstanceGoneError("the instance has ended"))
        await asyncio.gather(*self._opening)
        for connection in [*self._connections]:
            await connection.close()

    # What connections tell.

    def connected(self, connection: ServerConnection) -> None:
        self._connections.add(connection)
        if self._error is not None or len(self._connections) > MAX_CONNECTIONS:
            connection.abort()

    def requested(self, connection: ServerConnection, head: RequestHead) -> Upload:
        request = (head.method, head.target)
        if request == ("GET", _ROOT + "invocation/next"):
            return Report(lambda _: self._polled(connection))
        if request == ("POST", _ROOT + "init/error"):
            return Report(lambda body: self._init_failed(connection, head.fields, body))
        match = _INVOCATION.fullmatch(head.target)
        if match is None or head.method != "POST":
            return Report(lambda _: connection.respond(NO_SUCH_PATH))
        return self._answered(connection, head.fields, match[1], failed=match[2] == "error")

    def broken(self, error: ProtocolError) -> None:
        self._end(error)

    def lost(self, connection: ServerConnection) -> None:
        self._connections.discard(connection)
        with contextlib.suppress(ValueError):
            self._polls.remove(connection)

    def _polled(self, connection: ServerConnection) -> None:
        """Have a connection wait for work; the first one says that the instance is ready."""
        self._polls.append(connection)
        self._initialised.set()
        self._hand_out()

    def _init_failed(
        self, connection: ServerConnection, headers: Mapping[str, str], body: bytes
    ) -> None:
        connection.respond(ACCEPTED)
        said = lambda_errors.describe(headers, body)
        self._end(InitError(f"the function cannot be initialised: {said}"))

    def _answered(
        self,
        connection: ServerConnection,
        headers: Mapping[str, str],
        execution: str,
        *,
        failed: bool,
    ) -> Upload:
        invocation = self._fetched.get(execution)
        if invocation is None or not _is_meant(headers, invocation):
            return Report(lambda _: connection.respond(WRONG_ID))
        # Whatever comes now, it is the answer; there is no second one.
        del self._fetched[execution]
        mode = headers.get(_MODE, "streaming")
        if mode.lower() != "streaming":
            invocation.delivery.finish(ProtocolError(f"the response mode {mode[:80]!r}"))
            return Report(lambda _: connection.respond(WRONG_MODE))
        return (ErrorOutput if failed else Output)(connection, invocation, headers)

    def _hand_out(self) -> None:
        while self._waiting and self._polls:
            invocation = self._waiting.popleft()
            self._fetched[invocation.execution] = invocation
            self._polls.popleft().respond(invocation.event)

    def _end(self, error: InstanceError) -> None:
        """Let everything that waits, and all that comes, fail; the first reason counts."""
        if self._error is None:
            self._error = error
        for invocation in [*self._waiting, *self._fetched.values()]:
            invocation.delivery.finish(self._error)
        self._waiting.clear()
        self._initialised.set()

    async def _serve(self, sock: socket.socket) -> None:
        try:
            if sock.family != socket.AF_UNIX:
                # Else the kernel holds back the end of an event for 40 ms.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            loop = asyncio.get_running_loop()
            await loop.connect_accepted_socket(lambda: ServerConnection(self), sock)
        except OSError:
            sock.close()  # the instance has hung up already


class LambdaExchange:
    """An invocation, and its answer as it comes."""

    def __init__(self, conversation: LambdaConversation, invocation: Invocation) -> None:
        self._conversation = conversation
        self._invocation = invocation

    def on_whole(self, call: Callable[[], None]) -> None:
        self._invocation.delivery.on_whole(call)

    @property
    def collected(self) -> Sequence[bytes] | None:
        return self._invocation.delivery.collected

    def end(self) -> Answer:
        return Answer(
            failure=self._invocation.failure,
            content_type=self._invocation.content_type,
            headers={},
            status=0,
            reusable=True,
        )

    async def answer(self, sink: Sink) -> Answer:
        try:
            await self._invocation.delivery.to(sink)
        finally:
            self.abandon()
        return self.end()

    def abandon(self) -> None:
        self._conversation.forget(self._invocation)


def _is_meant(fields: Mapping[str, str], invocation: Invocation) -> bool:
    """Whether a runtime that echoes the id of the invocation echoes this one."""
    return fields.get("lambda-runtime-invocation-id", invocation.id) == invocation.id
