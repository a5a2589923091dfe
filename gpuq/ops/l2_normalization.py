"""L2_NORMALIZATION of each row: y = x / sqrt(sum(x^2)) in fixed point, on a scale of 1/128.

    y = clamp(zp_y + V1((q - zp_x) * 2^7, 1 / sqrt(sum((q - zp_x)^2)))

The reciprocal root is a 31-bit multiplier from five Newton steps in Q3.28. int8 takes the 2^7 into the shift, uint8
into the value: the roundings are the same but where the shift is to the left.
Sources: LiteRT tflite/kernels/l2norm.cc, internal/reference/{l2normalization.h,integer_ops/l2normalization.h},
internal/quantization_util.h (GetInvSqrtQuantizedMultiplierExp).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Rounding, Rule
from gpuq.ops import fixed_point
from gpuq.ops.spec import INT8, UINT8, Shape, Spec, clamp_to, run_shape
from gpuq.quant import Quant

OUTPUT_SCALE = 1 / 128
OUTPUT_BITS = 7
# The sum of squares is an int32.
MAX_DEPTH = ((1 << 31) - 1) // 255**2


@dataclass(frozen=True, kw_only=True)
class L2NormalizationSpec(Spec):
    """Rows divided by their Euclidean norm.

    Args:
        depth: elements of a row (the last dimension), at most 33,025.
        x_quant: per tensor, int8 or uint8.
        out_quant: scale 1/128, the same dtype, zero point 0 for int8 and 128 for uint8.
    """

    op: ClassVar[str] = "L2_NORMALIZATION"

    depth: int
    x_quant: Quant
    out_quant: Quant

    def __post_init__(self) -> None:
        self.require_positive(depth=self.depth)
        self.require(self.depth <= MAX_DEPTH, f"depth {self.depth} must be at most {MAX_DEPTH}")
        self.require_dtype("input", self.x_quant.dtype, INT8, UINT8)
        self.require_dtype("output", self.out_quant.dtype, self.x_quant.dtype)
        self.require_per_tensor(x_quant=self.x_quant, out_quant=self.out_quant)
        zero_point = 0 if self.out_quant.dtype == INT8 else 128
        self.require(
            self.out_quant.scale == OUTPUT_SCALE and self.out_quant.zero_point == zero_point,
            f"output must have scale 1/128 and zero point {zero_point}, got {self.out_quant.scale} "
            f"and {self.out_quant.zero_point}",
        )

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.x_quant.dtype

    @property
    def output_shape(self) -> Shape:
        return (self.depth,)


def reference(spec: L2NormalizationSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact rows of (..., depth) codes: (rows, depth) codes."""
    centred = run_shape(x, (spec.depth,)).astype(np.int64) - spec.x_quant.scalar_zero_point()
    squares = (centred * centred).sum(axis=1, keepdims=True)
    multiplier, shift = fixed_point.inverse_square_root(squares)
    requantize = numerics.requantize_v2 if rule.rounding is Rounding.FIXED_POINT_SINGLE else numerics.requantize_v1
    if spec.x_quant.dtype == INT8:
        rows = requantize(centred, multiplier, shift + OUTPUT_BITS)
    else:
        rows = requantize(centred << OUTPUT_BITS, multiplier, shift)
    codes = rows + spec.out_quant.scalar_zero_point()
    return clamp_to(codes, spec.out_quant.qmin, spec.out_quant.qmax, spec.out_quant.dtype)
