"""gpuq.quant: values worked out on paper, ranges, ties, and everything that is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpuq
from gpuq import InputTypeError, InputValueError, Quant, dequantize, quantize, quantize_bias, quantize_weights
from gpuq.quant import round_half_away

from .compare import assert_equal_bits

f32 = np.float32


def codes(*values: int, dtype: str = "int8") -> np.ndarray:
    return np.array(values, dtype)


# ---------------------------------------------------------------------------------- worked by hand: [-0.8, 1.0]

# The range [-0.8, 1.0] on 256 codes has 255 steps: scale = 1.8 / 255 = 0.00705882...
# One code is worth 1.8 / 255, so a real value v lies 255 v / 1.8 = 141.6666 v codes from the zero point:
#     -0.8   -> -113.3333...      -0.25 ->  -35.4166...      0.0035 -> 0.4958...
#      1.0   ->  141.6666...       0.5  ->   70.8333...      0.0036 -> 0.51
BY_HAND = np.array([-0.8, -0.25, 0.0, 0.0035, 0.0036, 0.5, 1.0])
STEPS = np.array([-113, -35, 0, 0, 1, 71, 142])


def test_by_hand_int8() -> None:
    # The zero point from the low end is -128 + 113.33 = -14.67, from the high end 127 - 141.67 = -14.67: nudged to -15.
    # Highest code: 142 - 15 = 127, lowest: -113 - 15 = -128. Both ends fit without saturation.
    got, quant = quantize_weights(BY_HAND.astype(f32), axis=None, symmetric=False)
    assert quant == Quant(1.8 / 255, -15, dtype="int8")
    assert quant.scale == float(f32(1.8 / 255))
    assert_equal_bits(got, codes(-128, -50, -15, -15, -14, 56, 127), "steps - 15")


def test_by_hand_uint8() -> None:
    # Low end: 0 + 113.33, high end: 255 - 141.67 = 113.33: nudged to 113.
    got, quant = quantize_weights(BY_HAND.astype(f32), axis=None, symmetric=False, dtype="uint8")
    assert quant == Quant(1.8 / 255, 113, dtype="uint8")
    assert_equal_bits(got, codes(0, 78, 113, 113, 114, 184, 255, dtype="uint8"), "steps + 113")


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_by_hand_back_to_real(dtype: str) -> None:
    # steps * 1.8 / 255; the scale is the float32 next to 1.8 / 255, and the product is rounded once.
    got, quant = quantize_weights(BY_HAND.astype(f32), axis=None, symmetric=False, dtype=dtype)
    want = (STEPS * float(f32(1.8 / 255))).astype(f32)
    assert_equal_bits(dequantize(got, quant), want, dtype)
    np.testing.assert_allclose(want, [-0.79765, -0.24706, 0, 0, 0.0070588, 0.50118, 1.00235], rtol=1e-5)


def test_by_hand_round_trip_error() -> None:
    # -0.8 = -204 / 255 comes back as -203.4 / 255, and 1.0 = 255 / 255 as 255.6 / 255: each is off by 0.6 / 255.
    # 0 comes back exactly. mean |e| = 2 * 0.6 / 255 / 3; rms = 0.6 / 255 * sqrt(2 / 3);
    # signal power (0.64 + 1) / 3, noise power 2 / 3 * (0.6 / 255)^2: 10 log10(0.82 / (0.6 / 255)^2) = 51.706 dB.
    quant = Quant.from_range(-0.8, 1.0)
    error = gpuq.round_trip_error(np.array([-0.8, 0.0, 1.0]), quant)
    assert error.max_abs == pytest.approx(0.6 / 255, rel=1e-4)
    assert error.mean_abs == pytest.approx(0.4 / 255, rel=1e-4)
    assert error.rms == pytest.approx(0.6 / 255 * math.sqrt(2 / 3), rel=1e-4)
    assert error.sqnr_db == pytest.approx(51.706, abs=2e-3)
    assert error.saturated == 0


# ------------------------------------------------------------------------------------------------------- ranges


@pytest.mark.parametrize(
    ("low", "high", "dtype", "scale", "zero_point"),
    [
        (0.5, 2.0, "int8", 2 / 255, -128),  # widened to [0, 2]
        (0.5, 2.0, "uint8", 2 / 255, 0),
        (-3.0, -1.0, "int8", 3 / 255, 127),  # widened to [-3, 0]
        (-3.0, -1.0, "uint8", 3 / 255, 255),
        (-1.0, 1.0, "int8", 2 / 255, -1),  # 127 - 127.5: the high end has the smaller error, and -0.5 rounds away
        (-1.0, 1.0, "uint8", 2 / 255, 128),  # 0 + 127.5: here it is the low end
        (-1.0, 1.0, "int16", 2 / 65535, -1),
        # Widened to [-5e-7, 5e-7]. On paper the middle is a tie, 127.5; 5e-7 / (1e-6 / 255) is 127.49999999999999.
        (0.0, 0.0, "int8", 1e-6 / 255, 0),
        (0.0, 0.0, "uint8", 1e-6 / 255, 127),
        (1e-7, 3e-7, "uint8", 1e-6 / 255, 127),
        (0.0, 1e-6, "uint8", 1.5e-6 / 255, 85),  # at most 1e-6: the low end goes to -5e-7, the high end stays
        (0.0, 1.1e-6, "uint8", 1.1e-6 / 255, 0),  # wide enough
        (-0.8, 1.0, "int32", 1.8 / (2**32 - 1), round(-(2**31) + 0.8 / 1.8 * (2**32 - 1))),
    ],
)
def test_from_range(low: float, high: float, dtype: str, scale: float, zero_point: int) -> None:
    assert Quant.from_range(low, high, dtype=dtype) == Quant(scale, zero_point, dtype=dtype)


@pytest.mark.parametrize(("low", "high", "zero_point"), [(0.0, 1.0, -(2**63)), (-1.0, 0.0, 2**63 - 1)])
def test_from_range_of_int64(low: float, high: float, zero_point: int) -> None:
    # The highest int64 is not a float64: a careless cast turns it into the lowest.
    assert Quant.from_range(low, high, dtype="int64").zero_point == zero_point


def test_from_range_symmetric_and_narrow() -> None:
    assert Quant.from_range(-0.8, 1.0, symmetric=True) == Quant(1 / 127, 0)
    assert Quant.from_range(-1.5, 1.0, symmetric=True) == Quant(1.5 / 127, 0)
    assert Quant.from_range(-0.8, 1.0, symmetric=True, dtype="uint8") == Quant(1 / 127, 128, dtype="uint8")
    assert Quant.from_range(-0.8, 1.0, symmetric=True, dtype="int16") == Quant(1 / 32767, 0, dtype="int16")
    # Codes -127 to 127 are 254 steps; -127 + 0.8 / 1.8 * 254 = -14.11.
    assert Quant.from_range(-0.8, 1.0, narrow_range=True) == Quant(1.8 / 254, -14)
    assert Quant.from_range(-3.0, -1.0, narrow_range=True) == Quant(3 / 254, 127)
    assert Quant.from_range(1.0, 3.0, narrow_range=True) == Quant(3 / 254, -127)


def test_from_range_per_channel() -> None:
    quant = Quant.from_range([-0.8, 0.5, 0.0], np.array([1.0, 2.0, 0.0]), axis=2)
    assert quant == Quant([1.8 / 255, 2 / 255, 1e-6 / 255], [-15, -128, 0], axis=2)
    assert quant.is_per_channel
    # One channel is per tensor, however it is written.
    assert Quant.from_range([-0.8], [1.0], axis=0) == Quant.from_range(-0.8, 1.0)


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (math.nan, 1.0),
        (0.0, math.nan),
        (-math.inf, 1.0),
        (0.0, math.inf),
        (2.0, 1.0),
        ([0.0, 0.0], [1.0]),
        ([], []),
        ([[0.0]], [[1.0]]),
        (-1e308, 1e308),  # its width is no float64
        (0.0, 1e300),  # its scale is no float32
    ],
)
def test_from_range_refuses(low: Any, high: Any) -> None:
    with pytest.raises(InputValueError):
        Quant.from_range(low, high, axis=0)


def test_from_range_refuses_several_channels_without_axis_and_floats() -> None:
    with pytest.raises(InputValueError, match="axis"):
        Quant.from_range([0.0, 0.0], [1.0, 1.0])
    with pytest.raises(InputTypeError, match="float32"):
        Quant.from_range(0.0, 1.0, dtype="float32")


finite = st.floats(-1e30, 1e30, allow_nan=False)


@given(finite, finite, st.sampled_from(["int8", "uint8", "int16"]), st.booleans())
def test_from_range_holds_zero_and_both_ends(a: float, b: float, dtype: str, symmetric: bool) -> None:
    low, high = sorted((a, b))
    quant = Quant.from_range(low, high, dtype=dtype, symmetric=symmetric)
    ends = np.array([low, 0.0, high])
    back = dequantize(quantize(ends, quant), quant).astype(np.float64)
    assert back[1] == 0
    # Nudging the zero point moves the range by at most half a code, rounding costs another half.
    assert np.all(np.abs(back - ends) <= quant.scalar_scale() * 1.001), (quant, back)


# ---------------------------------------------------------------------------------------------------- quantize


def test_quantize_ties_go_away_from_zero_before_the_zero_point() -> None:
    values = np.array([0.25, -0.25, 0.75, -0.75, 1.25, -1.25, 0.2499, -0.2499], f32)
    want = np.array([1, -1, 2, -2, 3, -3, 0, 0])
    for zero_point in (0, 3, -7):
        got = quantize(values, Quant(0.5, zero_point))
        assert_equal_bits(got, (want + zero_point).astype(np.int8), f"zero point {zero_point}")


def test_quantize_does_not_add_one_half() -> None:
    # The largest float32 below 0.5: adding 0.5 in float32 would give 1.
    just_below = np.nextafter(f32(0.5), f32(0))
    assert quantize(np.array([just_below, -just_below]), Quant(1.0)).tolist() == [0, 0]


def test_quantize_takes_the_quotient_in_float32() -> None:
    # float32(0.1) = 0.100000001490116: -12.45 / scale is -124.4999962, in float32 -124.5.
    assert quantize(np.array([-12.45], f32), Quant(0.1)).tolist() == [-125]
    # A float64 value becomes a float32 first: 0.49999999999 becomes 0.5.
    assert quantize(np.array([0.49999999999]), Quant(1.0)).tolist() == [1]


def test_quantize_saturates() -> None:
    values = np.array([1e6, -1e6, 63.6, -64.3, 3e38, -3e38], f32)
    assert_equal_bits(quantize(values, Quant(0.5)), codes(127, -128, 127, -128, 127, -128), "int8")
    assert_equal_bits(
        quantize(values, Quant(0.5, 128, dtype="uint8")), codes(255, 0, 255, 0, 255, 0, dtype="uint8"), "uint8"
    )
    assert_equal_bits(quantize(values, Quant(0.5), narrow_range=True), codes(127, -127, 127, -127, 127, -127), "narrow")
    want = np.array([2000000, -2000000, 127, -129, 2**31 - 1, -(2**31)], np.int32)
    assert_equal_bits(quantize(values, Quant(0.5, dtype="int32")), want, "int32")


@pytest.mark.parametrize("scale", [0.5, 1e-30])
def test_quantize_saturates_inf_and_overflowing_quotients(scale: float) -> None:
    values = np.array([np.inf, -np.inf, 3e38, -3e38], f32)
    assert_equal_bits(quantize(values, Quant(scale)), codes(127, -128, 127, -128), f"scale {scale}")


def test_quantize_refuses() -> None:
    values = np.ones((2, 3), f32)
    values[1, 2] = np.nan
    with pytest.raises(InputValueError, match=r"NaN at \(1, 2\)"):
        quantize(values, Quant(0.5))
    with pytest.raises(InputTypeError, match="int64"):
        quantize(np.array([1]), Quant(0.5))
    with pytest.raises(InputValueError, match="scale 0"):
        quantize(np.array([1.0]), Quant(0.0))
    with pytest.raises(InputTypeError, match="int64"):
        quantize(np.array([1.0]), Quant(0.5, dtype="int64"))
    with pytest.raises(InputValueError, match=r"2 scales along axis 0 .* \(3, 2\)"):
        quantize(np.ones((3, 2)), Quant([0.5, 0.25], axis=0))
    with pytest.raises(InputValueError, match="axis 2"):
        quantize(np.ones((2, 2)), Quant([0.5, 0.25], axis=2))


@pytest.mark.parametrize("axis", [1, -2])
def test_quantize_per_channel(axis: int) -> None:
    quant = Quant([0.5, 0.25], [1, -1], axis=axis)
    values = np.array([[[1.0, -1.0], [1.0, -1.0]]], f32)
    assert_equal_bits(quantize(values, quant), np.array([[[3, -1], [3, -5]]], np.int8), f"axis {axis}")
    assert_equal_bits(dequantize(quantize(values, quant), quant), values, f"axis {axis}")
    assert_equal_bits(quant.quantize(values), quantize(values, quant), "method")


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1, 1)])
def test_quantize_keeps_the_shape(shape: tuple[int, ...]) -> None:
    got = quantize(np.ones(shape, f32), Quant(0.5))
    assert (got.shape, got.dtype) == (shape, np.int8)
    back = dequantize(got, Quant(0.5))
    assert (back.shape, back.dtype) == (shape, np.float32)


# -------------------------------------------------------------------------------------------------- dequantize


def test_dequantize_multiplies_in_float64() -> None:
    # 16777217 = 2^24 + 1 is not a float32. In float64 0.1f * 16777217 = 1677721.72500 + ..., rounded to float32 once.
    scale, code = f32(0.1), 2**24 + 1
    want = f32(float(scale) * code)
    assert want != scale * f32(code), "the example tells float64 from float32"
    assert_equal_bits(dequantize(np.array([code], np.int32), Quant(0.1, dtype="int32")), np.array([want]), "2^24 + 1")


@given(st.floats(1e-30, 1e30).map(lambda scale: float(f32(scale))), st.integers(-128, 127))
def test_dequantize_all_codes(scale: float, zero_point: int) -> None:
    every = np.arange(-128, 128).astype(np.int8)
    want = np.array([f32(scale * (q - zero_point)) for q in range(-128, 128)])
    quant = Quant(scale, zero_point)
    assert_equal_bits(dequantize(every, quant), want, quant)
    assert_equal_bits(quant.dequantize(every), want, quant)
    # What a code stands for quantizes to that code again.
    assert_equal_bits(quantize(want, quant), every, quant)


def test_dequantize_refuses_another_dtype() -> None:
    with pytest.raises(InputTypeError, match="expected int8, got uint8"):
        dequantize(np.zeros(1, np.uint8), Quant(0.5))


# ----------------------------------------------------------------------------------------------------- weights


def test_weights_per_channel_of_both_layouts() -> None:
    # Output channel 0: largest magnitude 2 -> scale 2 / 127; 1: 0.5; 2: only zeros -> the widened range 5e-7 / 127.
    ohwi = np.zeros((3, 1, 2, 2), f32)
    ohwi[0] = [[[-2.0, 1.0], [0.0, 0.0]]]
    ohwi[1] = [[[0.5, -0.25], [0.125, 0.0]]]
    want = np.zeros((3, 1, 2, 2), np.int8)
    want[0] = [[[-127, 64], [0, 0]]]  # 1 / 2 * 127 = 63.5, a tie away from zero
    want[1] = [[[127, -64], [32, 0]]]  # 31.75
    got, quant = quantize_weights(ohwi)
    assert quant == Quant([2 / 127, 0.5 / 127, 5e-7 / 127], 0, axis=0)
    assert_equal_bits(got, want, "OHWI")
    for axis in (3, -1):
        got, quant = quantize_weights(ohwi.transpose(3, 1, 2, 0), axis=axis)
        assert quant == Quant([2 / 127, 0.5 / 127, 5e-7 / 127], 0, axis=3)
        assert_equal_bits(got, want.transpose(3, 1, 2, 0), f"1HWO, axis {axis}")


def test_weights_symmetric_uint8_leave_code_0_out() -> None:
    got, quant = quantize_weights(np.array([-1.0, -0.5, 0.0, 1.0]), axis=None, dtype="uint8")
    assert quant == Quant(1 / 127, 128, dtype="uint8")
    assert_equal_bits(got, codes(1, 64, 128, 255, dtype="uint8"), "symmetric")  # -63.5 rounds to -64


def test_weights_asymmetric_per_channel() -> None:
    weights = np.array([[-0.8, 1.0], [0.5, 2.0]], f32)
    got, quant = quantize_weights(weights, symmetric=False)
    assert quant == Quant([1.8 / 255, 2 / 255], [-15, -128], axis=0)
    # Second channel: 0.5 * 127.5 = 63.75 -> 64 - 128, 255 - 128.
    assert_equal_bits(got, np.array([[-128, 127], [-64, 127]], np.int8), "asymmetric")


def test_weights_all_zero() -> None:
    for symmetric in (True, False):
        got, quant = quantize_weights(np.zeros((2, 4)), symmetric=symmetric)
        assert np.all(quant.scales > 0)
        assert_equal_bits(dequantize(got, quant), np.zeros((2, 4), f32), f"symmetric {symmetric}")


@given(st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from(["int8", "uint8"]))
def test_weights_come_back_within_half_a_code(rng_seed: int, symmetric: bool, dtype: str) -> None:
    rng = np.random.default_rng(rng_seed)
    weights = rng.normal(rng.normal(), 10.0 ** rng.uniform(-5, 5), (3, 7)).astype(f32)
    got, quant = quantize_weights(weights, symmetric=symmetric, dtype=dtype)
    error = np.abs(dequantize(got, quant).astype(np.float64) - weights)
    # An asymmetric range may be moved by half a code, so that its ends lose up to one.
    assert np.all(error <= (0.501 if symmetric else 1.001) * quant.scales[:, None]), (rng_seed, quant)
    if symmetric:
        assert got.min() > np.iinfo(dtype).min


def test_weights_refuse() -> None:
    with pytest.raises(InputTypeError, match="int16"):
        quantize_weights(np.ones((2, 2)), dtype="int16")
    with pytest.raises(InputTypeError, match="int64"):
        quantize_weights(np.ones((2, 2), np.int64))
    with pytest.raises(InputValueError, match="empty"):
        quantize_weights(np.ones((0, 2)))
    with pytest.raises(InputValueError, match=r"\(1, 0\)"):
        quantize_weights(np.array([[0.0, 1.0], [np.inf, 2.0]]))
    with pytest.raises(InputValueError, match="axis 2"):
        quantize_weights(np.ones((2, 2)), axis=2)


# -------------------------------------------------------------------------------------------------------- bias


def test_bias_by_hand() -> None:
    # Scale 0.5 * 0.25 = 0.125: 1 / 0.125 = 8; 0.0625 is half a code, away from zero on both sides.
    bias = np.array([1.0, 0.0625, -0.0625, 0.06, -3.0])
    got, quant = quantize_bias(bias, Quant(0.5, 7), Quant(0.25))
    assert quant == Quant(0.125, 0, dtype="int32")
    assert_equal_bits(got, np.array([8, 1, -1, 0, -24], np.int32), "per tensor")
    got, quant = quantize_bias(np.array([1.0, 1.0]), Quant(0.5), Quant([0.25, 0.5], axis=0))
    assert quant == Quant([0.125, 0.25], 0, axis=0, dtype="int32")
    assert_equal_bits(got, np.array([8, 4], np.int32), "per channel")


def test_bias_divides_in_float64() -> None:
    # In float32 the quotient 2^24 + 1 would lose its last bit.
    got, _ = quantize_bias(np.array([float(2**24 + 1)]), Quant(1.0), Quant(1.0))
    assert got.tolist() == [2**24 + 1]


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_bias_is_clamped(dtype: str) -> None:
    got, _ = quantize_bias(np.array([1e30, -1e30, 2.0**31, -(2.0**31)]), Quant(1.0), Quant(1.0), dtype=dtype)
    limit = 2**31 - 1
    assert_equal_bits(got, np.array([limit, -limit, limit, -limit], dtype), dtype)


def test_bias_refuses() -> None:
    one = Quant(1.0)
    with pytest.raises(InputTypeError):
        quantize_bias(np.array([1]), one, one)
    with pytest.raises(InputTypeError):
        quantize_bias(np.ones((1, 1)), one, one)
    with pytest.raises(InputTypeError):
        quantize_bias(np.ones(1), one, one, dtype="int16")
    with pytest.raises(InputValueError, match=r"\(1,\)"):
        quantize_bias(np.array([0.0, np.nan]), one, one)
    with pytest.raises(InputValueError, match="2 weight scales for 3"):
        quantize_bias(np.ones(3), one, Quant([1.0, 1.0], axis=0))
    with pytest.raises(InputValueError, match="is 0"):
        quantize_bias(np.ones(2), one, Quant([1.0, 0.0], axis=0))
    with pytest.raises(InputValueError, match="per-tensor"):
        quantize_bias(np.ones(2), Quant([1.0, 1.0], axis=0), one)


# ----------------------------------------------------------------------------------------------------- the rest


def test_round_trip_error_by_hand() -> None:
    # Scale 0.5: 1.0 is exact, 0.6 comes back as 0.5. Noise 0.1^2 / 2, signal (1 + 0.36) / 2: 10 log10(136) dB.
    error = gpuq.round_trip_error(np.array([1.0, 0.6]), Quant(0.5))
    assert error.max_abs == pytest.approx(0.1)
    assert error.mean_abs == pytest.approx(0.05)
    assert error.rms == pytest.approx(math.sqrt(0.005))
    assert error.sqnr_db == pytest.approx(10 * math.log10(136))
    # The highest code, 127, stands for 63.5 and takes what is below 63.75; the lowest takes what is above -64.25.
    assert gpuq.round_trip_error(np.array([0.0, 63.7, -64.2, 63.8]), Quant(0.5)).saturated == 0.25


def test_round_trip_error_of_the_exact_and_the_empty() -> None:
    assert gpuq.round_trip_error(np.array([1.0, -2.5]), Quant(0.5)).sqnr_db == math.inf
    assert gpuq.round_trip_error(np.zeros(3), Quant(0.5)).sqnr_db == math.inf
    empty = gpuq.round_trip_error(np.zeros(0), Quant(0.5))
    assert (empty.max_abs, empty.mean_abs, empty.rms, empty.saturated) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("value", "want"),
    [
        (0.5, 1),
        (-0.5, -1),
        (1.5, 2),
        (2.5, 3),
        (-2.5, -3),
        (0.49999999999999994, 0),
        (-0.4, 0),
        (2.0**52 + 1, 2**52 + 1),
    ],
)
def test_round_half_away(value: float, want: int) -> None:
    assert round_half_away(np.array(value)) == want


def test_round_half_away_of_infinities() -> None:
    assert round_half_away(np.array([np.inf, -np.inf])).tolist() == [math.inf, -math.inf]


def test_quant_is_a_value() -> None:
    per_tensor = Quant(0.1, np.int64(3))
    assert per_tensor == Quant([0.1], [3], axis=0)
    assert hash(per_tensor) == hash(Quant(np.float32(0.1), 3))
    assert per_tensor != Quant(0.1, 3, dtype="int16")
    assert (per_tensor.scale, per_tensor.zero_point, per_tensor.axis) == (float(f32(0.1)), 3, None)
    per_channel = Quant([0.1, 0.2], 3, axis=1)
    assert per_channel.zero_point == (3, 3)
    assert per_channel.scales.tolist() == [f32(0.1), f32(0.2)]
    with pytest.raises(InputValueError, match="per-tensor scale"):
        per_channel.scalar_scale()
    with pytest.raises(InputValueError, match="per-tensor zero point"):
        per_channel.scalar_zero_point()
    with pytest.raises(AttributeError):
        per_tensor.scale = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (dict(scale=-1.0), InputValueError),
        (dict(scale=math.nan), InputValueError),
        (dict(scale=math.inf), InputValueError),
        (dict(scale=1e39), InputValueError),  # no float32
        (dict(scale=[]), InputValueError),
        (dict(scale=[[1.0]]), InputValueError),
        (dict(scale=[1.0, 1.0]), InputValueError),  # no axis
        (dict(scale=[1.0, 1.0], zero_point=[0, 0, 0], axis=0), InputValueError),
        (dict(scale=1.0, zero_point=[0, 0]), InputValueError),
        (dict(scale=1.0, zero_point=128), InputValueError),
        (dict(scale=1.0, zero_point=-1, dtype="uint8"), InputValueError),
        (dict(scale=1.0, zero_point=0.5), InputTypeError),
        (dict(scale=1.0, dtype="float32"), InputTypeError),
        (dict(scale=1.0, dtype="bool"), InputTypeError),
    ],
)
def test_quant_refuses(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        Quant(**arguments)


@pytest.mark.parametrize(("bits", "highest"), [(4, 7), (2, 1)])
def test_weights_of_few_bits(bits: int, highest: int, seed: int) -> None:
    """Codes reach both ends of the symmetric range; the scale is the largest magnitude over the highest code."""
    weights = np.random.default_rng(seed).normal(size=(6, 50)).astype(np.float32)
    codes, quant = quantize_weights(weights, bits=bits)
    assert codes.dtype == np.int8
    assert np.abs(codes).max(axis=1).tolist() == [highest] * 6
    assert np.array_equal(quant.scales, (np.abs(weights).max(axis=1).astype(np.float64) / highest).astype(np.float32))
    assert np.abs(quant.dequantize(codes) - weights).max() <= quant.scales.max() * 0.5001
    with pytest.raises(InputValueError, match="bits=3 of int8 must be 8, or 4 or 2"):
        quantize_weights(weights, bits=3)
