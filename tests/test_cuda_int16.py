"""int16 activations on the CUDA kernels: every tile and rule beside the references, sums beyond int32, SOFTMAX."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

import gpuq
from gpuq.cuda import binary, conv2d_int16, depthwise_conv2d_int16, fully_connected, softmax_int16
from gpuq.cuda.layer import Traits
from gpuq.cuda.layout import ImageLayout
from gpuq.cuda.plans import layer_of
from gpuq.devices import Device
from gpuq.errors import InputValueError
from gpuq.model.model import Model
from gpuq.model.planner import plan_program
from gpuq.model.tflite_reader import read
from gpuq.numerics import Rounding, Rule
from gpuq.ops import add, comparison, conv2d, depthwise_conv2d, leaky_relu, softmax
from gpuq.ops.add import AddSpec
from gpuq.ops.conv2d import Conv2dSpec
from gpuq.ops.depthwise_conv2d import DepthwiseConv2dSpec
from gpuq.ops.fully_connected import FullyConnectedSpec
from gpuq.ops.leaky_relu import PreluSpec
from gpuq.ops.registry import reference
from gpuq.ops.softmax import SoftmaxSpec
from gpuq.ops.spec import INT32, INT64
from gpuq.ops.window import Window2d
from gpuq.quant import Quant

from .compare import assert_equal_bits
from .cuda_layers import CASES, launcher, random_codes
from .cuda_operators import run_layer
from .host_cuda.runner import HostLauncher
from .networks import Network
from .peers.one_operator import TensorDef

__all__ = ["launcher"]

RULES = (
    (Rounding.V3, INT64),
    (Rounding.V6, INT64),
    (Rounding.V1, INT32),
    (Rounding.V1U, INT32),
    (Rounding.V2, INT32),
    (Rounding.V6, INT32),
)


class Only:
    """A layer that runs by one choice."""

    def __init__(self, layer: Any, choice: Any) -> None:
        self._layer, self._choice = layer, choice

    def choices(self, runs: int, traits: Traits) -> list[Any]:
        return [self._choice]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


def quants(rng: np.random.Generator, out_c: int, taps: int, axis: int) -> dict[str, Any]:
    """Scales that spread the results over int16, powers of two (ties) among them."""
    exponent = np.log2(0.4 / 128 / np.sqrt(taps)) + rng.normal(0, 1, out_c)
    scales = 2.0 ** (np.floor(exponent) if rng.random() < 0.4 else exponent)
    return dict(
        x_quant=Quant(0.5, dtype="int16"),
        w_quant=Quant(scales.astype(np.float32), 0, axis=axis),
        out_quant=Quant(0.5, dtype="int16"),
        activation=rng.choice([None, "relu", "relu6"]),
    )


def bias_of(rng: np.random.Generator, out_c: int, dtype: np.dtype[Any]) -> np.ndarray | None:
    """None, small ones, or (int64) ones beyond int32."""
    if rng.random() < 0.2:
        return None
    reach = 1 << (36 if dtype == INT64 and rng.random() < 0.3 else 20)
    return rng.integers(-reach, reach, out_c).astype(dtype)


def window(rng: np.random.Generator, size: int) -> Window2d:
    return Window2d(
        kernel_h=int(rng.integers(1, 4)),
        kernel_w=int(rng.integers(1, 4)),
        stride_h=int(rng.integers(1, 3)),
        stride_w=int(rng.integers(1, 3)),
        dilation_h=int(rng.integers(1, 3)),
        dilation_w=int(rng.integers(1, 3)),
        pad_top=int(rng.integers(0, 3)) + size,
        pad_left=int(rng.integers(0, 3)) + size,
        pad_bottom=int(rng.integers(0, 3)),
        pad_right=int(rng.integers(0, 3)),
    )


TILES = (*conv2d_int16.IGEMM_TILES, *conv2d_int16.DIRECT_TILES)


@pytest.mark.parametrize("tile", TILES, ids=lambda tile: tile.name)
@pytest.mark.parametrize("rule", range(len(RULES)), ids=[f"{rule.name}_{dtype}" for rule, dtype in RULES])
def test_conv2d(launcher: HostLauncher, tile: Any, rule: int, seed: int) -> None:
    rounding, bias_dtype = RULES[rule]
    rng = np.random.default_rng([seed, TILES.index(tile), rule])
    for vec in (8, 4, 1) if CASES > 50 else (8, 4, 1)[(TILES.index(tile) + rule) % 3 :][:1]:
        groups = int(rng.choice([1, 1, 2]))
        in_c, out_c = groups * vec * int(rng.integers(1, 6)) + 0, groups * int(rng.integers(1, 40))
        if vec == 1:
            in_c = groups * int(rng.choice([1, 2, 3, 5, 7, 9]))
        spec = Conv2dSpec(
            in_h=int(rng.integers(3, 9)),
            in_w=int(rng.integers(3, 9)),
            in_c=in_c,
            out_c=out_c,
            groups=groups,
            window=window(rng, 2),
            bias_dtype=bias_dtype,
            **quants(rng, out_c, 9 * in_c // groups, 0),
        )
        weights = random_codes(rng, spec.weights_shape, np.int8)
        bias = bias_of(rng, out_c, bias_dtype)
        x = random_codes(rng, (2, spec.in_h, spec.in_w, in_c), np.int16)
        want = conv2d.reference(spec, Rule(rounding), x, weights, bias)
        layer = conv2d_int16.pack(spec, Rule(rounding), weights, bias)
        run_layer(launcher, Only(layer, tile), [x], want, rng, f"{tile.name}, {spec}, seed {seed}", align=vec)


@pytest.mark.parametrize("tile", TILES, ids=lambda tile: tile.name)
@pytest.mark.parametrize("sign", [1, -1])
def test_sums_beyond_int32(launcher: HostLauncher, tile: Any, sign: int, seed: int) -> None:
    # 768 products of 2^22 each are 1.5 times int32's range, in three folds; a factor of 2^-17 brings them into int16.
    spec = Conv2dSpec(
        in_h=1,
        in_w=3,
        in_c=768,
        out_c=5,
        window=Window2d(kernel_h=1, kernel_w=1),
        x_quant=Quant(1.0, dtype="int16"),
        w_quant=Quant(2.0**-17),
        out_quant=Quant(1.0, dtype="int16"),
        bias_dtype=INT64,
    )
    rng = np.random.default_rng(seed)
    weights = np.full(spec.weights_shape, -128, np.int8)
    x = np.full((2, 1, 3, 768), -32768 * sign if sign > 0 else 32767, np.int16)
    for rounding in (Rounding.V3, Rounding.V6):
        layer = conv2d_int16.pack(spec, Rule(rounding), weights, None)
        assert layer.epilogue.sum64
        want = conv2d.reference(spec, Rule(rounding), x, weights, None)
        assert abs(int(want.flat[0])) > 24_000
        run_layer(launcher, Only(layer, tile), [x], want, rng, f"{tile.name}, sign {sign}", align=8)


def test_sums_are_as_wide_as_they_must_be() -> None:
    spec = Conv2dSpec(
        in_h=1,
        in_w=1,
        in_c=2,
        out_c=1,
        window=Window2d(kernel_h=1, kernel_w=1),
        x_quant=Quant(1.0, dtype="int16"),
        w_quant=Quant(2.0**-10),
        out_quant=Quant(1.0, dtype="int16"),
        bias_dtype=INT64,
    )
    rule, weights = Rule(Rounding.V3), np.full((1, 1, 1, 2), -128, np.int8)
    # Two products of 2^22 and a bias: 2^31 is where int32 ends.
    for bias, wide in (((1 << 31) - (1 << 23) - 1, False), ((1 << 31) - (1 << 23), True)):
        assert conv2d_int16.pack(spec, rule, weights, np.array([bias], np.int64)).epilogue.sum64 is wide
    # int32 sums wrap in the runtimes: they stay int32.
    narrow = replace(spec, bias_dtype=INT32)
    bias = np.array([(1 << 31) - 1], np.int32)
    assert not conv2d_int16.pack(narrow, Rule(Rounding.V1), weights, bias).epilogue.sum64


@pytest.mark.parametrize("tile", depthwise_conv2d_int16.TAPS_TILES, ids=lambda tile: tile.name)
@pytest.mark.parametrize("vec", [4, 1])
@pytest.mark.parametrize("wide", [False, True])
def test_depthwise_conv2d(launcher: HostLauncher, tile: Any, vec: int, wide: bool, seed: int) -> None:
    rng = np.random.default_rng([seed, tile.width, vec, wide])
    for _ in range(4):
        multiplier = 1 if vec == 4 else int(rng.integers(1, 4))
        in_c = 4 * int(rng.integers(1, 4)) if vec == 4 else int(rng.integers(2, 8))
        out_c = in_c * multiplier
        spec = DepthwiseConv2dSpec(
            in_h=int(rng.integers(4, 9)),
            in_w=int(rng.integers(4, 9)),
            in_c=in_c,
            multiplier=multiplier,
            window=window(rng, 1),
            bias_dtype=INT64,
            **quants(rng, out_c, 9, 3),
        )
        weights = random_codes(rng, spec.weights_shape, np.int8)
        bias = rng.integers(-(1 << 36), 1 << 36, out_c) if wide else bias_of(rng, out_c, INT32)
        bias = None if bias is None else bias.astype(np.int64)
        x = random_codes(rng, (2, spec.in_h, spec.in_w, in_c), np.int16)
        rule = Rule(Rounding.V3)
        layer = depthwise_conv2d_int16.pack(spec, rule, weights, bias)
        assert layer.epilogue.sum64 is wide
        want = depthwise_conv2d.reference(spec, rule, x, weights, bias)
        run_layer(launcher, Only(layer, tile), [x], want, rng, f"{tile.name}, {spec}, seed {seed}", align=vec)


@pytest.mark.parametrize("size", [5, 16, 37])
@pytest.mark.parametrize("constant", [False, True])
def test_sums_shift_early_in_whole_blocks(launcher: HostLauncher, size: int, constant: bool, seed: int) -> None:
    rng = np.random.default_rng([seed, size, constant])
    rule = Rule(Rounding.V1_EARLY_SHIFT_BLOCK16)
    differ = False
    for _ in range(20):
        # Scales far apart: the smaller factor's right shift reaches into the extra bits.
        scales = (1.0, float(np.float32(2.0 ** rng.uniform(-16, -14))), 2.0**-12)
        a_quant, b_quant, out = (Quant(scale, dtype="int16") for scale in scales)
        spec = AddSpec(a_shape=(size,), b_shape=(size,), a_quant=a_quant, b_quant=b_quant, out_quant=out)
        a, b = (random_codes(rng, (1 if constant and second else 3, size), np.int16) for second in (False, True))
        a //= 1 << 12
        want = add.reference(spec, rule, a, b)
        differ |= not np.array_equal(want, add.reference(spec, Rule(Rounding.V1), a, b))
        layer = binary.pack(spec, rule, None, b[0] if constant else None)
        run_layer(launcher, layer, [a] if constant else [a, b], want, rng, f"{spec}, seed {seed}", gaps=False)
    assert differ or size < 16


def test_parts_of_int16_tensors_in_place(launcher: HostLauncher, seed: int) -> None:
    # Two pools write their channels into one tensor, at distances in elements of two bytes.
    rng = np.random.default_rng(seed)
    network = Network()
    x = network.tensor(TensorDef((1, 4, 4, 3), np.int16, 0.5, 0, name="x"))
    options = schema.Pool2DOptionsT()
    options.padding, options.strideH, options.strideW, options.filterHeight, options.filterWidth = 1, 1, 1, 2, 2
    pooled = TensorDef((1, 3, 3, 3), np.int16, 0.5, 0)
    parts = [network.operator(op, [x], pooled, options) for op in ("MAX_POOL_2D", "AVERAGE_POOL_2D")]
    joined = schema.ConcatenationOptionsT()
    joined.axis = 3
    y = network.operator("CONCATENATION", parts, TensorDef((1, 3, 3, 6), np.int16, 0.5, 0), joined)
    content = network.build([x], [y])
    model = Model(plan_program(read(content), Device("cuda"), "litert_ref", launcher))
    assert len(model.program.steps) == 2
    values = rng.integers(-32768, 32768, (2, 4, 4, 3)).astype(np.int16)
    assert_equal_bits(model(values), gpuq.load(content, device="cpu")(values), f"seed {seed}")


@pytest.mark.parametrize("rounding", [Rounding.V1, Rounding.V2])
@pytest.mark.parametrize("alpha_shape", [(64,), (3, 1), (3, 64), (1,)])
def test_prelu(launcher: HostLauncher, rounding: Rounding, alpha_shape: tuple[int, ...], seed: int) -> None:
    rng = np.random.default_rng([seed, *alpha_shape])
    rule = Rule(rounding)
    spec = PreluSpec(
        a_shape=(3, 64),
        b_shape=alpha_shape,
        a_quant=Quant(float(2.0 ** rng.uniform(-3, 0)), dtype="int16"),
        b_quant=Quant(0.02, int(rng.integers(-128, 128))),
        out_quant=Quant(0.3, dtype="int16"),
    )
    x, alpha = random_codes(rng, (2, 3, 64), np.int16), random_codes(rng, alpha_shape, np.int8)
    want = leaky_relu.prelu_reference(spec, rule, x, alpha[None])
    layer = layer_of(spec, rule, [None, alpha])
    names = run_layer(launcher, layer, [x], want, rng, f"{spec}, seed {seed}", align=8)
    assert all(name.startswith("prelu_codes") for name in names)
    # Slopes that are computed, one tensor of them or one for each run, with an input that is computed, too, or constant.
    own = random_codes(rng, (2, *alpha_shape), np.int8)
    for slopes in (own, own[:1]):
        want = leaky_relu.prelu_reference(spec, rule, x, slopes)
        layer = layer_of(spec, rule, [None, None])
        run_layer(launcher, layer, [x, slopes], want, rng, f"{spec}, seed {seed}", align=8, gaps=False)
    want = leaky_relu.prelu_reference(spec, rule, x[:1], own)
    layer = layer_of(spec, rule, [x[0], None])
    run_layer(launcher, layer, [own], want, rng, f"{spec}, seed {seed}", align=8, gaps=False)


@pytest.mark.parametrize("scales", [(0.001, 0.0013), (0.3, 0.3)])
def test_scaled_comparisons(launcher: HostLauncher, scales: tuple[float, float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    a_quant, b_quant = (Quant(scale, dtype="int16") for scale in scales)
    a = rng.integers(-400, 400, (2, 5, 33)).astype(np.int16)
    b = np.clip(np.rint(a[:, :1] * scales[0] / scales[1]), -32768, 32767).astype(np.int16)
    for spec_type in (comparison.EqualSpec, comparison.NotEqualSpec):
        spec = spec_type(a_shape=(5, 33), b_shape=(1, 33), dtype=np.dtype(np.int16), a_quant=a_quant, b_quant=b_quant)
        want = comparison.reference(spec, Rule(Rounding.V1), a, b)
        assert 0 < np.count_nonzero(want) < want.size
        layer = layer_of(spec, Rule(Rounding.V1), [None, None])
        assert set(layer.constants) == {"tables"}
        outcome = want.view(np.uint8)
        run_layer(launcher, layer, [a, b], outcome, rng, f"{spec}, seed {seed}", align=2, gaps=False)


@pytest.mark.parametrize("rounding", [Rounding.INTERPOLATED, Rounding.INTERPOLATED_F32])
@pytest.mark.parametrize("depth", [1, 10, 12, 77, 1000])
def test_softmax(launcher: HostLauncher, rounding: Rounding, depth: int, seed: int) -> None:
    rng = np.random.default_rng([seed, depth])
    rule = Rule(rounding)
    for scale in (2.0**-12, 0.001, 0.03):
        spec = SoftmaxSpec(
            depth=depth, beta=1.0, x_quant=Quant(scale, dtype="int16"), out_quant=Quant(1 / 32768, dtype="int16")
        )
        x = np.stack([random_codes(rng, (depth,), np.int16) for _ in range(5)])
        x[1] = rng.integers(0, 200, depth)
        want = softmax.reference(spec, rule, x)
        layer = softmax_int16.pack(spec, rule)
        run_layer(launcher, layer, [x], want, rng, f"scale {scale}, depth {depth}, seed {seed}", gaps=False, align=4)


def test_softmax_of_very_long_rows_is_refused() -> None:
    spec = SoftmaxSpec(
        depth=65537, beta=1.0, x_quant=Quant(1, dtype="int16"), out_quant=Quant(1 / 32768, dtype="int16")
    )
    with pytest.raises(InputValueError, match="65537 codes in a row; the CUDA kernel has up to 65536"):
        softmax_int16.pack(spec, Rule(Rounding.INTERPOLATED))


@pytest.mark.parametrize("zero_point", [5, 50, -128])
def test_weights_with_a_zero_point(launcher: HostLauncher, zero_point: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # -100 - 5 stays int8, -100 - 50 does not; 127 + 128 is a sum of three.
    weights = np.concatenate([[[-100, 20, 127]], rng.integers(-128, 128, (6, 3))]).astype(np.int8)
    weights = weights if zero_point != 5 else np.clip(weights, -120, 127)
    spec = FullyConnectedSpec(
        in_c=3,
        out_c=7,
        x_quant=Quant(1.0, dtype="int16"),
        w_quant=Quant(2.0**-10, zero_point),
        out_quant=Quant(1.0, dtype="int16"),
        bias_dtype=INT64,
    )
    layer = fully_connected.pack(spec, Rule(Rounding.V6), weights, None)
    assert layer.conv2d.spec.window.taps == {5: 1, 50: 2, -128: 3}[zero_point]
    x = random_codes(rng, (5, 3), np.int16)
    want = reference(spec, Rule(Rounding.V6), x, weights, None)
    run_layer(launcher, layer, [x], want, rng, f"seed {seed}")


def test_choices_are_pure_and_launches_bounded() -> None:
    spec = Conv2dSpec(
        in_h=64,
        in_w=64,
        in_c=64,
        out_c=64,
        window=Window2d(kernel_h=1, kernel_w=1),
        x_quant=Quant(1.0, dtype="int16"),
        w_quant=Quant(2.0**-10),
        out_quant=Quant(1.0, dtype="int16"),
        bias_dtype=INT64,
    )
    layer = conv2d_int16.pack(spec, Rule(Rounding.V3), np.zeros(spec.weights_shape, np.int8), None)
    traits = Traits(90, 132)
    assert set(layer.choices(1, traits)) == set(TILES)
    assert layer.choices(256, traits) == layer.choices(256, traits)
    assert isinstance(layer.choices(256, traits)[0], conv2d_int16.Dp2aIgemmTile)
    assert isinstance(layer.choices(1, Traits(90, 4096))[-1], conv2d_int16.Dp2aIgemmTile)
    many = ImageLayout.contiguous(1 << 15, 64, 64, 64, itemsize=2)
    with pytest.raises(InputValueError, match="outputs of 4 channels in one launch"):
        layer.launches(TILES[0], [many], many)
