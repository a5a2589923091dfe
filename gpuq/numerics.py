"""The integer rules of every runtime: multipliers, requantization, activation ranges.

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
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gpuq.errors import InputValueError
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
    V1_SIGNED = "v1_signed"
    """V1 by multipliers that may be negative, whose ties go up (LEAKY_RELU of int16 in LiteRT's optimized kernels)."""
    V2 = "v2"
    """One rounding, ties up (TFLITE_SINGLE_ROUNDING, CMSIS-NN's single rounding, ruy on ARM)."""
    V3 = "v3"
    """int64 sums with a 16-bit multiplier, ties up (int16 activations with int64 bias)."""
    V1_EARLY_SHIFT_BLOCK16 = "v1_early_shift_block16"
    """V1, but in whole blocks of 16 elements of a row an input's right shift goes into the extra bits, before the
    product (ADD of int8 and int16 in LiteRT's optimized kernels)."""
    V1_FLOOR_BLOCK8 = "v1_floor_block8"
    """V1, but in whole blocks of 8 elements of a row an input's right shift truncates (ADD of uint8, and of int8 where
    a row meets one element, in LiteRT's optimized kernels)."""
    POWER_OF_TWO = "power_of_two"
    """Right shifts, ties away from zero (ADD and SUB of int16 with pot_scale_int16 in LiteRT)."""
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
    """gemmlowp fixed-point functions (SOFTMAX, HARD_SWISH, L2_NORMALIZATION; LOGISTIC, TANH in TFLite Micro, and of
    int16 at scales of 2^-12 in LiteRT's optimized kernels)."""
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
    """Tables of int16 with interpolation between their entries (SOFTMAX, LOGISTIC and TANH of int16,
    UNIDIRECTIONAL_SEQUENCE_LSTM of TFLite Micro)."""
    INTERPOLATED_F32 = "interpolated_f32"
    """As interpolated, the tables computed in float32 (SOFTMAX of int16 in TFLite Micro, RSQRT of int16 in LiteRT)."""
    INTERPOLATED_SINGLE = "interpolated_single"
    """As interpolated, where a build rounds once: V2 in place of V1 (UNIDIRECTIONAL_SEQUENCE_LSTM)."""
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
    FLOAT32_BLAS = "float32_blas"
    """A float32 operator whose sums run in whatever order is fast (CONV_2D of LiteRT's optimized kernels, XNNPACK)."""
    FLOAT32_BIAS = "float32_bias"
    """As float32, but sums start from the bias (DEPTHWISE_CONV_2D of LiteRT's optimized kernels)."""
    FLOAT32_FUSED = "float32_fused"
    """As float32_bias, each tap by a fused multiply-add (DEPTHWISE_CONV_2D of XNNPACK)."""
    EXACT = "exact"
    """No scaling: copies, comparisons, clamps, integer means of codes."""
    EXACT_SIZED = "exact_sized"
    """As exact, on boxes that must have a height and a width (TFLite_Detection_PostProcess in TFLite Micro)."""
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
