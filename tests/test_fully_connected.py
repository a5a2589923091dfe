"""FULLY_CONNECTED: a row worked out on paper with a weight zero point, and the definition in Python integers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import gpuq
from gpuq import InputTypeError, InputValueError, Quant, cpu, dequantize
from gpuq.numerics import Rounding, Rule
from gpuq.ops.fully_connected import FullyConnectedSpec, reference
from gpuq.profiles import PROFILES

from .compare import assert_equal_bits
from .launching import launched
from .layers import Layer, fully_connected_layers, rules
from .test_conv2d import finished

# Scales 0.05, 0.02, 0.01, zero points 12, -1, 15: the convolution of test_conv2d.py as a dense layer, one row of four
# taps per output pixel. int8 honours the weights' zero point here.
#   x - 12:     8   -2  -17  115        x codes:  20   10   -5  127
#   w + 1:      4   -1    1    6        w codes:   3   -2    0    5
#            -127  128    0    2                -128  127   -1    1
# Output 0: 32 + 2 - 17 + 690 = 707, bias 7: 714. Output 1: -1016 - 256 + 0 + 230 = -1042, bias -100: -1142.
#
# litert_ref multiplies in float64: 0.05f * 0.02f / 0.01f = 13421773 * 2^-27 = 0.10000000149:
#   714 -> 71.4 -> 71, + 15 = 86;    -1142 -> -114.2 -> -114, + 15 = -99.
# tflm: the same factor as 0.80000001192 * 2^31, shift -3:
#   714 -> 571.2 -> 571 -> 71.375 -> 71;    -1142 -> -913.6 -> -914 -> -114.25 -> -114.
# Back: 71 * 0.01 = 0.71 (the accumulator stands for 0.714), -114 * 0.01 = -1.14 (-1.142).
BY_HAND = FullyConnectedSpec(
    in_c=4, out_c=2, x_quant=Quant(0.05, 12), w_quant=Quant(0.02, -1), out_quant=Quant(0.01, 15)
)
X = np.array([[20, 10, -5, 127]], np.int8)
W = np.array([[3, -2, 0, 5], [-128, 127, -1, 1]], np.int8)
BIAS = np.array([7, -100], np.int32)


@pytest.mark.parametrize(("profile", "rule"), [("litert_ref", Rule(Rounding.V6)), ("tflm", Rule(Rounding.V1))])
def test_by_hand(profile: str, rule: Rule) -> None:
    assert gpuq.profiles.resolve(profile, BY_HAND) == rule
    want = np.array([[86, -99]], np.int8)
    assert_equal_bits(reference(BY_HAND, rule, X, W, BIAS), want, profile)
    plan = cpu.pack(BY_HAND, rule, [None, W, BIAS])
    got = launched(plan, [X.copy()], (1, 2), np.int8, np.random.default_rng(0))
    assert_equal_bits(got, want, f"{plan.name}, {profile}")
    assert dequantize(got, BY_HAND.out_quant).reshape(-1).tolist() == pytest.approx([0.71, -1.14])


def test_by_hand_profiles_differ_at_a_double_rounding() -> None:
    # All scales 1 but the output's: 0.25. 5 * 0.25 = 1.25 is 1; V1 rounds 2.5 to 3 first, then 1.5 to 2.
    spec = FullyConnectedSpec(in_c=1, out_c=1, x_quant=Quant(0.25), w_quant=Quant(1.0), out_quant=Quant(1.0))
    x, w = np.array([[5]], np.int8), np.array([[1]], np.int8)
    codes = {name: reference(spec, gpuq.profiles.resolve(name, spec), x, w).item() for name in PROFILES}
    assert codes == {"litert_ref": 1, "tflm": 2, "litert_opt": 2, "xnnpack": 1, "single": 1}


@settings(max_examples=60)
@given(fully_connected_layers().filter(lambda layer: layer.spec.macs * layer.x.shape[0] < 20_000))
def test_reference_is_the_definition(layer: Layer) -> None:
    spec = layer.spec
    x = layer.x.astype(object) - spec.x_quant.scalar_zero_point()
    w = layer.weights.astype(object) - (0 if spec.w_quant.is_per_channel else spec.w_quant.scalar_zero_point())
    acc = x @ w.T + (0 if layer.bias is None else layer.bias.astype(object))
    for profile, rule in rules(spec):
        got = reference(spec, rule, layer.x, layer.weights, layer.bias)
        assert_equal_bits(got, finished(layer, acc, rule), f"{profile}, {layer}")


def test_input_of_any_shape_falls_into_rows() -> None:
    x = np.arange(16, dtype=np.int8)
    rule = Rule(Rounding.V6)
    want = reference(BY_HAND, rule, x.reshape(4, 4), W)
    assert want.shape == (4, 2)
    assert_equal_bits(reference(BY_HAND, rule, x.reshape(2, 2, 1, 4), W), want, "rank 4")
    assert_equal_bits(reference(BY_HAND, rule, x, W), want, "flat")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(in_c=0), InputValueError, "in_c=0"),
        (dict(out_c=0), InputValueError, "out_c=0"),
        (dict(activation="gelu"), InputValueError, "gelu"),
        (dict(w_quant=Quant([0.5, 0.5], [0, 3], axis=0)), InputValueError, "zero point 0"),
        (dict(w_quant=Quant([0.5, 0.5], axis=1)), InputValueError, "axis 1"),
        (dict(w_quant=Quant(0.5, dtype="uint8")), InputTypeError, "weights of uint8"),
        (dict(x_quant=Quant(0.5, dtype="int16")), InputTypeError, "int16"),
    ],
)
def test_spec_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    good: dict[str, Any] = dict(in_c=4, out_c=2, x_quant=Quant(0.5), w_quant=Quant(0.5, 3), out_quant=Quant(0.5))
    assert FullyConnectedSpec(**good).weights_shape == (2, 4)
    with pytest.raises(error, match=message):
        FullyConnectedSpec(**(good | change))
