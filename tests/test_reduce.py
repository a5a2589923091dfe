"""SUM, REDUCE_MAX, REDUCE_MIN, L2_NORMALIZATION: loops over elements."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from gpuq import InputTypeError, InputValueError, Quant, cpu
from gpuq.numerics import Rounding, Rule
from gpuq.ops.l2_normalization import L2NormalizationSpec
from gpuq.ops.reduce import ReduceMaxSpec, ReduceMinSpec, SumSpec
from gpuq.ops.registry import reference

from . import exact, gemmlowp
from .compare import assert_equal_bits
from .launching import launched
from .layers import codes, zero_point

V1, BYTES, EXACT, FIXED = (Rule(r) for r in (Rounding.V1, Rounding.V1_BYTES, Rounding.EXACT, Rounding.FIXED_POINT))
V2, FIXED_SINGLE = Rule(Rounding.V2), Rule(Rounding.FIXED_POINT_SINGLE)
AWAY, EVEN = Rule(Rounding.AFFINE_F32), Rule(Rounding.RECIPROCAL_F32)
SHAPE = (2, 5, 3)
AXES = [axes for count in range(4) for axes in itertools.combinations(range(3), count)]


def groups(x: np.ndarray, axes: tuple[int, ...]) -> tuple[list[list[int]], tuple[int, ...]]:
    """All elements that become one, for each element of the output, and the output's shape without kept dimensions."""
    kept = [axis for axis in range(x.ndim) if axis - 1 not in axes]
    shape = tuple(x.shape[axis] for axis in kept)
    result: dict[tuple[int, ...], list[int]] = {index: [] for index in np.ndindex(*shape)}
    for index in np.ndindex(*x.shape):
        result[tuple(index[axis] for axis in kept)].append(int(x[index]))
    return list(result.values()), shape


def check(spec: Any, rule: Rule, x: np.ndarray, want: list[int], context: object) -> None:
    expected = np.array(want).astype(x.dtype).reshape(x.shape[0], *spec.output_shape)
    assert_equal_bits(reference(spec, rule, x), expected, (context, spec))
    plan = cpu.pack(spec, rule, [None])
    got = launched(plan, [x.copy()], expected.shape, x.dtype, np.random.default_rng(0))
    assert_equal_bits(got, expected, (plan.name, context, spec))


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("keep_dims", [True, False])
@pytest.mark.parametrize(("dtype", "rule"), [("int8", V1), ("uint8", V1), ("int8", BYTES), ("int8", V2)])
def test_sum(axes: tuple[int, ...], keep_dims: bool, dtype: str, rule: Rule, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = codes(rng, (3, *SHAPE), dtype)
    spec = SumSpec(
        x_shape=SHAPE,
        axes=axes,
        keep_dims=keep_dims,
        x_quant=Quant(np.float32(2.0 ** rng.uniform(-6, 0)), zero_point(rng, dtype), dtype=dtype),
        out_quant=Quant(np.float32(2.0 ** rng.uniform(-4, 2)), zero_point(rng, dtype), dtype=dtype),
    )
    factor = exact.scale_of(spec.x_quant.scalar_scale()) / exact.scale_of(spec.out_quant.scalar_scale())
    low, high = (0, 255) if rule is BYTES else (spec.out_quant.qmin, spec.out_quant.qmax)
    members, _ = groups(x, axes)
    want = []
    for group in members:
        values = [value % 256 for value in group] if rule is BYTES else group
        total = sum(values) - spec.x_quant.scalar_zero_point() * len(values)
        value = (exact.v2_real if rule is V2 else exact.v1_real)(total, float(factor))
        code = exact.clamp(value + spec.out_quant.scalar_zero_point(), low, high)
        want.append(code - 256 if rule is BYTES and code > 127 else code)
    check(spec, rule, x, want, f"seed {seed}")


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("rule", [AWAY, EVEN])
def test_sum_in_float32(dtype: str, rule: Rule, seed: int) -> None:
    """Of scales that are odd multiples of powers of two, so that ties abound, and of any."""
    rng = np.random.default_rng(seed)
    for number, axes in enumerate(AXES * 3):
        ratio = 2.0 ** rng.uniform(-6, 1) if number % 3 == 0 else int(rng.integers(1, 8)) * 2.0 ** rng.integers(-6, 0)
        x_scale = np.float32(2.0 ** rng.uniform(-6, 0))
        spec = SumSpec(
            x_shape=SHAPE,
            axes=axes,
            keep_dims=True,
            x_quant=Quant(x_scale, zero_point(rng, dtype), dtype=dtype),
            out_quant=Quant(np.float32(float(x_scale) / ratio), zero_point(rng, dtype), dtype=dtype),
        )
        x_zero, out_zero = spec.x_quant.scalar_zero_point(), spec.out_quant.scalar_zero_point()
        factor = exact.f32(exact.scale_of(x_scale) / exact.scale_of(spec.out_quant.scalar_scale()))
        x = codes(rng, (3, *SHAPE), dtype)
        members, _ = groups(x, axes)
        want = []
        for group in members:
            scaled = exact.f32(sum(group) * factor)
            if rule is AWAY:
                bias = exact.f32(exact.f32(-x_zero * factor) * len(group))
                code = exact.round_away(exact.f32(scaled + bias)) + out_zero
            else:
                offset = exact.f32(out_zero - exact.f32(x_zero * len(group) * factor))
                code = round(exact.f32(scaled + offset))
            want.append(exact.clamp(code, spec.out_quant.qmin, spec.out_quant.qmax))
        check(spec, rule, x, want, f"seed {seed}")


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize(("spec_type", "choose"), [(ReduceMaxSpec, max), (ReduceMinSpec, min)])
def test_extremes(axes: tuple[int, ...], spec_type: Any, choose: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for dtype, keep_dims in itertools.product(("int8", "uint8", "int32", "int64"), (True, False)):
        info = np.iinfo(dtype)
        x = rng.integers(info.min, info.max, (3, *SHAPE), dtype=dtype, endpoint=True)
        spec = spec_type(x_shape=SHAPE, axes=axes, keep_dims=keep_dims, dtype=np.dtype(dtype))
        members, _ = groups(x, axes)
        expected = np.array([choose(group) for group in members], dtype).reshape(3, *spec.output_shape)
        assert_equal_bits(reference(spec, EXACT, x), expected, f"seed {seed}, {spec}")


@pytest.mark.parametrize(("dtype", "rule"), [("int8", FIXED), ("uint8", FIXED), ("int8", FIXED_SINGLE)])
@pytest.mark.parametrize("depth", [1, 2, 7, 130])
def test_l2_normalization(dtype: str, rule: Rule, depth: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rounded = exact.v2 if rule is FIXED_SINGLE else exact.v1
    for spread in (0, 1, 3, 255):
        zero = zero_point(rng, dtype)
        spec = L2NormalizationSpec(
            depth=depth,
            x_quant=Quant(0.5, zero, dtype=dtype),
            out_quant=Quant(1 / 128, 128 if dtype == "uint8" else 0, dtype=dtype),
        )
        info = np.iinfo(dtype)
        x = np.clip(zero + rng.integers(-spread, spread + 1, (3, 4, depth)), info.min, info.max).astype(dtype)
        want = []
        for row in x.reshape(-1, depth).astype(int).tolist():
            multiplier, shift = gemmlowp.get_inv_sqrt_quantized_multiplier_exp(sum((q - zero) ** 2 for q in row))
            for q in row:
                if dtype == "int8":
                    code = rounded(q - zero, multiplier, shift + 7)
                else:
                    code = 128 + rounded(128 * (q - zero), multiplier, shift)
                want.append(exact.clamp(code, info.min, info.max))
        expected = np.array(want).astype(dtype).reshape(-1, depth)
        assert_equal_bits(reference(spec, rule, x), expected, f"seed {seed}, {spec}")
        plan = cpu.pack(spec, rule, [None])
        got = launched(plan, [x.copy()], x.shape, dtype, rng)
        assert_equal_bits(got, expected.reshape(x.shape), f"seed {seed}, {spec}")


@pytest.mark.parametrize(("dtype", "rule"), [("int8", FIXED), ("uint8", FIXED), ("int8", FIXED_SINGLE)])
def test_l2_normalization_plan_is_the_reference(dtype: str, rule: Rule, seed: int) -> None:
    """Many rows of every size, beyond one block of the plan; ties of both roundings among them."""
    rng = np.random.default_rng(seed)
    for depth in (1, 3, 16, 1000):
        zero = zero_point(rng, dtype)
        spec = L2NormalizationSpec(
            depth=depth,
            x_quant=Quant(0.5, zero, dtype=dtype),
            out_quant=Quant(1 / 128, 128 if dtype == "uint8" else 0, dtype=dtype),
        )
        info = np.iinfo(dtype)
        rows = 100_000 // depth
        spread = rng.integers(0, 256, (rows, 1))
        x = np.clip(zero + rng.integers(-spread, spread + 1, (rows, depth)), info.min, info.max).astype(dtype)
        want = reference(spec, rule, x)
        got = launched(cpu.pack(spec, rule, [None]), [x.copy()], want.shape, dtype, rng)
        assert_equal_bits(got, want, f"seed {seed}, {spec}")


def test_l2_normalization_by_hand() -> None:
    # 3-4-5: 3/5 and 4/5 of 128 are 76.8 and 102.4.
    spec = L2NormalizationSpec(depth=2, x_quant=Quant(0.1, 5), out_quant=Quant(1 / 128))
    assert reference(spec, FIXED, np.array([[8, 1], [5, 5]], np.int8)).tolist() == [[77, -102], [0, 0]]


def test_specs_refuse() -> None:
    with pytest.raises(InputValueError, match="distinct, sorted"):
        ReduceMaxSpec(x_shape=(2, 3), axes=(1, 0), keep_dims=False, dtype=np.dtype("int8"))
    with pytest.raises(InputTypeError, match="REDUCE_MIN: input of bool"):
        ReduceMinSpec(x_shape=(2, 3), axes=(0,), keep_dims=False, dtype=np.dtype("bool"))
    with pytest.raises(InputTypeError, match="SUM: output of uint8"):
        SumSpec(x_shape=(2,), axes=(0,), keep_dims=False, x_quant=Quant(1.0), out_quant=Quant(1.0, dtype="uint8"))
    with pytest.raises(InputValueError, match="below 2\\^30"):
        SumSpec(x_shape=(2,), axes=(0,), keep_dims=False, x_quant=Quant(1e10), out_quant=Quant(1e-10))
    with pytest.raises(InputValueError, match="depth 40000 must be at most 33025"):
        L2NormalizationSpec(depth=40000, x_quant=Quant(1.0), out_quant=Quant(1 / 128))
    with pytest.raises(InputValueError, match="scale 1/128 and zero point 128"):
        L2NormalizationSpec(depth=4, x_quant=Quant(1.0, dtype="uint8"), out_quant=Quant(1 / 128, dtype="uint8"))
