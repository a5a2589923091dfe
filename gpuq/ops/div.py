"""DIV of codes: a reciprocal of the divisor in fixed point, then the quotient times s_a / (s_b * s_y).

    a = q_a - zp_a, b = q_b - zp_b, both negated where b < 0
    r, n: 1 / b ~ r * 2^-31 * 2^-n          gemmlowp's reciprocal
    h = leading sign bits of a
    y = clamp(zp_y + RDBP(SRDHM(SRDHM(a * 2^h, r), m), n + h - shift))        (m, shift) of the factor, in float32

The runtimes stop with an error at a divisor of real 0. Their last shift is undefined beyond 31 bits and below 0, which
small factors (below 64 of bytes, below 2^14 of int16) and large ones bring some codes to; here the formula goes on.
Source: LiteRT tflite/kernels/div.cc, internal/reference/div.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.errors import InputValueError
from gpuq.numerics import Int64Array, Rule
from gpuq.ops import fixed_point
from gpuq.ops.broadcast import BinaryCodesSpec
from gpuq.ops.spec import INT8, INT16, UINT8, clamp_to
from gpuq.quant import first_index


@dataclass(frozen=True, kw_only=True)
class DivSpec(BinaryCodesSpec):
    """y = a / b. See BinaryCodesSpec for the other fields.

    Args:
        activation: None, "relu", "relu6" or "relu_n1_to_1", fused.
    """

    op: ClassVar[str] = "DIV"
    dtypes: ClassVar[tuple[np.dtype[Any], ...]] = (INT8, UINT8, INT16)

    activation: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        numerics.activation_range(self.activation, self.out_quant)
        numerics.quantize_multiplier(factor(self))


def factor(spec: DivSpec) -> float:
    """s_a / (s_b * s_y), product and quotient in float32."""
    a, b, out = (np.float32(quant.scalar_scale()) for quant in (spec.a_quant, spec.b_quant, spec.out_quant))
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        return float(a / (b * out))


def quotients(spec: DivSpec, rule: Rule, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Codes of arrays that broadcast; a divisor of real 0 gives what one step gives."""
    dividend = a.astype(np.int64) - spec.a_quant.scalar_zero_point()
    divisor = b.astype(np.int64) - spec.b_quant.scalar_zero_point()
    dividend, divisor = np.broadcast_arrays(np.where(divisor < 0, -dividend, dividend), np.abs(divisor))
    inverse, inverse_bits = fixed_point.reciprocal(np.maximum(divisor, 1), 31)
    headroom = _leading_sign_bits(dividend)
    high = numerics.saturating_rounding_doubling_high_mul(dividend << headroom, inverse)
    multiplier, shift = numerics.quantize_multiplier(factor(spec))
    scaled = numerics.saturating_rounding_doubling_high_mul(high, multiplier)
    # Nothing is left of an int32 beyond 33 bits.
    right = np.minimum(inverse_bits + headroom - shift, 40)
    codes = numerics.rounding_divide_by_pot(scaled << np.maximum(-right, 0), np.maximum(right, 0))
    act_min, act_max = numerics.activation_range(spec.activation, spec.out_quant, rule.bounds)
    return clamp_to(codes + spec.out_quant.scalar_zero_point(), act_min, act_max, spec.out_quant.dtype)


def _leading_sign_bits(values: Int64Array) -> Int64Array:
    """Bits behind the sign bit of an int32 that equal it."""
    magnitude = np.where(values < 0, ~values, values)
    return 31 - np.frexp(magnitude.astype(np.float64))[1].astype(np.int64)


def reference(spec: DivSpec, rule: Rule, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact quotients of (N, *a_shape) and (N, *b_shape) codes, either N may be 1: (N, *output_shape) codes.

    Raises:
        InputValueError: a divisor of real 0.
    """
    check_divisor(spec, b)
    return quotients(spec, rule, *spec.aligned(a, b))


def check_divisor(spec: DivSpec, b: npt.NDArray[Any]) -> None:
    """Raises InputValueError where a divisor is real 0."""
    zero = b == spec.b_quant.scalar_zero_point()
    if zero.any():
        raise InputValueError(f"DIV: division by 0 at {first_index(zero)}, as the runtimes refuse it")
