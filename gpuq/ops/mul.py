"""MUL: y = clamp(zp_y + V1((q_a - zp_a) * (q_b - zp_b), s_a * s_b / s_y)).

LiteRT takes the factor in float32, TFLite Micro in float64.
Sources: LiteRT tflite/kernels/mul.cc, internal/reference/integer_ops/mul.h; tflite-micro
tensorflow/lite/micro/kernels/mul_common.cc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Rule
from gpuq.ops.broadcast import BinarySpec
from gpuq.ops.spec import clamp_to


@dataclass(frozen=True, kw_only=True)
class MulSpec(BinarySpec):
    """y = a * b. See BinarySpec for the fields."""

    op: ClassVar[str] = "MUL"


def reference(spec: MulSpec, rule: Rule, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact product of (N, *a_shape) and (N, *b_shape) codes, either N may be 1: (N, *output_shape) codes."""
    a, b = spec.aligned(a, b)
    product = (a.astype(np.int64) - spec.a_quant.scalar_zero_point()) * (
        b.astype(np.int64) - spec.b_quant.scalar_zero_point()
    )
    factor = numerics.real_multipliers(
        spec.a_quant.scalar_scale(), spec.b_quant.scales, spec.out_quant.scalar_scale(), rule.product
    )
    codes = numerics.requantize(product, rule.rounding, factor)
    act_min, act_max = numerics.activation_range(spec.activation, spec.out_quant, rule.bounds)
    return clamp_to(codes + spec.out_quant.scalar_zero_point(), act_min, act_max, spec.out_quant.dtype)
