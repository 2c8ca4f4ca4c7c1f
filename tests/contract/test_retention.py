"""What every store promises of what it forgets: never too much, and nothing by halves."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skybridge_server.errors import NotFoundError
from skybridge_server.models.executions import Execution, ExecutionState
from skybridge_server.models.functions import Function, FunctionSpec, PulledImage, Revision
from skybridge_server.models.journal import (
    Event,
    EventBody,
    Output,
    OutputStream,
    Result,
    StateChange,
)
from skybridge_server.models.names import ExecutionName, FunctionName, RevisionName, new_id
from skybridge_server.models.paging import ExecutionQuery, LabelFilter, PageRequest
from skybridge_server.repositories.base import Repositories
from skybridge_server.repositories.store import SqliteRepositories
from tests.fakes.repositories import FakeRepositories

S = ExecutionState
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EVER = 10**9
HELLO = FunctionName("default", "hello")

many_examples = settings(
    max_examples=30,
    deadline=None,
    # One store serves all examples: each has a function of its own.
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


def new_function() -> FunctionName:
    return FunctionName("default", f"f{next(numbers)}")


async def add(
    store: Repositories,
    function: FunctionName = HELLO,
    *,
    created: float = 0,
    ended: float | None = 0,
    chunks: Sequence[bytes] = (b"out",),
    **changes: object,
) -> ExecutionName:
    """Store an execution that began and, unless `ended` is None, ended so many seconds from now."""
    values = {"function_uid": "uid", "revision": 1, "create_time": NOW + seconds(created)}
    execution = Execution(
        name=ExecutionName(function.namespace, new_id()),
        function=function,
        **{**values, **changes},  # type: ignore[arg-type]
    )
    bodies: list[EventBody] = [StateChange(S.RUNNING)]
    bodies += [Output(OutputStream.STDOUT, 0, data) for data in chunks]
    events = [Event(n, NOW, body) for n, body in enumerate(bodies, 1)]
    await store.executions.add(execution, b"input", events)
    if ended is not None:
        last = len(events) + 1
        final = replace(
            execution, state=S.SUCCEEDED, end_time=NOW + seconds(ended), last_sequence=last
        )
        await store.executions.append(final.name, [Event(last, NOW, Result(final))], final)
    return execution.name


async def prune(
    store: Repositories,
    function: FunctionName = HELLO,
    *,
    ended_before: float = -EVER,
    keep: int = EVER,
    limit: int = 1000,
) -> int:
    return await store.executions.prune(
        function, ended_before=NOW + seconds(ended_before), keep=keep, limit=limit
    )


async def names(store: Repositories, function: FunctionName = HELLO) -> list[ExecutionName]:
    """Return what is kept, the oldest first."""
    query = ExecutionQuery(function.namespace, function=function.function, descending=False)
    return [item.name for item in (await store.executions.list(query, PageRequest(1000))).items]


async def tidy(store: Repositories) -> int:
    """Tidy to the end; return how many pieces that took."""
    pieces = 0
    while await store.tidy():
        pieces += 1
    return pieces


class TestExecutions:
    async def test_go_by_the_age_of_their_end(self, store: Repositories) -> None:
        await add(store, created=-100, ended=-50)
        long = await add(store, created=-100, ended=-10)
        young = await add(store, created=-9, ended=-8)
        assert await prune(store, ended_before=-10) == 1
        assert await names(store) == [long, young]

    async def test_go_by_their_number(self, store: Repositories) -> None:
        every = [await add(store, created=n) for n in range(5)]
        assert await prune(store, keep=3) == 2
        assert await names(store) == every[2:]
        assert await prune(store, keep=3) == 0

    async def test_of_one_moment_go_in_the_order_of_their_coming(self, store: Repositories) -> None:
        every = [await add(store) for _ in range(5)]
        assert await prune(store, keep=2) == 3
        assert await names(store) == every[3:]

    async def test_go_in_batches_the_oldest_first(self, store: Repositories) -> None:
        every = [await add(store, created=n - 100, ended=n - 100) for n in range(5)]
        assert await prune(store, ended_before=0, limit=2) == 2
        assert await names(store) == every[2:]
        assert await prune(store, ended_before=0, limit=9) == 3
        assert await names(store) == []

    async def test_stay_until_they_have_ended(self, store: Repositories) -> None:
        running = await add(store, created=-100, ended=None)
        await add(store, created=-99, ended=-99)
        assert await prune(store, ended_before=0, keep=1) == 1
        assert await names(store) == [running]

    async def test_of_other_functions_stay(self, store: Repositories) -> None:
        others = [FunctionName("default", "hell"), FunctionName("elsewhere", "hello")]
        for name in (HELLO, *others):
            await add(store, name, created=-9, ended=-9)
        assert await prune(store, ended_before=0, keep=1) == 1
        assert [len(await names(store, other)) for other in others] == [1, 1]

    async def test_are_gone_for_every_reader(self, store: Repositories) -> None:
        gone = await add(store, created=-9, ended=-9, labels={"a": "b"})
        await prune(store, ended_before=0)
        for read in (
            store.executions.get(gone),
            store.executions.get_input(gone),
            store.executions.events(gone, after=0, limit_bytes=100),
            store.executions.output(gone, OutputStream.STDOUT, 100),
            store.executions.delete(gone),
        ):
            with pytest.raises(NotFoundError):
                await read
        labelled = ExecutionQuery("default", labels=(LabelFilter("a", "b"),))
        assert (await store.executions.list(labelled, PageRequest(9))).items == ()
        assert await store.executions.function_names() == []
        await tidy(store)

    async def test_a_deleted_one_leaves_nothing_but_its_neighbours(
        self, store: Repositories
    ) -> None:
        gone, stays = await add(store), await add(store)
        await store.executions.delete(gone)
        await tidy(store)
        assert await names(store) == [stays]
        events = await store.executions.events(stays, after=0, limit_bytes=100)
        assert [event.sequence for event in events] == [1, 2, 3]
        assert await store.executions.get_input(stays) == b"input"

    async def test_are_found_by_the_names_of_their_functions(self, store: Repositories) -> None:
        others = [FunctionName("a", "z"), FunctionName("b", "a"), FunctionName("b", "b")]
        for name in (others[2], others[0], others[1], others[0]):
            await add(store, name)
        assert await store.executions.function_names() == others


@dataclass(frozen=True)
class Kept:
    """An execution of an example, in seconds from now."""

    created: int
    length: int | None
    chunks: tuple[int, ...]

    @property
    def ended(self) -> int | None:
        return None if self.length is None else self.created + self.length


lives = st.builds(
    Kept,
    created=st.integers(-10, 0),
    length=st.none() | st.integers(0, 5),
    chunks=st.lists(st.integers(1, 3), max_size=4).map(tuple),
)


@many_examples
@given(
    examples=st.lists(lives, max_size=12),
    age=st.integers(0, 12),
    keep=st.integers(0, 12),
    limit=st.integers(1, 5),
)
async def test_retention_takes_what_it_is_told_and_nothing_else(
    store: Repositories, examples: list[Kept], age: int, keep: int, limit: int
) -> None:
    function = new_function()
    stored = [
        await add(
            store,
            function,
            created=example.created,
            ended=example.ended,
            chunks=[b"x" * size for size in example.chunks],
        )
        for example in examples
    ]
    order = sorted(range(len(stored)), key=lambda index: (examples[index].created, index))
    newest = order[::-1][:keep]
    expected = [
        stored[index]
        for index in order
        if (ended := examples[index].ended) is None or (index in newest and ended >= -age)
    ]
    while deleted := await prune(store, function, ended_before=-age, keep=keep, limit=limit):
        assert deleted <= limit
        await store.tidy()
    assert await names(store, function) == expected
    await tidy(store)
    for name in expected:
        example = examples[stored.index(name)]
        events = await store.executions.events(name, after=0, limit_bytes=2**20)
        length = 1 + len(example.chunks) + (example.length is not None)
        assert [event.sequence for event in events] == [*range(1, length + 1)]
        output = await store.executions.output(name, OutputStream.STDOUT, 100)
        assert len(output) == sum(example.chunks)


def function(name: FunctionName = HELLO, *, etag: str = "0", **changes: object) -> Function:
    values = {"uid": "uid", "spec": FunctionSpec("hello:1"), "create_time": NOW}
    return Function(name=name, etag=etag, **{"update_time": NOW, **values, **changes})  # type: ignore[arg-type]


def revision(name: FunctionName, number: int, image_id: str = "sha256:1") -> Revision:
    return Revision(
        name=RevisionName(name, number),
        spec=FunctionSpec("hello:1"),
        image_id=image_id,
        image_digest="",
        platform="linux/amd64",
        image_bytes=1,
        generation=1,
        create_time=NOW,
    )


async def deploy(store: Repositories, name: FunctionName, count: int, **changes: str) -> Function:
    """Create a function, if there is none, and give it revisions 1 to `count`."""
    current = function(name, uid=str(name))
    await store.functions.create(current)
    for number in range(1, count + 1):
        after = replace(current, etag=str(number), active_revision=number)
        await store.revisions.activate_new(
            after, revision(name, number, **changes), expected_etag=current.etag
        )
        current = after
    return current


async def activate(store: Repositories, current: Function, number: int) -> Function:
    after = replace(current, etag=current.etag + "'", active_revision=number)
    await store.functions.update(after, expected_etag=current.etag)
    return after


async def revisions(store: Repositories, name: FunctionName) -> list[int]:
    page = await store.revisions.list(name, PageRequest(1000))
    return [item.name.number for item in page.items]


class TestRevisions:
    async def test_the_newest_and_the_active_one_stay(self, store: Repositories) -> None:
        current = await deploy(store, HELLO, 6)
        await activate(store, current, 2)
        assert await store.revisions.prune(HELLO, keep=2, limit=9) == 3
        assert await revisions(store, HELLO) == [6, 5, 2]
        assert await store.revisions.prune(HELLO, keep=2, limit=9) == 0

    async def test_go_in_batches_the_oldest_first(self, store: Repositories) -> None:
        await deploy(store, HELLO, 6)
        assert await store.revisions.prune(HELLO, keep=1, limit=2) == 2
        assert await revisions(store, HELLO) == [6, 5, 4, 3]

    async def test_of_nobody_are_none(self, store: Repositories) -> None:
        assert await store.revisions.prune(HELLO, keep=1, limit=9) == 0

    async def test_of_other_functions_stay(self, store: Repositories) -> None:
        other = FunctionName("elsewhere", "hello")
        await deploy(store, HELLO, 3)
        await deploy(store, other, 3)
        await store.revisions.prune(HELLO, keep=1, limit=9)
        assert await revisions(store, other) == [3, 2, 1]

    async def test_that_are_gone_cannot_be_activated(self, store: Repositories) -> None:
        current = await deploy(store, HELLO, 3)
        await store.revisions.prune(HELLO, keep=1, limit=9)
        with pytest.raises(NotFoundError, match="revisions/2"):
            await activate(store, current, 2)
        assert await store.functions.get(HELLO) == current

    async def test_that_are_gone_cannot_be_executed(self, store: Repositories) -> None:
        """Accepted while it was active, stored when it is gone."""
        current = await deploy(store, HELLO, 3)
        await store.revisions.prune(HELLO, keep=1, limit=9)
        name = ExecutionName("default", new_id())
        late = Execution(name, HELLO, current.uid, revision=2, create_time=NOW)
        with pytest.raises(NotFoundError, match="revisions/2"):
            await store.executions.add(late, b"", [], check_function=True)
        with pytest.raises(NotFoundError):
            await store.executions.get(name)
        await store.executions.add(replace(late, revision=3), b"", [], check_function=True)

    async def test_have_one_before_another(self, store: Repositories) -> None:
        await deploy(store, HELLO, 4)
        assert await store.revisions.latest_number(HELLO, before=4) == 3
        assert await store.revisions.latest_number(HELLO, before=1) == 0

    @many_examples
    @given(
        count=st.integers(1, 8),
        active=st.integers(1, 8),
        used=st.lists(st.tuples(st.integers(1, 8), st.booleans()), max_size=4),
        keep=st.integers(1, 9),
        limit=st.integers(1, 4),
    )
    async def test_that_are_needed_stay(
        self,
        store: Repositories,
        count: int,
        active: int,
        used: list[tuple[int, bool]],
        keep: int,
        limit: int,
    ) -> None:
        name = new_function()
        current = await deploy(store, name, count)
        active = min(active, count)
        current = await activate(store, current, active)
        for number, ended in used:
            await add(
                store,
                name,
                function_uid=current.uid,
                revision=min(number, count),
                ended=0 if ended else None,
            )
        while deleted := await store.revisions.prune(name, keep=keep, limit=limit):
            assert deleted <= limit
        needed = {active} | {min(number, count) for number, ended in used if not ended}
        expected = [n for n in range(count, 0, -1) if n > count - keep or n in needed]
        assert await revisions(store, name) == expected
        assert await store.revisions.latest_number(name) == count


async def test_functions_are_named_in_order(store: Repositories) -> None:
    wanted = [FunctionName("a", "z"), FunctionName("b", "a"), FunctionName("b", "b")]
    for name in reversed(wanted):
        await store.functions.create(function(name))
    assert await store.functions.names() == wanted


class TestPulledImages:
    async def test_are_unused_when_no_revision_refers_to_them(self, store: Repositories) -> None:
        used, unused = (PulledImage("docker", f"sha256:{n}", f"hello:{n}") for n in (1, 2))
        for image in (used, unused, unused):
            await store.images.add(image)
        await deploy(store, HELLO, 1, image_id="sha256:1")
        assert await store.images.unused() == [unused]
        await store.functions.delete(HELLO, expected_etag="1")
        assert sorted(image.reference for image in await store.images.unused()) == [
            "hello:1",
            "hello:2",
        ]

    async def test_can_be_forgotten(self, store: Repositories) -> None:
        image = PulledImage("docker", "sha256:1", "hello:1")
        await store.images.add(image)
        await store.images.delete(replace(image, reference="hello:2"))
        assert await store.images.unused() == [image]
        await store.images.delete(image)
        await store.images.delete(image)
        assert await store.images.unused() == []
