"""ScheduleService on the wire."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode

from skybridge.faas.v1 import function_service_pb2, schedule_pb2
from skybridge.faas.v1 import schedule_service_pb2 as pb
from tests.api.served import Served, refusal, serve
from tests.limits import LIMITS
from tests.support.waiting import PATIENCE, until

FULL = "namespaces/default/schedules/nightly"
HELLO = "namespaces/default/functions/hello"
UUID = "01890a5d-ac96-774b-bcce-b302099a8057"
KIB = 1024
MINUTE = Duration(seconds=60)


def schedule(**fields: Any) -> schedule_pb2.Schedule:
    if "interval" not in fields:
        fields.setdefault("cron", "30 4 * * *")
    return schedule_pb2.Schedule(**{"function": "hello", **fields})


async def create(served: Served, id_: str = "nightly", **fields: Any) -> schedule_pb2.Schedule:
    request = pb.CreateScheduleRequest(schedule_id=id_, schedule=schedule(**fields))
    answer = await served.schedules.CreateSchedule(request, timeout=PATIENCE)
    return answer.schedule


async def get(served: Served, name: str = "nightly") -> schedule_pb2.Schedule:
    request = pb.GetScheduleRequest(name=name)
    return (await served.schedules.GetSchedule(request, timeout=PATIENCE)).schedule


async def update(
    served: Served, fields: dict[str, Any], *mask: str, **request: Any
) -> schedule_pb2.Schedule:
    message = pb.UpdateScheduleRequest(
        schedule=schedule_pb2.Schedule(name="nightly", **fields), **request
    )
    message.update_mask.paths.extend(mask)
    return (await served.schedules.UpdateSchedule(message, timeout=PATIENCE)).schedule


async def ids(served: Served, **request: Any) -> tuple[list[str], str]:
    answer = await served.schedules.ListSchedules(
        pb.ListSchedulesRequest(**request), timeout=PATIENCE
    )
    return [s.name.rpartition("/")[2] for s in answer.schedules], answer.next_page_token


async def fired(served: Served) -> bool:
    return (await get(served)).fired_count > 0


class TestCreate:
    async def test_fills_in_the_defaults(self, served: Served) -> None:
        await served.create()
        created = await create(served)
        assert created == await get(served, FULL)
        assert (created.name, created.function) == (FULL, HELLO)
        assert (created.cron, created.time_zone) == ("30 4 * * *", "UTC")
        assert created.overlap_policy == schedule_pb2.OVERLAP_POLICY_SKIP
        assert created.catch_up_window == MINUTE
        assert created.jitter == Duration()
        assert created.uid
        assert created.etag
        assert created.next_time.ToDatetime().strftime("%H:%M:%S") == "04:30:00"
        for unset in ("last_due_time", "interval"):
            assert not created.HasField(unset)
        assert (created.paused, created.last_execution, created.state_message) == (False, "", "")

    async def test_keeps_all_that_is_said(self, served: Served) -> None:
        await served.create()
        said: dict[str, Any] = {
            "function": HELLO,
            "input": b"\0in",
            "options": {"timeout": MINUTE, "labels": {"team": "red"}},
            "interval": Duration(seconds=90),
            "overlap_policy": schedule_pb2.OVERLAP_POLICY_QUEUE,
            "catch_up_window": Duration(seconds=3600),
            "jitter": Duration(seconds=5),
        }
        await create(served, **said)
        found = await get(served)
        expected = schedule_pb2.Schedule(**said)
        for field in said:
            assert getattr(found, field) == getattr(expected, field), field
        assert (found.cron, found.time_zone) == ("", "")
        assert found.next_time.seconds % 90 == 0

    async def test_a_short_function_is_of_the_same_namespace(self, served: Served) -> None:
        await served.functions.CreateFunction(
            function_service_pb2.CreateFunctionRequest(
                parent="namespaces/blue",
                function_id="hello",
                function={"spec": {"image": "busybox"}},  # type: ignore[arg-type]
            ),
            timeout=PATIENCE,
        )
        request = pb.CreateScheduleRequest(
            parent="namespaces/blue", schedule_id="nightly", schedule=schedule()
        )
        answer = await served.schedules.CreateSchedule(request, timeout=PATIENCE)
        assert answer.schedule.name == "namespaces/blue/schedules/nightly"
        assert answer.schedule.function == "namespaces/blue/functions/hello"

    async def test_refuses_a_name_that_is_taken_and_a_function_that_is_not_there(
        self, served: Served
    ) -> None:
        refused = await refusal(lambda: create(served))
        assert (refused.code, HELLO in refused.message) == (StatusCode.NOT_FOUND, True)
        await served.create()
        await create(served)
        refused = await refusal(lambda: create(served))
        assert (refused.code, refused.reason) == (StatusCode.ALREADY_EXISTS, "SCHEDULE_EXISTS")

    async def test_validate_only_changes_nothing(self, served: Served) -> None:
        request = pb.CreateScheduleRequest(
            schedule_id="nightly", schedule=schedule(), validate_only=True
        )

        async def check() -> pb.CreateScheduleResponse:
            return await served.schedules.CreateSchedule(request, timeout=PATIENCE)

        assert (await refusal(check)).code is StatusCode.NOT_FOUND
        await served.create()
        assert (await check()).schedule.name == FULL
        assert await ids(served) == ([], "")
        await create(served)
        assert (await refusal(check)).code is StatusCode.ALREADY_EXISTS

    async def test_a_repeat_gets_the_schedule_as_it_is(self, served: Served) -> None:
        await served.create()
        request = pb.CreateScheduleRequest(
            schedule_id="nightly", schedule=schedule(), request_id=UUID
        )
        first = await served.schedules.CreateSchedule(request, timeout=PATIENCE)
        assert await served.schedules.CreateSchedule(request, timeout=PATIENCE) == first
        request.schedule.cron = "0 5 * * *"
        refused = await refusal(lambda: served.schedules.CreateSchedule(request))
        assert (refused.code, refused.reason) == (StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")


class TestList:
    async def test_pages_by_name_without_input(self, served: Served) -> None:
        await served.create()
        for id_ in ("b", "c", "a"):
            await create(served, id_, input=b"x" * 1000)
        first, token = await ids(served, page_size=2)
        assert first == ["a", "b"]
        assert await ids(served, page_size=2, page_token=token) == (["c"], "")
        answer = await served.schedules.ListSchedules(pb.ListSchedulesRequest(), timeout=PATIENCE)
        assert {found.input for found in answer.schedules} == {b""}
        refused = await refusal(lambda: ids(served, page_token=token, filter="paused = true"))
        assert refused.fields == ["page_token"]

    async def test_filters(self, served: Served) -> None:
        await served.create()
        await served.create("other")
        await create(served, "a")
        await create(served, "b", function="other")
        await served.schedules.PauseSchedule(pb.PauseScheduleRequest(name="b"), timeout=PATIENCE)
        for filter_, found in (
            ('function = "other"', ["b"]),
            (f'function = "{HELLO}"', ["a"]),
            ("paused = true", ["b"]),
            ("paused = false", ["a"]),
            ('function = "hello" AND paused = true', []),
        ):
            assert await ids(served, filter=filter_) == (found, "")


class TestUpdate:
    async def test_changes_what_the_mask_says(self, served: Served) -> None:
        await served.create()
        before = await create(served, input=b"old", options={"labels": {"a": "b"}})
        fields = {"input": b"new", "options": {"timeout": MINUTE}, "jitter": MINUTE}
        after = await update(served, fields, "input", "options.timeout")
        assert (after.input, after.options.timeout) == (b"new", MINUTE)
        assert (dict(after.options.labels), after.jitter) == ({"a": "b"}, Duration())
        assert after.etag != before.etag
        assert (after.uid, after.create_time) == (before.uid, before.create_time)
        assert after.next_time == before.next_time
        assert after == await get(served)

    async def test_of_two_timings_the_new_one_stays(self, served: Served) -> None:
        await served.create()
        await create(served, time_zone="Asia/Tokyo")
        after = await update(served, {"interval": MINUTE}, "interval")
        assert (after.cron, after.time_zone, after.interval) == ("", "", MINUTE)
        assert after.next_time.seconds % 60 == 0
        after = await update(served, {"cron": "0 5 * * *"})
        assert (after.cron, after.time_zone) == ("0 5 * * *", "UTC")
        assert not after.HasField("interval")

    async def test_without_a_mask_what_is_set_changes(self, served: Served) -> None:
        await served.create()
        await create(served, input=b"old", time_zone="Asia/Tokyo")
        after = await update(served, {"time_zone": "Europe/Berlin", "fired_count": 7})
        assert (after.input, after.time_zone, after.fired_count) == (b"old", "Europe/Berlin", 0)
        after = await update(served, {"function": "hello", "cron": "* * * * *"}, "*")
        assert (after.input, after.time_zone, after.cron) == (b"", "UTC", "* * * * *")

    @pytest.mark.parametrize(
        ("fields", "mask", "wrong"),
        [
            ({}, ["cron"], "schedule.cron"),
            ({"time_zone": "UTC", "interval": MINUTE}, [], "schedule.time_zone"),
            ({"function": "namespaces/other/functions/hello"}, [], "schedule.function"),
            ({}, ["function"], "schedule.function"),
            ({"cron": "61 * * * *"}, [], "schedule.cron"),
            (
                {"interval": Duration(seconds=1), "jitter": Duration(seconds=2)},
                [],
                "schedule.jitter",
            ),
        ],
    )
    async def test_what_does_not_fit_together(
        self, served: Served, fields: dict[str, Any], mask: list[str], wrong: str
    ) -> None:
        await served.create()
        before = await create(served)
        refused = await refusal(lambda: update(served, fields, *mask))
        assert (refused.code, refused.fields) == (StatusCode.INVALID_ARGUMENT, [wrong])
        assert await get(served) == before

    async def test_a_new_interval_must_fit_the_old_jitter(self, served: Served) -> None:
        await served.create()
        await create(served, jitter=MINUTE)
        fields = {"interval": Duration(seconds=1)}
        refused = await refusal(lambda: update(served, fields))
        assert refused.fields == ["schedule.jitter"]

    async def test_etag_request_id_and_validate_only(self, served: Served) -> None:
        await served.create()
        before = await create(served)
        fields = {"input": b"new"}
        checked = await update(served, fields, validate_only=True)
        assert checked.input == b"new"
        assert await get(served) == before
        after = await update(served, fields, etag=before.etag, request_id=UUID)
        assert await update(served, fields, etag=before.etag, request_id=UUID) == after
        for stale in ({"validate_only": True}, {"validate_only": False}):
            call = partial(update, served, fields, etag=before.etag, **stale)
            refused = await refusal(call)
            assert (refused.code, refused.reason) == (StatusCode.ABORTED, "ETAG_MISMATCH")
        refused = await refusal(lambda: update(served, {"function": "nobody"}))
        assert (refused.code, refused.reason) == (StatusCode.NOT_FOUND, "NOT_FOUND")


class TestLife:
    async def test_pause_resume_delete(self, served: Served) -> None:
        await served.create()
        before = await create(served)
        pause = pb.PauseScheduleRequest(name="nightly", request_id=UUID)
        paused = (await served.schedules.PauseSchedule(pause, timeout=PATIENCE)).schedule
        assert paused.paused
        assert not paused.HasField("next_time")
        repeated = await served.schedules.PauseSchedule(pause, timeout=PATIENCE)
        assert repeated.schedule == paused == await get(served)
        stale = pb.ResumeScheduleRequest(name="nightly", etag=before.etag)
        refused = await refusal(lambda: served.schedules.ResumeSchedule(stale))
        assert refused.code is StatusCode.ABORTED
        resume = pb.ResumeScheduleRequest(name="nightly", etag=paused.etag)
        resumed = (await served.schedules.ResumeSchedule(resume, timeout=PATIENCE)).schedule
        assert (resumed.paused, resumed.next_time) == (False, before.next_time)
        delete = pb.DeleteScheduleRequest(name=FULL, etag=before.etag)
        refused = await refusal(lambda: served.schedules.DeleteSchedule(delete))
        assert refused.code is StatusCode.ABORTED
        delete = pb.DeleteScheduleRequest(name=FULL, request_id=UUID)
        for _ in range(2):
            await served.schedules.DeleteSchedule(delete, timeout=PATIENCE)
        refused = await refusal(lambda: get(served))
        assert (refused.code, FULL in refused.message) == (StatusCode.NOT_FOUND, True)

    async def test_trigger(self, served: Served) -> None:
        await served.create()
        await create(served)
        trigger = pb.TriggerScheduleRequest(name="nightly", request_id=UUID)
        refused = await refusal(lambda: served.schedules.TriggerSchedule(trigger))
        assert (refused.code, refused.reason) == (
            StatusCode.FAILED_PRECONDITION,
            "FUNCTION_NOT_DEPLOYED",
        )
        await served.deploy()
        first = await served.schedules.TriggerSchedule(trigger, timeout=PATIENCE)
        assert await served.schedules.TriggerSchedule(trigger, timeout=PATIENCE) == first
        ended = await served.ended(first.execution)
        assert ended.labels["skybridge.schedule"] == "nightly"
        found = await get(served)
        assert (found.last_execution, found.fired_count) == (first.execution, 0)
        assert not found.HasField("last_due_time")

    async def test_due_times_fire(self, served: Served) -> None:
        await served.create()
        await served.deploy()
        await create(served, interval=Duration(seconds=1))
        await served.services.scheduler.open()
        try:
            await until(lambda: fired(served), "the schedule to fire")
            found = await get(served)
        finally:
            await served.services.scheduler.close()
        ended = await served.ended(found.last_execution)
        assert ended.function == HELLO
        assert found.last_due_time.seconds >= found.create_time.seconds
        assert found.next_time.seconds > found.last_due_time.seconds

    async def test_a_function_with_schedules_goes_by_force_only(self, served: Served) -> None:
        await served.create()
        await create(served)
        delete = function_service_pb2.DeleteFunctionRequest(name="hello")
        refused = await refusal(lambda: served.functions.DeleteFunction(delete))
        assert (refused.code, refused.reason) == (
            StatusCode.FAILED_PRECONDITION,
            "SCHEDULES_EXIST",
        )
        delete.force = True
        await served.functions.DeleteFunction(delete, timeout=PATIENCE)
        assert await ids(served) == ([], "")


LONG = Duration(seconds=2**63 - 1)
NEGATIVE = Duration(seconds=-1)
CASES: list[tuple[str, Message, list[str]]] = [
    (
        "CreateSchedule",
        pb.CreateScheduleRequest(),
        ["schedule_id", "schedule.function", "schedule.cron"],
    ),
    (
        "CreateSchedule",
        pb.CreateScheduleRequest(
            parent="../x",
            schedule_id="Nightly",
            request_id="1",
            schedule=schedule(
                function="a b",
                input=b"x" * (256 * KIB + 1),
                options={"timeout": Duration(), "labels": {"A": "\0", "skybridge.x": ""}},
                cron="a b c d e",
                overlap_policy=9,
                catch_up_window=Duration(),
                jitter=NEGATIVE,
            ),
        ),
        [
            "parent",
            "schedule_id",
            "schedule.function",
            "schedule.overlap_policy",
            "schedule.input",
            "schedule.options.timeout",
            "schedule.options.labels[A]",
            "schedule.options.labels[A]",
            "schedule.options.labels",
            "schedule.cron",
            "schedule.jitter",
            "schedule.catch_up_window",
            "request_id",
        ],
    ),
    (
        "CreateSchedule",
        pb.CreateScheduleRequest(
            schedule_id="x",
            schedule=schedule(
                interval=LONG, options={"timeout": LONG}, catch_up_window=LONG, jitter=LONG
            ),
        ),
        [
            "schedule.options.timeout",
            "schedule.interval",
            "schedule.catch_up_window",
            "schedule.jitter",
        ],
    ),
    (
        "CreateSchedule",
        pb.CreateScheduleRequest(
            schedule_id="x",
            schedule=schedule(
                function="namespaces/other/functions/hello",
                interval=Duration(nanos=1),
                time_zone="UTC",
            ),
        ),
        [
            "schedule.function",
            "schedule.interval",
            "schedule.time_zone",
        ],
    ),
    ("GetSchedule", pb.GetScheduleRequest(), ["name"]),
    ("GetSchedule", pb.GetScheduleRequest(name="namespaces/a/schedules/../b"), ["name"]),
    ("GetSchedule", pb.GetScheduleRequest(name=HELLO), ["name"]),
    (
        "ListSchedules",
        pb.ListSchedulesRequest(
            parent="default", page_size=-1, page_token="x", filter="paused = maybe"
        ),
        ["parent", "filter", "page_size", "page_token"],
    ),
    (
        "ListSchedules",
        pb.ListSchedulesRequest(filter='function = "a b" AND labels.a : * AND state = 1'),
        ["filter", "filter", "filter"],
    ),
    (
        "UpdateSchedule",
        ParseDict(
            {
                "schedule": {"interval": "-1s", "jitter": "-1s"},
                "updateMask": "uid,nonsense,jitter",
                "requestId": "x",
            },
            pb.UpdateScheduleRequest(),
        ),
        ["schedule.name", "update_mask", "update_mask", "schedule.jitter", "request_id"],
    ),
    ("DeleteSchedule", pb.DeleteScheduleRequest(request_id="x"), ["name", "request_id"]),
    ("PauseSchedule", pb.PauseScheduleRequest(request_id="x"), ["name", "request_id"]),
    ("ResumeSchedule", pb.ResumeScheduleRequest(request_id="x"), ["name", "request_id"]),
    ("TriggerSchedule", pb.TriggerScheduleRequest(request_id="x"), ["name", "request_id"]),
]


@pytest.mark.parametrize(
    ("rpc", "request_", "fields"), CASES, ids=[f"{n}-{case[0]}" for n, case in enumerate(CASES)]
)
async def test_every_wrong_field_is_named(
    served: Served, rpc: str, request_: Message, fields: list[str]
) -> None:
    call = getattr(served.schedules, rpc)
    refused = await refusal(lambda: call(request_, timeout=PATIENCE))
    assert (refused.code, refused.reason) == (StatusCode.INVALID_ARGUMENT, "INVALID_FIELDS")
    assert refused.fields == fields


@pytest.mark.parametrize(
    ("cron", "says"),
    [
        ("", "is required"),
        ("* * * *", "five fields"),
        ("* * * * * *", "five fields"),
        ("@daily", "five fields"),
        ("60 * * * *", "Bad minute"),
        ("* * 31 2 *", "Bad day-of-month"),
        ("* * */30 2 MON#5", "never due"),
        ("0" * 257 + " * * * *", "at most 256"),
    ],
)
async def test_wrong_cron_expressions(served: Served, cron: str, says: str) -> None:
    refused = await refusal(lambda: create(served, cron=cron))
    assert refused.fields == ["schedule.cron"]
    assert says in refused.message


@pytest.mark.parametrize(
    "zone", ["Nowhere", "europe/berlin", "localtime", "../etc", "\0", "E" * 65, "Europe"]
)
async def test_wrong_time_zones(served: Served, zone: str) -> None:
    refused = await refusal(lambda: create(served, time_zone=zone))
    assert refused.fields == ["schedule.time_zone"]


async def test_the_biggest_input_passes(served: Served) -> None:
    await served.create()
    await create(served, input=b"x" * 256 * KIB)
    assert len((await get(served)).input) == 256 * KIB


async def test_the_window_ends_where_the_memory_of_requests_ends() -> None:
    async with serve(replace(LIMITS, request_retention=timedelta(minutes=10))) as served:
        await served.create()
        window = Duration(seconds=9 * 60)
        refused = await refusal(
            lambda: create(served, catch_up_window=window, jitter=Duration(seconds=61))
        )
        assert refused.fields == ["schedule.catch_up_window"]
        await create(served, catch_up_window=window, jitter=MINUTE)


async def test_times_are_whole(served: Served) -> None:
    await served.create()
    created = await create(served, time_zone="Asia/Kathmandu")
    assert created.next_time != Timestamp()
    assert created.next_time.ToDatetime().strftime("%H:%M:%S") == "22:45:00"
