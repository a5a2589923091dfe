"""QUANTIZE: float32 to codes, or codes of one quantization to codes of another.

float32: y = clamp(round(x / s_y) + zp_y). Codes: y = clamp(zp_y + V1(q - zp_x, s_x / s_y)).
Sources: LiteRT tflite/kernels/quantize.cc, internal/reference/{quantize.h,requantize.h}.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics, quant
from gpuq.numerics import Rule
from gpuq.ops.spec import FLOAT32, INT8, UINT8, Shape, Spec, clamp_to
from gpuq.quant import Quant


@dataclass(frozen=True, kw_only=True)
class QuantizeSpec(Spec):
    """Quantization, or requantization.

    Args:
        shape: shape of one run.
        x_quant: int8 or uint8 per tensor, or None for float32 input.
        out_quant: int8 or uint8 per tensor.
    """

    op: ClassVar[str] = "QUANTIZE"

    shape: Shape
    x_quant: Quant | None
    out_quant: Quant

    def __post_init__(self) -> None:
        self.require_dtype("output", self.out_quant.dtype, INT8, UINT8)
        self.require_per_tensor(out_quant=self.out_quant)
        if self.x_quant is not None:
            self.require_dtype("input", self.x_quant.dtype, INT8, UINT8)
            self.require_per_tensor(x_quant=self.x_quant)

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return FLOAT32 if self.x_quant is None else self.x_quant.dtype

    @property
    def output_shape(self) -> Shape:
        return self.shape


def reference(spec: QuantizeSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact codes of values or codes of any shape."""
    if spec.x_quant is None:
        return quant.quantize(x, spec.out_quant)
    factor = spec.x_quant.scalar_scale() / spec.out_quant.scalar_scale()
    centred = x.astype(np.int64) - spec.x_quant.scalar_zero_point()
    codes = numerics.requantize(centred, rule.rounding, np.array(factor)) + spec.out_quant.scalar_zero_point()
    return clamp_to(codes, spec.out_quant.qmin, spec.out_quant.qmax, spec.out_quant.dtype)
