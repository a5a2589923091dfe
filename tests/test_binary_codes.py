"""PRELU, SQUARED_DIFFERENCE, MAXIMUM, MINIMUM, comparisons and SELECT: broadcasting, constants, scalar definitions."""

from __future__ import annotations

import operator
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from gpuq import InputTypeError, InputValueError, Quant, cpu
from gpuq.numerics import Product, Rounding, Rule
from gpuq.ops.comparison import COMPARISONS, EqualSpec, LessSpec
from gpuq.ops.leaky_relu import PreluSpec
from gpuq.ops.maximum_minimum import MaximumSpec, MinimumSpec
from gpuq.ops.registry import constant_operands, reference
from gpuq.ops.select import SelectSpec, SelectV2Spec
from gpuq.ops.squared_difference import SquaredDifferenceSpec

from . import exact
from .compare import assert_equal_bits
from .launching import launched
from .layers import codes, zero_point

V1_F32, V1, EXACT = Rule(Rounding.V1, Product.ALL_F32), Rule(Rounding.V1), Rule(Rounding.EXACT)
SHAPES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((5,), (5,)),
    ((2, 3, 7), (7,)),
    ((2, 1, 5), (3, 5)),
    ((3, 4), ()),
    ((1, 2, 3, 5), (1, 1, 1, 5)),
]


def check(
    spec: Any, rule: Rule, operands: list[np.ndarray], want: Callable[..., int], rng: np.random.Generator, context: Any
) -> None:
    """Three runs of reference() and of the CPU plan, with and without a constant second operand."""
    rank = len(spec.output_shape)
    wide = [x.reshape(x.shape[0], *(1,) * (rank + 1 - x.ndim), *x.shape[1:]) for x in operands]
    for constant in (False, True):
        used = [wide[0], wide[1][:1] if constant else wide[1]]
        expected = exact.elementwise(want, *used)
        constants = [None, operands[1][0] if constant else None]
        live = operands[:1] if constant else operands
        given = [x if c is None else c for x, c in zip(operands, constant_operands(spec, constants), strict=True)]
        got = reference(spec, rule, *given)
        expected = expected.astype(got.dtype)
        assert_equal_bits(got, expected, (context, constant, spec))
        plan = cpu.pack(spec, rule, constants)
        copies = [x.copy() for x in live]
        assert_equal_bits(launched(plan, copies, expected.shape, got.dtype, rng), expected, (plan.name, context, spec))


def quant(rng: np.random.Generator, dtype: str, low: float, high: float) -> Quant:
    power = rng.integers(int(low), int(high) + 1) if rng.random() < 0.5 else rng.uniform(low, high)
    return Quant(np.float32(2.0**power), zero_point(rng, dtype), dtype=dtype)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("rule", [V1_F32, V1])
@pytest.mark.parametrize(("a_shape", "b_shape"), SHAPES)
def test_prelu(dtype: str, rule: Rule, a_shape: tuple[int, ...], b_shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    rounded = exact.f32 if rule is V1_F32 else Fraction
    spec = PreluSpec(
        a_shape=a_shape,
        b_shape=b_shape,
        a_quant=quant(rng, dtype, -4, 0),
        b_quant=quant(rng, dtype, -8, -5),
        out_quant=quant(rng, dtype, -4, 0),
    )
    x_scale, alpha_scale, out_scale = (
        exact.scale_of(q.scalar_scale()) for q in (spec.a_quant, spec.b_quant, spec.out_quant)
    )
    identity, slope = rounded(x_scale / out_scale), rounded(rounded(x_scale * alpha_scale) / out_scale)
    x_zero, alpha_zero = spec.a_quant.scalar_zero_point(), spec.b_quant.scalar_zero_point()

    def want(x: int, alpha: int) -> int:
        if x >= x_zero:
            value = exact.v1_real(x - x_zero, float(identity))
        else:
            value = exact.v1_real((x - x_zero) * (alpha - alpha_zero), float(slope))
        return exact.clamp(value + spec.out_quant.scalar_zero_point(), spec.out_quant.qmin, spec.out_quant.qmax)

    operands = [codes(rng, (3, *shape), dtype) for shape in (a_shape, b_shape)]
    check(spec, rule, operands, want, rng, f"seed {seed}")


@pytest.mark.parametrize(("a_shape", "b_shape"), SHAPES)
def test_squared_difference(a_shape: tuple[int, ...], b_shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(4):
        a_quant, b_quant = quant(rng, "int8", -6, 0), quant(rng, "int8", -6, 0)
        s1, s2 = (exact.scale_of(q.scalar_scale()) for q in (a_quant, b_quant))
        out_quant = Quant(np.float32(float(max(s1, s2)) ** 2 * 2.0 ** rng.integers(4, 12)), zero_point(rng, "int8"))
        spec = SquaredDifferenceSpec(
            a_shape=a_shape, b_shape=b_shape, a_quant=a_quant, b_quant=b_quant, out_quant=out_quant
        )
        twice = 2 * max(s1, s2)
        # twice^2 is a double product: it may round.
        factor = float(twice) * float(twice) / (2.0**14 * out_quant.scalar_scale())

        def want(a: int, b: int, spec: Any = spec, twice: Fraction = twice, factor: float = factor) -> int:
            first, second = (
                exact.v1_real((q - int(of.scalar_zero_point())) * 128, float(exact.scale_of(of.scalar_scale()) / twice))
                for q, of in ((a, spec.a_quant), (b, spec.b_quant))
            )
            value = exact.v1_real((first - second) ** 2, factor) + int(spec.out_quant.scalar_zero_point())
            return exact.clamp(value, -128, 127)

        operands = [codes(rng, (3, *shape), "int8") for shape in (a_shape, b_shape)]
        check(spec, V1, operands, want, rng, f"seed {seed}")


@pytest.mark.parametrize(("spec_type", "choose"), [(MaximumSpec, max), (MinimumSpec, min)])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64"])
def test_maximum_and_minimum(spec_type: Any, choose: Callable[..., int], dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    info = np.iinfo(dtype)
    for a_shape, b_shape in SHAPES:
        spec = spec_type(a_shape=a_shape, b_shape=b_shape, dtype=np.dtype(dtype))
        operands = [
            rng.integers(info.min, info.max, (3, *shape), dtype=dtype, endpoint=True) for shape in (a_shape, b_shape)
        ]
        check(spec, EXACT, operands, choose, rng, f"seed {seed}")


DEFINITIONS = {
    "EQUAL": operator.eq,
    "NOT_EQUAL": operator.ne,
    "GREATER": operator.gt,
    "GREATER_EQUAL": operator.ge,
    "LESS": operator.lt,
    "LESS_EQUAL": operator.le,
}


@pytest.mark.parametrize("spec_type", COMPARISONS, ids=lambda spec_type: spec_type.op)
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64", "bool"])
def test_comparisons(spec_type: Any, dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    if dtype == "bool" and spec_type.op not in ("EQUAL", "NOT_EQUAL"):
        with pytest.raises(InputTypeError, match="input of bool"):
            spec_type(a_shape=(1,), b_shape=(1,), dtype=np.dtype(bool))
        return
    for a_shape, b_shape in SHAPES:
        made: dict[str, Any] = dict(a_shape=a_shape, b_shape=b_shape, dtype=np.dtype(dtype))
        compare: Callable[[int, int], int] = DEFINITIONS[spec_type.op]
        if dtype in ("int8", "uint8"):
            a_quant, b_quant = quant(rng, dtype, -12, -1), quant(rng, dtype, -12, -1)
            made |= dict(a_quant=a_quant, b_quant=b_quant)

            def compare(
                a: int, b: int, of: tuple[Quant, Quant] = (a_quant, b_quant), op: Any = DEFINITIONS[spec_type.op]
            ) -> int:
                real = [
                    exact.v1_real((q - int(each.scalar_zero_point())) * 256, float(each.scalar_scale()))
                    for q, each in zip((a, b), of, strict=True)
                ]
                return int(op(*real))

        spec = spec_type(**made)
        operands = [
            rng.integers(0, 2 if dtype == "bool" else 9, (3, *shape)).astype(dtype) for shape in (a_shape, b_shape)
        ]
        check(spec, V1, operands, compare, rng, f"seed {seed}")


def test_small_scales_make_unlike_codes_equal() -> None:
    # Steps of 2^-10 are a quarter of what 8 fraction bits tell apart.
    spec = EqualSpec(
        a_shape=(3,), b_shape=(3,), dtype=np.dtype("int8"), a_quant=Quant(2.0**-10), b_quant=Quant(2.0**-10)
    )
    a, b = np.array([[0, 0, 4]], np.int8), np.array([[1, 3, 5]], np.int8)
    assert reference(spec, V1, a, b).tolist() == [[True, False, True]]


def test_comparisons_refuse() -> None:
    shapes: dict[str, Any] = dict(a_shape=(2,), b_shape=(2,), dtype=np.dtype("int8"))
    with pytest.raises(InputValueError, match="b_quant is missing"):
        LessSpec(**shapes, a_quant=Quant(0.5))
    with pytest.raises(InputValueError, match="a_quant scale 1.0 must be below 1"):
        LessSpec(**shapes, a_quant=Quant(1.0), b_quant=Quant(0.5))
    with pytest.raises(InputTypeError, match="float64"):
        LessSpec(a_shape=(2,), b_shape=(2,), dtype=np.dtype("float64"))
    with pytest.raises(InputValueError, match="2 and 3 do not broadcast"):
        LessSpec(a_shape=(2,), b_shape=(3,), dtype=np.dtype("int32"))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "int64"])
def test_select(dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shapes: list[Any] = [
        ((2, 3), (2, 3), (2, 3)),
        ((3,), (2, 1), (2, 3)),
        ((), (2, 3), (1,)),
        ((2, 1, 1), (3,), (5, 1)),
    ]
    for condition_shape, a_shape, b_shape in shapes:
        spec = SelectV2Spec(condition_shape=condition_shape, a_shape=a_shape, b_shape=b_shape, dtype=np.dtype(dtype))
        condition = rng.random((3, *condition_shape)) < 0.5
        a, b = (rng.integers(0, 100, (3, *shape)).astype(dtype) for shape in (a_shape, b_shape))
        want = np.empty((3, *spec.output_shape), dtype)
        for index in np.ndindex(*want.shape):

            def at(x: np.ndarray, index: tuple[int, ...] = index) -> Any:
                trailing = index[len(index) - x.ndim + 1 :]
                return x[(index[0], *(min(i, size - 1) for i, size in zip(trailing, x.shape[1:], strict=True)))]

            want[index] = at(a) if at(condition) else at(b)
        assert_equal_bits(reference(spec, EXACT, condition, a, b), want, f"seed {seed}, {spec}")
        plan = cpu.pack(spec, EXACT, [None, None, b[0]])
        want = reference(spec, EXACT, condition, a, b[:1])
        got = launched(plan, [condition.copy(), a.copy()], want.shape, want.dtype, rng)
        assert_equal_bits(got, want, f"seed {seed}, {spec}")


def test_select_of_rows() -> None:
    spec = SelectSpec(condition_shape=(2, 1), a_shape=(2, 3), b_shape=(2, 3), dtype=np.dtype("int8"))
    a = np.arange(6, dtype=np.int8).reshape(1, 2, 3)
    assert reference(spec, EXACT, np.array([[False, True]]), a, -a).tolist() == [[[0, -1, -2], [3, 4, 5]]]
    with pytest.raises(InputValueError, match="condition 3 does not fit"):
        SelectSpec(condition_shape=(3,), a_shape=(2, 3), b_shape=(2, 3), dtype=np.dtype("int8"))
    with pytest.raises(InputTypeError, match="SELECT_V2: input of float64"):
        SelectV2Spec(condition_shape=(2,), a_shape=(2,), b_shape=(2,), dtype=np.dtype("float64"))


def test_squared_difference_refuses() -> None:
    shapes: dict[str, Any] = dict(a_shape=(2,), b_shape=(2,))
    with pytest.raises(InputValueError, match="it must be below 1"):
        SquaredDifferenceSpec(**shapes, a_quant=Quant(1.0), b_quant=Quant(1.0), out_quant=Quant(2.0**-12))
    one = Quant(1.0, dtype="uint8")
    with pytest.raises(InputTypeError, match="input of uint8"):
        SquaredDifferenceSpec(**shapes, a_quant=one, b_quant=one, out_quant=one)
