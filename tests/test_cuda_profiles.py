"""The rules of litert_opt, xnnpack and single on the kernels that have them, and clear errors where none has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gpuq import Quant, profiles
from gpuq.cuda import binary, elementwise, pool_2d, reduce, resize, softmax
from gpuq.cuda.plans import layer_of
from gpuq.devices import Device
from gpuq.errors import InputValueError, UnsupportedModel
from gpuq.model.planner import plan_program
from gpuq.numerics import Bounds, Product, Rounding, Rule
from gpuq.ops.add import AddSpec
from gpuq.ops.average_pool_2d import AveragePool2dSpec
from gpuq.ops.conv2d import Conv2dSpec
from gpuq.ops.depthwise_conv2d import DepthwiseConv2dSpec
from gpuq.ops.dequantize import DequantizeSpec
from gpuq.ops.max_pool_2d import MaxPool2dSpec
from gpuq.ops.mean import MeanSpec
from gpuq.ops.mul import MulSpec
from gpuq.ops.quantize import QuantizeSpec
from gpuq.ops.reduce import SumSpec
from gpuq.ops.registry import reference
from gpuq.ops.resize_bilinear import ResizeBilinearSpec
from gpuq.ops.softmax import SoftmaxSpec
from gpuq.ops.sub import SubSpec
from gpuq.ops.window import Window2d

from .cuda_layers import launcher, random_codes, scaled
from .cuda_operators import random_quant, run_layer
from .host_cuda.runner import HostLauncher
from .test_cuda_binary import check, random_spec

__all__ = ["launcher"]

EVEN = dict(product=Product.ALL_F32, bounds=Bounds.EVEN)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec_type", "rule"),
    [
        (AddSpec, Rule(Rounding.Q20, **EVEN)),
        (SubSpec, Rule(Rounding.Q20, **EVEN)),
        (MulSpec, Rule(Rounding.V4, **EVEN)),
    ],
)
def test_xnnpack_binary(launcher: HostLauncher, spec_type: Any, rule: Rule, seed: int) -> None:
    rng = np.random.default_rng([seed, spec_type is MulSpec, spec_type is SubSpec])
    compared = 0
    for case in range(scaled(40)):
        shape = (int(rng.integers(1, 4)), 4 * int(rng.integers(1, 9)))
        spec = random_spec(rng, spec_type, ("int8", "uint8")[case % 2], (shape, shape))
        if profiles.resolve("xnnpack", spec) == rule:
            compared += 1
            check(launcher, rng, spec, rule, f"seed {seed}, case {case}", align=4, gaps=False)
    assert compared


@pytest.mark.slow
@pytest.mark.parametrize("rounding", [Rounding.V1U_BLOCK16, Rounding.V2, Rounding.RECIPROCAL_F32, Rounding.AFFINE_F32])
def test_means_and_sums(launcher: HostLauncher, rounding: Rounding, seed: int) -> None:
    rng = np.random.default_rng([seed, *rounding.value.encode()])
    for case in range(scaled(30)):
        dtype = ("int8", "uint8")[case % 2]
        x_quant = random_quant(rng, dtype, -6, 0)
        scale = float(np.float32(x_quant.scalar_scale() * 2.0 ** rng.integers(-3, 3)))
        shape = (1, int(rng.integers(1, 6)), int(rng.integers(1, 6)), int(rng.integers(1, 64)))
        out = Quant(scale, x_quant.scalar_zero_point(), dtype=dtype)
        # A sum has neither a count to divide by nor blocks of channels.
        kind = SumSpec if case % 3 == 0 and rounding is not Rounding.V1U_BLOCK16 else MeanSpec
        kind = SumSpec if rounding is Rounding.AFFINE_F32 else kind
        spec = kind(x_shape=shape, axes=(1, 2), keep_dims=True, x_quant=x_quant, out_quant=out)
        x = random_codes(rng, (2, *shape), dtype)
        want = reference(spec, Rule(rounding), x)
        run_layer(launcher, reduce.pack(spec, Rule(rounding)), [x], want, rng, f"seed {seed}, case {case}: {spec}")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_softmax_in_float32(launcher: HostLauncher, dtype: str, seed: int) -> None:
    rng = np.random.default_rng([seed, dtype == "int8"])
    rule = Rule(Rounding.TABLE_F32)
    for case in range(scaled(60)):
        depth = int(rng.integers(1, 70 if case % 10 else 1500))
        out = Quant(1 / 256, np.iinfo(dtype).min, dtype=dtype)
        spec = SoftmaxSpec(depth=depth, x_quant=random_quant(rng, dtype, -12, 2), out_quant=out)
        x = random_codes(rng, (int(rng.integers(1, 10)), depth), dtype)
        if case % 3 == 0:
            x //= 16  # near one another: nothing underflows
        want = reference(spec, rule, x)
        align = 4 if depth % 4 == 0 else 1
        run_layer(launcher, softmax.pack(spec, rule), [x], want, rng, f"seed {seed}, case {case}: {spec}", align=align)


@pytest.mark.parametrize("shape", [(1, 17), (3, 11), (1001,), (16,)])
def test_requantization_in_blocks_with_a_rest(launcher: HostLauncher, shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    rule = Rule(Rounding.V1U_BLOCK16)
    spec = QuantizeSpec(shape=shape, x_quant=Quant(0.5, 3), out_quant=Quant(2.0, -7))
    x = random_codes(rng, (3, *shape), "int8")
    want = reference(spec, rule, x)
    for align in (1, 16):
        run_layer(
            launcher, elementwise.pack(spec, rule), [x], want, rng, f"seed {seed}: {spec}", align=align, gaps=False
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rounding", "dtype"),
    [
        (Rounding.EXACT_UP, "int8"),
        (Rounding.Q11, "int8"),
        (Rounding.Q11, "uint8"),
        (Rounding.AFFINE_F32_PIXEL, "uint8"),
    ],
)
def test_bilinear_rules(launcher: HostLauncher, rounding: Rounding, dtype: str, seed: int) -> None:
    rng = np.random.default_rng([seed, rounding is Rounding.Q11, dtype == "int8"])
    for case in range(scaled(30)):
        in_h, in_w, out_h, out_w, in_c = (int(rng.integers(1, 12)) for _ in range(5))
        corners, centers = ((False, False), (True, False), (False, True))[case % 3]
        spec = ResizeBilinearSpec(
            in_h=in_h,
            in_w=in_w,
            in_c=in_c,
            out_h=out_h,
            out_w=out_w,
            dtype=np.dtype(dtype),
            align_corners=corners,
            half_pixel_centers=centers,
        )
        x = random_codes(rng, (2, in_h, in_w, in_c), dtype)
        want = reference(spec, Rule(rounding), x)
        run_layer(launcher, resize.pack(spec, Rule(rounding)), [x], want, rng, f"seed {seed}, case {case}: {spec}")


@pytest.mark.slow
def test_even_bounds_of_a_pool(launcher: HostLauncher, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # 6 / 4 is half-way between two codes.
    quant = Quant(4.0, -127)
    spec = MaxPool2dSpec(
        in_h=4,
        in_w=4,
        in_c=4,
        window=Window2d(kernel_h=2, kernel_w=2),
        x_quant=quant,
        out_quant=quant,
        activation="relu6",
    )
    x = random_codes(rng, (2, 4, 4, 4), "int8")
    rules = [Rule(Rounding.EXACT, bounds=bounds) for bounds in Bounds]
    wants = [reference(spec, rule, x) for rule in rules]
    assert (wants[0] != wants[1]).any()
    for rule, want in zip(rules, wants, strict=True):
        run_layer(launcher, pool_2d.pack(spec, rule), [x], want, rng, f"seed {seed}, {rule}")


def depthwise(channels: int, activation: str | None = None) -> DepthwiseConv2dSpec:
    quant = Quant(0.5)
    window = Window2d(kernel_h=1, kernel_w=1)
    return DepthwiseConv2dSpec(
        in_h=2,
        in_w=2,
        in_c=channels,
        window=window,
        x_quant=quant,
        w_quant=quant,
        out_quant=Quant(8.0),
        activation=activation,
    )


def test_channels_in_blocks_take_one_rule_where_there_is_one() -> None:
    rule = Rule(Rounding.V1U_BLOCK8)

    def macro(channels: int, activation: str | None = None) -> str:
        weights = np.ones((1, 1, 1, channels), np.int8)
        layer: Any = layer_of(depthwise(channels, activation), rule, [None, weights, None])
        return str(layer.epilogue.rule)

    assert [macro(16), macro(5), macro(12, "relu")] == ["RULE_V1U", "RULE_V1_RIGHT", "RULE_V1_RIGHT"]
    assert macro(12) == "RULE_V1_BLOCKS"
    weights = np.ones((1, 1, 1, 12), np.int8)
    layer: Any = layer_of(depthwise(12), rule, [None, weights, None])
    # Channels behind the last whole block round ties away from zero.
    assert layer.epilogue.factors[:, 2].tolist() == [0] * 8 + [1] * 4


CODES, FLOATS = Quant(0.5), QuantizeSpec(shape=(20,), x_quant=None, out_quant=Quant(0.5))
PIXELS = MeanSpec(x_shape=(1, 2, 2, 20), axes=(1, 2), keep_dims=True, x_quant=CODES, out_quant=CODES)
TOTAL = SumSpec(x_shape=(2, 20), axes=(0,), keep_dims=True, x_quant=CODES, out_quant=CODES)
IMAGE = ResizeBilinearSpec(in_h=2, in_w=2, in_c=4, out_h=4, out_w=4, dtype=np.dtype("int8"))


@pytest.mark.parametrize(
    ("pack", "spec", "rounding"),
    [
        (elementwise.pack, FLOATS, Rounding.V4),
        (elementwise.pack, DequantizeSpec(shape=(20,), x_quant=CODES), Rounding.RECIPROCAL_F32),
        (reduce.pack, PIXELS, Rounding.V4),
        (resize.pack, IMAGE, Rounding.AFFINE_F32),
        (reduce.pack, TOTAL, Rounding.V4),
    ],
)
def test_a_rule_without_a_kernel_is_one_error(pack: Any, spec: Any, rounding: Rounding) -> None:
    with pytest.raises(InputValueError, match=rf"{spec.op}: there is no CUDA kernel for rule {rounding.value}$"):
        pack(spec, Rule(rounding))


def test_requantization_in_whole_blocks_has_a_table() -> None:
    spec = QuantizeSpec(shape=(4, 8), x_quant=CODES, out_quant=Quant(2.0))
    layer: Any = elementwise.pack(spec, Rule(Rounding.V1U_BLOCK16))
    # -2 / 4 is half a code below 0, which goes up; behind a whole block it would go away from zero.
    assert layer.table[np.uint8(-2 & 255)] == 0
    few: Any = elementwise.pack(replace(spec, shape=(5,)), Rule(Rounding.V1U_BLOCK16))
    assert few.table[np.uint8(-2 & 255)] == -1


def test_convolution_bounds_follow_the_rule() -> None:
    quant = Quant(4.0, -127)
    spec = Conv2dSpec(
        in_h=2,
        in_w=2,
        in_c=4,
        out_c=4,
        window=Window2d(kernel_h=1, kernel_w=1),
        x_quant=quant,
        w_quant=Quant(1.0),
        out_quant=quant,
        activation="relu6",
    )
    weights = np.ones((4, 1, 1, 4), np.int8)
    found = []
    for bounds in Bounds:
        layer: Any = layer_of(spec, Rule(Rounding.V4, Product.ALL_F32, bounds), [None, weights, None])
        found.append((layer.epilogue.act_min, layer.epilogue.act_max))
    assert found == [(-127, -125), (-127, -126)]
    assert (
        binary.pack(
            AddSpec(a_shape=(4,), b_shape=(4,), a_quant=quant, b_quant=quant, out_quant=quant),
            Rule(Rounding.Q20, **EVEN),
        ).bounds
        is Bounds.EVEN
    )


def test_every_operator_without_a_kernel_is_named_at_once(launcher: HostLauncher, seed: int) -> None:
    from .test_fusion import Net

    net = Net(np.random.default_rng(seed), "uint8")
    quant = Quant(0.5, 128, dtype="uint8")
    x = net.tensor((1, 3000, 3000, 1), quant)
    # The sum of nine million codes is beyond int32.
    window = Window2d(kernel_h=3000, kernel_w=3000)
    mean = AveragePool2dSpec(in_h=3000, in_w=3000, in_c=1, window=window, x_quant=quant, out_quant=quant)
    once, twice = (net.add_node(mean, (x,), (1, 1, 1, 1), quant) for _ in range(2))
    with pytest.raises(UnsupportedModel) as caught:
        plan_program(net.graph((x,), (once, twice)), Device("cuda"), "litert_opt", launcher)
    message = str(caught.value)
    for number in (0, 1):
        assert f"operator #{number} AVERAGE_POOL_2D on uint8 tensor" in message
