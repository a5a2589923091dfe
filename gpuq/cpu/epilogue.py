"""Bias, requantization, zero point and clamp of a block of sums: exact, in as few passes over it as possible."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Rounding, Rule
from gpuq.ops.spec import UINT8
from gpuq.quant import Quant

EXACT_FLOAT64 = 1 << 53
# The largest float64 below one half: v + copysign(this, v), truncated, is C's round(v) for every v.
BELOW_HALF = float(np.nextafter(0.5, 0.0))


class Epilogue:
    """Turns sums without bias, whose last axis is the output channel, into codes.

    Args:
        bias: int64 (O,), everything that is constant per channel: bias and folded zero points.
        bound: no sum exceeds this in magnitude (before the bias).

    V1 in one floor. With T = acc * m and h = floor((T + 2^30) / 2^31) (SRDHM), V1 ends with
    y = floor((h + 2^(r-1) - [h < 0]) / 2^r) for a right shift r > 0, which is round half away from zero. Floors of
    integers compose, so

        y = floor((T + 2^30 + 2^(30+r) - 2^31 * [h < 0]) / 2^(31+r))
          = floor(t + 1/2 + e)  where h >= 0,  floor(t + 1/2 - e)  where h < 0,
        t = T / 2^(31+r),  e = 2^-(r+1),  and h < 0 exactly when t + e < 0.

    With r = 0, y = h = floor(t + 1/2): the same with e = 0. Every term is an integer multiple of 2^-(31+r); while
    all stay below 2^53 of these units float64 holds them exactly, so the floor is exact. A left shift multiplies acc
    beforehand; it is exact while acc * 2^s stays an int32. Where the clamp cuts off everything below the zero point
    (ReLU), h < 0 always ends at the lower bound, and the sign need not be looked at.
    """

    def __init__(
        self,
        *,
        rule: Rule,
        reals: npt.NDArray[np.float64],
        bias: npt.NDArray[np.int64],
        bound: int,
        out_quant: Quant,
        act_min: int,
        act_max: int,
    ) -> None:
        self._rule = rule
        self._reals = np.broadcast_to(reals, bias.shape)
        self._bias = bias
        self._zero_point = out_quant.scalar_zero_point()
        self._act_min, self._act_max = act_min, act_max
        self._dtype = out_quant.dtype
        # Codes are computed as unsigned: truncation is floor there. int8 codes are raised by 128 and flipped back.
        self._raise = 0 if self._dtype == UINT8 else 128
        largest = bound + int(np.abs(bias).max(initial=0))
        fits = largest < 1 << 31
        if fits and rule.rounding is Rounding.V1 and self._prepare_v1(largest):
            self._run = self._run_v1
        elif fits and rule.rounding is Rounding.V6:
            self._run = self._run_v6
        else:
            self._run = self._run_general

    def _prepare_v1(self, largest: int) -> bool:
        """Computes the constants of the one-floor form; False where float64 could not hold every term exactly."""
        multiplier, shift = numerics.quantize_multipliers(self._reals)
        left, right = np.maximum(shift, 0), np.maximum(-shift, 0)
        base = self._zero_point + self._raise
        for factor, up, down in zip(multiplier.tolist(), left.tolist(), right.tolist(), strict=True):
            raised = largest << up
            if raised >= 1 << 31 or raised * factor + ((abs(base) + 2) << (31 + down)) >= EXACT_FLOAT64:
                return False
        self._factor = np.ldexp(multiplier.astype(np.float64), shift - 31)
        tie: npt.NDArray[np.float64] = np.where(right > 0, np.ldexp(1.0, -(right + 1)), 0.0)
        self._ties_by_sign = self._act_min < self._zero_point and bool(tie.any())
        if self._ties_by_sign:
            self._tie = tie
            self._offset = self._bias * self._factor + tie
            self._rest = 0.5 + base - tie
        else:
            self._offset = self._bias * self._factor + (0.5 + tie + base)
        return True

    def __call__(self, acc: npt.NDArray[Any], out: npt.NDArray[Any], t: npt.NDArray[np.float64]) -> None:
        """Writes codes of acc (rows, O), any float dtype, to out (rows, O), with scratch t (rows, O)."""
        self._run(acc, out, t)

    def _run_v1(self, acc: npt.NDArray[Any], out: npt.NDArray[Any], t: npt.NDArray[np.float64]) -> None:
        np.multiply(acc, self._factor, out=t)
        t += self._offset
        if self._ties_by_sign:
            t += np.copysign(self._tie, t)
            t += self._rest
        self._store(t, out)

    def _run_v6(self, acc: npt.NDArray[Any], out: npt.NDArray[Any], t: npt.NDArray[np.float64]) -> None:
        np.add(acc, self._bias, out=t)
        t *= self._reals
        t += np.copysign(BELOW_HALF, t)
        np.trunc(t, out=t)
        t += self._zero_point + self._raise
        self._store(t, out)

    def _store(self, t: npt.NDArray[np.float64], out: npt.NDArray[Any]) -> None:
        # Half a code above the upper bound truncates to it, and leaves the bound's own fraction alone.
        np.clip(t, self._act_min + self._raise, self._act_max + self._raise + 0.5, out=t)
        codes = out.view(np.uint8)
        np.copyto(codes, t, casting="unsafe")
        if self._raise:
            np.bitwise_xor(codes, 0x80, out=codes)

    def _run_general(self, acc: npt.NDArray[Any], out: npt.NDArray[Any], t: npt.NDArray[np.float64]) -> None:
        wrapped = numerics.wrap_int32(acc.astype(np.int64) + self._bias)
        codes = numerics.requantize(wrapped, self._rule.rounding, self._reals) + self._zero_point
        np.copyto(out, np.clip(codes, self._act_min, self._act_max), casting="unsafe")
