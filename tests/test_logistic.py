"""LOGISTIC: the float32 table against the C library's expf, the fixed-point one against a transcription of TFLM."""

from __future__ import annotations

import ctypes
import ctypes.util
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpuq import InputTypeError, InputValueError, Quant
from gpuq.numerics import Rounding, Rule
from gpuq.ops.logistic import LogisticSpec, reference, table

from . import exact, gemmlowp
from .compare import assert_equal_bits
from .layers import zero_point

F32, FIXED = Rule(Rounding.TABLE_F32), Rule(Rounding.FIXED_POINT)
ONCE = Rule(Rounding.FIXED_POINT_SINGLE)


def spec_of(scale: float, zero: int, dtype: str = "int8") -> LogisticSpec:
    out = Quant(1 / 256, np.iinfo(dtype).min, dtype=dtype)
    return LogisticSpec(shape=(256,), x_quant=Quant(scale, zero, dtype=dtype), out_quant=out)


@pytest.mark.parametrize("rule", [F32, FIXED])
def test_by_hand(rule: Rule) -> None:
    # Scale ln(3) / 10, zero point 2: code 2 is 0 -> 1 / 2 = 128 / 256; code 12 is ln 3 -> 3 / 4 = 192 / 256; code -8 is
    # -ln 3 -> 1 / 4 = 64 / 256. 1 itself would be 256 / 256: clamped to 255. All minus 128.
    spec = spec_of(math.log(3) / 10, 2)
    got = reference(spec, rule, np.array([[2, 12, -8, 127, -128]], np.int8))
    assert got.tolist() == [[0, 64, -64, 127, -128]]


def expf() -> Callable[[float], float]:
    library = ctypes.util.find_library("m")
    if library is None:
        pytest.skip("no C library to ask for expf")
    function = ctypes.CDLL(library).expf
    function.argtypes, function.restype = [ctypes.c_float], ctypes.c_float
    return function


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_float_table_is_what_expf_gives(dtype: str, seed: int) -> None:
    """LUTPopulateInt8 with the C library's expf, in float32 step by step, for 1,500 scales of all 256 codes."""
    exp, rng = expf(), np.random.default_rng(seed)
    out = spec_of(1.0, 0, dtype).out_quant
    for number in range(1500):
        scale = np.float32(2.0 ** rng.uniform(-14, 3))
        zero = zero_point(rng, dtype)
        spec = spec_of(float(scale), zero, dtype)
        real = scale * (np.arange(out.qmin, out.qmax + 1) - zero).astype(np.float32)
        exps = np.array([exp(-value) for value in real.tolist()], np.float32)
        rescaled = np.float32(1) / (np.float32(1) + exps) * np.float32(256)
        # Positive values: C's round() is the floor of the exact sum with one half, which float64 holds.
        codes = np.floor(rescaled.astype(np.float64) + 0.5) + out.scalar_zero_point()
        want = np.clip(codes, out.qmin, out.qmax).astype(dtype)
        assert_equal_bits(table(spec, F32), want, f"table {number}, scale {scale!r}, zero point {zero}, seed {seed}")


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 30.0, 1e5, 1e30, 1e37, 3e38])
@pytest.mark.parametrize("rule", [F32, FIXED, ONCE])
def test_extreme_scales(rule: Rule, scale: float) -> None:
    got = table(spec_of(scale, 0), rule)
    if scale < 1:
        assert got.tolist() == [0] * 256
    else:
        # In fixed point not even 0 is within the radius, and the lower end is tested first.
        assert got.tolist() == [-128] * 128 + [0 if rule == F32 else -128] + [127] * 127


@pytest.mark.parametrize(("rule", "requantize"), [(FIXED, exact.v1), (ONCE, exact.v2)])
def test_fixed_point_table_is_tflms(rule: Rule, requantize: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for number in range(40):
        scale = np.float32(2.0 ** rng.uniform(-30 if number % 4 == 0 else -14, 6))
        zero = zero_point(rng, "int8")
        multiplier, left_shift = exact.multiplier_and_shift(exact.scale_of(scale) * 2**27)
        radius = math.floor(15 * 2.0**27 / 2.0**left_shift)
        want = []
        for q in range(-128, 128):
            centred = q - zero
            if abs(centred) >= radius:
                # The lower end is tested first, so that with radius 0 even 0 goes there.
                want.append(-128 if centred <= -radius else 127)
                continue
            sigmoid = gemmlowp.logistic(requantize(centred, multiplier, left_shift), 4)
            want.append(exact.clamp(exact.divide_by_pot(sigmoid, 23) - 128, -128, 127))
        got = table(spec_of(float(scale), zero), rule)
        assert_equal_bits(got, np.array(want, np.int8), f"scale {scale!r}, zero point {zero}, seed {seed}")


def test_reference_looks_codes_up() -> None:
    for dtype in ("int8", "uint8"):
        spec = spec_of(0.1, 3, dtype)
        every = np.arange(spec.x_quant.qmin, spec.x_quant.qmax + 1).astype(dtype)
        assert_equal_bits(reference(spec, F32, every[::-1]), table(spec, F32)[::-1], dtype)


def test_spec_refuses() -> None:
    with pytest.raises(InputValueError, match="1/256 and zero point -128"):
        LogisticSpec(shape=(1,), x_quant=Quant(0.1), out_quant=Quant(1 / 255, -128))
    with pytest.raises(InputValueError, match="1/256"):
        LogisticSpec(shape=(1,), x_quant=Quant(0.1), out_quant=Quant(1 / 256, 0))
    with pytest.raises(InputTypeError, match="int16"):
        LogisticSpec(shape=(1,), x_quant=Quant(0.1, dtype="int16"), out_quant=Quant(1 / 256, -128))
