"""SQRT and RSQRT of int8 and int16 codes.

    SQRT:  y = clamp(zp_y + trunc(sqrtf(s_x * (q - zp_x)) / s_y)), in float32
    RSQRT: y = clamp(zp_y + V1(V1(1, 1 / sqrt(q - zp_x) * 2^20), 2^-20 / (sqrt(s_x) * s_y))); the highest for real 0

LiteRT interpolates RSQRT of int16 between 512 values, computed in float32.
The runtimes stop with an error at a negative value. A table has a result for every code: here it is that of real 0.
Sources: LiteRT tflite/kernels/elementwise.cc (SqrtEvalQuantized, RsqrtEvalQuantizedInt8); tflite-micro 90b983c2,
tensorflow/lite/micro/kernels/elementwise.cc.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Product, Rounding, Rule
from gpuq.ops import fixed_point
from gpuq.ops.interpolation import interpolated, interpolation_table
from gpuq.ops.spec import INT8, INT16, clamp_to
from gpuq.ops.unary import UnarySpec, look_up, real_inputs

# Extra bits of the reciprocal root.
EXTRA_BITS = 20
# Both right shifts of 32-bit values.
MAX_SHIFT = 31


@dataclass(frozen=True, kw_only=True)
class SqrtSpec(UnarySpec):
    """Elementwise square root; int8 and int16. See UnarySpec for the fields."""

    op: ClassVar[str] = "SQRT"
    dtypes: ClassVar[tuple[np.dtype[Any], ...]] = (INT8, INT16)

    def __post_init__(self) -> None:
        super().__post_init__()
        reach = self.x_quant.qmax - self.x_quant.scalar_zero_point()
        largest = math.sqrt(reach * self.x_quant.scalar_scale()) / self.out_quant.scalar_scale()
        self.require(largest < 2.0**30, f"output scale {self.out_quant.scale} is too small for {self.x_quant.scale}")


@dataclass(frozen=True, kw_only=True)
class RsqrtSpec(UnarySpec):
    """Elementwise reciprocal square root; int8 and int16. See UnarySpec for the fields."""

    op: ClassVar[str] = "RSQRT"
    dtypes: ClassVar[tuple[np.dtype[Any], ...]] = (INT8, INT16)

    def __post_init__(self) -> None:
        super().__post_init__()
        for product in Product:
            _, shift = numerics.quantize_multiplier(rsqrt_factor(self, product))
            self.require(
                shift - EXTRA_BITS >= -MAX_SHIFT,
                f"output scale {self.out_quant.scale} is too large for input scale {self.x_quant.scale}",
            )


def rsqrt_factor(spec: RsqrtSpec, product: Product) -> float:
    """1 / (sqrt(s_x) * s_y): root and product in float32 or in float64."""
    x_scale, out_scale = spec.x_quant.scalar_scale(), spec.out_quant.scalar_scale()
    if product is Product.F64:
        scale = math.sqrt(x_scale) * out_scale
    else:
        with np.errstate(over="ignore", under="ignore"):
            scale = float(np.sqrt(np.float32(x_scale)) * np.float32(out_scale))
    return 1 / scale if scale else math.inf


def _rsqrt_table(spec: RsqrtSpec) -> npt.NDArray[np.int64]:
    x_scale, out_scale = np.float32(spec.x_quant.scalar_scale()), np.float32(spec.out_quant.scalar_scale())

    def inverse_root(value: Any) -> Any:
        real = np.float32(value)
        return np.float32(1) / np.sqrt(real) if real > 0 else np.float32(32767) * out_scale

    return interpolation_table(inverse_root, x_scale, 0, out_scale)


def sqrt_reference(spec: SqrtSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact results for codes of any shape."""
    roots = np.sqrt(np.maximum(real_inputs(spec), np.float32(0))) / np.float32(spec.out_quant.scalar_scale())
    codes = roots.astype(np.int64) + spec.out_quant.scalar_zero_point()
    return look_up(spec, clamp_to(codes, spec.out_quant.qmin, spec.out_quant.qmax, spec.out_quant.dtype), x)


def rsqrt_reference(spec: RsqrtSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact results for codes of any shape."""
    if rule.rounding is Rounding.INTERPOLATED_F32:
        codes = interpolated(np.maximum(x.astype(np.int64), 0), _rsqrt_table(spec))
        return np.asarray(codes, spec.out_quant.dtype)
    centred = x.astype(np.int64) - spec.x_quant.scalar_zero_point()
    inverse, inverse_shift = fixed_point.inverse_square_root(np.maximum(centred, 1))
    requantize = numerics.requantize_v2 if rule.rounding is Rounding.V2 else numerics.requantize_v1
    raised = requantize(np.ones_like(centred), inverse, inverse_shift + EXTRA_BITS)
    multiplier, shift = numerics.quantize_multiplier(rsqrt_factor(spec, rule.product))
    codes = requantize(raised, multiplier, shift - EXTRA_BITS) + spec.out_quant.scalar_zero_point()
    codes = np.where(centred <= 0, spec.out_quant.qmax, codes)
    return clamp_to(codes, spec.out_quant.qmin, spec.out_quant.qmax, spec.out_quant.dtype)
