"""The client for programs without an event loop."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import replace
from typing import Self, TypeVar

import grpc

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
from skybridge_client.errors import SkybridgeError, UnavailableError, from_rpc_error
from skybridge_client.feeding import NO_INPUT, Feed, NoInput
from skybridge_client.invocations import Answer, Invocation, Invoke, Pipeline
from skybridge_client.journal import Follow, Journal
from skybridge_client.patience import Patience, Tries
from skybridge_client.stdin import Stdin

T = TypeVar("T")

DEFAULT_TIMEOUT = 60.0


class Client:
    """Talks to a Skybridge server; use it as a context manager, from any number of threads.

        with Client("127.0.0.1:50051") as client:
            execution = client.execute("hello", b"world")

    `address` and TLS come from the environment where they are not given: SKYBRIDGE_ADDRESS
    (default 127.0.0.1:50051), SKYBRIDGE_TLS_CA, SKYBRIDGE_TLS_CERT, SKYBRIDGE_TLS_KEY; so does
    the `token` that says who calls, SKYBRIDGE_TOKEN. Without TLS, it can be read on its way.
    `timeout` is the deadline in seconds of each call that says no other; streams have none.
    Calls that only read, and those that carry a request id, are repeated by themselves while
    the server is unavailable; `patience` says how long a cut stream is resumed.

    Nothing is sent before the first call. Every method raises SkybridgeError, see `errors`.
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
            self._channel = grpc.secure_channel(self.address, credentials, options(self.address))
        else:
            self._channel = grpc.insecure_channel(self.address, options(self.address))
        self._stubs = Stubs(self._channel)

    def close(self) -> None:
        """Closes the connection; calls under way are cancelled."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _unary(self, call: Unary[T]) -> T:
        timeout = self._timeout if call.timeout is None else call.timeout
        try:
            rpc = call.rpc(self._stubs)
            return call.give(rpc(call.request, timeout=timeout, metadata=self._metadata))
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error

    def _pages(self, pages: Pages[T]) -> Generator[T, None, None]:
        rest: Pages[T] | None = pages
        while rest:
            answer = self._unary(rest.page)
            yield from rest.items(answer)
            rest = rest.after(answer)

    def _poll(self, poll: Poll[T]) -> T:
        for call in poll.calls:
            answer = self._unary(call)
            if poll.done(answer):
                break
        return answer

    def _stream(self, call: Stream[T], feed: NoInput = NO_INPUT) -> Generator[T, None, None]:
        rpc = call.rpc(self._stubs)(
            feed.connect(call.request), timeout=call.timeout, metadata=self._metadata
        )
        feed.connected(rpc)
        try:
            for answer in rpc:
                yield call.give(answer)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from error
        finally:
            rpc.cancel()

    def _follow(
        self, follow: Follow, feed: NoInput = NO_INPUT
    ) -> Generator[ExecutionEvent, None, None]:
        journal = Journal(follow, self._patience)
        while not journal.ended:
            cut: SkybridgeError | None = None
            try:
                with closing(self._stream(journal.connect(), feed)) as events:
                    for event in events:
                        feed.note(event)
                        if journal.accept(event):
                            yield event
            except SkybridgeError as error:
                cut = error
            feed.raise_failure()
            if not journal.ended:
                time.sleep(journal.cut(cut))

    def _attach(
        self, attach: executions.Attach[Iterable[bytes | Signal]]
    ) -> Generator[ExecutionEvent, None, None]:
        with Feed(attach.source, Stdin()) as feed:
            yield from self._follow(attach.follow, feed)

    def _invoke(self, invoke: Invoke[Iterable[Invocation]]) -> Generator[Answer, None, None]:
        pipeline, tries = Pipeline(invoke.window), Tries(self._patience, invoke.call.timeout)
        with Feed(invoke.source, pipeline) as feed:
            while not pipeline.done:
                cut: SkybridgeError = UnavailableError("the stream ended before all was answered")
                call = replace(invoke.call, timeout=tries.left())
                try:
                    with closing(self._stream(call, feed)) as responses:
                        for response in responses:
                            tries.progress()
                            answers = pipeline.answers(response)
                            feed.note(response)
                            yield from answers
                except SkybridgeError as error:
                    cut = error
                feed.raise_failure()
                if not pipeline.done:
                    time.sleep(tries.pause(cut))

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
