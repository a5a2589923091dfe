"""The integer rules of every runtime: multipliers, requantization, activation ranges, profiles.

This is the twin of kernels_cuda/requantize.cuh: same names, same order.

Notation: ``acc`` is an exact sum that has wrapped to int32, (multiplier, shift) stand for the real factor
multiplier * 2^(shift - 31) with multiplier in [2^30, 2^31); shift > 0 is left, as in TFLite. Requantization ends
before the zero point is added and the activation range applied.

Sources: LiteRT f67457790, tflite/kernels/internal/{common.cc,quantization_util.cc}; gemmlowp 16e8662c,
fixedpoint/fixedpoint.h; LiteRT 921360770 for V6; XNNPACK 75db3c093 and LiteRT's tflite/delegates/xnnpack for what
the profile xnnpack says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gpuq.errors import InputValueError, UnsupportedModel
from gpuq.quant import Quant, round_half_away

Int64Array = npt.NDArray[np.int64]

# (1 << shift) must be an int32 in the runtimes; a larger real multiplier is undefined behaviour there.
MAX_LEFT_SHIFT = 30


class Rounding(Enum):
    """How exact integers become codes. The names are those of docs/numerics.md."""

    V1 = "v1"
    """gemmlowp's double rounding: the high product rounds ties up, then the right shift rounds ties away from zero."""
    V1U = "v1u"
    """Double rounding with both ties up (ruy on x86, NEON epilogues)."""
    V1U_BLOCK8 = "v1u_block8"
    """V1U in whole blocks of 8 output channels, V1 in the rest (DEPTHWISE_CONV_2D and TRANSPOSE_CONV of LiteRT's
    optimized kernels)."""
    V1U_BLOCK16 = "v1u_block16"
    """V1U in whole blocks of 16 channels (MEAN) or elements (QUANTIZE, TRANSPOSE_CONV of uint8), V1 in the rest
    (LiteRT's optimized kernels)."""
    V2 = "v2"
    """One rounding, ties up (TFLITE_SINGLE_ROUNDING, CMSIS-NN's single rounding, ruy on ARM)."""
    V3 = "v3"
    """int64 sums with a 16-bit multiplier, ties up (int16 activations with int64 bias)."""
    V1_EARLY_SHIFT_BLOCK16 = "v1_early_shift_block16"
    """V1, but in whole blocks of 16 elements an input's right shift goes into the extra bits, before the product (ADD
    of int16 in LiteRT's optimized kernels)."""
    V4 = "v4"
    """One float32 product, rounded half to even (XNNPACK)."""
    V4_INT28 = "v4_int28"
    """V4 on sums modulo 2^28 (FULLY_CONNECTED of XNNPACK with int4 weights, which it holds sixteenfold)."""
    V6 = "v6"
    """One float64 product, rounded half away from zero (LiteRT's reference FULLY_CONNECTED since 1.3)."""
    Q20 = "q20"
    """Both codes times a 21-bit multiplier, one sum, one shift, ties up (ADD and SUB of XNNPACK)."""
    Q8 = "q8"
    """The factor in 1/256, one shift, ties up (QUANTIZE of codes and LEAKY_RELU in XNNPACK)."""
    Q11 = "q11"
    """Weights in 1/2048 from float32 positions, one shift, ties up (RESIZE_BILINEAR of XNNPACK)."""
    FIXED_POINT = "fixed_point"
    """gemmlowp fixed-point functions (SOFTMAX, HARD_SWISH, L2_NORMALIZATION; LOGISTIC, TANH in TFLite Micro)."""
    FIXED_POINT_SINGLE = "fixed_point_single"
    """As fixed_point, where a build rounds once: V2 in place of V1 (LOGISTIC, TANH, L2_NORMALIZATION), and SOFTMAX caps
    its factor at 2^30 - 1 and not at 2^31 - 1."""
    TABLE_F32 = "table_f32"
    """A 256-entry table computed in float32 (LOGISTIC, TANH, ELU in LiteRT, SOFTMAX of its optimized kernels)."""
    TABLE_F64 = "table_f64"
    """A 256-entry table computed in float64, ties to even (LOGISTIC of XNNPACK)."""
    TABLE_F32_EVEN = "table_f32_even"
    """As table_f32, but the zero point joins before rounding, ties to even (TANH and ELU of XNNPACK)."""
    TABLE_F32_EXP = "table_f32_exp"
    """As table_f32, with exp(x) - 1 in place of expm1(x) (ELU in TFLite Micro)."""
    V1_BYTES = "v1_bytes"
    """V1 on int8 codes taken for the unsigned bytes that hold them (SUM in LiteRT's reference kernels)."""
    AFFINE_F32 = "affine_f32"
    """float32 quotients and products as quantize.h, dequantize.h, concatenation.h and optimized/reduce.h (SUM of
    LiteRT's optimized kernels) write them."""
    AFFINE_F32_BLOCK8 = "affine_f32_block8"
    """In whole blocks of 8 elements, float32(q * s) + float32(-zp * s); affine_f32 in the rest (DEQUANTIZE of LiteRT's
    optimized kernels)."""
    AFFINE_F32_PIXEL = "affine_f32_pixel"
    """As affine_f32, but a pixel's four weights are multiplied first (RESIZE_BILINEAR of the optimized kernels)."""
    RECIPROCAL_F32 = "reciprocal_f32"
    """float32 products by the reciprocal of the scale, ties to even (QUANTIZE from float, MEAN and SUM of XNNPACK)."""
    RECIPROCAL_F32_BLOCK8 = "reciprocal_f32_block8"
    """reciprocal_f32 in whole blocks of 8 elements, the quotient in float64 and ties away from zero in the rest
    (QUANTIZE from float of LiteRT's optimized kernels)."""
    INTERPOLATED = "interpolated"
    """Tables of int16 with interpolation between their entries (SOFTMAX and LOGISTIC of int16)."""
    INTERPOLATED_F32 = "interpolated_f32"
    """As interpolated, the tables computed in float32 (SOFTMAX of int16 in TFLite Micro)."""
    HYBRID = "hybrid"
    """Codes at run time; float32(sum) * float32(w scale * scale) + bias in float32 (dynamic range in LiteRT)."""
    HYBRID_STEPS = "hybrid_steps"
    """As hybrid, but the sum is multiplied by the weights' scale first (CONV_2D of LiteRT's reference kernels)."""
    HYBRID_BLOCK4 = "hybrid_block4"
    """hybrid_steps in whole blocks of 4 channels, the other scale first in the rest (DEPTHWISE_CONV_2D of LiteRT's
    optimized kernels)."""
    QD8 = "qd8"
    """Codes at run time; float32(sum) * scale, then one fused multiply-add (dynamic range in XNNPACK)."""
    FLOAT32 = "float32"
    """A float32 operator, in the reference kernels' order."""
    FLOAT32_BIAS = "float32_bias"
    """As float32, but sums start from the bias (DEPTHWISE_CONV_2D of LiteRT's optimized kernels)."""
    FLOAT32_FUSED = "float32_fused"
    """As float32_bias, each tap by a fused multiply-add (DEPTHWISE_CONV_2D of XNNPACK)."""
    EXACT = "exact"
    """No scaling: copies, comparisons, clamps, integer means of codes."""
    EXACT_UP = "exact_up"
    """Integer weights as exact, but the last division rounds ties up (RESIZE_BILINEAR of builds that round once)."""


class Product(Enum):
    """The precision in which scales are multiplied and divided."""

    F32 = "float32"
    """The product rounded to float32, the quotient in float64."""
    F64 = "float64"
    """Product and quotient in float64."""
    ALL_F32 = "all_float32"
    """Product and quotient each rounded to float32."""


class Bounds(Enum):
    """How the real bounds of a fused activation become codes."""

    AWAY = "away"
    """zero_point + round(float32(bound / scale)), ties away from zero."""
    EVEN = "even"
    """round(float32(float32(bound / scale) + zero_point)), ties to even (XNNPACK)."""


@dataclass(frozen=True)
class Rule:
    """What a profile says about one operator.

    Attributes:
        rounding: how exact integers become codes.
        product: the precision of factors, where scales multiply.
        bounds: how a fused activation's bounds become codes.
    """

    rounding: Rounding
    product: Product = Product.F64
    bounds: Bounds = Bounds.AWAY


class OperatorSpec(Protocol):
    """What every profile's predicates may look at: the operator's TFLite name and the dtype that it works on.

    A predicate of a row may look at further fields of the Specs of that row's operators.
    """

    @property
    def op(self) -> str: ...

    @property
    def activation_dtype(self) -> np.dtype[Any]: ...


# ---------------------------------------------------------------------------------------------- multipliers


def quantize_multiplier(real: float) -> tuple[int, int]:
    """A real factor as (multiplier, shift): real ~ multiplier * 2^(shift - 31), multiplier in [2^30, 2^31) or 0.

    Factors below 2^-32 flush to (0, 0). Negative factors carry their sign in the multiplier.

    >>> quantize_multiplier(0.75)
    (1610612736, 0)

    Source: QuantizeMultiplier, LiteRT tflite/kernels/internal/quantization_util.cc.
    """
    if not math.isfinite(real):
        raise InputValueError(f"quantize_multiplier: factor {real} must be finite")
    if real == 0.0:
        return 0, 0
    fraction, shift = math.frexp(real)
    # fraction * 2^31 is exact in float64 and its half is too, so adding it before the floor rounds half away.
    multiplier = int(math.copysign(math.floor(abs(fraction) * 2.0**31 + 0.5), fraction))
    if abs(multiplier) == 1 << 31:
        multiplier //= 2
        shift += 1
    if shift < -31:
        return 0, 0
    if shift > MAX_LEFT_SHIFT:
        raise InputValueError(f"quantize_multiplier: factor {real} must be below 2^{MAX_LEFT_SHIFT}")
    return multiplier, shift


def quantize_multipliers(reals: npt.NDArray[np.float64]) -> tuple[Int64Array, Int64Array]:
    """`quantize_multiplier` of each element: (multipliers, shifts), int64 arrays of the same shape."""
    pairs = np.array([quantize_multiplier(float(real)) for real in reals.flat], np.int64).reshape(-1, 2)
    return pairs[:, 0].reshape(reals.shape), pairs[:, 1].reshape(reals.shape)


def real_multipliers(
    x_scale: float, w_scales: npt.NDArray[np.float32], out_scale: float, product: Product
) -> npt.NDArray[np.float64]:
    """x_scale * w_scales / out_scale as float64 values, rounded on the way as the rule says.

    Returns:
        float64 vector, one factor per scale of w.
    """
    if product is Product.F64:
        return np.asarray(np.float64(x_scale) * w_scales.astype(np.float64) / np.float64(out_scale))
    with np.errstate(over="ignore", under="ignore"):
        products = np.float32(x_scale) * w_scales
        if product is Product.ALL_F32:
            return np.asarray(products / np.float32(out_scale), np.float64)
    return np.asarray(products.astype(np.float64) / np.float64(out_scale))


# ------------------------------------------------------------------------------------------- requantization


def wrap_int32(values: npt.NDArray[Any]) -> Int64Array:
    """Integers modulo 2^32 in [-2^31, 2^31), as an int32 accumulator holds them; int64 array."""
    return np.asarray(values).astype(np.int64).astype(np.int32).astype(np.int64)


def saturating_rounding_doubling_high_mul(a: npt.NDArray[Any], b: npt.NDArray[Any] | int) -> Int64Array:
    """round(a * b / 2^31), ties up, for int32 values; only -2^31 * -2^31 saturates (SRDHM)."""
    a64, b64 = np.asarray(a, np.int64), np.asarray(b, np.int64)
    return np.asarray(np.minimum((a64 * b64 + (1 << 30)) >> 31, (1 << 31) - 1))


def rounding_divide_by_pot(values: npt.NDArray[Any], exponent: npt.NDArray[Any] | int) -> Int64Array:
    """round(values / 2^exponent), ties away from zero, for int32 values and exponents 0 to 31 (RDBP)."""
    values64, exponent64 = np.asarray(values, np.int64), np.asarray(exponent, np.int64)
    mask = (np.int64(1) << exponent64) - 1
    threshold = (mask >> 1) + (values64 < 0)
    return np.asarray((values64 >> exponent64) + ((values64 & mask) > threshold))


def requantize_v1(
    acc: npt.NDArray[Any], multiplier: npt.NDArray[Any] | int, shift: npt.NDArray[Any] | int
) -> Int64Array:
    """acc * multiplier * 2^(shift - 31), rounded twice: SRDHM ties up, then RDBP ties away from zero.

    A left shift (shift > 0) comes first and wraps modulo 2^32.

    Args:
        acc: int32 values.
        multiplier, shift: scalars, or arrays that broadcast over acc (per channel: along its last axis).

    Returns:
        int64 array: codes before zero point and clamp.
    """
    shift64 = np.asarray(shift, np.int64)
    left, right = np.maximum(shift64, 0), np.maximum(-shift64, 0)
    shifted = wrap_int32(np.asarray(acc, np.int64) << left)
    return rounding_divide_by_pot(saturating_rounding_doubling_high_mul(shifted, multiplier), right)


def requantize_v1u(
    acc: npt.NDArray[Any], multiplier: npt.NDArray[Any] | int, shift: npt.NDArray[Any] | int
) -> Int64Array:
    """As V1, but the right shift rounds ties up: differs from V1 by one at exact negative ties only.

    Source: ruy 2af88863, ruy/kernel_avx2_fma.cc, kernel_avx512.cc.
    """
    shift64 = np.asarray(shift, np.int64)
    left, right = np.maximum(shift64, 0), np.maximum(-shift64, 0)
    high = saturating_rounding_doubling_high_mul(wrap_int32(np.asarray(acc, np.int64) << left), multiplier)
    half = (np.int64(1) << right) >> 1
    return np.asarray((high + half) >> right)


def requantize_v2(
    acc: npt.NDArray[Any], multiplier: npt.NDArray[Any] | int, shift: npt.NDArray[Any] | int
) -> Int64Array:
    """acc * multiplier * 2^(shift - 31), rounded once, ties up; multiplier >= 0, -31 <= shift <= 30.

    Source: LiteRT tflite/kernels/internal/common.cc (TFLITE_SINGLE_ROUNDING).
    """
    total_shift = 31 - np.asarray(shift, np.int64)
    product = np.asarray(acc, np.int64) * np.asarray(multiplier, np.int64)
    # |product| + half <= 2^62 + 2^61: no overflow.
    return np.asarray((product + (np.int64(1) << (total_shift - 1))) >> total_shift)


def reduced_multiplier(
    multiplier: npt.NDArray[Any] | int, shift: npt.NDArray[Any] | int
) -> tuple[Int64Array, Int64Array]:
    """(the multiplier's upper 16 bits, rounded, at most 0x7FFF; the shift) of rule V3, int64 arrays."""
    multiplier64, shift64 = np.asarray(multiplier, np.int64), np.asarray(shift, np.int64)
    if np.any(shift64 >= 8):
        raise InputValueError("requantize: real factors of int64 sums must be below 2^7")
    return np.where(multiplier64 < 0x7FFF0000, (multiplier64 + (1 << 15)) >> 16, 0x7FFF), shift64


def requantize_v3(
    acc: npt.NDArray[Any], multiplier: npt.NDArray[Any] | int, shift: npt.NDArray[Any] | int
) -> Int64Array:
    """int64 sums, |acc| < 2^47, by the multiplier's upper 16 bits, ties up, wrapped to int32; -31 <= shift < 8.

    Source: LiteRT tflite/kernels/internal/common.cc, the overload for int64.
    """
    reduced, shift64 = reduced_multiplier(multiplier, shift)
    total_shift = 15 - shift64
    rounded = np.asarray(acc, np.int64) * reduced + (np.int64(1) << (total_shift - 1))
    return wrap_int32(rounded >> total_shift)


def requantize_v4(acc: npt.NDArray[Any], real: npt.NDArray[Any] | float) -> Int64Array:
    """float32(acc) * float32(real) in float32, rounded half to even.

    XNNPACK clamps before it rounds; its bounds are integers, so clamping afterwards gives the same.

    Source: XNNPACK 75db3c093, src/qs8-gemm (minmax-fp32).
    """
    scaled = np.asarray(acc).astype(np.float32) * np.asarray(real, np.float32)
    return np.asarray(np.rint(scaled), np.int64)


def requantize_v4_int28(acc: npt.NDArray[Any], real: npt.NDArray[Any] | float) -> Int64Array:
    """V4 on sums modulo 2^28, in [-2^27, 2^27).

    Weights of 4 bits lie in the upper half of their bytes: sums are sixteenfold in an int32, and shifted back.

    Source: XNNPACK 75db3c093, src/qs8-qc4w-gemm, src/reference/packing.cc (xnn_pack_qs8_qc4w_gemm_goi_w).
    """
    return requantize_v4(wrap_int32(np.asarray(acc, np.int64) << 4) >> 4, real)


def requantize_v6(acc: npt.NDArray[Any], real: npt.NDArray[Any] | float) -> Int64Array:
    """acc * real in float64, rounded half away from zero.

    Beyond int32 the C++ conversion is undefined (x86 gives -2^31); here it saturates, as ARM does.
    """
    scaled = round_half_away(np.asarray(acc).astype(np.float64) * np.asarray(real, np.float64))
    return np.asarray(np.clip(scaled, -(2.0**31), 2.0**31 - 1), np.int64)


def sums_wrap(rounding: Rounding, bias_dtype: np.dtype[Any]) -> bool:
    """Whether sums are int32, modulo 2^32: V3 takes int64, V6 what the bias is, the other rules int32."""
    return not (rounding is Rounding.V3 or (rounding is Rounding.V6 and bias_dtype == np.int64))


def q8_multiplier(x_scale: float, out_scale: float, slope: float = 1.0) -> int:
    """float32(x_scale / out_scale) * slope in 1/256, ties to even.

    Source: XNNPACK 75db3c093, src/microparams-init.c (xnn_init_qs8_cvt_scalar_params,
    xnn_init_qs8_lrelu_scalar_params).
    """
    ratio = np.float32(x_scale) / np.float32(out_scale) * np.float32(slope)
    return int(np.rint(np.float32(256) * ratio))


def requantize_q8(acc: npt.NDArray[Any], multiplier: npt.NDArray[Any] | int) -> Int64Array:
    """acc * multiplier / 256, ties up."""
    return np.asarray((np.asarray(acc, np.int64) * np.asarray(multiplier, np.int64) + 128) >> 8)


V1U_BLOCKS: Mapping[Rounding, int] = MappingProxyType({Rounding.V1U_BLOCK8: 8, Rounding.V1U_BLOCK16: 16})
"""The block of each rule that rounds whole blocks by V1U and the rest by V1."""


def uniform(rounding: Rounding, elements: int) -> Rounding:
    """The rule that stands for a rule of blocks where all of so many elements are in one part; else the rule itself.

    >>> uniform(Rounding.V1U_BLOCK8, 16), uniform(Rounding.V1U_BLOCK8, 7), uniform(Rounding.V1U_BLOCK8, 12)
    (<Rounding.V1U: 'v1u'>, <Rounding.V1: 'v1'>, <Rounding.V1U_BLOCK8: 'v1u_block8'>)
    """
    block = V1U_BLOCKS.get(rounding)
    if block is None:
        return rounding
    return Rounding.V1 if elements < block else Rounding.V1U if elements % block == 0 else rounding


def of_channels(rounding: Rounding, channels: int, *, cuts_negative: bool) -> Rounding:
    """A rule that gives the same codes for this many channels, and one for all of them where there is one.

    Args:
        cuts_negative: the clamp cuts off all results below the zero point, where V1 and V1U differ.
    """
    one_rule = uniform(rounding, channels)
    return Rounding.V1 if cuts_negative and (one_rule is Rounding.V1U or one_rule in V1U_BLOCKS) else one_rule


def requantize_blocks(
    acc: npt.NDArray[Any], block: int, multiplier: npt.NDArray[Any] | int, shift: npt.NDArray[Any] | int
) -> Int64Array:
    """V1U where whole blocks of the last axis end, V1 behind: vector code, and the scalar loop after it.

    Source: LiteRT tflite/kernels/internal/optimized/optimized_ops.h (Quantize, Requantize), integer_ops/mean.h.
    """
    whole = np.arange(acc.shape[-1]) < acc.shape[-1] // block * block
    return np.where(whole, requantize_v1u(acc, multiplier, shift), requantize_v1(acc, multiplier, shift))


def requantize(acc: npt.NDArray[Any], rounding: Rounding, reals: npt.NDArray[np.float64]) -> Int64Array:
    """acc times real factors by the named rounding; factors broadcast along the last axis of acc."""
    if rounding in V1U_BLOCKS:
        return requantize_blocks(acc, V1U_BLOCKS[rounding], *quantize_multipliers(reals))
    fixed_point = {
        Rounding.V1: requantize_v1,
        Rounding.V1U: requantize_v1u,
        Rounding.V2: requantize_v2,
        Rounding.V3: requantize_v3,
    }
    floating_point = {
        Rounding.V4: requantize_v4,
        Rounding.V4_INT28: requantize_v4_int28,
        Rounding.V6: requantize_v6,
    }
    if rounding in fixed_point:
        return fixed_point[rounding](acc, *quantize_multipliers(reals))
    if rounding in floating_point:
        return floating_point[rounding](acc, reals)
    raise InputValueError(f"requantize: {rounding.name} is not a rule for accumulators")


# ---------------------------------------------------------------------------------------- activation ranges

ACTIVATION_BOUNDS: Mapping[str | None, tuple[float | None, float | None]] = MappingProxyType(
    {
        None: (None, None),
        "relu": (0.0, None),
        "relu6": (0.0, 6.0),
        "relu_n1_to_1": (-1.0, 1.0),
        "relu_0_to_1": (0.0, 1.0),
    }
)
"""Real bounds of each activation; None is no bound. Files fuse all but "relu_0_to_1", an operator of its own."""


def activation_range(activation: str | None, quant: Quant, bounds: Bounds = Bounds.AWAY) -> tuple[int, int]:
    """The lowest and highest code that an operator with this fused activation may give, within the dtype.

    Sources: CalculateActivationRangeQuantized, LiteRT tflite/kernels/kernel_util.cc; xnn_qs8_quantize, XNNPACK
    src/xnnpack/requantization.h.
    """
    if activation not in ACTIVATION_BOUNDS:
        raise InputValueError(f"activation {activation!r} must be one of {list(ACTIVATION_BOUNDS)}")
    scale, zero_point = np.float32(quant.scalar_scale()), quant.scalar_zero_point()

    def code(bound: float) -> int:
        with np.errstate(over="ignore", divide="ignore"):
            quotient = np.float32(bound) / scale
            if bounds is Bounds.EVEN:
                return int(np.rint(np.clip(quotient + np.float32(zero_point), quant.qmin, quant.qmax)))
        return int(np.clip(float(round_half_away(np.asarray(quotient))) + zero_point, quant.qmin, quant.qmax))

    low, high = ACTIVATION_BOUNDS[activation]
    return (
        quant.qmin if low is None else code(low),
        quant.qmax if high is None else code(high),
    )


# ------------------------------------------------------------------------------------------------- profiles


@dataclass(frozen=True)
class Row:
    """One line of a profile: these operators, where the predicate holds, follow this rule.

    rule None: the runtime does not run them; `why` says what it does.
    """

    ops: frozenset[str]
    when: Callable[[Any], bool]
    rule: Rule | None
    why: str = ""


@dataclass(frozen=True)
class Profile:
    """A named runtime's rules: the first row that matches an operator and its Spec decides."""

    name: str
    reproduces: str
    rows: tuple[Row, ...]


def _row(
    ops: str,
    when: Callable[[Any], bool],
    rounding: Rounding,
    product: Product = Product.F64,
    bounds: Bounds = Bounds.AWAY,
) -> Row:
    return Row(frozenset(ops.split()), when, Rule(rounding, product, bounds))


def _refuse(ops: str, when: Callable[[Any], bool], why: str) -> Row:
    return Row(frozenset(ops.split()), when, None, why)


def _always(spec: OperatorSpec) -> bool:
    return True


def _on_int8(spec: OperatorSpec) -> bool:
    return spec.activation_dtype == np.int8


def _on_uint8(spec: OperatorSpec) -> bool:
    return spec.activation_dtype == np.uint8


def _on_int16(spec: OperatorSpec) -> bool:
    return spec.activation_dtype == np.int16


def _signed(spec: OperatorSpec) -> bool:
    """int8 or int16, all that TFLite Micro takes."""
    return spec.activation_dtype in (np.int8, np.int16)


def _int64_sums(spec: Any) -> bool:
    return bool(spec.bias_dtype == np.int64)


def _power_of_two_scales(spec: Any) -> bool:
    """ADD or SUB of int16 as LSTM cells have it: an option of the file, and all scales powers of two."""
    scales = [quant.scalar_scale() for quant in (spec.a_quant, spec.b_quant, spec.out_quant)]
    logarithms = [math.log2(scale) for scale in scales]
    return bool(spec.pot_scale_int16 and all(abs(one - round(one)) < 1e-3 for one in logarithms))


def _one_shape(spec: Any) -> bool:
    """Nothing is broadcast: the shapes are equal but for leading dimensions of 1."""
    rank = max(len(spec.a_shape), len(spec.b_shape))
    a, b = ((1,) * (rank - len(shape)) + shape for shape in (spec.a_shape, spec.b_shape))
    return bool(a == b)


def _twelfth_power(spec: Any) -> bool:
    """LOGISTIC of int16 whose input scale is 2^-12, within the 0.1 % of the runtimes' check."""
    return bool(abs(math.log2(spec.x_quant.scalar_scale()) + 12) < 1e-3)


def _per_channel(spec: Any) -> bool:
    return bool(spec.w_quant.is_per_channel)


def _from_float(spec: OperatorSpec) -> bool:
    return spec.activation_dtype == np.float32


def _hybrid(spec: Any) -> bool:
    """float32 activations, int8 weights."""
    return _from_float(spec) and hasattr(spec, "w_quant")


def _asymmetric(spec: Any) -> bool:
    return bool(spec.asymmetric)


def _all(*conditions: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda spec: all(holds(spec) for holds in conditions)


def _grouped(spec: Any) -> bool:
    return bool(spec.groups > 1)


def _images_to_pixels(spec: Any) -> bool:
    """MEAN over the rows and columns of images, four dimensions kept: the optimized kernels' special case."""
    return bool(spec.keep_dims and len(spec.x_shape) == 4 and spec.axes == (1, 2))


def _eightfold_channels(spec: Any) -> bool:
    """The image that ResizeBilinear888Uint8 enlarges, in blocks of 8 channels."""
    eightfold = spec.out_h == 8 * spec.in_h and spec.out_w == 8 * spec.in_w
    return bool(spec.half_pixel_centers and eightfold and spec.in_c % 8 == 0)


def _ratio_within(low: float, high: float, *quants: str, inclusive: bool = False) -> Callable[[Any], bool]:
    """Each input's scale over the output's, in float32, lies in [low, high), or [low, high]."""

    def holds(spec: Any) -> bool:
        with np.errstate(over="ignore"):
            ratios = [
                np.float32(getattr(spec, name).scalar_scale()) / np.float32(spec.out_quant.scalar_scale())
                for name in quants
            ]
        return all(low <= ratio < high or (inclusive and ratio == high) for ratio in ratios)

    return holds


def _product_within(low: float, high: float) -> Callable[[Any], bool]:
    """Product of both inputs' scales over the output's, in float32, lies in [low, high)."""

    def holds(spec: Any) -> bool:
        scales = spec.a_quant.scalar_scale(), spec.b_quant.scales, spec.out_quant.scalar_scale()
        return bool(low <= real_multipliers(*scales, Product.ALL_F32)[0] < high)

    return holds


def _xnnpack_weights(spec: Any) -> bool:
    """Weights that XNNPACK takes: scales in float32's normal range, int8 without zero point, uint8 with any.

    Of packed weights those of FULLY_CONNECTED, whole bytes of them in a row, int2 with one scale for each output.
    """
    quant, bits = spec.w_quant, _weight_bits(spec)
    if bits < 8 and (spec.op != "FULLY_CONNECTED" or spec.in_c % (8 // bits)):
        return False
    if bits == 2 and quant.scales.size != spec.out_c:
        return False
    symmetric = quant.dtype == np.uint8 or not quant.zero_points.any()
    return bool(symmetric and (quant.scales >= np.finfo(np.float32).tiny).all())


def _beyond_int16(spec: Any) -> bool:
    """ADD or MUL of bytes whose results may leave int16 (by a margin): whole vectors then wrap, the rest does not."""

    def reach(quant: Quant) -> float:
        zero_point = quant.scalar_zero_point()
        return max(zero_point - quant.qmin, quant.qmax - zero_point) * quant.scalar_scale()

    a, b = reach(spec.a_quant), reach(spec.b_quant)
    return bool((a * b if spec.op == "MUL" else a + b) > 32000 * spec.out_quant.scalar_scale())


def _int4_weights(spec: Any) -> bool:
    return _weight_bits(spec) == 4


def _no_bias(spec: Any) -> bool:
    return not spec.has_bias


def _has_bias(spec: Any) -> bool:
    return bool(spec.has_bias)


def _to_int16(spec: Any) -> bool:
    return bool(spec.out_quant.dtype == np.int16)


def _not_from_float(spec: OperatorSpec) -> bool:
    return spec.activation_dtype != np.float32


def _no_int16(spec: Any) -> bool:
    """XNNPACK takes no int16, neither in nor out."""
    out_quant = getattr(spec, "out_quant", None)
    return spec.activation_dtype != np.int16 and (out_quant is None or out_quant.dtype != np.int16)


def _factor_from_256(spec: Any) -> bool:
    scales = spec.x_quant.scalar_scale(), spec.w_quant.scales, spec.out_quant.scalar_scale()
    return bool((real_multipliers(*scales, Product.ALL_F32) >= 256).any())


def _no_convolution_back(spec: Any) -> bool:
    """A TRANSPOSE_CONV of whose output no convolution with this padding makes the input."""
    window = spec.window
    same = spec.padding == "same"
    made = (
        (out + stride - (1 if same else kernel)) // stride
        for out, kernel, stride in (
            (spec.out_h, window.kernel_h, window.stride_h),
            (spec.out_w, window.kernel_w, window.stride_w),
        )
    )
    return tuple(made) != (spec.in_h, spec.in_w)


def _xnnpack_transposes(spec: Any) -> bool:
    """A TRANSPOSE_CONV that XNNPACK's deconvolution takes."""
    window = spec.window
    covers = window.kernel_h >= window.stride_h and window.kernel_w >= window.stride_w
    return bool(spec.padding == "valid" or covers)


def _xnnpack_slopes(spec: Any) -> bool:
    """A LEAKY_RELU whose factors XNNPACK takes: within what 1/256 in int16 can hold."""
    alpha = np.float32(spec.alpha)
    with np.errstate(over="ignore", under="ignore"):
        positive = np.float32(spec.x_quant.scalar_scale()) / np.float32(spec.out_quant.scalar_scale())
        negative = positive * alpha
    normal = abs(alpha) >= np.finfo(np.float32).tiny
    return bool(normal and 2**-8 <= positive <= 2**7 and -127.99609375 <= negative <= 128 and abs(negative) >= 2**-8)


def _symmetric_right(spec: Any) -> bool:
    return bool(spec.b_quant.scalar_zero_point() == 0)


def _weight_bits(spec: Any) -> int:
    """Bits of a weight in the file; layers with float32 activations have whole bytes alone."""
    return int(getattr(spec, "weight_bits", 8))


def _int2_weights(spec: Any) -> bool:
    return _weight_bits(spec) == 2


def _packed_with_zero_point(spec: Any) -> bool:
    return bool(_weight_bits(spec) < 8 and spec.w_quant.zero_points.any())


def _otherwise(condition: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda spec: not condition(spec)


def _same_dtype(spec: Any) -> bool:
    return bool(spec.activation_dtype == spec.out_quant.dtype)


def _no_stride_beyond_window(spec: Any) -> bool:
    window = spec.window
    return bool(window.stride_h <= window.kernel_h and window.stride_w <= window.kernel_w)


def _on_codes(spec: OperatorSpec) -> bool:
    return spec.activation_dtype in (np.int8, np.uint8)


def _of_kinds(*names: str) -> Callable[[OperatorSpec], bool]:
    """Holds for operators on these dtypes."""
    kinds = [np.dtype(name) for name in names]
    return lambda spec: spec.activation_dtype in kinds


def _unassigned(spec: Any) -> bool:
    return not spec.is_assigned


def _cast_in_micro(spec: OperatorSpec) -> bool:
    """From and to int8, int32, bool: what TFLite Micro's CAST has."""
    kinds = (np.int8, np.int32, np.bool_)
    return spec.activation_dtype in kinds and getattr(spec, "out_dtype", None) in kinds


_COPIES = "RESHAPE SQUEEZE EXPAND_DIMS PAD RESIZE_NEAREST_NEIGHBOR ARG_MAX"
_CODE_MEANS = "AVERAGE_POOL_2D MAX_POOL_2D"

_COMPARISONS = "EQUAL NOT_EQUAL GREATER GREATER_EQUAL LESS LESS_EQUAL"
_CHOICES = "MAXIMUM MINIMUM REDUCE_MAX REDUCE_MIN SELECT SELECT_V2"

_ANY = ("int8", "uint8", "int32", "int64", "float32", "bool")
_LITERT_MOVEMENTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "TRANSPOSE STRIDED_SLICE SLICE GATHER GATHER_ND REVERSE_V2 TILE BROADCAST_TO PADV2 MIRROR_PAD": _ANY,
        "SPACE_TO_BATCH_ND BATCH_TO_SPACE_ND": _ANY,
        "SPACE_TO_DEPTH DEPTH_TO_SPACE SPLIT SPLIT_V PACK": ("int8", "uint8", "int32", "int64", "float32"),
        "UNPACK": ("int8", "uint8", "int32", "float32", "bool"),
    }
)
# What only compares, chooses, converts or moves elements: alike in all of LiteRT's resolvers.
_LITERT_ELEMENTS = (
    _refuse("READ_VARIABLE", _unassigned, "before anything has assigned the variable"),
    _row("READ_VARIABLE ASSIGN_VARIABLE", _of_kinds(*_ANY), Rounding.EXACT),
    _row(_COMPARISONS, _on_codes, Rounding.V1),
    _row(_COMPARISONS, _of_kinds("int32", "int64", "bool"), Rounding.EXACT),
    _row(_CHOICES, _of_kinds("int8", "uint8", "int32", "int64"), Rounding.EXACT),
    _row("NEG", _of_kinds("int8", "int32", "int64"), Rounding.EXACT),
    _row("CAST", _of_kinds("int8", "uint8", "int32", "int64", "bool"), Rounding.EXACT),
    *(_row(op, _of_kinds(*kinds), Rounding.EXACT) for op, kinds in _LITERT_MOVEMENTS.items()),
)
# TFLite Micro fills variables with their zero point, as bytes; zero points of other types than int8 are not measured.
_TFLM_VARIABLES = (
    _row("READ_VARIABLE ASSIGN_VARIABLE", _on_int8, Rounding.EXACT),
    _refuse("READ_VARIABLE", _unassigned, "before anything has assigned the variable"),
    _row("READ_VARIABLE ASSIGN_VARIABLE", _of_kinds("int32", "float32"), Rounding.EXACT),
)
_TFLM_MOVEMENTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "REVERSE_V2 BROADCAST_TO": _ANY,
        "STRIDED_SLICE SLICE": ("int8", "int32", "float32", "bool"),
        "PACK": ("int8", "int32", "int64", "float32"),
        "SPLIT SPLIT_V UNPACK PADV2": ("int8", "int32", "float32"),
        "TRANSPOSE GATHER GATHER_ND MIRROR_PAD": ("int8", "float32"),
        "SPACE_TO_DEPTH DEPTH_TO_SPACE SPACE_TO_BATCH_ND BATCH_TO_SPACE_ND": ("int8", "float32"),
    }
)
"""What kinds of numbers the runtimes move; measured, for the sources do not say all of it."""
# What only compares, chooses, converts or moves elements, but for comparisons of codes: alike in TFLite Micro's builds.
_TFLM_ELEMENTS = (
    _row(_COMPARISONS, _of_kinds("int32", "int64"), Rounding.EXACT),
    _row("EQUAL NOT_EQUAL", _of_kinds("bool"), Rounding.EXACT),
    _row("MAXIMUM MINIMUM", _of_kinds("int8", "int32", "int64"), Rounding.EXACT),
    _row("REDUCE_MAX REDUCE_MIN SELECT_V2", _on_int8, Rounding.EXACT),
    _row("CAST", _cast_in_micro, Rounding.EXACT),
    *(_row(op, _of_kinds(*kinds), Rounding.EXACT) for op, kinds in _TFLM_MOVEMENTS.items()),
    *_TFLM_VARIABLES,
)

# Arithmetic that is alike in LiteRT's reference and optimized kernels, and what both refuse.
_LITERT_ARITHMETIC = (
    _refuse("FULLY_CONNECTED", _packed_with_zero_point, "LiteRT takes no zero point with int4 and int2 weights"),
    _refuse("TRANSPOSE_CONV", _no_convolution_back, "a convolution of the output image does not give the input's size"),
    _row("RELU RELU6 RELU_N1_TO_1 RELU_0_TO_1", _always, Rounding.V1, Product.ALL_F32),
    _row("LEAKY_RELU PRELU ABS RSQRT", _always, Rounding.V1, Product.ALL_F32),
    _row("SQUARED_DIFFERENCE", _always, Rounding.V1),
    _row("HARD_SWISH L2_NORMALIZATION", _always, Rounding.FIXED_POINT),
    _row("LOGISTIC TANH SQRT", _on_codes, Rounding.TABLE_F32),
)

_NO_INT2 = _refuse("FULLY_CONNECTED", _int2_weights, "TFLite Micro has no int2 weights")

_NO_BIAS = "without a bias, XNNPACK leaves it to LiteRT's optimized kernels, which crash"
_FACTOR_FROM_256 = "XNNPACK takes it and fails, for a factor x scale * w scale / out scale is 256 or more"

_POWER_OF_TWO = _refuse(
    "ADD SUB",
    _all(_on_int16, _power_of_two_scales),
    "int16 with pot_scale_int16 and scales that are powers of two has a rule of its own, which is not established",
)

_FLOAT32 = _row(
    "DEPTHWISE_CONV_2D FULLY_CONNECTED AVERAGE_POOL_2D MAX_POOL_2D SOFTMAX RELU RELU6", _from_float, Rounding.FLOAT32
)

# LiteRT's optimized kernels on x86 (in the wheel, NEON code by way of SSE), one thread. int32 sums end in ruy.
_LITERT_OPT = (
    _row("CONV_2D", _all(_hybrid, _grouped), Rounding.HYBRID_STEPS),
    _row("DEPTHWISE_CONV_2D", _hybrid, Rounding.HYBRID_BLOCK4),
    _row("CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED", _hybrid, Rounding.HYBRID),
    _row("DEPTHWISE_CONV_2D", _from_float, Rounding.FLOAT32_BIAS),
    _FLOAT32,
    *_LITERT_ARITHMETIC,
    _row("CONV_2D DEPTHWISE_CONV_2D", _all(_on_int16, _int64_sums), Rounding.V3),
    _row("CONV_2D", _all(_on_int16, _grouped), Rounding.V1),
    _row("CONV_2D", _on_int16, Rounding.V1U),
    _row("FULLY_CONNECTED", _all(_on_int16, _int64_sums, _has_bias), Rounding.V6),
    _row("FULLY_CONNECTED", _all(_on_int16, _per_channel), Rounding.V1U),
    _row("FULLY_CONNECTED", _on_int16, Rounding.V1U, Product.F32),
    _POWER_OF_TWO,
    _row("ADD", _all(_on_int16, _one_shape), Rounding.V1_EARLY_SHIFT_BLOCK16),
    _row("MUL", _on_int16, Rounding.V1, Product.ALL_F32),
    _row("ADD MEAN", _on_int16, Rounding.V1),
    _row("QUANTIZE", _on_int16, Rounding.V1),
    _row("QUANTIZE", _all(_not_from_float, _to_int16), Rounding.V1),
    _refuse("LOGISTIC", _all(_on_int16, _twelfth_power), "its optimized int16 kernel for scales of 2^-12 is not read"),
    _row("SOFTMAX LOGISTIC", _on_int16, Rounding.INTERPOLATED),
    _row("RESIZE_BILINEAR", _on_int16, Rounding.EXACT),
    _row("CONV_2D", _all(_on_int8, _grouped), Rounding.V1),
    _row("CONV_2D", _on_int8, Rounding.V1U),
    _row("CONV_2D", _all(_on_uint8, _grouped), Rounding.V1, Product.F32),
    _row("CONV_2D", _on_uint8, Rounding.V1U, Product.F32),
    _refuse("DEPTHWISE_CONV_2D", _no_bias, _NO_BIAS),
    _row("DEPTHWISE_CONV_2D", _on_int8, Rounding.V1U_BLOCK8),
    _row("DEPTHWISE_CONV_2D", _on_uint8, Rounding.V1, Product.F32),
    _row("FULLY_CONNECTED", _per_channel, Rounding.V1U),
    _row("FULLY_CONNECTED", _always, Rounding.V1U, Product.F32),
    _refuse("ADD MUL", _beyond_int16, "results beyond int16 differ between the vectors of LiteRT's optimized kernels"),
    _row("TRANSPOSE_CONV", _on_int8, Rounding.V1U_BLOCK8),
    _row("TRANSPOSE_CONV", _on_uint8, Rounding.V1U_BLOCK16, Product.F32),
    _row("BATCH_MATMUL", _on_int8, Rounding.V1, Product.F32),
    _row("MUL", _always, Rounding.V1, Product.ALL_F32),
    _row("ADD SUB", _always, Rounding.V1),
    _row("SUM", _always, Rounding.AFFINE_F32),
    _row("ELU", _on_int8, Rounding.TABLE_F32),
    _row("MEAN", _images_to_pixels, Rounding.V1U_BLOCK16),
    _row("MEAN", _always, Rounding.V1),
    _row("QUANTIZE", _from_float, Rounding.RECIPROCAL_F32_BLOCK8),
    _row("QUANTIZE", _always, Rounding.V1U_BLOCK16),
    _row("DEQUANTIZE", _always, Rounding.AFFINE_F32_BLOCK8),
    _row("SOFTMAX", _always, Rounding.TABLE_F32),
    _refuse("RESIZE_BILINEAR", _all(_on_uint8, _eightfold_channels), "its eightfold enlargement of uint8 is not read"),
    _row("RESIZE_BILINEAR", _on_uint8, Rounding.AFFINE_F32_PIXEL),
    _row("RESIZE_BILINEAR", _on_int8, Rounding.EXACT),
    _row("CONCATENATION", _on_uint8, Rounding.AFFINE_F32),
    _row("CONCATENATION", _always, Rounding.EXACT),
    _row(f"{_COPIES} {_CODE_MEANS}", _always, Rounding.EXACT),
    *_LITERT_ELEMENTS,
)

# What XNNPACK takes; the operators behind it stay with the optimized kernels (the checks are those of
# xnnpack_delegate.cc).
_XNNPACK = (
    _row("CONV_2D FULLY_CONNECTED", _hybrid, Rounding.QD8),
    _row("DEPTHWISE_CONV_2D", _hybrid, Rounding.HYBRID_BLOCK4),
    _row("DEPTHWISE_CONV_2D", _from_float, Rounding.FLOAT32_FUSED),
    _FLOAT32,
    *(row for row in _LITERT_ARITHMETIC if row.rule is None),
    _refuse("DEPTHWISE_CONV_2D", _no_bias, _NO_BIAS),
    _refuse(
        "CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED",
        _all(_xnnpack_weights, _factor_from_256),
        _FACTOR_FROM_256,
    ),
    _refuse("TRANSPOSE_CONV", _all(_xnnpack_weights, _xnnpack_transposes, _factor_from_256), _FACTOR_FROM_256),
    _row("FULLY_CONNECTED", _all(_xnnpack_weights, _int4_weights), Rounding.V4_INT28, Product.ALL_F32, Bounds.EVEN),
    _row("CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED", _xnnpack_weights, Rounding.V4, Product.ALL_F32, Bounds.EVEN),
    _row(
        "TRANSPOSE_CONV",
        _all(_xnnpack_weights, _xnnpack_transposes),
        Rounding.V4,
        Product.ALL_F32,
        Bounds.EVEN,
    ),
    _refuse("BATCH_MATMUL", _all(_symmetric_right, _otherwise(_product_within(0, 2**8))), _FACTOR_FROM_256),
    _row("BATCH_MATMUL", _symmetric_right, Rounding.V4, Product.ALL_F32),
    _row("ADD SUB", _ratio_within(2**-10, 2**8, "a_quant", "b_quant"), Rounding.Q20, Product.ALL_F32, Bounds.EVEN),
    _row("MUL", _product_within(2**-16, 2**8), Rounding.V4, Product.ALL_F32, Bounds.EVEN),
    _row("MEAN SUM", _always, Rounding.RECIPROCAL_F32),
    _row("LEAKY_RELU", _xnnpack_slopes, Rounding.Q8),
    _row("QUANTIZE", _from_float, Rounding.RECIPROCAL_F32),
    _row("QUANTIZE", _all(_same_dtype, _ratio_within(2**-8, 2**7, "x_quant", inclusive=True)), Rounding.Q8),
    _row("LOGISTIC", _always, Rounding.TABLE_F64),
    _row("TANH ELU", _always, Rounding.TABLE_F32_EVEN),
    _row("RESIZE_BILINEAR", _always, Rounding.Q11),
    _row("DEQUANTIZE", _always, Rounding.AFFINE_F32),
    _row("MAX_POOL_2D", _no_stride_beyond_window, Rounding.EXACT, bounds=Bounds.EVEN),
)

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        "litert_ref": Profile(
            "litert_ref",
            "LiteRT >= 1.3 with OpResolverType.BUILTIN_REF (measured on 2.3.0)",
            (
                _row("CONV_2D", _all(_hybrid, _asymmetric), Rounding.HYBRID_STEPS),
                _row("CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED", _hybrid, Rounding.HYBRID),
                _FLOAT32,
                *_LITERT_ARITHMETIC,
                _row("CONV_2D DEPTHWISE_CONV_2D", _on_uint8, Rounding.V1, Product.F32),
                _row("CONV_2D DEPTHWISE_CONV_2D", _all(_on_int16, _int64_sums), Rounding.V3),
                _row("CONV_2D DEPTHWISE_CONV_2D", _signed, Rounding.V1),
                _POWER_OF_TWO,
                _row("SOFTMAX LOGISTIC", _on_int16, Rounding.INTERPOLATED),
                _row("FULLY_CONNECTED", _always, Rounding.V6),
                _row("TRANSPOSE_CONV", _on_uint8, Rounding.V1, Product.F32),
                _row("TRANSPOSE_CONV", _on_int8, Rounding.V1),
                _row("BATCH_MATMUL", _on_int8, Rounding.V1, Product.F32),
                _row("MUL", _always, Rounding.V1, Product.ALL_F32),
                _row("ADD SUB MEAN", _always, Rounding.V1),
                _row("SUM", _on_int8, Rounding.V1_BYTES),
                _row("SUM", _on_uint8, Rounding.V1),
                _row("QUANTIZE", _from_float, Rounding.AFFINE_F32),
                _row("QUANTIZE", _always, Rounding.V1),
                _row("DEQUANTIZE", _always, Rounding.AFFINE_F32),
                _row("SOFTMAX", _always, Rounding.FIXED_POINT),
                *_LITERT_ELEMENTS,
                _row("RESIZE_BILINEAR", _on_uint8, Rounding.AFFINE_F32),
                _row("RESIZE_BILINEAR", _always, Rounding.EXACT),
                _row("CONCATENATION", _on_uint8, Rounding.AFFINE_F32),
                _row("CONCATENATION", _always, Rounding.EXACT),
                _row(f"{_COPIES} {_CODE_MEANS}", _always, Rounding.EXACT),
            ),
        ),
        "tflm": Profile(
            "tflm",
            "TFLite Micro's portable kernels (measured on the tflite-micro wheel of 2026-10-23)",
            (
                _NO_INT2,
                _row("CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED", _all(_on_int16, _int64_sums), Rounding.V3),
                _row("CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED", _signed, Rounding.V1),
                _row("ADD SUB MUL MEAN RELU", _signed, Rounding.V1),
                _row("TRANSPOSE_CONV BATCH_MATMUL PRELU SUM SQUARED_DIFFERENCE", _on_int8, Rounding.V1),
                _row("LEAKY_RELU ABS RSQRT", _on_int8, Rounding.V1),
                _row("ELU", _on_int8, Rounding.TABLE_F32_EXP),
                _row("RELU6", _signed, Rounding.EXACT),
                _row("QUANTIZE", _from_float, Rounding.AFFINE_F32),
                _row("QUANTIZE", _always, Rounding.V1),
                _row("DEQUANTIZE", _always, Rounding.AFFINE_F32),
                _row("SOFTMAX LOGISTIC TANH HARD_SWISH L2_NORMALIZATION", _on_int8, Rounding.FIXED_POINT),
                _row("SOFTMAX", _on_int16, Rounding.INTERPOLATED_F32),
                _row("LOGISTIC", _on_int16, Rounding.INTERPOLATED),
                _row(_COMPARISONS, _on_int8, Rounding.V1),
                *_TFLM_ELEMENTS,
                _row("RESIZE_BILINEAR", _on_int8, Rounding.EXACT),
                _row("CONCATENATION", _signed, Rounding.EXACT),
                _row(f"{_COPIES} {_CODE_MEANS}", _signed, Rounding.EXACT),
            ),
        ),
        "litert_opt": Profile(
            "litert_opt",
            "LiteRT's optimized x86 kernels, one thread: OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES "
            "(measured on 2.3.0)",
            _LITERT_OPT,
        ),
        "xnnpack": Profile(
            "xnnpack",
            "LiteRT's default interpreter on x86, one thread: XNNPACK, and the optimized kernels for the rest "
            "(measured on 2.3.0)",
            tuple(replace(row, when=_all(_no_int16, row.when)) for row in _XNNPACK) + _LITERT_OPT,
        ),
        "single": Profile(
            "single",
            "TFLite Micro's portable kernels built with TFLITE_SINGLE_ROUNDING, and CMSIS-NN's with "
            "CMSIS_NN_USE_SINGLE_ROUNDING (read, not measured)",
            (
                _NO_INT2,
                _row("CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED", _all(_on_int16, _int64_sums), Rounding.V3),
                _row("CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED", _signed, Rounding.V2),
                _row("ADD SUB MUL MEAN RELU", _signed, Rounding.V2),
                _row("TRANSPOSE_CONV BATCH_MATMUL PRELU SUM SQUARED_DIFFERENCE", _on_int8, Rounding.V2),
                _row("LEAKY_RELU ABS RSQRT", _on_int8, Rounding.V2),
                _row("ELU", _on_int8, Rounding.TABLE_F32_EXP),
                _row("RELU6", _signed, Rounding.EXACT),
                _row("QUANTIZE", _from_float, Rounding.AFFINE_F32),
                _row("QUANTIZE", _always, Rounding.V2),
                _row("DEQUANTIZE", _always, Rounding.AFFINE_F32),
                _row("SOFTMAX LOGISTIC TANH L2_NORMALIZATION", _on_int8, Rounding.FIXED_POINT_SINGLE),
                _row("HARD_SWISH", _on_int8, Rounding.FIXED_POINT),
                _row(_COMPARISONS, _on_int8, Rounding.V2),
                *_TFLM_ELEMENTS,
                _row("SOFTMAX", _on_int16, Rounding.INTERPOLATED_F32),
                _row("LOGISTIC", _on_int16, Rounding.INTERPOLATED),
                _row("RESIZE_BILINEAR", _on_int8, Rounding.EXACT_UP),
                _row("CONCATENATION", _signed, Rounding.EXACT),
                _row(f"{_COPIES} {_CODE_MEANS}", _signed, Rounding.EXACT),
            ),
        ),
    }
)


def profile(name: str) -> Profile:
    """The profile of this name; InputValueError lists the names there are."""
    if name not in PROFILES:
        raise InputValueError(f"numerics {name!r} must be one of {', '.join(PROFILES)}")
    return PROFILES[name]


def find_row(name: str, spec: OperatorSpec) -> Row | None:
    """The row of this profile that decides on this operator; None where its runtime does not have it."""
    return next((row for row in profile(name).rows if spec.op in row.ops and row.when(spec)), None)


def resolve(name: str, spec: OperatorSpec) -> Rule:
    """The rule that this profile applies to this operator.

    Raises:
        InputValueError: an unknown profile.
        UnsupportedModel: the profile's runtime does not run the operator on this dtype.
    """
    row = find_row(name, spec)
    if row is None:
        raise UnsupportedModel(
            f"{spec.op} on {spec.activation_dtype} is not in numerics {name!r}, which reproduces "
            f"{profile(name).reproduces}"
        )
    if row.rule is None:
        raise UnsupportedModel(f"{spec.op} is not in numerics {name!r} here: {row.why}")
    return row.rule
