"""What each runtime does: profiles, tables of rules that say which one every operator follows where.

A profile is read from the top: the first row whose operators and predicate fit decides. Adding a profile touches this
file and, where it rounds as no other does, one rule of numerics.py.

Sources: docs/numerics.md, operator by operator; LiteRT's tflite/delegates/xnnpack for what the profile xnnpack takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from gpuq.errors import InputValueError, UnsupportedModel
from gpuq.numerics import Bounds, OperatorSpec, Product, Rounding, Rule, real_multipliers
from gpuq.quant import Quant


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
    return bool(spec.pot_scale_int16 and all(abs(one - round(one)) < 1e-3 for one in _log2_scales(spec)))


def _log2_scales(spec: Any) -> list[float]:
    return [math.log2(quant.scalar_scale()) for quant in (spec.a_quant, spec.b_quant, spec.out_quant)]


def _one_right_shift(spec: Any) -> bool:
    """One input has the output's scale, the other one that is not larger."""
    a, b, out = (round(one) for one in _log2_scales(spec))
    return max(a, b) == out and min(a, b) >= out - 15


def _in_rows(spec: Any) -> bool:
    """LiteRT's optimized kernels compute several elements in one loop."""
    return bool(spec.row[0] > 1)


def _by_one_element(spec: Any) -> bool:
    """In their loops one operand is a single element."""
    return bool(spec.row[1])


def _one_shape(spec: Any) -> bool:
    """Nothing is broadcast: the shapes are equal but for leading dimensions of 1."""
    rank = max(len(spec.a_shape), len(spec.b_shape))
    a, b = ((1,) * (rank - len(shape)) + shape for shape in (spec.a_shape, spec.b_shape))
    return bool(a == b)


def _twelfth_power(spec: Any) -> bool:
    """LOGISTIC or TANH of int16 whose input scale is 2^-12, within the 0.1 % of the runtimes' check."""
    return bool(abs(math.log2(spec.x_quant.scalar_scale()) + 12) < 1e-3)


def _eleventh_power(spec: Any) -> bool:
    """The same of 2^-11."""
    return bool(abs(math.log2(spec.x_quant.scalar_scale()) + 11) < 1e-3)


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


def _no_input_gate(spec: Any) -> bool:
    return not spec.has_input_gate


def _no_tanh(spec: Any) -> bool:
    return not spec.fuses_tanh


def _with_extras(spec: Any) -> bool:
    """An LSTM with peepholes, a projection or layer normalization."""
    return bool(spec.has_peepholes or spec.has_projection or spec.has_norms)


def _no_bias(spec: Any) -> bool:
    return not spec.has_bias


def _detects_codes(spec: Any) -> bool:
    return spec.box_quant is not None or spec.score_quant is not None


def _labels_of_one_box(spec: Any) -> bool:
    return bool(not spec.use_regular_nms and spec.max_classes_per_detection > 1)


def _int8_state(spec: Any) -> bool:
    return bool(spec.state_quant.dtype == np.int8)


def _no_relu(spec: Any) -> bool:
    return not spec.has_relu


def _has_bias(spec: Any) -> bool:
    return bool(spec.has_bias)


def _to_int16(spec: Any) -> bool:
    return bool(spec.out_quant.dtype == np.int16)


def _int16_to_uint8(spec: Any) -> bool:
    return _on_int16(spec) and bool(spec.out_quant.dtype == np.uint8)


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


def _second_of_int8(spec: Any) -> bool:
    return bool(spec.b_quant.dtype == np.int8)


def _with_quantization(spec: Any) -> bool:
    return spec.a_quant is not None


def _scale_from_1(spec: Any) -> bool:
    """A comparison of codes one of whose scales is 1 or more."""
    return _with_quantization(spec) and max(spec.a_quant.scalar_scale(), spec.b_quant.scalar_scale()) >= 1


def _weight_bits(spec: Any) -> int:
    """Bits of a weight in the file; layers with float32 activations have whole bytes alone."""
    return int(getattr(spec, "weight_bits", 8))


def _int2_weights(spec: Any) -> bool:
    return _weight_bits(spec) == 2


def _packed_weights(spec: Any) -> bool:
    return _weight_bits(spec) < 8


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


def _other_indices(spec: Any) -> bool:
    return bool(spec.indices_dtype != np.int32)


def _cast_in_micro(spec: OperatorSpec) -> bool:
    """From and to int8, int16, int32, bool: what TFLite Micro's CAST has."""
    kinds = (np.int8, np.int16, np.int32, np.bool_)
    return spec.activation_dtype in kinds and getattr(spec, "out_dtype", None) in kinds


_COPIES = "RESHAPE SQUEEZE EXPAND_DIMS PAD RESIZE_NEAREST_NEIGHBOR ARG_MAX"
_CODE_MEANS = "AVERAGE_POOL_2D MAX_POOL_2D"

_COMPARISONS = "EQUAL NOT_EQUAL GREATER GREATER_EQUAL LESS LESS_EQUAL"
_CHOICES = "MAXIMUM MINIMUM REDUCE_MAX REDUCE_MIN SELECT SELECT_V2"

_ANY = ("int8", "uint8", "int16", "int32", "int64", "float32", "bool")
_LITERT_MOVEMENTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "TRANSPOSE STRIDED_SLICE SLICE GATHER GATHER_ND REVERSE_V2 TILE BROADCAST_TO PADV2 MIRROR_PAD": _ANY,
        "SPACE_TO_BATCH_ND BATCH_TO_SPACE_ND": _ANY,
        "SPACE_TO_DEPTH DEPTH_TO_SPACE": ("int8", "uint8", "int32", "int64", "float32"),
        "SPLIT SPLIT_V PACK": ("int8", "uint8", "int16", "int32", "int64", "float32"),
        "UNPACK": ("int8", "uint8", "int16", "int32", "float32", "bool"),
    }
)
# What only compares, chooses, converts or moves elements: alike in all of LiteRT's resolvers.
_LITERT_ELEMENTS = (
    _refuse("READ_VARIABLE", _unassigned, "before anything has assigned the variable"),
    _row("READ_VARIABLE ASSIGN_VARIABLE", _of_kinds(*_ANY), Rounding.EXACT),
    _row(_COMPARISONS, _on_codes, Rounding.V1),
    _refuse(
        "EQUAL NOT_EQUAL",
        _all(_on_int16, _scale_from_1),
        "of int16 scales must be below 1, beyond which LiteRT shifts by negative counts",
    ),
    _row("EQUAL NOT_EQUAL", _all(_on_int16, _with_quantization), Rounding.V1),
    _refuse("NOT_EQUAL", _on_int16, "of int16 without quantization parameters, LiteRT's kernel writes nothing"),
    _row(_COMPARISONS, _of_kinds("int16", "int32", "int64", "float32", "bool"), Rounding.EXACT),
    _row(_CHOICES, _of_kinds("int8", "uint8", "int16", "int32", "int64", "float32"), Rounding.EXACT),
    _row("NEG", _of_kinds("int8", "int16", "int32", "int64", "float32"), Rounding.EXACT),
    _row("CAST", _of_kinds("int8", "uint8", "int16", "int32", "int64", "bool"), Rounding.EXACT),
    *(_row(op, _of_kinds(*kinds), Rounding.EXACT) for op, kinds in _LITERT_MOVEMENTS.items()),
    _row("TFLite_Detection_PostProcess", _always, Rounding.EXACT),
    _refuse("SVDF", _int8_state, "LiteRT reads int8 states and time weights as int16"),
    _refuse("SVDF", _no_relu, "LiteRT takes no fused activation but RELU"),
    _row("SVDF", _on_int8, Rounding.V1, Product.ALL_F32),
    _row("UNIDIRECTIONAL_SEQUENCE_LSTM", _on_int8, Rounding.V1, Product.ALL_F32),
)
# TFLite Micro fills variables with their zero point, as bytes; zero points of other types than int8 are not measured.
_TFLM_VARIABLES = (
    _row("READ_VARIABLE ASSIGN_VARIABLE", _on_int8, Rounding.EXACT),
    _refuse("READ_VARIABLE", _unassigned, "before anything has assigned the variable"),
    _row("READ_VARIABLE ASSIGN_VARIABLE", _of_kinds("int16", "int32", "float32"), Rounding.EXACT),
)
_TFLM_MOVEMENTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "REVERSE_V2 BROADCAST_TO": _ANY,
        "STRIDED_SLICE SLICE": ("int8", "int16", "int32", "float32", "bool"),
        "PACK": ("int8", "int16", "int32", "int64", "float32"),
        "SPLIT SPLIT_V UNPACK PADV2": ("int8", "int16", "int32", "float32"),
        "TRANSPOSE": ("int8", "int16", "float32"),
        "GATHER GATHER_ND MIRROR_PAD": ("int8", "float32"),
        "SPACE_TO_DEPTH DEPTH_TO_SPACE SPACE_TO_BATCH_ND BATCH_TO_SPACE_ND": ("int8", "float32"),
    }
)
"""What kinds of numbers the runtimes move; measured, for the sources do not say all of it."""
# What only compares, chooses, converts or moves elements, but for comparisons of codes: alike in TFLite Micro's builds.
_TFLM_ELEMENTS = (
    _row(_COMPARISONS, _of_kinds("int32", "int64"), Rounding.EXACT),
    _row("EQUAL NOT_EQUAL", _of_kinds("bool"), Rounding.EXACT),
    _row("MAXIMUM MINIMUM", _of_kinds("int8", "int16", "int32", "int64"), Rounding.EXACT),
    _row("SELECT_V2", _of_kinds("int8", "int16"), Rounding.EXACT),
    _row("REDUCE_MAX REDUCE_MIN", _on_int8, Rounding.EXACT),
    _row("CAST", _cast_in_micro, Rounding.EXACT),
    _refuse("TFLite_Detection_PostProcess", _detects_codes, "TFLite Micro takes float32 alone"),
    _refuse("TFLite_Detection_PostProcess", _labels_of_one_box, "TFLite Micro misplaces a box's further classes"),
    _row("TFLite_Detection_PostProcess", _always, Rounding.EXACT_SIZED),
    _refuse("GATHER GATHER_ND", _other_indices, "TFLite Micro has int32 indices alone"),
    *(_row(op, _of_kinds(*kinds), Rounding.EXACT) for op, kinds in _TFLM_MOVEMENTS.items()),
    *_TFLM_VARIABLES,
)

_TFLM_REFUSED_LSTM = (
    _refuse("UNIDIRECTIONAL_SEQUENCE_LSTM", _all(_on_int8, _no_input_gate), "without an input gate (CIFG)"),
    _refuse(
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        _all(_on_int8, _no_tanh),
        "with a fused activation other than TANH, which its checks forbid",
    ),
    _refuse(
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        _all(_on_int8, _with_extras),
        "with peepholes, a projection or layer normalization",
    ),
)

# Arithmetic that is alike in LiteRT's reference and optimized kernels, and what both refuse.
_LITERT_ARITHMETIC = (
    _refuse("QUANTIZE", _int16_to_uint8, "LiteRT does not requantize int16 codes to uint8"),
    _refuse("FULLY_CONNECTED", _packed_with_zero_point, "LiteRT takes no zero point with int4 and int2 weights"),
    _refuse(
        "DEPTHWISE_CONV_2D",
        _all(_on_int16, _packed_weights),
        "LiteRT takes int4 weights beside int16 for bytes, and reads beyond their end",
    ),
    _refuse("TRANSPOSE_CONV", _no_convolution_back, "a convolution of the output image does not give the input's size"),
    _row("RELU RELU6 RELU_N1_TO_1 RELU_0_TO_1", _always, Rounding.V1, Product.ALL_F32),
    _row("DIV", _of_kinds("int8", "uint8", "int16"), Rounding.V1, Product.ALL_F32),
    _row("RSQRT", _on_int16, Rounding.INTERPOLATED_F32),
    _row("LEAKY_RELU PRELU ABS RSQRT", _always, Rounding.V1, Product.ALL_F32),
    _row("SQUARED_DIFFERENCE", _on_int8, Rounding.V1),
    _row("HARD_SWISH L2_NORMALIZATION", _always, Rounding.FIXED_POINT),
    _row("LOGISTIC TANH", _on_codes, Rounding.TABLE_F32),
    _row("SQRT", _always, Rounding.TABLE_F32),
)

_MICRO_WEIGHTS = (
    _refuse("FULLY_CONNECTED", _int2_weights, "TFLite Micro has no int2 weights"),
    _refuse(
        "CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED",
        _all(_on_int16, _packed_weights),
        "TFLite Micro has no int4 weights beside int16",
    ),
)

_MICRO_MATRICES = _refuse(
    "BATCH_MATMUL", _all(_on_int16, _second_of_int8), "TFLite Micro has no int16 matrix times int8 matrix"
)

_NO_BIAS = "without a bias, XNNPACK leaves it to LiteRT's optimized kernels, which crash"
_FACTOR_FROM_256 = "XNNPACK takes it and fails, for a factor x scale * w scale / out scale is 256 or more"

_POWER_OF_TWO = (
    _refuse(
        "ADD SUB",
        _all(_on_int16, _power_of_two_scales, _otherwise(_one_right_shift)),
        "with pot_scale_int16 and powers of two as scales, one input's must be the output's, the other not larger",
    ),
    _refuse(
        "ADD",
        _all(_on_int16, _power_of_two_scales, _otherwise(_one_shape)),
        "with pot_scale_int16 and powers of two as scales, LiteRT does not broadcast, but reads foreign memory",
    ),
    _row("ADD SUB", _all(_on_int16, _power_of_two_scales), Rounding.POWER_OF_TWO),
)

_FLOAT32 = _row(
    "CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED TRANSPOSE_CONV BATCH_MATMUL AVERAGE_POOL_2D MAX_POOL_2D MEAN SUM "
    "SOFTMAX LOGISTIC TANH RELU RELU6 RELU_0_TO_1 RELU_N1_TO_1 HARD_SWISH LEAKY_RELU PRELU ABS SQRT RSQRT "
    "ADD SUB MUL DIV FLOOR_DIV SQUARED_DIFFERENCE L2_NORMALIZATION RESIZE_BILINEAR UNIDIRECTIONAL_SEQUENCE_LSTM",
    _from_float,
    Rounding.FLOAT32,
)
_PLAIN = (
    _row("ADD SUB MUL", _of_kinds("int32", "int64"), Rounding.EXACT),
    _row("DIV FLOOR_DIV SQUARED_DIFFERENCE", _of_kinds("int32"), Rounding.EXACT),
    _row("FLOOR_DIV", _of_kinds("int8", "int16"), Rounding.EXACT),
    _refuse("SQUARED_DIFFERENCE", _of_kinds("int64"), "LiteRT has no kernel for int64"),
)

# LiteRT's optimized kernels on x86 (in the wheel, NEON code by way of SSE), one thread. int32 sums end in ruy.
_LITERT_OPT = (
    _row("CONV_2D", _all(_hybrid, _grouped), Rounding.HYBRID_STEPS),
    _row("DEPTHWISE_CONV_2D", _hybrid, Rounding.HYBRID_BLOCK4),
    _row("CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED", _hybrid, Rounding.HYBRID),
    _row("CONV_2D BATCH_MATMUL", _from_float, Rounding.FLOAT32_BLAS),
    _row("ELU", _from_float, Rounding.FLOAT32),
    _row("DEPTHWISE_CONV_2D", _from_float, Rounding.FLOAT32_BIAS),
    _FLOAT32,
    *_PLAIN,
    _row("LEAKY_RELU", _on_int16, Rounding.V1_SIGNED, Product.ALL_F32),
    *_LITERT_ARITHMETIC,
    _row("CONV_2D DEPTHWISE_CONV_2D TRANSPOSE_CONV", _all(_on_int16, _int64_sums), Rounding.V3),
    _row("CONV_2D", _all(_on_int16, _grouped), Rounding.V1),
    _row("CONV_2D", _on_int16, Rounding.V1U),
    _row("FULLY_CONNECTED", _all(_on_int16, _int64_sums, _has_bias), Rounding.V6),
    _row("FULLY_CONNECTED", _all(_on_int16, _per_channel), Rounding.V1U),
    _row("FULLY_CONNECTED", _on_int16, Rounding.V1U, Product.F32),
    *_POWER_OF_TWO,
    _row("ADD", _all(_on_int16, _one_shape), Rounding.V1_EARLY_SHIFT_BLOCK16),
    _row("MUL", _on_int16, Rounding.V1, Product.ALL_F32),
    _row("ADD MEAN", _on_int16, Rounding.V1),
    _row("QUANTIZE", _on_int16, Rounding.V1),
    _row("QUANTIZE", _all(_not_from_float, _to_int16), Rounding.V1),
    _row("LOGISTIC TANH", _all(_on_int16, _twelfth_power), Rounding.FIXED_POINT),
    _row("TANH", _all(_on_int16, _eleventh_power), Rounding.FIXED_POINT),
    _row("SOFTMAX LOGISTIC TANH", _on_int16, Rounding.INTERPOLATED),
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
    _row("BATCH_MATMUL", _on_int16, Rounding.V3, Product.F32),
    _row("BATCH_MATMUL", _on_int8, Rounding.V1, Product.F32),
    _row("MUL", _always, Rounding.V1, Product.ALL_F32),
    _row("ADD", _all(_on_int8, _in_rows, _otherwise(_by_one_element)), Rounding.V1_EARLY_SHIFT_BLOCK16),
    _row("ADD", _in_rows, Rounding.V1_FLOOR_BLOCK8),
    _row("ADD SUB", _always, Rounding.V1),
    _row("SUM", _always, Rounding.AFFINE_F32),
    _row("ELU", _on_int8, Rounding.TABLE_F32),
    _row("MEAN", _images_to_pixels, Rounding.V1U_BLOCK16),
    _row("MEAN", _always, Rounding.V1),
    _row("QUANTIZE", _from_float, Rounding.RECIPROCAL_F32_BLOCK8),
    _row("QUANTIZE", _always, Rounding.V1U_BLOCK16),
    _row("DEQUANTIZE", _always, Rounding.AFFINE_F32_BLOCK8),
    _row("SOFTMAX", _always, Rounding.TABLE_F32),
    _row("RESIZE_BILINEAR", _all(_on_uint8, _eightfold_channels), Rounding.Q11),
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
    _row("CONV_2D BATCH_MATMUL", _from_float, Rounding.FLOAT32_BLAS),
    _row("ELU", _from_float, Rounding.FLOAT32),
    _row("DEPTHWISE_CONV_2D", _from_float, Rounding.FLOAT32_FUSED),
    _FLOAT32,
    *_PLAIN,
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
                *_PLAIN,
                *_LITERT_ARITHMETIC,
                _row("CONV_2D DEPTHWISE_CONV_2D", _on_uint8, Rounding.V1, Product.F32),
                _row("CONV_2D DEPTHWISE_CONV_2D TRANSPOSE_CONV", _all(_on_int16, _int64_sums), Rounding.V3),
                _row("CONV_2D DEPTHWISE_CONV_2D", _signed, Rounding.V1),
                *_POWER_OF_TWO,
                _row("SOFTMAX LOGISTIC TANH", _on_int16, Rounding.INTERPOLATED),
                _row("FULLY_CONNECTED", _always, Rounding.V6),
                _row("TRANSPOSE_CONV", _on_uint8, Rounding.V1, Product.F32),
                _row("TRANSPOSE_CONV", _on_int8, Rounding.V1),
                _row("BATCH_MATMUL", _on_int16, Rounding.V3, Product.F32),
                _row("BATCH_MATMUL", _on_int8, Rounding.V1, Product.F32),
                _row("MUL", _always, Rounding.V1, Product.ALL_F32),
                _row("ADD SUB MEAN", _always, Rounding.V1),
                _row("SUM", _on_int8, Rounding.V1_BYTES),
                _row("SUM", _on_uint8, Rounding.V1),
                _refuse("SUM", _on_int16, "LiteRT's reference kernel reads int16 as bytes and writes half the output"),
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
                *_MICRO_WEIGHTS,
                _row(
                    "CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED TRANSPOSE_CONV",
                    _all(_on_int16, _int64_sums),
                    Rounding.V3,
                ),
                _row("CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED", _signed, Rounding.V1),
                _row("ADD SUB MUL MEAN RELU", _signed, Rounding.V1),
                _MICRO_MATRICES,
                _row("BATCH_MATMUL", _on_int16, Rounding.V3),
                _row("TRANSPOSE_CONV BATCH_MATMUL", _on_int8, Rounding.V1),
                _row("PRELU SUM SQUARED_DIFFERENCE RSQRT LEAKY_RELU ABS", _signed, Rounding.V1),
                _row("ELU", _on_int8, Rounding.TABLE_F32_EXP),
                _row("RELU6", _signed, Rounding.EXACT),
                _refuse("SVDF", _no_bias, "without a bias, TFLite Micro crashes"),
                _row("SVDF", _on_int8, Rounding.V1, Product.ALL_F32),
                *_TFLM_REFUSED_LSTM,
                _row("UNIDIRECTIONAL_SEQUENCE_LSTM", _on_int8, Rounding.INTERPOLATED),
                _row("QUANTIZE", _from_float, Rounding.AFFINE_F32),
                _row("QUANTIZE", _always, Rounding.V1),
                _row("DEQUANTIZE", _always, Rounding.AFFINE_F32),
                _row("SOFTMAX LOGISTIC TANH HARD_SWISH L2_NORMALIZATION", _on_int8, Rounding.FIXED_POINT),
                _row("SOFTMAX", _on_int16, Rounding.INTERPOLATED_F32),
                _row("LOGISTIC TANH", _on_int16, Rounding.INTERPOLATED),
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
                *_MICRO_WEIGHTS,
                _row(
                    "CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED TRANSPOSE_CONV",
                    _all(_on_int16, _int64_sums),
                    Rounding.V3,
                ),
                _row("CONV_2D DEPTHWISE_CONV_2D FULLY_CONNECTED", _signed, Rounding.V2),
                _row("ADD SUB MUL MEAN RELU", _signed, Rounding.V2),
                _MICRO_MATRICES,
                _row("BATCH_MATMUL", _on_int16, Rounding.V3),
                _row("TRANSPOSE_CONV BATCH_MATMUL", _on_int8, Rounding.V2),
                _row("PRELU SUM SQUARED_DIFFERENCE RSQRT LEAKY_RELU ABS", _signed, Rounding.V2),
                _row("ELU", _on_int8, Rounding.TABLE_F32_EXP),
                _row("RELU6", _signed, Rounding.EXACT),
                _refuse("SVDF", _no_bias, "without a bias, TFLite Micro crashes"),
                _row("SVDF", _on_int8, Rounding.V2, Product.ALL_F32),
                *_TFLM_REFUSED_LSTM,
                _row("UNIDIRECTIONAL_SEQUENCE_LSTM", _on_int8, Rounding.INTERPOLATED_SINGLE),
                _row("QUANTIZE", _from_float, Rounding.AFFINE_F32),
                _row("QUANTIZE", _always, Rounding.V2),
                _row("DEQUANTIZE", _always, Rounding.AFFINE_F32),
                _row("SOFTMAX LOGISTIC TANH L2_NORMALIZATION", _on_int8, Rounding.FIXED_POINT_SINGLE),
                _row("HARD_SWISH", _on_int8, Rounding.FIXED_POINT),
                _row(_COMPARISONS, _on_int8, Rounding.V2),
                *_TFLM_ELEMENTS,
                _row("SOFTMAX", _on_int16, Rounding.INTERPOLATED_F32),
                _row("LOGISTIC TANH", _on_int16, Rounding.INTERPOLATED),
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
