"""CONV_2D: one convolution worked out on paper, and the definition written as loops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import gpuq
from gpuq import InputTypeError, InputValueError, Quant, cpu, dequantize
from gpuq.numerics import Product, Rounding, Rule
from gpuq.ops.conv2d import Conv2dSpec, reference
from gpuq.ops.window import Window2d

from . import exact
from .compare import assert_equal_bits
from .launching import launched
from .layers import Layer, conv2d_layers, rules

# ------------------------------------------------------------------------------------------- worked out on paper

# Scales 0.05 (input), 0.02 (weights), 0.01 (output): one unit of the accumulator is worth 0.05 * 0.02 = 0.001, which
# is a tenth of an output code. As uint8: zero points 140, 127, 143, which are 12, -1, 15 with all codes shifted by
# 128. Input minus its zero point, weights minus theirs:
#
#          8   -2    5
#   x =  -17  115   -3      w =   4  -1        bias 7 (0.007 in real numbers)
#         10    0   -7            1   6
#
# VALID gives four outputs:
#   8*4 + 2*1 - 17*1 + 115*6         =  32 + 2 - 17 + 690     =  707,  + 7 =  714
#   -2*4 - 5*1 + 115*1 - 3*6         =  -8 - 5 + 115 - 18     =   84,  + 7 =   91
#   -17*4 - 115*1 + 10*1 + 0*6       = -68 - 115 + 10 + 0     = -173,  + 7 = -166
#   115*4 + 3*1 + 0*1 - 7*6          = 460 + 3 + 0 - 42       =  421,  + 7 =  428
# SAME pads one row below and one column to the right, whose taps count nothing:
#   right column:  5*4 - 3*1 = 17, -3*4 - 7*1 = -19;        + 7:  24, -12
#   lowest row:    10*4 - 0*1 = 40, 0*4 + 7*1 = 7, -7*4 = -28;  + 7:  47, 14, -21
#
# As float32 0.05 = 13421773 * 2^-28, 0.02 = 5368709 * 2^-28, 0.01 = 5368709 * 2^-29. uint8 rounds 0.05 * 0.02 to
# float32, whose 24 bits leave 8589935 of 13421773 * 5368709 / 2^23 = 8589934.53. Over 0.01 that is
# 8589935 / 5368709 * 2^-4 = 0.80000004379 * 2^-3: multiplier 0.80000004379 * 2^31 = 1717987038, shift -3.
#
# The high product takes 0.80000004379 of the accumulator and rounds, the shift divides by 8 and rounds:
#   714 -> 571.2 -> 571 -> 71.375 -> 71        24 -> 19.2 -> 19 -> 2.375 -> 2
#    91 ->  72.8 ->  73 ->  9.125 ->  9       -12 -> -9.6 -> -10 -> -1.25 -> -1
#  -166 -> -132.8 -> -133 -> -16.625 -> -17    47 -> 37.6 -> 38 -> 4.75 -> 5
#   428 -> 342.4 -> 342 -> 42.75 -> 43         14 -> 11.2 -> 11 -> 1.375 -> 1
#                                             -21 -> -16.8 -> -17 -> -2.125 -> -2
X = np.array([[8, -2, 5], [-17, 115, -3], [10, 0, -7]])
W = np.array([[4, -1], [1, 6]])
VALID = np.array([[71, 9], [-17, 43]])
SAME = np.array([[71, 9, 2], [-17, 43, -1], [5, 1, -2]])


def by_hand(padding: str) -> Conv2dSpec:
    return Conv2dSpec(
        in_h=3,
        in_w=3,
        in_c=1,
        out_c=1,
        window=Window2d.padded(padding, 3, 3, kernel_h=2, kernel_w=2),
        x_quant=Quant(0.05, 140, dtype="uint8"),
        w_quant=Quant(0.02, 127, dtype="uint8"),
        out_quant=Quant(0.01, 143, dtype="uint8"),
    )


@pytest.mark.parametrize(("padding", "want"), [("valid", VALID), ("same", SAME)])
def test_by_hand(padding: str, want: np.ndarray) -> None:
    spec, rule = by_hand(padding), Rule(Rounding.V1, Product.F32)
    assert gpuq.profiles.resolve("litert_ref", spec) == rule
    real = gpuq.numerics.real_multipliers(0.05, np.array([0.02], np.float32), float(np.float32(0.01)), rule.product)
    assert gpuq.numerics.quantize_multipliers(real)[0].tolist() == [1717987038]
    x = (X + 140).astype(np.uint8).reshape(1, 3, 3, 1)
    weights = (W + 127).astype(np.uint8).reshape(1, 2, 2, 1)
    bias = np.array([7], np.int32)
    codes = (want + 143).astype(np.uint8).reshape(1, *want.shape, 1)
    assert_equal_bits(reference(spec, rule, x, weights, bias), codes, padding)
    plan = cpu.pack(spec, rule, [None, weights, bias])
    got = launched(plan, [x], codes.shape, np.uint8, np.random.default_rng(0))
    assert_equal_bits(got, codes, f"{plan.name}, {padding}")
    # 71 codes of 0.01 are 0.71; the accumulator said 0.714.
    real_values = dequantize(got, spec.out_quant)
    assert_equal_bits(real_values.reshape(want.shape), (want * float(np.float32(0.01))).astype(np.float32), padding)
    assert real_values.reshape(-1)[:2].tolist() == pytest.approx([0.71, 0.09])


def test_by_hand_with_activations() -> None:
    # RELU cuts at the zero point, 143; RELU6 at 6 / 0.01 above it, which is beyond 255; RELU_N1_TO_1 at 43 and 243.
    x = (X + 140).astype(np.uint8).reshape(1, 3, 3, 1)
    weights = (W + 127).astype(np.uint8).reshape(1, 2, 2, 1)
    bias = np.array([7], np.int32)
    for activation, low, high in (("relu", 143, 255), ("relu6", 143, 255), ("relu_n1_to_1", 43, 243)):
        spec = replace(by_hand("valid"), activation=activation)
        got = reference(spec, Rule(Rounding.V1, Product.F32), x, weights, bias)
        assert got.reshape(-1).tolist() == np.clip(VALID + 143, low, high).reshape(-1).tolist(), activation


def test_by_hand_int8_has_no_weight_zero_point() -> None:
    # The same network as int8 would need weights with zero point -1, which CONV_2D refuses.
    spec = by_hand("valid")
    with pytest.raises(InputValueError, match=r"zero point 0, got \[-1\]"):
        replace(spec, x_quant=Quant(0.05, 12), w_quant=Quant(0.02, -1), out_quant=Quant(0.01, 15))
    # With weights shifted to zero point 0 the accumulators and codes are those above.
    int8 = replace(spec, x_quant=Quant(0.05, 12), w_quant=Quant(0.02), out_quant=Quant(0.01, 15))
    x, weights = (X + 12).astype(np.int8).reshape(1, 3, 3, 1), W.astype(np.int8).reshape(1, 2, 2, 1)
    got = reference(int8, Rule(Rounding.V1), x, weights, np.array([7], np.int32))
    assert got.reshape(-1).tolist() == [71 + 15, 9 + 15, -17 + 15, 43 + 15]


# ---------------------------------------------------------------------------------------- the definition as loops


def accumulators(layer: Layer) -> np.ndarray:
    """b[o] + sum (x - zp_x) * (w - zp_w) over the taps inside the image, in Python integers."""
    spec, window = layer.spec, layer.spec.window
    runs, (out_h, out_w, _) = layer.x.shape[0], spec.output_shape
    x = layer.x.astype(object) - spec.x_quant.scalar_zero_point()
    w = layer.weights.astype(object) - (0 if spec.w_quant.is_per_channel else spec.w_quant.scalar_zero_point())
    group_in, group_out = spec.in_c // spec.groups, spec.out_c // spec.groups
    acc = np.zeros((runs, out_h, out_w, spec.out_c), object)
    for oh, ow, kh, kw in np.ndindex(out_h, out_w, window.kernel_h, window.kernel_w):
        h = oh * window.stride_h - window.pad_top + kh * window.dilation_h
        column = ow * window.stride_w - window.pad_left + kw * window.dilation_w
        if not (0 <= h < spec.in_h and 0 <= column < spec.in_w):
            continue
        for o in range(spec.out_c):
            first = o // group_out * group_in
            for i in range(group_in):
                acc[:, oh, ow, o] += x[:, h, column, first + i] * w[o, kh, kw, i]
    return acc + (0 if layer.bias is None else layer.bias.astype(object))


def finished(layer: Layer, acc: np.ndarray, rule: Rule) -> np.ndarray:
    """Requantization, zero point and clamp of accumulators, one Python integer after another."""
    spec, out = layer.spec, layer.spec.out_quant
    low, high = gpuq.numerics.activation_range(spec.activation, out, rule.bounds)
    scales = np.broadcast_to(spec.w_quant.scales, spec.out_c)
    x_scale, out_scale = spec.x_quant.scalar_scale(), out.scalar_scale()
    reals: list[Any] = [
        exact.real_multiplier(x_scale, scale, out_scale, product_in_f32=rule.product is Product.F32)
        for scale in scales.tolist()
    ]
    if rule.product is Product.ALL_F32:
        products = [exact.f32(exact.scale_of(x_scale) * exact.scale_of(scale)) for scale in scales.tolist()]
        reals = [exact.f32(product / exact.scale_of(out_scale)) for product in products]
    requantize = [exact.by_channel(rule.rounding.value, channel, spec.out_c) for channel in range(spec.out_c)]
    codes = np.zeros(acc.shape, object)
    for index in np.ndindex(acc.shape):
        value = requantize[index[-1]](exact.wrap(int(acc[index])), reals[index[-1]])
        codes[index] = exact.clamp(value + out.scalar_zero_point(), low, high)
    return codes.astype(out.dtype)


@settings(max_examples=40)
@given(conv2d_layers().filter(lambda layer: layer.spec.macs * layer.x.shape[0] < 20_000))
def test_reference_is_the_definition(layer: Layer) -> None:
    acc = accumulators(layer)
    for profile, rule in rules(layer.spec):
        got = reference(layer.spec, rule, layer.x, layer.weights, layer.bias)
        assert_equal_bits(got, finished(layer, acc, rule), f"{profile}, {layer}")


# ------------------------------------------------------------------------------------------------------ the Spec

GOOD: dict[str, Any] = dict(
    in_h=5,
    in_w=6,
    in_c=4,
    out_c=6,
    groups=2,
    window=Window2d(kernel_h=3, kernel_w=3, stride_w=2, pad_right=1),
    x_quant=Quant(0.5),
    w_quant=Quant(0.5),
    out_quant=Quant(0.5),
)


def test_shapes_and_macs() -> None:
    spec = Conv2dSpec(**GOOD)
    assert spec.output_shape == (3, 3, 6)
    assert spec.weights_shape == (6, 3, 3, 2)
    assert spec.gemm_mnk == (9, 3, 18)
    assert spec.macs == 9 * 6 * 18
    assert hash(spec) == hash(Conv2dSpec(**GOOD))


PER_CHANNEL = Quant([0.5] * 6, axis=0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(in_h=0), InputValueError, "in_h=0"),
        (dict(groups=0), InputValueError, "groups=0"),
        (dict(groups=3), InputValueError, "C=4 .*groups=3"),
        (dict(groups=4), InputValueError, "O=6 .*groups=4"),
        (dict(in_h=2), InputValueError, "3x3 .*2x6"),
        (dict(activation="tanh"), InputValueError, "tanh"),
        (dict(x_quant=Quant(0.5, dtype="int32")), InputTypeError, "input of int32"),
        (dict(out_quant=Quant(0.5, dtype="uint8")), InputTypeError, "output of uint8"),
        (dict(w_quant=Quant(0.5, dtype="uint8")), InputTypeError, "weights of uint8"),
        (dict(x_quant=Quant(0.0)), InputValueError, "x_quant scale"),
        (dict(out_quant=Quant([0.5, 0.5], axis=3)), InputValueError, "out_quant must be per tensor"),
        (dict(w_quant=Quant([0.5] * 5, axis=0)), InputValueError, "5 weight scales .*O=6"),
        (dict(w_quant=Quant([0.5] * 6, axis=3)), InputValueError, "axis 3"),
        (dict(w_quant=Quant([0.5] * 6, [0, 0, 0, 1, 0, 0], axis=0)), InputValueError, r"zero point 0, got \[1\]"),
    ],
)
def test_spec_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^CONV_2D: .*{message}|{message}"):
        Conv2dSpec(**(GOOD | change))


def test_uint8_has_no_channel_scales() -> None:
    quant = Quant(0.5, 128, dtype="uint8")
    with pytest.raises(InputValueError, match="per-channel weights need int8"):
        Conv2dSpec(**(GOOD | dict(x_quant=quant, out_quant=quant, w_quant=Quant([0.5] * 6, 3, 0, "uint8"))))
    assert Conv2dSpec(**(GOOD | dict(w_quant=PER_CHANNEL))).w_quant.is_per_channel


def test_reference_checks_its_constants() -> None:
    spec = Conv2dSpec(**GOOD)
    x, weights = np.zeros((1, 5, 6, 4), np.int8), np.zeros((6, 3, 3, 2), np.int8)
    with pytest.raises(InputValueError, match=r"\(6, 3, 3, 4\)"):
        reference(spec, Rule(Rounding.V1), x, np.zeros((6, 3, 3, 4), np.int8))
    with pytest.raises(InputTypeError, match="float32"):
        reference(spec, Rule(Rounding.V1), x, weights, np.zeros(6, np.float32))
    with pytest.raises(InputValueError, match=r"\(5,\)"):
        reference(spec, Rule(Rounding.V1), x, weights, np.zeros(5, np.int32))
