"""The client for programs with an asyncio event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing
from dataclasses import replace
from typing import Self, TypeVar

import grpc
from grpc import aio

from skybridge.faas.v1.execution_pb2 import ExecutionEvent
from skybridge.faas.v1.execution_service_pb2 import Signal
from skybridge_client import (
    dead_letters,
    executions,
    functions,
    instances,
    invocations,
    schedules,
    secrets,
    system,
    tokens,
)
from skybridge_client.calls import Method, Pages, Poll, Stream, Stubs, Unary
from skybridge_client.channel import TlsConfig, options, resolve_address, resolve_tls, resolve_token
from skybridge_client.client import DEFAULT_TIMEOUT
from skybridge_client.errors import SkybridgeError, UnavailableError, from_rpc_error
from skybridge_client.feeding import NO_INPUT, AsyncFeed, NoInput
from skybridge_client.invocations import Answer, Invocation, Invoke, Pipeline
from skybridge_client.journal import Follow, Journal
from skybridge_client.patience import Patience, Tries
from skybridge_client.stdin import Stdin

T = TypeVar("T")


class AsyncClient:
    """Talks to a Skybridge server from coroutines; what `Client` says holds here too.

        async with AsyncClient("127.0.0.1:50051") as client:
            execution = await client.execute("hello", b"world")
            async for event in client.stream("hello", b"world"):
                ...

    Make it where the event loop runs. Methods that give one answer are awaited, those that
    give many are iterated with `async for`; leaving such a loop early ends the call once the
    iterator is closed, so put it into `contextlib.aclosing` to end it at once.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        tls: TlsConfig | bool | None = None,
        token: str | None = None,
        timeout: float = DEFAULT_TIMEOUT,
        patience: Patience | None = None,
    ) -> None:
        self.address = resolve_address(address)
        """Where the server is, `host:port`."""
        self._metadata = resolve_token(token)
        self._timeout = timeout
        self._patience = patience or Patience()
        credentials = resolve_tls(tls)
        if credentials:
            self._channel = aio.secure_channel(self.address, credentials, options(self.address))
        else:
            self._channel = aio.insecure_channel(self.address, options(self.address))
        self._stubs = Stubs(self._channel)

    async def close(self) -> None:
        """Closes the connection; calls under way are cancelled."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _unary(self, call: Unary[T]) -> T:
        timeout = self._timeout if call.timeout is None else call.timeout
        try:
            rpc = call.rpc(self._stubs)
            return call.give(await rpc(call.request, timeout=timeout, metadata=self._metadata))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    async def _pages(self, pages: Pages[T]) -> AsyncGenerator[T, None]:
        rest: Pages[T] | None = pages
        while rest:
            answer = await self._unary(rest.page)
            for item in rest.items(answer):
                yield item
            rest = rest.after(answer)

    async def _poll(self, poll: Poll[T]) -> T:
        for call in poll.calls:
            answer = await self._unary(call)
            if poll.done(answer):
                break
        return answer

    async def _stream(self, call: Stream[T], feed: NoInput = NO_INPUT) -> AsyncGenerator[T, None]:
        rpc = call.rpc(self._stubs)(
            feed.connect(call.request), timeout=call.timeout, metadata=self._metadata
        )
        feed.connected(rpc)
        try:
            async for answer in rpc:
                yield call.give(answer)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        finally:
            rpc.cancel()

    async def _follow(
        self, follow: Follow, feed: NoInput = NO_INPUT
    ) -> AsyncGenerator[ExecutionEvent, None]:
        journal = Journal(follow, self._patience)
        while not journal.ended:
            cut: SkybridgeError | None = None
            try:
                async with aclosing(self._stream(journal.connect(), feed)) as events:
                    async for event in events:
                        feed.note(event)
                        if journal.accept(event):
                            yield event
            except SkybridgeError as error:
                cut = error
            except asyncio.CancelledError:
                feed.raise_failure()
                raise
            if not journal.ended:
                await asyncio.sleep(journal.cut(cut))

    async def _attach(
        self, attach: executions.Attach[AsyncIterable[bytes | Signal]]
    ) -> AsyncGenerator[ExecutionEvent, None]:
        async with (
            AsyncFeed(attach.source, Stdin()) as feed,
            aclosing(self._follow(attach.follow, feed)) as events,
        ):
            async for event in events:
                yield event

    async def _invoke(
        self, invoke: Invoke[AsyncIterable[Invocation]]
    ) -> AsyncGenerator[Answer, None]:
        pipeline, tries = Pipeline(invoke.window), Tries(self._patience, invoke.call.timeout)
        async with AsyncFeed(invoke.source, pipeline) as feed:
            while not pipeline.done:
                cut: SkybridgeError = UnavailableError("the stream ended before all was answered")
                call = replace(invoke.call, timeout=tries.left())
                try:
                    async with aclosing(self._stream(call, feed)) as responses:
                        async for response in responses:
                            tries.progress()
                            answers = pipeline.answers(response)
                            feed.note(response)
                            for answer in answers:
                                yield answer
                except SkybridgeError as error:
                    cut = error
                except asyncio.CancelledError:
                    feed.raise_failure()
                    raise
                feed.raise_failure()
                if not pipeline.done:
                    await asyncio.sleep(tries.pause(cut))

    create_function = Method(functions.create_function, _unary)
    get_function = Method(functions.get_function, _unary)
    list_functions = Method(functions.list_functions, _pages)
    update_function = Method(functions.update_function, _unary)
    delete_function = Method(functions.delete_function, _unary)
    deploy = Method(functions.deploy, _stream)
    get_revision = Method(functions.get_revision, _unary)
    list_revisions = Method(functions.list_revisions, _pages)
    rollback = Method(functions.rollback, _unary)
    disable = Method(functions.disable, _unary)
    enable = Method(functions.enable, _unary)

    execute = Method(executions.execute, _unary)
    execute_batch = Method(invocations.execute_batch, _unary)
    invoke_stream = Method(invocations.invoke_stream, _invoke)
    start = Method(executions.start, _unary)
    stream = Method(executions.stream_execution, _follow)
    watch = Method(executions.watch, _follow)
    attach = Method(executions.attach, _attach)
    get_execution = Method(executions.get_execution, _unary)
    list_executions = Method(executions.list_executions, _pages)
    wait = Method(executions.wait, _poll)
    cancel = Method(executions.cancel, _unary)
    delete_execution = Method(executions.delete_execution, _unary)
    logs = Method(executions.logs, _stream)

    list_dead_letters = Method(dead_letters.list_dead_letters, _pages)
    get_dead_letter = Method(dead_letters.get_dead_letter, _unary)
    redrive_dead_letter = Method(dead_letters.redrive_dead_letter, _unary)
    redrive_dead_letters = Method(dead_letters.redrive_dead_letters, _pages)
    purge_dead_letters = Method(dead_letters.purge_dead_letters, _unary)

    create_schedule = Method(schedules.create_schedule, _unary)
    get_schedule = Method(schedules.get_schedule, _unary)
    list_schedules = Method(schedules.list_schedules, _pages)
    update_schedule = Method(schedules.update_schedule, _unary)
    delete_schedule = Method(schedules.delete_schedule, _unary)
    pause_schedule = Method(schedules.pause_schedule, _unary)
    resume_schedule = Method(schedules.resume_schedule, _unary)
    trigger_schedule = Method(schedules.trigger_schedule, _unary)

    create_secret = Method(secrets.create_secret, _unary)
    get_secret = Method(secrets.get_secret, _unary)
    list_secrets = Method(secrets.list_secrets, _pages)
    update_secret = Method(secrets.update_secret, _unary)
    delete_secret = Method(secrets.delete_secret, _unary)

    list_instances = Method(instances.list_instances, _pages)
    get_instance = Method(instances.get_instance, _unary)
    stop_instance = Method(instances.stop_instance, _unary)

    metrics = Method(system.metrics, _unary)
    system_info = Method(system.system_info, _unary)
    runtimes = Method(system.runtimes, _unary)
    drain = Method(system.drain, _unary)
    pull_image = Method(system.pull_image, _stream)

    create_token = Method(tokens.create_token, _unary)
    get_token = Method(tokens.get_token, _unary)
    list_tokens = Method(tokens.list_tokens, _pages)
    delete_token = Method(tokens.delete_token, _unary)
    caller = Method(tokens.caller, _unary)
