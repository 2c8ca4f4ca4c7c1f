"""The calls about schedules, and the keywords that describe one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict, Unpack

from skybridge.faas.v1.schedule_pb2 import Schedule
from skybridge.faas.v1.schedule_service_pb2 import (
    CreateScheduleRequest,
    DeleteScheduleRequest,
    GetScheduleRequest,
    ListSchedulesRequest,
    PauseScheduleRequest,
    ResumeScheduleRequest,
    TriggerScheduleRequest,
    UpdateScheduleRequest,
)
from skybridge_client.calls import Pages, Unary, new_request_id, nothing, pages, unary
from skybridge_client.specs import build, mask


class ScheduleFields(TypedDict, total=False):
    """What may be said about a schedule, by keyword. Times are in seconds.

    Limits and defaults stand at the fields of Schedule; `run_timeout` and `labels` are those of
    its `options`. A schedule has a `cron`, in a `time_zone`, or an `interval`.
    """

    function: str
    input: bytes
    run_timeout: float
    labels: Mapping[str, str]
    cron: str
    time_zone: str
    interval: float
    overlap_policy: Literal["skip", "queue", "cancel_previous"]
    catch_up_window: float
    jitter: float


SCHEDULE_PATHS: dict[str, str] = {
    "function": "function",
    "input": "input",
    "run_timeout": "options.timeout",
    "labels": "options.labels",
    "cron": "cron",
    "time_zone": "time_zone",
    "interval": "interval",
    "overlap_policy": "overlap_policy",
    "catch_up_window": "catch_up_window",
    "jitter": "jitter",
}
"""Keyword to path in Schedule."""


def create_schedule(
    schedule_id: str,
    schedule: Schedule | None = None,
    *,
    parent: str = "",
    validate_only: bool = False,
    request_id: str = "",
    timeout: float | None = None,
    **fields: Unpack[ScheduleFields],
) -> Unary[Schedule]:
    """Creates a schedule, and returns it with its defaults filled in.

    `create_schedule("nightly", function="report", cron="30 4 * * *", time_zone="Europe/Berlin")`,
    or a whole `schedule`, over which the keywords are set. `parent` is the namespace,
    `namespaces/{id}`. `validate_only` checks everything and creates nothing.

    Raises InvalidArgumentError with every wrong field, NotFoundError (the function),
    AlreadyExistsError.
    """
    request = CreateScheduleRequest(
        parent=parent,
        schedule_id=schedule_id,
        schedule=build(Schedule(), schedule, fields, SCHEDULE_PATHS),
        validate_only=validate_only,
        request_id=new_request_id(request_id),
    )
    return unary(lambda s: s.schedules.CreateSchedule, request, lambda a: a.schedule, timeout)


def get_schedule(name: str, *, timeout: float | None = None) -> Unary[Schedule]:
    """Returns a schedule. Raises NotFoundError."""
    request = GetScheduleRequest(name=name)
    return unary(lambda s: s.schedules.GetSchedule, request, lambda a: a.schedule, timeout)


def list_schedules(
    *,
    parent: str = "",
    filter: str = "",  # noqa: A002 - the API's word
    page_size: int = 0,
    timeout: float | None = None,
) -> Pages[Schedule]:
    """Gives the schedules of a namespace by name, without input; asks for pages as needed.

    `filter` is such as `function = "report" AND paused = false`. `timeout` is that of each
    page.

    Raises InvalidArgumentError.
    """
    request = ListSchedulesRequest(parent=parent, filter=filter, page_size=page_size)
    return pages(lambda s: s.schedules.ListSchedules, request, lambda a: a.schedules, timeout)


def update_schedule(
    schedule: str | Schedule,
    *,
    update_mask: Sequence[str] = (),
    etag: str = "",
    validate_only: bool = False,
    request_id: str = "",
    timeout: float | None = None,
    **fields: Unpack[ScheduleFields],
) -> Unary[Schedule]:
    """Changes a schedule, and returns it.

    By name and keywords, `update_schedule("nightly", cron="0 5 * * *")`, exactly the given
    fields change. With a whole Schedule as the server returned it, the fields of
    `update_mask` change, or all that it sets. A path in `update_mask` that is not set goes
    back to its default. `etag`: change nothing if somebody else wrote in between.

    Raises InvalidArgumentError, NotFoundError, AbortedError (stale etag).
    """
    base = Schedule(name=schedule) if isinstance(schedule, str) else schedule
    masked = fields if update_mask or isinstance(schedule, str) else {}
    request = UpdateScheduleRequest(
        schedule=build(Schedule(), base, fields, SCHEDULE_PATHS),
        update_mask=mask(masked, SCHEDULE_PATHS, update_mask),
        etag=etag,
        validate_only=validate_only,
        request_id=new_request_id(request_id),
    )
    return unary(lambda s: s.schedules.UpdateSchedule, request, lambda a: a.schedule, timeout)


def delete_schedule(
    name: str, *, etag: str = "", request_id: str = "", timeout: float | None = None
) -> Unary[None]:
    """Deletes a schedule; its executions go on. Raises NotFoundError, AbortedError."""
    request = DeleteScheduleRequest(name=name, etag=etag, request_id=new_request_id(request_id))
    return unary(lambda s: s.schedules.DeleteSchedule, request, nothing, timeout)


def pause_schedule(
    name: str, *, etag: str = "", request_id: str = "", timeout: float | None = None
) -> Unary[Schedule]:
    """Lets a schedule never be due, until it is resumed. Raises NotFoundError, AbortedError."""
    request = PauseScheduleRequest(name=name, etag=etag, request_id=new_request_id(request_id))
    return unary(lambda s: s.schedules.PauseSchedule, request, lambda a: a.schedule, timeout)


def resume_schedule(
    name: str, *, etag: str = "", request_id: str = "", timeout: float | None = None
) -> Unary[Schedule]:
    """Lets a schedule be due again, from now on. Raises NotFoundError, AbortedError."""
    request = ResumeScheduleRequest(name=name, etag=etag, request_id=new_request_id(request_id))
    return unary(lambda s: s.schedules.ResumeSchedule, request, lambda a: a.schedule, timeout)


def trigger_schedule(
    name: str, *, request_id: str = "", timeout: float | None = None
) -> Unary[str]:
    """Starts an execution of a schedule now, and returns its name; due times stay.

    Raises NotFoundError, FailedPreconditionError (the function was never deployed, or is
    disabled), ResourceExhaustedError (queue full), UnavailableError.
    """
    request = TriggerScheduleRequest(name=name, request_id=new_request_id(request_id))
    return unary(lambda s: s.schedules.TriggerSchedule, request, lambda a: a.execution, timeout)
