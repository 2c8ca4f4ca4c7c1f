"""Functions that were read before: every execution asks for one, and they seldom change.

A cache is allowed here because no other process writes the file. A change drops what it touches
before it starts and after it is on disk, and a read that a change overtook is not kept.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable

from skybridge_server.models.functions import Function
from skybridge_server.models.names import FunctionName

SIZE = 4096


class FunctionCache:
    """The functions that were used last. For the event loop alone."""

    def __init__(self) -> None:
        self._functions: OrderedDict[FunctionName, Function] = OrderedDict()
        self._reads: dict[FunctionName, object] = {}

    async def read(self, name: FunctionName, read: Awaitable[Function]) -> Function:
        """Return what `read` gives, and keep it unless the function changes meanwhile."""
        token = self._reads[name] = object()
        try:
            function = await read
            if self._reads.get(name) is token:
                self._keep(function)
            return function
        finally:
            if self._reads.get(name) is token:
                del self._reads[name]

    def find(self, name: FunctionName) -> Function | None:
        """Return a function that is kept."""
        function = self._functions.get(name)
        if function is not None:
            self._functions.move_to_end(name)
        return function

    async def change(self, name: FunctionName, write: asyncio.Future[None]) -> None:
        """Wait for a change of a function, and forget what is known of it.

        The change is on disk some time later even if its caller no longer waits.
        """
        self._forget(name)
        write.add_done_callback(lambda _: self._forget(name))
        await asyncio.shield(write)

    def _keep(self, function: Function) -> None:
        self._functions[function.name] = function
        if len(self._functions) > SIZE:
            self._functions.popitem(last=False)

    def _forget(self, name: FunctionName) -> None:
        self._functions.pop(name, None)
        self._reads.pop(name, None)
