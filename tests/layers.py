"""Random layers: checked Specs with weights, bias and inputs whose results tell rounding rules apart.

Hypothesis draws the configuration and a seed, NumPy the numbers; scales follow the spread of the accumulators in most
cases, so that codes do not saturate, and are dyadic in many, so that exact ties abound.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from gpuq import Quant, UnsupportedModel, profiles
from gpuq.numerics import Rule
from gpuq.ops.conv2d import Conv2dSpec
from gpuq.ops.depthwise_conv2d import DepthwiseConv2dSpec
from gpuq.ops.fully_connected import FullyConnectedSpec
from gpuq.ops.window import Window2d

ACTIVATIONS = (None, None, "relu", "relu6", "relu_n1_to_1")


@dataclass(frozen=True)
class Layer:
    """A Spec with its constants and a batch of runs of its input, (N, ...)."""

    spec: Any
    weights: np.ndarray
    bias: np.ndarray | None
    x: np.ndarray
    seed: int

    def __repr__(self) -> str:
        bias = "no bias" if self.bias is None else f"bias {self.bias[:4]}"
        return f"<seed {self.seed}: {self.x.shape[0]} runs of {self.spec}, {bias}>"


def codes(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Any codes, or in a third of the cases the two extreme ones only."""
    info = np.iinfo(dtype)
    if rng.random() < 0.3:
        return rng.choice(np.array([info.min, info.max]), shape).astype(dtype)
    return rng.integers(info.min, info.max + 1, shape).astype(dtype)


def zero_point(rng: np.random.Generator, dtype: str) -> int:
    info = np.iinfo(dtype)
    return int(rng.choice([rng.integers(info.min, info.max + 1), info.min, info.max]))


def quants_and_bias(
    rng: np.random.Generator,
    dtype: str,
    x: np.ndarray,
    rows: np.ndarray,
    w_zero_point: int,
    axis: int | None,
    bias_kind: str,
) -> tuple[Quant, Quant, Quant, np.ndarray | None]:
    """(input, weights, output, bias) for weights given as one row per output channel.

    axis       of per-channel scales; None: per tensor
    bias_kind  "none", "small", or "extreme" (near the ends of int32, so that the accumulator wraps)
    """
    channels, _ = rows.shape
    x_zero_point = zero_point(rng, dtype)
    kernel = rows.astype(np.int64) - w_zero_point
    spread = max(float((x.astype(np.float64) - x_zero_point).std()), 1.0)
    deviation = np.maximum(spread * np.sqrt((kernel**2).sum(axis=1)), 1.0)
    mean = float(x.mean()) - x_zero_point
    bias: np.ndarray | None = None
    if bias_kind == "small":
        bias = np.rint(-mean * kernel.sum(axis=1) + rng.normal(0, deviation))
    elif bias_kind == "extreme":
        bias = rng.choice([-(2.0**31), 2.0**31 - 1], channels) + rng.integers(-(1 << 20), 1 << 20, channels)
        deviation = np.full(channels, 2.0**30)
    if bias is not None:
        bias = np.clip(bias, -(2**31), 2**31 - 1).astype(np.int64).astype(np.int32)
    wanted = rng.uniform(10, 60) / deviation
    kind = rng.choice(["typical", "dyadic", "left", "tiny"], p=[0.45, 0.35, 0.1, 0.1])
    if kind == "left":
        wanted = 2.0 ** rng.uniform(0, 12, channels)
    elif kind == "tiny":
        wanted = 2.0 ** rng.uniform(-36, -12, channels)
    if axis is None or channels == 1:
        wanted, axis = np.median(wanted, keepdims=True), None
    x_scale, out_scale = (np.float32(2.0 ** rng.uniform(-8, 3)) for _ in range(2))
    if kind == "dyadic":
        x_scale, out_scale = np.float32(0.5), np.float32(0.25)
        wanted = rng.choice([1, 3, 5]) * 2.0 ** np.floor(np.log2(wanted))
    w_scales = (wanted * float(out_scale) / float(x_scale)).astype(np.float32)
    if axis is not None and rng.random() < 0.2:
        w_scales[rng.integers(channels)] = 0
    return (
        Quant(x_scale, x_zero_point, dtype=dtype),
        Quant(w_scales, w_zero_point, axis, dtype),
        Quant(out_scale, zero_point(rng, dtype), dtype=dtype),
        bias,
    )


def window(draw: DrawFn, largest_kernel: int = 5) -> tuple[Window2d, int, int]:
    """(window, image height, image width): pads of any size, images from one output pixel up."""
    fields: dict[str, int] = {}
    sizes = []
    for axis, before, after in (("h", "top", "bottom"), ("w", "left", "right")):
        kernel, dilation = draw(st.integers(1, largest_kernel)), draw(st.sampled_from([1, 1, 1, 2, 3]))
        pads = draw(st.sampled_from([(0, 0), (0, 1), (1, 1), (2, 1), (0, 5), (6, 6)]))
        fields |= {f"kernel_{axis}": kernel, f"dilation_{axis}": dilation, f"stride_{axis}": draw(st.integers(1, 3))}
        fields |= {f"pad_{before}": pads[0], f"pad_{after}": pads[1]}
        needed = max(1, (kernel - 1) * dilation + 1 - sum(pads))
        sizes.append(needed + draw(st.integers(0, 7)))
    return Window2d(**fields), sizes[0], sizes[1]


def rules(spec: Any) -> Iterator[tuple[str, Rule]]:
    """The rule of every profile that has this operator."""
    for name in profiles.PROFILES:
        try:
            yield name, profiles.resolve(name, spec)
        except UnsupportedModel:
            continue


@st.composite
def conv2d_layers(draw: DrawFn) -> Layer:
    rng_seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(rng_seed)
    dtype = draw(st.sampled_from(["int8", "uint8"]))
    place, in_h, in_w = window(draw)
    groups = draw(st.sampled_from([1, 1, 1, 2, 3, 7]))
    group_in, group_out = draw(st.integers(1, 67 // groups)), draw(st.integers(1, 67 // groups))
    weights = codes(rng, (groups * group_out, place.kernel_h, place.kernel_w, group_in), dtype)
    x = codes(rng, (draw(st.integers(1, 3)), in_h, in_w, groups * group_in), dtype)
    per_channel = dtype == "int8" and draw(st.booleans())
    x_quant, w_quant, out_quant, bias = quants_and_bias(
        rng,
        dtype,
        x,
        weights.reshape(weights.shape[0], -1),
        zero_point(rng, dtype) if dtype == "uint8" else 0,
        0 if per_channel else None,
        draw(st.sampled_from(["none", "small", "small", "extreme"])),
    )
    spec = Conv2dSpec(
        in_h=in_h,
        in_w=in_w,
        in_c=groups * group_in,
        out_c=groups * group_out,
        window=place,
        groups=groups,
        x_quant=x_quant,
        w_quant=w_quant,
        out_quant=out_quant,
        activation=draw(st.sampled_from(ACTIVATIONS)),
    )
    return Layer(spec, weights, bias, x, rng_seed)


@st.composite
def depthwise_conv2d_layers(draw: DrawFn, one_channel: bool = False) -> Layer:
    rng_seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(rng_seed)
    dtype = draw(st.sampled_from(["int8", "uint8"]))
    place, in_h, in_w = window(draw, draw(st.sampled_from([5, 5, 5, 13])))
    in_c = 1 if one_channel else draw(st.integers(2, 67))
    multiplier = draw(st.integers(1, 67 // in_c)) if one_channel or draw(st.booleans()) else 1
    out_c = in_c * multiplier
    weights = codes(rng, (1, place.kernel_h, place.kernel_w, out_c), dtype)
    x = codes(rng, (draw(st.integers(1, 3)), in_h, in_w, in_c), dtype)
    per_channel = dtype == "int8" and draw(st.booleans())
    x_quant, w_quant, out_quant, bias = quants_and_bias(
        rng,
        dtype,
        x,
        weights.reshape(-1, out_c).T,
        zero_point(rng, dtype) if dtype == "uint8" else 0,
        3 if per_channel else None,
        draw(st.sampled_from(["none", "small", "small", "extreme"])),
    )
    spec = DepthwiseConv2dSpec(
        in_h=in_h,
        in_w=in_w,
        in_c=in_c,
        multiplier=multiplier,
        window=place,
        x_quant=x_quant,
        w_quant=w_quant,
        out_quant=out_quant,
        activation=draw(st.sampled_from(ACTIVATIONS)),
    )
    return Layer(spec, weights, bias, x, rng_seed)


@st.composite
def fully_connected_layers(draw: DrawFn, in_c: int | None = None, out_c: int | None = None) -> Layer:
    rng_seed = draw(st.integers(0, 2**32 - 1))
    dtype = draw(st.sampled_from(["int8", "uint8"]))
    return fully_connected_layer(
        rng_seed,
        dtype,
        in_c or draw(st.one_of(st.integers(1, 67), st.integers(200, 3000))),
        out_c or draw(st.integers(1, 67)),
        runs=draw(st.integers(1, 3)),
        per_channel=dtype == "int8" and draw(st.booleans()),
        bias_kind=draw(st.sampled_from(["none", "small", "small", "extreme"])),
        activation=draw(st.sampled_from(ACTIVATIONS)),
    )


def fully_connected_layer(
    rng_seed: int,
    dtype: str,
    in_c: int,
    out_c: int,
    *,
    runs: int = 1,
    per_channel: bool = False,
    bias_kind: str = "small",
    activation: str | None = None,
    extreme_codes: bool = False,
) -> Layer:
    rng = np.random.default_rng(rng_seed)
    weights, x = codes(rng, (out_c, in_c), dtype), codes(rng, (runs, in_c), dtype)
    if extreme_codes:
        info = np.iinfo(dtype)
        weights, x = np.full_like(weights, info.min), np.full_like(x, info.min)
        weights[::2] = info.max
    x_quant, w_quant, out_quant, bias = quants_and_bias(
        rng, dtype, x, weights, 0 if per_channel else zero_point(rng, dtype), 0 if per_channel else None, bias_kind
    )
    spec = FullyConnectedSpec(
        in_c=in_c,
        out_c=out_c,
        x_quant=x_quant,
        w_quant=w_quant,
        out_quant=out_quant,
        activation=activation,
    )
    return Layer(spec, weights, bias, x, rng_seed)


def shapes(largest: int = 6, ranks: tuple[int, int] = (0, 4)) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes of one run."""
    return st.lists(st.integers(1, largest), min_size=ranks[0], max_size=ranks[1]).map(tuple)


def log2_scale(low: float = -10, high: float = 4) -> st.SearchStrategy[float]:
    """A float32 scale, its logarithm uniform, often a power of two (which makes ties)."""
    powers = st.integers(math.ceil(low), math.floor(high)).map(lambda power: 2.0**power)
    return st.one_of(powers, st.floats(low, high).map(lambda power: float(np.float32(2.0**power))))
