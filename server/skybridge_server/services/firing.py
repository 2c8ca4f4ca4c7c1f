"""Starts the executions of schedules, each once, and looks after the one before."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Protocol

from skybridge_server.errors import NotFoundError
from skybridge_server.models.executions import Execution
from skybridge_server.models.names import ExecutionName
from skybridge_server.models.schedules import Schedule
from skybridge_server.repositories.base import RequestRepository
from skybridge_server.services.acceptance import Acceptance
from skybridge_server.services.requests import ExecutionRequest, RequestKey

METHOD = "FireSchedule"
"""Stands for the name of an rpc among the idempotent requests."""

SCHEDULE_LABEL = "skybridge.schedule"
DUE_TIME_LABEL = "skybridge.due-time"


class Executions(Protocol):
    """What is needed of executions."""

    async def get(self, name: ExecutionName) -> Execution:
        """Return an execution. NotFoundError."""
        ...

    async def cancel(self, name: ExecutionName) -> Execution:
        """Tell an execution to stop. NotFoundError."""
        ...


class Firing:
    """Executions for due times.

    A due time is a request id: the execution is stored in one transaction with the note that this
    due time has fired, and a repeat finds that note.
    """

    def __init__(
        self, requests: RequestRepository, acceptance: Acceptance, executions: Executions
    ) -> None:
        self._requests = requests
        self._acceptance = acceptance
        self._executions = executions

    async def start(self, schedule: Schedule, due: datetime) -> ExecutionName:
        """Start the execution of a due time, unless it was started before; return its name.

        Errors as in Acceptance.accept.
        """
        return await self.trigger(schedule, due, RequestKey(METHOD, _request_id(schedule, due), ""))

    async def trigger(
        self, schedule: Schedule, time: datetime, key: RequestKey | None
    ) -> ExecutionName:
        """Start an execution as of a time that need not be due. Errors as in Acceptance.accept."""
        options = schedule.spec.options
        labels = {SCHEDULE_LABEL: schedule.name.schedule, DUE_TIME_LABEL: _text(time)}
        request = ExecutionRequest(
            function=schedule.spec.function,
            input=schedule.spec.input,
            timeout=options.timeout,
            labels=options.labels | labels,
            key=key,
            background=True,
        )
        accepted = await self._acceptance.accept(request, disconnect_grace=None)
        return accepted.name

    async def started(self, schedule: Schedule, due: datetime) -> ExecutionName | None:
        """Return the execution of a due time if it was started before, by whatever process."""
        recorded = await self._requests.find(METHOD, _request_id(schedule, due))
        if recorded is None:
            return None
        return ExecutionName(schedule.name.namespace, recorded.resource)

    async def runs(self, name: ExecutionName | None) -> bool:
        """Tell whether there is such an execution, and it has not ended."""
        if name is None:
            return False
        try:
            return not (await self._executions.get(name)).state.final
        except NotFoundError:
            return False

    async def cancel(self, name: ExecutionName) -> None:
        """Tell an execution to stop, if it has not ended."""
        with suppress(NotFoundError):
            await self._executions.cancel(name)


def _request_id(schedule: Schedule, due: datetime) -> str:
    return f"{schedule.uid} {_text(due)}"


def _text(due: datetime) -> str:
    """Return a time as in RFC 3339, without a fraction where it has none."""
    return due.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"
