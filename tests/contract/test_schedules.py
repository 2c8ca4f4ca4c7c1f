"""What every store promises of schedules: the suite runs over the one in memory and SQLite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from skybridge_server.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
)
from skybridge_server.models.functions import Function, FunctionSpec
from skybridge_server.models.names import ExecutionName, FunctionName, ScheduleName, new_id
from skybridge_server.models.paging import PageRequest, ScheduleQuery
from skybridge_server.models.requests import Request
from skybridge_server.models.schedules import (
    OverlapPolicy,
    Schedule,
    ScheduleOptions,
    ScheduleSpec,
)
from skybridge_server.repositories.base import Repositories
from skybridge_server.repositories.store import SqliteRepositories
from tests.fakes.repositories import FakeRepositories

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
HELLO = FunctionName("default", "hello")
NIGHTLY = ScheduleName("default", "nightly")
EVERYTHING = PageRequest(1000)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Repositories]:
    """Give a store that has the function `hello`."""
    repositories: Repositories = FakeRepositories()
    if request.param == "sqlite":
        repositories = await SqliteRepositories.open(tmp_path / "skybridge.db")
    await repositories.functions.create(function(HELLO))
    yield repositories
    await repositories.close()


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def function(name: FunctionName) -> Function:
    return Function(name, new_id(), FunctionSpec("hello:1"), NOW, NOW, etag="one")


def schedule(name: ScheduleName | str = NIGHTLY, **changes: object) -> Schedule:
    if isinstance(name, str):
        name = ScheduleName("default", name)
    values: dict[str, object] = {
        "uid": new_id(),
        "spec": ScheduleSpec(HELLO, cron="0 4 * * *"),
        "create_time": NOW,
        "update_time": NOW,
        "etag": "one",
        "next_time": NOW,
        "wake_time": NOW,
        **changes,
    }
    return Schedule(name=name, **values)  # type: ignore[arg-type]


def execution() -> ExecutionName:
    return ExecutionName("default", new_id())


def request(request_id: str = "r") -> Request:
    return Request("CreateSchedule", request_id, "f", NOW, resource=str(NIGHTLY))


async def names(store: Repositories, **query: object) -> list[str]:
    page = await store.schedules.list(ScheduleQuery("default", **query), EVERYTHING)  # type: ignore[arg-type]
    return [item.name.schedule for item in page.items]


class TestUsers:
    async def test_a_schedule_is_kept_whole(self, store: Repositories) -> None:
        cron = schedule(
            spec=ScheduleSpec(
                HELLO,
                input=b"\0\xff",
                options=ScheduleOptions(seconds(0.001), {"team": "red", "tier": ""}),
                cron="*/5 * * * MON",
                time_zone="Europe/Berlin",
                overlap_policy=OverlapPolicy.CANCEL_PREVIOUS,
                catch_up_window=seconds(7),
                jitter=seconds(0.000001),
            ),
            state_message="grün",
            paused=True,
            next_time=None,
            wake_time=None,
            last_due_time=NOW - seconds(1),
            last_execution=execution(),
            fired_count=2**40,
            skipped_count=2,
            missed_count=3,
        )
        interval = schedule("other", spec=ScheduleSpec(HELLO, interval=seconds(1)))
        for written in (cron, interval):
            await store.schedules.create(written)
            assert await store.schedules.get(written.name) == written

    async def test_a_name_is_taken_once(self, store: Repositories) -> None:
        await store.schedules.create(schedule())
        with pytest.raises(AlreadyExistsError) as caught:
            await store.schedules.create(schedule(), request())
        assert caught.value.reason == "SCHEDULE_EXISTS"
        assert await store.requests.find("CreateSchedule", "r") is None

    async def test_its_function_must_exist(self, store: Repositories) -> None:
        for namespace, id_ in (("default", "nobody"), ("other", "hello")):
            lost = schedule(spec=ScheduleSpec(FunctionName(namespace, id_), cron="0 4 * * *"))
            with pytest.raises(NotFoundError, match="function"):
                await store.schedules.create(lost, request())
        assert await names(store) == []
        assert await store.requests.find("CreateSchedule", "r") is None

    async def test_a_request_is_recorded_once(self, store: Repositories) -> None:
        await store.schedules.create(schedule(), request())
        recorded = await store.requests.find("CreateSchedule", "r")
        assert recorded is not None
        assert recorded.resource == str(NIGHTLY)
        with pytest.raises(AlreadyExistsError) as caught:
            await store.schedules.create(schedule("other"), request())
        assert caught.value.reason == "REQUEST_ID_USED"
        assert await names(store) == ["nightly"]

    async def test_lists_come_by_name_in_pages_without_input(self, store: Repositories) -> None:
        spec = ScheduleSpec(HELLO, input=b"x", cron="0 4 * * *")
        for id_ in ("b", "d", "a", "c"):
            await store.schedules.create(schedule(id_, spec=spec))
        query = ScheduleQuery("default")
        first = await store.schedules.list(query, PageRequest(3))
        second = await store.schedules.list(query, PageRequest(3, first.next))
        assert [item.name.schedule for item in first.items] == ["a", "b", "c"]
        assert [item.name.schedule for item in second.items] == ["d"]
        assert second.next is None
        assert {item.spec.input for item in first.items} == {b""}
        assert (await store.schedules.list(ScheduleQuery("other"), EVERYTHING)).items == ()

    async def test_lists_are_filtered(self, store: Repositories) -> None:
        other = FunctionName("default", "other")
        await store.functions.create(function(other))
        await store.schedules.create(schedule("a"))
        await store.schedules.create(schedule("b", paused=True))
        await store.schedules.create(schedule("c", spec=ScheduleSpec(other, cron="0 4 * * *")))
        assert await names(store, function="hello") == ["a", "b"]
        assert await names(store, paused=True) == ["b"]
        assert await names(store, paused=False, function="hello") == ["a"]
        assert await names(store, function="nobody") == []

    async def test_an_update_leaves_to_the_scheduler_what_is_the_schedulers(
        self, store: Repositories
    ) -> None:
        first = schedule()
        await store.schedules.create(first)
        fired = replace(
            first,
            next_time=NOW + seconds(60),
            wake_time=NOW + seconds(61),
            last_due_time=NOW,
            last_execution=execution(),
            fired_count=1,
            state_message="news",
        )
        await store.schedules.settle(fired, due=NOW)
        spec = ScheduleSpec(HELLO, b"new", cron="0 4 * * *")
        changed = replace(first, spec=spec, etag="two", update_time=NOW + seconds(1))
        await store.schedules.update(changed, expected_etag="one", replan=False)
        expected = replace(fired, spec=spec, etag="two", update_time=NOW + seconds(1))
        assert await store.schedules.get(NIGHTLY) == expected

    async def test_an_update_can_make_a_new_plan(self, store: Repositories) -> None:
        first = schedule(state_message="old", fired_count=3)
        await store.schedules.create(first)
        paused = replace(
            first, paused=True, next_time=None, wake_time=None, state_message="", etag="two"
        )
        given = replace(paused, fired_count=0)
        await store.schedules.update(given, expected_etag="one", replan=True)
        assert await store.schedules.get(NIGHTLY) == paused

    async def test_another_etag_is_refused_and_nothing_written(self, store: Repositories) -> None:
        first = schedule()
        await store.schedules.create(first)
        changed = replace(first, etag="three")
        with pytest.raises(AbortedError):
            await store.schedules.update(
                changed, expected_etag="two", replan=True, request=request()
            )
        with pytest.raises(AbortedError):
            await store.schedules.delete(NIGHTLY, expected_etag="two", request=request())
        assert await store.schedules.get(NIGHTLY) == first
        assert await store.requests.find("CreateSchedule", "r") is None

    async def test_what_is_not_there_is_not_found(self, store: Repositories) -> None:
        with pytest.raises(NotFoundError):
            await store.schedules.get(NIGHTLY)
        with pytest.raises(NotFoundError):
            await store.schedules.update(schedule(), expected_etag="one", replan=False)
        with pytest.raises(NotFoundError):
            await store.schedules.delete(NIGHTLY, expected_etag="one")
        await store.schedules.create(schedule())
        with pytest.raises(NotFoundError):  # created anew meanwhile
            await store.schedules.update(schedule(), expected_etag="one", replan=False)
        lost = replace(await store.schedules.get(NIGHTLY), etag="two")
        lost = replace(lost, spec=replace(lost.spec, function=FunctionName("default", "nobody")))
        with pytest.raises(NotFoundError, match="function"):
            await store.schedules.update(lost, expected_etag="one", replan=False)

    async def test_a_deleted_schedule_is_gone(self, store: Repositories) -> None:
        await store.schedules.create(schedule())
        await store.schedules.delete(NIGHTLY, expected_etag="one", request=request())
        assert await names(store) == []
        assert await store.schedules.next_wake() is None
        assert await store.requests.find("CreateSchedule", "r") is not None


class TestScheduler:
    async def test_finds_whose_time_has_come(self, store: Repositories) -> None:
        for id_, late in (("a", 1), ("b", 3), ("c", 2), ("d", -1)):
            await store.schedules.create(schedule(id_, wake_time=NOW - seconds(late)))
        await store.schedules.create(schedule("e", next_time=None, wake_time=None, paused=True))
        due = await store.schedules.due(NOW, 10)
        assert [name.schedule for name in due] == ["b", "c", "a"]
        assert len(await store.schedules.due(NOW, 2)) == 2
        exactly = await store.schedules.due(NOW - seconds(3), 10)
        assert [name.schedule for name in exactly] == ["b"]
        assert await store.schedules.next_wake() == NOW - seconds(3)

    async def test_nothing_is_due_where_there_is_nothing(self, store: Repositories) -> None:
        assert await store.schedules.next_wake() is None
        assert list(await store.schedules.due(NOW, 10)) == []

    async def test_settles_a_due_time(self, store: Repositories) -> None:
        first = schedule(state_message="late")
        await store.schedules.create(first)
        settled = replace(
            first,
            next_time=NOW + seconds(60),
            wake_time=NOW + seconds(61),
            state_message="",
            last_due_time=NOW,
            last_execution=execution(),
            fired_count=1,
            skipped_count=2,
            missed_count=3,
        )
        await store.schedules.settle(replace(settled, etag="x", paused=True), due=NOW)
        assert await store.schedules.get(NIGHTLY) == settled

    async def test_does_not_undo_the_plan_of_a_user(self, store: Repositories) -> None:
        first = schedule()
        await store.schedules.create(first)
        paused = replace(first, paused=True, next_time=None, wake_time=None, etag="two")
        await store.schedules.update(paused, expected_etag="one", replan=True)
        fired = replace(first, next_time=NOW + seconds(60), last_due_time=NOW, fired_count=1)
        await store.schedules.settle(fired, due=NOW)
        expected = replace(paused, last_due_time=NOW, fired_count=1)
        assert await store.schedules.get(NIGHTLY) == expected

    async def test_leaves_alone_what_was_deleted_or_made_anew(self, store: Repositories) -> None:
        gone = schedule()
        await store.schedules.settle(gone, due=NOW)
        await store.schedules.note_execution(gone, execution())
        assert await names(store) == []
        anew = schedule()
        await store.schedules.create(anew)
        await store.schedules.settle(replace(gone, fired_count=7), due=NOW)
        await store.schedules.note_execution(gone, execution())
        assert await store.schedules.get(NIGHTLY) == anew

    async def test_notes_an_execution_out_of_turn(self, store: Repositories) -> None:
        first, name = schedule(), execution()
        await store.schedules.create(first)
        await store.schedules.note_execution(first, name)
        assert await store.schedules.get(NIGHTLY) == replace(first, last_execution=name)


class TestFunctions:
    async def test_one_that_is_executed_by_schedules_stays(self, store: Repositories) -> None:
        await store.schedules.create(schedule())
        with pytest.raises(FailedPreconditionError) as caught:
            await store.functions.delete(HELLO, expected_etag="one", request=request())
        assert caught.value.reason == "SCHEDULES_EXIST"
        assert (await store.functions.get(HELLO)).name == HELLO
        assert await store.requests.find("CreateSchedule", "r") is None

    async def test_one_goes_with_its_schedules_alone(self, store: Repositories) -> None:
        other = FunctionName("default", "other")
        await store.functions.create(function(other))
        await store.schedules.create(schedule("a"))
        await store.schedules.create(schedule("b", spec=ScheduleSpec(other, cron="0 4 * * *")))
        await store.functions.delete(HELLO, expected_etag="one", with_schedules=True)
        assert await names(store) == ["b"]

    async def test_one_whose_schedules_are_deleted_can_go(self, store: Repositories) -> None:
        await store.schedules.create(schedule())
        await store.schedules.delete(NIGHTLY, expected_etag="one")
        await store.functions.delete(HELLO, expected_etag="one")
