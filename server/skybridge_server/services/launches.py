"""Executions of a function that were launched and that somebody is still to follow."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from skybridge_server.models.names import ExecutionName, FunctionName
from skybridge_server.services.active import ActiveExecution
from skybridge_server.services.bell import Bell


class Launches:
    """Names in the order of their launch, each with how far its journal was read.

    Only names and numbers, since they may wait for long.
    """

    def __init__(self, function: FunctionName, running: Iterable[ActiveExecution]) -> None:
        self._function = function
        self._positions: OrderedDict[ExecutionName, int] = OrderedDict()
        self._bell = Bell()
        for active in running:
            self.add(active)

    def add(self, active: ActiveExecution) -> None:
        """Take note of an execution, if it is one of the function's.

        What it has written until now counts as read.
        """
        if active.journal.execution.function == self._function:
            self._positions[active.name] = active.journal.last_sequence
            self._bell.ring()

    def seen(self, name: ExecutionName, sequence: int) -> None:
        """Note that a journal was read up to a sequence."""
        if name in self._positions:
            self._positions[name] = sequence

    async def next(self) -> tuple[ExecutionName, int]:
        """Return the next name and the sequence to go on after, once there is one."""
        while not self._positions:
            await self._bell.wait()
        return self._positions.popitem(last=False)
