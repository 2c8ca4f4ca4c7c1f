"""What every store promises: the suite runs over the one in memory and the one in SQLite."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skybridge_server.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    NotFoundError,
)
from skybridge_server.models.executions import (
    Execution,
    ExecutionState,
    Failure,
    FailureReason,
    Timings,
    Usage,
)
from skybridge_server.models.functions import Function, FunctionSpec, FunctionState, Revision
from skybridge_server.models.journal import (
    Event,
    EventBody,
    Gap,
    GapReason,
    Output,
    OutputStream,
    Result,
    StateChange,
)
from skybridge_server.models.metrics import LatencySummary
from skybridge_server.models.names import ExecutionName, FunctionName, RevisionName, new_id
from skybridge_server.models.paging import (
    Cursor,
    ExecutionQuery,
    FunctionQuery,
    LabelFilter,
    Page,
    PageRequest,
)
from skybridge_server.models.requests import Request
from skybridge_server.repositories.base import Repositories
from skybridge_server.repositories.store import SqliteRepositories
from tests.fakes.repositories import FakeRepositories

T = TypeVar("T")
S = ExecutionState

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
HELLO = FunctionName("default", "hello")
ALL = PageRequest(1000)
KIB = 1024

many_examples = settings(
    max_examples=30,
    deadline=None,
    # One store serves all examples: each has a namespace of its own.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
numbers = itertools.count()


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Repositories]:
    repositories: Repositories = FakeRepositories()
    if request.param == "sqlite":
        repositories = await SqliteRepositories.open(tmp_path / "skybridge.db")
    yield repositories
    await repositories.close()


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def function(name: FunctionName = HELLO, *, etag: str = "one", **changes: object) -> Function:
    values = {"uid": new_id(), "spec": FunctionSpec("hello:1"), "create_time": NOW}
    return Function(name=name, etag=etag, **{"update_time": NOW, **values, **changes})  # type: ignore[arg-type]


def revision(number: int, name: FunctionName = HELLO) -> Revision:
    return Revision(
        name=RevisionName(name, number),
        spec=FunctionSpec("hello:1", env={"NUMBER": str(number)}),
        image_id=f"sha256:{number}",
        image_digest="registry.test/hello@sha256:1",
        platform="linux/amd64",
        image_bytes=2**33,
        generation=number,
        create_time=NOW + seconds(number),
    )


def execution(namespace: str = "default", of: str = "hello", **changes: object) -> Execution:
    values: dict[str, object] = {"function_uid": "uid", "revision": 1, "create_time": NOW}
    name = ExecutionName(namespace, new_id())
    return Execution(name=name, function=FunctionName(namespace, of), **{**values, **changes})  # type: ignore[arg-type]


def request(request_id: str, method: str = "CreateFunction", **changes: object) -> Request:
    return Request(
        method=method,
        request_id=request_id,
        fingerprint="f",
        create_time=NOW,
        **changes,  # type: ignore[arg-type]
    )


def journal(*bodies: EventBody, first: int = 1) -> list[Event]:
    return [Event(n, NOW + seconds(n), body) for n, body in enumerate(bodies, first)]


def stdout(offset: int, data: bytes) -> Output:
    return Output(OutputStream.STDOUT, offset, data)


async def add(store: Repositories, *bodies: EventBody, **changes: object) -> Execution:
    added = execution(**changes)  # type: ignore[arg-type]
    await store.executions.add(added, b"", journal(*bodies))
    return added


async def walk(fetch: Callable[[PageRequest], Awaitable[Page[T]]], size: int) -> list[list[T]]:
    """Return all pages of a list."""
    pages: list[list[T]] = []
    after: Cursor | None = None
    while True:
        page = await fetch(PageRequest(size, after))
        assert list(page.items) not in pages, "goes round in circles"
        pages.append([*page.items])
        if page.next is None:
            return pages
        after = page.next


class TestFunctions:
    async def test_keeps_all_of_a_function(self, store: Repositories) -> None:
        written = function(
            spec=FunctionSpec("a:1", args=("x", "y"), env={"KEY": "grün\n"}),
            description="says hello",
            labels={"team": "red", "tier": ""},
            state=FunctionState.ACTIVE,
            state_message="ready",
            generation=7,
            active_revision=3,
            update_time=NOW + seconds(1),
        )
        await store.functions.create(written)
        assert await store.functions.get(HELLO) == written

    async def test_takes_a_name_once(self, store: Repositories) -> None:
        await store.functions.create(function())
        with pytest.raises(AlreadyExistsError) as caught:
            await store.functions.create(function(description="other"), request("r"))
        assert caught.value.reason == "FUNCTION_EXISTS"
        assert (await store.functions.get(HELLO)).description == ""
        assert await store.requests.find("CreateFunction", "r") is None

    async def test_tells_namespaces_apart(self, store: Repositories) -> None:
        other = FunctionName("other", "hello")
        await store.functions.create(function())
        with pytest.raises(NotFoundError):
            await store.functions.get(other)
        await store.functions.create(function(other))
        assert len((await store.functions.list(FunctionQuery("other"), ALL)).items) == 1

    async def test_updates_what_has_the_etag(self, store: Repositories) -> None:
        first = function(labels={"a": "1", "b": "1"})
        await store.functions.create(first)
        second = replace(first, etag="two", description="new", labels={"b": "2"})
        await store.functions.update(second, expected_etag="one")
        assert await store.functions.get(HELLO) == second
        for filter_, found in ((LabelFilter("a", None), 0), (LabelFilter("b", "2"), 1)):
            query = FunctionQuery("default", labels=(filter_,))
            assert len((await store.functions.list(query, ALL)).items) == found

    async def test_refuses_another_etag_and_writes_nothing(self, store: Repositories) -> None:
        first = function()
        await store.functions.create(first)
        changed = replace(first, etag="three")
        with pytest.raises(AbortedError):
            await store.functions.update(changed, expected_etag="two", request=request("r"))
        with pytest.raises(AbortedError):
            await store.functions.delete(HELLO, expected_etag="two", request=request("r"))
        with pytest.raises(AbortedError):
            await store.revisions.activate_new(
                changed, revision(1), expected_etag="two", request=request("r")
            )
        assert await store.functions.get(HELLO) == first
        assert await store.revisions.latest_number(HELLO) == 0
        assert await store.requests.find("CreateFunction", "r") is None

    async def test_does_not_update_a_successor_of_the_same_name(self, store: Repositories) -> None:
        await store.functions.create(function())
        stranger = function(description="of a deleted function")
        with pytest.raises(NotFoundError):
            await store.functions.update(stranger, expected_etag="one")
        with pytest.raises(NotFoundError):
            await store.functions.update(function(FunctionName("a", "b")), expected_etag="one")
        with pytest.raises(NotFoundError):
            await store.functions.delete(FunctionName("a", "b"), expected_etag="one")

    async def test_deletes_with_revisions_but_not_executions(self, store: Repositories) -> None:
        stored = function()
        await store.functions.create(stored)
        await store.revisions.activate_new(
            replace(stored, active_revision=1), revision(1), expected_etag="one"
        )
        ended = await add(store, state=S.SUCCEEDED, function_uid=stored.uid)
        await store.functions.delete(HELLO, expected_etag="one")
        with pytest.raises(NotFoundError):
            await store.functions.get(HELLO)
        with pytest.raises(NotFoundError):
            await store.revisions.get(RevisionName(HELLO, 1))
        assert await store.executions.get(ended.name) == ended
        await store.functions.create(function())
        assert await store.revisions.latest_number(HELLO) == 0

    @pytest.mark.parametrize("state", [state for state in S if not state.final])
    async def test_keeps_a_function_that_runs(self, store: Repositories, state: S) -> None:
        stored = function()
        await store.functions.create(stored)
        await add(store, state=state, function_uid=stored.uid)
        with pytest.raises(FailedPreconditionError) as caught:
            await store.functions.delete(HELLO, expected_etag="one", request=request("r"))
        assert caught.value.reason == "EXECUTIONS_UNFINISHED"
        assert await store.functions.get(HELLO) == stored
        assert await store.requests.find("CreateFunction", "r") is None

    @pytest.mark.parametrize("descending", [False, True])
    @pytest.mark.parametrize("order_by", ["name", "create_time", "update_time"])
    async def test_lists_in_order(
        self, store: Repositories, order_by: str, *, descending: bool
    ) -> None:
        for number in (3, 1, 4, 0, 2):
            times: Any = {
                "create_time": NOW + seconds(number % 2),
                "update_time": NOW - seconds(number),
            }
            await store.functions.create(function(FunctionName("default", f"f{number}"), **times))
        query = FunctionQuery("default", order_by=order_by, descending=descending)
        pages = await walk(lambda page: store.functions.list(query, page), 2)
        found = [int(item.name.function[1:]) for page in pages for item in page]
        in_order = {
            "name": [0, 1, 2, 3, 4],
            "create_time": [0, 2, 4, 1, 3],
            "update_time": [4, 3, 2, 1, 0],
        }[order_by]
        assert found == (in_order[::-1] if descending else in_order)
        assert [len(page) for page in pages] == [2, 2, 1]

    async def test_filters(self, store: Repositories) -> None:
        for name, state, labels in (
            ("pay", FunctionState.ACTIVE, {"team": "red"}),
            ("pay-back", FunctionState.DISABLED, {"team": "red", "tier": "1"}),
            ("pax", FunctionState.ACTIVE, {"team": "blue"}),
            ("pazz", FunctionState.ACTIVE, {}),
        ):
            await store.functions.create(
                function(FunctionName("default", name), state=state, labels=labels)
            )

        async def found(**filters: object) -> list[str]:
            query = FunctionQuery("default", **filters)  # type: ignore[arg-type]
            return [f.name.function for f in (await store.functions.list(query, ALL)).items]

        assert await found(name_prefix="pay") == ["pay", "pay-back"]
        assert await found(state=FunctionState.ACTIVE) == ["pax", "pay", "pazz"]
        assert await found(labels=(LabelFilter("team", None),)) == ["pax", "pay", "pay-back"]
        assert await found(labels=(LabelFilter("team", "red"),)) == ["pay", "pay-back"]
        both = (LabelFilter("team", "red"), LabelFilter("tier", "1"))
        assert await found(labels=both) == ["pay-back"]
        assert await found(labels=both, name_prefix="pax") == []


class TestRevisions:
    async def test_activates_a_revision(self, store: Repositories) -> None:
        first = function()
        await store.functions.create(first)
        assert await store.revisions.latest_number(HELLO) == 0
        second = replace(first, active_revision=1, etag="two", state=FunctionState.ACTIVE)
        await store.revisions.activate_new(second, revision(1), expected_etag="one")
        assert await store.functions.get(HELLO) == second
        assert await store.revisions.get(RevisionName(HELLO, 1)) == revision(1)
        assert await store.revisions.latest_number(HELLO) == 1

    async def test_takes_a_number_once(self, store: Repositories) -> None:
        first = function()
        await store.functions.create(first)
        await store.revisions.activate_new(first, revision(1), expected_etag="one")
        late = replace(first, description="late", etag="two")
        with pytest.raises(AbortedError):
            await store.revisions.activate_new(
                late, revision(1), expected_etag="one", request=request("r")
            )
        assert await store.functions.get(HELLO) == first
        assert await store.requests.find("CreateFunction", "r") is None

    async def test_lists_the_newest_first(self, store: Repositories) -> None:
        await store.functions.create(first := function())
        for number in range(1, 12):
            await store.revisions.activate_new(first, revision(number), expected_etag="one")
        pages = await walk(lambda page: store.revisions.list(HELLO, page), 4)
        assert [r.name.number for page in pages for r in page] == [*range(11, 0, -1)]
        assert pages[0][0] == revision(11)
        assert [len(page) for page in pages] == [4, 4, 3]

    async def test_knows_no_revisions_of_others(self, store: Repositories) -> None:
        await store.functions.create(first := function())
        await store.revisions.activate_new(first, revision(1), expected_etag="one")
        other = FunctionName("default", "other")
        assert await store.revisions.latest_number(other) == 0
        assert await store.revisions.list(other, ALL) == Page((), None)
        with pytest.raises(NotFoundError):
            await store.revisions.get(RevisionName(other, 1))
        with pytest.raises(NotFoundError):
            await store.revisions.get(RevisionName(HELLO, 2))


class TestExecutions:
    async def test_may_insist_on_a_function_that_can_be_executed(self, store: Repositories) -> None:
        async def begin() -> None:
            await store.executions.add(
                execution(function_uid=stored.uid), b"", [], request("r"), check_function=True
            )

        stored = function()
        with pytest.raises(NotFoundError):
            await begin()
        await store.functions.create(replace(stored, uid="another"))
        with pytest.raises(NotFoundError):
            await begin()
        await store.functions.delete(HELLO, expected_etag="one")
        await store.functions.create(replace(stored, state=FunctionState.DISABLED))
        with pytest.raises(FailedPreconditionError) as caught:
            await begin()
        assert caught.value.reason == "FUNCTION_DISABLED"
        assert not (await store.executions.list(ExecutionQuery("default"), ALL)).items
        enabled = replace(stored, active_revision=1)
        await store.revisions.activate_new(enabled, revision(1), expected_etag="one")
        await begin()

    async def test_keeps_all_of_an_execution(self, store: Repositories) -> None:
        queued = execution(
            timeout=seconds(1.5),
            interactive=True,
            traceparent="00-1-2-01",
            labels={"order": "5", "note": ""},
        )
        await store.executions.add(queued, b"\x00in", journal(StateChange(S.QUEUED)))
        assert await store.executions.get(queued.name) == queued
        assert await store.executions.get_input(queued.name) == b"\x00in"
        ended = replace(
            queued,
            state=S.FAILED,
            failure=Failure(FailureReason.SIGNAL, "killed by signal 9", 9),
            exit_code=137,
            stdout_bytes=2**40,
            stderr_bytes=3,
            last_sequence=2,
            attempt=2,
            cold_start=True,
            timings=Timings(seconds(0.000001), seconds(1), None, seconds(2**20)),
            usage=Usage(seconds(0.5), 2**34, oom_killed=True),
            start_time=NOW + seconds(1),
            end_time=NOW + seconds(2),
        )
        await store.executions.append(queued.name, [], ended)
        assert await store.executions.get(queued.name) == ended

    async def test_keeps_no_state_that_was_not_given(self, store: Repositories) -> None:
        added = await add(store, StateChange(S.QUEUED))
        await store.executions.append(added.name, journal(stdout(0, b"a"), first=2))
        assert await store.executions.get(added.name) == added

    async def test_knows_no_execution_of_another_namespace(self, store: Repositories) -> None:
        added = await add(store, stdout(0, b"a"))
        name = ExecutionName("other", added.name.execution)
        executions = store.executions
        for call in (
            executions.get(name),
            executions.get_input(name),
            executions.append(name, journal(stdout(0, b"b"))),
            executions.events(name, after=0, limit_bytes=1),
            executions.output(name, OutputStream.STDOUT, 1),
            executions.output_tail(name, OutputStream.STDOUT, 1),
            executions.delete(name),
        ):
            with pytest.raises(NotFoundError) as caught:
                await call
            assert caught.value.resource_name == str(name)

    @pytest.mark.parametrize("state", S)
    async def test_deletes_only_what_has_ended(self, store: Repositories, state: S) -> None:
        added = await add(store, stdout(0, b"a"), state=state, labels={"a": "b"})
        if not state.final:
            with pytest.raises(FailedPreconditionError) as caught:
                await store.executions.delete(added.name)
            assert caught.value.reason == "EXECUTION_UNFINISHED"
            assert len(await store.executions.events(added.name, after=0, limit_bytes=1)) == 1
            return
        await store.executions.delete(added.name)
        with pytest.raises(NotFoundError):
            await store.executions.get(added.name)
        assert (await store.executions.list(ExecutionQuery("default"), ALL)).items == ()
        # Nothing of it shows in what comes after it.
        later = await add(store)
        assert await store.executions.events(later.name, after=0, limit_bytes=1) == []

    async def test_filters(self, store: Repositories) -> None:
        added = [
            await add(store, of=of, state=state, labels=labels, create_time=NOW + seconds(number))
            for number, (of, state, labels) in enumerate(
                [
                    ("hello", S.QUEUED, {"env": "prod"}),
                    ("hello", S.FAILED, {"env": "prod", "order": "7"}),
                    ("other", S.SUCCEEDED, {"env": "test"}),
                    ("other", S.CANCELLED, {}),
                ]
            )
        ]

        async def found(**filters: object) -> list[int]:
            query = ExecutionQuery("default", **filters)  # type: ignore[arg-type]
            items = (await store.executions.list(query, ALL)).items
            return [added.index(item) for item in items]

        assert await found() == [3, 2, 1, 0]
        assert await found(descending=False) == [0, 1, 2, 3]
        assert await found(function="other") == [3, 2]
        assert await found(states=frozenset({S.QUEUED})) == [0]
        assert await found(states=frozenset({S.FAILED, S.CANCELLED})) == [3, 1]
        assert await found(states=frozenset({S.QUEUED, S.SUCCEEDED, S.FAILED})) == [2, 1, 0]
        assert await found(labels=(LabelFilter("env", "prod"),)) == [1, 0]
        assert await found(labels=(LabelFilter("env", None),)) == [2, 1, 0]
        both = (LabelFilter("env", "prod"), LabelFilter("order", None))
        assert await found(labels=both) == [1]
        assert await found(labels=both[::-1]) == [1]
        assert await found(labels=both, states=frozenset({S.QUEUED}), function="hello") == []
        assert await found(created_from=NOW + seconds(1), created_before=NOW + seconds(3)) == [2, 1]
        window = {"created_from": NOW + seconds(1), "created_before": NOW + seconds(2)}
        assert await found(labels=(LabelFilter("env", "prod"),), **window) == [1]

    async def test_lists_an_empty_namespace(self, store: Repositories) -> None:
        await add(store)
        assert await store.executions.list(ExecutionQuery("empty"), ALL) == Page((), None)


changes_between_pages = st.lists(
    st.tuples(st.sampled_from(["add", "delete"]), st.integers(0, 9)), max_size=6
)


class TestPaging:
    """Whatever changes between pages, each item that stays is seen once, in order."""

    @many_examples
    @given(
        times=st.lists(st.integers(0, 5), max_size=12),
        size=st.integers(1, 5),
        changes=changes_between_pages,
        descending=st.booleans(),
        labelled=st.booleans(),
    )
    async def test_of_executions_is_stable(
        self,
        store: Repositories,
        times: Sequence[int],
        size: int,
        changes: Sequence[tuple[str, int]],
        *,
        descending: bool,
        labelled: bool,
    ) -> None:
        namespace = f"n{next(numbers)}"
        labels = {"env": "prod"} if labelled else {}
        filters = tuple(LabelFilter(*label) for label in labels.items())
        query = ExecutionQuery(namespace, descending=descending, labels=filters)

        async def one(time: int) -> Execution:
            created = NOW + seconds(time)
            return await add(
                store, namespace=namespace, create_time=created, labels=labels, state=S.SUCCEEDED
            )

        staying = [await one(time) for time in times]
        pending = iter(changes)
        seen: list[Execution] = []
        after: Cursor | None = None
        while True:
            page = await store.executions.list(query, PageRequest(size, after))
            assert len(page.items) <= size
            assert not [item for item in page.items if item in seen]
            seen.extend(page.items)
            if page.next is None:
                break
            after = page.next
            kind, number = next(pending, ("", 0))
            if kind == "add":
                await one(number)
            if kind == "delete" and staying:
                gone = staying.pop(number % len(staying))
                await store.executions.delete(gone.name)
                seen = [item for item in seen if item != gone]
        ordered = sorted(staying, key=lambda item: item.create_time, reverse=descending)
        kept = [item for item in seen if item in staying]
        assert {item.name for item in kept} == {item.name for item in ordered}
        assert [i.create_time for i in kept] == [i.create_time for i in ordered]

    @many_examples
    @given(
        names=st.sets(st.integers(0, 30), max_size=12),
        size=st.integers(1, 5),
        changes=changes_between_pages,
        order_by=st.sampled_from(["name", "create_time", "update_time"]),
        descending=st.booleans(),
    )
    async def test_of_functions_is_stable(
        self,
        store: Repositories,
        names: set[int],
        size: int,
        changes: Sequence[tuple[str, int]],
        order_by: str,
        *,
        descending: bool,
    ) -> None:
        namespace = f"n{next(numbers)}"
        query = FunctionQuery(namespace, order_by=order_by, descending=descending)

        async def one(number: int) -> Function:
            name = FunctionName(namespace, f"f{number:02}")
            made = function(name, create_time=NOW + seconds(number % 3))
            await store.functions.create(made)
            return made

        staying = [await one(number) for number in sorted(names)]
        pending = iter(changes)
        seen: list[FunctionName] = []
        after: Cursor | None = None
        while True:
            page = await store.functions.list(query, PageRequest(size, after))
            names_found = [item.name for item in page.items]
            assert not {*names_found} & {*seen}
            seen.extend(names_found)
            if page.next is None:
                break
            after = page.next
            kind, number = next(pending, ("", 0))
            if kind == "add":
                await one(31 + len(seen) * 10 + number)
            if kind == "delete" and staying:
                gone = staying.pop(number % len(staying)).name
                await store.functions.delete(gone, expected_etag="one")
        assert {item.name for item in staying} <= set(seen)

    async def test_ends_exactly_at_the_last_item(self, store: Repositories) -> None:
        for _ in range(4):
            await add(store)
        query = ExecutionQuery("default")
        pages = await walk(lambda page: store.executions.list(query, page), 2)
        assert [len(page) for page in pages] == [2, 2]


class TestJournal:
    async def test_keeps_every_kind_of_event(self, store: Repositories) -> None:
        ended = execution(state=S.SUCCEEDED, last_sequence=6)
        events = journal(
            StateChange(S.QUEUED),
            stdout(0, b"\x00\xff"),
            Output(OutputStream.STDERR, 0, b"e"),
            Gap(OutputStream.STDOUT, 2, 2**40, GapReason.OUTPUT_LIMIT),
            Gap(OutputStream.STDERR, 1, None, GapReason.RUNTIME_UNAVAILABLE),
            Result(ended),
        )
        await store.executions.add(replace(ended, state=S.QUEUED), b"", events[:2])
        await store.executions.append(ended.name, events[2:], ended)
        assert [*await store.executions.events(ended.name, after=0, limit_bytes=KIB)] == events

    async def test_of_what_ran_straight_to_its_end_is_as_any_other(
        self, store: Repositories
    ) -> None:
        ended = execution(
            state=S.SUCCEEDED,
            start_time=NOW + seconds(1),
            end_time=NOW + seconds(2),
            labels={"order": "5"},
            stdout_bytes=6,
            stderr_bytes=3,
            last_sequence=6,
        )
        log = Output(OutputStream.STDERR, 0, b"log")
        written = [log, stdout(0, b"one"), stdout(3, b"two")]
        storing = store.executions.add_ended(ended, b"in", written, request("r"), patient=True)
        # Whoever reads it waits until it is there.
        assert await store.executions.get(ended.name) == ended
        assert storing.done()
        assert await store.executions.get_input(ended.name) == b"in"
        assert await store.requests.find("CreateFunction", "r") == request("r")
        query = ExecutionQuery("default", labels=(LabelFilter("order", "5"),))
        assert (await store.executions.list(query, ALL)).items == (ended,)
        whole = [
            Event(1, NOW, StateChange(S.QUEUED)),
            Event(2, NOW + seconds(1), StateChange(S.RUNNING)),
            *(Event(n, NOW + seconds(2), body) for n, body in enumerate(written, 3)),
            Event(6, NOW + seconds(2), Result(ended)),
        ]
        for after in range(8):
            events = await store.executions.events(ended.name, after=after, limit_bytes=100)
            assert events == whole[after:]
        some = await store.executions.events(ended.name, after=1, limit_bytes=4)
        assert some == whole[1:3]
        assert await store.executions.output(ended.name, OutputStream.STDOUT, 100) == b"onetwo"
        await store.executions.delete(ended.name)
        with pytest.raises(NotFoundError):
            await store.executions.get(ended.name)

    async def test_of_nothing_written_is_what_it_went_through(self, store: Repositories) -> None:
        ended = execution(state=S.FAILED, start_time=NOW, end_time=NOW, last_sequence=3)
        await store.executions.add_ended(ended, b"", [])
        events = await store.executions.events(ended.name, after=0, limit_bytes=1)
        assert [event.body for event in events] == [
            StateChange(S.QUEUED),
            StateChange(S.RUNNING),
            Result(ended),
        ]

    async def test_result_shows_the_execution_as_it_ended(self, store: Repositories) -> None:
        queued = await add(store, StateChange(S.QUEUED))
        ended = replace(queued, state=S.SUCCEEDED, exit_code=0, end_time=NOW, last_sequence=2)
        await store.executions.append(queued.name, journal(Result(ended), first=2), ended)
        (event,) = await store.executions.events(queued.name, after=1, limit_bytes=KIB)
        assert event.body == Result(ended)

    async def test_reads_after_a_sequence(self, store: Repositories) -> None:
        added = await add(store, *(stdout(n, b"x") for n in range(5)))
        for after, expected in ((0, [1, 2, 3, 4, 5]), (3, [4, 5]), (5, []), (99, [])):
            events = await store.executions.events(added.name, after=after, limit_bytes=KIB)
            assert [event.sequence for event in events] == expected

    async def test_reads_as_many_bytes_as_fit_but_at_least_one_event(
        self, store: Repositories
    ) -> None:
        added = await add(store, *(stdout(n * 10, b"x" * 10) for n in range(5)))
        for limit, expected in ((0, 1), (1, 1), (10, 1), (19, 1), (20, 2), (49, 4), (50, 5)):
            events = await store.executions.events(added.name, after=0, limit_bytes=limit)
            assert len(events) == expected

    async def test_reads_at_most_a_thousand_events(self, store: Repositories) -> None:
        added = await add(store, *(stdout(n, b"x") for n in range(1002)))
        first = await store.executions.events(added.name, after=0, limit_bytes=KIB**2)
        rest = await store.executions.events(added.name, after=1000, limit_bytes=KIB**2)
        assert (len(first), len(rest)) == (1000, 2)

    async def test_reads_both_ends_of_a_stream(self, store: Repositories) -> None:
        added = await add(
            store,
            stdout(0, b"abc"),
            Output(OutputStream.STDERR, 0, b"ERR"),
            stdout(3, b"def"),
            Gap(OutputStream.STDOUT, 6, 100, GapReason.OUTPUT_LIMIT),
            stdout(106, b"ghi"),
        )
        both = b"abcdefghi"
        executions, name = store.executions, added.name
        for limit in (0, 1, 3, 4, 8, 9, 10, KIB):
            assert await executions.output(name, OutputStream.STDOUT, limit) == both[:limit]
            tail = await executions.output_tail(name, OutputStream.STDOUT, limit)
            assert tail == both[max(0, 9 - limit) :]
        assert await executions.output(name, OutputStream.STDERR, 2) == b"ER"
        assert await executions.output_tail(name, OutputStream.STDERR, 2) == b"RR"

    async def test_keeps_the_order_of_calls_that_nobody_waits_for(
        self, store: Repositories
    ) -> None:
        added = await add(store)
        states = [replace(added, last_sequence=n) for n in range(1, 201)]
        tasks = [
            asyncio.create_task(
                store.executions.append(
                    added.name, journal(stdout(n, b"%d," % n), first=n), states[n - 1]
                )
            )
            for n in range(1, 201)
        ]
        await asyncio.gather(*tasks)
        events = await store.executions.events(added.name, after=0, limit_bytes=KIB**2)
        assert [event.sequence for event in events] == [*range(1, 201)]
        assert (await store.executions.get(added.name)).last_sequence == 200

    async def test_serves_many_callers_at_once(self, store: Repositories) -> None:
        async def one(number: int) -> None:
            added = await add(store, StateChange(S.QUEUED), labels={"number": str(number)})
            name = added.name
            for n in range(5):
                await store.executions.append(name, journal(stdout(n, b"%d" % n), first=n + 2))
                assert (
                    await store.executions.output(name, OutputStream.STDOUT, KIB)
                    == (b"01234"[: n + 1])
                )
            ended = replace(added, state=S.SUCCEEDED, exit_code=number, last_sequence=7)
            await store.executions.append(name, journal(Result(ended), first=7), ended)
            assert await store.executions.get(name) == ended

        await asyncio.gather(*(one(number) for number in range(64)))
        listed = (await store.executions.list(ExecutionQuery("default"), ALL)).items
        assert sorted(item.exit_code or 0 for item in listed) == [*range(64)]


class TestRequests:
    async def test_are_found_as_recorded(self, store: Repositories) -> None:
        stored = function(labels={"a": "b"})
        written = request("r", resource=str(HELLO), function=stored)
        await store.functions.create(stored, written)
        assert await store.requests.find("CreateFunction", "r") == written
        assert await store.requests.find("UpdateFunction", "r") is None
        assert await store.requests.find("CreateFunction", "s") is None

    async def test_are_recorded_by_every_change(self, store: Repositories) -> None:
        first = function()
        await store.functions.create(first, request("r", "CreateFunction"))
        await store.functions.update(
            first, expected_etag="one", request=request("r", "UpdateFunction")
        )
        await store.revisions.activate_new(
            first, revision(1), expected_etag="one", request=request("r", "DeployFunction")
        )
        await store.executions.add(execution(), b"", [], request("r", "StartExecution"))
        await store.functions.delete(
            HELLO, expected_etag="one", request=request("r", "DeleteFunction")
        )
        for method in ("Create", "Update", "Deploy", "Delete"):
            assert await store.requests.find(f"{method}Function", "r") is not None
        assert await store.requests.find("StartExecution", "r") == request("r", "StartExecution")

    async def test_used_twice_write_nothing(self, store: Repositories) -> None:
        first = function()
        await store.functions.create(first, request("r"))
        changed = replace(first, description="changed")
        other = function(FunctionName("default", "other"))
        late = execution()
        for call in (
            store.functions.create(first, request("r")),
            store.functions.create(other, request("r")),
            store.functions.update(changed, expected_etag="one", request=request("r")),
            store.functions.delete(HELLO, expected_etag="one", request=request("r")),
            store.revisions.activate_new(
                changed, revision(1), expected_etag="one", request=request("r")
            ),
            store.executions.add(late, b"", [], request("r")),
        ):
            with pytest.raises(AlreadyExistsError) as caught:
                await call
            assert caught.value.reason == "REQUEST_ID_USED"
        assert (await store.functions.list(FunctionQuery("default"), ALL)).items == (first,)
        assert await store.revisions.latest_number(HELLO) == 0
        with pytest.raises(NotFoundError):
            await store.executions.get(late.name)

    async def test_at_once_win_once(self, store: Repositories) -> None:
        results = await asyncio.gather(
            *(store.executions.add(execution(), b"", [], request("r")) for _ in range(20)),
            return_exceptions=True,
        )
        assert results.count(None) == 1
        assert len((await store.executions.list(ExecutionQuery("default"), ALL)).items) == 1

    async def test_are_forgotten_by_age(self, store: Repositories) -> None:
        for number in range(4):
            recorded = replace(request(str(number)), create_time=NOW + seconds(number))
            await store.executions.add(execution(), b"", [], recorded)
        assert await store.requests.prune(NOW + seconds(2), limit=1) == 1
        assert await store.requests.prune(NOW + seconds(2), limit=9) == 1
        assert await store.requests.prune(NOW + seconds(2), limit=9) == 0
        assert await store.requests.find("CreateFunction", "1") is None
        assert await store.requests.find("CreateFunction", "2") is not None


class TestMetrics:
    async def test_sum_up_a_window(self, store: Repositories) -> None:
        measured = function(uid="uid")
        for number in range(1, 101):
            failed = number % 10 == 0
            await add(
                store,
                create_time=NOW + seconds(number),
                state=S.FAILED if failed else S.SUCCEEDED,
                failure=Failure(FailureReason.OUT_OF_MEMORY, "") if failed else None,
                cold_start=number % 4 == 0,
                timings=Timings(run=seconds(101 - number), total=seconds(number)),
                usage=Usage(cpu=seconds(0.25), peak_memory_bytes=number * KIB),
            )
        for outside in (NOW, NOW + seconds(101)):
            await add(store, create_time=outside)
        for uid, of in (("of a deleted hello", "hello"), ("of another", "other")):
            await add(store, of=of, function_uid=uid, create_time=NOW + seconds(50))
        metrics = await store.executions.metrics(
            measured, start_time=NOW + seconds(1), end_time=NOW + seconds(101)
        )
        assert metrics.function == measured.name
        assert (metrics.start_time, metrics.end_time) == (NOW + seconds(1), NOW + seconds(101))
        assert metrics.states == {S.FAILED: 10, S.SUCCEEDED: 90}
        assert metrics.failures == {FailureReason.OUT_OF_MEMORY: 10}
        assert metrics.executions == 100
        assert metrics.cold_starts == 25
        ranked = LatencySummary(seconds(50), seconds(95), seconds(99))
        assert (metrics.run, metrics.total) == (ranked, ranked)
        assert (metrics.queue, metrics.start) == (LatencySummary(), LatencySummary())
        assert metrics.cpu == seconds(25)
        assert metrics.peak_memory_bytes == 100 * KIB

    @many_examples
    @given(durations=st.lists(st.integers(0, 10**9), min_size=1, max_size=30))
    async def test_percentiles_are_of_nearest_rank(
        self, store: Repositories, durations: list[int]
    ) -> None:
        uid, namespace = f"u{next(numbers)}", f"n{next(numbers)}"
        for value in durations:
            timings = Timings(queue=timedelta(microseconds=value))
            await add(store, namespace=namespace, function_uid=uid, timings=timings)
        metrics = await store.executions.metrics(
            function(FunctionName(namespace, "hello"), uid=uid),
            start_time=NOW,
            end_time=NOW + seconds(1),
        )
        for percent, found in ((50, metrics.queue.p50), (95, metrics.queue.p95)):
            assert found is not None
            value = found // timedelta(microseconds=1)
            below = sum(other <= value for other in durations)
            lower = sum(other < value for other in durations)
            assert value in durations
            assert below * 100 >= percent * len(durations) > lower * 100

    async def test_of_nothing_are_zero(self, store: Repositories) -> None:
        metrics = await store.executions.metrics(function(), start_time=NOW, end_time=NOW)
        assert (metrics.states, metrics.failures, metrics.executions) == ({}, {}, 0)
        assert (metrics.cpu, metrics.peak_memory_bytes) == (timedelta(), 0)
        assert metrics.total == LatencySummary()


async def test_a_store_has_an_identity(store: Repositories) -> None:
    identity = await store.server_id()
    assert len(identity) == 36
    assert await store.server_id() == identity
