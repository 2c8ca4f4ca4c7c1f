"""`skybridge schedules`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from skybridge.faas.v1 import execution_service_pb2
from skybridge.faas.v1 import schedule_service_pb2 as service
from skybridge_client.cli.schedules import OPTIONS
from skybridge_client.messages import Execution, Schedule
from skybridge_client.schedules import SCHEDULE_PATHS
from tests.client.commands import skybridge
from tests.client.scripted import Scripted
from tests.client.test_client import at
from tests.client.test_schedules import EXECUTION, FIELDS

NAME = "namespaces/default/schedules/nightly"
SCHEDULE = Schedule(
    name=NAME,
    function="namespaces/default/functions/report",
    cron="30 4 * * *",
    time_zone="Europe/Berlin",
    input=b"in",
    state_message="it was late",
    next_time=Timestamp(seconds=1_800_000_000),
    last_due_time=Timestamp(seconds=1_799_900_000),
    fired_count=12,
    skipped_count=3,
    missed_count=4,
)

# How each keyword is written as options.
WRITTEN: dict[str, list[str]] = {
    "input": ["--input", "\0in"],
    "labels": ["--label", "a=b"],
    "run_timeout": ["--run-timeout", "1m30.5s"],
    "interval": ["--interval", "1m"],
    "overlap_policy": ["--overlap", "cancel_previous"],
    "catch_up_window": ["--catch-up-window", "1h"],
    "jitter": ["--jitter", "250ms"],
}


def created() -> Message:
    return service.CreateScheduleResponse(schedule=SCHEDULE)


def test_every_keyword_has_an_option() -> None:
    assert set(OPTIONS) == {*SCHEDULE_PATHS, "input_file"}


@pytest.mark.parametrize(("keyword", "value", "stands"), FIELDS, ids=[row[0] for row in FIELDS])
def test_each_option_sets_its_field(
    keyword: str, value: Any, stands: Any, server: Scripted
) -> None:
    written = WRITTEN.get(keyword, [f"--{keyword.replace('_', '-')}", str(value)])
    server.on("CreateSchedule", created())
    ran = skybridge(server, "schedules", "create", "nightly", *written)
    assert ran.code == 0, ran.stderr
    [request] = server.asked("CreateSchedule")
    assert at(request.schedule, SCHEDULE_PATHS[keyword]) == stands


def test_create_shows_the_schedule(server: Scripted) -> None:
    server.on("CreateSchedule", created())
    ran = skybridge(server, "schedules", "create", "nightly", "--namespace", "a", "--dry-run")
    shown = dict(line.split(maxsplit=1) for line in ran.text.splitlines())
    assert shown["name"] == NAME
    assert shown["cron"] == "30 4 * * *"
    assert shown["state_message"] == "it was late"
    [request] = server.asked("CreateSchedule")
    assert (request.parent, request.validate_only) == ("namespaces/a", True)


def test_input_may_come_from_a_file(server: Scripted, tmp_path: Path) -> None:
    file = tmp_path / "input"
    file.write_bytes(b"\xff\0")
    server.on("CreateSchedule", created())
    skybridge(server, "schedules", "create", "nightly", "--input-file", str(file))
    assert server.asked("CreateSchedule")[0].schedule.input == b"\xff\0"
    missing = skybridge(server, "schedules", "create", "n", "--input-file", str(tmp_path / "no"))
    assert (missing.code, "cannot be read: No such file" in missing.stderr) == (2, True)
    both = skybridge(server, "schedules", "create", "n", "--input", "x", "--input-file", str(file))
    assert (both.code, "not both" in both.stderr) == (2, True)


def test_list_is_a_table(server: Scripted) -> None:
    interval = Schedule(name="namespaces/b/schedules/poll", interval=Duration(seconds=5400))
    paused = Schedule(name="namespaces/default/schedules/off", cron="* * * * *", paused=True)
    answer = service.ListSchedulesResponse(schedules=[SCHEDULE, interval, paused])
    for _ in range(3):
        server.on("ListSchedules", answer)
    lines = skybridge(server, "schedules", "list").text.splitlines()
    assert lines[0].split() == [
        *("SCHEDULE", "FUNCTION", "WHEN", "NEXT", "LAST"),
        *("FIRED", "SKIPPED", "MISSED", "MESSAGE"),
    ]
    assert lines[1].split()[:2] == ["nightly", "report"]
    assert "30 4 * * * Europe/Berlin" in lines[1]
    assert lines[1].split()[-6:] == ["12", "3", "4", "it", "was", "late"]
    assert "every 1h30m" in lines[2]
    assert "never" in lines[2]
    assert "paused" in lines[3]
    assert skybridge(server, "schedules", "list", "-o", "name").text.split()[0] == NAME
    document = skybridge(server, "schedules", "list", "--json").json
    assert document["schedules"][0]["firedCount"] == "12"


def test_list_says_what_and_how_many(server: Scripted) -> None:
    answer = service.ListSchedulesResponse(schedules=[SCHEDULE] * 2, next_page_token="t")
    server.on("ListSchedules", answer)
    ran = skybridge(
        server,
        *("schedules", "list", "--namespace", "n", "--filter", "paused = true"),
        *("--limit", "2", "-o", "name"),
    )
    assert ran.text == f"{NAME}\n" * 2
    [request] = server.asked("ListSchedules")
    assert (request.parent, request.filter) == ("namespaces/n", "paused = true")
    assert request.page_size == 2


def test_update_changes_what_is_given_and_resets_what_is_named(server: Scripted) -> None:
    server.on("UpdateSchedule", service.UpdateScheduleResponse(schedule=SCHEDULE))
    ran = skybridge(
        server,
        *("schedules", "update", "nightly", "--cron", "0 5 * * *", "--reset", "jitter"),
        *("--etag", "e1"),
    )
    assert ran.code == 0
    [request] = server.asked("UpdateSchedule")
    assert list(request.update_mask.paths) == ["cron", "jitter"]
    assert (request.schedule.name, request.etag) == ("nightly", "e1")


def test_an_update_of_nothing_is_refused(server: Scripted) -> None:
    ran = skybridge(server, "schedules", "update", "nightly")
    assert (ran.code, server.requests) == (2, [])
    assert "nothing to change" in ran.stderr


def test_delete_says_nothing(server: Scripted) -> None:
    server.on("DeleteSchedule", service.DeleteScheduleResponse())
    ran = skybridge(server, "schedules", "delete", "nightly", "--etag", "e")
    assert (ran.code, ran.stdout, ran.stderr) == (0, b"", "")
    assert server.asked("DeleteSchedule")[0].etag == "e"


@pytest.mark.parametrize(
    ("command", "rpc", "answer"),
    [
        ("get", "GetSchedule", service.GetScheduleResponse(schedule=SCHEDULE)),
        ("pause", "PauseSchedule", service.PauseScheduleResponse(schedule=SCHEDULE)),
        ("resume", "ResumeSchedule", service.ResumeScheduleResponse(schedule=SCHEDULE)),
    ],
)
def test_what_gives_a_schedule_shows_it(
    command: str, rpc: str, answer: Message, server: Scripted
) -> None:
    server.on(rpc, answer)
    assert skybridge(server, "schedules", command, "nightly", "-o", "name").text == f"{NAME}\n"
    assert server.asked(rpc)[0].name == "nightly"


def test_trigger_shows_the_execution(server: Scripted) -> None:
    server.on("TriggerSchedule", service.TriggerScheduleResponse(execution=EXECUTION))
    answer = execution_service_pb2.GetExecutionResponse(execution=Execution(name=EXECUTION))
    server.on("GetExecution", answer)
    ran = skybridge(server, "schedules", "trigger", "nightly", "-o", "name")
    assert ran.text == f"{EXECUTION}\n"
    assert server.asked("GetExecution")[0].name == EXECUTION
