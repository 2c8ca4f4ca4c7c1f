"""Stands around every call: request id, log, metrics, and the one place that sends errors."""

from __future__ import annotations

import asyncio
import os
import random
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, TypeAlias

import grpc
import structlog
from structlog.contextvars import bind_contextvars

from skybridge_server.api.errors import DETAILS_KEY, status_of
from skybridge_server.api.malformed import all_checked, checked, lenient
from skybridge_server.api.prometheus import CallMetrics

REQUEST_ID_KEY = "x-request-id"
_RANDOM = random.Random()  # noqa: S311 - seeded by the kernel; ids of requests are no secret
os.register_at_fork(after_in_child=_RANDOM.seed)
_REQUEST_ID = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

log = structlog.get_logger()


class Methods(grpc.GenericRpcHandler):
    """All methods of a server, each wrapped once; those that stream responses are async generators.

    Generated code fills it as it would fill a server. Methods are found by their names as calls
    come, and are not registered with grpc, whose server would wait for the next call of every one
    of them anew with each call: with 50 methods that costs more than all else that it does.
    """

    def __init__(self, metrics: CallMetrics) -> None:
        self._metrics = metrics
        self._handlers: dict[str, Handler] = {}

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Handler]) -> None:
        """Take the methods of a service."""
        for name, handler in handlers.items():
            method = f"{service}/{name}"
            self._handlers[f"/{method}"] = self._wrap(method, handler)

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Take the same methods in the form that cannot be looked into: nothing is left to do."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """Return what handles a method; None: there is no such method."""
        return self._handlers.get(handler_call_details.method)

    def _wrap(self, method: str, handler: Handler) -> Handler:
        kind = _KINDS[handler.request_streaming, handler.response_streaming]
        check = all_checked if handler.request_streaming else checked
        wrap = self._stream if handler.response_streaming else self._unary
        wrapped: Handler = getattr(grpc, f"{kind}_rpc_method_handler")(
            wrap(method, getattr(handler, kind), check),
            handler.request_deserializer and lenient(handler.request_deserializer),
            handler.response_serializer,
        )
        return wrapped

    def _unary(
        self,
        method: str,
        behaviour: Callable[[Any, Context], Awaitable[Any]],
        check: Callable[[Any], Any],
    ) -> Callable[[Any, Context], Awaitable[Any]]:
        async def call(request: Any, context: Context) -> Any:
            async with _Call(method, context, self._metrics):
                return await behaviour(check(request), context)

        return call

    def _stream(
        self,
        method: str,
        behaviour: Callable[[Any, Context], AsyncGenerator[Any, None]],
        check: Callable[[Any], Any],
    ) -> Callable[[Any, Context], Awaitable[None]]:
        async def call(request: Any, context: Context) -> None:
            # Left to grpc, the generator of a cancelled call would end whenever it is collected.
            async with (
                _Call(method, context, self._metrics),
                aclosing(behaviour(check(request), context)) as responses,
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


class _Call:
    """One call, from its request id to its end."""

    __slots__ = ("_context", "_method", "_metrics", "_request_id", "_started")

    def __init__(self, method: str, context: Context, metrics: CallMetrics) -> None:
        self._method = method
        self._context = context
        self._metrics = metrics
        self._request_id = _request_id(context)
        self._started = time.perf_counter()

    async def __aenter__(self) -> None:
        bind_contextvars(request_id=self._request_id, rpc=self._method)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._end(grpc.StatusCode.OK)
        elif is_lost(error):
            self._end(grpc.StatusCode.CANCELLED)
            if isinstance(error, grpc.aio.BaseError):
                # A write that met a caller who had just left; grpc would log it as a defect.
                raise asyncio.CancelledError from error
        else:
            await self._fail(error)

    async def _fail(self, error: BaseException) -> None:
        status = status_of(error, self._request_id)
        if status.code is grpc.StatusCode.INTERNAL:
            log.error("call failed", exc_info=error)
        self._end(status.code, message=status.message)
        await self._context.abort(
            status.code,
            status.message,
            ((DETAILS_KEY, status.details), (REQUEST_ID_KEY, self._request_id)),
        )

    def _end(self, code: grpc.StatusCode, **facts: str) -> None:
        seconds = time.perf_counter() - self._started
        self._metrics.observe(self._method, code, seconds)
        write = log.debug if code is grpc.StatusCode.OK else log.info
        write("call", code=code.name, seconds=round(seconds, 6), **facts)


def _request_id(context: Context) -> str:
    """Return the caller's id if it is fit for a log, else a new one."""
    for key, value in context.invocation_metadata() or ():
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
    if isinstance(error, grpc.aio.BaseError):
        return not isinstance(error, grpc.aio.UsageError)
    return not isinstance(error, Exception)
