"""DEQUANTIZE: codes to float32, float32(s * (q - zp)) with the product in float64.

Source: LiteRT tflite/kernels/internal/reference/dequantize.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import quant
from gpuq.numerics import Rule
from gpuq.ops.spec import INT8, UINT8, Shape, Spec
from gpuq.quant import Quant


@dataclass(frozen=True, kw_only=True)
class DequantizeSpec(Spec):
    """Codes to real values.

    Args:
        shape: shape of one run.
        x_quant: int8 or uint8, per tensor. The output is float32.
    """

    op: ClassVar[str] = "DEQUANTIZE"

    shape: Shape
    x_quant: Quant

    def __post_init__(self) -> None:
        self.require_dtype("input", self.x_quant.dtype, INT8, UINT8)
        self.require_per_tensor(x_quant=self.x_quant)

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.x_quant.dtype

    @property
    def output_shape(self) -> Shape:
        return self.shape


def reference(spec: DequantizeSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """float32 values of codes of any shape."""
    return quant.dequantize(x, spec.x_quant)
