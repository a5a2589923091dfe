"""exp of float64 as glibc computes it, but for fused multiply-adds: other last bits in about 1 of 1,500 values.

    x * 128 / ln 2 = k + r * 128 / ln 2, k whole;  exp(x) = 2^(k / 128) * p(r), p of degree 5

2^(i / 128) is a float64 and what it lacks, relatively. The twin of kernels_cuda/exponential_f64.cuh, step by step, so
that the CPU and a GPU have equal bits.

Source: the method and the coefficients are those of glibc 2.28 and later, sysdeps/ieee754/dbl-64/e_exp.c.
"""

from __future__ import annotations

import functools
from decimal import Decimal, localcontext

import numpy as np
import numpy.typing as npt

PARTS = 128
_PER_UNIT = float.fromhex("0x1.71547652b82fep+0") * PARTS
# ln 2 / 128 in two pieces: k times the first is exact.
_STEP, _STEP_REST = float.fromhex("0x1.62e42fefa0000p-8"), float.fromhex("0x1.cf79abc9e3b39p-47")
_COEFFICIENTS = tuple(
    float.fromhex(text)
    for text in ("0x1.ffffffffffdbdp-2", "0x1.555555555543cp-3", "0x1.55555cf172b91p-5", "0x1.1111167a4d017p-7")
)
# Beyond it nothing but 0 or infinity is left.
_BEYOND = 800.0


@functools.cache
def parts() -> npt.NDArray[np.float64]:
    """(128, 2): 2^(i / 128) rounded to float64, and the relative rest. Read-only."""
    with localcontext() as context:
        context.prec = 50
        found = []
        for number in range(PARTS):
            exact = (Decimal(2).ln() * number / PARTS).exp()
            rounded = float(exact)
            found.append((rounded, float(exact / Decimal(rounded) - 1)))
    table = np.array(found)
    table.flags.writeable = False
    return table


def exp(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """exp of values of any shape; overflows to inf, underflows to 0, and NaN stays."""
    square, cubic, fourth, fifth = _COEFFICIENTS
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        x = np.clip(x, -_BEYOND, _BEYOND)
        whole = np.rint(x * _PER_UNIT)
        rest = x - whole * _STEP - whole * _STEP_REST
        steps = whole.astype(np.int32)
        part, lacking = np.moveaxis(parts()[steps % PARTS], -1, 0)
        squared = rest * rest
        polynomial = lacking + rest + squared * (square + rest * cubic)
        polynomial = polynomial + squared * squared * (fourth + rest * fifth)
        return np.asarray(np.ldexp(part + part * polynomial, steps // PARTS))
