"""ScheduleService over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skybridge.faas.v1 import schedule_pb2
from skybridge.faas.v1 import schedule_service_pb2 as pb
from skybridge.faas.v1.schedule_service_pb2_grpc import ScheduleServiceServicer
from skybridge_server.api import filters, masks, names, paging
from skybridge_server.api.convert.schedules import (
    changed_spec,
    schedule_to_proto,
    spec_from_proto,
)
from skybridge_server.api.requests import request_key
from skybridge_server.models.names import ScheduleName
from skybridge_server.models.schedules import ScheduleSpec
from skybridge_server.services.limits import Limits
from skybridge_server.services.schedule_rules import check_schedule
from skybridge_server.services.schedules import ScheduleService
from skybridge_server.services.violations import Violations

if TYPE_CHECKING:
    from skybridge.faas.v1.schedule_service_pb2_grpc import _ServicerContext as Context


class ScheduleServicer(ScheduleServiceServicer):
    """Schedules."""

    def __init__(self, schedules: ScheduleService, limits: Limits) -> None:
        self._schedules = schedules
        self._limits = limits

    async def CreateSchedule(
        self, request: pb.CreateScheduleRequest, context: Context
    ) -> pb.CreateScheduleResponse:
        with Violations() as wrong:
            name = names.new_schedule(request.parent, request.schedule_id, wrong)
            spec = self._spec(name, request.schedule, wrong)
            key = request_key("CreateSchedule", request, request.request_id, wrong)
        schedule = await self._schedules.create(
            name, spec, key=key, validate_only=request.validate_only
        )
        return pb.CreateScheduleResponse(schedule=schedule_to_proto(schedule))

    async def GetSchedule(
        self, request: pb.GetScheduleRequest, context: Context
    ) -> pb.GetScheduleResponse:
        with Violations() as wrong:
            name = names.schedule(request.name, "name", wrong)
        schedule = await self._schedules.get(name)
        return pb.GetScheduleResponse(schedule=schedule_to_proto(schedule))

    async def ListSchedules(
        self, request: pb.ListSchedulesRequest, context: Context
    ) -> pb.ListSchedulesResponse:
        with Violations() as wrong:
            parent = names.namespace(request.parent, "parent", wrong)
            query = filters.schedule_query(parent, request.filter, wrong)
            scope = ("ListSchedules", parent, request.filter)
            wanted = paging.page_request(request.page_size, request.page_token, scope, wrong)
        page = await self._schedules.list(query, wanted)
        return pb.ListSchedulesResponse(
            schedules=[schedule_to_proto(schedule) for schedule in page.items],
            next_page_token=paging.next_page_token(page, scope),
        )

    async def UpdateSchedule(
        self, request: pb.UpdateScheduleRequest, context: Context
    ) -> pb.UpdateScheduleResponse:
        with Violations() as wrong:
            name = names.schedule(request.schedule.name, "schedule.name", wrong)
            paths = masks.SCHEDULE.paths(request.update_mask.paths, request.schedule, wrong)
            found = Violations()
            wanted = self._spec(name, request.schedule, found)
            masks.SCHEDULE.concerned(paths, found, wrong)
            key = request_key("UpdateSchedule", request, request.request_id, wrong)

        def apply(current: ScheduleSpec) -> ScheduleSpec:
            changed = changed_spec(current, wanted, paths)
            with Violations() as wrong:  # fields that are right each may not fit together
                check_schedule(name, changed, self._limits, wrong)
            return changed

        schedule = await self._schedules.update(
            name, apply, etag=request.etag, key=key, validate_only=request.validate_only
        )
        return pb.UpdateScheduleResponse(schedule=schedule_to_proto(schedule))

    async def DeleteSchedule(
        self, request: pb.DeleteScheduleRequest, context: Context
    ) -> pb.DeleteScheduleResponse:
        with Violations() as wrong:
            name = names.schedule(request.name, "name", wrong)
            key = request_key("DeleteSchedule", request, request.request_id, wrong)
        await self._schedules.delete(name, etag=request.etag, key=key)
        return pb.DeleteScheduleResponse()

    async def PauseSchedule(
        self, request: pb.PauseScheduleRequest, context: Context
    ) -> pb.PauseScheduleResponse:
        schedule = await self._set_paused("PauseSchedule", request, paused=True)
        return pb.PauseScheduleResponse(schedule=schedule)

    async def ResumeSchedule(
        self, request: pb.ResumeScheduleRequest, context: Context
    ) -> pb.ResumeScheduleResponse:
        schedule = await self._set_paused("ResumeSchedule", request, paused=False)
        return pb.ResumeScheduleResponse(schedule=schedule)

    async def TriggerSchedule(
        self, request: pb.TriggerScheduleRequest, context: Context
    ) -> pb.TriggerScheduleResponse:
        with Violations() as wrong:
            name = names.schedule(request.name, "name", wrong)
            key = request_key("TriggerSchedule", request, request.request_id, wrong)
        execution = await self._schedules.trigger(name, key=key)
        return pb.TriggerScheduleResponse(execution=str(execution))

    async def _set_paused(
        self,
        method: str,
        request: pb.PauseScheduleRequest | pb.ResumeScheduleRequest,
        *,
        paused: bool,
    ) -> schedule_pb2.Schedule:
        with Violations() as wrong:
            name = names.schedule(request.name, "name", wrong)
            key = request_key(method, request, request.request_id, wrong)
        schedule = await self._schedules.set_paused(name, paused, etag=request.etag, key=key)
        return schedule_to_proto(schedule)

    def _spec(
        self, name: ScheduleName, message: schedule_pb2.Schedule, wrong: Violations
    ) -> ScheduleSpec:
        spec = spec_from_proto(name, message, wrong)
        check_schedule(name, spec, self._limits, wrong)
        return spec
