"""ADD: both inputs are brought to twice the larger scale with 20 extra bits, added, and brought to the output's.

    v_i = V1((q_i - zp_i) * 2^20, s_i / (2 * max(s_a, s_b)))
    y   = clamp(zp_y + V1(v_a + v_b, 2 * max(s_a, s_b) / (2^20 * s_y)))

Sources: LiteRT tflite/kernels/add.cc, internal/reference/integer_ops/add.h.
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

EXTRA_BITS = 20


@dataclass(frozen=True, kw_only=True)
class AddSpec(BinarySpec):
    """y = a + b. See BinarySpec for the fields."""

    op: ClassVar[str] = "ADD"

    def __post_init__(self) -> None:
        super().__post_init__()
        _, _, out_factor = sum_factors(self)
        self.require(
            out_factor < 1,
            f"output scale {self.out_quant.scale} is more than 2^19 times smaller than the larger input's",
        )


def sum_factors(spec: BinarySpec) -> tuple[float, float, float]:
    """Real factors of the first input, the second input, and the sum."""
    a_scale, b_scale = spec.a_quant.scalar_scale(), spec.b_quant.scalar_scale()
    # Twice a float32 and 2^20 times a float32 are exact, so float64 gives what the runtimes' mixed types give.
    twice_max = 2 * max(a_scale, b_scale)
    return a_scale / twice_max, b_scale / twice_max, twice_max / ((1 << EXTRA_BITS) * spec.out_quant.scalar_scale())


def scaled_sum(spec: BinarySpec, rule: Rule, a: npt.NDArray[Any], b: npt.NDArray[Any], sign: int) -> npt.NDArray[Any]:
    """clamp(a + sign * b) in the output's scale: what ADD and SUB share."""
    a_factor, b_factor, out_factor = sum_factors(spec)
    a, b = spec.aligned(a, b)
    a_raised = (a.astype(np.int64) - spec.a_quant.scalar_zero_point()) << EXTRA_BITS
    b_raised = (b.astype(np.int64) - spec.b_quant.scalar_zero_point()) << EXTRA_BITS
    a_scaled = numerics.requantize(a_raised, rule.rounding, np.array(a_factor))
    b_scaled = numerics.requantize(b_raised, rule.rounding, np.array(b_factor))
    codes = numerics.requantize(a_scaled + sign * b_scaled, rule.rounding, np.array(out_factor))
    act_min, act_max = numerics.activation_range(spec.activation, spec.out_quant)
    return clamp_to(codes + spec.out_quant.scalar_zero_point(), act_min, act_max, spec.out_quant.dtype)


def reference(spec: AddSpec, rule: Rule, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact sum of (N, *a_shape) and (N, *b_shape) codes, either N may be 1: (N, *output_shape) codes."""
    return scaled_sum(spec, rule, a, b, sign=1)
