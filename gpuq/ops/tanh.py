"""TANH: a table over the 256 codes of the input, as LOGISTIC's.

LiteRT computes the table in float32 with tanhf, and so does XNNPACK, which rounds ties to even. TFLite Micro computes
each code in fixed point (Q4.27) and gives multiples of 1/128 around code 0, whatever the output's parameters say.
int16 is as LOGISTIC's; LiteRT's optimized kernels compute it in fixed point (Q3.12) where the input's scale is 2^-12
or 2^-11, of which they double the codes first.
Sources: LiteRT tflite/kernels/internal/common.h (LUTPopulateInt8), activations.cc (TanhPrepare); tflite-micro 90b983c2,
tensorflow/lite/micro/kernels/tanh.cc, tensorflow/lite/kernels/internal/reference/integer_ops/tanh.h.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Rounding, Rule
from gpuq.ops import fixed_point, fixed_point_int16
from gpuq.ops.interpolation import interpolated_tanh, step_multiplier
from gpuq.ops.spec import INT8, INT16, UINT8, clamp_to
from gpuq.ops.unary import (
    UnarySpec,
    float_table,
    float_table_to_even,
    input_codes,
    look_up,
    real_inputs,
    require_finite_inverse,
    rounded_once,
)

FIXED_INTEGER_BITS = 4


@dataclass(frozen=True, kw_only=True)
class TanhSpec(UnarySpec):
    """Elementwise hyperbolic tangent. See UnarySpec for the fields."""

    op: ClassVar[str] = "TANH"
    dtypes: ClassVar[tuple[np.dtype[Any], ...]] = (INT8, UINT8, INT16)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_finite_inverse(self)
        if self.x_quant.dtype == INT16:
            self.require(
                self.out_quant.scale == 1 / 32768, f"int16 output must have scale 1/32768, got {self.out_quant.scale}"
            )
            int16_multiplier(self)


def int16_multiplier(spec: TanhSpec) -> tuple[int, int]:
    """(multiplier, right shift) that bring codes of int16 to 1/12288: exact for scales of 2^-12 and 2^-11."""
    scale = spec.x_quant.scalar_scale()
    shift = _left_shift_to_q12(spec)
    if shift in (0, 1) and abs(math.log2(scale) + 12 - shift) < 1e-3:
        return 3 << shift, 0
    return step_multiplier(spec, scale)


def _left_shift_to_q12(spec: TanhSpec) -> int:
    """The left shift that brings codes of int16 to 2^-12, to the nearest power of two."""
    return round(math.log2(spec.x_quant.scalar_scale())) + 12


def table(spec: TanhSpec, rule: Rule) -> npt.NDArray[Any]:
    """The output code of every input code, from the dtype's minimum to its maximum; 256 entries."""
    if rule.rounding in (Rounding.TABLE_F32, Rounding.TABLE_F32_EVEN):
        of_reals = float_table if rule.rounding is Rounding.TABLE_F32 else float_table_to_even
        return of_reals(spec, rounded_once(math.tanh, real_inputs(spec)))
    centred = input_codes(spec)
    scaled, inside = fixed_point.scaled_input(
        centred,
        spec.x_quant.scalar_scale(),
        FIXED_INTEGER_BITS,
        rounds_once=rule.rounding is Rounding.FIXED_POINT_SINGLE,
    )
    codes = numerics.rounding_divide_by_pot(fixed_point.tanh(scaled, FIXED_INTEGER_BITS), 31 - 7)
    saturated = np.where(centred > 0, spec.out_quant.qmax, spec.out_quant.qmin)
    return clamp_to(np.where(inside, codes, saturated), spec.out_quant.qmin, spec.out_quant.qmax, spec.out_quant.dtype)


def reference(spec: TanhSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact tangents of codes of any shape."""
    if rule.rounding is Rounding.INTERPOLATED:
        return interpolated_tanh(x.astype(np.int64), *int16_multiplier(spec)).astype(np.int16)
    if spec.x_quant.dtype == INT16:
        doubled = np.clip(x.astype(np.int64) << _left_shift_to_q12(spec), -32768, 32767).astype(np.int16)
        return np.asarray(fixed_point_int16.tanh_table(3).astype(np.int16)[doubled.view(np.uint16)])
    return look_up(spec, table(spec, rule), x)
