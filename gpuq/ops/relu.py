"""RELU, RELU6, RELU_N1_TO_1, RELU_0_TO_1 as operators of their own: y = clamp(zp_y + V1(q - zp_x, s_x / s_y)).

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
from gpuq.ops.spec import INT8, INT16, UINT8, clamp_to
from gpuq.ops.unary import UnarySpec


@dataclass(frozen=True, kw_only=True)
class ReluSpec(UnarySpec):
    """max(x, 0), rescaled to the output's quantization. See UnarySpec for the fields."""

    op: ClassVar[str] = "RELU"
    dtypes: ClassVar[tuple[np.dtype[Any], ...]] = (INT8, UINT8, INT16)
    activation: ClassVar[str] = "relu"


@dataclass(frozen=True, kw_only=True)
class Relu6Spec(ReluSpec):
    """min(max(x, 0), 6), rescaled to the output's quantization. See UnarySpec for the fields."""

    op: ClassVar[str] = "RELU6"
    activation: ClassVar[str] = "relu6"


@dataclass(frozen=True, kw_only=True)
class ReluN1To1Spec(ReluSpec):
    """min(max(x, -1), 1), rescaled to the output's quantization. See UnarySpec for the fields."""

    op: ClassVar[str] = "RELU_N1_TO_1"
    dtypes: ClassVar[tuple[np.dtype[Any], ...]] = (INT8, UINT8)
    activation: ClassVar[str] = "relu_n1_to_1"


@dataclass(frozen=True, kw_only=True)
class Relu0To1Spec(ReluSpec):
    """min(max(x, 0), 1), rescaled to the output's quantization. See UnarySpec for the fields."""

    op: ClassVar[str] = "RELU_0_TO_1"
    dtypes: ClassVar[tuple[np.dtype[Any], ...]] = (INT8, UINT8)
    activation: ClassVar[str] = "relu_0_to_1"


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
