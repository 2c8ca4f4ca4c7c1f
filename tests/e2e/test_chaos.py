"""Everything is killed, by chance and under load, and nothing may be lost; see scripts/chaos."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.chaos.run import chaos
from tests.contract.own_engine import OwnEngine

SECONDS = 20


@pytest.mark.docker
@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_chaos_loses_nothing(tmp_path: Path) -> None:
    OwnEngine.require()
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    report = await chaos(tmp_path, SECONDS, seed)
    print(report)
    assert report.findings.good, f"scripts/chaos --seconds {SECONDS} --seed {seed}"
    assert report.findings.accepted > 0
