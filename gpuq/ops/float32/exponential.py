"""Exponentials in float64, step by step, so that a GPU and every CPU have the same bits.

expf as glibc computes it, for the runtimes call the C library: nearly, but not always, the nearest float32.

    x * 32 / ln 2 = k + r, |r| <= 1/2;  exp(x) = 2^(k / 32) * p(r), p of degree 3, all in float64, rounded once.

glibc multiplies and adds with or without fusing, as the processor has it; that moves one result in about 10^8.

expm1 and tanh by Taylor's series, so near the truth that rounding to float32 gives the nearest one.

    x = k * ln 2 + r, |r| <= ln 2 / 2;  exp(x) - 1 = 2^k * (exp(r) - 1) + (2^k - 1);  tanh(x) = e / (e + 2),
    e = exp(2 * x) - 1

Source: the method and the coefficients of expf are those of glibc 2.27 and later, sysdeps/ieee754/flt-32/e_expf.c.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

_PARTS = 32
_COEFFICIENTS = (
    float.fromhex("0x1.c6af84b912394p-5") / _PARTS**3,
    float.fromhex("0x1.ebfce50fac4f3p-3") / _PARTS**2,
    float.fromhex("0x1.62e42ff0c52d6p-1") / _PARTS,
)
# Exponents of which nothing but 0 or infinity is left.
_BEYOND = 1000.0 * _PARTS
_PER_LN2 = float.fromhex("0x1.71547652b82fep+0")
_PER_UNIT = _PER_LN2 * _PARTS
# ln 2 in two parts: k times the first is exact.
_LN2 = (float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33"))
_SERIES = tuple(1 / math.factorial(n) for n in range(13, 1, -1))


def expf(x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """exp of float32 values of any shape; overflows to inf, underflows to 0."""
    cubic, square, linear = _COEFFICIENTS
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        scaled = np.clip(x.astype(np.float64) * _PER_UNIT, -_BEYOND, _BEYOND)
        whole = np.rint(scaled)
        rest = scaled - whole
        polynomial = (cubic * rest + square) * (rest * rest) + (linear * rest + 1)
        # 2^(k / 32) correctly rounded, as in the library's table, times an exact power of two.
        part = np.exp2((whole % _PARTS) / _PARTS)
        powers = np.ldexp(polynomial * part, (whole // _PARTS).astype(np.int32))
        return np.asarray(powers, np.float32)


def expm1(x: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """exp - 1 of float64 values in [-41, 41], of any shape."""
    whole = np.rint(x * _PER_LN2)
    rest = (x - whole * _LN2[0]) - whole * _LN2[1]
    series = np.full_like(rest, _SERIES[0])
    for coefficient in _SERIES[1:]:
        series = series * rest + coefficient
    part = rest + (rest * rest) * series
    steps = whole.astype(np.int32)
    return np.asarray(np.ldexp(part, steps) + (np.ldexp(1.0, steps) - 1))


def tanhf(x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The float32 nearest to tanh of float32 values of any shape."""
    exact = x.astype(np.float64)
    power = expm1(2 * np.minimum(np.abs(exact), 20.0))
    return np.copysign(power / (power + 2), exact).astype(np.float32)
