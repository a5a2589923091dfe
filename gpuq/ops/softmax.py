"""SOFTMAX over the last dimension, in fixed point: exp in Q5.26, sums in Q12.19, one reciprocal a row.

LiteRT's optimized kernels (on x86) compute in float32, exp by a table over the difference from the row's maximum:

    y = clamp(zp_y + round(T[d] * (1 / (sum T * s_y)))), T[d] = expf(-s_x * beta * d)

int16 looks exp(x), x from -10 to 0, and 1 / (1 + x) up in tables of 513 entries with interpolation (interpolated);
TFLite Micro computes the tables in float32, LiteRT in float64.

Sources: LiteRT tflite/kernels/activations.cc (SoftmaxPrepare), internal/reference/softmax.h,
internal/quantization_util.cc (PreprocessSoftmaxScaling, CalculateInputRadius), internal/optimized/optimized_ops.h
(Softmax, PopulateSoftmaxLookupTable).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Rounding, Rule
from gpuq.ops import fixed_point
from gpuq.ops.interpolation import interpolated, interpolation_table
from gpuq.ops.spec import INT8, INT16, UINT8, Shape, Spec, clamp_to, run_shape
from gpuq.quant import Quant, round_half_away

DIFF_INTEGER_BITS = 5
SUM_INTEGER_BITS = 12
OUTPUT_SCALE = 1 / 256
OUTPUT_SCALE_INT16 = 1 / 32768


@dataclass(frozen=True, kw_only=True)
class SoftmaxSpec(Spec):
    """Softmax of each row.

    Args:
        depth: elements of a row (the last dimension).
        x_quant: per tensor, int8, uint8 or int16.
        out_quant: scale 1/256 (within 0.1 %), the same dtype, zero point the dtype's minimum; int16: 1/32768 and 0.
        beta: factor on the input.
    """

    op: ClassVar[str] = "SOFTMAX"

    depth: int
    x_quant: Quant
    out_quant: Quant
    beta: float = 1.0

    def __post_init__(self) -> None:
        self.require_positive(depth=self.depth)
        self.require_dtype("input", self.x_quant.dtype, INT8, UINT8, INT16)
        self.require_dtype("output", self.out_quant.dtype, self.x_quant.dtype)
        self.require_per_tensor(x_quant=self.x_quant, out_quant=self.out_quant)
        self.require_symmetric_int16(x_quant=self.x_quant, out_quant=self.out_quant)
        # uint8's output parameters are not checked by the runtimes, and not used.
        if self.out_quant.dtype == INT8:
            self.require(
                self.out_quant.zero_point == -128
                and abs(self.out_quant.scalar_scale() - OUTPUT_SCALE) <= 0.001 * OUTPUT_SCALE,
                f"output must have scale 1/256 and zero point -128, got {self.out_quant.scale} "
                f"and {self.out_quant.zero_point}",
            )
        if self.out_quant.dtype == INT16:
            self.require(
                abs(self.out_quant.scalar_scale() - OUTPUT_SCALE_INT16) <= 0.001 * OUTPUT_SCALE_INT16,
                f"int16 output must have scale 1/32768, got {self.out_quant.scale}",
            )
        self.require(math.isfinite(self.beta) and self.beta > 0, f"beta {self.beta} must be positive and finite")
        self.require(
            self.x_quant.dtype == INT16
            or self.beta * self.x_quant.scalar_scale() * 2.0 ** (31 - DIFF_INTEGER_BITS) > 1,
            f"beta * input scale = {self.beta * self.x_quant.scalar_scale()} must be above 2^-26",
        )

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.x_quant.dtype

    @property
    def output_shape(self) -> Shape:
        return (self.depth,)


def input_scaling(spec: SoftmaxSpec, *, rounds_once: bool = False) -> tuple[int, int, int]:
    """(multiplier, left shift, diff_min): differences below diff_min count as probability 0."""
    largest_real = float((1 << (30 if rounds_once else 31)) - 1)
    real = min(spec.beta * spec.x_quant.scalar_scale() * 2.0 ** (31 - DIFF_INTEGER_BITS), largest_real)
    fraction, left_shift = math.frexp(real)
    multiplier = math.floor(fraction * 2.0**31 + 0.5)
    if multiplier == 1 << 31:
        multiplier, left_shift = multiplier // 2, left_shift + 1
    largest = ((1 << DIFF_INTEGER_BITS) - 1) * 2.0 ** (31 - DIFF_INTEGER_BITS) / 2.0**left_shift
    return multiplier, left_shift, -math.floor(largest)


def reference(spec: SoftmaxSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact probabilities of (..., depth) codes: (rows, depth) codes."""
    rows = run_shape(x, (spec.depth,)).astype(np.int64)
    if rule.rounding is Rounding.TABLE_F32:
        return _by_table(spec, rows)
    if rule.rounding in (Rounding.INTERPOLATED, Rounding.INTERPOLATED_F32):
        return _interpolated(spec, rule, rows)
    multiplier, left_shift, diff_min = input_scaling(spec, rounds_once=rule.rounding is Rounding.FIXED_POINT_SINGLE)
    diff = rows - rows.max(axis=1, keepdims=True)
    counts = diff >= diff_min
    scaled = numerics.saturating_rounding_doubling_high_mul(
        numerics.wrap_int32(np.where(counts, diff, 0) << left_shift), multiplier
    )
    exps = fixed_point.exp_on_negative_values(scaled, DIFF_INTEGER_BITS)
    in_sum = numerics.rounding_divide_by_pot(exps, SUM_INTEGER_BITS)
    total = np.where(counts, in_sum, 0).sum(axis=1, keepdims=True)
    # From 512 on the runtimes abort; here the sum saturates, and every probability rounds to 0 as the formula says.
    total = np.minimum(total, fixed_point.INT32_MAX)
    inverse, bits_over_unit = fixed_point.reciprocal(total, SUM_INTEGER_BITS)
    product = numerics.saturating_rounding_doubling_high_mul(inverse, exps)
    codes = numerics.rounding_divide_by_pot(product, bits_over_unit + 31 - 8) + spec.out_quant.qmin
    out = np.where(counts, codes, spec.out_quant.qmin)
    return clamp_to(out, spec.out_quant.qmin, spec.out_quant.qmax, spec.out_quant.dtype)


def exp_table(spec: SoftmaxSpec) -> npt.NDArray[np.float32]:
    """(256,) exp(-s_x * beta * d) by the difference d from the row's maximum, as glibc's expf gives it."""
    scale = np.float32(-spec.x_quant.scalar_scale()) * np.float32(spec.beta)
    with np.errstate(over="ignore"):
        real = scale * np.arange(256).astype(np.float32)
    # The double exp rounded once; NumPy's float32 exp differs from CPU to CPU.
    return np.array([math.exp(float(value)) if value > -745 else 0.0 for value in real]).astype(np.float32)


def _by_table(spec: SoftmaxSpec, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    exps = exp_table(spec)[rows.max(axis=1, keepdims=True) - rows]
    # One sum after another, each rounded to float32; NumPy's sum() adds in pairs.
    total = np.add.accumulate(exps, axis=1, dtype=np.float32)[:, -1:]
    with np.errstate(over="ignore"):
        scaled = exps * (np.float32(1) / (total * np.float32(spec.out_quant.scalar_scale())))
    if spec.out_quant.dtype == UINT8:
        codes = np.floor(scaled + np.float32(0.5))
    else:
        codes = round_half_away(scaled) + spec.out_quant.scalar_zero_point()
    return clamp_to(codes, spec.out_quant.qmin, spec.out_quant.qmax, spec.out_quant.dtype)


EXP_RANGE = 10.0
"""exp(-10) counts as the smallest probability of int16."""


@lru_cache(maxsize=64)
def int16_tables(spec: SoftmaxSpec, rule: Rule) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """((65536,) exp by the difference from the row's maximum, (513,) table of 1 / (1 + r)) of int16."""
    single = rule.rounding is Rounding.INTERPOLATED_F32
    kind = np.dtype(np.float32 if single else np.float64)
    unit = kind.type(2.0) / kind.type(65535)
    exps = interpolation_table(np.exp, kind.type(EXP_RANGE) / kind.type(65535), 32767, unit)
    inverses = interpolation_table(lambda x: 1 / (1 + x), kind.type(1.0) / kind.type(65535), -32768, unit)
    scale, beta = spec.x_quant.scalar_scale(), float(np.float32(spec.beta))
    # LiteRT multiplies scale and beta in float32, TFLite Micro in float64.
    product = scale * beta if single else float(np.float32(scale) * np.float32(beta))
    factor = np.array(product / (EXP_RANGE / 65535.0))
    positions = numerics.requantize(-np.arange(1 << 16, dtype=np.int64), Rounding.V1, factor) + 32767
    tables = interpolated(np.clip(positions, -32768, 32767), exps), inverses
    for table in tables:
        table.flags.writeable = False
    return tables


def _interpolated(spec: SoftmaxSpec, rule: Rule, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    exps, inverses = int16_tables(spec, rule)
    probabilities = exps[rows.max(axis=1, keepdims=True) - rows]
    total = numerics.wrap_int32(probabilities.sum(axis=1, keepdims=True))
    # frexp gives floor(log2 total) + 1 exactly: int32 values are exact in float64.
    bits = np.frexp(total.astype(np.float64))[1].astype(np.int64)
    recentred = (((total << (31 - bits)) + (1 << 13)) >> 14) - ((1 << 15) + (1 << 16))
    inverse = interpolated(np.clip(recentred, -32768, 32767), inverses)
    right = bits - 1
    return clamp_to((probabilities * inverse + (np.int64(1) << (right - 1))) >> right, 0, 32767, spec.out_quant.dtype)
