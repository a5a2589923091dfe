"""The profiles, litert_opt, xnnpack and single above all: which rule holds where, and rules that no other file defines.

The definitions are once more Python integers and fractions (exact.py), written from the runtimes' rules and not from
gpuq. For `single` they are all there is: no wheel runs it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from gpuq import InputValueError, Quant, UnsupportedModel, cpu, numerics, profiles
from gpuq.numerics import Bounds, Product, Rounding, Rule
from gpuq.ops.abs_neg import AbsSpec
from gpuq.ops.add import AddSpec
from gpuq.ops.average_pool_2d import AveragePool2dSpec
from gpuq.ops.batch_matmul import BatchMatmulSpec
from gpuq.ops.conv2d import Conv2dSpec
from gpuq.ops.depthwise_conv2d import DepthwiseConv2dSpec
from gpuq.ops.dequantize import DequantizeSpec
from gpuq.ops.elu import EluSpec
from gpuq.ops.fully_connected import FullyConnectedSpec
from gpuq.ops.hard_swish import HardSwishSpec
from gpuq.ops.l2_normalization import L2NormalizationSpec
from gpuq.ops.leaky_relu import LeakyReluSpec
from gpuq.ops.logistic import LogisticSpec
from gpuq.ops.max_pool_2d import MaxPool2dSpec
from gpuq.ops.mean import MeanSpec
from gpuq.ops.mul import MulSpec
from gpuq.ops.quantize import QuantizeSpec
from gpuq.ops.reduce import SumSpec
from gpuq.ops.registry import reference
from gpuq.ops.relu import Relu6Spec, ReluN1To1Spec, ReluSpec
from gpuq.ops.resize_bilinear import ResizeBilinearSpec
from gpuq.ops.softmax import SoftmaxSpec, input_scaling
from gpuq.ops.sqrt import RsqrtSpec, SqrtSpec
from gpuq.ops.squared_difference import SquaredDifferenceSpec
from gpuq.ops.sub import SubSpec
from gpuq.ops.tanh import TanhSpec
from gpuq.ops.transpose_conv import TransposeConvSpec
from gpuq.ops.window import Window2d

from . import exact
from .compare import assert_equal_bits
from .cuda_operators import random_quant
from .launching import launched

ONE = Window2d(kernel_h=1, kernel_w=1)
INT8, UINT8 = Quant(0.5), Quant(0.5, dtype="uint8")


def conv(quant: Quant = INT8, **changes: Any) -> Conv2dSpec:
    fields: dict[str, Any] = dict(
        in_h=2, in_w=2, in_c=4, out_c=4, window=ONE, x_quant=quant, w_quant=quant, out_quant=quant
    )
    return Conv2dSpec(**(fields | changes))


def depthwise(quant: Quant = INT8, **changes: Any) -> DepthwiseConv2dSpec:
    fields: dict[str, Any] = dict(in_h=2, in_w=2, in_c=4, window=ONE, x_quant=quant, w_quant=quant, out_quant=quant)
    return DepthwiseConv2dSpec(**(fields | changes))


def dense(quant: Quant = INT8, **changes: Any) -> FullyConnectedSpec:
    fields: dict[str, Any] = dict(in_c=4, out_c=4, x_quant=quant, w_quant=quant, out_quant=quant)
    return FullyConnectedSpec(**(fields | changes))


def binary(kind: Any, a: float = 0.5, b: float = 0.5, out: float = 0.5) -> Any:
    return kind(a_shape=(4,), b_shape=(4,), a_quant=Quant(a), b_quant=Quant(b), out_quant=Quant(out))


def mean(axes: tuple[int, ...] = (1, 2), keep_dims: bool = True) -> MeanSpec:
    return MeanSpec(x_shape=(1, 3, 3, 8), axes=axes, keep_dims=keep_dims, x_quant=INT8, out_quant=INT8)


def codes_to(out: Quant, x: Quant | None = INT8) -> QuantizeSpec:
    return QuantizeSpec(shape=(8,), x_quant=x, out_quant=out)


def resize(dtype: str, factor: int = 2, channels: int = 8) -> ResizeBilinearSpec:
    return ResizeBilinearSpec(
        in_h=2,
        in_w=2,
        in_c=channels,
        out_h=2 * factor,
        out_w=2 * factor,
        half_pixel_centers=True,
        dtype=np.dtype(dtype),
    )


def transposed(quant: Quant = INT8, kernel: int = 2, stride: int = 2, **changes: Any) -> TransposeConvSpec:
    """Of 2x2 pixels 4x4."""
    window = Window2d(kernel_h=kernel, kernel_w=2, stride_h=stride, stride_w=stride)
    fields: dict[str, Any] = dict(
        in_h=2, in_w=2, in_c=4, out_h=4, out_w=4, out_c=4, window=window, x_quant=quant, w_quant=quant, out_quant=quant
    )
    return TransposeConvSpec(**(fields | changes))


def matmul(a: float = 0.5, b: Quant = INT8) -> BatchMatmulSpec:
    return BatchMatmulSpec(a_shape=(2, 3), b_shape=(3, 2), a_quant=Quant(a), b_quant=b, out_quant=INT8)


def leaky(alpha: float, x: float = 0.5) -> LeakyReluSpec:
    return LeakyReluSpec(shape=(4,), alpha=alpha, x_quant=Quant(x), out_quant=INT8)


def total(dtype: str) -> SumSpec:
    quant = Quant(0.5, dtype=dtype)
    return SumSpec(x_shape=(2, 3), axes=(1,), keep_dims=True, x_quant=quant, out_quant=quant)


def unary(kind: Any) -> Any:
    return kind(shape=(4,), x_quant=INT8, out_quant=INT8)


def squares() -> SquaredDifferenceSpec:
    return SquaredDifferenceSpec(a_shape=(4,), b_shape=(4,), a_quant=INT8, b_quant=INT8, out_quant=INT8)


def rows_of_unit_length() -> L2NormalizationSpec:
    return L2NormalizationSpec(depth=4, x_quant=INT8, out_quant=Quant(1 / 128))


def pool(kind: Any, window: Window2d) -> Any:
    return kind(in_h=4, in_w=4, in_c=3, window=window, x_quant=INT8, out_quant=INT8)


V4 = Rule(Rounding.V4, Product.ALL_F32, Bounds.EVEN)
Q20 = Rule(Rounding.Q20, Product.ALL_F32, Bounds.EVEN)
CHANNELS = Quant([0.5, 0.25, 0.5, 1.0], axis=0)

RULES: list[tuple[str, Any, Rule | None]] = [
    ("litert_opt", conv(), Rule(Rounding.V1U)),
    ("litert_opt", conv(UINT8), Rule(Rounding.V1U, Product.F32)),
    ("litert_opt", conv(groups=2), Rule(Rounding.V1)),
    ("litert_opt", conv(UINT8, groups=2), Rule(Rounding.V1, Product.F32)),
    ("litert_opt", depthwise(), Rule(Rounding.V1U_BLOCK8)),
    ("litert_opt", depthwise(UINT8), Rule(Rounding.V1, Product.F32)),
    ("litert_opt", depthwise(has_bias=False), None),
    ("litert_opt", dense(), Rule(Rounding.V1U, Product.F32)),
    ("litert_opt", dense(w_quant=CHANNELS), Rule(Rounding.V1U)),
    ("litert_opt", binary(AddSpec), Rule(Rounding.V1_EARLY_SHIFT_BLOCK16)),
    ("litert_opt", binary(AddSpec, out=2.0**-9), None),
    ("litert_opt", binary(SubSpec, out=2.0**-9), Rule(Rounding.V1)),
    ("litert_opt", binary(MulSpec, out=2.0**-2), Rule(Rounding.V1, Product.ALL_F32)),
    ("litert_opt", binary(MulSpec, out=2.0**-3), None),
    ("litert_opt", mean(), Rule(Rounding.V1U_BLOCK16)),
    ("litert_opt", mean(keep_dims=False), Rule(Rounding.V1)),
    ("litert_opt", mean(axes=(1,)), Rule(Rounding.V1)),
    ("litert_opt", codes_to(INT8, None), Rule(Rounding.RECIPROCAL_F32_BLOCK8)),
    ("litert_opt", codes_to(UINT8), Rule(Rounding.V1U_BLOCK16)),
    ("litert_opt", resize("uint8"), Rule(Rounding.AFFINE_F32_PIXEL)),
    ("litert_opt", resize("uint8", 8), Rule(Rounding.Q11)),
    ("litert_opt", resize("uint8", 8, channels=7), Rule(Rounding.AFFINE_F32_PIXEL)),
    ("litert_opt", resize("int8", 8), Rule(Rounding.EXACT)),
    ("xnnpack", conv(), V4),
    ("xnnpack", conv(UINT8, groups=2), V4),
    ("xnnpack", conv(x_quant=Quant(256.0)), None),
    ("xnnpack", conv(x_quant=Quant(255.0)), V4),
    ("xnnpack", conv(w_quant=Quant([0.5, 0.0, 0.5, 1.0], axis=0)), Rule(Rounding.V1U)),
    ("xnnpack", depthwise(UINT8), V4),
    ("xnnpack", depthwise(has_bias=False), None),
    ("xnnpack", dense(w_quant=CHANNELS), V4),
    ("xnnpack", dense(w_quant=Quant(0.5, 3)), Rule(Rounding.V1U, Product.F32)),
    ("xnnpack", dense(w_quant=Quant(512.0)), None),
    ("xnnpack", binary(AddSpec), Q20),
    ("xnnpack", binary(SubSpec, a=127.5), Q20),
    ("xnnpack", binary(SubSpec, a=128.0), Rule(Rounding.V1)),
    ("xnnpack", binary(AddSpec, b=2.0**-11), Q20),
    ("xnnpack", binary(AddSpec, b=2.0**-12), Rule(Rounding.V1_EARLY_SHIFT_BLOCK16)),
    ("xnnpack", binary(MulSpec), V4),
    ("xnnpack", binary(MulSpec, a=256.0), None),
    ("xnnpack", binary(MulSpec, out=2.0**17), Rule(Rounding.V1, Product.ALL_F32)),
    ("xnnpack", mean(), Rule(Rounding.RECIPROCAL_F32)),
    ("xnnpack", codes_to(INT8, None), Rule(Rounding.RECIPROCAL_F32)),
    ("xnnpack", codes_to(Quant(2.0**-8)), Rule(Rounding.Q8)),
    ("xnnpack", codes_to(Quant(2.0**-9)), Rule(Rounding.V1U_BLOCK16)),
    ("xnnpack", codes_to(UINT8), Rule(Rounding.V1U_BLOCK16)),
    ("xnnpack", DequantizeSpec(shape=(8,), x_quant=INT8), Rule(Rounding.AFFINE_F32)),
    ("xnnpack", SoftmaxSpec(depth=4, x_quant=INT8, out_quant=Quant(1 / 256, -128)), Rule(Rounding.TABLE_F32)),
    (
        "xnnpack",
        LogisticSpec(shape=(4,), x_quant=INT8, out_quant=Quant(1 / 256, -128)),
        Rule(Rounding.TABLE_F64),
    ),
    ("xnnpack", ReluSpec(shape=(4,), x_quant=INT8, out_quant=INT8), Rule(Rounding.V1, Product.ALL_F32)),
    ("xnnpack", resize("uint8", 8), Rule(Rounding.Q11)),
    ("xnnpack", pool(MaxPool2dSpec, Window2d(kernel_h=2, kernel_w=2)), Rule(Rounding.EXACT, bounds=Bounds.EVEN)),
    ("xnnpack", pool(MaxPool2dSpec, Window2d(kernel_h=2, kernel_w=2, stride_w=3)), Rule(Rounding.EXACT)),
    ("xnnpack", pool(AveragePool2dSpec, Window2d(kernel_h=2, kernel_w=2)), Rule(Rounding.EXACT)),
    *(
        (profile, spec, rule)
        for profile in ("litert_opt", "xnnpack")
        for spec, rule in [
            (conv(weight_bits=4), Rule(Rounding.V1U)),
            (depthwise(weight_bits=4), Rule(Rounding.V1U_BLOCK8)),
            (dense(weight_bits=4, in_c=3), Rule(Rounding.V1U, Product.F32)),
            (dense(weight_bits=4, w_quant=Quant(0.5, 1)), None),
            (dense(weight_bits=2), Rule(Rounding.V1U, Product.F32)),
            (dense(weight_bits=2, in_c=6, w_quant=CHANNELS), Rule(Rounding.V1U)),
            (dense(weight_bits=2, w_quant=Quant(0.5, 1)), None),
            (transposed(kernel=1), Rule(Rounding.V1U_BLOCK8)),
            (transposed(UINT8, kernel=1), Rule(Rounding.V1U_BLOCK16, Product.F32)),
            (transposed(stride=1), None),
            (matmul(b=Quant(0.5, 1)), Rule(Rounding.V1, Product.F32)),
            (leaky(0.0), Rule(Rounding.V1, Product.ALL_F32)),
            (squares(), Rule(Rounding.V1)),
            (rows_of_unit_length(), Rule(Rounding.FIXED_POINT)),
            (unary(HardSwishSpec), Rule(Rounding.FIXED_POINT)),
            (unary(AbsSpec), Rule(Rounding.V1, Product.ALL_F32)),
            (unary(SqrtSpec), Rule(Rounding.TABLE_F32)),
            (unary(RsqrtSpec), Rule(Rounding.V1, Product.ALL_F32)),
            (unary(ReluN1To1Spec), Rule(Rounding.V1, Product.ALL_F32)),
        ]
    ),
    ("litert_ref", transposed(), Rule(Rounding.V1)),
    ("litert_ref", transposed(UINT8), Rule(Rounding.V1, Product.F32)),
    ("litert_ref", transposed(stride=1), None),
    ("litert_ref", dense(weight_bits=4, w_quant=Quant(0.5, 1)), None),
    ("litert_opt", transposed(), Rule(Rounding.V1U_BLOCK8)),
    ("litert_opt", matmul(), Rule(Rounding.V1, Product.F32)),
    ("litert_opt", dense(weight_bits=4), Rule(Rounding.V1U, Product.F32)),
    ("litert_opt", leaky(0.25), Rule(Rounding.V1, Product.ALL_F32)),
    ("litert_opt", total("int8"), Rule(Rounding.AFFINE_F32)),
    ("litert_opt", total("uint8"), Rule(Rounding.AFFINE_F32)),
    ("litert_opt", unary(TanhSpec), Rule(Rounding.TABLE_F32)),
    ("litert_opt", unary(EluSpec), Rule(Rounding.TABLE_F32)),
    ("xnnpack", dense(weight_bits=4), Rule(Rounding.V4_INT28, Product.ALL_F32, Bounds.EVEN)),
    ("xnnpack", dense(weight_bits=4, w_quant=Quant(512.0)), None),
    ("xnnpack", dense(weight_bits=2, w_quant=CHANNELS), V4),
    ("litert_ref", dense(weight_bits=2), Rule(Rounding.V6)),
    ("tflm", dense(weight_bits=2), None),
    ("single", dense(weight_bits=2), None),
    ("xnnpack", transposed(), V4),
    ("xnnpack", transposed(UINT8), V4),
    ("xnnpack", transposed(w_quant=Quant(512.0)), None),
    ("xnnpack", transposed(padding="valid", window=Window2d(kernel_h=1, kernel_w=1, stride_h=3, stride_w=3)), V4),
    ("xnnpack", transposed(padding="valid", kernel=3), None),
    ("xnnpack", matmul(), Rule(Rounding.V4, Product.ALL_F32)),
    ("xnnpack", matmul(a=256.0), None),
    ("xnnpack", leaky(0.25), Rule(Rounding.Q8)),
    ("xnnpack", leaky(-2.0, x=32.0), Rule(Rounding.V1, Product.ALL_F32)),
    ("xnnpack", leaky(2.0, x=32.0), Rule(Rounding.Q8)),
    ("xnnpack", leaky(2.0**-9), Rule(Rounding.V1, Product.ALL_F32)),
    ("xnnpack", leaky(0.5, x=128.0), Rule(Rounding.V1, Product.ALL_F32)),
    ("xnnpack", total("int8"), Rule(Rounding.RECIPROCAL_F32)),
    ("xnnpack", unary(TanhSpec), Rule(Rounding.TABLE_F32_EVEN)),
    ("xnnpack", unary(EluSpec), Rule(Rounding.TABLE_F32_EVEN)),
    ("single", transposed(), Rule(Rounding.V2)),
    ("single", transposed(UINT8), None),
    ("single", matmul(), Rule(Rounding.V2)),
    ("single", leaky(0.25), Rule(Rounding.V2)),
    ("single", total("int8"), Rule(Rounding.V2)),
    ("single", squares(), Rule(Rounding.V2)),
    ("single", rows_of_unit_length(), Rule(Rounding.FIXED_POINT_SINGLE)),
    ("single", unary(TanhSpec), Rule(Rounding.FIXED_POINT_SINGLE)),
    ("single", unary(HardSwishSpec), Rule(Rounding.FIXED_POINT)),
    ("single", unary(EluSpec), Rule(Rounding.TABLE_F32_EXP)),
    ("single", unary(AbsSpec), Rule(Rounding.V2)),
    ("single", unary(SqrtSpec), None),
    ("single", conv(), Rule(Rounding.V2)),
    ("single", dense(), Rule(Rounding.V2)),
    ("single", conv(UINT8), None),
    ("single", Relu6Spec(shape=(4,), x_quant=INT8, out_quant=INT8), Rule(Rounding.EXACT)),
    ("single", resize("int8"), Rule(Rounding.EXACT_UP)),
]


@pytest.mark.parametrize(("profile", "spec", "rule"), RULES)
def test_which_rule(profile: str, spec: Any, rule: Rule | None) -> None:
    if rule is None:
        with pytest.raises(UnsupportedModel, match=rf"{spec.op} .*numerics '{profile}'"):
            profiles.resolve(profile, spec)
    else:
        assert profiles.resolve(profile, spec) == rule


def test_uniform_rules() -> None:
    assert [numerics.uniform(Rounding.V1U_BLOCK16, n) for n in (15, 16, 17, 48)] == [
        Rounding.V1,
        Rounding.V1U,
        Rounding.V1U_BLOCK16,
        Rounding.V1U,
    ]
    assert numerics.uniform(Rounding.V4, 3) is Rounding.V4
    assert numerics.of_channels(Rounding.V1U_BLOCK8, 12, cuts_negative=True) is Rounding.V1
    assert numerics.of_channels(Rounding.V1U_BLOCK8, 12, cuts_negative=False) is Rounding.V1U_BLOCK8


def test_even_bounds(seed: int) -> None:
    """XNNPACK's bounds, also where 6 / scale lies half-way, and where the zero point swallows its fraction."""
    rng = np.random.default_rng(seed)
    differ = 0
    for halves in range(1, 500):
        for bound, name in ((6, "relu6"), (1, "relu_n1_to_1")):
            near = np.float32(bound / (halves / 2))
            for scale in (np.nextafter(near, np.float32(0)), near, np.nextafter(near, np.float32(9))):
                quant = Quant(scale, int(rng.integers(-128, 128)))
                quotient = exact.f32(Fraction(bound) / exact.scale_of(scale))
                want = exact.clamp(round(exact.f32(quotient + quant.scalar_zero_point())), -128, 127)
                got = numerics.activation_range(name, quant, Bounds.EVEN)[1]
                assert got == want, (name, float(scale), quant, seed)
                differ += got != numerics.activation_range(name, quant)[1]
    assert differ


def test_bounds_of_every_operator_that_has_them() -> None:
    """RELU6 by a scale of 4 and a zero point of -127 ends at -125, or at -126 where ties go to even."""
    quant = Quant(4.0, -127)
    x = np.full((1, 2, 2, 4), 127, np.int8)
    weights = np.full((4, 1, 1, 4), 1, np.int8)
    cases: list[tuple[Any, Rule, list[Any]]] = [
        (pool(MaxPool2dSpec, ONE), Rule(Rounding.EXACT), []),
        (conv(quant, w_quant=Quant(1.0)), Rule(Rounding.V4, Product.ALL_F32), [weights]),
        (depthwise(quant, w_quant=Quant(1.0)), Rule(Rounding.V4, Product.ALL_F32), [weights[:1]]),
        (dense(quant, w_quant=Quant(1.0)), Rule(Rounding.V4, Product.ALL_F32), [weights[:, 0, 0]]),
        (binary(AddSpec), Rule(Rounding.Q20), [x[0, 0, :1]]),
        (binary(MulSpec), Rule(Rounding.V4, Product.ALL_F32), [x[0, 0, :1]]),
    ]
    for plain, rule, operands in cases:
        fields: dict[str, Any] = dict(activation="relu6", out_quant=quant)
        if isinstance(plain, MaxPool2dSpec):
            fields |= dict(x_quant=quant, in_h=2, in_w=2, in_c=4)
        elif isinstance(plain, AddSpec | MulSpec):
            fields |= dict(a_quant=quant, b_quant=quant)
        spec = replace(plain, **fields)
        for bounds, highest in ((Bounds.AWAY, -125), (Bounds.EVEN, -126)):
            given = x[0, 0, :1] if isinstance(plain, AddSpec | MulSpec) else x
            got = reference(spec, replace(rule, bounds=bounds), given, *operands)
            assert np.unique(got).tolist() == [highest], (spec, bounds)
            constants = [None, *([None] if isinstance(plain, AddSpec | MulSpec) else operands)]
            plan = cpu.pack(spec, replace(rule, bounds=bounds), constants)
            inputs = [given.copy(), *operands] if isinstance(plain, AddSpec | MulSpec) else [given.copy()]
            shaped = launched(plan, inputs, got.shape, got.dtype, np.random.default_rng(0))
            assert np.unique(shaped).tolist() == [highest], (plan.name, bounds)


def test_v4_of_28_bits(seed: int) -> None:
    """By hand, and of FULLY_CONNECTED whose sums reach the end, on the CPU, by the plan's fast way and by its slow one."""
    acc = np.array([(1 << 27) - 1, 1 << 27, -(1 << 27), -(1 << 27) - 1, 3, 1 << 28])
    assert numerics.requantize_v4_int28(acc, 2.0**-27).tolist() == [1, -1, -1, 1, 0, 0]
    rng = np.random.default_rng(seed)
    rule = Rule(Rounding.V4_INT28, Product.ALL_F32, Bounds.EVEN)
    for near in (1 << 10, (1 << 27) - 3000, (1 << 31) - 3000):
        spec = dense(in_c=6, weight_bits=4, out_quant=Quant(2.0**-2 * near / 100))
        x, weights = rng.integers(-128, 128, (5, 6)).astype(np.int8), rng.integers(-8, 8, (4, 6)).astype(np.int8)
        bias = (near + rng.integers(0, 3000, 4)).astype(np.int32)
        want = np.zeros((5, 4), np.int8)
        for row, column in np.ndindex(want.shape):
            acc_16 = sum(int(a) * int(b) for a, b in zip(x[row], weights[column], strict=True)) + int(bias[column])
            real = exact.f32(exact.f32(Fraction(1, 4)) / exact.scale_of(spec.out_quant.scalar_scale()))
            want[row, column] = exact.clamp(exact.v4(exact.wrap(acc_16 << 4) >> 4, real), -128, 127)
        assert_equal_bits(reference(spec, rule, x, weights, bias), want, f"seed {seed}, {near}")
        plan = cpu.pack(spec, rule, [None, weights, bias])
        assert_equal_bits(launched(plan, [x], want.shape, np.int8, rng), want, f"CPU plan, seed {seed}, {near}")


def test_v4_by_hand() -> None:
    # Ties to even; 2^24 + 1 is no float32: it becomes 2^24, and half of it is exact.
    acc = np.array([1, 3, 5, -1, -3, (1 << 24) + 1])
    assert numerics.requantize_v4(acc, 0.5).tolist() == [0, 2, 2, 0, -2, 1 << 23]


# ---------------------------------------------------------------------------------------------- definitions


def check(spec: Any, rule: Rule, x: np.ndarray, want: np.ndarray, context: object) -> None:
    """reference() and the CPU plan against what must be."""
    assert_equal_bits(reference(spec, rule, x).reshape(want.shape), want, f"reference, {context}, {spec}")
    got = launched(cpu.pack(spec, rule, [None]), [x.copy()], want.shape, want.dtype, np.random.default_rng(0))
    assert_equal_bits(got, want, f"CPU plan, {context}, {spec}")


def clamped(codes: Any, quant: Quant, low: int | None = None) -> np.ndarray:
    bottom = quant.qmin if low is None else low
    return np.array([exact.clamp(code, bottom, quant.qmax) for code in codes], quant.dtype)


def all_codes(dtype: str) -> np.ndarray:
    return np.arange(256, dtype=np.uint8).view(dtype)


def random_pair(rng: np.random.Generator, dtype: str, low: float, high: float) -> tuple[Quant, Quant]:
    """Two quantizations; half of the ratios of scales are short fractions, which have ties."""
    x = random_quant(rng, dtype, -6, 0)
    ratio = (
        int(rng.integers(1, 32)) / 2 ** int(rng.integers(2, 8)) if rng.random() < 0.5 else 2 ** rng.uniform(low, high)
    )
    out_scale = float(np.float32(x.scalar_scale() / ratio))
    return x, Quant(out_scale, int(rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1)), dtype=dtype)


@pytest.mark.parametrize("rounding", [Rounding.V2, Rounding.Q8, Rounding.V1U_BLOCK16])
def test_requantize_is_the_definition(rounding: Rounding, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for case in range(60):
        x_quant, out = random_pair(rng, ("int8", "uint8")[case % 2], -7, 6)
        size = int(rng.integers(1, 60))
        x = rng.permutation(all_codes(x_quant.dtype.name))[:size].reshape(1, size)
        spec = QuantizeSpec(shape=(size,), x_quant=x_quant, out_quant=out)
        ratio = exact.scale_of(x_quant.scalar_scale()) / exact.scale_of(out.scalar_scale())
        want = []
        for i, code in enumerate(x[0]):
            centred = int(code) - x_quant.scalar_zero_point()
            if rounding is Rounding.Q8:
                value = math.floor(Fraction(centred * round(exact.f32(ratio) * 256), 256) + Fraction(1, 2))
            else:
                value = exact.by_channel(rounding.value, i, size)(centred, float(ratio))
            want.append(value + out.scalar_zero_point())
        check(spec, Rule(rounding), x, clamped(want, out)[None], f"seed {seed}, case {case}")


@pytest.mark.parametrize("rounding", [Rounding.V2, Rounding.RECIPROCAL_F32, Rounding.V1U_BLOCK16])
def test_mean_is_the_definition(rounding: Rounding, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for case in range(40):
        dtype = ("int8", "uint8")[case % 2]
        x_quant, out = random_pair(rng, dtype, -3, 3)
        height, width, channels = (int(n) for n in rng.integers(1, 8, 3) * (1, 1, 6))
        spec = MeanSpec(
            x_shape=(1, height, width, channels), axes=(1, 2), keep_dims=True, x_quant=x_quant, out_quant=out
        )
        x = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, (1, 1, height, width, channels)).astype(dtype)
        count = height * width
        scale, out_scale = exact.scale_of(x_quant.scalar_scale()), exact.scale_of(out.scalar_scale())
        want = []
        for channel, total in enumerate(x.astype(np.int64).sum(axis=(0, 1, 2, 3)).tolist()):
            if rounding is Rounding.RECIPROCAL_F32:
                factor = exact.f32(exact.f32(scale / out_scale) * exact.f32(Fraction(1, count)))
                moved = exact.f32(exact.f32(count * x_quant.scalar_zero_point()) * factor)
                offset = exact.f32(out.scalar_zero_point() - moved)
                want.append(round(exact.f32(exact.f32(exact.f32(total) * factor) + offset)))
            elif rounding is Rounding.V1U_BLOCK16:
                moved = exact.f32(exact.f32(x_quant.scalar_zero_point() * scale) / out_scale)
                bias = out.scalar_zero_point() - int(exact.f32(moved + Fraction(1 if moved > 0 else -1, 2)))
                real = exact.f32(scale / exact.f32(count * out_scale))
                want.append(exact.by_channel(rounding.value, channel, channels)(total, real) + bias)
            else:
                multiplier, shift = exact.multiplier_and_shift(float(scale / out_scale))
                raised = min(count.bit_length() - 1, 32, 31 + shift)
                centred = total - count * x_quant.scalar_zero_point()
                divided = (multiplier << raised) // count
                want.append(exact.v2(centred, divided, shift - raised) + out.scalar_zero_point())
        check(spec, Rule(rounding), x, clamped(want, out).reshape(1, 1, 1, 1, channels), f"seed {seed}, case {case}")


def test_single_mul_and_relu_are_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for case in range(40):
        x_quant, out = random_pair(rng, "int8", -3, 3)
        other = random_quant(rng, "int8", -6, 0)
        factor = exact.real_multiplier(x_quant.scalar_scale(), other.scalar_scale(), out.scalar_scale())
        a, b = (rng.integers(-128, 128, (1, 40)).astype(np.int8) for _ in range(2))
        spec = MulSpec(a_shape=(40,), b_shape=(40,), a_quant=x_quant, b_quant=other, out_quant=out)
        products = (a - np.int64(x_quant.scalar_zero_point())) * (b - np.int64(other.scalar_zero_point()))
        want = clamped([exact.v2_real(p, factor) + out.scalar_zero_point() for p in products[0].tolist()], out)
        rule = profiles.resolve("single", spec)
        assert_equal_bits(reference(spec, rule, a, b), want[None], f"seed {seed}, {spec}")
        relu = ReluSpec(shape=(40,), x_quant=x_quant, out_quant=out)
        ratio = float(exact.scale_of(x_quant.scalar_scale()) / exact.scale_of(out.scalar_scale()))
        centred = (a[0] - np.int64(x_quant.scalar_zero_point())).tolist()
        zero = out.scalar_zero_point()
        want = clamped([exact.v2_real(d, ratio) + zero for d in centred], out, low=zero)
        check(relu, profiles.resolve("single", relu), a, want[None], f"seed {seed}, case {case}")


@pytest.mark.parametrize("rounding", [Rounding.EXACT_UP, Rounding.Q11])
def test_resize_is_the_definition(rounding: Rounding, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for case in range(30):
        dtype = "int8" if rounding is Rounding.EXACT_UP or case % 2 else "uint8"
        h, w, out_h, out_w = (int(n) for n in rng.integers(1, 9, 4))
        align, half = [(False, False), (True, False), (False, True)][case % 3]
        spec = ResizeBilinearSpec(
            in_h=h,
            in_w=w,
            in_c=2,
            out_h=out_h,
            out_w=out_w,
            align_corners=align,
            half_pixel_centers=half,
            dtype=np.dtype(dtype),
        )
        x = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, (1, h, w, 2)).astype(dtype)
        want = np.zeros((1, out_h, out_w, 2), dtype)
        places = _places_q11 if rounding is Rounding.Q11 else _places_10
        one = 2048 if rounding is Rounding.Q11 else 1024
        for i, (y0, y1, wy) in enumerate(places(h, out_h, align, half)):
            for j, (x0, x1, wx) in enumerate(places(w, out_w, align, half)):
                for c in range(2):
                    top = int(x[0, y0, x0, c]) * (one - wx) + int(x[0, y0, x1, c]) * wx
                    bottom = int(x[0, y1, x0, c]) * (one - wx) + int(x[0, y1, x1, c]) * wx
                    total = Fraction(top * (one - wy) + bottom * wy, one * one)
                    want[0, i, j, c] = math.floor(total + Fraction(1, 2))
        check(spec, Rule(rounding), x, want, f"seed {seed}, case {case}")


def _places_q11(size: int, out: int, align: bool, half: bool) -> list[tuple[int, int, int]]:
    less = 1 if align and out > 1 else 0
    scale = exact.f32(Fraction(size - less, out - less))
    places = []
    for i in range(out):
        position = exact.f32(i * scale)
        if half:
            position = max(exact.f32(position + exact.f32(exact.f32(scale / 2) - Fraction(1, 2))), Fraction(0))
        position = min(position, Fraction(size - 1))
        low = int(position)
        places.append((low, min(low + 1, size - 1), round((position - low) * 2048)))
    return places


def _places_10(size: int, out: int, align: bool, half: bool) -> list[tuple[int, int, int]]:
    step = (1024 * size + out // 2) // out
    if align and out > 1:
        step = (1024 * (size - 1) + (out - 1) // 2) // (out - 1)
    places = []
    for i in range(out):
        position = i * step + (exact.trunc_div(step, 2) - 512 if half else 0)
        low = max(exact.trunc_div(position, 1024), 0)
        high = min(exact.trunc_div(position + 1023, 1024), size - 1)
        places.append((low, high, position - 1024 * low))
    return places


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_softmax_by_table_is_the_definition(dtype: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for case in range(40):
        x_quant = random_quant(rng, dtype, -7, -2)
        depth = int(rng.integers(1, 40))
        beta = float(np.float32(rng.choice([1.0, 0.5, 1.7])))
        out = Quant(1 / 256, np.iinfo(dtype).min, dtype=dtype)
        spec = SoftmaxSpec(depth=depth, x_quant=x_quant, out_quant=out, beta=beta)
        x = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max + 1, (1, depth)).astype(dtype)
        scale = exact.f32(-exact.scale_of(x_quant.scalar_scale()) * exact.scale_of(beta))
        differences = [int(x.max()) - int(code) for code in x[0]]
        exps = [exact.f32(math.exp(float(exact.f32(scale * d)))) for d in differences]
        inverse = exact.f32(1 / exact.f32(_one_by_one(exps) / 256))
        scaled = [exact.f32(value * inverse) for value in exps]
        if dtype == "uint8":
            codes = [int(exact.f32(value + Fraction(1, 2))) for value in scaled]
        else:
            codes = [exact.round_away(value) - 128 for value in scaled]
        check(spec, Rule(Rounding.TABLE_F32), x, clamped(codes, out)[None], f"seed {seed}, case {case}")


def test_softmax_sums_one_after_another() -> None:
    """1,193 exponentials that are too small for the sum one by one, but not together: one code depends on it."""
    x_quant, out = Quant(0.06281708180904388), Quant(1 / 256, -128)
    spec = SoftmaxSpec(depth=1200, x_quant=x_quant, out_quant=out)
    x = np.full((1, 1200), -128, np.int8)
    x[0, :7] = [127, 65, 75, 108, 72, 96, 117]
    scale = -exact.scale_of(x_quant.scalar_scale())
    exps = [exact.f32(math.exp(float(exact.f32(scale * (127 - int(code)))))) for code in x[0]]
    codes = []
    for total in (_one_by_one(exps), exact.f32(sum(exps))):
        inverse = exact.f32(1 / exact.f32(total / 256))
        codes.append(clamped([exact.round_away(exact.f32(e * inverse)) - 128 for e in exps], out))
    assert (codes[0] != codes[1]).sum() == 1
    check(spec, Rule(Rounding.TABLE_F32), x, codes[0][None], "one by one")


def _one_by_one(values: list[Fraction]) -> Fraction:
    total = Fraction(0)
    for value in values:
        total = exact.f32(total + value)
    return total


def test_softmax_caps_its_factor_where_a_build_rounds_once() -> None:
    # beta * scale * 2^26 = 1.5 * 2^30: above the cap of one rounding, below that of two. Its differences are 24 and 16
    # times the code: only the largest code has a probability either way, so that the cap never shows in codes; the
    # factor itself must be the runtime's.
    spec = SoftmaxSpec(depth=2, x_quant=Quant(24.0), out_quant=Quant(1 / 256, -128))
    assert input_scaling(spec)[:2] == (1610612736, 31)
    assert input_scaling(spec, rounds_once=True)[:2] == exact.multiplier_and_shift(float((1 << 30) - 1))


@pytest.mark.parametrize("rounding", [Rounding.RECIPROCAL_F32, Rounding.RECIPROCAL_F32_BLOCK8])
def test_quantize_is_the_definition(rounding: Rounding, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for case in range(60):
        out = random_quant(rng, ("int8", "uint8")[case % 2], -6, 2)
        size = int(rng.integers(1, 40))
        scale = exact.scale_of(out.scalar_scale())
        x = ((rng.integers(-300, 300, size) / 2) * out.scalar_scale()).astype(np.float32).reshape(1, size)
        x += (rng.random((1, size)) < 0.3) * rng.normal(0, 100, (1, size)).astype(np.float32)
        want = []
        for i, value in enumerate(x[0].tolist()):
            if rounding is Rounding.RECIPROCAL_F32 or i < size // 8 * 8:
                steps = round(exact.f32(Fraction(value) * exact.f32(1 / scale)))
            else:
                steps = exact.round_away(float(Fraction(value) / scale))
            want.append(steps + out.scalar_zero_point())
        spec = QuantizeSpec(shape=(size,), x_quant=None, out_quant=out)
        check(spec, Rule(rounding), x, clamped(want, out)[None], f"seed {seed}, case {case}")


def test_dequantize_in_blocks_is_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for size in (3, 8, 13, 40):
        quant = random_quant(rng, "int8", -6, 2)
        x = rng.integers(-128, 128, (2, size)).astype(np.int8)
        scale, zero = exact.scale_of(quant.scalar_scale()), quant.scalar_zero_point()
        want = np.zeros(x.shape, np.float32)
        for run, i in np.ndindex(x.shape):
            code = int(x[run, i])
            in_block = exact.f32(exact.f32(code * scale) + exact.f32(-zero * scale))
            want[run, i] = float(in_block if i < size // 8 * 8 else exact.f32(scale * (code - zero)))
        # +0.0 and -0.0 are one fraction.
        spec = DequantizeSpec(shape=(size,), x_quant=quant)
        got = reference(spec, Rule(Rounding.AFFINE_F32_BLOCK8), x)
        assert_equal_bits(got + np.float32(0), want + np.float32(0), f"seed {seed}, {spec}")


def test_logistic_in_float64_rounds_to_even() -> None:
    out = Quant(1 / 256, -128)
    for scale in (0.01, 0.1, 1.0, 40.0):
        spec = LogisticSpec(shape=(256,), x_quant=Quant(scale, 3), out_quant=out)
        want = []
        for code in range(-128, 128):
            real = float(exact.f32(exact.scale_of(scale) * (code - 3)))
            sigmoid = 1 / (1 + math.exp(-real)) if abs(real) < 700 else float(real > 0)
            want.append(round(exact.f32(exact.f32(sigmoid) * 256 - 128)) if sigmoid > 1e-30 else -128)
        x = np.arange(-128, 128, dtype=np.int8)[None]
        check(spec, Rule(Rounding.TABLE_F64), x, clamped(want, out)[None], f"scale {scale}")


def test_mean_refuses_a_bias_beyond_int32() -> None:
    """A zero point that 4-D MEAN would move beyond int32 is an error, not a wrapped number."""
    spec = replace(mean(), x_quant=Quant(2.0**26, -128), out_quant=Quant(1.0))
    with pytest.raises(InputValueError, match="beyond int32"):
        reference(spec, Rule(Rounding.V1U_BLOCK16), np.zeros((1, 1, 3, 3, 8), np.int8))
