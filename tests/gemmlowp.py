"""gemmlowp's fixed-point functions as scalars, transcribed line by line from fixedpoint/fixedpoint.h (16e8662c).

A Q(i) number is an int32 with i integer bits, 31 - i fraction bits. Sums wrap, as C++ builds of them do in practice.
"""

from __future__ import annotations

from .exact import INT32_MAX, INT32_MIN, divide_by_pot, high_mul, trunc_div, wrap


def saturating_rounding_multiply_by_pot(x: int, exponent: int) -> int:
    if exponent <= 0:
        return x if exponent == 0 else divide_by_pot(x, -exponent)
    threshold = (1 << (31 - exponent)) - 1
    if x > threshold:
        return INT32_MAX
    if x < -threshold:
        return INT32_MIN
    return max(INT32_MIN, min(INT32_MAX, x << exponent))


def rescale(x: int, source_bits: int, target_bits: int) -> int:
    return saturating_rounding_multiply_by_pot(x, source_bits - target_bits)


def rounding_half_sum(a: int, b: int) -> int:
    return trunc_div(a + b + (1 if a + b >= 0 else -1), 2)


def exp_on_interval_between_negative_one_quarter_and_0_excl(a: int) -> int:
    constant_term, constant_1_over_3 = 1895147668, 715827883
    x = wrap(a + (1 << 28))
    x2 = high_mul(x, x)
    x3 = high_mul(x2, x)
    x4 = high_mul(x2, x2)
    x4_over_4 = saturating_rounding_multiply_by_pot(x4, -2)
    polynomial = saturating_rounding_multiply_by_pot(wrap(high_mul(wrap(x4_over_4 + x3), constant_1_over_3) + x2), -1)
    return wrap(constant_term + high_mul(constant_term, wrap(x + polynomial)))


def exp_on_negative_values(a: int, integer_bits: int) -> int:
    if a == 0:
        return INT32_MAX
    fractional_bits = 31 - integer_bits
    one_quarter = 1 << (fractional_bits - 2)
    a_mod_quarter_minus_one_quarter = (a & (one_quarter - 1)) - one_quarter
    result = exp_on_interval_between_negative_one_quarter_and_0_excl(
        rescale(a_mod_quarter_minus_one_quarter, integer_bits, 0)
    )
    remainder = wrap(a_mod_quarter_minus_one_quarter - a)
    barrel = [
        (-2, 1672461947),
        (-1, 1302514674),
        (0, 790015084),
        (1, 290630308),
        (2, 39332535),
        (3, 720401),
        (4, 242),
    ]
    for exponent, multiplier in barrel:
        if integer_bits > exponent and remainder & (1 << (fractional_bits + exponent)):
            result = high_mul(result, multiplier)
    return result


def one_over_one_plus_x_for_x_in_0_1(a: int) -> int:
    half_denominator = rounding_half_sum(a, INT32_MAX)
    x = wrap(1515870810 + high_mul(half_denominator, -1010580540))
    for _ in range(3):
        one_minus = wrap((1 << 29) - high_mul(half_denominator, x))
        # Q2 times Q2 is Q4.
        x = wrap(x + rescale(high_mul(x, one_minus), 4, 2))
    # ExactMulByPot<-1> reads the Q2 number as Q1.
    return rescale(x, 1, 0)


def logistic(a: int, integer_bits: int) -> int:
    if a == 0:
        return 1 << 30
    positive = one_over_one_plus_x_for_x_in_0_1(exp_on_negative_values(-abs(a), integer_bits))
    return positive if a > 0 else wrap(INT32_MAX - positive)


def get_reciprocal(x: int, x_integer_digits: int) -> tuple[int, int]:
    """(1 / x, bits over unit), from LiteRT's internal/common.h."""
    unsigned = x & 0xFFFFFFFF
    headroom_plus_one = 32 - unsigned.bit_length()
    shifted_sum_minus_one = wrap((unsigned << headroom_plus_one) - (1 << 31))
    return one_over_one_plus_x_for_x_in_0_1(shifted_sum_minus_one), x_integer_digits - headroom_plus_one


def one_minus_x_over_one_plus_x_for_x_in_0_1(a: int) -> int:
    half_denominator = rounding_half_sum(a, INT32_MAX)
    x = wrap(1515870810 + high_mul(half_denominator, -1010580540))
    for _ in range(3):
        one_minus = wrap((1 << 29) - high_mul(half_denominator, x))
        x = wrap(x + rescale(high_mul(x, one_minus), 4, 2))
    return rescale(wrap(x - (1 << 29)), 2, 0)


def tanh(a: int, integer_bits: int) -> int:
    if a == 0:
        return 0
    # ExactMulByPot<1> reads the number with one more integer bit.
    positive = one_minus_x_over_one_plus_x_for_x_in_0_1(exp_on_negative_values(-abs(a), integer_bits + 1))
    return positive if a > 0 else wrap(-positive)


def get_inv_sqrt_quantized_multiplier_exp(value: int) -> tuple[int, int]:
    """(1 / sqrt(value), shift) with reverse_shift -1, from LiteRT's internal/quantization_util.h."""
    if value <= 1:
        return INT32_MAX, 0
    shift = 11
    while value >= 1 << 29:
        value, shift = value // 4, shift + 1
    bit_pairs = (32 - value.bit_length() - 1) // 2 - 1
    shift -= bit_pairs
    value <<= 2 * bit_pairs
    assert 1 << 27 <= value < 1 << 29
    fixed = value >> 1
    half = saturating_rounding_multiply_by_pot(fixed, -1)
    x = 1 << 28
    for _ in range(5):
        x3 = rescale(high_mul(high_mul(x, x), x), 9, 3)
        x = rescale(wrap(high_mul((1 << 28) + (1 << 27), x) - high_mul(half, x3)), 6, 3)
    x = high_mul(x, 1518500250)
    if shift < 0:
        x, shift = x << -shift, 0
    return x, -shift
