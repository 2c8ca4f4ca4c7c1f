from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from skybridge_server.errors import (
    ContainerGoneError,
    ContainerStartError,
    RuntimeUnavailableError,
)
from skybridge_server.runtimes.docker_engine import sandbox, sandboxes
from skybridge_server.runtimes.docker_engine.sandbox import Condition, Sandbox
from skybridge_server.runtimes.docker_engine.sandboxes import KNOWN_PROGRAMS, Sandboxes
from tests.support.waiting import PATIENCE
from tests.unit.runtimes.tiny_sandbox import TinyMaker, TinyNetwork

A, B = "program a", "program b"


@pytest.fixture
async def maker() -> TinyMaker:
    return TinyMaker()


@pytest.fixture
async def pool(maker: TinyMaker) -> AsyncIterator[Sandboxes]:
    made = Sandboxes(maker, maximum=2)
    yield made
    await made.close()
    assert maker.present == {}


async def lend(pool: Sandboxes, program: str = A) -> Sandbox:
    """Ask until there is one."""
    while not (lent := pool.lend(program)):
        await rest(pool)
    return lent


async def rest(pool: Sandboxes) -> None:
    """Let the pool do what it does in the background."""
    await until(lambda: not pool._tasks and (pool._making is None or pool._making.done()))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - nothing tells of the change
            await asyncio.sleep(0)


# -- one sandbox ----------------------------------------------------------------------------------


async def test_a_sandbox_tells_whether_its_network_was_touched() -> None:
    network = TinyNetwork()
    one = Sandbox("name", "id", network)
    await one.settle()
    assert [await one.look() for _ in range(2)] == [Condition.UNTOUCHED] * 2
    network.report = b"lo: 1 packet"
    assert await one.look() is Condition.TOUCHED
    await one.close()
    assert network.closed


async def test_a_report_may_come_in_pieces() -> None:
    network = TinyNetwork(piece=1)
    one = Sandbox("name", "id", network)
    await one.settle()
    assert await one.look() is Condition.UNTOUCHED
    await one.close()


async def test_a_sandbox_that_ends_is_lost() -> None:
    network = TinyNetwork()
    one = Sandbox("name", "id", network)
    await one.settle()
    told = asyncio.Event()
    one.on_end(told.set)
    network.end()
    await told.wait()
    assert one.ended
    assert await one.look() is Condition.LOST
    await one.close()


async def test_a_sandbox_that_ends_instead_of_answering_is_lost() -> None:
    network = TinyNetwork()
    one = Sandbox("name", "id", network)
    await one.settle()
    network.mute = True
    looking = asyncio.create_task(one.look())
    await network.asked.wait()
    network.end()
    assert await looking is Condition.LOST
    await one.close()


async def test_a_sandbox_that_does_not_answer_is_lost_for_good(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sandbox, "REPORT_SECONDS", 0.01)
    network = TinyNetwork()
    network.mute = True
    one = Sandbox("name", "id", network)
    with pytest.raises(ContainerStartError, match="does not answer"):
        await one.settle()
    network.mute = False
    assert await one.look() is Condition.LOST
    assert one.ended
    await one.close()


# -- the pool -------------------------------------------------------------------------------------


async def test_one_is_made_once_it_is_missed_again(pool: Sandboxes, maker: TinyMaker) -> None:
    assert pool.lend(A) is None
    await rest(pool)
    assert maker.tried == 0
    assert pool.lend(A) is None
    await rest(pool)
    assert len(maker.present) == 1
    lent = pool.lend(A)
    assert lent
    assert lent.name in pool
    assert "another" not in pool


async def test_none_is_made_for_one_who_comes_now_and_then(
    pool: Sandboxes, maker: TinyMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandboxes, "SELDOM_SECONDS", -1)
    for _ in range(3):
        assert pool.lend(A) is None
        await rest(pool)
    assert maker.tried == 0


async def test_none_is_lent_twice_at_once(pool: Sandboxes, maker: TinyMaker) -> None:
    first, second = await lend(pool), await lend(pool)
    assert first is not second
    for _ in range(5):
        assert pool.lend(A) is None  # two are all there may be
        await rest(pool)
    assert len(maker.present) == 2
    pool.give_back(first)
    assert pool.lend(A) is None  # not before it was looked at
    await rest(pool)
    assert pool.lend(B) is first


async def test_who_can_wait_gets_one_that_is_made_or_comes_back(
    pool: Sandboxes, maker: TinyMaker
) -> None:
    first, second = await pool.lend_soon(A), await pool.lend_soon(A)
    assert first
    assert second
    assert first is not second
    assert await pool.lend_soon(A) is None  # two are all there may be
    pool.give_back(second)
    assert await pool.lend_soon(B) is second
    assert maker.made == 2


async def test_who_can_wait_does_without_if_none_can_be_made(
    pool: Sandboxes, maker: TinyMaker
) -> None:
    maker.failure = ContainerStartError("no space")
    assert await pool.lend_soon(A) is None


async def test_they_are_made_one_after_the_other(pool: Sandboxes, maker: TinyMaker) -> None:
    maker.hold.clear()
    for _ in range(5):
        assert pool.lend(A) is None
    await maker.asked.wait()
    assert maker.making == 1
    maker.hold.set()
    await rest(pool)
    assert (maker.made, maker.making) == (2, 0)


async def test_one_that_was_touched_goes_and_so_does_its_program(
    pool: Sandboxes, maker: TinyMaker
) -> None:
    lent = await lend(pool, A)
    maker.present[lent.id].report = b"lo: 1 packet"
    pool.give_back(lent)
    await rest(pool)
    assert maker.present == {}
    assert lent.name not in pool
    assert pool.lend(A) is None  # and none is made for it
    await rest(pool)
    assert maker.present == {}
    await lend(pool, B)


async def test_only_so_many_programs_are_known(pool: Sandboxes) -> None:
    for number in range(KNOWN_PROGRAMS + 1):
        lent = await lend(pool, str(number))
        pool.avoid(lent)
        pool.give_back(lent)
    assert (await lend(pool, "0")).name in pool
    assert pool.lend("1") is None


async def test_one_that_ends_while_idle_is_not_lent(pool: Sandboxes, maker: TinyMaker) -> None:
    pool.give_back(await lend(pool))
    await rest(pool)
    maker.end_all()
    await until(lambda: not maker.present)
    assert pool.lend(A) is None
    assert (await lend(pool)).name in pool


async def test_one_that_ends_while_lent_does_not_come_back(
    pool: Sandboxes, maker: TinyMaker
) -> None:
    lent = await lend(pool)
    maker.end_all()
    await until(lambda: not maker.present)
    pool.give_back(lent)
    pool.discard(lent)
    await rest(pool)
    assert await lend(pool) is not lent  # and its program is not to blame


async def test_one_that_ends_while_it_comes_back(pool: Sandboxes, maker: TinyMaker) -> None:
    lent = await lend(pool)
    maker.present[lent.id].mute = True
    pool.give_back(lent)
    await maker.present[lent.id].asked.wait()
    maker.end_all()
    await rest(pool)
    assert maker.present == {}
    assert await lend(pool) is not lent


async def test_one_that_nobody_needs_goes(
    pool: Sandboxes, maker: TinyMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandboxes, "IDLE_SECONDS", 0)
    for _ in range(2):
        assert pool.lend(A) is None
    await until(lambda: maker.made)
    await until(lambda: not maker.present)
    assert pool.lend(A) is None


async def test_the_one_used_last_is_lent_first_so_that_others_can_go(pool: Sandboxes) -> None:
    first, second = await lend(pool), await lend(pool)
    for each in (second, first):
        pool.give_back(each)
        await rest(pool)
    assert pool.lend(A) is first


@pytest.mark.parametrize(
    "failure", [ContainerStartError("refused"), RuntimeUnavailableError("away"), KeyError("Id")]
)
async def test_one_that_cannot_be_made_is_not_tried_at_once_again(
    pool: Sandboxes, maker: TinyMaker, failure: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker.failure = failure
    for _ in range(5):
        assert pool.lend(A) is None
        await rest(pool)
    assert maker.tried == 1
    maker.failure = None
    monkeypatch.setattr(pool, "_resting_until", 0.0)
    assert (await lend(pool)).name in pool


async def test_one_that_cannot_be_removed_is_anybodys(pool: Sandboxes, maker: TinyMaker) -> None:
    lent = await lend(pool)
    maker.removal = RuntimeUnavailableError("away")
    pool.discard(lent)
    await rest(pool)
    assert lent.name not in pool
    maker.present.clear()


async def test_none_at_all(maker: TinyMaker) -> None:
    pool = Sandboxes(maker, maximum=0)
    assert pool.lend(A) is None
    await pool.close()
    assert maker.tried == 0


async def test_one_that_is_taken_does_not_count_and_another_is_made(
    pool: Sandboxes, maker: TinyMaker
) -> None:
    taken = [await pool.take() for _ in range(3)]
    await rest(pool)
    assert len(set(taken)) == 3
    assert all(each.name in pool for each in taken)
    assert len(maker.present) == 4  # one is idle now, for the next
    assert await pool.take() not in taken
    pool.give_back(taken[0])  # it was never lent
    await rest(pool)
    assert pool.lend(A) not in taken
    removing = pool.discard(taken[0])
    assert removing
    await removing
    assert taken[0].name not in pool
    assert pool.discard(taken[0]) is None


async def test_one_that_is_taken_and_ends_is_forgotten(pool: Sandboxes, maker: TinyMaker) -> None:
    taken = await pool.take()
    await rest(pool)
    maker.end_all()
    await until(lambda: not maker.present)
    assert taken.name not in pool
    assert pool.discard(taken) is None


async def test_one_that_cannot_be_taken(pool: Sandboxes, maker: TinyMaker) -> None:
    maker.failure = ContainerStartError("refused")
    with pytest.raises(ContainerStartError):
        await pool.take()
    assert pool._names == set()


async def test_one_that_is_left_stays_and_another_process_takes_it_over(maker: TinyMaker) -> None:
    first = Sandboxes(maker, maximum=0)
    left = await first.take()
    await first.leave(left)
    assert left.name not in first
    await first.close()
    assert [*maker.present] == [left.id]
    second = Sandboxes(maker, maximum=0)
    adopted = await second.adopt(left.id)
    assert adopted.name in second
    removing = second.discard(adopted)
    assert removing
    await removing
    assert maker.present == {}
    with pytest.raises(ContainerGoneError):
        await second.adopt(left.id)
    await second.close()


async def test_closing_removes_idle_and_lent_ones_and_stops_what_is_made(maker: TinyMaker) -> None:
    pool = Sandboxes(maker, maximum=3)
    await pool.take()
    lent, idle = await lend(pool), await lend(pool)
    pool.give_back(idle)
    await rest(pool)
    lent_again = pool.lend(A)
    assert lent_again is idle
    maker.asked.clear()
    maker.hold.clear()
    assert pool.lend(A) is None
    await maker.asked.wait()
    await pool.close()
    assert (maker.present, maker.making) == ({}, 0)
    pool.give_back(lent)
    assert pool.lend(A) is None
    await rest(pool)
    assert maker.present == {}


async def test_closing_does_not_wait_for_an_engine_that_hangs(
    maker: TinyMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandboxes, "CLOSE_SECONDS", 0.5)
    pool = Sandboxes(maker, maximum=1)
    await lend(pool)
    maker.hold_removal.clear()
    await pool.close()
    assert [network.closed for network in maker.present.values()] == [True]  # it ends by itself
