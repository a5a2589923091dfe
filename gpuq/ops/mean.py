"""MEAN: y = clamp(zp_y + V1(sum(q) - zp_x * n, m', s')), where (m', s') is s_x / s_y divided by n in integers.

With (m, s) the quantized s_x / s_y and k = min(floor(log2 n), 32, 31 + s): m' = (m * 2^k) / n, s' = s - k.

LiteRT's optimized kernels have another way for the means over (H, W) that keep four dimensions (v1u_block16; all in
float32 but the requantization, the zero point in a bias of its own), and XNNPACK one for all (reciprocal_f32):

    y = clamp(zp_y - int(float32(zp_x * s_x / s_y) +- 0.5) + requant(sum(q), s_x / (n * s_y)))
    y = clamp(round(float32(sum(q)) * k + z)), k = s_x / s_y * (1 / n), z = zp_y - float32(zp_x * n) * k

Sources: LiteRT tflite/kernels/reduce.cc, internal/reference/reduce.h (QuantizedMeanOrSum),
internal/optimized/integer_ops/mean.h; XNNPACK src/operators/reduce-nd.c.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Rounding, Rule
from gpuq.ops.reduce import ReduceCodesSpec, scaled_to_even
from gpuq.ops.spec import INT8, INT16, UINT8, clamp_to, run_shape


@dataclass(frozen=True, kw_only=True)
class MeanSpec(ReduceCodesSpec):
    """The mean over some dimensions. See ReduceSpec and ReduceCodesSpec for the fields."""

    op: ClassVar[str] = "MEAN"
    dtypes: ClassVar[tuple[np.dtype[Any], ...]] = (INT8, UINT8, INT16)

    def __post_init__(self) -> None:
        super().__post_init__()
        divided_multiplier(self)

    @property
    def share(self) -> np.float32:
        return np.float32(1) / np.float32(self.count)


def divided_multiplier(spec: MeanSpec) -> tuple[int, int]:
    """(m', s'): the scale ratio divided by the count, in integers."""
    multiplier, shift = numerics.quantize_multiplier(spec.x_quant.scalar_scale() / spec.out_quant.scalar_scale())
    raised = min(spec.count.bit_length() - 1, 32, 31 + shift)
    return (multiplier << raised) // spec.count, shift - raised


def image_factor_and_bias(spec: MeanSpec) -> tuple[float, int]:
    """(real factor of the sum of codes, bias) of rule v1u_block16, computed in float32."""
    x_scale, out_scale = np.float32(spec.x_quant.scalar_scale()), np.float32(spec.out_quant.scalar_scale())
    with np.errstate(over="ignore"):
        offset = np.float32(spec.x_quant.scalar_zero_point()) * x_scale / out_scale
        offset += np.float32(0.5) if offset > 0 else np.float32(-0.5)
        factor = x_scale / (np.float32(spec.count) * out_scale)
    spec.require(
        abs(float(offset)) < 2.0**31, f"input scale {x_scale} over output scale {out_scale} moves zero beyond int32"
    )
    return float(factor), spec.out_quant.scalar_zero_point() - int(offset)


def reference(spec: MeanSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact means of (N, *x_shape) codes: (N, *output_shape) codes."""
    codes = run_shape(x, spec.x_shape).astype(np.int64)
    total = codes.sum(axis=spec.run_axes, dtype=np.int64)
    means = _means(spec, rule, total)
    clamped = clamp_to(means, spec.out_quant.qmin, spec.out_quant.qmax, spec.out_quant.dtype)
    return clamped.reshape(-1, *spec.output_shape)


def _means(spec: MeanSpec, rule: Rule, total: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Codes before the clamp, from sums of codes."""
    if rule.rounding is Rounding.RECIPROCAL_F32:
        return scaled_to_even(spec, total)
    if rule.rounding is Rounding.V1U_BLOCK16:
        real, bias = image_factor_and_bias(spec)
        return numerics.requantize(numerics.wrap_int32(total), rule.rounding, np.array(real)) + bias
    requantize = numerics.requantize_v2 if rule.rounding is Rounding.V2 else numerics.requantize_v1
    centred = numerics.wrap_int32(total - spec.x_quant.scalar_zero_point() * spec.count)
    return requantize(centred, *divided_multiplier(spec)) + spec.out_quant.scalar_zero_point()
