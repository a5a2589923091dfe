"""SQUARED_DIFFERENCE: both inputs are brought to twice the larger scale with 7 extra bits, subtracted, squared.

    v_i = V1((q_i - zp_i) * 2^7, s_i / t), t = 2 * max(s_a, s_b)
    y   = clamp(zp_y + V1((v_a - v_b)^2, t^2 / (2^14 * s_y)))

Source: LiteRT tflite/kernels/squared_difference.cc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Rule
from gpuq.ops.broadcast import BinaryCodesSpec
from gpuq.ops.spec import INT8, clamp_to

EXTRA_BITS = 7


@dataclass(frozen=True, kw_only=True)
class SquaredDifferenceSpec(BinaryCodesSpec):
    """y = (a - b)^2; int8 only. See BinaryCodesSpec for the fields."""

    op: ClassVar[str] = "SQUARED_DIFFERENCE"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_dtype("input", self.a_quant.dtype, INT8)
        self.require(
            0 < factors(self)[2] < 1,
            f"the square of twice the larger input scale, over 2^14 times the output scale {self.out_quant.scale}, "
            f"is {factors(self)[2]:.6g}; it must be below 1",
        )


def factors(spec: SquaredDifferenceSpec) -> tuple[float, float, float]:
    """Real factors of the first input, the second input, and the square."""
    a_scale, b_scale = spec.a_quant.scalar_scale(), spec.b_quant.scalar_scale()
    twice_max = 2 * max(a_scale, b_scale)
    # 2^14 times a float32 is exact.
    out_factor = twice_max * twice_max / ((1 << 2 * EXTRA_BITS) * spec.out_quant.scalar_scale())
    return a_scale / twice_max, b_scale / twice_max, out_factor


def reference(spec: SquaredDifferenceSpec, rule: Rule, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact results of (N, *a_shape) and (N, *b_shape) codes, either N may be 1: (N, *output_shape) codes."""
    a_factor, b_factor, out_factor = factors(spec)
    a, b = spec.aligned(a, b)
    a_raised = (a.astype(np.int64) - spec.a_quant.scalar_zero_point()) << EXTRA_BITS
    b_raised = (b.astype(np.int64) - spec.b_quant.scalar_zero_point()) << EXTRA_BITS
    difference = numerics.requantize(a_raised, rule.rounding, np.array(a_factor)) - numerics.requantize(
        b_raised, rule.rounding, np.array(b_factor)
    )
    # At most (2 * 255 * 2^6)^2: an int32.
    codes = numerics.requantize(difference * difference, rule.rounding, np.array(out_factor))
    return clamp_to(
        codes + spec.out_quant.scalar_zero_point(), spec.out_quant.qmin, spec.out_quant.qmax, spec.out_quant.dtype
    )
