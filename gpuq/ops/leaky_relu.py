"""LEAKY_RELU and PRELU: y = x where x >= 0, x * alpha elsewhere, with one alpha or a tensor of them.

    q >= zp_x: y = clamp(zp_y + V1(q - zp_x, s_x / s_y))
    else:      y = clamp(zp_y + V1((q - zp_x) * alpha, ...))

LEAKY_RELU's alpha is part of the factor, s_x * alpha / s_y, whose sign is put back after rounding (but for int16 in
LiteRT's optimized kernels, where the multiplier carries it); PRELU's codes are multiplied, and the factor is s_x *
s_alpha / s_y. Factors are float32 in LiteRT and float64 in TFLite Micro, whose wheel measures so even where its source
divides floats. XNNPACK's LEAKY_RELU has both factors, signs and all, in 1/256 (Q8).
Sources: LiteRT tflite/kernels/activations.cc (LeakyReluPrepare, PreluPrepare), internal/reference/{leaky_relu,prelu}.h;
tflite-micro 90b983c2, tensorflow/lite/micro/kernels/{leaky_relu_common,prelu_common}.cc; XNNPACK 75db3c093,
src/qs8-vlrelu.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Rounding, Rule
from gpuq.ops.broadcast import BinaryCodesSpec
from gpuq.ops.spec import INT8, INT16, UINT8, clamp_to
from gpuq.ops.unary import UnarySpec

ONE = np.ones(1, np.float32)


@dataclass(frozen=True, kw_only=True)
class LeakyReluSpec(UnarySpec):
    """Elementwise leaky ReLU. See UnarySpec for the other fields.

    Args:
        alpha: the slope of negative values, any finite float32.
    """

    op: ClassVar[str] = "LEAKY_RELU"
    dtypes: ClassVar[tuple[np.dtype[Any], ...]] = (INT8, UINT8, INT16)

    alpha: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(math.isfinite(self.alpha), f"alpha {self.alpha} must be finite")


@dataclass(frozen=True, kw_only=True)
class PreluSpec(BinaryCodesSpec):
    """Leaky ReLU with slopes, which broadcast; those of int16 are int8, with any zero point.

    See BinaryCodesSpec for the fields; a is x, b is alpha.
    """

    op: ClassVar[str] = "PRELU"
    dtypes: ClassVar[tuple[np.dtype[Any], ...]] = (INT8, UINT8, INT16)
    dtype_beside_int16: ClassVar[np.dtype[Any]] = INT8


def reference(spec: LeakyReluSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact results for codes of any shape."""
    centred = x.astype(np.int64) - spec.x_quant.scalar_zero_point()
    alpha = np.full(1, spec.alpha, np.float32)
    x_scale, out_scale = spec.x_quant.scalar_scale(), spec.out_quant.scalar_scale()
    if rule.rounding is Rounding.Q8:
        multipliers = (numerics.q8_multiplier(x_scale, out_scale, factor) for factor in (1.0, spec.alpha))
        positive, negative = (numerics.requantize_q8(centred, multiplier) for multiplier in multipliers)
        return _codes(spec, centred, positive, negative)
    signed = rule.rounding is Rounding.V1_SIGNED
    rounding = Rounding.V1 if signed else rule.rounding
    positive = numerics.requantize(centred, rounding, numerics.real_multipliers(x_scale, ONE, out_scale, rule.product))
    slope = numerics.real_multipliers(x_scale, alpha, out_scale, rule.product)
    sign = np.where((slope < 0) & (not signed), -1, 1)
    negative = sign * numerics.requantize(centred, rounding, sign * slope)
    return _codes(spec, centred, positive, negative)


def prelu_reference(spec: PreluSpec, rule: Rule, x: npt.NDArray[Any], alpha: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact results for (N, *a_shape) codes and (N, *b_shape) slopes, either N may be 1: (N, *output_shape) codes."""
    x, alpha = spec.aligned(x, alpha)
    centred = x.astype(np.int64) - spec.a_quant.scalar_zero_point()
    slopes = alpha.astype(np.int64) - spec.b_quant.scalar_zero_point()
    x_scale, out_scale = spec.a_quant.scalar_scale(), spec.out_quant.scalar_scale()
    positive = numerics.requantize(
        centred, rule.rounding, numerics.real_multipliers(x_scale, ONE, out_scale, rule.product)
    )
    factor = numerics.real_multipliers(x_scale, spec.b_quant.scales, out_scale, rule.product)
    negative = numerics.requantize(centred * slopes, rule.rounding, factor)
    return _codes(spec, centred, positive, negative)


def _codes(
    spec: LeakyReluSpec | PreluSpec,
    centred: npt.NDArray[np.int64],
    positive: npt.NDArray[np.int64],
    negative: npt.NDArray[np.int64],
) -> npt.NDArray[Any]:
    codes = np.where(centred >= 0, positive, negative) + spec.out_quant.scalar_zero_point()
    return clamp_to(codes, spec.out_quant.qmin, spec.out_quant.qmax, spec.out_quant.dtype)
