"""QUANTIZE: float32 to codes, or codes of one quantization to codes of another.

float32: y = clamp(round(x / s_y) + zp_y). Codes: y = clamp(zp_y + V1(q - zp_x, s_x / s_y)).
XNNPACK multiplies by the reciprocal, ties to even; codes have a factor in 1/256 (Q8):

    y = clamp(zp_y + ((q - zp_x) * round(256 * float32(s_x / s_y)) + 128) >> 8)

LiteRT's optimized kernels do as XNNPACK in whole vectors of float32, and V1u in whole vectors of codes; what is left
behind the last vector of a run goes another way, so that an element's position counts.
Sources: LiteRT tflite/kernels/quantize.cc, internal/reference/{quantize.h,requantize.h},
internal/optimized/optimized_ops.h (AffineQuantize, Requantize); XNNPACK src/f32-qs8-vcvt, src/microparams-init.c
(xnn_init_qs8_cvt_scalar_params).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics, quant
from gpuq.numerics import Rounding, Rule
from gpuq.ops.spec import FLOAT32, INT8, INT16, UINT8, Shape, Spec, clamp_to
from gpuq.quant import Quant, round_half_away


@dataclass(frozen=True, kw_only=True)
class QuantizeSpec(Spec):
    """Quantization, or requantization.

    Args:
        shape: shape of one run.
        x_quant: int8, uint8 or int16 per tensor, or None for float32 input.
        out_quant: int8, uint8 or int16 per tensor.
    """

    op: ClassVar[str] = "QUANTIZE"

    shape: Shape
    x_quant: Quant | None
    out_quant: Quant

    def __post_init__(self) -> None:
        self.require_dtype("output", self.out_quant.dtype, INT8, UINT8, INT16)
        self.require_per_tensor(out_quant=self.out_quant)
        if self.x_quant is not None:
            self.require_dtype("input", self.x_quant.dtype, INT8, UINT8, INT16)
            self.require_per_tensor(x_quant=self.x_quant)
            if self.x_quant.dtype == self.out_quant.dtype:
                self.require_symmetric_int16(x_quant=self.x_quant, out_quant=self.out_quant)

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return FLOAT32 if self.x_quant is None else self.x_quant.dtype

    @property
    def output_shape(self) -> Shape:
        return self.shape


def reference(spec: QuantizeSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact codes of values or codes, (N, *shape); of any shape, where the rule is not one of blocks."""
    if spec.x_quant is None:
        return _from_float(spec, rule, x)
    centred = x.astype(np.int64) - spec.x_quant.scalar_zero_point()
    codes = _rescaled(spec, rule, centred) + spec.out_quant.scalar_zero_point()
    return clamp_to(codes, spec.out_quant.qmin, spec.out_quant.qmax, spec.out_quant.dtype)


def _from_float(spec: QuantizeSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if rule.rounding is Rounding.AFFINE_F32:
        return quant.quantize(x, spec.out_quant)
    quant.check_quantizable(x, spec.out_quant)
    scale = np.float32(spec.out_quant.scalar_scale())
    with np.errstate(over="ignore", under="ignore"):
        steps = np.rint(x.astype(np.float32) * (np.float32(1) / scale)).astype(np.float64)
    if rule.rounding is Rounding.RECIPROCAL_F32_BLOCK8:
        rest = x.reshape(-1, math.prod(spec.shape))[:, math.prod(spec.shape) // 8 * 8 :]
        steps.reshape(-1, math.prod(spec.shape))[:, math.prod(spec.shape) // 8 * 8 :] = round_half_away(
            rest.astype(np.float64) / np.float64(scale)
        )
    return clamp_to(
        steps + spec.out_quant.scalar_zero_point(), spec.out_quant.qmin, spec.out_quant.qmax, spec.out_quant.dtype
    )


def _rescaled(spec: QuantizeSpec, rule: Rule, centred: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    assert spec.x_quant is not None
    if rule.rounding is Rounding.Q8:
        multiplier = numerics.q8_multiplier(spec.x_quant.scalar_scale(), spec.out_quant.scalar_scale())
        return numerics.requantize_q8(centred, multiplier)
    factor = np.array(spec.x_quant.scalar_scale() / spec.out_quant.scalar_scale())
    if rule.rounding is Rounding.V1U_BLOCK16:
        runs = centred.reshape(-1, math.prod(spec.shape))
        return numerics.requantize(runs, rule.rounding, factor).reshape(centred.shape)
    return numerics.requantize(centred, rule.rounding, factor)
