"""HARD_SWISH: y = x * min(max(x + 3, 0), 6) / 6 in 16-bit fixed point.

With v = (q - zp_x) * 2^7, on a scale of s_x / 128:

    p = v * (s_x / 128 / s_y)      before its right shift
    r = (clamp(v * (s_x / 128) / (3 / 32768)) + 32768) / 2
    y = clamp(zp_y + shifted(p * r))

Source: LiteRT tflite/kernels/activations.cc (HardSwishPrepare), internal/reference/hard_swish.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Rule
from gpuq.ops.spec import clamp_to
from gpuq.ops.unary import UnarySpec

INT16_MAX = (1 << 15) - 1
# Shifts of int32 values: from 31 on they are undefined.
MAX_SHIFT = 30


@dataclass(frozen=True, kw_only=True)
class HardSwishSpec(UnarySpec):
    """Elementwise hard swish. See UnarySpec for the fields; the output's scale is above 1/128 of the input's."""

    op: ClassVar[str] = "HARD_SWISH"

    def __post_init__(self) -> None:
        super().__post_init__()
        (_, out_exponent), (_, unit_exponent) = multipliers(self)
        self.require(
            -MAX_SHIFT <= out_exponent <= 0,
            f"input scale {self.x_quant.scale} over 128 output scales of {self.out_quant.scale} must be in [2^-31, 1)",
        )
        self.require(
            unit_exponent >= -MAX_SHIFT,
            f"input scale {self.x_quant.scale} must be above 2^-37.4",
        )


def multipliers(spec: HardSwishSpec) -> tuple[tuple[int, int], tuple[int, int]]:
    """(16-bit multiplier, exponent) to the output's scale, and to 3 / 32768; factors in float32."""

    def narrowed(real: np.float32) -> tuple[int, int]:
        multiplier, exponent = numerics.quantize_multiplier(float(real))
        return min((multiplier + (1 << 15)) >> 16, INT16_MAX), exponent

    with np.errstate(over="ignore", under="ignore"):
        fine_scale = np.float32(1 / 128) * np.float32(spec.x_quant.scalar_scale())
        to_output = fine_scale / np.float32(spec.out_quant.scalar_scale())
        to_unit = fine_scale / (np.float32(3) / np.float32(32768))
    return narrowed(to_output), narrowed(to_unit)


def _high_mul(a: npt.NDArray[np.int64], multiplier: int) -> npt.NDArray[np.int64]:
    """round(a * multiplier / 2^15), ties up, for int16 values (gemmlowp's SaturatingRoundingDoublingHighMul)."""
    product = a * multiplier
    # C's division truncates: the nudge depends on the sign.
    nudged = product + np.where(product >= 0, 1 << 14, 1 - (1 << 14))
    return np.asarray(np.minimum(np.sign(nudged) * (np.abs(nudged) >> 15), INT16_MAX))


def _left(a: npt.NDArray[np.int64], amount: int) -> npt.NDArray[np.int64]:
    """a * 2^amount, saturating to int16."""
    return np.asarray(np.clip(a << amount, -INT16_MAX - 1, INT16_MAX))


def reference(spec: HardSwishSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact results for codes of any shape."""
    (out_multiplier, out_exponent), (unit_multiplier, unit_exponent) = multipliers(spec)
    fine = (x.astype(np.int64) - spec.x_quant.scalar_zero_point()) << 7
    # From -255 * 128: int16 holds it all.
    preshift = _high_mul(fine, out_multiplier)
    unit = _left(fine, unit_exponent - 1) if unit_exponent > 0 else fine
    unit = _high_mul(unit, unit_multiplier)
    if unit_exponent > 0:
        unit = _left(unit, 1)
    elif unit_exponent < 0:
        unit = numerics.rounding_divide_by_pot(unit, -unit_exponent)
    unit = (unit + (1 << 15)) >> 1
    product = unit * preshift
    # C's division by 2^15 truncates.
    product = np.sign(product) * (np.abs(product) >> 15)
    codes = numerics.rounding_divide_by_pot(product, -out_exponent) + spec.out_quant.scalar_zero_point()
    return clamp_to(codes, spec.out_quant.qmin, spec.out_quant.qmax, spec.out_quant.dtype)
