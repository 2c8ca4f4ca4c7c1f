"""ExecutionService over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from skybridge.faas.v1 import execution_pb2
from skybridge.faas.v1 import execution_service_pb2 as pb
from skybridge.faas.v1.execution_service_pb2_grpc import ExecutionServiceServicer
from skybridge_server.api import access, attach, filters, invoke, names, paging
from skybridge_server.api.convert import asked
from skybridge_server.api.convert.executions import (
    delivery_to_proto,
    event_to_proto,
    execution_to_proto,
    fill_execution,
    log_entry_to_proto,
)
from skybridge_server.api.requests import request_key
from skybridge_server.models.executions import Execution
from skybridge_server.models.names import ExecutionName, FunctionName
from skybridge_server.services import rules
from skybridge_server.services.attach import AttachSession
from skybridge_server.services.deliveries import Deliveries
from skybridge_server.services.executions import ExecutionService
from skybridge_server.services.limits import Limits
from skybridge_server.services.requests import ExecutionRequest
from skybridge_server.services.violations import Violations

if TYPE_CHECKING:
    from skybridge.faas.v1.execution_service_pb2_grpc import _MaybeAsyncIterator as Messages
    from skybridge.faas.v1.execution_service_pb2_grpc import _ServicerContext as Context

EXECUTION_KEY = "skybridge-execution"
"""Initial metadata of a stream that starts an execution: its name."""

_ANSWER_TIME = 0.5
"""Seconds before the caller's deadline when a wait ends, for the answer; at most a tenth of it."""


class ExecutionServicer(ExecutionServiceServicer):
    """Executions, their journals and output."""

    def __init__(
        self,
        executions: ExecutionService,
        deliveries: Deliveries,
        limits: Limits,
        heartbeat: timedelta,
    ) -> None:
        """`heartbeat`: silence after which one is sent, unless the caller says otherwise."""
        self._executions = executions
        self._deliveries = deliveries
        self._limits = limits
        self._heartbeat = heartbeat

    async def ExecuteFunction(
        self, request: pb.ExecuteFunctionRequest, context: Context
    ) -> pb.ExecuteFunctionResponse:
        wanted = self._wanted_executed(request)
        ended = await self._executions.execute(wanted, time_left=_time_left(context))
        response = pb.ExecuteFunctionResponse()
        fill_execution(response.execution, *ended)
        return response

    async def InvokeStream(
        self, request_iterator: Messages[pb.InvokeStreamRequest], context: Context
    ) -> AsyncIterator[pb.InvokeStreamResponse]:
        await _announce(context)
        pipeline = invoke.Pipeline(
            self._executions, self._wanted_of_many, partial(_time_left, context)
        )
        async with aclosing(pipeline.answers(request_iterator)) as answers:
            async for answer in answers:
                yield answer

    async def ExecuteBatch(
        self, request: pb.ExecuteBatchRequest, context: Context
    ) -> pb.ExecuteBatchResponse:
        return await invoke.batch(
            request, self._executions, self._wanted_of_many, _time_left(context)
        )

    async def StartExecution(
        self, request: pb.StartExecutionRequest, context: Context
    ) -> pb.StartExecutionResponse:
        with Violations() as wrong:
            start_time = asked.start_time(request, wrong)
            wanted = self._wanted(
                "StartExecution", request, wrong, start_time=start_time, background=True
            )
        execution = await self._executions.start(wanted)
        response = pb.StartExecutionResponse()
        await self._fill(response.execution, execution)
        return response

    async def StreamExecution(
        self, request: pb.StreamExecutionRequest, context: Context
    ) -> AsyncIterator[pb.StreamExecutionResponse]:
        with Violations() as wrong:
            wanted = self._wanted("StreamExecution", request, wrong)
            cancel_after = asked.cancel_after(request, wrong)
            heartbeat = asked.heartbeat(request, self._heartbeat, wrong)
        items = self._executions.stream(wanted, cancel_after=cancel_after, heartbeat=heartbeat)
        async with aclosing(items):
            async for item in items:
                if isinstance(item, ExecutionName):
                    name = item
                    await _announce(context, name)
                else:
                    yield pb.StreamExecutionResponse(event=event_to_proto(name, item))

    async def WatchExecution(
        self, request: pb.WatchExecutionRequest, context: Context
    ) -> AsyncIterator[pb.WatchExecutionResponse]:
        with Violations() as wrong:
            name = names.execution(request.name, "name", wrong)
            after = asked.after_sequence(request.after_sequence, "after_sequence", wrong)
            heartbeat = asked.heartbeat(request, self._heartbeat, wrong)
        items = self._executions.watch(name, after=after, heartbeat=heartbeat)
        async with aclosing(items):
            async for item in items:
                yield pb.WatchExecutionResponse(event=event_to_proto(name, item))

    async def AttachExecution(
        self, request_iterator: Messages[pb.AttachExecutionRequest], context: Context
    ) -> AsyncIterator[pb.AttachExecutionResponse]:
        messages = aiter(request_iterator)
        session = await self._session(await anext(messages, pb.AttachExecutionRequest()))
        try:
            await _announce(context, session.name)
            items = attach.exchange(messages, session, self._heartbeat)
            async with aclosing(items):
                async for item in items:
                    yield pb.AttachExecutionResponse(event=event_to_proto(session.name, item))
        finally:
            await session.close()

    async def GetExecution(
        self, request: pb.GetExecutionRequest, context: Context
    ) -> pb.GetExecutionResponse:
        with Violations() as wrong:
            name = names.execution(request.name, "name", wrong)
            full = asked.wants_output(request, wrong)
        execution = await self._executions.get(name)
        response = pb.GetExecutionResponse()
        if full:
            await self._fill(response.execution, execution)
            told = await self._deliveries.of_execution(execution)
            response.execution.deliveries.extend(map(delivery_to_proto, told))
        else:
            fill_execution(response.execution, execution)
        return response

    async def ListExecutions(
        self, request: pb.ListExecutionsRequest, context: Context
    ) -> pb.ListExecutionsResponse:
        with Violations() as wrong:
            parent = names.namespace(request.parent, "parent", wrong)
            query = filters.execution_query(parent, request.filter, request.order_by, wrong)
            scope = ("ListExecutions", parent, request.filter, request.order_by)
            wanted = paging.page_request(request.page_size, request.page_token, scope, wrong)
        page = await self._executions.list(query, wanted)
        return pb.ListExecutionsResponse(
            executions=[execution_to_proto(execution) for execution in page.items],
            next_page_token=paging.next_page_token(page, scope),
        )

    async def WaitExecution(
        self, request: pb.WaitExecutionRequest, context: Context
    ) -> pb.WaitExecutionResponse:
        with Violations() as wrong:
            name = names.execution(request.name, "name", wrong)
            timeout = asked.wait_time(request, wrong)
        execution = await self._executions.wait(name, _in_time(timeout, _time_left(context)))
        response = pb.WaitExecutionResponse()
        await self._fill(response.execution, execution)
        return response

    async def CancelExecution(
        self, request: pb.CancelExecutionRequest, context: Context
    ) -> pb.CancelExecutionResponse:
        with Violations() as wrong:
            name = names.execution(request.name, "name", wrong)
        execution = await self._executions.cancel(name)
        response = pb.CancelExecutionResponse()
        await self._fill(response.execution, execution)
        return response

    async def DeleteExecution(
        self, request: pb.DeleteExecutionRequest, context: Context
    ) -> pb.DeleteExecutionResponse:
        with Violations() as wrong:
            name = names.execution(request.name, "name", wrong)
        await self._executions.delete(name)
        return pb.DeleteExecutionResponse()

    async def ReadLogs(
        self, request: pb.ReadLogsRequest, context: Context
    ) -> AsyncIterator[pb.ReadLogsResponse]:
        with Violations() as wrong:
            target = names.execution_or_function(request.name, "name", wrong)
            query = asked.log_query(request, wrong)
            if query.attempt and isinstance(target, FunctionName):
                wrong.add("attempt", "is only for the logs of an execution")
        entries = self._executions.logs(target, query)
        async with aclosing(entries):
            async for entry in entries:
                yield log_entry_to_proto(entry)

    def _wanted_executed(self, request: pb.ExecuteFunctionRequest) -> ExecutionRequest:
        with Violations() as wrong:
            return self._wanted("ExecuteFunction", request, wrong)

    def _wanted_of_many(self, request: pb.ExecuteFunctionRequest) -> ExecutionRequest:
        access.check_name(request.function)
        return self._wanted_executed(request)

    def _wanted(
        self,
        method: str,
        request: pb.ExecuteFunctionRequest | pb.StartExecutionRequest | pb.StreamExecutionRequest,
        wrong: Violations,
        **more: Any,
    ) -> ExecutionRequest:
        """Return what to execute; `more`: fields that only this method has."""
        function = names.function(request.function, "function", wrong)
        key = request_key(method, request, request.request_id, wrong)
        options = request.options if request.HasField("options") else None
        wanted = asked.execution_request(
            function, options, key, wrong, input_=request.input, **more
        )
        rules.check_execution(wanted, self._limits, wrong)
        return wanted

    async def _session(self, first: pb.AttachExecutionRequest) -> AttachSession:
        """Start an execution or go on with one, as the first message asks."""
        match first.WhichOneof("message"):
            case "start":
                return await self._executions.attach(self._wanted_attached(first.start))
            case "resume":
                with Violations() as wrong:
                    name = names.execution(first.resume.execution, "resume.execution", wrong)
                    after = asked.after_sequence(
                        first.resume.after_sequence, "resume.after_sequence", wrong
                    )
                return await self._executions.resume(name, after)
            case kind:
                raise attach.unexpected(kind, "`start` or `resume`, as the first message")

    def _wanted_attached(self, start: pb.AttachStart) -> ExecutionRequest:
        with Violations() as wrong:
            function = names.function(start.function, "start.function", wrong)
            key = request_key(
                "AttachExecution", start, start.request_id, wrong, field="start.request_id"
            )
            wanted = asked.execution_request(
                function, start.options, key, wrong, input_=None, prefix="start."
            )
            rules.check_execution(wanted, self._limits, wrong, prefix="start.")
        return wanted

    async def _fill(self, message: execution_pb2.Execution, execution: Execution) -> None:
        """Fill in an execution with its attempts and, once it has ended, what it wrote at last."""
        attempts = await self._executions.attempts(execution)
        output = await self._executions.output(execution) if execution.state.final else None
        fill_execution(message, execution, output, attempts)


async def _announce(
    context: grpc.aio.ServicerContext[Any, Any], name: ExecutionName | None = None
) -> None:
    """Tell the caller that the call is taken, before there is anything else to tell."""
    await context.send_initial_metadata(((EXECUTION_KEY, str(name)),) if name else ())


def _time_left(context: Context) -> timedelta | None:
    """Return the time to the caller's deadline; None if it has none."""
    seconds: float | None = context.time_remaining()
    return None if seconds is None else timedelta(seconds=seconds)


def _in_time(timeout: timedelta, time_left: timedelta | None) -> timedelta:
    """Return how long to wait so that the answer still reaches the caller."""
    if time_left is None:
        return timeout
    answer_time = min(timedelta(seconds=_ANSWER_TIME), time_left / 10)
    return max(timedelta(0), min(timeout, time_left - answer_time))
