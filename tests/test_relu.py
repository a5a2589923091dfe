"""RELU and RELU6 as operators of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuq import InputTypeError, InputValueError, Quant, numerics, profiles
from gpuq.numerics import Product, Rounding, Rule
from gpuq.ops.relu import Relu6Spec, ReluSpec, reference

from . import exact
from .compare import assert_equal_bits
from .layers import zero_point

V1 = Rule(Rounding.V1, Product.ALL_F32)


def test_by_hand() -> None:
    # 0.5 to 0.25 doubles codes: (q - 1) * 2 + 10; below the zero point 10 nothing, above 6 / 0.25 = 24 codes clamped.
    x = np.array([[-128, 0, 1, 2, 12, 13, 14, 127]], np.int8)
    quants: dict[str, Any] = dict(x_quant=Quant(0.5, 1), out_quant=Quant(0.25, 10))
    assert reference(ReluSpec(shape=(8,), **quants), V1, x).tolist() == [[10, 10, 10, 12, 32, 34, 36, 127]]
    assert reference(Relu6Spec(shape=(8,), **quants), V1, x).tolist() == [[10, 10, 10, 12, 32, 34, 34, 34]]


def test_relu6_of_tflm_clamps_codes_without_rescaling() -> None:
    # Input scale 0.05, zero point 10: real 0 is code 10, real 6 is 10 + 120 = 130, beyond int8. The output's
    # parameters are ignored.
    spec = Relu6Spec(shape=(4,), x_quant=Quant(0.05, 10), out_quant=Quant(0.1, -3))
    x = np.array([[-128, 9, 11, 127]], np.int8)
    assert reference(spec, profiles.resolve("tflm", spec), x).tolist() == [[10, 10, 11, 127]]


@pytest.mark.parametrize("spec_type", [ReluSpec, Relu6Spec])
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_every_code(spec_type: type[ReluSpec], dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    every = np.arange(256, dtype=np.uint8).view(dtype)
    for ratio in [0.5, 2.0, 1.0, 1.5, *2.0 ** rng.uniform(-12, 8, 20)]:
        x_scale = np.float32(2.0 ** rng.uniform(-6, 2))
        spec = spec_type(
            shape=(256,),
            x_quant=Quant(x_scale, zero_point(rng, dtype), dtype=dtype),
            out_quant=Quant(np.float32(x_scale / np.float32(ratio)), zero_point(rng, dtype), dtype=dtype),
        )
        factor = exact.f32(exact.scale_of(spec.x_quant.scalar_scale()) / exact.scale_of(spec.out_quant.scalar_scale()))
        low, high = numerics.activation_range(spec.activation, spec.out_quant)
        zero = spec.out_quant.scalar_zero_point()
        want = [
            exact.clamp(exact.v1_real(int(q) - spec.x_quant.scalar_zero_point(), factor) + zero, low, high)
            for q in every
        ]
        assert_equal_bits(reference(spec, V1, every), np.array(want, dtype), f"seed {seed}, {spec}")


@pytest.mark.parametrize("wanted", [0.75, 1.5, 2.5])
def test_factor_is_a_float32(wanted: float, seed: int) -> None:
    """Quotients of scales that are an exact fraction only in float32; TFLite Micro takes them in float64."""
    rng = np.random.default_rng(seed)
    every = np.arange(-128, 128).astype(np.int8)
    unlike = 0
    for _ in range(30):
        x_scale = np.float32(2.0 ** rng.uniform(-6, 2))
        out_scale = x_scale / np.float32(wanted)
        # Real 0 is in the middle of the input and at the lowest output code: 128 results.
        spec = ReluSpec(shape=(256,), x_quant=Quant(x_scale, 0), out_quant=Quant(out_scale, -128))
        quotient = exact.scale_of(x_scale) / exact.scale_of(out_scale)
        results = {}
        for name, factor in (("litert_ref", exact.f32(quotient)), ("tflm", float(quotient))):
            want = [exact.clamp(exact.v1_real(int(q), factor) - 128, -128, 127) for q in every]
            got = reference(spec, profiles.resolve(name, spec), every)
            assert_equal_bits(got, np.array(want, np.int8), f"{name}, seed {seed}, {spec}")
            results[name] = want
        unlike += results["litert_ref"] != results["tflm"]
    assert unlike, "the examples must tell float32 from float64"


def test_spec_refuses() -> None:
    with pytest.raises(InputTypeError, match="RELU: output of uint8"):
        ReluSpec(shape=(1,), x_quant=Quant(0.5), out_quant=Quant(0.5, dtype="uint8"))
    with pytest.raises(InputTypeError, match="RELU6: input of int32"):
        Relu6Spec(shape=(1,), x_quant=Quant(0.5, dtype="int32"), out_quant=Quant(0.5, dtype="int32"))
    with pytest.raises(InputValueError, match="per tensor"):
        ReluSpec(shape=(2,), x_quant=Quant([0.5, 0.5], axis=0), out_quant=Quant(0.5))
