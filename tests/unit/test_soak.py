"""The line that scripts/soak draws through what it sees: it must tell growth from noise."""

from __future__ import annotations

import random

import pytest

from tests.soak.slope import slope_of


def samples(growth: float, noise: float, seed: int) -> list[tuple[float, float]]:
    chance = random.Random(seed)
    return [(n / 60, 100 + growth * n / 60 + chance.gauss(0, noise)) for n in range(900)]


@pytest.mark.parametrize("seed", range(5))
def test_growth_is_told_from_noise(seed: int) -> None:
    slope = slope_of(samples(growth=0.5, noise=2, seed=seed))
    assert slope.grows
    assert slope.low < 0.5 < slope.high


def test_noise_is_no_growth() -> None:
    """It is with 95 %: of many, few may seem to grow or shrink."""
    found = [slope_of(samples(growth=0, noise=2, seed=seed)) for seed in range(200)]
    assert sum(slope.distinguishable for slope in found) <= 20


def test_a_straight_line_is_sure() -> None:
    slope = slope_of(samples(growth=1, noise=0, seed=1))
    assert slope.value == pytest.approx(1)
    assert slope.high - slope.low < 1e-6


def test_what_shrinks_does_not_grow() -> None:
    slope = slope_of(samples(growth=-1, noise=0.1, seed=1))
    assert slope.distinguishable
    assert not slope.grows
