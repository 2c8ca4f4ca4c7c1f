"""When schedules are due: gaps and folds of time zones, intervals, jitter, and counting."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skybridge_server.models.names import FunctionName, ScheduleName
from skybridge_server.models.schedules import Schedule, ScheduleSpec
from skybridge_server.services import due_times

HELLO = FunctionName("default", "hello")
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)

CHANGES = (datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC))
"""When the clocks of Berlin are set."""

times = st.builds(
    lambda start, more: start + more,
    st.sampled_from([datetime(2000, 1, 1, tzinfo=UTC), datetime(2040, 6, 1, tzinfo=UTC)]),
    st.timedeltas(timedelta(0), timedelta(days=9000)),
) | st.builds(
    lambda change, more: change + more,
    st.sampled_from(CHANGES),
    st.timedeltas(timedelta(hours=-3), timedelta(hours=3)),
)
zones = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Kathmandu"]
)
crons = st.sampled_from(
    [
        "* * * * *",
        "*/7 * * * *",
        "30 * * * *",
        "30 2 * * *",
        "0,30 1-3 * * *",
        "15 0 * * SUN",
        "0 0 1 * *",
        "0 12 29 2 *",
        "59 23 L * *",
    ]
)


def cron(expression: str, zone: str = "") -> ScheduleSpec:
    return ScheduleSpec(HELLO, cron=expression, time_zone=zone)


def every(interval: timedelta) -> ScheduleSpec:
    return ScheduleSpec(HELLO, interval=interval)


def schedule(spec: ScheduleSpec, **changes: object) -> Schedule:
    values: dict[str, object] = {"uid": "u", "create_time": NOON, "update_time": NOON, **changes}
    return Schedule(name=ScheduleName("default", "s"), spec=spec, **values)  # type: ignore[arg-type]


def walk(spec: ScheduleSpec, after: datetime, count: int) -> list[datetime]:
    found = []
    for _ in range(count):
        due = due_times.next_due(spec, after)
        assert due is not None
        found.append(after := due)
    return found


def local(*moments: str, zone: str = "Europe/Berlin") -> list[datetime]:
    """Return local times in UTC; a `+` before one means the second of two that read the same."""
    info = ZoneInfo(zone)
    return [
        datetime.fromisoformat(text.removeprefix("+"))
        .replace(tzinfo=info, fold=int(text.startswith("+")))
        .astimezone(UTC)
        for text in moments
    ]


class TestTimeZones:
    def test_a_time_that_is_left_out_is_due_after_the_gap(self) -> None:
        after = datetime(2026, 3, 28, tzinfo=UTC)
        assert walk(cron("30 2 * * *", "Europe/Berlin"), after, 3) == local(
            "2026-03-28T02:30", "2026-03-29T03:00", "2026-03-30T02:30"
        )

    def test_two_times_that_are_left_out_are_due_once(self) -> None:
        after = datetime(2026, 3, 28, 12, tzinfo=UTC)
        assert walk(cron("15,45 2 * * *", "Europe/Berlin"), after, 3) == local(
            "2026-03-29T03:00", "2026-03-30T02:15", "2026-03-30T02:45"
        )

    def test_a_time_that_comes_twice_is_due_once(self) -> None:
        after = datetime(2026, 10, 24, tzinfo=UTC)
        expected = local("2026-10-24T02:30", "2026-10-25T02:30", "2026-10-26T02:30")
        assert walk(cron("30 2 * * *", "Europe/Berlin"), after, 3) == expected

    @pytest.mark.parametrize("minutes", [31, 59, 60, 75, 90, 119])
    def test_within_the_hour_that_comes_twice_it_does_not_go_back(self, minutes: int) -> None:
        after = datetime(2026, 10, 25, tzinfo=UTC) + timedelta(minutes=minutes)
        expected = local("2026-10-26T02:30")
        assert walk(cron("30 2 * * *", "Europe/Berlin"), after, 1) == expected

    def test_what_is_due_all_day_is_due_in_both_hours(self) -> None:
        after = datetime(2026, 10, 24, 23, 45, tzinfo=UTC)
        assert walk(cron("*/30 * * * *", "Europe/Berlin"), after, 5) == local(
            "2026-10-25T02:00",
            "2026-10-25T02:30",
            "+2026-10-25T02:00",
            "+2026-10-25T02:30",
            "2026-10-25T03:00",
        )

    def test_a_midnight_that_does_not_exist(self) -> None:
        after = datetime(2018, 11, 3, 12, tzinfo=UTC)
        assert walk(cron("0 0 * * *", "America/Sao_Paulo"), after, 2) == local(
            "2018-11-04T01:00", "2018-11-05T00:00", zone="America/Sao_Paulo"
        )

    def test_utc_is_the_default(self) -> None:
        assert walk(cron("0 4 * * *"), NOON, 1) == [datetime(2026, 2, 1, 4, tzinfo=UTC)]

    @given(crons, zones, times)
    @settings(deadline=None)
    def test_the_next_is_later_whatever_the_zone_does(
        self, expression: str, zone: str, after: datetime
    ) -> None:
        first, second = walk(cron(expression, zone), after, 2)
        assert after < first < second

    @given(crons, zones, times, st.floats(0, 1))
    @settings(deadline=None)
    def test_no_start_in_between_finds_another(
        self, expression: str, zone: str, after: datetime, part: float
    ) -> None:
        spec = cron(expression, zone)
        (due,) = walk(spec, after, 1)
        between = min(after + (due - after) * part, due - timedelta(microseconds=1))
        assert walk(spec, between, 1) == [due]


class TestIntervals:
    @given(st.timedeltas(SECOND, timedelta(days=365)), times)
    def test_are_counted_from_1970(self, interval: timedelta, after: datetime) -> None:
        (due,) = walk(every(interval), after, 1)
        assert after < due <= after + interval
        assert (due - datetime(1970, 1, 1, tzinfo=UTC)) % interval == timedelta(0)

    def test_of_an_hour_is_each_full_hour(self) -> None:
        assert walk(every(timedelta(hours=1)), NOON - SECOND, 2) == [NOON, NOON + 3600 * SECOND]


class TestJitter:
    @given(times, st.timedeltas(timedelta(0), timedelta(hours=1)))
    def test_is_below_its_bound_and_always_the_same(self, due: datetime, bound: timedelta) -> None:
        jittered = schedule(ScheduleSpec(HELLO, cron="* * * * *", jitter=bound))
        amount = due_times.jitter(jittered, due)
        assert timedelta(0) <= amount < max(bound, timedelta(microseconds=1))
        assert due_times.jitter(jittered, due) == amount

    def test_spreads_due_times_and_schedules(self) -> None:
        spec = ScheduleSpec(HELLO, interval=SECOND, jitter=SECOND)
        of_times = {due_times.jitter(schedule(spec), NOON + n * SECOND) for n in range(100)}
        of_uids = {due_times.jitter(schedule(spec, uid=str(n)), NOON) for n in range(100)}
        for amounts in (of_times, of_uids):
            assert len(amounts) == 100
            assert min(amounts) < SECOND / 4 < 3 * SECOND / 4 < max(amounts)


class TestPlans:
    def test_wait_for_the_due_time_and_its_jitter(self) -> None:
        spec = ScheduleSpec(HELLO, cron="0 4 * * *", jitter=timedelta(minutes=5))
        plan = due_times.planned(schedule(spec), NOON)
        assert plan.next_time == datetime(2026, 2, 1, 4, tzinfo=UTC)
        assert plan.wake_time == plan.next_time + due_times.jitter(plan, plan.next_time)

    def test_are_empty_while_paused(self) -> None:
        plan = due_times.planned(
            schedule(every(SECOND), paused=True, next_time=NOON, wake_time=NOON), NOON
        )
        assert (plan.next_time, plan.wake_time) == (None, None)

    def test_never_go_back_before_what_was_dealt_with(self) -> None:
        last = NOON + timedelta(days=1)
        plan = due_times.planned(schedule(every(SECOND), last_due_time=last), NOON)
        assert plan.next_time == last + SECOND


class TestPassed:
    @given(crons, times, st.integers(1, 200), st.timedeltas(timedelta(0), 59 * SECOND))
    @settings(deadline=None, max_examples=50)
    async def test_counts_every_due_time(
        self, expression: str, after: datetime, count: int, more: timedelta
    ) -> None:
        count = count if expression.startswith("*") else count % 5 + 1
        dues = walk(cron(expression), after, count)
        before = dues[-1] + timedelta(microseconds=1) + more
        passed = await due_times.passed(cron(expression), dues[0], before)
        assert passed == due_times.Passed(count, dues[-1])

    @given(st.timedeltas(SECOND, timedelta(days=365)), st.integers(1, 1000))
    async def test_counts_intervals(self, interval: timedelta, count: int) -> None:
        (first,) = walk(every(interval), NOON, 1)
        last = first + (count - 1) * interval
        for before in (last + timedelta(microseconds=1), last + interval):
            passed = await due_times.passed(every(interval), first, before)
            assert passed == due_times.Passed(count, last)

    async def test_gives_up_counting_a_cron_expression(self) -> None:
        (first,) = walk(cron("* * * * *"), NOON, 1)
        passed = await due_times.passed(cron("* * * * *"), first, NOON + timedelta(days=365))
        assert passed.count == due_times.MAX_COUNTED
        assert passed.last == first + timedelta(minutes=due_times.MAX_COUNTED - 1)


class TestWrongOnes:
    @given(st.text(st.sampled_from("0123456789*/,-#LWMONSUNJAN \0²x"), max_size=60))
    @settings(deadline=None)
    def test_are_a_value_error_and_nothing_else(self, expression: str) -> None:
        with suppress(ValueError):
            due_times.next_due(cron(expression), NOON)

    @pytest.mark.parametrize(
        "zone", ["Europe/Nowhere", "Europe", "..", "/etc/passwd", "\0", "x" * 10_000, "Ü", "a//b"]
    )
    def test_time_zones(self, zone: str) -> None:
        with pytest.raises(ValueError, match="no time zone"):
            due_times.next_due(cron("* * * * *", zone), NOON)

    def test_what_is_never_due(self) -> None:
        assert due_times.next_due(cron("0 0 */30 2 MON#5"), NOON) is None
