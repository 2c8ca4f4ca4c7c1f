"""Stands around every call: request id, access, log, metrics, and the one place of errors."""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, TypeAlias

import grpc
import structlog
from structlog.contextvars import bind_contextvars

from skybridge_server.api.access import Facts, Guard, GuardOf, Permit, changes
from skybridge_server.api.errors import DETAILS_KEY, status_of
from skybridge_server.api.malformed import checked, lenient
from skybridge_server.api.prometheus import CallMetrics
from skybridge_server.api.wire.calls import Call, Method
from skybridge_server.api.wire.status import CallError
from skybridge_server.errors import SkybridgeError
from skybridge_server.http2.streams import StreamClosedError

REQUEST_ID_KEY = "x-request-id"
_RANDOM = random.Random()  # noqa: S311 - seeded by the kernel; ids of requests are no secret
os.register_at_fork(after_in_child=_RANDOM.seed)
_REQUEST_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Take: TypeAlias = Callable[[Any, Call, Facts], Any]
"""Returns what is served of what came with a call."""

FIRST_REQUEST_SECONDS = 5.0
"""For who may not call to send something; it is refused thereafter anyway."""
SPOKEN_TO_FIRST = {"skybridge.faas.v1.ExecutionService/AttachExecution"}
"""Methods whose callers send a request before they hear anything."""

log = structlog.get_logger()


class Methods:
    """All methods of a server, each wrapped once; those that stream responses are async generators.

    Generated code fills it as it would fill a server of grpc.
    """

    def __init__(self, metrics: CallMetrics, guard_of: GuardOf) -> None:
        self._metrics = metrics
        self._guard_of = guard_of
        self._methods: dict[str, Method] = {}

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Take the methods of a service."""
        for name, handler in handlers.items():
            method = f"{service}/{name}"
            self._methods[f"/{method}"] = self._wrap(method, handler)

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Take the same methods in the form that cannot be looked into: nothing is left to do."""

    def find(self, path: str) -> Method | None:
        """Return what answers calls of a path; None: there is no such method."""
        return self._methods.get(path)

    def _wrap(self, method: str, handler: Handler) -> Method:
        behaviour = getattr(handler, _KINDS[handler.request_streaming, handler.response_streaming])
        take = _take_all if handler.request_streaming else _take
        if method in SPOKEN_TO_FIRST:
            take = _take_all_later
        wrap = self._stream if handler.response_streaming else self._unary
        return Method(
            wrap(method, behaviour, partial(take, self._guard_of(method))),
            lenient(handler.request_deserializer or bytes),
            handler.response_serializer or bytes,
            handler.request_streaming,
            handler.response_streaming,
        )

    def _unary(
        self,
        method: str,
        behaviour: Callable[[Any, Call], Awaitable[Any]],
        take: Take,
    ) -> Callable[[Any, Call], Awaitable[Any]]:
        async def call(request: Any, context: Call) -> Any:
            async with _Watched(method, context, self._metrics) as facts:
                return await behaviour(take(request, context, facts), context)

        return call

    def _stream(
        self,
        method: str,
        behaviour: Callable[[Any, Call], AsyncGenerator[Any, None]],
        take: Take,
    ) -> Callable[[Any, Call], Awaitable[None]]:
        async def call(request: Any, context: Call) -> None:
            # Otherwise the generator of a cancelled call would end whenever it is collected.
            async with (
                _Watched(method, context, self._metrics) as facts,
                aclosing(behaviour(take(request, context, facts), context)) as responses,
            ):
                async for response in responses:
                    await context.write(response)

        return call


_KINDS = {
    (False, False): "unary_unary",
    (False, True): "unary_stream",
    (True, False): "stream_unary",
    (True, True): "stream_stream",
}


def _take(guard: Guard, request: Any, context: Call, facts: Facts) -> Any:
    """Return a request. InvalidArgumentError: it was malformed. Those of guards."""
    permit = guard(context, facts)
    checked(request)
    permit(request)
    return request


def _take_all(
    guard: Guard, requests: AsyncIterable[Any], context: Call, facts: Facts
) -> AsyncGenerator[Any]:
    """Return requests as far as they may be served. Those of guards."""
    return _permitted(guard(context, facts), requests)


def _take_all_later(
    guard: Guard, requests: AsyncIterable[Any], context: Call, facts: Facts
) -> AsyncGenerator[Any]:
    """Return requests as far as they may be served; who may not call hears so at their first.

    A refusal that is sooner would meet the first request on its way, and clients of grpc.aio then
    say INTERNAL, whatever the server said.
    """
    try:
        return _take_all(guard, requests, context, facts)
    except SkybridgeError as error:
        return _permitted(partial(_refuse, error), _once_heard(requests))


async def _permitted(permit: Permit, requests: AsyncIterable[Any]) -> AsyncGenerator[Any]:
    async for request in requests:
        checked(request)
        permit(request)
        yield request


def _refuse(error: SkybridgeError, _: Any) -> NoReturn:
    raise error


async def _once_heard(requests: AsyncIterable[Any]) -> AsyncGenerator[None]:
    """Yield once: the first request is there, or there will be none, or it takes too long."""
    with suppress(TimeoutError):
        async with asyncio.timeout(FIRST_REQUEST_SECONDS):
            await anext(aiter(requests), None)
    yield None


class _Watched:
    """One call, from its request id to its end."""

    __slots__ = ("_facts", "_method", "_metrics", "_request_id", "_started")

    def __init__(self, method: str, context: Call, metrics: CallMetrics) -> None:
        self._method = method
        self._metrics = metrics
        self._request_id = _request_id(context)
        self._started = time.perf_counter()
        self._facts: Facts = {}

    async def __aenter__(self) -> Facts:
        """Return what the log is to say of the call, and what may be added to it."""
        bind_contextvars(request_id=self._request_id, rpc=self._method)
        return self._facts

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._end(grpc.StatusCode.OK)
        elif isinstance(error, CallError):
            self._end(error.code, message=error.message)
        elif is_lost(error):
            self._end(grpc.StatusCode.CANCELLED)
        else:
            self._fail(error)

    def _fail(self, error: BaseException) -> NoReturn:
        status = status_of(error, self._request_id)
        if status.code is grpc.StatusCode.INTERNAL:
            log.error("call failed", exc_info=error)
        self._end(status.code, message=status.message)
        raise CallError(
            status.code,
            status.message,
            ((DETAILS_KEY, status.details), (REQUEST_ID_KEY, self._request_id)),
        ) from error

    def _end(self, code: grpc.StatusCode, **facts: str) -> None:
        seconds = time.perf_counter() - self._started
        self._metrics.observe(self._method, code, seconds)
        # Who has changed what is of interest later; what was only read or executed is not.
        quiet = code is grpc.StatusCode.OK and not changes(self._method)
        write = log.debug if quiet else log.info
        write("call", code=code.name, seconds=round(seconds, 6), **self._facts, **facts)


def _request_id(context: Call) -> str:
    """Return the caller's id if it is fit for a log, else a new one."""
    for key, value in context.invocation_metadata():
        if key == REQUEST_ID_KEY and isinstance(value, str) and _REQUEST_ID.fullmatch(value):
            return value
    return f"{_RANDOM.getrandbits(64):016x}"


def is_lost(error: BaseException) -> bool:
    """Tell whether nobody waits for the answer: cancelled, past the deadline, or cut off.

    A CancelledError of somebody else's making, such as a task that the handler waited for, is a
    defect: passed on, it would leave the caller without an answer.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return isinstance(error, StreamClosedError) or not isinstance(error, Exception)
