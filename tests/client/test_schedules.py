"""Schedules in both clients: keywords, requests, answers."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from skybridge.faas.v1 import schedule_service_pb2 as service
from skybridge_client.messages import OverlapPolicy, Schedule
from skybridge_client.schedules import SCHEDULE_PATHS, ScheduleFields, create_schedule
from tests.client.conftest import Call
from tests.client.scripted import CUT, Scripted
from tests.client.test_client import at

SCHEDULE = Schedule(name="namespaces/default/schedules/nightly", etag="e1")
EXECUTION = "namespaces/default/executions/0197c5d2-8a4e-7b1c-9f60-5d3a2b1c0d9e"
NAME: dict[str, Any] = {"name": "nightly"}

# keyword, value, what stands in the message
FIELDS: list[tuple[str, Any, Any]] = [
    ("function", "hello", "hello"),
    ("input", b"\0in", b"\0in"),
    ("run_timeout", 90.5, Duration(seconds=90, nanos=500_000_000)),
    ("labels", {"a": "b"}, {"a": "b"}),
    ("cron", "30 4 * * *", "30 4 * * *"),
    ("time_zone", "Europe/Berlin", "Europe/Berlin"),
    ("interval", 60, Duration(seconds=60)),
    ("overlap_policy", "cancel_previous", OverlapPolicy.OVERLAP_POLICY_CANCEL_PREVIOUS),
    ("catch_up_window", 3600, Duration(seconds=3600)),
    ("jitter", 0.25, Duration(nanos=250_000_000)),
]

# method, arguments, rpc, answer, what is given, what the request must say
UNARY: list[tuple[str, dict[str, Any], str, Message, Any, dict[str, Any]]] = [
    (
        "create_schedule",
        {
            "schedule_id": "nightly",
            "function": "hello",
            "parent": "namespaces/a",
            "validate_only": True,
        },
        "CreateSchedule",
        service.CreateScheduleResponse(schedule=SCHEDULE),
        SCHEDULE,
        {
            "schedule_id": "nightly",
            "parent": "namespaces/a",
            "schedule.function": "hello",
            "validate_only": True,
        },
    ),
    (
        "get_schedule",
        NAME,
        "GetSchedule",
        service.GetScheduleResponse(schedule=SCHEDULE),
        SCHEDULE,
        NAME,
    ),
    (
        "update_schedule",
        {"schedule": "nightly", "cron": "0 5 * * *", "update_mask": ["jitter"], "etag": "e1"},
        "UpdateSchedule",
        service.UpdateScheduleResponse(schedule=SCHEDULE),
        SCHEDULE,
        {
            "schedule.name": "nightly",
            "schedule.cron": "0 5 * * *",
            "update_mask.paths": ["cron", "jitter"],
            "etag": "e1",
        },
    ),
    (
        "delete_schedule",
        {**NAME, "etag": "e1"},
        "DeleteSchedule",
        service.DeleteScheduleResponse(),
        None,
        {**NAME, "etag": "e1"},
    ),
    (
        "pause_schedule",
        {**NAME, "etag": "e1"},
        "PauseSchedule",
        service.PauseScheduleResponse(schedule=SCHEDULE),
        SCHEDULE,
        {**NAME, "etag": "e1"},
    ),
    (
        "resume_schedule",
        {**NAME, "etag": "e1"},
        "ResumeSchedule",
        service.ResumeScheduleResponse(schedule=SCHEDULE),
        SCHEDULE,
        {**NAME, "etag": "e1"},
    ),
    (
        "trigger_schedule",
        NAME,
        "TriggerSchedule",
        service.TriggerScheduleResponse(execution=EXECUTION),
        EXECUTION,
        NAME,
    ),
]


def test_the_table_of_paths_has_every_keyword() -> None:
    assert set(SCHEDULE_PATHS) == set(ScheduleFields.__annotations__) == {row[0] for row in FIELDS}


@pytest.mark.parametrize(("keyword", "value", "stands"), FIELDS, ids=[row[0] for row in FIELDS])
def test_each_keyword_sets_its_field(keyword: str, value: Any, stands: Any) -> None:
    request: Any = create_schedule("nightly", **{keyword: value}).request
    assert at(request.schedule, SCHEDULE_PATHS[keyword]) == stands


def test_an_unknown_keyword_is_refused() -> None:
    with pytest.raises(TypeError, match="unknown fields of a schedule: crom"):
        create_schedule("nightly", crom="* * * * *")  # type: ignore[call-arg]


@pytest.mark.parametrize("row", UNARY, ids=[row[0] for row in UNARY])
def test_a_method_sends_what_it_was_told_and_gives_what_came(
    row: tuple[str, dict[str, Any], str, Message, Any, dict[str, Any]],
    call: Call,
    server: Scripted,
) -> None:
    method, arguments, rpc, answer, given, says = row
    server.on(rpc, answer)
    assert call(method, **arguments) == given
    [request] = server.asked(rpc)
    for path, value in says.items():
        assert at(request, path) == value


@pytest.mark.parametrize("method", [row[0] for row in UNARY if row[0] != "get_schedule"])
def test_a_write_is_repeated_under_one_request_id(
    method: str, call: Call, server: Scripted
) -> None:
    _, arguments, rpc, answer, given, _ = next(row for row in UNARY if row[0] == method)
    server.on(rpc, CUT).on(rpc, answer).on(rpc, answer)
    assert call(method, **arguments) == given
    call(method, **arguments)
    ids = [request.request_id for request in server.asked(rpc)]
    assert ids[0] == ids[1] != ids[2]
    assert all(uuid.UUID(each) for each in ids)


def test_a_whole_schedule_is_changed_by_what_it_sets(call: Call, server: Scripted) -> None:
    server.on("UpdateSchedule", service.UpdateScheduleResponse(schedule=SCHEDULE))
    call("update_schedule", SCHEDULE, cron="0 5 * * *")
    [request] = server.asked("UpdateSchedule")
    assert not request.update_mask.paths
    assert (request.schedule.name, request.schedule.cron) == (SCHEDULE.name, "0 5 * * *")
    assert SCHEDULE.cron == ""


def test_a_list_asks_for_its_pages_by_itself(call: Call, server: Scripted) -> None:
    first, second = Schedule(name="a"), Schedule(name="b")
    server.on(
        "ListSchedules", service.ListSchedulesResponse(schedules=[first], next_page_token="t")
    )
    server.on("ListSchedules", service.ListSchedulesResponse(schedules=[second]))
    found = call("list_schedules", parent="namespaces/a", filter="paused = true", page_size=1)
    assert found == [first, second]
    asked = server.asked("ListSchedules")
    assert [request.page_token for request in asked] == ["", "t"]
    assert {(r.parent, r.filter, r.page_size) for r in asked} == {
        ("namespaces/a", "paused = true", 1)
    }
