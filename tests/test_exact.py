"""The tests' own slow model of the rules (exact.py), on values worked out on paper."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from . import exact


def test_c_division_truncates() -> None:
    assert [exact.trunc_div(a, b) for a, b in ((7, 2), (-7, 2), (7, -2), (-7, -2), (0, -3))] == [3, -3, -3, 3, 0]


def test_round_away() -> None:
    values = (Fraction(1, 2), Fraction(-1, 2), Fraction(5, 2), Fraction(-5, 2), Fraction(49, 100), 0.49999999999999994)
    assert [exact.round_away(value) for value in values] == [1, -1, 3, -3, 0, 0]


def test_f32_is_numpys_rounding(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for value in rng.normal(size=2000) * 10.0 ** rng.uniform(-30, 30, 2000):
        assert exact.f32(value) == Fraction(float(np.float32(value))), (seed, value)
    # Ties go to the even neighbour.
    assert exact.f32(Fraction(2**24 + 1)) == 2**24
    assert exact.f32(Fraction(2**24 + 3)) == 2**24 + 4


def test_v1_on_paper() -> None:
    # 0.75 = 1610612736 * 2^-31: 5 * 0.75 = 3.75 -> 4; 2 * 0.75 = 1.5 -> 2, -1.5 -> -1 (SRDHM's ties go up).
    assert [exact.v1_real(acc, 0.75) for acc in (5, 2, -2, -5)] == [4, 2, -1, -4]
    # 0.375: the same products, then one bit to the right, ties away: 4 / 2, 2 / 2, -1 / 2 -> -1, -4 / 2.
    assert [exact.v1_real(acc, 0.375) for acc in (5, 2, -2, -5)] == [2, 1, -1, -2]
    # 1.5 = 0.75 * 2: one bit to the left first. 3 * 1.5 = 4.5 -> 5; -4.5 -> -4.
    assert [exact.v1_real(acc, 1.5) for acc in (3, -3)] == [5, -4]
    # The left shift wraps: 2^30 * 2 = -2^31.
    assert exact.v1(1 << 30, 1 << 30, 1) == -(1 << 30)


@pytest.mark.parametrize(
    ("real", "pair"),
    [
        (1.0, (1 << 30, 1)),
        (0.5, (1 << 30, 0)),
        (0.75, (1610612736, 0)),
        (2.0**-32, (1 << 30, -31)),
        (2.0**-33, (0, 0)),
        (1 - 2.0**-40, (1 << 30, 1)),
    ],
)
def test_multiplier_on_paper(real: float, pair: tuple[int, int]) -> None:
    assert exact.multiplier_and_shift(real) == pair
