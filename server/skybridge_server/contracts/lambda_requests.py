"""What a Lambda runtime can ask for: one class for each kind of request, which takes its body."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Mapping

from skybridge_server.contracts import lambda_errors
from skybridge_server.contracts.base import Call
from skybridge_server.contracts.delivery import Delivery
from skybridge_server.contracts.http1_server import ServerConnection
from skybridge_server.contracts.lambda_events import JSON, render_event
from skybridge_server.errors import InstanceError
from skybridge_server.models.executions import Failure

MAX_REPORT_BYTES = 64 * 1024
"""What is read of an error; the rest is only handed on as output."""


def _rendered(status: str, body: str) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {JSON}\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def _refusal(status: str, kind: str, message: str) -> bytes:
    return _rendered(status, f'{{"errorType": "{kind}", "errorMessage": "{message}"}}')


ACCEPTED = _rendered("202 Accepted", '{"status": "OK"}')
NO_SUCH_PATH = _refusal("404 Not Found", "NotFound", "no such path in the Runtime API")
WRONG_ID = _refusal("400 Bad Request", "InvalidRequestID", "no execution of this id waits")
WRONG_MODE = _refusal(
    "400 Bad Request", "Runtime.InvalidResponseModeHeader", "the response mode is not streaming"
)


class Invocation:
    """A call on its way: to be fetched, then to be answered."""

    def __init__(self, call: Call, function_arn: str) -> None:
        self.id = secrets.token_hex(8)
        self.execution = call.execution
        self.event = render_event(call, function_arn, self.id)
        self.delivery = Delivery()
        self.failure: Failure | None = None
        self.content_type = ""


class Report:
    """A request whose body, if it is of interest at all, is a short report."""

    def __init__(self, then: Callable[[bytes], None]) -> None:
        self._then = then
        self._body = b""

    def add(self, data: bytes, source: asyncio.ReadTransport) -> None:  # noqa: ARG002 - never full
        self._body += data[: MAX_REPORT_BYTES - len(self._body)]

    def finish(self, trailers: Mapping[str, str]) -> None:  # noqa: ARG002 - it has none
        self._then(self._body)

    def fail(self, error: InstanceError) -> None:
        """Nobody waits for it."""


class Output:
    """The answer to an invocation, which may be streamed; an error is output too, as at AWS."""

    def __init__(
        self, connection: ServerConnection, invocation: Invocation, headers: Mapping[str, str]
    ) -> None:
        self._connection = connection
        self._invocation = invocation
        self._headers = headers

    def add(self, data: bytes, source: asyncio.ReadTransport) -> None:
        self._invocation.delivery.add(data, source)

    def finish(self, trailers: Mapping[str, str]) -> None:
        self._connection.respond(ACCEPTED)
        self._invocation.content_type = self._headers.get("content-type", "")
        self._invocation.failure = self._failure(trailers)
        self._invocation.delivery.finish()

    def fail(self, error: InstanceError) -> None:
        self._invocation.delivery.finish(error)

    def _failure(self, trailers: Mapping[str, str]) -> Failure | None:
        return lambda_errors.failure_in(trailers)


class ErrorOutput(Output):
    """The error that ended an invocation."""

    _body = b""

    def add(self, data: bytes, source: asyncio.ReadTransport) -> None:
        self._body += data[: MAX_REPORT_BYTES - len(self._body)]
        super().add(data, source)

    def _failure(self, trailers: Mapping[str, str]) -> Failure | None:  # noqa: ARG002
        return lambda_errors.failure_of(self._headers, self._body)
