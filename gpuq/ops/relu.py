"""RELU, RELU6 as operators of their own: y = clamp(zp_y + V1(q - zp_x, s_x / s_y)).

LiteRT takes the factor in float32, TFLite Micro in float64. TFLite Micro's RELU6 does not rescale at all: it clamps the
input's codes by the input's own quantization, whatever the output's says.
Sources: LiteRT tflite/kernels/activations.cc (ReluPrepare, QuantizedReluX), internal/reference/reference_ops.h;
tflite-micro tensorflow/lite/micro/kernels/activations.cc, activations_common.cc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Rounding, Rule
from gpuq.ops.spec import INT8, UINT8, Shape, Spec, clamp_to
from gpuq.quant import Quant


@dataclass(frozen=True, kw_only=True)
class ReluSpec(Spec):
    """max(x, 0), rescaled to the output's quantization.

    Args:
        shape: shape of one run.
        x_quant, out_quant: per tensor, int8 or uint8, the same dtype.
    """

    op: ClassVar[str] = "RELU"
    activation: ClassVar[str] = "relu"

    shape: Shape
    x_quant: Quant
    out_quant: Quant

    def __post_init__(self) -> None:
        self.require_dtype("input", self.x_quant.dtype, INT8, UINT8)
        self.require_dtype("output", self.out_quant.dtype, self.x_quant.dtype)
        self.require_per_tensor(x_quant=self.x_quant, out_quant=self.out_quant)

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.x_quant.dtype

    @property
    def output_shape(self) -> Shape:
        return self.shape


@dataclass(frozen=True, kw_only=True)
class Relu6Spec(ReluSpec):
    """min(max(x, 0), 6), rescaled to the output's quantization. See ReluSpec for the fields."""

    op: ClassVar[str] = "RELU6"
    activation: ClassVar[str] = "relu6"


def reference(spec: ReluSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact result for codes of any shape."""
    if rule.rounding is Rounding.EXACT:
        return clamp_to(x, *numerics.activation_range(spec.activation, spec.x_quant), spec.out_quant.dtype)
    factor = numerics.real_multipliers(
        spec.x_quant.scalar_scale(), np.ones(1, np.float32), spec.out_quant.scalar_scale(), rule.product
    )
    centred = x.astype(np.int64) - spec.x_quant.scalar_zero_point()
    codes = numerics.requantize(centred, rule.rounding, factor)
    act_min, act_max = numerics.activation_range(spec.activation, spec.out_quant, rule.bounds)
    return clamp_to(codes + spec.out_quant.scalar_zero_point(), act_min, act_max, spec.out_quant.dtype)
