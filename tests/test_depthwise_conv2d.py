"""DEPTHWISE_CONV_2D: a small example on paper, the definition as loops, and the convolution it equals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

import gpuq
from gpuq import InputTypeError, InputValueError, Quant
from gpuq.numerics import Rounding, Rule
from gpuq.ops import conv2d
from gpuq.ops.depthwise_conv2d import DepthwiseConv2dSpec, one_channel_as_conv2d, reference
from gpuq.ops.window import Window2d

from .compare import assert_equal_bits
from .layers import Layer, depthwise_conv2d_layers, rules
from .test_conv2d import finished


def test_by_hand() -> None:
    # One row of three pixels, two channels, two outputs per channel, taps [kw]; zero point of the input 2.
    # Channel 0, minus 2:  1  3 -2    Channel 1, minus 2: -1  0  4
    # Weights of outputs 0 to 3, per tap: (1, 2), (10, 0), (-1, 1), (0, 5)
    #   output 0 (channel 0): 1*1 + 3*2 =  7, 3*1 - 2*2 = -1
    #   output 1 (channel 0): 1*10 = 10, 3*10 = 30
    #   output 2 (channel 1): 1 + 0 = 1, 0 + 4 = 4
    #   output 3 (channel 1): 0*5 = 0, 4*5 = 20
    # Factor 1 * 0.5 / 1 = 0.5, ties of the high product up: 3.5 -> 4, -0.5 -> 0, 5, 15, 0.5 -> 1, 2, 0, 10.
    x = np.array([[1, -1], [3, 0], [-2, 4]]).reshape(1, 1, 3, 2) + 2
    weights = np.array([[1, 10, -1, 0], [2, 0, 1, 5]], np.int8).reshape(1, 1, 2, 4)
    spec = DepthwiseConv2dSpec(
        in_h=1,
        in_w=3,
        in_c=2,
        multiplier=2,
        window=Window2d(kernel_h=1, kernel_w=2),
        x_quant=Quant(1.0, 2),
        w_quant=Quant(0.5),
        out_quant=Quant(1.0, -3),
    )
    assert spec.output_shape == (1, 2, 4)
    assert spec.macs == 16
    got = reference(spec, Rule(Rounding.V1), x.astype(np.int8), weights)
    assert (got.reshape(2, 4) + 3).tolist() == [[4, 5, 1, 0], [0, 15, 2, 10]]


def accumulators(layer: Layer) -> np.ndarray:
    """The definition in Python integers."""
    spec, window = layer.spec, layer.spec.window
    runs, (out_h, out_w, out_c) = layer.x.shape[0], spec.output_shape
    x = layer.x.astype(object) - spec.x_quant.scalar_zero_point()
    w = layer.weights.astype(object) - (0 if spec.w_quant.is_per_channel else spec.w_quant.scalar_zero_point())
    acc = np.zeros((runs, out_h, out_w, out_c), object)
    for oh, ow, kh, kw in np.ndindex(out_h, out_w, window.kernel_h, window.kernel_w):
        h = oh * window.stride_h - window.pad_top + kh * window.dilation_h
        column = ow * window.stride_w - window.pad_left + kw * window.dilation_w
        if 0 <= h < spec.in_h and 0 <= column < spec.in_w:
            for channel in range(spec.in_c):
                for k in range(spec.multiplier):
                    o = channel * spec.multiplier + k
                    acc[:, oh, ow, o] += x[:, h, column, channel] * w[0, kh, kw, o]
    return acc + (0 if layer.bias is None else layer.bias.astype(object))


@settings(max_examples=40)
@given(depthwise_conv2d_layers().filter(lambda layer: layer.spec.macs * layer.x.shape[0] < 20_000))
def test_reference_is_the_definition(layer: Layer) -> None:
    acc = accumulators(layer)
    for profile, rule in rules(layer.spec):
        got = reference(layer.spec, rule, layer.x, layer.weights, layer.bias)
        assert_equal_bits(got, finished(layer, acc, rule), f"{profile}, {layer}")


@settings(max_examples=40)
@given(depthwise_conv2d_layers(one_channel=True))
def test_one_channel_is_a_dense_convolution(layer: Layer) -> None:
    rule = gpuq.profiles.resolve("litert_ref", layer.spec)
    dense = one_channel_as_conv2d(layer.spec)
    got = conv2d.reference(dense, rule, layer.x, layer.weights.transpose(3, 1, 2, 0), layer.bias)
    assert_equal_bits(got, reference(layer.spec, rule, layer.x, layer.weights, layer.bias), layer)


GOOD: dict[str, Any] = dict(
    in_h=5,
    in_w=5,
    in_c=3,
    multiplier=2,
    window=Window2d(kernel_h=3, kernel_w=3),
    x_quant=Quant(0.5),
    w_quant=Quant(0.5),
    out_quant=Quant(0.5),
)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(multiplier=0), InputValueError, "multiplier=0"),
        (dict(in_c=-1), InputValueError, "in_c=-1"),
        (dict(in_w=2), InputValueError, "5x2"),
        (dict(activation="sign"), InputValueError, "sign"),
        (dict(w_quant=Quant([0.5] * 6, axis=0)), InputValueError, "axis 0"),
        (dict(w_quant=Quant([0.5] * 3, axis=3)), InputValueError, "O=6"),
        (dict(w_quant=Quant(0.5, 1)), InputValueError, "zero point 0"),
        (dict(out_quant=Quant(0.5, dtype="int16")), InputTypeError, "int16"),
    ],
)
def test_spec_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        DepthwiseConv2dSpec(**(GOOD | change))


def test_channel_scales_lie_along_the_last_axis() -> None:
    spec = DepthwiseConv2dSpec(**(GOOD | dict(w_quant=Quant([0.5] * 6, axis=3))))
    assert spec.weights_shape == (1, 3, 3, 6)
    assert spec.out_c == 6
