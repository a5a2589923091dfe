"""The integer rules once more, slowly: Python integers and fractions, written from the rules' text and not from gpuq.

Everything takes and gives plain numbers. C semantics are spelled out: division truncates, int32 wraps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1


def trunc_div(a: int, b: int) -> int:
    """C's a / b."""
    return abs(a) // abs(b) * (1 if (a >= 0) == (b >= 0) else -1)


def wrap(a: int) -> int:
    """a modulo 2^32 in [-2^31, 2^31)."""
    return (a + (1 << 31)) % (1 << 32) - (1 << 31)


def round_away(value: Fraction | int | float) -> int:
    """C's round(): to the nearest integer, ties away from zero."""
    exact = Fraction(value)
    magnitude = (2 * abs(exact.numerator) + exact.denominator) // (2 * exact.denominator)
    return magnitude if exact >= 0 else -magnitude


def f32(value: Fraction | int | float) -> Fraction:
    """The nearest float32, ties to even, of a number in float32's normal range."""
    exact = Fraction(value)
    if exact == 0:
        return exact
    # The power of two that brings the magnitude to [2^23, 2^24), where float32 holds the integers.
    power = abs(exact.numerator).bit_length() - exact.denominator.bit_length() - 24
    while abs(exact) >= Fraction(2) ** (power + 24):
        power += 1
    return round(exact / Fraction(2) ** power) * Fraction(2) ** power


def scale_of(value: float | np.floating[Any]) -> Fraction:
    """A scale as files store it: a float32 value, exactly."""
    return Fraction(float(np.float32(value)))


# ------------------------------------------------------------------------------------- multipliers and rounding


def multiplier_and_shift(real: Fraction | float) -> tuple[int, int]:
    """real ~ multiplier * 2^(shift - 31) with a multiplier of 31 bits, from the nearest integer, ties away."""
    exact = Fraction(real)
    if exact == 0:
        return 0, 0
    shift = 0
    while abs(exact) >= 1:
        exact, shift = exact / 2, shift + 1
    while abs(exact) < Fraction(1, 2):
        exact, shift = exact * 2, shift - 1
    multiplier = round_away(exact * (1 << 31))
    if abs(multiplier) == 1 << 31:
        multiplier, shift = multiplier // 2, shift + 1
    return (0, 0) if shift < -31 else (multiplier, shift)


def real_multiplier(x: float, w: float, out: float, *, product_in_f32: bool = False) -> float:
    """x * w / out of float32 scales as a double, the product rounded to float32 first where a rule says so."""
    product = scale_of(x) * scale_of(w)
    return float((f32(product) if product_in_f32 else product) / scale_of(out))


def high_mul(a: int, b: int) -> int:
    """SaturatingRoundingDoublingHighMul: gemmlowp's nudge, then C's truncating division."""
    if a == b == INT32_MIN:
        return INT32_MAX
    nudge = (1 << 30) if a * b >= 0 else 1 - (1 << 30)
    return trunc_div(a * b + nudge, 1 << 31)


def divide_by_pot(x: int, exponent: int) -> int:
    """RoundingDivideByPOT, by mask and threshold."""
    mask = (1 << exponent) - 1
    threshold = (mask >> 1) + (1 if x < 0 else 0)
    return (x >> exponent) + (1 if x & mask > threshold else 0)


def v1(acc: int, multiplier: int, shift: int) -> int:
    """MultiplyByQuantizedMultiplier with double rounding."""
    left, right = max(shift, 0), max(-shift, 0)
    return divide_by_pot(high_mul(wrap(acc << left), multiplier), right)


def v1_real(acc: int, real: Fraction | float) -> int:
    """V1 by a real factor."""
    return v1(acc, *multiplier_and_shift(real))


def v1u(acc: int, multiplier: int, shift: int) -> int:
    """Double rounding whose second half takes ties up."""
    high = high_mul(wrap(acc << max(shift, 0)), multiplier)
    return math.floor(Fraction(high, 1 << max(-shift, 0)) + (Fraction(1, 2) if shift < 0 else 0))


def v1u_real(acc: int, real: Fraction | float) -> int:
    """V1u by a real factor."""
    return v1u(acc, *multiplier_and_shift(real))


def v2(acc: int, multiplier: int, shift: int) -> int:
    """MultiplyByQuantizedMultiplier with single rounding: the nearest integer, ties up."""
    return math.floor(Fraction(acc * multiplier) * Fraction(2) ** (shift - 31) + Fraction(1, 2))


def v2_real(acc: int, real: Fraction | float) -> int:
    """V2 by a real factor."""
    return v2(acc, *multiplier_and_shift(real))


def v4(acc: int, real: Fraction | float) -> int:
    """lrintf(float(acc) * float(real)): two roundings to float32, then ties to even (as Python's round)."""
    return round(f32(f32(acc) * f32(real)))


def v6(acc: int, real: float) -> int:
    """round(double(acc) * real): the product rounded to float64, then ties away from zero."""
    return round_away(float(Fraction(acc) * Fraction(real)))


BY_REAL: dict[str, Callable[[int, Any], int]] = {"v1": v1_real, "v1u": v1u_real, "v2": v2_real, "v4": v4, "v6": v6}
"""Each rule by a real factor, by its name in gpuq.numerics.Rounding."""


def by_channel(rule: str, channel: int, channels: int) -> Callable[[int, Any], int]:
    """The rule of one output channel: rules of blocks have V1 behind the last whole block."""
    if rule.startswith("v1u_block"):
        block = int(rule.removeprefix("v1u_block"))
        return v1u_real if channel // block < channels // block else v1_real
    return BY_REAL[rule]


def clamp(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


def bound_code(bound: int, scale: Fraction, zero_point: int) -> int:
    """The code of a real activation bound, the quotient rounded to float32 first."""
    return zero_point + round_away(f32(Fraction(bound) / scale))


def elementwise(function: Callable[..., int], *arrays: Any) -> np.ndarray:
    """A function of Python integers over broadcast arrays; int64."""
    broadcast = np.broadcast(*arrays)
    values = [function(*map(int, items)) for items in broadcast]
    return np.array(values, np.int64).reshape(broadcast.shape)
