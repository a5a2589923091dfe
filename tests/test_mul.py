"""MUL: products on paper, and the definition with its factor rounded to float32 twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuq import Quant, numerics, profiles
from gpuq.numerics import Product, Rounding, Rule
from gpuq.ops.mul import MulSpec, reference

from . import exact
from .compare import assert_equal_bits
from .layers import codes
from .test_add import random_spec

V1 = Rule(Rounding.V1, Product.ALL_F32)


def test_by_hand() -> None:
    # Scales 0.5 * 0.5 / 0.5 = 0.5; zero points 1, -2, 3.
    #   (4 - 1) * (1 + 2) = 9 -> 4.5, the high product rounds ties up: 5,  + 3 = 8
    #   (-2 - 1) * (1 + 2) = -9 -> -4.5 -> -4,  + 3 = -1
    #   (-128 - 1) * (-128 + 2) = 16254 -> 8127, clamped
    spec = MulSpec(a_shape=(3,), b_shape=(3,), a_quant=Quant(0.5, 1), b_quant=Quant(0.5, -2), out_quant=Quant(0.5, 3))
    a, b = np.array([[4, -2, -128]], np.int8), np.array([[1, 1, -128]], np.int8)
    assert reference(spec, V1, a, b).tolist() == [[8, -1, 127]]


def check(spec: MulSpec, a: np.ndarray, b: np.ndarray, context: object) -> None:
    scales = [exact.scale_of(quant.scalar_scale()) for quant in (spec.a_quant, spec.b_quant, spec.out_quant)]
    factor = exact.f32(exact.f32(scales[0] * scales[1]) / scales[2])
    low, high = numerics.activation_range(spec.activation, spec.out_quant)

    def code(p: int, q: int) -> int:
        product = (p - spec.a_quant.scalar_zero_point()) * (q - spec.b_quant.scalar_zero_point())
        return exact.clamp(exact.v1_real(product, factor) + spec.out_quant.scalar_zero_point(), low, high)

    want = exact.elementwise(code, a, b).astype(spec.out_quant.dtype)
    assert_equal_bits(reference(spec, V1, a, b), want, context)


@settings(max_examples=60)
@given(st.data(), st.integers(0, 2**32 - 1))
def test_reference_is_the_definition(data: st.DataObject, rng_seed: int) -> None:
    spec = random_spec(MulSpec, data.draw, rng_seed)
    assert isinstance(spec, MulSpec)
    rng = np.random.default_rng(rng_seed)
    a, b = (codes(rng, (1, 60), spec.a_quant.dtype.name) for _ in range(2))
    check(spec, a, b, f"seed {rng_seed}, {spec}")


@pytest.mark.parametrize("wanted", [0.5, 0.75, 0.625])
def test_factor_is_a_float32(wanted: float, seed: int) -> None:
    """Scales whose factor is an exact fraction only in float32, step by step: there its ties are ties."""
    rng = np.random.default_rng(seed)
    a, b = (array.reshape(1, -1) for array in np.mgrid[-11:12, -11:12].astype(np.int8))
    products = sorted({int(p) * int(q) for p, q in zip(a[0], b[0], strict=True)})
    in_doubles, mixed = 0, 0
    for _ in range(30):
        a_scale, b_scale = (np.float32(2.0 ** rng.uniform(-6, 0)) for _ in range(2))
        out_scale = np.float32(a_scale * b_scale) / np.float32(wanted)
        quants = [Quant(scale) for scale in (a_scale, b_scale, out_scale)]
        spec = MulSpec(a_shape=(529,), b_shape=(529,), a_quant=quants[0], b_quant=quants[1], out_quant=quants[2])
        check(spec, a, b, f"seed {seed}, {spec}")
        product = exact.f32(exact.scale_of(a_scale) * exact.scale_of(b_scale))
        right = [exact.v1_real(p, exact.f32(product / exact.scale_of(out_scale))) for p in products]
        in_doubles += right != [exact.v1_real(p, exact.real_multiplier(a_scale, b_scale, out_scale)) for p in products]
        mixed += right != [exact.v1_real(p, float(product / exact.scale_of(out_scale))) for p in products]
    assert in_doubles, "the examples must tell float32 from float64"
    assert wanted == 0.5 or mixed, "the examples must tell a quotient in float32 from one in float64"


def test_tflm_takes_the_factor_in_float64(seed: int) -> None:
    spec = MulSpec(a_shape=(1,), b_shape=(1,), a_quant=Quant(0.05), b_quant=Quant(0.02), out_quant=Quant(0.01))
    a = np.random.default_rng(seed).integers(-128, 128, (500, 1)).astype(np.int8)
    rule = profiles.resolve("tflm", spec)
    assert rule == Rule(Rounding.V1, Product.F64)
    real = exact.real_multiplier(0.05, 0.02, 0.01)
    want = exact.elementwise(lambda p, q: exact.clamp(exact.v1_real(p * q, real), -128, 127), a, a[::-1])
    assert_equal_bits(reference(spec, rule, a, a[::-1]), want.astype(np.int8), f"seed {seed}")
