"""Bias, requantization, zero point and clamp of a block of sums: exact, in as few passes over it as possible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.cpu.gemm import EXACT_FLOAT64
from gpuq.numerics import V1U_BLOCKS, Rounding, Rule
from gpuq.ops.spec import UINT8
from gpuq.quant import Quant

# The largest float64 below one half: v + copysign(this, v), truncated, is C's round(v) for every v.
BELOW_HALF = float(np.nextafter(0.5, 0.0))
# No code, raised or not, and no distance between two of them comes near this.
BEYOND_CODES = 1024
BEYOND_INT16_CODES = 1 << 17

Run = Callable[[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[np.float64]], None]


class Epilogue:
    """Turns sums without bias, whose last axis is the output channel, into codes.

    Args:
        reals: float64 (O,) or (1,), the real factors.
        bias: int64 (O,), everything that is constant per channel: bias and folded zero points.
        bounds: int64 (O,); no sum of a channel exceeds its bound in magnitude (before the bias).
        repeat: pixels that are treated as one long row, so that NumPy's inner loops are long; must divide every
            number of pixels that comes, and needs blocks of codes that are contiguous.
        wraps: sums and bias are int32, modulo 2^32; else int64.

    V1 in one floor. With T = acc * m and h = floor((T + 2^30) / 2^31) (SRDHM), V1 ends with
    y = floor((h + 2^(r-1) - [h < 0]) / 2^r) for a right shift r > 0, which is round half away from zero. Floors of
    integers compose, so

        y = floor((T + 2^30 + 2^(30+r) - 2^31 * [h < 0]) / 2^(31+r))
          = floor(t + 1/2 + e)  where h >= 0,  floor(t + 1/2 - e)  where h < 0,
        t = T / 2^(31+r),  e = 2^-(r+1),  and h < 0 exactly when t + e < 0.

    With r = 0, y = h = floor(t + 1/2): the same with e = 0. A left shift multiplies acc beforehand. Where the clamp
    cuts off everything below the zero point (ReLU), h < 0 always ends at the lower bound, and the sign need not be
    looked at.

    V1u ends with y = floor((h + 2^(r-1)) / 2^r) = floor(t + 1/2 + e) whatever the sign, and a rule of blocks has
    channels of both kinds. V2 is floor(t + 1/2), which is e = 0.

    float64 computes this exactly where it matters. t is the sum of (sum of products) * f and bias * f, with
    f = m / 2^(31+r); every term is an integer multiple of 2^-(31+r). Results beyond the codes' range are clamped, so
    let |t| + |zero point| + 1 < 1024. Then all terms are below |bias * f| + 1024, and exact while that is below
    2^53 / 2^(31+r): the condition that _prepare_one_floor checks. Further out the terms may be rounded, but rounding is
    monotonic, so such a result stays on its side of the range and is clamped to the same end.

    V4 is float32 from end to end: where sum and bias are float32 values, float32 rounds their sum once, as the
    conversion of the int32 does; else float64 adds them, exactly, before that conversion. The product, the nearest
    integer and the clamp are the rule's own.

    A channel that fails the condition is usually a dead one, with a tiny scale: when both ends of its possible sums
    give one code, all do (V1 is monotonic while nothing wraps). What remains is computed by numerics.requantize.
    """

    def __init__(
        self,
        *,
        rule: Rule,
        reals: npt.NDArray[np.float64],
        bias: npt.NDArray[np.int64],
        bounds: npt.NDArray[np.int64],
        out_quant: Quant,
        act_min: int,
        act_max: int,
        repeat: int = 1,
        wraps: bool = True,
    ) -> None:
        self._rule = rule
        self._reals = np.broadcast_to(reals, bias.shape)
        self._bias = bias
        self._zero_point = out_quant.scalar_zero_point()
        self._act_min, self._act_max = act_min, act_max
        # Codes are computed as unsigned numbers: truncation is floor there. Signed ones are raised and flipped back.
        self._raise = 0 if out_quant.dtype == UINT8 else -out_quant.qmin
        self._unsigned = np.dtype(f"uint{8 * out_quant.dtype.itemsize}")
        self._beyond = BEYOND_INT16_CODES if out_quant.dtype.itemsize > 1 else BEYOND_CODES
        self._repeat = repeat
        self._slow: npt.NDArray[np.intp] = np.zeros(0, np.intp)
        self._int32 = wraps
        # Modulo 2^28 sums are V4's own until they wrap.
        limit = 1 << 27 if rule.rounding is Rounding.V4_INT28 else 1 << 31 if wraps else EXACT_FLOAT64
        overflows = bool(np.any(bounds + np.abs(bias) >= limit))
        self._run: Run | None = None
        # Channels that round ties away from zero.
        self._away = np.full(bias.shape, rule.rounding is Rounding.V1)
        if rule.rounding in V1U_BLOCKS:
            self._away[bias.size // V1U_BLOCKS[rule.rounding] * V1U_BLOCKS[rule.rounding] :] = True
        in_one_floor = rule.rounding in (Rounding.V1, Rounding.V1U, Rounding.V2, *V1U_BLOCKS)
        if in_one_floor and not overflows:
            self._run = self._prepare_one_floor(bounds)
        elif rule.rounding is Rounding.V3 and not overflows:
            self._run = self._prepare_v3(bounds)
        elif rule.rounding in (Rounding.V4, Rounding.V4_INT28) and not overflows:
            self._factor, self._offset = (
                self._tiled(self._reals.astype(np.float32)),
                self._tiled(bias.astype(np.float64)),
            )
            self._offset32 = self._offset.astype(np.float32)
            self._fits_float32 = bool((self._offset32 == self._offset).all())
            self._run = self._run_v4
        elif rule.rounding is Rounding.V6 and not overflows:
            self._factor, self._offset = self._tiled(self._reals), self._tiled(bias.astype(np.float64))
            self._run = self._run_v6

    @property
    def is_fast(self) -> bool:
        """False when every channel goes through numerics.requantize."""
        return self._run is not None

    @property
    def slow_channels(self) -> int:
        """Channels that go through numerics.requantize."""
        return self._slow.size if self.is_fast else self._bias.size

    def _tiled(self, vector: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.tile(vector, self._repeat)

    def _prepare_one_floor(self, bounds: npt.NDArray[np.int64]) -> Run | None:
        """Computes the constants of the one-floor form; None where most channels could not use it."""
        multiplier, shift = numerics.quantize_multipliers(self._reals)
        left, right = np.maximum(shift, 0), np.maximum(-shift, 0)
        largest = bounds + np.abs(self._bias)
        # Python integers: nothing here may overflow while it is checked for overflow.
        exact = np.array(
            [
                (most << up) < 1 << 31 and (abs(bias) << up) * m + (self._beyond << (31 + down)) < EXACT_FLOAT64
                for most, bias, m, up, down in zip(
                    largest.tolist(),
                    self._bias.tolist(),
                    multiplier.tolist(),
                    left.tolist(),
                    right.tolist(),
                    strict=True,
                )
            ],
            bool,
        )
        lowest, highest = self._codes(self._bias - bounds), self._codes(self._bias + bounds)
        constant = ~exact & (left == 0) & (lowest == highest)  # every rule is monotonic
        self._slow = np.flatnonzero(~exact & ~constant)
        if 2 * self._slow.size > exact.size:
            return None
        fast = exact & ~constant
        factor = np.where(fast, np.ldexp(multiplier.astype(np.float64), shift - 31), 0.0)
        twice = fast & (right > 0) & (self._rule.rounding is not Rounding.V2)
        tie: npt.NDArray[np.float64] = np.where(twice, np.ldexp(1.0, -(right + 1)), 0.0)
        away = np.where(self._away, tie, 0.0)
        base = np.where(constant, lowest, self._zero_point) + self._raise
        self._factor = self._tiled(factor)
        if self._act_min >= self._zero_point or not away.any():
            self._offset = self._tiled(self._bias * factor + (0.5 + tie + base))
            return self._run_one_floor
        self._tie = self._tiled(away)
        self._offset = self._tiled(self._bias * factor + tie)
        self._rest = self._tiled(0.5 + base - away)
        return self._run_by_sign

    def _prepare_v3(self, bounds: npt.NDArray[np.int64]) -> Run | None:
        """Computes the constants of V3's one floor; None where any channel could not use it.

        y = floor((acc + bias) * m / 2^r + 1/2) with a 16-bit m and r = 15 - shift: all terms are integer multiples of
        2^-r, so float64 is exact as for one floor: where it matters while |bias| * m + 2^17 * 2^r < 2^53, further out
        rounded, but monotonic. Nothing wraps while |y| < 2^31.
        """
        multiplier, shift = numerics.reduced_multiplier(*numerics.quantize_multipliers(self._reals))
        largest = (bounds + np.abs(self._bias)).tolist()
        for most, bias, m, right in zip(
            largest, self._bias.tolist(), multiplier.tolist(), (15 - shift).tolist(), strict=True
        ):
            wraps = most * m + (1 << (right - 1)) >= 1 << (31 + right)
            if wraps or abs(bias) * m + (self._beyond << right) >= EXACT_FLOAT64:
                return None
        self._factor = self._tiled(np.ldexp(multiplier.astype(np.float64), shift - 15))
        self._offset = self._tiled(self._bias * self._factor[: self._bias.size] + 0.5)
        self._rest = self._tiled(np.full(self._bias.size, float(self._zero_point + self._raise)))
        return self._run_v3

    def __call__(self, acc: npt.NDArray[Any], out: npt.NDArray[Any], t: npt.NDArray[np.float64]) -> None:
        """Writes codes of acc (pixels, O), any float dtype, to out (pixels, O), with scratch t (pixels, O).

        acc and t may be the same array.
        """
        if self._run is None:
            np.copyto(out, self._codes(acc.astype(np.int64) + self._bias), casting="unsafe")
            return
        slow = acc[:, self._slow].astype(np.int64) if self._slow.size else None
        rows = (-1, self._repeat * self._bias.size)
        # A block with one long row per `repeat` pixels; without repetition blocks may have gaps, and stay as they are.
        codes = out.view(self._unsigned)
        if self._repeat > 1:
            acc, t, codes = acc.reshape(rows), t.reshape(rows), codes.reshape(rows)
        self._run(acc, codes, t)
        if slow is not None:
            out[:, self._slow] = self._codes(slow + self._bias[self._slow], self._slow)

    def _run_one_floor(self, acc: npt.NDArray[Any], codes: npt.NDArray[Any], t: npt.NDArray[np.float64]) -> None:
        self._scale(acc, t)
        t += self._offset
        self._store(t, codes)

    def _run_by_sign(self, acc: npt.NDArray[Any], codes: npt.NDArray[Any], t: npt.NDArray[np.float64]) -> None:
        self._scale(acc, t)
        t += self._offset
        t += np.copysign(self._tie, t)
        t += self._rest
        self._store(t, codes)

    def _run_v3(self, acc: npt.NDArray[Any], codes: npt.NDArray[Any], t: npt.NDArray[np.float64]) -> None:
        self._scale(acc, t)
        t += self._offset
        np.floor(t, out=t)
        t += self._rest
        self._store(t, codes)

    def _run_v4(self, acc: npt.NDArray[Any], codes: npt.NDArray[Any], t: npt.NDArray[np.float64]) -> None:
        if acc.dtype == np.float32 and self._fits_float32:
            v = t.reshape(-1).view(np.float32)[: acc.size].reshape(acc.shape)
            np.add(acc, self._offset32, out=v)
        else:
            v = np.add(acc, self._offset, out=t).astype(np.float32)
        v *= self._factor
        np.rint(v, out=v)
        v += np.float32(self._zero_point + self._raise)
        self._store(v, codes)

    def _run_v6(self, acc: npt.NDArray[Any], codes: npt.NDArray[Any], t: npt.NDArray[np.float64]) -> None:
        np.add(acc, self._offset, out=t)
        t *= self._factor
        t += np.copysign(BELOW_HALF, t)
        np.trunc(t, out=t)
        t += self._zero_point + self._raise
        self._store(t, codes)

    def _scale(self, acc: npt.NDArray[Any], t: npt.NDArray[np.float64]) -> None:
        # Converting first is faster than one multiplication of mixed types, which NumPy buffers.
        if acc is not t:
            np.copyto(t, acc)
        t *= self._factor

    def _store(self, t: npt.NDArray[Any], codes: npt.NDArray[Any]) -> None:
        np.clip(t, self._act_min + self._raise, self._act_max + self._raise, out=t)
        np.copyto(codes, t, casting="unsafe")
        if self._raise:
            np.bitwise_xor(codes, self._raise, out=codes)

    def _codes(
        self, acc: npt.NDArray[np.int64], channels: npt.NDArray[np.intp] | slice = slice(None)
    ) -> npt.NDArray[np.int64]:
        """Codes of sums with bias of these channels, by numerics.requantize."""
        acc, reals = numerics.wrap_int32(acc) if self._int32 else acc, self._reals[channels]
        if self._rule.rounding in V1U_BLOCKS:
            # Chosen channels are no longer in blocks.
            away, up = (numerics.requantize(acc, rounding, reals) for rounding in (Rounding.V1, Rounding.V1U))
            codes = np.where(self._away[channels], away, up)
        else:
            codes = numerics.requantize(acc, self._rule.rounding, reals)
        return np.asarray(np.clip(codes + self._zero_point, self._act_min, self._act_max))
