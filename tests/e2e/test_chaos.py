"""Everything is killed, by chance and under load, and nothing may be lost; see scripts/chaos."""

from __future__ import annotations

import random
from inspect import isfunction

import pytest

from tests.chaos.crashing import POINTS, Point
from tests.chaos.run import chaos
from tests.contract.own_engine import OwnEngine
from tests.support.disk import Disk

SECONDS = 12


@pytest.mark.parametrize("point", POINTS.values(), ids=POINTS)
def test_the_server_has_each_point_to_crash_at(point: Point) -> None:
    owner, name = point.find()
    assert isfunction(getattr(owner, name))


@pytest.mark.docker
@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_chaos_loses_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    OwnEngine.require()
    Disk.require()
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    folder = tmp_path_factory.mktemp("c")  # short: paths of sockets must fit in 104 bytes
    report = await chaos(folder, SECONDS, seed)
    print(report)
    assert report.findings.good, f"scripts/chaos --seconds {SECONDS} --seed {seed}"
    assert report.findings.accepted > 0
