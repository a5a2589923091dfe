"""gpuq.cpu: every plan gives what the operator's reference() gives, from a workspace of noise and exactly enough."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DataObject

from gpuq import InputTypeError, InputValueError, Quant, cpu
from gpuq.cpu import conv2d as cpu_conv2d
from gpuq.numerics import Rounding, Rule
from gpuq.ops.add import AddSpec
from gpuq.ops.broadcast import BinarySpec
from gpuq.ops.concatenation import ConcatenationSpec
from gpuq.ops.conv2d import Conv2dSpec
from gpuq.ops.depthwise_conv2d import DepthwiseConv2dSpec
from gpuq.ops.fully_connected import FullyConnectedSpec
from gpuq.ops.logistic import LogisticSpec
from gpuq.ops.max_pool_2d import MaxPool2dSpec
from gpuq.ops.mul import MulSpec
from gpuq.ops.quantize import QuantizeSpec
from gpuq.ops.registry import reference
from gpuq.ops.relu import Relu6Spec, ReluSpec
from gpuq.ops.sub import SubSpec
from gpuq.ops.window import Window2d

from .compare import assert_equal_bits
from .launching import launched
from .layers import (
    ACTIVATIONS,
    Layer,
    codes,
    conv2d_layers,
    depthwise_conv2d_layers,
    fully_connected_layer,
    fully_connected_layers,
    log2_scale,
    rules,
    shapes,
    zero_point,
)


def check_layer(layer: Layer, name: str) -> None:
    """The plan of one layer: its name, a batch, and the runs of the batch one by one."""
    spec, rng = layer.spec, np.random.default_rng(layer.seed)
    runs = layer.x.shape[0]
    for profile, rule in rules(spec):
        plan = cpu.pack(spec, rule, [None, layer.weights, layer.bias])
        context = f"{plan.name}, {profile}, {layer}"
        assert plan.name == name
        want = reference(spec, rule, layer.x, layer.weights, layer.bias).reshape(runs, *spec.output_shape)
        got = launched(plan, [layer.x.copy()], want.shape, want.dtype, rng)
        assert_equal_bits(got, want, context)
        single = [
            launched(plan, [layer.x[i : i + 1].copy()], (1, *want.shape[1:]), want.dtype, rng) for i in range(runs)
        ]
        assert_equal_bits(np.concatenate(single), want, f"one run at a time, {context}")


# Blocks of everything at once, and of so few bytes that they end at every row, image and run.
block_bytes = st.sampled_from([1 << 20, 1 << 20, 1 << 13, 1])


@settings(max_examples=250)
@given(conv2d_layers(), block_bytes)
def test_conv2d(layer: Layer, size: int) -> None:
    with mock.patch.object(cpu_conv2d, "BLOCK_BYTES", size):
        check_layer(layer, "conv2d_im2col_sgemm")


@settings(max_examples=200)
@given(depthwise_conv2d_layers(), block_bytes)
def test_depthwise_conv2d(layer: Layer, size: int) -> None:
    with mock.patch.object(cpu_conv2d, "BLOCK_BYTES", size):
        check_layer(layer, "depthwise_conv2d_taps_float")


@settings(max_examples=50)
@given(depthwise_conv2d_layers(one_channel=True), block_bytes)
def test_depthwise_conv2d_of_one_channel_is_a_convolution(layer: Layer, size: int) -> None:
    with mock.patch.object(cpu_conv2d, "BLOCK_BYTES", size):
        check_layer(layer, "conv2d_im2col_sgemm")


@settings(max_examples=150)
@given(fully_connected_layers(), block_bytes)
def test_fully_connected(layer: Layer, size: int) -> None:
    with mock.patch.object(cpu_conv2d, "BLOCK_BYTES", size):
        check_layer(layer, "fully_connected_sgemm")


@pytest.mark.parametrize("extreme_codes", [False, True])
@pytest.mark.parametrize("bias_kind", ["small", "extreme"])
@pytest.mark.parametrize(("dtype", "taps"), [("int8", 70_001), ("uint8", 65_537), ("uint8", 140_000)])
def test_fully_connected_beyond_2_to_the_16_taps(
    dtype: str, taps: int, bias_kind: str, extreme_codes: bool, seed: int
) -> None:
    """Sums beyond int32, which wrap: 140,000 products of 255 * 255 are 9.1e9."""
    layer = fully_connected_layer(
        seed, dtype, taps, 3, runs=2, bias_kind=bias_kind, extreme_codes=extreme_codes, per_channel=dtype == "int8"
    )
    check_layer(layer, "fully_connected_sgemm")


def test_fully_connected_accumulators_really_wrap() -> None:
    # x = 255 and w = 255 with both zero points 0: 140,000 * 65025 = 9103500000 = 2 * 2^32 + 513565408.
    # 513565408 * 2^-22 = 122.44; what did not wrap would give 2170 and saturate.
    one = Quant(2.0**-22, 0, dtype="uint8")
    spec = FullyConnectedSpec(
        in_c=140_000,
        out_c=1,
        x_quant=one,
        w_quant=Quant(1.0, 0, dtype="uint8"),
        out_quant=Quant(1.0, 0, dtype="uint8"),
    )
    full = np.full((1, 140_000), 255, np.uint8)
    for rounding in (Rounding.V1, Rounding.V6):
        rule = Rule(rounding)
        assert reference(spec, rule, full, full).tolist() == [[122]]
        plan = cpu.pack(spec, rule, [None, full])
        got = launched(plan, [full.copy()], (1, 1), np.uint8, np.random.default_rng(0))
        assert got.tolist() == [[122]], rounding


def test_groups_times_wide_images_cut_into_bands(seed: int) -> None:
    """Large enough for real blocks: several bands an image and several images a block, without patching anything."""
    rng = np.random.default_rng(seed)
    for in_h, runs, channels in ((150, 2, 16), (9, 40, 24)):
        weights, x = codes(rng, (channels, 3, 3, channels), "int8"), codes(rng, (runs, in_h, 31, channels), "int8")
        spec = Conv2dSpec(
            in_h=in_h,
            in_w=31,
            in_c=channels,
            out_c=channels,
            window=Window2d.padded("same", in_h, 31, kernel_h=3, kernel_w=3, stride_h=2),
            x_quant=Quant(0.1, -7),
            w_quant=Quant(0.01),
            out_quant=Quant(1.3, 5),
        )
        check_layer(Layer(spec, weights, None, x, seed), "conv2d_im2col_sgemm")
        depthwise = DepthwiseConv2dSpec(
            in_h=in_h,
            in_w=31,
            in_c=channels,
            window=spec.window,
            x_quant=spec.x_quant,
            w_quant=spec.w_quant,
            out_quant=Quant(0.2, 5),
        )
        check_layer(Layer(depthwise, weights[:1, :, :, :channels], None, x, seed), "depthwise_conv2d_taps_float")


def test_depthwise_sums_beyond_float32(seed: int) -> None:
    """A window of 900 taps, all products positive: sums near 29 million, of which the bias leaves a few units."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(250, 256, (1, 30, 30, 7)).astype(np.uint8)
    x = rng.integers(250, 256, (2, 31, 31, 7)).astype(np.uint8)
    sums = (x[0, :30, :30].astype(np.int64) * weights[0]).sum(axis=(0, 1))
    # 900 * 255 * 128 is beyond 2^24 only with codes centred around 128.
    assert sums.min() > 1 << 24
    spec = DepthwiseConv2dSpec(
        in_h=31,
        in_w=31,
        in_c=7,
        window=Window2d(kernel_h=30, kernel_w=30),
        x_quant=Quant(1.0, 0, dtype="uint8"),
        w_quant=Quant(1.0, 0, dtype="uint8"),
        out_quant=Quant(1.0, 128, dtype="uint8"),
    )
    bias = (rng.integers(-100, 100, 7) - sums).astype(np.int32)
    rule = Rule(Rounding.V1)
    assert np.unique(reference(spec, rule, x, weights, bias)).size > 5, "codes must not all be saturated"
    check_layer(Layer(spec, weights, bias, x, seed), "depthwise_conv2d_taps_float")


def test_plan_needs_constant_weights_of_the_right_shape() -> None:
    layer = fully_connected_layer(1, "int8", 4, 2)
    with pytest.raises(InputValueError, match="weights must be constant"):
        cpu.pack(layer.spec, Rule(Rounding.V6), [None, None, layer.bias])
    with pytest.raises(InputValueError, match=r"\(2, 3\) must have shape \(2, 4\)"):
        cpu.pack(layer.spec, Rule(Rounding.V6), [None, layer.weights[:, :3], None])
    with pytest.raises(InputTypeError, match="int64"):
        cpu.pack(layer.spec, Rule(Rounding.V6), [None, layer.weights, np.zeros(2, np.int64)])
    with pytest.raises(InputValueError, match="bias"):
        cpu.pack(layer.spec, Rule(Rounding.V6), [None, layer.weights, np.zeros(3, np.int32)])


def test_launches_do_not_depend_on_each_other(seed: int) -> None:
    """A plan keeps nothing from launch to launch: A, B, A in one workspace gives A's result twice."""
    layer = fully_connected_layer(seed, "uint8", 50, 7, runs=3)
    plan = cpu.pack(layer.spec, Rule(Rounding.V6), [None, layer.weights, layer.bias])
    workspace = np.empty(plan.workspace_bytes(3), np.uint8)
    results = []
    for x in (layer.x, layer.x[::-1], layer.x):
        out = np.empty((3, 7), np.uint8)
        plan.launch([x], [out], workspace)
        results.append(out)
    assert_equal_bits(results[2], results[0], f"{plan.name}, seed {seed}")
    assert_equal_bits(results[1], results[0][::-1], f"{plan.name}, seed {seed}, runs in reverse")


# ------------------------------------------------------------------------------------------------------ tables


@settings(max_examples=80)
@given(st.data(), st.sampled_from([AddSpec, SubSpec, MulSpec]), st.sampled_from(["int8", "uint8"]))
def test_binary_tables(data: DataObject, spec_type: type[BinarySpec], dtype: str) -> None:
    rng_seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(rng_seed)
    a_shape = data.draw(shapes(ranks=(1, 4)))
    # The other operand broadcasts: dimensions of one, leading dimensions left out.
    b_shape = tuple(data.draw(st.sampled_from([size, 1])) for size in a_shape)[
        data.draw(st.integers(0, len(a_shape))) :
    ]
    quants = [Quant(data.draw(log2_scale()), zero_point(rng, dtype), dtype=dtype) for _ in range(3)]
    if data.draw(st.booleans()):
        a_shape, b_shape = b_shape, a_shape
    spec = spec_type(
        a_shape=a_shape,
        b_shape=b_shape,
        a_quant=quants[0],
        b_quant=quants[1],
        out_quant=quants[2],
        activation=data.draw(st.sampled_from(ACTIVATIONS)),
    )
    runs = data.draw(st.integers(1, 3))
    constant = data.draw(st.sampled_from([None, 0, 1]))
    operands = [codes(rng, (1 if constant == i else runs, *shape), dtype) for i, shape in enumerate((a_shape, b_shape))]
    for profile, rule in rules(spec):
        want = reference(spec, rule, *operands).reshape(runs, *spec.output_shape)
        plan = cpu.pack(spec, rule, [operand[0] if constant == i else None for i, operand in enumerate(operands)])
        live = [operand.copy() for i, operand in enumerate(operands) if constant != i]
        got = launched(plan, live, want.shape, want.dtype, rng)
        assert_equal_bits(got, want, f"{plan.name}, {profile}, constant {constant}, seed {rng_seed}, {spec}")


@settings(max_examples=120)
@given(st.data(), st.sampled_from(["RELU", "RELU6", "LOGISTIC", "QUANTIZE"]), st.sampled_from(["int8", "uint8"]))
def test_unary_tables(data: DataObject, op: str, dtype: str) -> None:
    rng_seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(rng_seed)
    x_quant = Quant(data.draw(log2_scale(-10, 2)), zero_point(rng, dtype), dtype=dtype)
    out_dtype = data.draw(st.sampled_from(["int8", "uint8"])) if op == "QUANTIZE" else dtype
    out_quant = Quant(data.draw(log2_scale(-10, 2)), zero_point(rng, out_dtype), dtype=out_dtype)
    if op == "LOGISTIC":
        out_quant = Quant(1 / 256, np.iinfo(dtype).min, dtype=dtype)
    shape = (256, *data.draw(shapes(3, (0, 2))))
    made = {"RELU": ReluSpec, "RELU6": Relu6Spec, "LOGISTIC": LogisticSpec, "QUANTIZE": QuantizeSpec}[op]
    spec: Any = made(shape=shape, x_quant=x_quant, out_quant=out_quant)
    # All 256 codes, over and over.
    x = np.resize(np.arange(256, dtype=np.uint8).view(dtype), (2, *shape))
    for profile, rule in rules(spec):
        plan = cpu.pack(spec, rule, [None])
        assert plan.name == f"{op.lower()}_table"
        want = reference(spec, rule, x).reshape(x.shape)
        got = launched(plan, [x.copy()], x.shape, out_dtype, rng)
        assert_equal_bits(got, want, f"{plan.name}, {profile}, seed {rng_seed}, {spec}")


@pytest.mark.parametrize("runs", [1, 3])
def test_tables_of_scalars(runs: int) -> None:
    codes_of_runs = np.arange(runs, dtype=np.int8)
    binary = AddSpec(a_shape=(), b_shape=(), a_quant=Quant(1.0), b_quant=Quant(1.0), out_quant=Quant(1.0))
    unary = ReluSpec(shape=(), x_quant=Quant(1.0), out_quant=Quant(1.0))
    rng = np.random.default_rng(0)
    plan = cpu.pack(unary, Rule(Rounding.V1), [None])
    assert_equal_bits(launched(plan, [codes_of_runs.copy()], (runs,), np.int8, rng), codes_of_runs, plan.name)
    plan = cpu.pack(binary, Rule(Rounding.V1), [None, None])
    got = launched(plan, [codes_of_runs.copy(), codes_of_runs.copy()], (runs,), np.int8, rng)
    assert_equal_bits(got, 2 * codes_of_runs, plan.name)


def test_tables_have_every_code_at_its_place() -> None:
    spec = AddSpec(
        a_shape=(65536,), b_shape=(65536,), a_quant=Quant(0.5, 3), b_quant=Quant(0.3, -4), out_quant=Quant(0.7)
    )
    a, b = (pair.reshape(1, -1).astype(np.int8) for pair in np.mgrid[-128:128, -128:128])
    for profile, rule in rules(spec):
        plan = cpu.pack(spec, rule, [None, None])
        got = launched(plan, [a.copy(), b.copy()], a.shape, np.int8, np.random.default_rng(0))
        assert_equal_bits(got, reference(spec, rule, a, b), f"{plan.name}, {profile}")


# --------------------------------------------------------------------------------------------- reference plans


def test_reference_plan_broadcasts_constants_over_runs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    quant = Quant(0.5)
    spec = ConcatenationSpec(x_shapes=((2, 3), (2, 1)), axis=1, x_quants=(quant, quant), out_quant=quant)
    x, constant = codes(rng, (4, 2, 3), "int8"), codes(rng, (2, 1), "int8")
    plan = cpu.pack(spec, Rule(Rounding.EXACT), [None, constant])
    want = np.stack([np.concatenate([run, constant], axis=1) for run in x])
    assert plan.name == "concatenation_reference"
    assert plan.constant_bytes == constant.nbytes
    assert_equal_bits(launched(plan, [x.copy()], want.shape, np.int8, rng), want, f"{plan.name}, seed {seed}")


def test_reference_plan_of_a_pool(seed: int) -> None:
    rng = np.random.default_rng(seed)
    quant = Quant(0.5)
    spec = MaxPool2dSpec(
        in_h=4,
        in_w=4,
        in_c=3,
        window=Window2d(kernel_h=2, kernel_w=2, stride_h=2, stride_w=2),
        x_quant=quant,
        out_quant=quant,
    )
    x = codes(rng, (3, 1, 4, 4, 3), "int8")
    plan = cpu.pack(spec, Rule(Rounding.EXACT), [None])
    want = x.reshape(3, 1, 2, 2, 2, 2, 3).max(axis=(3, 5))
    assert_equal_bits(launched(plan, [x.copy()], want.shape, np.int8, rng), want, f"{plan.name}, seed {seed}")


def test_constant_bytes_count_what_is_packed() -> None:
    layer = fully_connected_layer(3, "int8", 10, 4)
    assert cpu.pack(layer.spec, Rule(Rounding.V6), [None, layer.weights, None]).constant_bytes == 4 * 40
    spec = ReluSpec(shape=(4,), x_quant=Quant(0.5), out_quant=Quant(0.5))
    assert cpu.pack(spec, Rule(Rounding.V1), [None]).constant_bytes == 256
    wider = replace(spec, shape=(4, 4))
    assert cpu.pack(wider, Rule(Rounding.V1), [None]).workspace_bytes(9) == 0
