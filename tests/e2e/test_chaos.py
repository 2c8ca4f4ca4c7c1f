"""Everything is killed, by chance and under load, and nothing may be lost; see scripts/chaos."""

from __future__ import annotations

import random

import pytest

from tests.chaos.run import chaos
from tests.contract.own_engine import OwnEngine

SECONDS = 20


@pytest.mark.docker
@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_chaos_loses_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    OwnEngine.require()
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    folder = tmp_path_factory.mktemp("c")  # short: paths of sockets must fit in 104 bytes
    report = await chaos(folder, SECONDS, seed)
    print(report)
    assert report.findings.good, f"scripts/chaos --seconds {SECONDS} --seed {seed}"
    assert report.findings.accepted > 0
