"""TANH, ELU, HARD_SWISH, LEAKY_RELU, ABS, NEG, SQRT, RSQRT, RELU_N1_TO_1, RELU_0_TO_1: every code by scalars."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from gpuq import InputTypeError, InputValueError, Quant, cpu
from gpuq.numerics import Product, Rounding, Rule
from gpuq.ops.abs_neg import AbsSpec, NegSpec
from gpuq.ops.elu import EluSpec
from gpuq.ops.hard_swish import HardSwishSpec
from gpuq.ops.leaky_relu import LeakyReluSpec
from gpuq.ops.registry import reference
from gpuq.ops.relu import Relu0To1Spec, ReluN1To1Spec
from gpuq.ops.sqrt import RsqrtSpec, SqrtSpec
from gpuq.ops.tanh import TanhSpec

from . import exact, gemmlowp
from .compare import assert_equal_bits
from .launching import launched
from .layers import zero_point

F32, F32_EXP, FIXED = (Rule(r) for r in (Rounding.TABLE_F32, Rounding.TABLE_F32_EXP, Rounding.FIXED_POINT))
F32_EVEN, FIXED_SINGLE = Rule(Rounding.TABLE_F32_EVEN), Rule(Rounding.FIXED_POINT_SINGLE)
V1_F32, V1, V2, Q8 = Rule(Rounding.V1, Product.ALL_F32), Rule(Rounding.V1), Rule(Rounding.V2), Rule(Rounding.Q8)


def every_code(dtype: str) -> np.ndarray:
    return np.arange(256, dtype=np.uint8).view(dtype)


def check(spec: Any, rule: Rule, want: Callable[[int], int], context: object) -> None:
    """reference() and the CPU plan of all codes, in any order, against a function of q - zp_x that gives codes."""
    codes = every_code(str(spec.x_quant.dtype))
    out = spec.out_quant
    results = [exact.clamp(want(int(q) - spec.x_quant.scalar_zero_point()), out.qmin, out.qmax) for q in codes]
    expected = np.array(results, out.dtype)
    assert_equal_bits(reference(spec, rule, codes), expected, (context, spec))
    rng = np.random.default_rng(0)
    order = rng.permutation(256)
    plan = cpu.pack(spec, rule, [None])
    assert plan.name == f"{spec.op.lower()}_table"
    assert_equal_bits(
        launched(plan, [codes[order][None]], (1, 256), out.dtype, rng), expected[order][None], (context, spec)
    )


def quants(rng: np.random.Generator, dtype: str, low: float = -10, high: float = 2) -> dict[str, Any]:
    return dict(
        shape=(256,),
        x_quant=Quant(np.float32(2.0 ** rng.uniform(low, high)), zero_point(rng, dtype), dtype=dtype),
        out_quant=Quant(np.float32(2.0 ** rng.uniform(low, high)), zero_point(rng, dtype), dtype=dtype),
    )


def float_code(real: Fraction, out: Quant) -> int:
    """round(y * (1 / s)) + zp in float32, real being a float32 value."""
    inverse = exact.f32(1 / exact.scale_of(out.scalar_scale()))
    return exact.round_away(exact.f32(real * inverse)) + out.scalar_zero_point()


def even_code(real: Fraction, out: Quant) -> int:
    """round(y * (1 / s) + zp) in float32, ties to even, real being a float32 value."""
    inverse = exact.f32(1 / exact.scale_of(out.scalar_scale()))
    return round(exact.f32(exact.f32(real * inverse) + out.scalar_zero_point()))


# --------------------------------------------------------------------------------------------------------- TANH, ELU


def test_tanh_by_hand() -> None:
    # Scale atanh(1/2) / 10: code 10 is 1/2 -> 64/128; 127 and -128 are near 1: 128 clamped to 127, and -128.
    spec = TanhSpec(shape=(4,), x_quant=Quant(math.atanh(0.5) / 10), out_quant=Quant(1 / 128))
    x = np.array([[0, 10, -10, 127, -128]], np.int8)
    for rule in (F32, FIXED):
        assert reference(spec, rule, x).tolist() == [[0, 64, -64, 127, -128]]


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize(("rule", "code"), [(F32, float_code), (F32_EVEN, even_code)])
def test_tanh_in_float32(dtype: str, rule: Rule, code: Callable[[Fraction, Quant], int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(20):
        spec = TanhSpec(**quants(rng, dtype))
        scale = exact.scale_of(spec.x_quant.scalar_scale())
        check(
            spec,
            rule,
            lambda d, scale=scale, spec=spec: code(exact.f32(math.tanh(float(exact.f32(scale * d)))), spec.out_quant),
            f"seed {seed}",
        )


def test_ties_of_tanh_and_elu_by_hand() -> None:
    # 1 is 20.5 steps: 21 away from zero, and with a zero point of 3 the even 24 or, from 23.5, no other.
    codes = np.array([[-128, 127]], np.int8)
    out = Quant(np.float32(1 / 20.5), 3)
    tanh = TanhSpec(shape=(2,), x_quant=Quant(1.0), out_quant=out)
    assert reference(tanh, F32, codes).tolist() == [[-18, 24]]
    assert reference(tanh, F32_EVEN, codes).tolist() == [[-18, 24]]
    tanh = replace(tanh, out_quant=replace(out, zero_point=4))
    assert reference(tanh, F32, codes).tolist() == [[-17, 25]]
    assert reference(tanh, F32_EVEN, codes).tolist() == [[-16, 24]]
    elu = EluSpec(shape=(2,), x_quant=Quant(0.5), out_quant=Quant(1.0, 2))
    assert reference(elu, F32, np.array([[5, 7]], np.int8)).tolist() == [[5, 6]]
    assert reference(elu, F32_EVEN, np.array([[5, 7]], np.int8)).tolist() == [[4, 6]]


@pytest.mark.parametrize(("rule", "rounded"), [(FIXED, exact.v1), (FIXED_SINGLE, exact.v2)])
def test_tanh_in_fixed_point_ignores_the_output(rule: Rule, rounded: Callable[..., int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(20):
        spec = TanhSpec(**quants(rng, "int8", -14, 6))
        multiplier, left_shift = exact.multiplier_and_shift(exact.scale_of(spec.x_quant.scalar_scale()) * 2**27)
        radius = math.floor(15 * 2.0**27 / 2.0**left_shift)

        def want(d: int, multiplier: int = multiplier, left_shift: int = left_shift, radius: int = radius) -> int:
            if d <= -radius or d >= radius:
                return -128 if d <= -radius else 127
            return exact.divide_by_pot(gemmlowp.tanh(rounded(d, multiplier, left_shift), 4), 24)

        check(spec, rule, want, f"seed {seed}")


# exp(-x) - 1 of a tiny x loses most of its bits in float32; on a scale as fine the codes show it.
RULES_DIFFER = EluSpec(shape=(256,), x_quant=Quant(2.0**-20 * 1.3, 127), out_quant=Quant(2.0**-26, 127))


@pytest.mark.parametrize("rule", [F32, F32_EXP, F32_EVEN])
def test_elu(rule: Rule, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for spec in [RULES_DIFFER, *(EluSpec(**quants(rng, "int8")) for _ in range(20))]:
        scale = exact.scale_of(spec.x_quant.scalar_scale())

        def want(d: int, scale: Fraction = scale, spec: EluSpec = spec) -> int:
            real = exact.f32(scale * d)
            if real < 0 and rule is not F32_EXP:
                real = exact.f32(math.expm1(float(real)))
            elif real < 0:
                real = exact.f32(exact.f32(math.exp(float(real))) - 1)
            return (even_code if rule is F32_EVEN else float_code)(real, spec.out_quant)

        check(spec, rule, want, f"seed {seed}")


def test_elu_rules_differ() -> None:
    codes = every_code("int8")
    assert np.any(reference(RULES_DIFFER, F32, codes) != reference(RULES_DIFFER, F32_EXP, codes))


# --------------------------------------------------------------------------------------------------------- HARD_SWISH


def hard_swish(d: int, x_scale: float, out_scale: float) -> int:
    """internal/reference/hard_swish.h, line by line; the result before its zero point."""

    def high_mul16(a: int, b: int) -> int:
        nudge = (1 << 14) if a * b >= 0 else 1 - (1 << 14)
        return min(exact.trunc_div(a * b + nudge, 1 << 15), 32767)

    def saturating_left_shift(value: int, amount: int) -> int:
        return exact.clamp(value << amount, -32768, 32767)

    def narrowed(real: Fraction) -> tuple[int, int]:
        multiplier, exponent = exact.multiplier_and_shift(real)
        return (32767 if multiplier >= exact.INT32_MAX - (1 << 15) else (multiplier + (1 << 15)) >> 16), exponent

    hires = exact.f32(exact.scale_of(x_scale) / 128)
    out_multiplier, out_exponent = narrowed(exact.f32(hires / exact.scale_of(out_scale)))
    relu_multiplier, relu_exponent = narrowed(exact.f32(hires / exact.f32(Fraction(3, 32768))))
    value = d << 7
    preshift = high_mul16(value, out_multiplier)
    reluish = value
    if relu_exponent > 0:
        reluish = saturating_left_shift(reluish, relu_exponent - 1)
    reluish = high_mul16(reluish, relu_multiplier)
    if relu_exponent > 0:
        reluish = saturating_left_shift(reluish, 1)
    if relu_exponent < 0:
        reluish = exact.divide_by_pot(reluish, -relu_exponent)
    reluish = (reluish + (1 << 15)) >> 1
    return exact.divide_by_pot(exact.trunc_div(reluish * preshift, 1 << 15), -out_exponent)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_hard_swish(dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for number in range(40):
        x_scale = np.float32(2.0 ** rng.uniform(*((-8, 1) if number % 2 else (-20, 15))))
        out_scale = np.float32(x_scale * 2.0 ** rng.uniform(-6.9, 4))
        spec = HardSwishSpec(
            shape=(256,),
            x_quant=Quant(x_scale, zero_point(rng, dtype), dtype=dtype),
            out_quant=Quant(out_scale, zero_point(rng, dtype), dtype=dtype),
        )
        zero = spec.out_quant.scalar_zero_point()
        check(
            spec,
            FIXED,
            lambda d, x=float(x_scale), out=float(out_scale), zero=zero: hard_swish(d, x, out) + zero,
            f"seed {seed}",
        )


def test_hard_swish_is_nearly_the_function() -> None:
    spec = HardSwishSpec(shape=(256,), x_quant=Quant(0.05), out_quant=Quant(0.05))
    x = np.arange(-128, 128) * 0.05
    real = x * np.clip(x + 3, 0, 6) / 6
    got = reference(spec, FIXED, every_code("int8")).astype(int) * 0.05
    assert np.abs(np.sort(got) - np.sort(real)).max() < 0.04


def test_hard_swish_refuses() -> None:
    with pytest.raises(InputValueError, match="128 output scales"):
        HardSwishSpec(shape=(1,), x_quant=Quant(1.28), out_quant=Quant(0.01))
    with pytest.raises(InputValueError, match="2\\^-37"):
        HardSwishSpec(shape=(1,), x_quant=Quant(2.0**-38), out_quant=Quant(2.0**-38))
    with pytest.raises(InputValueError, match="must be below 2\\^30"):
        HardSwishSpec(shape=(1,), x_quant=Quant(2.0**30), out_quant=Quant(2.0**30))


# --------------------------------------------------------------------------------------------- LEAKY_RELU, ABS, RELUs


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("rule", [V1_F32, V1, V2])
def test_leaky_relu(dtype: str, rule: Rule, seed: int) -> None:
    rng = np.random.default_rng(seed)
    by_real = exact.BY_REAL[rule.rounding.value]
    rounded = exact.f32 if rule is V1_F32 else Fraction
    for alpha in [0.0, 1.0, 0.5, 0.25, -0.5, 2.5, *rng.uniform(-1, 1, 12)]:
        spec = LeakyReluSpec(**quants(rng, dtype, -4, 2), alpha=float(np.float32(alpha)))
        x_scale, out_scale = (exact.scale_of(q.scalar_scale()) for q in (spec.x_quant, spec.out_quant))
        identity = float(rounded(x_scale / out_scale))
        slope = float(rounded(rounded(x_scale * exact.scale_of(alpha)) / out_scale))

        def want(d: int, spec: Any = spec, identity: float = identity, slope: float = slope) -> int:
            if d >= 0:
                value = by_real(d, identity)
            else:
                value = by_real(d, abs(slope)) * (1 if slope >= 0 else -1)
            return value + int(spec.out_quant.scalar_zero_point())

        check(spec, rule, want, f"seed {seed}")


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_leaky_relu_in_256ths(dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for alpha in [1.0, 0.5, -0.25, 2.5, *rng.uniform(-1, 1, 12)]:
        spec = LeakyReluSpec(**quants(rng, dtype, -4, 2), alpha=float(np.float32(alpha)))
        ratio = exact.f32(exact.scale_of(spec.x_quant.scalar_scale()) / exact.scale_of(spec.out_quant.scalar_scale()))
        factors = [round(256 * ratio), round(256 * exact.f32(ratio * exact.scale_of(alpha)))]

        def want(d: int, spec: Any = spec, factors: list[int] = factors) -> int:
            value = math.floor(Fraction(d * factors[d < 0], 256) + Fraction(1, 2))
            return value + int(spec.out_quant.scalar_zero_point())

        check(spec, Q8, want, f"seed {seed}")


def test_leaky_relu_refuses() -> None:
    with pytest.raises(InputValueError, match="alpha nan must be finite"):
        LeakyReluSpec(shape=(1,), x_quant=Quant(1.0), out_quant=Quant(1.0), alpha=float("nan"))


@pytest.mark.parametrize("rule", [V1_F32, V1, V2])
def test_abs(rule: Rule, seed: int) -> None:
    by_real = exact.BY_REAL[rule.rounding.value]
    rng = np.random.default_rng(seed)
    rounded = exact.f32 if rule is V1_F32 else Fraction
    for number in range(20):
        made = quants(rng, "int8", -4, 2)
        if number % 4 == 0:
            made["out_quant"] = Quant(made["x_quant"].scale, made["out_quant"].zero_point)
        spec = AbsSpec(**made)
        ratio = exact.scale_of(spec.x_quant.scalar_scale()) / exact.scale_of(spec.out_quant.scalar_scale())
        factor, zero = float(rounded(ratio)), spec.out_quant.scalar_zero_point()
        check(
            spec,
            rule,
            lambda d, factor=factor, zero=zero: (abs(d) if factor == 1 else by_real(abs(d), factor)) + zero,
            f"seed {seed}",
        )


@pytest.mark.parametrize(("spec_type", "low", "high"), [(ReluN1To1Spec, -1, 1), (Relu0To1Spec, 0, 1)])
def test_relus_to_1(spec_type: Any, low: int, high: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for dtype in ("int8", "uint8"):
        for _ in range(10):
            spec = spec_type(**quants(rng, dtype, -8, 0))
            out_scale, zero = exact.scale_of(spec.out_quant.scalar_scale()), spec.out_quant.scalar_zero_point()
            factor = float(exact.f32(exact.scale_of(spec.x_quant.scalar_scale()) / out_scale))
            ends = [exact.bound_code(bound, out_scale, zero) for bound in (low, high)]
            check(
                spec,
                V1_F32,
                lambda d, f=factor, z=zero, e=ends: exact.clamp(exact.v1_real(d, f) + z, *e),
                f"seed {seed}",
            )


# ------------------------------------------------------------------------------------------------------- SQRT, RSQRT


def test_roots_by_hand() -> None:
    # Codes 0, 1, 4, 16 of 0.25 are 0, 0.25, 1, 4: roots 0, 0.5, 1, 2 are 0, 5, 10, 20 of 0.1 or just below, and are
    # truncated; reciprocal roots of the last three are 20, 10, 5.
    x = np.array([[-9, 0, 1, 4, 16]], np.int8)
    quants: dict[str, Any] = dict(shape=(5,), x_quant=Quant(0.25), out_quant=Quant(0.1, 3))
    assert reference(SqrtSpec(**quants), F32, x).tolist() == [[3, 3, 8, 13, 23]]
    assert reference(RsqrtSpec(**quants), V1, x).tolist() == [[127, 127, 23, 13, 8]]


def test_sqrt(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(20):
        spec = SqrtSpec(**quants(rng, "int8", -8, 2))
        x_scale, out_scale = (exact.scale_of(q.scalar_scale()) for q in (spec.x_quant, spec.out_quant))

        def want(d: int, spec: Any = spec, x_scale: Fraction = x_scale, out_scale: Fraction = out_scale) -> int:
            # The root of a float32, correctly rounded: a double's root is close enough to round once more.
            root = exact.f32(math.sqrt(float(exact.f32(x_scale * max(d, 0)))))
            return int(exact.f32(root / out_scale)) + int(spec.out_quant.scalar_zero_point())

        check(spec, F32, want, f"seed {seed}")


@pytest.mark.parametrize("rule", [V1_F32, V1, V2])
def test_rsqrt(rule: Rule, seed: int) -> None:
    requantize = exact.v2 if rule is V2 else exact.v1
    rng = np.random.default_rng(seed)
    rounded = exact.f32 if rule is V1_F32 else Fraction
    # Of real 4 the root is half a step or just below: rounded twice it goes up, rounded once down.
    near_tie = RsqrtSpec(shape=(256,), x_quant=Quant(0.5, -128), out_quant=Quant(1.0, -128))
    for spec in [near_tie, *(RsqrtSpec(**quants(rng, "int8", -8, 2)) for _ in range(20))]:
        root = exact.f32(math.sqrt(spec.x_quant.scalar_scale()))
        factor = 1 / float(rounded(root * exact.scale_of(spec.out_quant.scalar_scale())))
        multiplier, shift = exact.multiplier_and_shift(factor)

        def want(d: int, spec: Any = spec, multiplier: int = multiplier, shift: int = shift) -> int:
            if d <= 0:
                return 127
            inverse, inverse_shift = gemmlowp.get_inv_sqrt_quantized_multiplier_exp(d)
            raised = requantize(1, inverse, inverse_shift + 20)
            return requantize(raised, multiplier, shift - 20) + int(spec.out_quant.scalar_zero_point())

        check(spec, rule, want, f"seed {seed}")


# ------------------------------------------------------------------------------------------------------------- NEG


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64"])
def test_neg_wraps(dtype: str) -> None:
    lowest, highest = np.iinfo(dtype).min, np.iinfo(dtype).max
    spec = NegSpec(shape=(5,), dtype=np.dtype(dtype))
    x = np.array([[lowest, -1, 0, 1, highest]], dtype)
    want = np.array([[lowest, 1, 0, -1, -highest]], dtype)
    assert_equal_bits(reference(spec, Rule(Rounding.EXACT), x), want, dtype)


def test_dtypes_that_are_refused() -> None:
    for spec_type in (EluSpec, AbsSpec, SqrtSpec, RsqrtSpec):
        with pytest.raises(InputTypeError, match="input of uint8"):
            spec_type(shape=(1,), x_quant=Quant(1.0, dtype="uint8"), out_quant=Quant(1.0, dtype="uint8"))
    with pytest.raises(InputTypeError, match="NEG: input of uint8"):
        NegSpec(shape=(1,), dtype=np.dtype("uint8"))
    with pytest.raises(InputTypeError, match="TANH: output of uint8"):
        TanhSpec(shape=(1,), x_quant=Quant(1.0), out_quant=Quant(1.0, dtype="uint8"))
    with pytest.raises(InputValueError, match="too small"):
        TanhSpec(shape=(1,), x_quant=Quant(1.0), out_quant=Quant(1e-45))
