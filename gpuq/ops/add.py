"""ADD: both inputs are brought to twice the larger scale with 20 extra bits, added, and brought to the output's.

    v_i = V1((q_i - zp_i) * 2^20, s_i / (2 * max(s_a, s_b)))
    y   = clamp(zp_y + V1(v_a + v_b, 2 * max(s_a, s_b) / (2^20 * s_y)))

int16 has 15 extra bits. LiteRT's optimized kernels treat the right shift of an input's factor otherwise in whole blocks
of a row's elements: int8 and int16 take it off the left shift by the extra bits, before the product, in blocks of 16;
uint8, and int8 in rows that meet one element of the other operand, truncate in blocks of 8. int16 with scales that are
powers of two, where the file asks for it (pot_scale_int16), only shifts, RDBP as in V1:

    y = clamp(RDBP(q_a, log2(s_y / s_a)) + RDBP(q_b, log2(s_y / s_b))), one of the two shifts 0

XNNPACK scales once (Q20), with a shift s from 12 to 30 that gives the larger multiplier 21 bits:

    m_i = round(float32(s_i / s_y) * 2^s), ties to even
    y   = clamp(zp_y + ((q_a - zp_a) * m_a + (q_b - zp_b) * m_b + 2^(s-1)) >> s)

Sources: LiteRT tflite/kernels/add.cc, internal/reference/integer_ops/add.h, internal/optimized/integer_ops/add.h;
XNNPACK src/microparams-init.c (xnn_init_qs8_add_minmax_scalar_params), src/xnnpack/requantization.h
(xnn_qs8_quantize_add).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Rounding, Rule
from gpuq.ops.broadcast import BinarySpec, BroadcastSpec
from gpuq.ops.spec import INT16, clamp_to

EXTRA_BITS = 20
EXTRA_BITS_INT16 = 15


@dataclass(frozen=True, kw_only=True)
class AddSpec(BinarySpec):
    """y = a + b. See BinarySpec for the fields."""

    op: ClassVar[str] = "ADD"

    def __post_init__(self) -> None:
        super().__post_init__()
        _, _, out_factor = sum_factors(self)
        self.require(
            out_factor < 1,
            f"output scale {self.out_quant.scale} is more than 2^{extra_bits(self) - 1} times smaller than the larger "
            "input's",
        )


SUM_BLOCKS: Mapping[Rounding, int] = MappingProxyType(
    {Rounding.V1_EARLY_SHIFT_BLOCK16: 16, Rounding.V1_FLOOR_BLOCK8: 8}
)
"""Elements of a whole block of each rule that treats inputs otherwise there; the rest of a row goes by V1."""


def in_blocks(spec: BroadcastSpec, rounding: Rounding) -> npt.NDArray[np.bool_]:
    """(elements of a run,) which of them lie in whole blocks of their row; all of them under other rules."""
    block = SUM_BLOCKS.get(rounding, 1)
    row, _ = spec.row if block > 1 else (1, False)
    return np.arange(math.prod(spec.output_shape)) % max(row, 1) < row // block * block


def one_rule(spec: BroadcastSpec, rounding: Rounding) -> Rounding | None:
    """The rule that all elements go by: this one where all lie in whole blocks, V1 where none does; else None."""
    whole = in_blocks(spec, rounding)
    return rounding if whole.all() else None if whole.any() else Rounding.V1


def extra_bits(spec: BinarySpec) -> int:
    """Fraction bits that the inputs get before they are scaled."""
    return EXTRA_BITS_INT16 if spec.a_quant.dtype == INT16 else EXTRA_BITS


def sum_factors(spec: BinarySpec, rounding: Rounding | None = None) -> tuple[float, float, float]:
    """Real factors of the first input, the second input, and the sum, by rules that shift after a product or before."""
    a_scale, b_scale = spec.a_quant.scalar_scale(), spec.b_quant.scalar_scale()
    if rounding is Rounding.POWER_OF_TWO:
        a_shift, b_shift = power_of_two_shifts(spec)
        return 2.0**-a_shift, 2.0**-b_shift, 1.0
    # Twice a float32 and 2^20 times a float32 are exact, so float64 gives what the runtimes' mixed types give.
    twice_max = 2 * max(a_scale, b_scale)
    return (
        a_scale / twice_max,
        b_scale / twice_max,
        twice_max / ((1 << extra_bits(spec)) * spec.out_quant.scalar_scale()),
    )


def power_of_two_shifts(spec: BinarySpec) -> tuple[int, int]:
    """Right shifts of the first input and the second under rule power_of_two."""
    a, b, out = (round(math.log2(quant.scalar_scale())) for quant in (spec.a_quant, spec.b_quant, spec.out_quant))
    return out - a, out - b


def q20_multipliers(spec: BinarySpec) -> tuple[int, int, int]:
    """(multiplier of the first input, of the second, shift) of rule Q20; the scales' ratios must be in [2^-10, 2^8)."""
    a_ratio, b_ratio = (
        np.float32(quant.scalar_scale()) / np.float32(spec.out_quant.scalar_scale())
        for quant in (spec.a_quant, spec.b_quant)
    )
    shift = 21 - math.frexp(max(a_ratio, b_ratio))[1]
    # Powers of two scale exactly; round() takes ties to even.
    return round(math.ldexp(a_ratio, shift)), round(math.ldexp(b_ratio, shift)), shift


def scaled_sum(spec: BinarySpec, rule: Rule, a: npt.NDArray[Any], b: npt.NDArray[Any], sign: int) -> npt.NDArray[Any]:
    """clamp(a + sign * b) in the output's scale: what ADD and SUB share."""
    a, b = spec.aligned(a, b)
    a_centred = a.astype(np.int64) - spec.a_quant.scalar_zero_point()
    b_centred = b.astype(np.int64) - spec.b_quant.scalar_zero_point()
    if rule.rounding is Rounding.Q20:
        a_multiplier, b_multiplier, shift = q20_multipliers(spec)
        # Below 2 * 255 * 2^21 + 2^29: the runtime's int32 does not overflow.
        codes = (a_centred * a_multiplier + sign * b_centred * b_multiplier + (1 << (shift - 1))) >> shift
    else:
        a_factor, b_factor, out_factor = sum_factors(spec, rule.rounding)
        rounding = of_sums(rule.rounding)
        total = scaled_input(spec, rule.rounding, a_centred, a_factor)
        total = total + sign * scaled_input(spec, rule.rounding, b_centred, b_factor)
        if rule.rounding in SUM_BLOCKS:
            rest = scaled_input(spec, Rounding.V1, a_centred, a_factor)
            rest = rest + sign * scaled_input(spec, Rounding.V1, b_centred, b_factor)
            total = np.where(in_blocks(spec, rule.rounding).reshape(total.shape[1:]), total, rest)
        codes = numerics.requantize(total, rounding, np.array(out_factor))
    act_min, act_max = numerics.activation_range(spec.activation, spec.out_quant, rule.bounds)
    return clamp_to(codes + spec.out_quant.scalar_zero_point(), act_min, act_max, spec.out_quant.dtype)


def of_sums(rounding: Rounding) -> Rounding:
    """How the sum of both inputs becomes a code, where a rule says more of the inputs themselves."""
    return Rounding.V1 if rounding in (*SUM_BLOCKS, Rounding.POWER_OF_TWO) else rounding


def scaled_input(
    spec: BinarySpec, rounding: Rounding, centred: npt.NDArray[np.int64], factor: float
) -> npt.NDArray[np.int64]:
    """An input times its factor and 2^(extra bits).

    With an early shift the factor's right shift shortens the left one; what it shifts beyond, it truncates, as the
    right shift of the other rule of blocks does. Powers of two only shift right, and there are no extra bits.
    """
    if rounding is Rounding.POWER_OF_TWO:
        return numerics.rounding_divide_by_pot(centred, -round(math.log2(factor)))
    if rounding not in SUM_BLOCKS:
        return numerics.requantize(centred << extra_bits(spec), rounding, np.array(factor))
    multiplier, shift = numerics.quantize_multiplier(factor)
    if rounding is Rounding.V1_FLOOR_BLOCK8:
        return numerics.saturating_rounding_doubling_high_mul(centred << extra_bits(spec), multiplier) >> -shift
    left = extra_bits(spec) + shift
    shifted = centred << left if left >= 0 else centred >> -left
    return numerics.saturating_rounding_doubling_high_mul(shifted, multiplier)


def reference(spec: AddSpec, rule: Rule, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact sum of (N, *a_shape) and (N, *b_shape) codes, either N may be 1: (N, *output_shape) codes."""
    return scaled_sum(spec, rule, a, b, sign=1)
