"""expf as glibc computes it, for the runtimes call the C library: nearly, but not always, the nearest float32.

    x * 32 / ln 2 = k + r, |r| <= 1/2;  exp(x) = 2^(k / 32) * p(r), p of degree 3, all in float64, rounded once.

glibc multiplies and adds with or without fusing, as the processor has it; that moves one result in about 10^8.

Source: the method and the coefficients are those of glibc 2.27 and later, sysdeps/ieee754/flt-32/e_expf.c.
"""

from __future__ import annotations

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
_PER_UNIT = float.fromhex("0x1.71547652b82fep+0") * _PARTS


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
