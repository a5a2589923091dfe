"""DEQUANTIZE: codes to float32, float32(s * (q - zp)) with the product in float64.

LiteRT's optimized kernels compute float32(q * s) + float32(-zp * s) in whole vectors of 8, and the above behind them.
Sources: LiteRT tflite/kernels/internal/reference/dequantize.h, internal/optimized/optimized_ops.h (Dequantize,
ScaleWithNewZeroPoint).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import quant
from gpuq.numerics import Rounding, Rule
from gpuq.ops.spec import INT8, INT16, UINT8, Shape, Spec
from gpuq.quant import Quant


@dataclass(frozen=True, kw_only=True)
class DequantizeSpec(Spec):
    """Codes to real values.

    Args:
        shape: shape of one run.
        x_quant: int8, uint8 or int16, per tensor. The output is float32.
    """

    op: ClassVar[str] = "DEQUANTIZE"

    shape: Shape
    x_quant: Quant

    def __post_init__(self) -> None:
        self.require_dtype("input", self.x_quant.dtype, INT8, UINT8, INT16)
        self.require_per_tensor(x_quant=self.x_quant)
        self.require_symmetric_int16(x_quant=self.x_quant)

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.x_quant.dtype

    @property
    def output_shape(self) -> Shape:
        return self.shape


def reference(spec: DequantizeSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """float32 values of codes (N, *shape); of any shape, where the rule is not one of blocks."""
    values = quant.dequantize(x, spec.x_quant)
    if rule.rounding is Rounding.AFFINE_F32_BLOCK8:
        size = math.prod(spec.shape)
        scale = np.float32(spec.x_quant.scalar_scale())
        with np.errstate(over="ignore", under="ignore"):
            # The product of a scale and an 8-bit code is exact in float64.
            moved = np.float32(-spec.x_quant.scalar_zero_point() * spec.x_quant.scalar_scale())
            products = x.reshape(-1, size).astype(np.float32) * scale + moved
        values.reshape(-1, size)[:, : size // 8 * 8] = products[:, : size // 8 * 8]
    return values
