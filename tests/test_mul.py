"""MUL: products on paper, and the definition with its factor rounded to float32 twice."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuq import Quant, numerics
from gpuq.numerics import Product, Rounding, Rule
from gpuq.ops.mul import MulSpec, reference

from . import exact
from .layers import codes
from .peers.compare import assert_equal_bits
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


def test_factor_is_a_float32(seed: int) -> None:
    """Scales whose factor is an exact half only in float32: every odd product is a tie there."""
    rng = np.random.default_rng(seed)
    a, b = (array.reshape(1, -1) for array in np.mgrid[-11:12, -11:12].astype(np.int8))
    unlike = 0
    for _ in range(20):
        a_scale, b_scale = (np.float32(2.0 ** rng.uniform(-6, 0)) for _ in range(2))
        out_scale = np.float32(a_scale * b_scale) * np.float32(2)
        quants = [Quant(scale) for scale in (a_scale, b_scale, out_scale)]
        spec = MulSpec(a_shape=(529,), b_shape=(529,), a_quant=quants[0], b_quant=quants[1], out_quant=quants[2])
        check(spec, a, b, f"seed {seed}, {spec}")
        in_doubles = exact.real_multiplier(a_scale, b_scale, out_scale)
        unlike += any(
            exact.v1_real(product, in_doubles) != exact.v1_real(product, 0.5) for product in (-11, 11, 99, -99)
        )
    assert unlike, "the examples must tell float32 from float64"
