"""LOGISTIC: y = 1 / (1 + exp(-x)), as a table over the 256 codes of the input.

LiteRT computes the table in float32 with expf; XNNPACK in float64, ties to even; TFLite Micro computes each code in
fixed point (Q4.27). int16 is interpolated between 256 values of the sigmoid, 1/24 apart; LiteRT's optimized kernels
compute it in fixed point (Q3.12) where the input's scale is 2^-12.
Sources: LiteRT tflite/kernels/internal/common.h (LUTPopulateInt8), activations.cc; tflite-micro 90b983c2,
tensorflow/lite/micro/kernels/logistic_common.cc, tensorflow/lite/kernels/internal/reference/integer_ops/logistic.h;
XNNPACK src/reference/unary-elementwise.cc (SigmoidOp).
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
from gpuq.ops.interpolation import interpolated_sigmoid, step_multiplier
from gpuq.ops.spec import INT8, INT16, UINT8, clamp_to
from gpuq.ops.unary import (
    UnarySpec,
    float_table,
    float_table_to_even,
    input_codes,
    look_up,
    real_inputs,
    rounded_once,
)

FIXED_INTEGER_BITS = 4


@dataclass(frozen=True, kw_only=True)
class LogisticSpec(UnarySpec):
    """Elementwise sigmoid.

    Args:
        shape: shape of one run.
        x_quant: per tensor, int8, uint8 or int16.
        out_quant: scale 1/256 exactly, the same dtype, zero point the dtype's minimum; int16: 1/32768 and 0.
    """

    op: ClassVar[str] = "LOGISTIC"
    dtypes: ClassVar[tuple[np.dtype[Any], ...]] = (INT8, UINT8, INT16)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.x_quant.dtype == INT16:
            self.require(
                self.out_quant.scale == 1 / 32768, f"int16 output must have scale 1/32768, got {self.out_quant.scale}"
            )
            int16_multiplier(self)
            return
        self.require(
            self.out_quant.scale == 1 / 256 and self.out_quant.zero_point == self.out_quant.qmin,
            f"output must have scale 1/256 and zero point {self.out_quant.qmin}, got {self.out_quant.scale} "
            f"and {self.out_quant.zero_point}",
        )


def table(spec: LogisticSpec, rule: Rule) -> npt.NDArray[Any]:
    """The output code of every input code, from the dtype's minimum to its maximum; 256 entries."""
    if rule.rounding is Rounding.TABLE_F32:
        return _table_f32(spec)
    if rule.rounding is Rounding.TABLE_F64:
        return _table_f64(spec)
    return _table_fixed_point(spec, rounds_once=rule.rounding is Rounding.FIXED_POINT_SINGLE)


def _table_f32(spec: LogisticSpec) -> npt.NDArray[Any]:
    # Where expf is infinite, 1 / (1 + inf) is 0.
    exps = rounded_once(math.exp, -real_inputs(spec))
    return float_table(spec, np.float32(1) / (np.float32(1) + exps))


def _table_f64(spec: LogisticSpec) -> npt.NDArray[Any]:
    real = real_inputs(spec)
    exps = np.array([math.exp(min(max(float(value), -100.0), 100.0)) for value in real])
    sigmoid = np.where(real > 100, 1.0, np.where(real < -100, 0.0, exps / (1 + exps))).astype(np.float32)
    return float_table_to_even(spec, sigmoid)


def _table_fixed_point(spec: LogisticSpec, *, rounds_once: bool) -> npt.NDArray[Any]:
    centred = input_codes(spec)
    scaled, inside = fixed_point.scaled_input(
        centred, spec.x_quant.scalar_scale(), FIXED_INTEGER_BITS, rounds_once=rounds_once
    )
    sigmoid = fixed_point.logistic(scaled, FIXED_INTEGER_BITS)
    codes = numerics.rounding_divide_by_pot(sigmoid, 31 - 8) + spec.out_quant.qmin
    saturated = np.where(centred > 0, spec.out_quant.qmax, spec.out_quant.qmin)
    return clamp_to(np.where(inside, codes, saturated), spec.out_quant.qmin, spec.out_quant.qmax, spec.out_quant.dtype)


def int16_multiplier(spec: LogisticSpec) -> tuple[int, int]:
    """(multiplier, right shift) that bring codes of int16 to 1/12288, the 512th of a step of the table."""
    scale = spec.x_quant.scalar_scale()
    return (3, 0) if abs(math.log2(scale) + 12) < 1e-3 else step_multiplier(spec, scale)


def reference(spec: LogisticSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact sigmoids of codes of any shape."""
    if rule.rounding is Rounding.INTERPOLATED:
        return np.asarray(interpolated_sigmoid(x.astype(np.int64), *int16_multiplier(spec)), spec.out_quant.dtype)
    if spec.x_quant.dtype == INT16:
        return np.asarray(fixed_point_int16.logistic_table().astype(np.int16)[x.view(np.uint16)])
    return look_up(spec, table(spec, rule), x)
