"""int16 activations: rules by hand, references beside definitions in Python integers, the CPU path, what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import gpuq
from gpuq import cpu, numerics, profiles
from gpuq.errors import InputTypeError, InputValueError, UnsupportedModel
from gpuq.numerics import Product, Rounding, Rule
from gpuq.ops.abs_neg import NegSpec
from gpuq.ops.add import AddSpec
from gpuq.ops.broadcast import BinarySpec
from gpuq.ops.cast import CastSpec
from gpuq.ops.comparison import EqualSpec, GreaterEqualSpec, LessSpec, NotEqualSpec
from gpuq.ops.concatenation import ConcatenationSpec
from gpuq.ops.conv2d import Conv2dSpec
from gpuq.ops.depthwise_conv2d import DepthwiseConv2dSpec
from gpuq.ops.dequantize import DequantizeSpec
from gpuq.ops.div import DivSpec
from gpuq.ops.float32.elementwise import BINARY_SPECS
from gpuq.ops.fully_connected import FullyConnectedSpec
from gpuq.ops.interpolation import SIGMOIDS, interpolated, interpolation_table
from gpuq.ops.leaky_relu import LeakyReluSpec, PreluSpec
from gpuq.ops.logistic import LogisticSpec
from gpuq.ops.mul import MulSpec
from gpuq.ops.quantize import QuantizeSpec
from gpuq.ops.reduce import SumSpec
from gpuq.ops.registry import reference
from gpuq.ops.relu import ReluSpec
from gpuq.ops.resize_bilinear import ResizeBilinearSpec
from gpuq.ops.softmax import SoftmaxSpec
from gpuq.ops.spec import INT16, INT32, INT64, Spec
from gpuq.ops.sqrt import RsqrtSpec, SqrtSpec
from gpuq.ops.squared_difference import SquaredDifferenceSpec
from gpuq.ops.sub import SubSpec
from gpuq.ops.tanh import TanhSpec
from gpuq.ops.window import Window2d
from gpuq.quant import Quant
from tests import exact, gemmlowp
from tests.compare import assert_equal_bits

V3 = Rule(Rounding.V3)


def int16(scale: float) -> Quant:
    return Quant(scale, dtype="int16")


def launched(spec: Spec, rule: Rule, constants: list[Any], *inputs: np.ndarray) -> np.ndarray:
    """The CPU path's result."""
    plan = cpu.pack(spec, rule, constants)
    runs = inputs[0].shape[0]
    out = np.empty((runs, *spec.output_shape), getattr(spec, "out_quant", spec).dtype)
    plan.launch(list(inputs), [out], np.empty(plan.workspace_bytes(runs), np.uint8))
    return out


def conv(**changes: Any) -> Conv2dSpec:
    fields: dict[str, Any] = dict(
        in_h=7,
        in_w=6,
        in_c=5,
        out_c=9,
        window=Window2d.padded("same", 7, 6, kernel_h=3, kernel_w=3),
        x_quant=int16(0.01),
        w_quant=Quant(np.geomspace(0.001, 0.5, 9), axis=0),
        out_quant=int16(0.7),
        bias_dtype=INT64,
    )
    return Conv2dSpec(**fields | changes)


def test_v3_in_python_integers() -> None:
    rng = np.random.default_rng(5)
    for real in (*(2.0 ** rng.uniform(-31, 6.9, 50)), 0.99999, 1.0, 0.5, 127.99, 2.0**-40, 0.0):
        multiplier, shift = numerics.quantize_multiplier(real)
        reduced = min((multiplier + (1 << 15)) >> 16, 0x7FFF)
        for acc in (0, 1, -1, *(int(v) for v in rng.integers(-(1 << 38), 1 << 38, 20))):
            exact = math.floor(Fraction(acc * reduced) * Fraction(2) ** (shift - 15) + Fraction(1, 2))
            wrapped = (exact + (1 << 31)) % (1 << 32) - (1 << 31)
            assert numerics.requantize_v3(np.array(acc), multiplier, shift) == wrapped, (real, acc)
    with pytest.raises(InputValueError, match=r"below 2\^7"):
        numerics.requantize(np.zeros(1, np.int64), Rounding.V3, np.array([128.0]))


def test_v3_sends_ties_up_on_the_cpu() -> None:
    """Half of every code: odd sums are ties, which V1U sends away from zero."""
    spec = FullyConnectedSpec(in_c=1, out_c=1, x_quant=int16(1), w_quant=Quant(1), out_quant=int16(2), bias_dtype=INT64)
    x, w = np.arange(-32768, 32768).astype(np.int16)[:, None], np.ones((1, 1), np.int8)
    want = (x.astype(np.int64) + 1) >> 1
    assert cpu.pack(spec, V3, [None, w, None])._epilogue.is_fast
    assert_equal_bits(launched(spec, V3, [None, w, None], x), want.astype(np.int16), "CPU")
    assert_equal_bits(reference(spec, V3, x, w), want.astype(np.int16), "reference")


@pytest.mark.parametrize("rounding", [Rounding.V3, Rounding.V1, Rounding.V1U, Rounding.V2, Rounding.V6])
@pytest.mark.parametrize("activation", [None, "relu6"])
@pytest.mark.parametrize("groups", [1, 3])
def test_convolutions_on_the_cpu(rounding: Rounding, activation: str | None, groups: int) -> None:
    rng = np.random.default_rng(11)
    dtype = INT64 if rounding in (Rounding.V3, Rounding.V6) else INT32
    spec = conv(in_c=6, groups=groups, activation=activation, bias_dtype=dtype)
    x = rng.integers(-32768, 32768, (3, 7, 6, 6)).astype(np.int16)
    w = rng.integers(-128, 128, spec.weights_shape).astype(np.int8)
    bias = rng.integers(-(1 << 28), 1 << 28, 9).astype(dtype)
    rule = Rule(rounding)
    want = reference(spec, rule, x, w, bias)
    assert len(np.unique(want)) > 300 or activation
    assert_equal_bits(launched(spec, rule, [None, w, bias], x), want, f"{rounding.name} {activation} {groups}")


def test_int64_bias_beyond_float64_and_int32() -> None:
    """Sums that no float64 holds go through integers; V3 wraps its results to int32 on both paths."""
    rng = np.random.default_rng(12)
    spec = conv(w_quant=Quant(0.5), out_quant=int16(0.001))
    x = rng.integers(-32768, 32768, (2, 7, 6, 5)).astype(np.int16)
    w = rng.integers(-128, 128, spec.weights_shape).astype(np.int8)
    for magnitude in (1 << 20, 1 << 34, 1 << 46):
        bias = rng.integers(-magnitude, magnitude, 9)
        want = reference(spec, V3, x, w, bias)
        assert_equal_bits(launched(spec, V3, [None, w, bias], x), want, f"bias within {magnitude}")


def test_sums_just_below_a_tie() -> None:
    """acc * m ends in 2^(r-1) - 1 of 2^r: the last of up to 60 bits decides, which float64 does not hold."""
    rng = np.random.default_rng(25)
    x, w = np.zeros((1, 1), np.int16), np.ones((1, 1), np.int8)
    fast = 0
    for exponent in rng.uniform(1, 31, 60):
        out = np.float32(2.0**exponent)
        multiplier, shift = numerics.quantize_multiplier(1 / float(out))
        reduced, right = (multiplier + (1 << 15)) >> 16, 15 - shift
        if reduced % 2 == 0:
            continue
        acc = pow(reduced, -1, 1 << right) * ((1 << (right - 1)) - 1) % (1 << right)
        spec = FullyConnectedSpec(
            in_c=1, out_c=1, x_quant=int16(1), w_quant=Quant(1), out_quant=int16(float(out)), bias_dtype=INT64
        )
        for bias in (acc, acc + 1, acc - (1 << right)):
            want = exact.clamp((bias * reduced + (1 << (right - 1))) >> right, -32768, 32767)
            plan = cpu.pack(spec, V3, [None, w, np.array([bias])])
            fast += plan._epilogue.is_fast
            got = launched(spec, V3, [None, w, np.array([bias])], x)
            assert got.item() == reference(spec, V3, x, w, np.array([bias])).item() == want, (out, bias)
    assert fast > 10


def test_sums_are_not_int32() -> None:
    """2,000 taps of one sign reach 2^33: int64 sums keep them, int32 sums wrap."""
    spec = FullyConnectedSpec(
        in_c=2000, out_c=1, x_quant=int16(1), w_quant=Quant(1), out_quant=int16(2.0**19), bias_dtype=INT64
    )
    x, w = np.full((1, 2000), 32767, np.int16), np.full((1, 2000), 127, np.int8)
    exact = 2000 * 32767 * 127
    for rule in (V3, Rule(Rounding.V6)):
        assert reference(spec, rule, x, w).item() == round(exact / 2**19)
        assert launched(spec, rule, [None, w, None], x).item() == round(exact / 2**19)
    wrapped = (exact + (1 << 31)) % (1 << 32) - (1 << 31)
    for rule in (Rule(Rounding.V1), Rule(Rounding.V1U)):
        assert reference(spec, rule, x, w).item() == round(wrapped / 2**19)


@pytest.mark.parametrize("multiplier", [1, 3])
def test_depthwise_on_the_cpu(multiplier: int) -> None:
    rng = np.random.default_rng(13)
    spec = DepthwiseConv2dSpec(
        in_h=9,
        in_w=8,
        in_c=5,
        multiplier=multiplier,
        window=Window2d.padded("same", 9, 8, kernel_h=3, kernel_w=4, stride_h=2, stride_w=2),
        x_quant=int16(0.01),
        w_quant=Quant(0.02),
        out_quant=int16(0.1),
        bias_dtype=INT64,
    )
    x = rng.integers(-32768, 32768, (3, 9, 8, 5)).astype(np.int16)
    w = rng.integers(-128, 128, spec.weights_shape).astype(np.int8)
    bias = rng.integers(-(1 << 22), 1 << 22, spec.out_c)
    assert_equal_bits(launched(spec, V3, [None, w, bias], x), reference(spec, V3, x, w, bias), "depthwise")


def test_public_operators() -> None:
    rng = np.random.default_rng(14)
    x = rng.integers(-32768, 32768, (2, 5, 5, 3)).astype(np.int16)
    w = rng.integers(-128, 128, (4, 3, 3, 3)).astype(np.int8)
    quants = dict(x_quant=int16(0.01), w_quant=Quant(0.02), out_quant=int16(0.3))
    for bias in (None, np.arange(4, dtype=np.int64), np.arange(4, dtype=np.int32)):
        y = gpuq.conv2d(x, w, bias, **quants)
        spec = gpuq.plan_conv2d((5, 5, 3), w, bias, **quants).spec
        assert spec.bias_dtype == (INT64 if bias is None else bias.dtype)
        assert_equal_bits(y, reference(spec, profiles.resolve("litert_ref", spec), x, w, bias), f"{bias}")


def test_add_shifts_early_in_whole_blocks() -> None:
    """By hand: of 20 elements 16 are in a vector. An input's factor 3/16 is 3 * 2^28 * 2^(-2 - 29)."""
    spec = AddSpec(a_shape=(20,), b_shape=(20,), a_quant=int16(8), b_quant=int16(3), out_quant=int16(16 / (1 << 13)))
    rng = np.random.default_rng(15)
    a, b = (rng.integers(-9, 10, (2, 20)).astype(np.int16) for _ in range(2))
    early, plain = (
        reference(spec, Rule(rounding), a, b) for rounding in (Rounding.V1_EARLY_SHIFT_BLOCK16, Rounding.V1)
    )
    assert_equal_bits(early[:, 16:], plain[:, 16:], "behind the last block")
    # Scales far apart: the right shift of the smaller factor reaches into the extra bits, and truncates beyond them.
    far = AddSpec(
        a_shape=(20,), b_shape=(20,), a_quant=int16(1), b_quant=int16(2.0**-16 * 1.3), out_quant=int16(2.0**-12)
    )
    a, b = np.zeros((1, 20), np.int16), np.full((1, 20), 32767, np.int16)
    multiplier, shift = numerics.quantize_multiplier(float(np.float32(2.0**-16 * 1.3)) / 2)
    assert shift == -16
    high = ((32767 >> 1) * multiplier + (1 << 30)) >> 31
    out, down = numerics.quantize_multiplier(2 / ((1 << 15) * 2.0**-12))
    want = numerics.requantize_v1(np.array(high), out, down)
    got = reference(far, Rule(Rounding.V1_EARLY_SHIFT_BLOCK16), a, b)
    assert (got[0, :16] == want).all()
    assert profiles.resolve("litert_opt", far).rounding is Rounding.V1_EARLY_SHIFT_BLOCK16
    broadcast = AddSpec(a_shape=(2, 20), b_shape=(20,), a_quant=int16(1), b_quant=int16(1), out_quant=int16(1))
    assert profiles.resolve("litert_opt", broadcast).rounding is Rounding.V1


def test_add_shifts_early_as_its_source_says() -> None:
    """Beside the vector code in Python integers: shift left by 15 + (the factor's shift), multiply, no right shift."""
    rng = np.random.default_rng(18)
    for a_scale, b_scale, out_scale in ((1.0, 0.37, 0.9), (0.011, 3.0, 2.5), (1.0, 2.0**-16 * 1.3, 2.0**-12)):
        spec = AddSpec(
            a_shape=(32,), b_shape=(32,), a_quant=int16(a_scale), b_quant=int16(b_scale), out_quant=int16(out_scale)
        )
        a, b = (rng.integers(-32768, 32768, (40, 32)).astype(np.int16) for _ in range(2))
        a = a if out_scale > 0.1 else a // 8192
        twice = 2 * max(spec.a_quant.scalar_scale(), spec.b_quant.scalar_scale())
        out, down = numerics.quantize_multiplier(twice / (2.0**15 * spec.out_quant.scalar_scale()))
        want = []
        for pair in zip(a.reshape(-1).tolist(), b.reshape(-1).tolist(), strict=True):
            total = 0
            for code, quant in zip(pair, (spec.a_quant, spec.b_quant), strict=True):
                multiplier, shift = numerics.quantize_multiplier(quant.scalar_scale() / twice)
                shifted = math.floor(Fraction(code) * Fraction(2) ** (15 + shift))
                # SQRDMULH: the doubled product's upper half, rounded half up.
                total += (2 * shifted * multiplier + (1 << 31)) >> 32
            scaled = int(numerics.requantize_v1(np.array(total), out, down))
            want.append(min(max(scaled, -32768), 32767))
        got = reference(spec, Rule(Rounding.V1_EARLY_SHIFT_BLOCK16), a, b)
        assert_equal_bits(got, np.array(want, np.int16).reshape(40, 32), f"{a_scale} {b_scale} {out_scale}")
    assert (got != reference(spec, Rule(Rounding.V1), a, b)).any(), "the last scales tell the two apart"


def test_tables_of_both_floats_differ_where_they_must() -> None:
    """TFLite Micro computes SOFTMAX's tables in float32, LiteRT in float64: some entries, and so some codes, differ."""

    def tables(kind: type[Any]) -> list[np.ndarray]:
        unit = kind(2.0) / kind(65535)
        return [
            interpolation_table(np.exp, kind(10.0) / kind(65535), 32767, unit),
            interpolation_table(lambda x: 1 / (1 + x), kind(1.0) / kind(65535), -32768, unit),
        ]

    assert any((single != double).any() for single, double in zip(tables(np.float32), tables(np.float64), strict=True))
    rng = np.random.default_rng(19)
    rows = rng.integers(-32768, 32768, (4000, 3)).astype(np.int16)
    spec = SoftmaxSpec(depth=3, x_quant=int16(0.0001), out_quant=int16(1 / 32768))
    single, double = (reference(spec, Rule(rule), rows) for rule in (Rounding.INTERPOLATED_F32, Rounding.INTERPOLATED))
    assert 0 < np.count_nonzero(single != double) < single.size // 4


SAME, BROADCAST = [((3, 97, 64),) * 2, ((7, 5),) * 2], [((4, 3, 32), (32,)), ((16, 1), (2, 16, 16))]


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(("rounding", "product"), [(Rounding.V1, Product.ALL_F32), (Rounding.V2, Product.F64)])
@pytest.mark.parametrize("shapes", SAME + BROADCAST)
def test_products_on_the_cpu(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], rounding: Rounding, product: Product, constant: bool
) -> None:
    rng = np.random.default_rng(26)
    spec = MulSpec(
        a_shape=shapes[0], b_shape=shapes[1], a_quant=int16(0.3), b_quant=int16(0.07), out_quant=int16(150),
        activation="relu" if constant else None,
    )  # fmt: skip
    a = rng.integers(-32768, 32768, (3, *shapes[0])).astype(np.int16)
    b = rng.integers(-32768, 32768, (1 if constant else 3, *shapes[1])).astype(np.int16)
    a.flat[0] = b.flat[0] = -32768
    rule = Rule(rounding, product)
    assert cpu.pack(spec, rule, [None, None]).name == "mul_int16"
    got = launched(spec, rule, [None, b[0] if constant else None], a, *([] if constant else [b]))
    assert_equal_bits(got, reference(spec, rule, a, b), f"{rounding.name} {shapes}")


@pytest.mark.parametrize("spec_type", [AddSpec, SubSpec])
@pytest.mark.parametrize(
    ("rounding", "shapes"),
    [
        *((rounding, shapes) for rounding in (Rounding.V1, Rounding.V2) for shapes in SAME + BROADCAST),
        *((Rounding.V1_EARLY_SHIFT_BLOCK16, shapes) for shapes in SAME),  # where nothing is broadcast
    ],
)
@pytest.mark.parametrize("constant", [False, True])
def test_sums_on_the_cpu(
    spec_type: type[BinarySpec], rounding: Rounding, shapes: tuple[tuple[int, ...], tuple[int, ...]], constant: bool
) -> None:
    a_shape, b_shape = shapes
    rng = np.random.default_rng(20)
    spec = spec_type(
        a_shape=a_shape, b_shape=b_shape, a_quant=int16(0.3), b_quant=int16(0.07), out_quant=int16(0.29),
        activation="relu6" if constant else None,
    )  # fmt: skip
    a = rng.integers(-32768, 32768, (3, *a_shape)).astype(np.int16)
    b = rng.integers(-32768, 32768, (1 if constant else 3, *b_shape)).astype(np.int16)
    plan = cpu.pack(spec, Rule(rounding), [None, b[0] if constant else None])
    in_blocks = rounding is not Rounding.V1_EARLY_SHIFT_BLOCK16 or a_shape != (7, 5)
    assert plan.name.endswith("_int16" if in_blocks else "_reference")
    got = launched(spec, Rule(rounding), [None, b[0] if constant else None], a, *([] if constant else [b]))
    assert_equal_bits(got, reference(spec, Rule(rounding), a, b), f"{spec.op} {rounding.name} {shapes}")


def test_tables() -> None:
    assert (SIGMOIDS[0], SIGMOIDS[255]) == (32768, 65535)
    assert (np.diff(SIGMOIDS) >= 0).all()
    unit = np.float64(2) / 65535
    table = interpolation_table(lambda x: x, unit, 0, unit)
    codes = np.arange(-32768, 32768)
    assert np.abs(interpolated(codes, table) - codes).max() <= 1


def test_logistic_and_softmax_come_near_the_function() -> None:
    codes = np.arange(-32768, 32768).astype(np.int16)
    for scale in (2.0**-12, 0.0003, 0.00001, 0.01):
        spec = LogisticSpec(shape=(65536,), x_quant=int16(scale), out_quant=int16(1 / 32768))
        got = launched(spec, Rule(Rounding.INTERPOLATED), [None], codes[None])[0]
        assert_equal_bits(got, reference(spec, Rule(Rounding.INTERPOLATED), codes), f"{scale}")
        assert np.abs(got - 32768 / (1 + np.exp(-codes.astype(np.float64) * scale))).max() < 3
    rng = np.random.default_rng(16)
    rows = rng.integers(-32768, 32768, (40, 30)).astype(np.int16)
    spec_of_rows = SoftmaxSpec(depth=30, x_quant=int16(0.0002), out_quant=int16(1 / 32768))
    exps = np.exp(rows * np.float64(np.float32(0.0002)))
    for rounding in (Rounding.INTERPOLATED, Rounding.INTERPOLATED_F32):
        got = reference(spec_of_rows, Rule(rounding), rows)
        assert np.abs(got - 32768 * exps / exps.sum(axis=1, keepdims=True)).max() < 8


def test_elementwise_on_the_cpu() -> None:
    rng = np.random.default_rng(17)
    x = rng.integers(-32768, 32768, (3, 6, 5, 4)).astype(np.int16)
    cases: list[tuple[Spec, Rule]] = [
        (ReluSpec(shape=(6, 5, 4), x_quant=int16(0.1), out_quant=int16(0.07)), Rule(Rounding.V1)),
        (QuantizeSpec(shape=(6, 5, 4), x_quant=int16(0.001), out_quant=Quant(0.3, 5)), Rule(Rounding.V1)),
        (
            ResizeBilinearSpec(in_h=6, in_w=5, in_c=4, out_h=11, out_w=3, half_pixel_centers=True, dtype=INT16),
            Rule(Rounding.EXACT),
        ),
    ]
    for spec, rule in cases:
        want = reference(spec, rule, x)
        assert_equal_bits(launched(spec, rule, [None], x), want.reshape(3, *spec.output_shape), spec.op)


def test_concatenation_copies() -> None:
    x = np.array([[-32768, 5, 32767]], np.int16)
    spec = ConcatenationSpec(x_shapes=((3,), (3,)), axis=0, x_quants=(int16(0.1), int16(3.0)), out_quant=int16(0.7))
    want = np.concatenate([x, x], axis=1)
    assert_equal_bits(launched(spec, Rule(Rounding.EXACT), [None, None], x, x), want, "copies")


def test_packed_weights() -> None:
    """int4 beside int16: LiteRT's CONV_2D alone unpacks them; its DEPTHWISE_CONV_2D reads them as bytes."""
    dense = conv(weight_bits=4)
    window = Window2d(kernel_h=1, kernel_w=1)
    quants: dict[str, Any] = dict(x_quant=int16(1), w_quant=Quant(1), out_quant=int16(1), bias_dtype=INT64)
    depthwise = DepthwiseConv2dSpec(in_h=1, in_w=1, in_c=1, window=window, weight_bits=4, **quants)
    for name in ("litert_ref", "litert_opt", "xnnpack"):
        assert profiles.resolve(name, dense) == V3
        with pytest.raises(UnsupportedModel, match="beyond their end"):
            profiles.resolve(name, depthwise)
    for name in ("tflm", "single"):
        for spec in (dense, depthwise):
            with pytest.raises(UnsupportedModel, match="no int4 weights beside int16"):
                profiles.resolve(name, spec)


def test_specs_refuse() -> None:
    with pytest.raises(InputValueError, match="x_quant of int16 must have zero point 0, got 3"):
        conv(x_quant=Quant(0.1, 3, dtype="int16"))
    with pytest.raises(InputTypeError, match="weights of int16"):
        conv(w_quant=int16(0.1))
    with pytest.raises(InputTypeError, match="bias of int64"):
        conv(x_quant=Quant(0.1), out_quant=Quant(0.1))
    with pytest.raises(InputTypeError, match="bias of int32"):
        DepthwiseConv2dSpec(
            in_h=1, in_w=1, in_c=1, window=Window2d(kernel_h=1, kernel_w=1), x_quant=int16(1), w_quant=Quant(1),
            out_quant=int16(1),
        )  # fmt: skip
    with pytest.raises(InputValueError, match="zero point 0"):
        DequantizeSpec(shape=(1,), x_quant=Quant(0.1, 1, dtype="int16"))
    with pytest.raises(InputValueError, match="1/32768"):
        LogisticSpec(shape=(1,), x_quant=int16(0.1), out_quant=int16(1 / 256))
    with pytest.raises(InputValueError, match=r"2\^14"):
        SubSpec(a_shape=(1,), b_shape=(1,), a_quant=int16(1), b_quant=int16(1), out_quant=int16(2.0**-14))
    with pytest.raises(InputValueError, match="16/3"):
        LogisticSpec(shape=(1,), x_quant=int16(6), out_quant=int16(1 / 32768))


@pytest.mark.parametrize("spec_type", [AddSpec, SubSpec])
def test_powers_of_two_shift(spec_type: type[BinarySpec]) -> None:
    rng = np.random.default_rng(21)
    a, b = (rng.integers(-32768, 32768, (2, 40)).astype(np.int16) for _ in range(2))
    shapes: dict[str, Any] = dict(a_shape=(40,), b_shape=(40,), a_quant=int16(0.5), b_quant=int16(0.125))
    asked = spec_type(**shapes, out_quant=int16(0.5), pot_scale_int16=True)
    sign = 1 if spec_type is AddSpec else -1
    want = exact.elementwise(lambda x, y: exact.clamp(x + sign * exact.divide_by_pot(y, 2), -32768, 32767), a, b)
    for name in ("litert_ref", "litert_opt", "xnnpack"):
        rule = profiles.resolve(name, asked)
        assert rule.rounding is Rounding.POWER_OF_TWO
        assert_equal_bits(reference(asked, rule, a, b), want.astype(np.int16), name)
        assert_equal_bits(launched(asked, rule, [None, None], a, b), want.astype(np.int16), name)
    assert (want != reference(asked, Rule(Rounding.V1), a, b)).any()
    assert profiles.resolve("tflm", asked) == Rule(Rounding.V1)
    assert profiles.resolve("litert_ref", replace(asked, out_quant=int16(0.3))) == Rule(Rounding.V1)
    for out in (1.0, 0.25):
        with pytest.raises(UnsupportedModel, match="one input's must be the output's"):
            profiles.resolve("litert_ref", replace(asked, out_quant=int16(out)))
    broadcast = replace(asked, b_shape=(1,))
    if spec_type is AddSpec:
        with pytest.raises(UnsupportedModel, match="foreign memory"):
            profiles.resolve("litert_ref", broadcast)
    else:
        assert profiles.resolve("litert_ref", broadcast).rounding is Rounding.POWER_OF_TWO


@pytest.mark.parametrize("rounding", [Rounding.V1, Rounding.V2])
def test_prelu(rounding: Rounding) -> None:
    rng = np.random.default_rng(22)
    spec = PreluSpec(a_shape=(5, 40), b_shape=(40,), a_quant=int16(0.5), b_quant=Quant(0.03, 7), out_quant=int16(0.25))
    x = rng.integers(-32768, 32768, (2, 5, 40)).astype(np.int16)
    alpha = rng.integers(-128, 128, 40).astype(np.int8)
    scaled = exact.v1_real if rounding is Rounding.V1 else exact.v2_real
    negative = exact.real_multiplier(0.5, spec.b_quant.scalar_scale(), 0.25)

    def of(q: int, slope: int) -> int:
        return exact.clamp(scaled(q, 2.0) if q >= 0 else scaled(q * (slope - 7), negative), -32768, 32767)

    want = exact.elementwise(of, x, np.broadcast_to(alpha, x.shape)).astype(np.int16)
    assert_equal_bits(reference(spec, Rule(rounding), x, alpha[None]), want, f"{rounding}")
    assert_equal_bits(launched(spec, Rule(rounding), [None, alpha], x), want, f"{rounding}")
    with pytest.raises(InputTypeError, match="second input of int16"):
        replace(spec, b_quant=int16(0.1))


def test_leaky_relu_with_a_negative_multiplier() -> None:
    """-0.875 / 2 of odd codes: where the product ends in a half, its sign decides."""
    spec = LeakyReluSpec(shape=(64,), x_quant=int16(1), out_quant=int16(1), alpha=-7 / 16)
    x = -np.arange(1, 129).reshape(2, 64).astype(np.int16)
    multiplier, shift = exact.multiplier_and_shift(7 / 16)
    signed = exact.elementwise(lambda q: exact.v1(q, -multiplier, shift), x).astype(np.int16)
    apart = exact.elementwise(lambda q: -exact.v1(q, multiplier, shift), x).astype(np.int16)
    assert (signed != apart).any()
    for name, want in (("litert_ref", apart), ("tflm", apart), ("litert_opt", signed), ("xnnpack", signed)):
        rule = profiles.resolve(name, spec)
        assert_equal_bits(launched(spec, rule, [None], x), want, name)


def test_comparisons() -> None:
    a, b = np.array([[300, 301, -5, 32767]], np.int16), np.array([[301, 301, -4, -32768]], np.int16)
    small: dict[str, Any] = dict(a_shape=(4,), b_shape=(4,), dtype=INT16, a_quant=int16(0.001), b_quant=int16(0.001))
    bare: dict[str, Any] = small | dict(a_quant=None, b_quant=None)
    for name in ("litert_ref", "litert_opt", "xnnpack"):
        # 300 * 256 * 0.001 = 76.8, 301 * 256 * 0.001 = 77.06; -5 and -4 come to -1.28 and -1.02.
        for spec, want in (
            (EqualSpec(**small), [True, True, True, False]),
            (NotEqualSpec(**small), [False, False, False, True]),
            (EqualSpec(**bare), [False, True, False, False]),
            (LessSpec(**small), [True, False, True, False]),
            (GreaterEqualSpec(**bare), [False, True, False, True]),
        ):
            got = reference(spec, profiles.resolve(name, spec), a, b)
            assert got.tolist() == [want], f"{name} {spec}"
        with pytest.raises(UnsupportedModel, match="writes nothing"):
            profiles.resolve(name, NotEqualSpec(**bare))
        with pytest.raises(UnsupportedModel, match="scales must be below 1"):
            profiles.resolve(name, EqualSpec(**small | dict(b_quant=int16(1.5))))
    with pytest.raises(UnsupportedModel, match="not in numerics 'tflm'"):
        profiles.resolve("tflm", GreaterEqualSpec(**bare))


@pytest.mark.parametrize(("scale", "shift"), [(2.0**-12, 0), (2.0**-11, 1)])
def test_fixed_point_of_the_optimized_kernels(scale: float, shift: int) -> None:
    codes = np.arange(-32768, 32768).astype(np.int16)[None]
    quants: dict[str, Any] = dict(shape=(65536,), x_quant=int16(scale), out_quant=int16(1 / 32768))
    specs = [(TanhSpec(**quants), np.tanh)]
    if shift == 0:
        specs.append((LogisticSpec(**quants), lambda x: 1 / (1 + np.exp(-x))))
    for spec, function in specs:
        rule = profiles.resolve("xnnpack", spec)
        assert rule.rounding is Rounding.FIXED_POINT
        got = launched(spec, rule, [None], codes)
        assert_equal_bits(got, reference(spec, rule, codes), spec.op)
        real = np.clip(codes * np.float64(scale), -8, 8)
        assert np.abs(got - 32768 * function(real)).max() < 20
        plain = reference(spec, profiles.resolve("litert_ref", spec), codes)
        assert np.count_nonzero(got != plain) > 0


def test_roots() -> None:
    codes = np.arange(0, 32768).astype(np.int16)[None]
    quants: dict[str, Any] = dict(shape=(32768,), x_quant=int16(0.003), out_quant=int16(0.0007))
    root = SqrtSpec(**quants)
    real = np.float32(0.003) * codes.astype(np.float32)
    want = np.clip((np.sqrt(real) / np.float32(0.0007)).astype(np.int64), -32768, 32767).astype(np.int16)
    for name in ("litert_ref", "litert_opt", "xnnpack"):
        assert_equal_bits(launched(root, profiles.resolve(name, root), [None], codes), want, name)
    with pytest.raises(UnsupportedModel, match="SQRT on int16"):
        profiles.resolve("tflm", root)
    inverse = RsqrtSpec(**quants)
    exact_values = np.clip(1 / np.sqrt(real[:, 1:], dtype=np.float64) / np.float32(0.0007), 0, 32767)
    micro = launched(inverse, profiles.resolve("tflm", inverse), [None], codes)
    assert micro[0, 0] == 32767
    assert np.abs(micro[:, 1:] - exact_values).max() <= 1
    # Straight lines between every 128th value: exact there but for what moves them, far off between the first two.
    lines = launched(inverse, profiles.resolve("litert_ref", inverse), [None], codes)
    assert np.abs(lines[:, 4096::128] - exact_values[:, 4095::128]).max() <= 2
    assert np.abs(lines[:, 1:] - exact_values).max() > 1000


def test_squared_difference() -> None:
    rng = np.random.default_rng(24)
    a, b = (rng.integers(-32768, 32768, (2, 60)).astype(np.int16) for _ in range(2))
    spec = SquaredDifferenceSpec(
        a_shape=(60,), b_shape=(60,), a_quant=int16(0.01), b_quant=int16(0.007), out_quant=int16(3.0)
    )
    twice = 2 * spec.a_quant.scalar_scale()
    factors = [quant.scalar_scale() / twice for quant in (spec.a_quant, spec.b_quant)]

    def of(x: int, y: int) -> int:
        difference = exact.v1_real(x, factors[0]) - exact.v1_real(y, factors[1])
        return exact.clamp(exact.v1_real(difference * difference, twice * twice / 3), -32768, 32767)

    want = exact.elementwise(of, a, b).astype(np.int16)
    assert np.unique(want).size > 60
    assert_equal_bits(launched(spec, profiles.resolve("tflm", spec), [None, None], a, b), want, "tflm")
    with pytest.raises(UnsupportedModel, match="SQUARED_DIFFERENCE on int16"):
        profiles.resolve("litert_ref", spec)


def test_plain_int16() -> None:
    x = np.array([[-32768, -7, 7, 300]], np.int16)
    negated = NegSpec(shape=(4,), dtype=INT16)
    assert reference(negated, Rule(Rounding.EXACT), x).tolist() == [[-32768, 7, -7, -300]]
    cast = CastSpec(shape=(4,), dtype=INT16, out_dtype=np.dtype(np.int8))
    assert reference(cast, Rule(Rounding.EXACT), x).tolist() == [[0, -7, 7, 44]]
    for dtype in ("int8", "int16"):
        spec = BINARY_SPECS["FLOOR_DIV"](a_shape=(4,), b_shape=(4,), dtype=np.dtype(dtype))
        a, b = (np.array([row], dtype) for row in ([-7, 7, -7, -128], [2, -2, -2, -1]))
        lowest = -128 if dtype == "int8" else 128
        got = reference(spec, profiles.resolve("litert_ref", spec), a, b)
        assert got.tolist() == [[-4, -4, 3, lowest]]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_div(dtype: str) -> None:
    """Every dividend by some divisors, beside Python integers and gemmlowp's reciprocal."""
    info = np.iinfo(dtype)
    zeros = (0, 0, 0) if dtype == "int16" else (info.min + 100, info.min + 3, info.max - 90)
    steps = 12345.0 if dtype == "int16" else 200.0
    quants = [Quant(scale, zero, dtype=dtype) for scale, zero in zip((0.5, 0.25, 2 / steps), zeros, strict=True)]
    spec = DivSpec(
        a_shape=(256,), b_shape=(1,), a_quant=quants[0], b_quant=quants[1], out_quant=quants[2], activation="relu6"
    )
    a = np.linspace(info.min, info.max, 256).astype(dtype)[None]
    divisors = np.array([[zeros[1] + step] for step in (1, 2, 3, 77, 124)], dtype)
    if info.min < 0:
        divisors = np.concatenate([divisors, np.array([[zeros[1] - 2], [info.min]], dtype)])
    multiplier, shift = exact.multiplier_and_shift(float(np.float32(0.5) / (np.float32(0.25) * quants[2].scales[0])))
    low, high = zeros[2], min(info.max, zeros[2] + exact.round_away(exact.f32(6 / quants[2].scalar_scale())))

    def of(x: int, y: int) -> int:
        dividend, divisor = (x - zeros[0], y - zeros[1]) if y > zeros[1] else (zeros[0] - x, zeros[1] - y)
        inverse, bits = gemmlowp.get_reciprocal(divisor, 31)
        headroom = 31 - (dividend if dividend >= 0 else ~dividend).bit_length()
        scaled = exact.high_mul(exact.high_mul(exact.wrap(dividend << headroom), inverse), multiplier)
        right = bits + headroom - shift
        return exact.clamp(exact.divide_by_pot(scaled, right) + zeros[2], low, high)

    for divisor in divisors:
        want = exact.elementwise(of, a, np.broadcast_to(divisor, a.shape)).astype(dtype)
        rule = profiles.resolve("litert_ref", spec)
        assert_equal_bits(reference(spec, rule, a, divisor[None]), want, f"{dtype} by {divisor}")
        assert_equal_bits(launched(spec, rule, [None, divisor], a), want, f"{dtype} by {divisor}")
    with pytest.raises(InputValueError, match="DIV: division by 0"):
        launched(spec, rule, [None, None], a, np.array([[zeros[1]]], dtype))
    with pytest.raises(UnsupportedModel, match="DIV on"):
        profiles.resolve("tflm", spec)


def test_sum() -> None:
    rng = np.random.default_rng(23)
    x = rng.integers(-32768, 32768, (2, 3, 50)).astype(np.int16)
    spec = SumSpec(x_shape=(3, 50), axes=(1,), keep_dims=False, x_quant=int16(0.3), out_quant=int16(7.0))
    factor = float(np.float32(spec.x_quant.scalar_scale()) / np.float32(7))
    by_v1 = [exact.v1_real(int(total), spec.factor) for total in x.sum(axis=2, dtype=np.int64).reshape(-1)]
    in_float = [
        exact.round_away(exact.f32(int(total) * exact.f32(factor))) for total in x.sum(axis=2, dtype=np.int64).flat
    ]
    for name, want in (("tflm", by_v1), ("litert_opt", in_float), ("xnnpack", in_float)):
        got = launched(spec, profiles.resolve(name, spec), [None], x)
        assert_equal_bits(got, np.array(want, np.int16).reshape(2, 3), name)
    with pytest.raises(UnsupportedModel, match="writes half the output"):
        profiles.resolve("litert_ref", spec)


@pytest.mark.parametrize(
    ("name", "bias_dtype", "op", "rule"),
    [
        ("litert_ref", INT64, "CONV_2D", V3),
        ("litert_ref", INT32, "CONV_2D", Rule(Rounding.V1)),
        ("litert_opt", INT64, "CONV_2D", V3),
        ("litert_opt", INT32, "CONV_2D", Rule(Rounding.V1U)),
        ("xnnpack", INT32, "CONV_2D", Rule(Rounding.V1U)),
        ("tflm", INT64, "CONV_2D", V3),
        ("single", INT32, "CONV_2D", Rule(Rounding.V2)),
        ("litert_ref", INT64, "FULLY_CONNECTED", Rule(Rounding.V6)),
        ("litert_opt", INT64, "FULLY_CONNECTED", Rule(Rounding.V6)),
        ("litert_opt", INT32, "FULLY_CONNECTED", Rule(Rounding.V1U, Product.F32)),
        ("tflm", INT64, "FULLY_CONNECTED", V3),
    ],
)
def test_profiles(name: str, bias_dtype: np.dtype[Any], op: str, rule: Rule) -> None:
    spec: Spec = conv(bias_dtype=bias_dtype)
    if op == "FULLY_CONNECTED":
        spec = FullyConnectedSpec(
            in_c=3, out_c=2, x_quant=int16(1), w_quant=Quant(1), out_quant=int16(1), bias_dtype=bias_dtype
        )
    assert profiles.resolve(name, spec) == rule
