"""The connections into one instance that are kept between calls."""

from __future__ import annotations

import asyncio

from skybridge_server.contracts.base import Connect
from skybridge_server.contracts.http1 import Connection, open_connection
from skybridge_server.contracts.outbox import Outbox
from skybridge_server.errors import InstanceGoneError

MAX_IDLE = 1.0
"""Seconds after which a connection is not used again. Servers close what is idle, the quickest
of the usual ones after 2 s, and a request that meets the close cannot be repeated safely."""


JUST_NOW = 0.02
"""Seconds within which a connection that was kept before is taken to be open, unless the event loop
has heard otherwise: no server closes what it keeps so soon, and each look is a call of the kernel.
"""


class Connections:
    """Opens connections, and keeps those that can be used again."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._outbox = Outbox()
        self._idle: list[Connection] = []
        self._open: set[Connection] = set()
        self._keeps_alive = True
        self._closed = False

    def kept(self) -> Connection | None:
        """Take a connection on which nothing has happened since its last answer; None: no such."""
        now = asyncio.get_running_loop().time()
        while self._idle:
            connection = self._idle.pop()
            idle = now - connection.idle_since
            young = idle < MAX_IDLE
            if idle < JUST_NOW and connection.proven and not connection.closed:
                return connection
            if young and connection.still_idle():
                return connection
            if young:
                # It closes after each answer and does not say so: the next might meet the close.
                self._keeps_alive = False
            self.drop(connection)
        return None

    async def new(self) -> Connection:
        """Open a connection; OSError when nothing listens, InstanceGoneError after `close`."""
        self._refuse_after_close()
        connection = await open_connection(self._connect, self._outbox)
        self._open.add(connection)
        try:
            self._refuse_after_close()
        except InstanceGoneError:
            self.drop(connection)
            raise
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for the next call, if it can be used again."""
        if self._keeps_alive and not connection.closed:
            self._idle.append(connection)
        else:
            self.drop(connection)

    def drop(self, connection: Connection) -> None:
        """Close a connection."""
        connection.abort()
        self._open.discard(connection)

    async def close(self) -> None:
        """Close all of them, also those in use, and open no more."""
        self._closed = True
        for connection in [*self._open]:
            await connection.close()
        self._open.clear()
        self._idle.clear()

    def _refuse_after_close(self) -> None:
        if self._closed:
            raise InstanceGoneError("the instance has ended")
