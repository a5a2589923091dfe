"""gemmlowp's logistic and tanh on int16, as tables of every number: the gates of the integer LSTM.

As in ops/fixed_point.py Qi.f means that r stands for r * 2^-f, here with i + f = 15; constants are those of 32 bits
rounded to 16.

Source: gemmlowp 16e8662c, fixedpoint/fixedpoint.h.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from gpuq.numerics import Int64Array, rounding_divide_by_pot

INT16_MAX = (1 << 15) - 1

# exp(-2^k) in Q0.15 for k = -2 ... 4.
_EXP_OF_POWERS = (25520, 19875, 12055, 4435, 600, 11, 0)
_EXP_MINUS_EIGHTH = 28918
_ONE_THIRD = 10923
_48_OVER_17_Q2 = 23130
_MINUS_32_OVER_17_Q2 = -15420
_ONE_Q2 = 1 << 13
# Below this, exp of numbers with more than 5 integer bits is 0.
_LEAST = 32


def mul(a: Int64Array, b: Int64Array | int) -> Int64Array:
    """round(a * b / 2^15), ties up, saturating at the one product that must."""
    return np.asarray(np.minimum((a * b + (1 << 14)) >> 15, INT16_MAX))


def _multiply_by_pot(values: Int64Array, exponent: int) -> Int64Array:
    return np.asarray(np.clip(values << exponent, -INT16_MAX - 1, INT16_MAX))


def _exp_between_minus_quarter_and_0(a: Int64Array) -> Int64Array:
    x = a + (1 << 12)
    x2 = mul(x, x)
    x3 = mul(x2, x)
    x4 = mul(x2, x2)
    higher = rounding_divide_by_pot(mul(rounding_divide_by_pot(x4, 2) + x3, _ONE_THIRD) + x2, 1)
    return _EXP_MINUS_EIGHTH + mul(x + higher, _EXP_MINUS_EIGHTH)


def _exp_on_negative_values(a: Int64Array, integer_bits: int) -> Int64Array:
    """exp(a) for a <= 0 in Q(integer_bits), result in Q0.15."""
    fraction_bits = 15 - integer_bits
    quarter = 1 << (fraction_bits - 2)
    a_mod_quarter = (a & (quarter - 1)) - quarter
    scaled = a_mod_quarter if integer_bits == 0 else _multiply_by_pot(a_mod_quarter, integer_bits)
    result = _exp_between_minus_quarter_and_0(scaled)
    remainder = a_mod_quarter - a
    for exponent, factor in zip(range(-2, integer_bits), _EXP_OF_POWERS, strict=False):
        bit = (remainder >> (fraction_bits + exponent)) & 1
        result = np.where(bit == 1, mul(result, factor), result)
    if integer_bits > 5:
        result = np.where(a < -(_LEAST << fraction_bits), 0, result)
    return np.where(a == 0, INT16_MAX, result)


def _two_over_one_plus_x(a: Int64Array) -> Int64Array:
    """2 / (1 + a) for a in [0, 1], Q0.15 to Q2.13: three Newton steps."""
    half_denominator = (a + INT16_MAX + 1) >> 1
    x = _48_OVER_17_Q2 + mul(half_denominator, _MINUS_32_OVER_17_Q2)
    for _ in range(3):
        x = x + _multiply_by_pot(mul(x, _ONE_Q2 - mul(half_denominator, x)), 2)
    return x


def all_numbers() -> Int64Array:
    """In the order of their unsigned values."""
    return np.arange(1 << 16, dtype=np.uint16).view(np.int16).astype(np.int64)


@lru_cache
def logistic_table() -> Int64Array:
    """(65536,) 1 / (1 + exp(-a)) of a in Q3.12, by its bits, in Q0.15."""
    a = all_numbers()
    positive = _multiply_by_pot(_two_over_one_plus_x(_exp_on_negative_values(-np.abs(a), 3)), 1)
    return np.where(a == 0, 1 << 14, np.where(a > 0, positive, INT16_MAX - positive))


@lru_cache
def tanh_table(integer_bits: int) -> Int64Array:
    """(65536,) tanh of a in Q(integer_bits), 0 to 6, by its bits, in Q0.15."""
    a = all_numbers()
    # exp takes -2 |a| with one more integer bit: the raw number stays.
    twice_inverse = _two_over_one_plus_x(_exp_on_negative_values(-np.abs(a), integer_bits + 1))
    # 2 / (1 + e) - 1 in Q2.13, then in Q0.15.
    positive = _multiply_by_pot(twice_inverse - _ONE_Q2, 2)
    return np.where(a == 0, 0, np.where(a > 0, positive, -positive))
