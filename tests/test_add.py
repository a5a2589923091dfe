"""ADD: sums on paper, the definition in Python integers over all pairs of codes, and what the Spec refuses."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuq import InputTypeError, InputValueError, Quant, numerics
from gpuq.numerics import Rounding, Rule
from gpuq.ops.add import AddSpec, q20_multipliers, reference
from gpuq.ops.broadcast import BinarySpec

from . import exact
from .compare import assert_equal_bits
from .layers import ACTIVATIONS, codes, log2_scale, rules, zero_point

V1 = Rule(Rounding.V1)


def test_by_hand() -> None:
    # Scales 0.5 and 0.25, output 0.5; zero points 1, -2, 3. Twice the larger scale is 1, so that the first input is
    # worth a half of it, the second a quarter, and one output code is 1 / 2.
    #   3 - 1 = 2 -> 1.0;  -4 + 2 = -2 -> -0.5;   0.5 is 1 code,  + 3 = 4
    #   1 - 1 = 0 -> 0.0;  -1 + 2 =  1 -> 0.25;   half a code, away from zero: 1,  + 3 = 4
    #   1 - 1 = 0 -> 0.0;  -3 + 2 = -1 -> -0.25;  minus half a code: -1,  + 3 = 2
    #   127 - 1   -> 63;   127 + 2 -> 32.25;      190.5, clamped to 127
    spec = AddSpec(a_shape=(4,), b_shape=(4,), a_quant=Quant(0.5, 1), b_quant=Quant(0.25, -2), out_quant=Quant(0.5, 3))
    a, b = np.array([[3, 1, 1, 127]], np.int8), np.array([[-4, -1, -3, 127]], np.int8)
    assert reference(spec, V1, a, b).tolist() == [[4, 4, 2, 127]]


BLOCKS = {Rounding.V1_EARLY_SHIFT_BLOCK16: 16, Rounding.V1_FLOOR_BLOCK8: 8}
SIZE = 60


def scaled_in_block(rounding: Rounding, code: int, real: float) -> int:
    """An input in a whole block of LiteRT's optimized kernels: a factor below 1 is a multiplier and a right shift."""
    multiplier, shift = exact.multiplier_and_shift(real)
    if rounding is Rounding.V1_FLOOR_BLOCK8:
        return exact.high_mul(code << 20, multiplier) >> -shift
    return exact.high_mul(math.floor(Fraction(code) * Fraction(2) ** (20 + shift)), multiplier)


def scaled_sum(spec: BinarySpec, rule: Rule, a: int, b: int, sign: int, position: int) -> int:
    """The integer ADD and SUB share, before zero point and clamp, of one of SIZE elements."""
    if rule.rounding is Rounding.Q20:
        return q20_sum(spec, a, b, sign)
    block = BLOCKS.get(rule.rounding)
    requantize = exact.BY_REAL[rule.rounding.value if block is None else "v1"]
    scales = [exact.scale_of(quant.scalar_scale()) for quant in (spec.a_quant, spec.b_quant, spec.out_quant)]
    twice_max = 2 * max(scales[:2])
    centred = a - spec.a_quant.scalar_zero_point(), b - spec.b_quant.scalar_zero_point()
    reals = [float(scale / twice_max) for scale in scales[:2]]
    if block is not None and position < SIZE // block * block:
        scaled_a, scaled_b = (
            scaled_in_block(rule.rounding, code, real) for code, real in zip(centred, reals, strict=True)
        )
    else:
        scaled_a, scaled_b = (requantize(code << 20, real) for code, real in zip(centred, reals, strict=True))
    return requantize(scaled_a + sign * scaled_b, float(twice_max / (2**20 * scales[2])))


def q20_sum(spec: BinarySpec, a: int, b: int, sign: int) -> int:
    """XNNPACK's sum: 21 bits for the larger ratio of scales, ties of the one shift up."""
    out = exact.scale_of(spec.out_quant.scalar_scale())
    ratios = [exact.f32(exact.scale_of(quant.scalar_scale()) / out) for quant in (spec.a_quant, spec.b_quant)]
    shift = 0
    while max(ratios) * 2**shift < 1 << 20:
        shift += 1
    first, second = (round(ratio * 2**shift) for ratio in ratios)
    assert q20_multipliers(spec) == (first, second, shift)
    total = (a - spec.a_quant.scalar_zero_point()) * first + sign * (b - spec.b_quant.scalar_zero_point()) * second
    return math.floor(Fraction(total, 1 << shift) + Fraction(1, 2))


def check_definition(spec: BinarySpec, function: Any, sign: int, seed: int) -> None:
    """Every rule that some profile has for this operator."""
    for profile, rule in rules(spec):
        check_rule(spec, rule, function, sign, seed, profile)


def check_rule(spec: BinarySpec, rule: Rule, function: Any, sign: int, seed: int, profile: str) -> None:
    rng = np.random.default_rng(seed)
    a, b = (codes(rng, (SIZE,), spec.a_quant.dtype.name) for _ in range(2))
    low, high = numerics.activation_range(spec.activation, spec.out_quant, rule.bounds)
    zero = spec.out_quant.scalar_zero_point()
    sums = [scaled_sum(spec, rule, int(p), int(q), sign, i) for i, (p, q) in enumerate(zip(a, b, strict=True))]
    want = np.clip(np.array([sums]) + zero, low, high).astype(spec.out_quant.dtype)
    assert_equal_bits(function(spec, rule, a[None], b[None]), want, f"{profile}, seed {seed}, {spec}")


def random_spec(spec_type: type[BinarySpec], draw: Any, seed: int) -> BinarySpec:
    rng = np.random.default_rng(seed)
    dtype = draw(st.sampled_from(["int8", "uint8"]))
    quants = [Quant(draw(log2_scale()), zero_point(rng, dtype), dtype=dtype) for _ in range(3)]
    return spec_type(
        a_shape=(SIZE,),
        b_shape=(SIZE,),
        a_quant=quants[0],
        b_quant=quants[1],
        out_quant=quants[2],
        activation=draw(st.sampled_from(ACTIVATIONS)),
    )


@settings(max_examples=60)
@given(st.data(), st.integers(0, 2**32 - 1))
def test_reference_is_the_definition(data: st.DataObject, rng_seed: int) -> None:
    check_definition(random_spec(AddSpec, data.draw, rng_seed), reference, 1, rng_seed)


@pytest.mark.parametrize(
    ("a", "b", "row"),
    [
        ((2, 3, 5), (2, 3, 5), (30, False)),
        ((1, 3, 5), (3, 5), (15, False)),
        ((4, 3, 32), (32,), (32, False)),
        ((32,), (4, 3, 32), (32, False)),
        ((4, 3, 32), (4, 3, 1), (32, True)),
        ((), (4, 3), (12, True)),
        ((2, 1, 5), (2, 3, 5), (5, False)),
        ((2, 1, 5), (1, 3, 5), (5, False)),
        ((5, 1), (1, 7), (7, True)),
        ((2, 1, 3, 1), (1, 4, 1, 5), (1, False)),
    ],
)
def test_rows_of_loops(a: tuple[int, ...], b: tuple[int, ...], row: tuple[int, bool]) -> None:
    one = Quant(1.0)
    for shapes in ((a, b), (b, a)):
        assert AddSpec(a_shape=shapes[0], b_shape=shapes[1], a_quant=one, b_quant=one, out_quant=one).row == row


def test_broadcasting() -> None:
    one = Quant(1.0)
    spec = AddSpec(a_shape=(2, 1, 3), b_shape=(4, 1), a_quant=one, b_quant=one, out_quant=one)
    assert spec.output_shape == (2, 4, 3)
    a, b = np.arange(12, dtype=np.int8).reshape(2, 2, 1, 3), np.arange(8, dtype=np.int8).reshape(2, 4, 1)
    want = a + b[:, None]
    assert_equal_bits(reference(spec, V1, a, b), want, "two runs of both")
    # A constant is one run.
    assert_equal_bits(reference(spec, V1, a, b[:1]), a + b[None, :1].reshape(1, 1, 4, 1), "constant b")
    scalar = AddSpec(a_shape=(), b_shape=(), a_quant=one, b_quant=one, out_quant=one)
    assert scalar.output_shape == ()
    assert reference(scalar, V1, np.array([5], np.int8), np.array([6], np.int8)).tolist() == [11]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (dict(b_shape=(3,)), InputValueError, "ADD: shapes 4 and 3 do not broadcast"),
        (dict(b_quant=Quant(0.5, dtype="uint8")), InputTypeError, "second input of uint8"),
        (dict(out_quant=Quant(0.5, dtype="int16")), InputTypeError, "output of int16"),
        (dict(a_quant=Quant(0.0)), InputValueError, "a_quant scale"),
        (dict(b_quant=Quant([0.5, 0.5], axis=0)), InputValueError, "b_quant must be per tensor"),
        (dict(activation="tanh"), InputValueError, "tanh"),
        # The runtimes stop the process here: 2 * 0.5 / (2^20 * 2^-20) is not below 1.
        (dict(out_quant=Quant(2.0**-20)), InputValueError, "2.19 times smaller"),
    ],
)
def test_spec_refuses(change: dict[str, Any], error: type[Exception], message: str) -> None:
    good: dict[str, Any] = dict(
        a_shape=(4,), b_shape=(4,), a_quant=Quant(0.5), b_quant=Quant(0.5), out_quant=Quant(0.5)
    )
    AddSpec(**good)
    with pytest.raises(error, match=message):
        AddSpec(**(good | change))
