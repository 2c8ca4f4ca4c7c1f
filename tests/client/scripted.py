"""A real gRPC server on loopback whose answers are written down before the call.

It speaks for no rule of Skybridge: it lets a test say what comes back, when a stream is cut
and with which rich error, and tells afterwards what was asked.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self

import grpc
from google.protobuf import any_pb2
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2

from skybridge_client.channel import _services
from tests.support.waiting import PATIENCE


@dataclass(frozen=True)
class Abort:
    """Ends a call with an error; with a reason it looks like one of a Skybridge server."""

    code: grpc.StatusCode
    message: str = "scripted"
    reason: str = ""
    details: tuple[Message, ...] = ()
    raw: bytes | None = None

    def end(self, context: grpc.ServicerContext) -> NoReturn:
        details = list(self.details)
        if self.reason:
            info = error_details_pb2.ErrorInfo(reason=self.reason, domain="skybridge.faas")
            details.insert(0, info)
        if details or self.raw is not None:
            status = status_pb2.Status(code=self.code.value[0], message=self.message)
            status.details.extend(_pack(detail) for detail in details)
            raw = status.SerializeToString() if self.raw is None else self.raw
            context.set_trailing_metadata((("grpc-status-details-bin", raw),))
        context.abort(self.code, self.message)


CUT = Abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")


@dataclass(frozen=True)
class Visit:
    """One call that is under way."""

    request: Any
    """The request; an iterator of them where the caller streams."""
    gone: threading.Event
    """Set when the call is over, by whoever ended it."""


Step = Message | Abort | Callable[[Visit], Iterator[Message]]


def hang(visit: Visit) -> Iterator[Message]:
    """A step that says nothing until the caller has left."""
    visit.gone.wait(PATIENCE)
    yield from ()


@dataclass
class Scripted:
    """The server; `on` writes down the answers of one call each."""

    scripts: dict[str, deque[tuple[Step, ...]]] = field(default_factory=lambda: defaultdict(deque))
    requests: list[tuple[str, Any]] = field(default_factory=list)
    deadlines: list[float | None] = field(default_factory=list)
    callers: list[str] = field(default_factory=list)
    """What each call said of who makes it; '' where it said nothing."""
    address: str = ""
    over: threading.Event = field(default_factory=threading.Event)
    """Set when the first call is over, by whoever ended it."""

    def on(self, rpc: str, *steps: Step) -> Self:
        self.scripts[rpc].append(steps)
        return self

    def takes(self, rpc: str) -> bool:
        """Whether the next call is not refused at once."""
        script = self.scripts[rpc]
        return bool(script) and not isinstance(script[0][0], Abort)

    def asked(self, rpc: str) -> list[Any]:
        return [request for name, request in self.requests if name == rpc]

    def answer(self, method: MethodDescriptor, request: Any, context: Any) -> Iterator[Message]:
        gone = threading.Event()
        for event in (gone, self.over):
            if not context.add_callback(event.set):
                event.set()
        self.deadlines.append(context.time_remaining())
        self.callers.append(dict(context.invocation_metadata()).get("authorization", ""))
        if not method.client_streaming:
            self.requests.append((method.name, request))
        if not self.scripts[method.name]:
            context.abort(grpc.StatusCode.UNKNOWN, f"{method.name} was not expected")
        for step in self.scripts[method.name].popleft():
            if isinstance(step, Abort):
                step.end(context)
            elif callable(step):
                yield from step(Visit(self._noted(method, request), gone))
            else:
                yield step

    def _noted(self, method: MethodDescriptor, request: Any) -> Any:
        if not method.client_streaming:
            return request
        return self._noted_each(method, request)

    def _noted_each(self, method: MethodDescriptor, requests: Iterator[Any]) -> Iterator[Any]:
        for request in requests:
            self.requests.append((method.name, request))
            yield request


class _Handler(grpc.GenericRpcHandler):
    """Serves every method of every service from the scripts."""

    def __init__(self, scripted: Scripted) -> None:
        self._methods = {
            f"/{service.full_name}/{method.name}": _handler(scripted, method)
            for service in _services()
            for method in service.methods
        }

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return self._methods.get(details.method)


def _handler(scripted: Scripted, method: MethodDescriptor) -> Any:
    codec = {
        "request_deserializer": GetMessageClass(method.input_type).FromString,
        "response_serializer": lambda message: message.SerializeToString(),
    }

    def many(request: Any, context: grpc.ServicerContext) -> Iterator[Message]:
        if method.name == "InvokeStream" and scripted.takes(method.name):
            context.send_initial_metadata(())  # its callers wait for that
        return scripted.answer(method, request, context)

    def one(request: Any, context: grpc.ServicerContext) -> Message:
        return next(iter(scripted.answer(method, request, context)))

    if method.client_streaming:
        return grpc.stream_stream_rpc_method_handler(many, **codec)
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(many, **codec)
    return grpc.unary_unary_rpc_method_handler(one, **codec)


def _pack(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def serve(
    scripted: Scripted, credentials: grpc.ServerCredentials | None = None, port: int = 0
) -> grpc.Server:
    """Starts the server on a free port of loopback, unless told which."""
    options = [("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(8), handlers=[_Handler(scripted)], options=options)
    if credentials:
        port = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    else:
        port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    scripted.address = f"127.0.0.1:{port}"
    return server
