"""gpuq.numerics against an independent model: multipliers, both requantizations, activation ranges, profiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuq import InputValueError, Quant, UnsupportedModel, numerics, profiles
from gpuq.numerics import Product, Rounding, Rule

from . import exact
from .compare import assert_equal_bits
from .exact import INT32_MAX, INT32_MIN

# -------------------------------------------------------------------------------------------------- multipliers


@pytest.mark.parametrize(
    "real",
    [
        0.0,
        -0.0,
        *(sign * 2.0**power for power in range(-40, 30) for sign in (1, -1)),
        *(math.nextafter(2.0**power, math.inf) for power in range(-34, 30)),
        *(math.nextafter(2.0**power, 0) for power in range(-34, 31)),  # all of these round up to 2^31
        *(2.0**power * (1 - 2.0**-32) for power in range(-33, 31)),  # the tie between 2^31 - 1 and 2^31
        5e-324,
        1e-300,
    ],
)
def test_quantize_multiplier_at_the_edges(real: float) -> None:
    if abs(exact.multiplier_and_shift(real)[1]) > 30 and real > 1:
        with pytest.raises(InputValueError, match=r"below 2\^30"):
            numerics.quantize_multiplier(real)
    else:
        assert numerics.quantize_multiplier(real) == exact.multiplier_and_shift(real)


def test_quantize_multiplier_of_random_doubles(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reals = rng.choice([-1.0, 1.0], 20_000) * 2.0 ** rng.uniform(-34, 29.9, 20_000)
    for real in reals.tolist():
        assert numerics.quantize_multiplier(real) == exact.multiplier_and_shift(real), (seed, real)
    # Exact ties of the 31-bit rounding: away from zero.
    for real in (rng.integers(1 << 30, 1 << 31, 2000) + 0.5).tolist():
        want = exact.multiplier_and_shift(real * 2.0**-31)
        assert numerics.quantize_multiplier(real * 2.0**-31) == want, (seed, real)


def test_quantize_multiplier_on_paper() -> None:
    # 0.1 = 0.8 * 2^-3, 0.8 * 2^31 = 1717986918.4.
    assert numerics.quantize_multiplier(0.1) == (1717986918, -3)
    assert numerics.quantize_multiplier(1.0) == (1 << 30, 1)
    assert numerics.quantize_multiplier(-0.75) == (-1610612736, 0)
    # Below 2^-32 nothing is left; what rounds up to 2^-32 stays.
    assert numerics.quantize_multiplier(2.0**-32) == (1 << 30, -31)
    assert numerics.quantize_multiplier(2.0**-32 * (1 - 2.0**-40)) == (1 << 30, -31)
    assert numerics.quantize_multiplier(2.0**-32 * (1 - 2.0**-30)) == (0, 0)


@pytest.mark.parametrize(
    "real", [2.0**30, math.nextafter(2.0**30, 0), 1e300, -(2.0**30), math.inf, -math.inf, math.nan]
)
def test_quantize_multiplier_refuses(real: float) -> None:
    with pytest.raises(InputValueError, match="factor"):
        numerics.quantize_multiplier(real)


def test_quantize_multipliers_keeps_the_shape() -> None:
    multipliers, shifts = numerics.quantize_multipliers(np.array([[0.1, 0.0], [1.0, 0.75]]))
    assert multipliers.tolist() == [[1717986918, 0], [1 << 30, 1610612736]]
    assert shifts.tolist() == [[-3, 0], [1, 0]]
    assert numerics.quantize_multipliers(np.array(0.5))[0].shape == ()


def test_product_of_scales_in_float32_gives_another_multiplier() -> None:
    # As float32 0.05 = 13421773 * 2^-28, 0.02 = 5368709 * 2^-28, 0.01 = 5368709 * 2^-29.
    # float64 holds 0.05 * 0.02 exactly, so that the quotient by 0.01 is 13421773 * 2^-27
    #   = 0.80000001192... * 2^-3, m = 13421773 * 2^7 = 1717986944.
    # float32 keeps 24 bits of 13421773 * 5368709 = 72057593501057: 8589934.53 * 2^23 becomes 8589935 * 2^23; over
    # 5368709 that is 1.60000008762... * 2^-4, m = 1717987038.
    scales = (float(np.float32(0.05)), np.array([0.02], np.float32), float(np.float32(0.01)))
    (f64,) = numerics.real_multipliers(*scales, Product.F64)
    (f32,) = numerics.real_multipliers(*scales, Product.F32)
    assert f64 == 13421773 * 2.0**-27
    assert numerics.quantize_multiplier(f64) == (1717986944, -3)
    assert numerics.quantize_multiplier(f32) == (1717987038, -3)
    # An accumulator that tells them apart: 5440354 * m / 2^31 = 4352283.26 and 4352283.503, rounded 4352283 and
    # 4352284; an eighth of that is 544035.375 and 544035.5.
    telling = np.array([5440354])
    assert numerics.requantize(telling, Rounding.V1, np.array(f64)).tolist() == [544035]
    assert numerics.requantize(telling, Rounding.V1, np.array(f32)).tolist() == [544036]


def test_real_multipliers_against_fractions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(500):
        x, out = (float(np.float32(2.0 ** rng.uniform(-20, 10))) for _ in range(2))
        weights = (2.0 ** rng.uniform(-20, 5, 3)).astype(np.float32)
        context = f"seed {seed}: {x!r} * {weights!r} / {out!r}"
        for product in Product:
            exactly = [Fraction(x) * Fraction(float(w)) for w in weights]
            kept = exactly if product is Product.F64 else [exact.f32(value) for value in exactly]
            quotients = [value / Fraction(out) for value in kept]
            if product is Product.ALL_F32:
                quotients = [exact.f32(value) for value in quotients]
            want = np.array([float(value) for value in quotients])
            assert_equal_bits(numerics.real_multipliers(x, weights, out, product), want, f"{product} {context}")


# ----------------------------------------------------------------------------------------------- requantize V1


def independent_v1(acc: np.ndarray, multiplier: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """V1 as one would write it from its description: rounding quotients of magnitudes, signs put back."""
    left, right = np.maximum(shift, 0), np.maximum(-shift, 0)
    wrapped = (acc * 2**left + 2**31) % 2**32 - 2**31
    product = wrapped * multiplier
    # gemmlowp's nudge, then a truncating division.
    nudged = product + np.where(product >= 0, 2**30, 1 - 2**30)
    high = np.where(nudged < 0, -(-nudged // 2**31), nudged // 2**31)
    high = np.where((wrapped == INT32_MIN) & (multiplier == INT32_MIN), INT32_MAX, high)
    divisor = 2**right
    return np.sign(high) * ((np.abs(high) + divisor // 2) // divisor)


def check_v1(acc: np.ndarray, multiplier: np.ndarray, shift: np.ndarray, context: object) -> None:
    got = numerics.requantize_v1(acc, multiplier, shift)
    assert_equal_bits(got, exact.elementwise(exact.v1, acc, multiplier, shift), f"requantize_v1, {context}")


EXTREMES = np.array(
    [INT32_MIN, INT32_MIN + 1, -(1 << 30), -3, -2, -1, 0, 1, 2, 3, (1 << 30) - 1, 1 << 30, INT32_MAX - 1, INT32_MAX]
)


def test_v1_extremes_at_every_shift() -> None:
    multipliers = np.array([1 << 30, (1 << 30) + 1, 1717986918, INT32_MAX - 1, INT32_MAX, 0, -(1 << 30), -INT32_MAX])
    shifts = np.arange(-31, 31)
    check_v1(EXTREMES[:, None, None], multipliers[:, None], shifts, "extremes")


@pytest.mark.parametrize("right", range(32))
def test_v1_ties_of_both_signs_at_every_right_shift(right: int) -> None:
    # With m = 2^30, h = acc / 2: acc = +-(2 k + 1) * 2^right brings h onto a tie of the shift, acc odd onto one of SRDHM.
    near = np.arange(-40, 41)
    odd = np.concatenate([2 * near + 1, 2 * near])
    around = odd[:, None] * (1 << right) + np.array([-2, -1, 0, 1, 2])
    acc = around[(around >= INT32_MIN) & (around <= INT32_MAX)]
    check_v1(acc, np.array(1 << 30), np.array(-right), f"right shift {right}")
    # Three quarters: ties of h every 4 accumulators, ties of the shift among them.
    check_v1(acc, np.array(3 << 29), np.array(-right), f"right shift {right}, 3/4")


def test_v1_ties_on_paper() -> None:
    # m = 2^30 halves. acc = 6, r = 1: h = 3, 3 / 2 = 1.5 -> 2; acc = -6: h = -3, -1.5 -> -2 (away).
    assert numerics.requantize_v1(np.array([6, -6]), 1 << 30, -1).tolist() == [2, -2]
    # acc = 3: h = 1.5 -> 2; acc = -3: h = -1.5 -> -1 (up).
    assert numerics.requantize_v1(np.array([3, -3]), 1 << 30, 0).tolist() == [2, -1]
    # Both at once: acc = 5, h = 2.5 -> 3, 3 / 2 -> 2 although 5 / 4 = 1.25; acc = -5: h = -2.5 -> -2, -2 / 2 -> -1.
    assert numerics.requantize_v1(np.array([5, -5]), 1 << 30, -1).tolist() == [2, -1]


def test_v1_left_shifts_wrap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    acc = rng.integers(INT32_MIN, INT32_MAX + 1, (200, 1))
    multiplier = rng.integers(1 << 30, 1 << 31, (200, 1))
    check_v1(acc, multiplier, np.arange(31), f"left shifts, seed {seed}")
    # 2^30 << 1 is -2^31, and -2^31 * 2^30 / 2^31 is -2^30.
    assert numerics.requantize_v1(np.array([1 << 30]), 1 << 30, 1).tolist() == [-(1 << 30)]


def test_v1_only_the_smallest_squared_saturates() -> None:
    assert numerics.saturating_rounding_doubling_high_mul(np.array([INT32_MIN]), INT32_MIN).tolist() == [INT32_MAX]
    got = numerics.saturating_rounding_doubling_high_mul(EXTREMES[:, None], EXTREMES)
    assert_equal_bits(got, exact.elementwise(exact.high_mul, EXTREMES[:, None], EXTREMES), "SRDHM of extremes")


def test_rounding_divide_by_pot_of_extremes() -> None:
    exponents = np.arange(32)
    got = numerics.rounding_divide_by_pot(EXTREMES[:, None], exponents)
    assert_equal_bits(got, exact.elementwise(exact.divide_by_pot, EXTREMES[:, None], exponents), "RDBP of extremes")


def random_triples(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Accumulators of every magnitude, multipliers of every trailing-zero count (which make ties), all shifts."""
    acc = rng.integers(INT32_MIN, INT32_MAX + 1, count) >> rng.integers(0, 31, count)
    multiplier = rng.integers(1 << 30, 1 << 31, count)
    zeros = rng.integers(0, 31, count)
    multiplier = np.where(rng.random(count) < 0.5, multiplier, multiplier >> zeros << zeros)
    return acc, multiplier, rng.integers(-31, 31, count)


def test_v1_on_200_thousand_random_triples(seed: int) -> None:
    """Python integers decide, and vouch for the NumPy formulation that the next test uses."""
    triples = random_triples(np.random.default_rng(seed), 200_000)
    want = exact.elementwise(exact.v1, *triples)
    assert_equal_bits(independent_v1(*triples), want, f"independent_v1, seed {seed}")
    assert_equal_bits(numerics.requantize_v1(*triples), want, f"requantize_v1, seed {seed}")


def test_v1_on_10_million_random_triples(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for block in range(40):
        triples = random_triples(rng, 250_000)
        got = numerics.requantize_v1(*triples)
        assert_equal_bits(got, independent_v1(*triples), f"requantize_v1, seed {seed}, block {block}")


@given(st.integers(INT32_MIN, INT32_MAX), st.integers(1 << 30, INT32_MAX), st.integers(-31, 30))
def test_v1_one_by_one(acc: int, multiplier: int, shift: int) -> None:
    assert numerics.requantize_v1(np.array(acc), multiplier, shift) == exact.v1(acc, multiplier, shift)


def test_v1_per_channel_broadcasts_along_the_last_axis(seed: int) -> None:
    acc = np.random.default_rng(seed).integers(-10_000, 10_000, (4, 5, 3))
    reals = np.array([0.1, 0.0, 3.3])
    pairs = [exact.multiplier_and_shift(float(real)) for real in reals]
    want = exact.elementwise(exact.v1, acc, np.array([m for m, _ in pairs]), np.array([s for _, s in pairs]))
    assert_equal_bits(numerics.requantize(acc, Rounding.V1, reals), want, f"seed {seed}")


# ----------------------------------------------------------------------------------------------- requantize V6


def test_v6_against_fractions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    acc = rng.integers(INT32_MIN, INT32_MAX + 1, 20_000) >> rng.integers(0, 31, 20_000)
    real = 2.0 ** rng.uniform(-40, -1, 20_000)
    # Half of them dyadic: acc * real then hits ties.
    real = np.where(rng.random(20_000) < 0.5, real, np.ldexp(rng.integers(1, 16, 20_000), -rng.integers(1, 30, 20_000)))
    want = np.array([exact.v6(int(a), float(r)) for a, r in zip(acc, real, strict=True)])
    want = np.clip(want, INT32_MIN, INT32_MAX)
    assert_equal_bits(numerics.requantize_v6(acc, real), want, f"seed {seed}")


def test_v6_rounds_once_where_v1_rounds_twice() -> None:
    # 5 / 4 = 1.25: V1 rounds 2.5 to 3 and 1.5 to 2.
    assert numerics.requantize_v6(np.array([5, -5, 2, -2, 6, -6]), 0.25).tolist() == [1, -1, 1, -1, 2, -2]
    assert numerics.requantize_v1(np.array([5]), *numerics.quantize_multiplier(0.25)).tolist() == [2]


def test_v6_saturates_to_int32() -> None:
    got = numerics.requantize_v6(np.array([INT32_MAX, INT32_MIN, 1, 0]), 2.0**40)
    assert got.tolist() == [INT32_MAX, INT32_MIN, INT32_MAX, 0]


def test_requantize_refuses_rules_without_an_accumulator() -> None:
    for rounding in (Rounding.EXACT, Rounding.TABLE_F32, Rounding.FIXED_POINT, Rounding.AFFINE_F32):
        with pytest.raises(InputValueError, match=rounding.name):
            numerics.requantize(np.zeros(1), rounding, np.ones(1))


def test_wrap_int32() -> None:
    values = np.array([0, 2**31 - 1, 2**31, -(2**31) - 1, 2**32, 2**33 + 5, -(2**40) - 3])
    assert_equal_bits(numerics.wrap_int32(values), exact.elementwise(exact.wrap, values), "wrap")


# ------------------------------------------------------------------------------------------- activation ranges


@pytest.mark.parametrize(
    ("activation", "scale", "zero_point", "dtype", "want"),
    [
        (None, 0.1, 5, "int8", (-128, 127)),
        ("relu", 0.1, 5, "int8", (5, 127)),
        ("relu", 0.1, 127, "int8", (127, 127)),
        ("relu", 0.1, -128, "int8", (-128, 127)),
        ("relu6", 0.1, 5, "int8", (5, 65)),
        ("relu6", 0.01, 5, "int8", (5, 127)),  # 605 lies beyond the dtype
        ("relu6", 0.05, 3, "uint8", (3, 123)),
        ("relu_n1_to_1", 0.25, 0, "int8", (-4, 4)),
        ("relu_n1_to_1", 0.01, 250, "uint8", (150, 255)),
        # Ties: 6 / 4 = 1.5 -> 2; +-1 / 0.4 = +-2.5 -> +-3 (float32: 1 / 0.4f is 2.5), +-1 / 2 = +-0.5 -> +-1.
        ("relu6", 4.0, 0, "int8", (0, 2)),
        ("relu_n1_to_1", 0.4, 0, "int8", (-3, 3)),
        ("relu_n1_to_1", 2.0, 10, "int8", (9, 11)),
        # A scale so small that 6 / scale is no float32.
        ("relu6", 1e-39, -1, "int8", (-1, 127)),
        ("relu_n1_to_1", 1e-39, -1, "int8", (-128, 127)),
    ],
)
def test_activation_range(
    activation: str | None, scale: float, zero_point: int, dtype: str, want: tuple[int, int]
) -> None:
    assert numerics.activation_range(activation, Quant(scale, zero_point, dtype=dtype)) == want


def test_activation_range_divides_in_float32(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Scales at which the bound's quotient is within a rounding of a tie.
    for halves in range(1, 200, 2):
        for bound in (6, 1):
            near = np.float32(bound / (halves / 2))
            for scale in (np.nextafter(near, np.float32(0)), near, np.nextafter(near, np.float32(9))):
                name = "relu6" if bound == 6 else "relu_n1_to_1"
                zero_point = int(rng.integers(-128, 128))
                want = exact.clamp(exact.bound_code(bound, exact.scale_of(scale), zero_point), -128, 127)
                got = numerics.activation_range(name, Quant(scale, zero_point))[1]
                assert got == want, (name, float(scale), zero_point, seed)


def test_activation_range_refuses() -> None:
    with pytest.raises(InputValueError, match="'tanh'"):
        numerics.activation_range("tanh", Quant(0.1))


# --------------------------------------------------------------------------------------------------- profiles


@dataclass
class Operator:
    """As much of a Spec as profiles look at."""

    op: str
    dtype: str
    w_quant: Any = None
    weight_bits: int = 8

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return np.dtype(self.dtype)


PER_TENSOR, PER_CHANNEL = Quant(0.1), Quant([0.1, 0.2], axis=0)
EVERYWHERE = [
    "RESHAPE",
    "SQUEEZE",
    "EXPAND_DIMS",
    "PAD",
    "RESIZE_NEAREST_NEIGHBOR",
    "ARG_MAX",
    "AVERAGE_POOL_2D",
    "MAX_POOL_2D",
]

RULES: list[tuple[str, str, str, Quant | None, Rule | None]] = [
    *(("litert_ref", op, "int8", PER_TENSOR, Rule(Rounding.V1)) for op in ("CONV_2D", "DEPTHWISE_CONV_2D")),
    *(("litert_ref", op, "int8", PER_CHANNEL, Rule(Rounding.V1)) for op in ("CONV_2D", "DEPTHWISE_CONV_2D")),
    *(
        ("litert_ref", op, "uint8", PER_TENSOR, Rule(Rounding.V1, Product.F32))
        for op in ("CONV_2D", "DEPTHWISE_CONV_2D")
    ),
    ("litert_ref", "FULLY_CONNECTED", "int8", PER_TENSOR, Rule(Rounding.V6)),
    ("litert_ref", "FULLY_CONNECTED", "int8", PER_CHANNEL, Rule(Rounding.V6)),
    ("litert_ref", "FULLY_CONNECTED", "uint8", PER_TENSOR, Rule(Rounding.V6)),
    ("tflm", "CONV_2D", "int8", PER_CHANNEL, Rule(Rounding.V1)),
    ("tflm", "DEPTHWISE_CONV_2D", "int8", PER_TENSOR, Rule(Rounding.V1)),
    ("tflm", "FULLY_CONNECTED", "int8", PER_TENSOR, Rule(Rounding.V1, Product.F64)),
    ("tflm", "FULLY_CONNECTED", "int8", PER_CHANNEL, Rule(Rounding.V1, Product.F64)),
    *(
        (profile, op, "int8", None, Rule(Rounding.V1))
        for profile in ("litert_ref", "tflm")
        for op in ("ADD", "SUB", "MEAN", "QUANTIZE")
    ),
    *(("litert_ref", op, "uint8", None, Rule(Rounding.V1)) for op in ("ADD", "SUB", "MEAN", "QUANTIZE")),
    *(
        ("litert_ref", op, dtype, None, Rule(Rounding.V1, Product.ALL_F32))
        for op in ("MUL", "RELU", "RELU6")
        for dtype in ("int8", "uint8")
    ),
    *(("tflm", op, "int8", None, Rule(Rounding.V1)) for op in ("MUL", "RELU")),
    ("tflm", "RELU6", "int8", None, Rule(Rounding.EXACT)),
    *((profile, "QUANTIZE", "float32", None, Rule(Rounding.AFFINE_F32)) for profile in ("litert_ref", "tflm")),
    *((profile, "DEQUANTIZE", "int8", None, Rule(Rounding.AFFINE_F32)) for profile in ("litert_ref", "tflm")),
    *((profile, "SOFTMAX", "int8", None, Rule(Rounding.FIXED_POINT)) for profile in ("litert_ref", "tflm")),
    *(("litert_ref", op, "int8", None, Rule(Rounding.TABLE_F32)) for op in ("LOGISTIC", "TANH")),
    *(("tflm", op, "int8", None, Rule(Rounding.FIXED_POINT)) for op in ("LOGISTIC", "TANH")),
    ("tflm", "ELU", "int8", None, Rule(Rounding.TABLE_F32_EXP)),
    *(("litert_ref", op, "int8", None, Rule(Rounding.V1, Product.ALL_F32)) for op in ("LEAKY_RELU", "PRELU", "ABS")),
    *(("tflm", op, "int8", None, Rule(Rounding.V1)) for op in ("LEAKY_RELU", "PRELU", "ABS", "SUM", "TRANSPOSE_CONV")),
    ("litert_ref", "SUM", "int8", None, Rule(Rounding.V1_BYTES)),
    ("litert_ref", "SUM", "uint8", None, Rule(Rounding.V1)),
    ("litert_ref", "BATCH_MATMUL", "int8", None, Rule(Rounding.V1, Product.F32)),
    ("tflm", "BATCH_MATMUL", "int8", None, Rule(Rounding.V1)),
    ("litert_ref", "RESIZE_BILINEAR", "int8", None, Rule(Rounding.EXACT)),
    ("litert_ref", "RESIZE_BILINEAR", "uint8", None, Rule(Rounding.AFFINE_F32)),
    ("litert_ref", "CONCATENATION", "int8", None, Rule(Rounding.EXACT)),
    ("litert_ref", "CONCATENATION", "uint8", None, Rule(Rounding.AFFINE_F32)),
    *((profile, op, "int8", None, Rule(Rounding.EXACT)) for profile in ("litert_ref", "tflm") for op in EVERYWHERE),
    # What a runtime does not run, its profile refuses.
    ("litert_ref", "CONV_2D", "int32", PER_CHANNEL, None),
    ("litert_ref", "ELU", "int8", None, None),
    ("litert_ref", "GELU", "int8", None, None),
    *(("tflm", op, "uint8", PER_TENSOR, None) for op in ("CONV_2D", "FULLY_CONNECTED", "ADD", "SOFTMAX", "PAD")),
    ("tflm", "RELU", "uint8", None, None),
    ("tflm", "RESIZE_BILINEAR", "int16", None, None),
    ("tflm", "TRANSPOSE", "int32", None, None),
    ("tflm", "TILE", "int8", None, None),
]


@pytest.mark.parametrize(("profile", "op", "dtype", "w_quant", "rule"), RULES)
def test_profiles(profile: str, op: str, dtype: str, w_quant: Quant | None, rule: Rule | None) -> None:
    operator = Operator(op, dtype, w_quant)
    if rule is None:
        with pytest.raises(UnsupportedModel, match=f"{op} on {dtype} .*{profile}"):
            profiles.resolve(profile, operator)
    else:
        assert profiles.resolve(profile, operator) == rule


def test_profiles_have_names() -> None:
    with pytest.raises(InputValueError, match="litert_ref, tflm, litert_opt, xnnpack, single"):
        profiles.profile("litert")
    for name, profile in profiles.PROFILES.items():
        assert profile.name == name
        assert profile.reproduces
