"""Schedules: creates, changes, deletes and triggers them. The scheduler fires them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

from skybridge_server.errors import AbortedError, AlreadyExistsError, NotFoundError
from skybridge_server.models.names import ExecutionName, ScheduleName, new_id
from skybridge_server.models.paging import Page, PageRequest, ScheduleQuery
from skybridge_server.models.requests import Request
from skybridge_server.models.schedules import Schedule, ScheduleSpec
from skybridge_server.repositories.base import Repositories
from skybridge_server.services import due_times, idempotency
from skybridge_server.services.clock import Clock
from skybridge_server.services.etags import check_etag
from skybridge_server.services.firing import Firing
from skybridge_server.services.requests import RequestKey


class ScheduleService:
    """All schedules of one server."""

    def __init__(
        self,
        repositories: Repositories,
        firing: Firing,
        clock: Clock,
        on_change: Callable[[], None],
    ) -> None:
        """`on_change`: tells the scheduler that a plan has changed."""
        self._requests = repositories.requests
        self._functions = repositories.functions
        self._schedules = repositories.schedules
        self._firing = firing
        self._clock = clock
        self._on_change = on_change

    async def create(
        self, name: ScheduleName, spec: ScheduleSpec, *, key: RequestKey | None, validate_only: bool
    ) -> Schedule:
        """Create a schedule. NotFoundError: the function. AlreadyExistsError."""
        now = self._clock.now()
        schedule = Schedule(
            name=name, uid=new_id(), spec=spec, create_time=now, update_time=now, etag=new_id()
        )
        schedule = due_times.planned(schedule, now)
        if validate_only:
            await self._functions.get(spec.function)
            await self._check_free(name)
            return schedule

        async def do() -> Schedule:
            await self._schedules.create(schedule, idempotency.record(key, resource=str(name)))
            self._on_change()
            return schedule

        return await self._once(name, key, do)

    async def get(self, name: ScheduleName) -> Schedule:
        """Return a schedule. NotFoundError."""
        return await self._schedules.get(name)

    async def list(self, query: ScheduleQuery, page: PageRequest) -> Page[Schedule]:
        """Return a page of schedules, without their input."""
        return await self._schedules.list(query, page)

    async def update(
        self,
        name: ScheduleName,
        apply: Callable[[ScheduleSpec], ScheduleSpec],
        *,
        etag: str,
        key: RequestKey | None,
        validate_only: bool,
    ) -> Schedule:
        """Change a schedule to what `apply` makes of it. NotFoundError, AbortedError."""

        def change(schedule: Schedule) -> Schedule:
            return replace(schedule, spec=apply(schedule.spec))

        if validate_only:
            schedule = await self._schedules.get(name)
            check_etag(schedule, etag)
            changed, _ = self._changed(schedule, change)
            await self._functions.get(changed.spec.function)
            return changed
        return await self._change(name, change, etag=etag, key=key)

    async def set_paused(
        self, name: ScheduleName, paused: bool, *, etag: str, key: RequestKey | None
    ) -> Schedule:
        """Let a schedule never be due, or be due again from now on. NotFoundError, AbortedError."""

        def change(schedule: Schedule) -> Schedule:
            return replace(schedule, paused=paused)

        return await self._change(name, change, etag=etag, key=key)

    async def delete(self, name: ScheduleName, *, etag: str, key: RequestKey | None) -> None:
        """Delete a schedule. NotFoundError, AbortedError."""

        async def do() -> None:
            while True:
                schedule = await self._schedules.get(name)
                check_etag(schedule, etag)
                with suppress(AbortedError):  # with the caller's etag, the next look refuses
                    record = idempotency.record(key)
                    return await self._schedules.delete(
                        name, expected_etag=schedule.etag, request=record
                    )

        async def repeat(_: Request) -> None:
            """Nothing is left to say."""

        await idempotency.once(self._requests, key, do, repeat)

    async def trigger(self, name: ScheduleName, *, key: RequestKey | None) -> ExecutionName:
        """Start an execution of a schedule now. Errors as in Acceptance.accept."""

        async def do() -> ExecutionName:
            schedule = await self._schedules.get(name)
            execution = await self._firing.trigger(schedule, self._clock.now(), key)
            await self._schedules.note_execution(schedule, execution)
            return execution

        async def repeat(recorded: Request) -> ExecutionName:
            return ExecutionName(name.namespace, recorded.resource)

        return await idempotency.once(self._requests, key, do, repeat)

    async def _change(
        self,
        name: ScheduleName,
        change: Callable[[Schedule], Schedule],
        *,
        etag: str,
        key: RequestKey | None,
    ) -> Schedule:
        """Store what `change` makes of a schedule, again if somebody else wrote in between."""

        async def do() -> Schedule:
            while True:
                schedule = await self._schedules.get(name)
                check_etag(schedule, etag)
                changed, replan = self._changed(schedule, change)
                with suppress(AbortedError):  # with the caller's etag, the next look refuses
                    await self._schedules.update(
                        changed,
                        expected_etag=schedule.etag,
                        replan=replan,
                        request=idempotency.record(key, resource=str(name)),
                    )
                    self._on_change()
                    return changed

        return await self._once(name, key, do)

    def _changed(
        self, schedule: Schedule, change: Callable[[Schedule], Schedule]
    ) -> tuple[Schedule, bool]:
        """Return a schedule as changed, and whether that makes a new plan."""
        now = self._clock.now()
        changed = replace(change(schedule), update_time=now, etag=new_id())
        if _timing(changed) == _timing(schedule):
            return changed, False
        return due_times.planned(replace(changed, state_message=""), now), True

    async def _once(
        self, name: ScheduleName, key: RequestKey | None, do: Callable[[], Awaitable[Schedule]]
    ) -> Schedule:
        async def repeat(_: Request) -> Schedule:
            return await self._schedules.get(name)

        return await idempotency.once(self._requests, key, do, repeat)

    async def _check_free(self, name: ScheduleName) -> None:
        with suppress(NotFoundError):
            await self._schedules.get(name)
            raise AlreadyExistsError(
                f"schedule '{name}' exists already: choose another name, or update it",
                reason="SCHEDULE_EXISTS",
                metadata={"resource": str(name)},
            )


def _timing(schedule: Schedule) -> tuple[object, ...]:
    """Return all that decides when a schedule is due."""
    spec = schedule.spec
    return schedule.paused, spec.cron, spec.interval, spec.time_zone, spec.jitter
