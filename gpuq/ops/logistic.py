"""LOGISTIC: y = 1 / (1 + exp(-x)), as a table over the 256 codes of the input.

LiteRT computes the table in float32 with expf; XNNPACK in float64, ties to even; TFLite Micro computes each code in
fixed point (Q4.27).
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
from gpuq.ops import fixed_point
from gpuq.ops.spec import INT8, UINT8, Shape, Spec, clamp_to
from gpuq.quant import Quant, round_half_away

FIXED_INTEGER_BITS = 4


@dataclass(frozen=True, kw_only=True)
class LogisticSpec(Spec):
    """Elementwise sigmoid.

    Args:
        shape: shape of one run.
        x_quant: per tensor, int8 or uint8.
        out_quant: scale 1/256 exactly, the same dtype, zero point the dtype's minimum.
    """

    op: ClassVar[str] = "LOGISTIC"

    shape: Shape
    x_quant: Quant
    out_quant: Quant

    def __post_init__(self) -> None:
        self.require_dtype("input", self.x_quant.dtype, INT8, UINT8)
        self.require_dtype("output", self.out_quant.dtype, self.x_quant.dtype)
        self.require_per_tensor(x_quant=self.x_quant, out_quant=self.out_quant)
        self.require(
            self.out_quant.scale == 1 / 256 and self.out_quant.zero_point == self.out_quant.qmin,
            f"output must have scale 1/256 and zero point {self.out_quant.qmin}, got {self.out_quant.scale} "
            f"and {self.out_quant.zero_point}",
        )

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.x_quant.dtype

    @property
    def output_shape(self) -> Shape:
        return self.shape


def table(spec: LogisticSpec, rule: Rule) -> npt.NDArray[Any]:
    """The output code of every input code, from the dtype's minimum to its maximum; 256 entries."""
    codes = np.arange(spec.x_quant.qmin, spec.x_quant.qmax + 1, dtype=np.int64)
    centred = codes - spec.x_quant.scalar_zero_point()
    if rule.rounding is Rounding.TABLE_F32:
        out = _table_f32(spec, centred)
    elif rule.rounding is Rounding.TABLE_F64:
        out = _table_f64(spec, centred)
    else:
        out = _table_fixed_point(spec, centred, rounds_once=rule.rounding is Rounding.FIXED_POINT_SINGLE)
    return clamp_to(out, spec.out_quant.qmin, spec.out_quant.qmax, spec.out_quant.dtype)


def _table_f32(spec: LogisticSpec, centred: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):
        real = np.float32(spec.x_quant.scalar_scale()) * centred.astype(np.float32)
    # NumPy's float32 exp is an approximation that differs from CPU to CPU. The C library's double exp rounded once
    # equals glibc's expf here; it overflows where expf is infinite, and 1 / (1 + inf) is 0.
    exps = np.array([math.exp(-float(value)) if value > -709 else math.inf for value in real])
    with np.errstate(over="ignore"):
        sigmoid = np.float32(1) / (np.float32(1) + exps.astype(np.float32))
    inverse_scale = np.float32(1) / np.float32(spec.out_quant.scalar_scale())
    rescaled = round_half_away(sigmoid * inverse_scale)
    return rescaled + np.float32(spec.out_quant.scalar_zero_point())


def _table_f64(spec: LogisticSpec, centred: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    with np.errstate(over="ignore"):
        real = np.float32(spec.x_quant.scalar_scale()) * centred.astype(np.float32)
    exps = np.array([math.exp(min(max(float(value), -100.0), 100.0)) for value in real])
    sigmoid = np.where(real > 100, 1.0, np.where(real < -100, 0.0, exps / (1 + exps))).astype(np.float32)
    inverse_scale = np.float32(1) / np.float32(spec.out_quant.scalar_scale())
    return np.asarray(np.rint(sigmoid * inverse_scale + np.float32(spec.out_quant.scalar_zero_point())))


def _table_fixed_point(spec: LogisticSpec, centred: npt.NDArray[np.int64], *, rounds_once: bool) -> npt.NDArray[Any]:
    fraction, left_shift = math.frexp(spec.x_quant.scalar_scale() * 2.0 ** (31 - FIXED_INTEGER_BITS))
    multiplier = math.floor(fraction * 2.0**31 + 0.5)
    radius = math.floor(((1 << FIXED_INTEGER_BITS) - 1) * 2.0 ** (31 - FIXED_INTEGER_BITS) / 2.0**left_shift)
    inside = np.abs(centred) < radius
    requantize = numerics.requantize_v2 if rounds_once else numerics.requantize_v1
    # Shifts beyond the rules' range: to the right nothing is left either way, to the left no code is inside.
    scaled = requantize(np.where(inside, centred, 0), multiplier, min(max(left_shift, -31), numerics.MAX_LEFT_SHIFT))
    sigmoid = fixed_point.logistic(scaled, FIXED_INTEGER_BITS)
    codes = numerics.rounding_divide_by_pot(sigmoid, 31 - 8) + spec.out_quant.qmin
    return np.where(inside, codes, np.where(centred > 0, spec.out_quant.qmax, spec.out_quant.qmin))


def reference(spec: LogisticSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact sigmoids of codes of any shape."""
    return table(spec, rule)[x.astype(np.int64) - spec.x_quant.qmin]
