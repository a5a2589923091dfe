"""QUANTIZE (from float32 and from codes) and DEQUANTIZE as operators; gpuq.quantize itself is in test_quant.py."""

from __future__ import annotations

import numpy as np
import pytest

from gpuq import InputTypeError, InputValueError, Quant
from gpuq.numerics import Rounding, Rule
from gpuq.ops import dequantize, quantize
from gpuq.ops.dequantize import DequantizeSpec
from gpuq.ops.quantize import QuantizeSpec

from . import exact
from .compare import assert_equal_bits
from .layers import zero_point

V1, AFFINE = Rule(Rounding.V1), Rule(Rounding.AFFINE_F32)


def test_from_float_is_gpuq_quantize() -> None:
    spec = QuantizeSpec(shape=(4,), x_quant=None, out_quant=Quant(0.5, 3))
    assert spec.activation_dtype == np.float32
    got = quantize.reference(spec, AFFINE, np.array([[0.25, -0.25, 0.2, 100.0]], np.float32))
    assert got.tolist() == [[4, 2, 3, 127]]


def test_from_codes_by_hand() -> None:
    # A factor of 0.25 with zero points 10 and -5: 12 - 10 = 2 -> 0.5: the product of halves is exact, the shift rounds
    # away: 1; 8 - 10 = -2 -> -0.5 -> -1. 11: 0.25; the product of halves, 0.5, rounds up to 1, and 1 / 2 to 1.
    # 9: -0.25; -0.5 rounds up to 0.
    spec = QuantizeSpec(shape=(5,), x_quant=Quant(0.25, 10), out_quant=Quant(1.0, -5))
    got = quantize.reference(spec, V1, np.array([[12, 8, 11, 9, 10]], np.int8))
    assert (got + 5).tolist() == [[1, -1, 1, 0, 0]]


def test_int8_to_uint8_of_equal_scale_flips_the_sign_bit() -> None:
    every = np.arange(-128, 128).astype(np.int8)
    spec = QuantizeSpec(shape=(256,), x_quant=Quant(0.3, -20), out_quant=Quant(0.3, 108, dtype="uint8"))
    want = (every.view(np.uint8) ^ 0x80).reshape(1, 256)
    assert_equal_bits(quantize.reference(spec, V1, every[None]), want, "to uint8")
    back = QuantizeSpec(shape=(256,), x_quant=spec.out_quant, out_quant=Quant(0.3, -20))
    assert_equal_bits(quantize.reference(back, V1, want), every[None], "back")


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("out_dtype", ["int8", "uint8"])
def test_from_codes_is_the_definition(dtype: str, out_dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    every = np.arange(256, dtype=np.uint8).view(dtype)
    for _ in range(20):
        x_quant = Quant(2.0 ** rng.uniform(-8, 2), zero_point(rng, dtype), dtype=dtype)
        out_quant = Quant(2.0 ** rng.uniform(-8, 2), zero_point(rng, out_dtype), dtype=out_dtype)
        spec = QuantizeSpec(shape=(256,), x_quant=x_quant, out_quant=out_quant)
        # The quotient of the two float32 scales is taken in float64 here.
        real = float(exact.scale_of(x_quant.scalar_scale()) / exact.scale_of(out_quant.scalar_scale()))
        values = [
            exact.v1_real(int(q) - x_quant.scalar_zero_point(), real) + out_quant.scalar_zero_point() for q in every
        ]
        want = np.clip(values, out_quant.qmin, out_quant.qmax).astype(out_dtype)
        assert_equal_bits(quantize.reference(spec, V1, every[None]), want[None], f"seed {seed}, {spec}")


def test_dequantize() -> None:
    spec = DequantizeSpec(shape=(3,), x_quant=Quant(0.1, 100, dtype="uint8"))
    got = dequantize.reference(spec, AFFINE, np.array([[0, 100, 255]], np.uint8))
    scale = float(np.float32(0.1))
    assert_equal_bits(got, np.array([[-100 * scale, 0, 155 * scale]], np.float32), "by hand")


def test_specs_refuse() -> None:
    with pytest.raises(InputTypeError, match="QUANTIZE: output of int32"):
        QuantizeSpec(shape=(1,), x_quant=None, out_quant=Quant(0.5, dtype="int32"))
    with pytest.raises(InputTypeError, match="QUANTIZE: input of int32"):
        QuantizeSpec(shape=(1,), x_quant=Quant(0.5, dtype="int32"), out_quant=Quant(0.5))
    with pytest.raises(InputValueError, match="out_quant must be per tensor"):
        QuantizeSpec(shape=(2,), x_quant=None, out_quant=Quant([0.5, 0.5], axis=0))
    with pytest.raises(InputTypeError, match="DEQUANTIZE: input of int32"):
        DequantizeSpec(shape=(1,), x_quant=Quant(0.5, dtype="int32"))
    with pytest.raises(InputValueError, match="must be positive"):
        DequantizeSpec(shape=(1,), x_quant=Quant(0.0))
