"""gemmlowp's fixed-point functions on int64 arrays that hold int32 values.

Qi.f means a raw integer r stands for r * 2^-f with i integer bits, i + f = 31. Every product is SRDHM, every
division by a power of two rounds half away from zero.

Source: gemmlowp 16e8662c, fixedpoint/fixedpoint.h.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from gpuq.numerics import MAX_LEFT_SHIFT, Int64Array, requantize_v1, requantize_v2, rounding_divide_by_pot, wrap_int32
from gpuq.numerics import saturating_rounding_doubling_high_mul as mul

INT32_MAX = (1 << 31) - 1
ONE_Q0 = INT32_MAX
"""1.0 in Q0.31, saturated."""

# exp(-2^k) in Q0.31 for k = -2 ... 4.
_EXP_OF_POWERS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
_EXP_MINUS_EIGHTH = 1895147668
_ONE_THIRD = 715827883
_48_OVER_17_Q2 = 1515870810
_MINUS_32_OVER_17_Q2 = -1010580540
_ONE_Q2 = 1 << 29
_3_OVER_2_Q3 = 3 << 27
_HALF_SQRT_2 = 1518500250


def scaled_input(
    centred: Int64Array, scale: float, integer_bits: int, *, rounds_once: bool = False
) -> tuple[Int64Array, npt.NDArray[np.bool_]]:
    """scale * centred in Q(integer_bits) where it fits, 0 elsewhere; and where it fits.

    Args:
        rounds_once: by V2 and not by V1.

    Source: CalculateArithmeticOpData, tflite-micro 90b983c2, tensorflow/lite/micro/kernels/{logistic_common,tanh}.cc;
    CalculateInputRadius, LiteRT tflite/kernels/internal/quantization_util.cc.
    """
    fraction_bits = 31 - integer_bits
    fraction, left_shift = math.frexp(scale * 2.0**fraction_bits)
    multiplier = math.floor(fraction * 2.0**31 + 0.5)
    radius = math.floor(((1 << integer_bits) - 1) * 2.0**fraction_bits / 2.0**left_shift)
    inside = np.abs(centred) < radius
    requantize = requantize_v2 if rounds_once else requantize_v1
    # Shifts beyond the rules' range: to the right nothing is left either way, to the left no code is inside.
    shift = min(max(left_shift, -31), MAX_LEFT_SHIFT)
    return requantize(np.where(inside, centred, 0), multiplier, shift), inside


def multiply_by_pot(values: Int64Array, exponent: int) -> Int64Array:
    """values * 2^exponent, exponent > 0, saturating to int32."""
    threshold = (1 << (31 - exponent)) - 1
    shifted = wrap_int32(values << exponent)
    return np.where(values > threshold, INT32_MAX, np.where(values < -threshold, -(1 << 31), shifted))


def _exp_between_minus_quarter_and_0(a: Int64Array) -> Int64Array:
    """exp(a) for a in [-1/4, 0), Q0.31 to Q0.31: a Taylor polynomial around -1/8."""
    x = a + (1 << 28)
    x2 = mul(x, x)
    x3 = mul(x2, x)
    x4 = mul(x2, x2)
    x4_over_4 = rounding_divide_by_pot(x4, 2)
    higher = rounding_divide_by_pot(mul(x4_over_4 + x3, _ONE_THIRD) + x2, 1)
    return _EXP_MINUS_EIGHTH + mul(x + higher, _EXP_MINUS_EIGHTH)


def exp_on_negative_values(a: Int64Array, integer_bits: int) -> Int64Array:
    """exp(a) for a <= 0 in Q(integer_bits), result in Q0.31. integer_bits is at most 5."""
    fraction_bits = 31 - integer_bits
    quarter = 1 << (fraction_bits - 2)
    a_mod_quarter = (a & (quarter - 1)) - quarter
    result = _exp_between_minus_quarter_and_0(multiply_by_pot(a_mod_quarter, integer_bits))
    remainder = a_mod_quarter - a
    for exponent, factor in zip(range(-2, integer_bits), _EXP_OF_POWERS, strict=False):
        bit = (remainder >> (fraction_bits + exponent)) & 1
        result = np.where(bit == 1, mul(result, factor), result)
    return np.where(a == 0, ONE_Q0, result)


def _two_over_one_plus_x(a: Int64Array) -> Int64Array:
    """2 / (1 + a) for a in [0, 1], Q0.31 to Q2.29: three Newton steps."""
    # RoundingHalfSum: half of a sum of two non-negative numbers, ties up.
    half_denominator = (a + ONE_Q0 + 1) >> 1
    x = _48_OVER_17_Q2 + mul(half_denominator, _MINUS_32_OVER_17_Q2)
    for _ in range(3):
        rest = _ONE_Q2 - mul(half_denominator, x)
        x = x + multiply_by_pot(mul(x, rest), 2)
    return x


def one_over_one_plus_x(a: Int64Array) -> Int64Array:
    """1 / (1 + a) for a in [0, 1], Q0.31 to Q0.31."""
    # 2 / (1 + a) in Q2.29, read as Q1.30, is the result.
    return multiply_by_pot(_two_over_one_plus_x(a), 1)


def logistic(a: Int64Array, integer_bits: int) -> Int64Array:
    """1 / (1 + exp(-a)) for a in Q(integer_bits), result in Q0.31."""
    positive = one_over_one_plus_x(exp_on_negative_values(-np.abs(a), integer_bits))
    return np.where(a == 0, 1 << 30, np.where(a > 0, positive, ONE_Q0 - positive))


def tanh(a: Int64Array, integer_bits: int) -> Int64Array:
    """(1 - exp(-2 a)) / (1 + exp(-2 a)) for a in Q(integer_bits), result in Q0.31."""
    # exp_on_negative_values takes -2 |a| with one more integer bit: the raw number stays.
    exps = exp_on_negative_values(-np.abs(a), integer_bits + 1)
    positive = one_minus_x_over_one_plus_x(exps)
    return np.where(a == 0, 0, np.where(a > 0, positive, -positive))


def one_minus_x_over_one_plus_x(a: Int64Array) -> Int64Array:
    """(1 - a) / (1 + a) for a in [0, 1], Q0.31 to Q0.31: 2 / (1 + a) by three Newton steps in Q2.29, less 1."""
    twice_inverse = _two_over_one_plus_x(a)
    return multiply_by_pot(twice_inverse - _ONE_Q2, 2)


def reciprocal(x: Int64Array, integer_bits: int) -> tuple[Int64Array, Int64Array]:
    """(r, bits): 1 / x ~ r * 2^-31 * 2^-bits for x > 0 in Q(integer_bits).

    Source: GetReciprocal, LiteRT tflite/kernels/internal/common.h.
    """
    # frexp gives floor(log2 x) + 1 exactly: int32 values are exact in float64.
    headroom_plus_one = 32 - np.frexp(x.astype(np.float64))[1].astype(np.int64)
    normalized = ((x << headroom_plus_one) & 0xFFFFFFFF) - (1 << 31)
    return one_over_one_plus_x(normalized), integer_bits - headroom_plus_one


def inverse_square_root(x: Int64Array) -> tuple[Int64Array, Int64Array]:
    """(multiplier, shift): 1 / sqrt(x) ~ multiplier * 2^(shift - 31), shift <= 0, for int32 x >= 0; 0 counts as 1.

    Source: GetInvSqrtQuantizedMultiplierExp, LiteRT tflite/kernels/internal/quantization_util.h.
    """
    value, shift = np.maximum(x, 2), np.full(x.shape, 11, np.int64)
    while np.any(large := value >= 1 << 29):
        value, shift = np.where(large, value >> 2, value), shift + large
    # frexp gives floor(log2 x) + 1 exactly: int32 values are exact in float64.
    pairs = (31 - np.frexp(value.astype(np.float64))[1].astype(np.int64)) // 2 - 1
    value, shift = value << 2 * pairs, shift - pairs
    # x in Q3.28 is value / 2, from 1/4 to 1; its half rounds away from zero.
    fixed = value >> 1
    half = rounding_divide_by_pot(fixed, 1)
    root = np.full(x.shape, 1 << 28, np.int64)
    for _ in range(5):
        # Products of Q3.28 have 9 and 6 integer bits; Rescale brings them back to 3.
        cube = multiply_by_pot(mul(mul(root, root), root), 6)
        root = multiply_by_pot(mul(np.full_like(root, _3_OVER_2_Q3), root) - mul(half, cube), 3)
    root = mul(root, _HALF_SQRT_2)
    root, shift = np.where(shift < 0, root << np.maximum(-shift, 0), root), np.maximum(shift, 0)
    small = x <= 1
    return np.where(small, INT32_MAX, root), np.where(small, 0, -shift)
