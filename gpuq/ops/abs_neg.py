"""ABS, rescaled where the scales differ, and NEG of numbers and of codes as numbers.

ABS: y = clamp(zp_y + V1(|q - zp_x|, s_x / s_y)), without V1 where s_x = s_y; the factor is float32 in LiteRT and, as
measured, float64 in TFLite Micro. NEG: y = -q, zero points or not.
Sources: LiteRT tflite/kernels/elementwise.cc (AbsEvalQuantized), neg.cc; tflite-micro 90b983c2,
tensorflow/lite/micro/kernels/elementwise.cc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Rule
from gpuq.ops.spec import FLOAT32, INT8, INT16, INT32, INT64, Shape, Spec, clamp_to
from gpuq.ops.unary import UnarySpec


@dataclass(frozen=True, kw_only=True)
class AbsSpec(UnarySpec):
    """Elementwise absolute value; int8 and int16. See UnarySpec for the fields."""

    op: ClassVar[str] = "ABS"
    dtypes: ClassVar[tuple[np.dtype[Any], ...]] = (INT8, INT16)


@dataclass(frozen=True, kw_only=True)
class NegSpec(Spec):
    """Elementwise negation modulo 2^bits: the lowest number stays as it is.

    Args:
        shape: shape of one run.
        dtype: int8 or int16 (the raw codes), int32, int64 or float32.
    """

    op: ClassVar[str] = "NEG"

    shape: Shape
    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        self.require_dtype("input", self.dtype, INT8, INT16, INT32, INT64, FLOAT32)

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.dtype

    @property
    def output_shape(self) -> Shape:
        return self.shape


def abs_reference(spec: AbsSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact results for codes of any shape."""
    values = np.abs(x.astype(np.int64) - spec.x_quant.scalar_zero_point())
    if spec.x_quant.scale != spec.out_quant.scale:
        factor = numerics.real_multipliers(
            spec.x_quant.scalar_scale(), np.ones(1, np.float32), spec.out_quant.scalar_scale(), rule.product
        )
        values = numerics.requantize(values, rule.rounding, factor)
    codes = values + spec.out_quant.scalar_zero_point()
    return clamp_to(codes, spec.out_quant.qmin, spec.out_quant.qmax, spec.out_quant.dtype)


def neg_reference(spec: NegSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact results for numbers of any shape."""
    return np.asarray(np.negative(x))
