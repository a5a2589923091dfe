"""SQUARED_DIFFERENCE: both inputs are brought to twice the larger scale with 7 extra bits, subtracted, squared.

    v_i = V1((q_i - zp_i) * 2^7, s_i / t), t = 2 * max(s_a, s_b)
    y   = clamp(zp_y + V1((v_a - v_b)^2, t^2 / (2^14 * s_y)))

int16, which TFLite Micro has, gets no extra bits: 2^0.
Sources: LiteRT tflite/kernels/squared_difference.cc; tflite-micro 90b983c2,
tensorflow/lite/micro/kernels/squared_difference.cc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Rule
from gpuq.ops.broadcast import BinaryCodesSpec
from gpuq.ops.spec import INT8, INT16, clamp_to

EXTRA_BITS = 7


@dataclass(frozen=True, kw_only=True)
class SquaredDifferenceSpec(BinaryCodesSpec):
    """y = (a - b)^2; int8 and int16. See BinaryCodesSpec for the fields."""

    op: ClassVar[str] = "SQUARED_DIFFERENCE"
    dtypes: ClassVar[tuple[np.dtype[Any], ...]] = (INT8, INT16)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            0 < factors(self)[2] < 1,
            f"the square of twice the larger input scale, over 2^{2 * extra_bits(self)} times the output scale "
            f"{self.out_quant.scale}, "
            f"is {factors(self)[2]:.6g}; it must be below 1",
        )


def extra_bits(spec: SquaredDifferenceSpec) -> int:
    """Fraction bits that the inputs get before they are scaled."""
    return 0 if spec.a_quant.dtype == INT16 else EXTRA_BITS


def factors(spec: SquaredDifferenceSpec) -> tuple[float, float, float]:
    """Real factors of the first input, the second input, and the square."""
    a_scale, b_scale = spec.a_quant.scalar_scale(), spec.b_quant.scalar_scale()
    twice_max = 2 * max(a_scale, b_scale)
    # A power of two times a float32 is exact.
    out_factor = twice_max * twice_max / ((1 << 2 * extra_bits(spec)) * spec.out_quant.scalar_scale())
    return a_scale / twice_max, b_scale / twice_max, out_factor


def scaled_inputs(
    spec: SquaredDifferenceSpec, rule: Rule, a: npt.NDArray[Any], b: npt.NDArray[Any]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """What is subtracted, of codes of any shapes."""
    a_factor, b_factor, _ = factors(spec)
    bits = extra_bits(spec)
    a_raised = (a.astype(np.int64) - spec.a_quant.scalar_zero_point()) << bits
    b_raised = (b.astype(np.int64) - spec.b_quant.scalar_zero_point()) << bits
    return (
        numerics.requantize(a_raised, rule.rounding, np.array(a_factor)),
        numerics.requantize(b_raised, rule.rounding, np.array(b_factor)),
    )


def reference(spec: SquaredDifferenceSpec, rule: Rule, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact results of (N, *a_shape) and (N, *b_shape) codes, either N may be 1: (N, *output_shape) codes."""
    _, _, out_factor = factors(spec)
    a, b = spec.aligned(a, b)
    a_scaled, b_scaled = scaled_inputs(spec, rule, a, b)
    difference = a_scaled - b_scaled
    # At most (2 * 255 * 2^6)^2, of int16 2^30: an int32.
    codes = numerics.requantize(difference * difference, rule.rounding, np.array(out_factor))
    return clamp_to(
        codes + spec.out_quant.scalar_zero_point(), spec.out_quant.qmin, spec.out_quant.qmax, spec.out_quant.dtype
    )
