"""HTTP: the instance listens on $PORT, and a POST is an execution.

The runtime contract of Knative and Cloud Run, which Functions Framework and of-watchdog speak too.
The payload is the body, the caller's headers go with it, so that CloudEvents pass unchanged in
binary mode (headers `ce-*`) and structured mode (application/cloudevents+json).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus

from skybridge_server.contracts.base import Answer, Call, Connect, Sink
from skybridge_server.contracts.connections import Connections
from skybridge_server.contracts.heads import ResponseHead, check_names, end_to_end, render_fields
from skybridge_server.contracts.http1 import Connection
from skybridge_server.errors import FieldViolation, InstanceGoneError, InvalidArgumentError
from skybridge_server.models.executions import Failure, FailureReason
from skybridge_server.models.functions import FunctionSpec
from skybridge_server.models.names import FunctionName

DEFAULT_PORT = 8080
DEFAULT_CONTENT_TYPE = "application/octet-stream"

FIRST_PAUSE = 0.001
LAST_PAUSE = 0.032
"""Seconds between looks whether the instance listens."""

_TARGET = re.compile(r"/[!-~]*")
_NOT_THEIRS = re.compile(r"host|content-length|expect|function-execution-id|x-skybridge-.*")
_FIRST_ERROR = 400


def environment(
    spec: FunctionSpec, function: FunctionName, revision: int, port: int
) -> dict[str, str]:
    """Return the environment of an instance, the function's own variables included."""
    return {
        **spec.env,
        "PORT": str(port),
        "K_SERVICE": function.function,
        "K_CONFIGURATION": function.function,
        "K_REVISION": f"{function.function}-{revision:05d}",
        "SKYBRIDGE_FUNCTION": str(function),
        "SKYBRIDGE_REVISION": str(revision),
    }


class HttpConversation:
    """Speaks to one instance, over one connection for each call that it does at once."""

    def __init__(
        self, connect: Connect, function: FunctionName, *, path: str = "/", health_path: str = ""
    ) -> None:
        """Prepare; `health_path` '' means that an instance which listens is ready.

        InvalidArgumentError: a path cannot be sent.
        """
        host = f"{function.function}.{function.namespace}"
        self._connections = Connections(connect)
        self._post = _start("POST", path, host)
        self._get = _start("GET", health_path, host) + b"\r\n" if health_path else b""
        self._from = {
            "forwarded": f"for=unknown;host={host};proto=http",
            "x-forwarded-for": "unknown",
            "x-forwarded-proto": "http",
            "x-forwarded-host": host,
        }
        usual = self._from | {"content-type": DEFAULT_CONTENT_TYPE}
        self._plain = self._post + render_fields(usual)
        """What all calls start with that bring nothing but their input."""

    async def ready(self) -> None:
        pause = FIRST_PAUSE
        while not await self._is_ready():
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)

    def begin(self, call: Call) -> HttpExchange | None:
        head = self._head_of(call)
        connection = self._connections.kept()
        if connection is None:
            return None
        return HttpExchange(self._connections, connection, head, call.input)

    async def connect(self) -> None:
        self._connections.give_back(self._connections.kept() or await self._connections.new())

    async def call(self, call: Call, sink: Sink) -> Answer:
        exchange = self.begin(call)
        if exchange is None:
            try:
                connection = await self._connections.new()
            except OSError as error:
                raise InstanceGoneError(f"the instance takes no connection: {error}") from error
            head = self._head_of(call)
            exchange = HttpExchange(self._connections, connection, head, call.input)
        return await exchange.answer(sink)

    async def close(self) -> None:
        await self._connections.close()

    async def _is_ready(self) -> bool:
        try:
            connection = await self._connections.new()
        except OSError:
            return False
        if not self._get:
            self._connections.give_back(connection)
            return True
        exchange = HttpExchange(self._connections, connection, self._get, b"")
        try:
            answer = await exchange.answer(_ignore)
        except InstanceGoneError:
            return False
        return answer.failure is None

    def _head_of(self, call: Call) -> bytes:
        ours = (
            f"content-length: {len(call.input)}\r\n"
            f"x-skybridge-execution-id: {call.execution}\r\n"
            f"x-skybridge-deadline: {call.deadline.isoformat(timespec='milliseconds')}\r\n"
            f"function-execution-id: {call.execution}\r\n\r\n"
        )
        return self._start_of(call) + ours.encode()

    def _start_of(self, call: Call) -> bytes:
        """Return the head up to the fields that no caller has a say in."""
        if not (call.headers or call.content_type or call.traceparent):
            return self._plain
        fields = self._from | _of_caller(call.headers)
        fields["content-type"] = call.content_type or DEFAULT_CONTENT_TYPE
        if call.traceparent:
            fields["traceparent"] = call.traceparent
        return self._post + render_fields(fields)


class HttpExchange:
    """A request, and the response as it comes."""

    def __init__(
        self, connections: Connections, connection: Connection, head: bytes, body: bytes
    ) -> None:
        """Send a request over a connection that was taken for it."""
        self._connections = connections
        self._connection = connection
        self._delivery = connection.send(head, body)

    def on_whole(self, call: Callable[[], None]) -> None:
        self._delivery.on_whole(call)

    @property
    def collected(self) -> Sequence[bytes] | None:
        return self._delivery.collected

    def end(self) -> Answer:
        head = self._connection.finish()
        self._connections.give_back(self._connection)
        return _answer(head)

    async def answer(self, sink: Sink) -> Answer:
        try:
            await self._delivery.to(sink)
        except BaseException:
            self.abandon()
            raise
        return self.end()

    def abandon(self) -> None:
        self._connections.drop(self._connection)


def _of_caller(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a caller that go on to the function."""
    if not headers:
        return {}
    check_names(headers)
    fields = end_to_end({name.lower(): value for name, value in headers.items()})
    return {name: value for name, value in fields.items() if not _NOT_THEIRS.fullmatch(name)}


def _answer(head: ResponseHead) -> Answer:
    failure = None
    if head.status >= _FIRST_ERROR:
        failure = Failure(FailureReason.FUNCTION_ERROR, f"the function answered {_said(head)}")
    return Answer(
        failure=failure,
        content_type=head.fields.get("content-type", ""),
        headers=head.headers,
        status=head.status,
        reusable=True,
    )


def _said(head: ResponseHead) -> str:
    try:
        return f"{head.status} {HTTPStatus(head.status).phrase}"
    except ValueError:
        return str(head.status)


def _start(method: str, target: str, host: str) -> bytes:
    if not _TARGET.fullmatch(target):
        raise InvalidArgumentError(
            FieldViolation("path", f"{target!r} must start with / and have no spaces")
        )
    return f"{method} {target} HTTP/1.1\r\nhost: {host}\r\nuser-agent: skybridge\r\n".encode()


def _ignore(data: bytes) -> None:
    """Take the body of a health check."""
