"""The fast way to the ports of a container: sockets of ours that are made in its network namespace.

A socket belongs to the namespace in which it was made, whoever uses it. To make one there takes
a thread that enters the namespace; it makes that one socket and dies, so that no thread which goes
on can be left in a namespace that is not ours.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import threading

import structlog

from skybridge_server.runtimes.docker_engine.ports import BACKLOG, LOOPBACK, Accepted

_CLONE_NEWNET = 0x40000000
_REST_SECONDS = 1
_libc = ctypes.CDLL(None, use_errno=True)

log = structlog.get_logger(__name__)


class NamespacePorts:
    """Reaches ports through a descriptor of a namespace, which it takes over."""

    def __init__(self, namespace: int) -> None:
        self._namespace = namespace
        self._listeners: list[NamespaceListener] = []

    async def connect(self, port: int) -> socket.socket:
        made = await socket_in(self._namespace)
        try:
            await asyncio.get_running_loop().sock_connect(made, (LOOPBACK, port))
        except BaseException:
            made.close()
            raise
        return made

    async def listen(self, port: int, accepted: Accepted) -> NamespaceListener:
        made = await socket_in(self._namespace)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((LOOPBACK, port))
            made.listen(BACKLOG)
        except OSError:
            made.close()
            raise
        listener = NamespaceListener(made, accepted)
        self._listeners.append(listener)
        return listener

    def close(self) -> None:
        for listener in self._listeners:
            listener.close()
        os.close(self._namespace)


class NamespaceListener:
    """Accepts until it is closed."""

    def __init__(self, listening: socket.socket, accepted: Accepted) -> None:
        self._listening = listening
        self._accepted = accepted
        self._loop = asyncio.get_running_loop()
        self._rest: asyncio.TimerHandle | None = None
        self._watch()

    def close(self) -> None:
        if self._rest:
            self._rest.cancel()
        if self._listening.fileno() >= 0:
            self._loop.remove_reader(self._listening)
            self._listening.close()

    def _watch(self) -> None:
        self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listening.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # it has gone again
        except OSError as error:  # such as no descriptors left: the connection waits for some
            log.warning("connection not accepted", detail=str(error))
            self._loop.remove_reader(self._listening)
            self._rest = self._loop.call_later(_REST_SECONDS, self._watch)
            return
        connection.setblocking(False)
        self._accepted(connection)


async def socket_in(namespace: int) -> socket.socket:
    """Make a TCP socket in a namespace, which takes about 100 microseconds. OSError."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[socket.socket] = loop.create_future()
    own = os.dup(namespace)  # or the thread could enter what has got its number meanwhile

    def work() -> None:
        try:
            loop.call_soon_threadsafe(_deliver, _make_in(own), made)
        finally:
            os.close(own)

    threading.Thread(target=work, name="network-namespace", daemon=True).start()
    try:
        return await made
    except asyncio.CancelledError:
        if made.done() and not made.cancelled():  # both at once
            made.result().close()
        raise


def _make_in(namespace: int) -> socket.socket | OSError:
    try:
        enter(namespace)
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        return error
    made.setblocking(False)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # what is accepted inherits it
    return made


def _deliver(result: socket.socket | OSError, made: asyncio.Future[socket.socket]) -> None:
    if isinstance(result, OSError):
        if not made.cancelled():
            made.set_exception(result)
    elif made.cancelled():
        result.close()
    else:
        made.set_result(result)


def enter(namespace: int) -> None:
    """Move this thread to a network namespace; there is no way back for it. OSError."""
    if _libc.setns(namespace, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
