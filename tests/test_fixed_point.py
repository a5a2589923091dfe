"""gpuq.ops.fixed_point against a scalar transcription of gemmlowp (gemmlowp.py), and against real functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpuq.ops import fixed_point

from . import gemmlowp
from .compare import assert_equal_bits
from .exact import INT32_MAX, INT32_MIN


def check(got: np.ndarray, function: Callable[..., Any], arguments: np.ndarray, *more: int, context: str) -> None:
    want = np.array([function(int(a), *more) for a in arguments], np.int64)
    assert_equal_bits(got, want, f"{function.__name__}{more}, {context}")


def negative_values(seed: int) -> np.ndarray:
    """Every int32 edge there is between -2^31 and 0: powers of two and their neighbours, and random ones."""
    rng = np.random.default_rng(seed)
    edges = np.array([-(1 << k) + d for k in range(32) for d in (-1, 0, 1)])
    values = np.concatenate(
        [edges, -rng.integers(0, 1 << 31, 3000), -(rng.integers(0, 1 << 31, 3000) >> rng.integers(0, 31, 3000))]
    )
    return values[(values >= INT32_MIN) & (values <= 0)]


@pytest.mark.parametrize("integer_bits", [4, 5])
def test_exp(integer_bits: int, seed: int) -> None:
    a = negative_values(seed)
    got = fixed_point.exp_on_negative_values(a, integer_bits)
    check(got, gemmlowp.exp_on_negative_values, a, integer_bits, context=f"seed {seed}")
    real = np.exp(np.ldexp(a.astype(np.float64), integer_bits - 31))
    assert np.abs(np.ldexp(got.astype(np.float64), -31) - real).max() < 1e-6
    assert fixed_point.exp_on_negative_values(np.array([0]), integer_bits).tolist() == [INT32_MAX]


def test_one_over_one_plus_x(seed: int) -> None:
    a = np.append(-negative_values(seed)[1:], INT32_MAX)
    a = a[a <= INT32_MAX]
    got = fixed_point.one_over_one_plus_x(a)
    check(got, gemmlowp.one_over_one_plus_x_for_x_in_0_1, a, context=f"seed {seed}")
    assert np.abs(np.ldexp(got.astype(np.float64), -31) - 1 / (1 + np.ldexp(a.astype(np.float64), -31))).max() < 1e-8


@pytest.mark.parametrize("integer_bits", [4, 5])
def test_logistic(integer_bits: int, seed: int) -> None:
    # -2^31 has no absolute value in int32; callers stay within the radius.
    negative = negative_values(seed)
    a = np.concatenate([negative[negative > INT32_MIN], -negative[negative > INT32_MIN]])
    got = fixed_point.logistic(a, integer_bits)
    check(got, gemmlowp.logistic, a, integer_bits, context=f"seed {seed}")
    real = 1 / (1 + np.exp(-np.ldexp(a.astype(np.float64), integer_bits - 31)))
    assert np.abs(np.ldexp(got.astype(np.float64), -31) - real).max() < 1e-6


def test_reciprocal(seed: int) -> None:
    x = np.maximum(-negative_values(seed), 1)
    x = x[x <= INT32_MAX]
    got, bits = fixed_point.reciprocal(x, 12)
    want = [gemmlowp.get_reciprocal(int(value), 12) for value in x]
    assert_equal_bits(got, np.array([r for r, _ in want]), f"reciprocal, seed {seed}")
    assert_equal_bits(bits, np.array([b for _, b in want]), f"bits over unit, seed {seed}")
    # 1 / x = r * 2^-31 * 2^-bits for x in Q12.19.
    real = np.ldexp(got.astype(np.float64), -31 - bits)
    assert np.allclose(real, 1 / np.ldexp(x.astype(np.float64), -19), rtol=1e-7)


def test_multiply_by_pot_saturates(seed: int) -> None:
    values = np.concatenate([negative_values(seed), -negative_values(seed)])
    values = values[values <= INT32_MAX]
    for exponent in (1, 2, 4, 5):
        got = fixed_point.multiply_by_pot(values, exponent)
        check(got, gemmlowp.saturating_rounding_multiply_by_pot, values, exponent, context=f"seed {seed}")


def test_the_transcription_on_paper() -> None:
    # exp(-1) = 0.3678794411714423: in Q5.26, -1 is -2^26.
    assert gemmlowp.exp_on_negative_values(-(1 << 26), 5) == pytest.approx(math.exp(-1) * 2**31, abs=1000)
    # 1 / (1 + 0.5) = 2 / 3.
    assert gemmlowp.one_over_one_plus_x_for_x_in_0_1(1 << 30) == pytest.approx(2**32 / 3, abs=10)
    # 1 in Q12.19: its reciprocal is 1, with 12 - 12 bits over.
    reciprocal, bits = gemmlowp.get_reciprocal(1 << 19, 12)
    assert (reciprocal, bits) == (INT32_MAX, 0)
    assert gemmlowp.rounding_half_sum(-3, 0) == -2
    assert gemmlowp.saturating_rounding_multiply_by_pot(1 << 30, 1) == INT32_MAX
    # tanh(1) = 0.7615941559557649 of Q4.27.
    assert gemmlowp.tanh(1 << 27, 4) == pytest.approx(math.tanh(1) * 2**31, abs=2000)
    # 1 / sqrt(9), a third.
    multiplier, shift = gemmlowp.get_inv_sqrt_quantized_multiplier_exp(9)
    assert multiplier * 2.0 ** (shift - 31) == pytest.approx(1 / 3, rel=1e-6)


def test_tanh(seed: int) -> None:
    values = np.concatenate([negative_values(seed), -negative_values(seed)])
    values = values[(values > INT32_MIN) & (values <= INT32_MAX)]
    check(fixed_point.tanh(values, 4), gemmlowp.tanh, values, 4, context=f"seed {seed}")


def test_inverse_square_root(seed: int) -> None:
    rng = np.random.default_rng(seed)
    edges = [max(0, (1 << k) + d) for k in range(31) for d in (-1, 0, 1)]
    values = np.concatenate([edges, rng.integers(0, 1 << 31, 2000), rng.integers(0, 1 << 31, 2000) >> 12, [INT32_MAX]])
    multipliers, shifts = fixed_point.inverse_square_root(values)
    want = np.array([gemmlowp.get_inv_sqrt_quantized_multiplier_exp(int(value)) for value in values])
    assert_equal_bits(multipliers, want[:, 0], f"multipliers, seed {seed}")
    assert_equal_bits(shifts, want[:, 1], f"shifts, seed {seed}")


def test_scaled_input_is_0_outside() -> None:
    # 0.5 in Q4.27 is 2^26; the radius is that of the next power of two, 15 codes.
    scaled, inside = fixed_point.scaled_input(np.array([-15, -14, 0, 3, 14, 15]), 0.5, 4)
    assert scaled.tolist() == [0, -14 << 26, 0, 3 << 26, 14 << 26, 0]
    assert inside.tolist() == [False, True, True, True, True, False]
