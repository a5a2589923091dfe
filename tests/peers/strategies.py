"""Random one-operator models that a runtime accepts, with inputs for a few runs.

Hypothesis draws the configuration (dtype, shape, padding, names of modes) and a seed; scales, zero
points and arrays come from `np.random.default_rng(seed)`. So an example costs little and a failing
one shrinks to a small configuration.

What makes the cases bite:

- Results must not saturate, or no rounding rule shows. In most cases biases cancel the mean
  accumulator and output parameters follow the spread of the data ("typical"); the other modes go to
  the extremes.
- A rule that takes a product or quotient of scales in float32 differs from one in float64 by one
  part in 2^24: only ties show it. "dyadic" scales make the float32 factor an exact p / 2^q, so that
  ties abound and the float64 factor decides them otherwise.
- All stays within what C++ defines, but for int32 accumulators and left shifts, which wrap in every
  build there is. Not drawn, because builds differ there or abort: float to int32 conversions beyond
  int32 (QUANTIZE of huge values; FULLY_CONNECTED, which LiteRT requantizes in float64), left shifts
  above 30, ADD with 2 max(s1, s2) >= 2^20 out, SOFTMAX with a sum of exp(x - max) of 512 or more,
  and RESIZE_BILINEAR sizes at which the int8 reference kernel reads past its input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from .one_operator import ACTIVATIONS, PADDINGS, TensorDef, build, constant

BOTH = ("int8", "uint8")
INT8_ONLY = ("int8",)
INT16_ONLY = ("int16",)

MAX_MACS = 400_000
"""Multiplications in one run: a reference kernel does them in a few milliseconds."""


XNNPACK_LARGEST = 2.0**8
"""XNNPACK takes larger multipliers and then fails. Products beyond int32 differ from kernel to kernel, so that their
multipliers stay as small as those of FULLY_CONNECTED, which LiteRT's reference requantizes in float64."""


class Case:
    """A model, a batch of inputs stacked along axis 0, and how it came about.

    Not a dataclass: hypothesis prints all of a dataclass's fields, and these are long.
    """

    def __init__(self, op: str, config: str, model: bytes, inputs: tuple[np.ndarray, ...]) -> None:
        self.op, self.config, self.model, self.inputs = op, config, model, inputs

    def __repr__(self) -> str:
        return f"<{self.op} {self.config}>"


class Source:
    """What a strategy draws from: hypothesis for configuration, a seeded generator for numbers.

    It keeps a record of all that it gave out under a name.
    """

    def __init__(self, draw: DrawFn, op: str) -> None:
        self._draw, self._op = draw, op
        self._record: list[str] = []
        self.seed = draw(st.integers(0, 2**32 - 1))
        self.rng = np.random.default_rng(self.seed)
        self.runs = self.integer("runs", 1, 3)
        # The file's own first dimension: the batch of one run, nearly always 1.
        self.first = int(self.pick("first", [1, 1, 1, 1, 1, 1, 2, 3]))

    def note(self, name: str, value: Any) -> Any:
        if isinstance(value, np.floating):
            value = np.float32(value)
            self._record.append(f"{name}={float(value):.9g}")
        elif isinstance(value, np.ndarray):
            some = [f"{float(v):.9g}" for v in value[:4]] + ["..."] * (value.size > 4)
            self._record.append(f"{name}=[{', '.join(some)}]")
        else:
            self._record.append(f"{name}={value}")
        return value

    def integer(self, name: str, low: int, high: int) -> int:
        return int(self.note(name, self._draw(st.integers(low, high))))

    def pick(self, name: str, options: Sequence[Any]) -> Any:
        return self.note(name, self._draw(st.sampled_from(options)))

    def flag(self, name: str) -> bool:
        return bool(self.note(name, self._draw(st.booleans())))

    def draw(self, name: str, strategy: SearchStrategy[Any]) -> Any:
        return self.note(name, self._draw(strategy))

    # -- numbers

    def log2(self, low: float, high: float) -> np.float32:
        """A positive float32, its logarithm uniform."""
        return np.float32(2.0 ** self.rng.uniform(low, high))

    def zero_point(self, name: str, dtype: str) -> int:
        """A zero point of the dtype; often an extreme one or the middle. int16 has none."""
        if dtype == "int16":
            return 0
        info = np.iinfo(dtype)
        middle = (int(info.min) + int(info.max) + 1) // 2
        any_code = int(self.rng.integers(info.min, info.max + 1))
        options = np.array([any_code, middle, info.min, info.max])
        return int(self.note(name, int(self.rng.choice(options, p=[0.5, 0.2, 0.15, 0.15]))))

    def codes(self, shape: Sequence[int], dtype: str, near: int | None = None) -> np.ndarray:
        """Codes of any value, of the two extremes, of one extreme only, or around `near`."""
        info = np.iinfo(dtype)
        kind = self.rng.choice(["any", "extremes", "one", "near"], p=[0.7, 0.1, 0.05, 0.15])
        if kind == "near" and near is None:
            kind = "any"
        if kind == "any":
            return self.rng.integers(info.min, info.max + 1, shape).astype(dtype)
        if kind == "extremes":
            return self.rng.choice(np.array([info.min, info.max]), shape).astype(dtype)
        if kind == "one":
            return np.full(shape, self.rng.choice([info.min, info.max]), dtype)
        assert near is not None
        return np.clip(np.rint(self.rng.normal(near, 8, shape)), info.min, info.max).astype(dtype)

    def activations(self, shape: Sequence[int], dtype: str, near: int | None = None) -> np.ndarray:
        """Inputs of all runs, stacked along axis 0; `shape` is the file's."""
        return self.codes((self.runs * shape[0], *shape[1:]), dtype, near)

    def case(
        self,
        inputs: Sequence[TensorDef | None],
        output: TensorDef | Sequence[TensorDef],
        options: Any,
        arrays: Sequence[np.ndarray],
    ) -> Case:
        outputs = [output] if isinstance(output, TensorDef) else output
        model = build(self._op, inputs, outputs, options)
        return Case(self._op, f"seed={self.seed} {' '.join(self._record)}", model, tuple(arrays))


# ----------------------------------------------------------------------------- scales and ranges


def dyadic(source: Source, log2_about: float, odds: Sequence[int] = (1, 3, 5, 7)) -> float:
    """An exact p / 2^q near 2^log2_about, p odd: multiplying integers by it makes exact ties."""
    odd = int(source.rng.choice(odds))
    return math.ldexp(odd, round(log2_about - math.log2(odd)))


def coarse(codes: np.ndarray, zero_point: int, bits: int) -> np.ndarray:
    """The codes moved towards the zero point, to multiples of 2^bits from it."""
    distance = codes.astype(np.int64) - zero_point
    kept = np.sign(distance) * (np.abs(distance) >> bits << bits)
    return np.asarray(kept + zero_point, codes.dtype)


def close(codes: np.ndarray, zero_point: int, farthest: int) -> np.ndarray:
    """The codes moved to at most `farthest` from the zero point."""
    distance = codes.astype(np.int64) - zero_point
    kept = np.trunc(distance * ((farthest + 0.99) / 255)).astype(np.int64)
    return np.asarray(kept + zero_point, codes.dtype)


def rescaling(
    source: Source, values: np.ndarray, zero_point: int, out_dtype: str
) -> tuple[np.float32, np.float32, int]:
    """Parameters of an operator that rescales codes.

    values   codes that go in, for their mean and spread

    Returns the scale of the input, the scale of the output and the zero point of the output.
    """
    mode = source.pick("ratio", ["typical", "dyadic", "dyadic", "same", "left", "tiny", "any"])
    centred = values.astype(np.float64) - zero_point
    spread = max(float(centred.std()), 1.0)
    about = math.log2(source.rng.uniform(20, 80) * (256 if out_dtype == "int16" else 1) / spread)
    in_scale = source.log2(-12, 4)
    if mode == "typical":
        out_scale = np.float32(in_scale / 2.0**about)
    elif mode == "dyadic":
        # Half of the time float32(in / out) is exactly dyadic and the float64 quotient is not.
        out_scale = source.log2(-12, 4)
        in_scale = np.float32(out_scale * np.float32(dyadic(source, about)))
    elif mode == "same":
        out_scale = in_scale
    else:
        ranges = {"left": (0.0, 12.0), "tiny": (-40.0, -12.0), "any": (-34.0, 20.0)}
        out_scale = np.float32(in_scale / source.log2(*ranges[mode]))
    if out_scale < 2.0**-26:  # RELU6's 6 / out must be an int32
        in_scale, out_scale = np.float32(in_scale * 2.0**20), np.float32(out_scale * 2.0**20)
    out_zero_point = centred_zero_point(source, centred * float(in_scale), out_scale, out_dtype)
    return source.note("in_scale", in_scale), source.note("out_scale", out_scale), out_zero_point


def centred_zero_point(source: Source, real: np.ndarray, scale: np.float32, dtype: str) -> int:
    """An output zero point that brings the mean result near the middle of the dtype, or any; 0 for int16."""
    if dtype == "int16":
        return 0
    if source.rng.random() < 0.3:
        return source.zero_point("out_zero_point", dtype)
    info = np.iinfo(dtype)
    middle = (int(info.min) + int(info.max) + 1) / 2
    wanted = middle - float(np.mean(real)) / float(scale) + source.rng.uniform(-30, 30)
    return int(source.note("out_zero_point", int(np.clip(np.rint(wanted), info.min, info.max))))


@dataclass(frozen=True)
class Layer:
    """Codes and parameters of a layer that accumulates products."""

    x: np.ndarray
    w: np.ndarray
    bias: np.ndarray | None
    x_scale: np.float32
    w_scale: np.ndarray
    out_scale: np.float32

    @property
    def bias_scale(self) -> np.ndarray:
        return self.x_scale * self.w_scale


def layer(
    source: Source,
    x: np.ndarray,
    in_zp: int,
    w: np.ndarray,
    w_zp: int,
    out_axis: int,
    per_channel: bool,
    bias_mode: str,
    largest: float = 2.0**29,
    float_requantized: bool = False,
    int64_sums: bool = False,
) -> Layer:
    """Scales and a bias for a layer, and its codes, made coarse where ties are wanted.

    out_axis           the axis of w that counts output channels
    bias_mode          "none", "zero", "centred", "noise" or "extreme"
    largest            the real multiplier in * w / out stays below this
    float_requantized  the accumulator is multiplied as a float: the product must fit an int32
    int64_sums         the bias is int64, and the multiplier has 16 bits: results must fit an int32
    """
    int16 = x.dtype == np.int16
    mode = source.pick("multiplier", ["typical", "typical", "dyadic", "dyadic", "dyadic", "left", "tiny", "any"])

    def deviations() -> np.ndarray:
        """The accumulator's standard deviation over outputs, per channel."""
        rows = np.moveaxis(w.astype(np.float64) - w_zp, out_axis, 0).reshape(w.shape[out_axis], -1)
        spread = max(float(x.std()), 1.0)
        return np.asarray(np.maximum(spread * np.sqrt((rows**2).sum(axis=1)), 1.0))

    channels = w.shape[out_axis]
    unit = 1  # accumulators are multiples of it
    ties = source.rng.choice(["first", "second"]) if mode == "dyadic" else ""
    if ties == "first":
        # Small accumulators times a half: ties of the high product, the first of two roundings.
        x, w = close(x, in_zp, 4), close(w, w_zp, 3)
    deviation = deviations()
    if bias_mode == "extreme":
        # The accumulator is near +-2^31: only a multiplier near 2^-25 does not saturate.
        deviation = np.full(channels, 2.0**30)
    about = np.log2(source.rng.uniform(15, 60) * (256 if int16 else 1) / deviation)
    if ties == "first":
        about = np.minimum(about, -1.0)
    if not per_channel:
        about = np.full(1, float(np.median(about)))
    if ties == "second" and bias_mode != "extreme":
        # Coarse accumulators: the right shift, the second rounding, meets ties.
        bits = int(np.clip(-about.max() - source.rng.integers(1, 4), 0, 13))
        x_bits = min(bits // 2, 6)
        x, w, unit = coarse(x, in_zp, x_bits), coarse(w, w_zp, bits - x_bits), 1 << bits

    rows = np.moveaxis(w.astype(np.int64) - w_zp, out_axis, 0).reshape(channels, -1)
    sums = rows.sum(axis=1)
    values: np.ndarray | None
    if bias_mode == "none":
        values = None
    elif bias_mode == "zero":
        values = np.zeros(channels)
    elif bias_mode == "centred":
        mean = float(x.mean()) - in_zp
        values = -mean * sums + source.rng.normal(0, deviation)
    elif bias_mode == "noise":
        values = source.rng.normal(0, deviation)
    else:  # near the ends of int32, so that the accumulator wraps or nearly does
        near = source.rng.integers(0, 1 << int(source.rng.integers(1, 22)), channels)
        values = np.where(source.rng.random(channels) < 0.5, 2**31 - 1 - near, -(2**31) + near)
    bias = None
    if values is not None:
        values = np.rint(values / unit) * unit
        bias = np.clip(values, -(2**31), 2**31 - 1).astype(np.int64).astype(np.int64 if int64_sums else np.int32)

    if float_requantized or int64_sums:
        reach = (32768.0 * 128.0 if int16 else 255.0 * 255.0) * rows.shape[1]
        if bias is not None:
            reach += float(np.abs(bias.astype(np.float64)).max())
        largest = min(largest, 2.0**30 / (reach if int64_sums else min(reach, 2.0**31)))

    if mode == "dyadic":
        x_scale, w_one = source.log2(-10, 2), source.log2(-10, 0)
        first = dyadic(source, min(float(about[0]), math.log2(largest) - 2), (1, 1, 1, 1, 3, 5, 7))
        if source.note("exact", bool(source.rng.random() < 0.3)):
            # x * w / out is the dyadic number under every rule.
            x_scale, w_one = (np.float32(2.0 ** np.rint(np.log2(s))) for s in (x_scale, w_one))
            out_scale, w_one = np.float32(x_scale * w_one), np.float32(w_one * first)
        else:
            # float32(x * w) / out is exactly a power of two (or nearly 3, 5, 7 of them), and the
            # float64 product is not.
            out_scale = np.float32(x_scale * w_one / np.float32(first))
        # Further channels differ by powers of two.
        exponents = np.rint(np.minimum(about, math.log2(largest) - 2) - about[0])
        w_scale = np.ldexp(w_one, np.minimum(exponents, 20).astype(int))
    else:
        x_scale, out_scale = source.log2(-12, 4), source.log2(-10, 5)
        if mode == "typical":
            logs = about + source.rng.uniform(-1, 1, about.shape)
        else:
            low, high = {"left": (0.0, 12.0), "tiny": (-40.0, -16.0), "any": (-34.0, 20.0)}[mode]
            apart = float(source.rng.choice([0.0, 2.0, 8.0]))
            logs = source.rng.uniform(low, high) + source.rng.uniform(-apart, apart, about.shape)
        logs = np.minimum(logs, math.log2(largest) - 1)
        w_scale = 2.0**logs * float(out_scale) / float(x_scale)
    w_scale = np.atleast_1d(np.asarray(w_scale, np.float32))
    source.note("x_scale", x_scale)
    source.note("w_scale", w_scale)
    source.note("out_scale", out_scale)
    return Layer(x, w, bias, x_scale, w_scale, out_scale)


def bias_type(dtype: str, bias: np.ndarray | None) -> int:
    """The option that tells int32 biases of int16 layers; left out elsewhere."""
    int32 = dtype == "int16" and bias is not None and bias.dtype == np.int32
    return int(schema.TensorType.INT32 if int32 else schema.TensorType.FLOAT32)


def windows(source: Source, dilate: bool = True) -> dict[str, Any]:
    """Kernel, stride, dilation, padding and a fitting image size for one spatial dimension each."""
    padding = source.pick("padding", ["SAME", "VALID"])
    result: dict[str, Any] = {"padding": padding}
    for axis in ("h", "w"):
        kernel = source.integer(f"k{axis}", 1, 5)
        stride = source.integer(f"stride_{axis}", 1, 3)
        dilation = source.pick(f"dilation_{axis}", [1, 1, 1, 2, 3]) if dilate else 1
        reach = (kernel - 1) * dilation + 1
        # SAME may have images smaller than the kernel; VALID needs one whole window.
        size = source.integer(axis, 1, 12) + (reach - 1 if padding == "VALID" else 0)
        span = size if padding == "SAME" else size + 1 - reach
        result |= {
            f"k{axis}": kernel,
            f"stride_{axis}": stride,
            f"dilation_{axis}": dilation,
            axis: size,
        }
        result[f"out_{axis}"] = -(-span // stride)
    return result


# ------------------------------------------------------------- convolutions and FULLY_CONNECTED


def largest_factor(dtype: str, xnnpack: bool, int64_sums: bool) -> float:
    """The largest real factor of a convolution that its runtimes define: int64 sums go by V3, whose factors end at 2^7."""
    if int64_sums:
        return 2.0**6
    return XNNPACK_LARGEST if xnnpack else 2.0**18 if dtype == "uint8" else 2.0**29


@st.composite
def conv_2d(draw: DrawFn, dtypes: Sequence[str] = BOTH, xnnpack: bool = False, bits: int = 8) -> Case:
    """xnnpack: what XNNPACK defines, see XNNPACK_LARGEST. bits: 4, 2: weights of so many."""
    source = Source(draw, "CONV_2D")
    dtype = source.pick("dtype", dtypes)
    window = windows(source)
    groups = source.pick("groups", [1, 1, 1, 1, 2, 3, 5])
    group_in = source.integer("filter_in", 1, 40 // groups)
    taps = window["kh"] * window["kw"] * group_in
    afford = MAX_MACS // (window["out_h"] * window["out_w"] * taps * groups)
    out = groups * source.integer("out_per_group", 1, max(1, min(40 // groups, afford)))
    per_channel = dtype != "uint8" and source.flag("per_channel")
    activation = source.pick("activation", list(ACTIVATIONS))
    bias_mode = source.pick("bias", ["centred", "centred", "zero", "noise", "extreme"])
    in_zp = source.zero_point("in_zero_point", dtype)
    out_zp = source.zero_point("out_zero_point", dtype)
    w_zp = source.zero_point("w_zero_point", dtype) if dtype == "uint8" else 0
    w_dtype = "int8" if dtype == "int16" else dtype

    x = source.activations((source.first, window["h"], window["w"], group_in * groups), dtype, in_zp)
    w = source.codes((out, window["kh"], window["kw"], group_in), w_dtype, w_zp)
    w = w >> (8 - bits)
    int64_sums = dtype == "int16" and source.flag("int64_bias")
    # The uint8 kernel checks the bias scale against the product of scales to 0.02 output steps.
    limit = largest_factor(dtype, xnnpack, int64_sums)
    drawn = layer(source, x, in_zp, w, w_zp, 0, per_channel and out > 1, bias_mode, limit, xnnpack, int64_sums)
    options = schema.Conv2DOptionsT(
        padding=PADDINGS[window["padding"]],
        strideH=window["stride_h"],
        strideW=window["stride_w"],
        dilationHFactor=window["dilation_h"],
        dilationWFactor=window["dilation_w"],
        fusedActivationFunction=ACTIVATIONS[activation],
        quantizedBiasType=bias_type(dtype, drawn.bias),
    )
    inputs: list[TensorDef | None] = [
        TensorDef((source.first, *x.shape[1:]), dtype, drawn.x_scale, in_zp),
        TensorDef(w.shape, w_dtype, drawn.w_scale, w_zp, axis=0, data=drawn.w, bits=bits),
    ]
    if drawn.bias is not None:
        inputs.append(TensorDef((out,), drawn.bias.dtype, drawn.bias_scale, 0, data=drawn.bias))
    return source.case(
        inputs,
        TensorDef((source.first, window["out_h"], window["out_w"], out), dtype, drawn.out_scale, out_zp),
        options,
        [drawn.x],
    )


@st.composite
def depthwise_conv_2d(
    draw: DrawFn, dtypes: Sequence[str] = BOTH, biased: bool = False, xnnpack: bool = False, bits: int = 8
) -> Case:
    """biased: always with a bias, without which LiteRT's optimized kernels crash; others: as in conv_2d."""
    source = Source(draw, "DEPTHWISE_CONV_2D")
    dtype = source.pick("dtype", dtypes)
    window = windows(source)
    channels = source.integer("channels", 1, 40)
    depth_multiplier = source.integer("depth_multiplier", 1, 4)
    out = channels * depth_multiplier
    per_channel = dtype != "uint8" and source.flag("per_channel")
    activation = source.pick("activation", list(ACTIVATIONS))
    bias_mode = source.pick("bias", ["centred", "centred", "zero", "noise", "extreme"] + ["none"] * (not biased))
    in_zp = source.zero_point("in_zero_point", dtype)
    out_zp = source.zero_point("out_zero_point", dtype)
    w_zp = source.zero_point("w_zero_point", dtype) if dtype == "uint8" else 0
    w_dtype = "int8" if dtype == "int16" else dtype

    x = source.activations((source.first, window["h"], window["w"], channels), dtype, in_zp)
    w = source.codes((1, window["kh"], window["kw"], out), w_dtype, w_zp)
    w = w >> (8 - bits)
    limit = largest_factor(dtype, xnnpack, dtype == "int16")
    drawn = layer(source, x, in_zp, w, w_zp, 3, per_channel and out > 1, bias_mode, limit, xnnpack, dtype == "int16")
    options = schema.DepthwiseConv2DOptionsT(
        padding=PADDINGS[window["padding"]],
        strideH=window["stride_h"],
        strideW=window["stride_w"],
        dilationHFactor=window["dilation_h"],
        dilationWFactor=window["dilation_w"],
        depthMultiplier=depth_multiplier,
        fusedActivationFunction=ACTIVATIONS[activation],
    )
    inputs: list[TensorDef | None] = [
        TensorDef((source.first, *x.shape[1:]), dtype, drawn.x_scale, in_zp),
        TensorDef(w.shape, w_dtype, drawn.w_scale, w_zp, axis=3 * per_channel, data=drawn.w, bits=bits),
    ]
    if drawn.bias is not None:
        inputs.append(TensorDef((out,), drawn.bias.dtype, drawn.bias_scale, 0, data=drawn.bias))
    return source.case(
        inputs,
        TensorDef((source.first, window["out_h"], window["out_w"], out), dtype, drawn.out_scale, out_zp),
        options,
        [drawn.x],
    )


@st.composite
def fully_connected(
    draw: DrawFn,
    dtypes: Sequence[str] = BOTH,
    legacy: bool = True,
    xnnpack: bool = False,
    bits: int = 8,
    axes: bool = True,
) -> Case:
    """legacy: int8 weights with a zero point, which LiteRT still honours; xnnpack, bits: as in conv_2d.

    axes: scales of each output, too, which TFLite Micro refuses with int4.
    """
    source = Source(draw, "FULLY_CONNECTED")
    dtype = source.pick("dtype", dtypes)
    # The largest depths make the sum of products itself exceed int32.
    short, usual, deep = st.integers(1, 64), st.integers(1, 400), st.integers(65530, 70000)
    long = st.sampled_from([1024, 3000, 4097])
    depth = source.draw("depth", st.one_of(short, short, usual, usual, long, deep))
    units = source.integer("units", 1, max(1, min(40, MAX_MACS // depth)))
    keep_num_dims = source.flag("keep_num_dims")
    first = source.first
    if keep_num_dims:
        rows = source.integer("rows", 1, max(1, min(4, MAX_MACS // (depth * units))))
        sample: tuple[int, ...] = source.pick("rank", [(first, depth), (first, rows, depth), (first, 1, rows, depth)])
        out_shape: tuple[int, ...] = (*sample[:-1], units)
    else:
        # Rows of `depth` are cut from the input as it lies in memory, whatever its shape.
        split = next(d for d in (7, 5, 3, 2, 1) if depth % d == 0)
        sample = source.pick(
            "rank",
            [
                (first, depth),
                (first, split, depth // split),
                (first, split, 1, depth // split),
                (first, 2, depth),
            ],
        )
        out_shape = (math.prod(sample) // depth, units)
    per_channel = axes and dtype != "uint8" and source.flag("per_channel") and units > 1
    activation = source.pick("activation", list(ACTIVATIONS))
    bias_mode = source.pick("bias", ["centred", "centred", "none", "zero", "noise", "extreme"])
    in_zp = source.zero_point("in_zero_point", dtype)
    out_zp = source.zero_point("out_zero_point", dtype)
    w_zp = 0
    if dtype == "uint8" or (legacy and not per_channel and source.rng.random() < 0.15):
        w_zp = source.zero_point("w_zero_point", "int8" if dtype == "int16" else dtype)

    x = source.activations(sample, dtype, in_zp)
    w_dtype = "int8" if dtype == "int16" else dtype
    w = source.codes((units, depth), w_dtype, w_zp)
    w = w >> (8 - bits)
    int64_sums = dtype == "int16" and (bias_mode == "none" or source.flag("int64_bias"))
    # int64 sums in TFLite Micro go by V3, whose factors end at 2^7.
    limit = XNNPACK_LARGEST if xnnpack else 2.0**6 if int64_sums else 2.0**18
    drawn = layer(source, x, in_zp, w, w_zp, 0, per_channel, bias_mode, limit, True, int64_sums)
    inputs: list[TensorDef | None] = [
        TensorDef(sample, dtype, drawn.x_scale, in_zp),
        TensorDef(w.shape, w_dtype, drawn.w_scale, w_zp, axis=0, data=drawn.w, bits=bits),
    ]
    if drawn.bias is not None:
        inputs.append(TensorDef((units,), drawn.bias.dtype, drawn.bias_scale, 0, data=drawn.bias))
    elif source.flag("absent_bias_is_-1"):
        inputs.append(None)
    options = schema.FullyConnectedOptionsT(
        fusedActivationFunction=ACTIVATIONS[activation],
        keepNumDims=keep_num_dims,
        quantizedBiasType=bias_type(dtype, drawn.bias),
    )
    return source.case(inputs, TensorDef(out_shape, dtype, drawn.out_scale, out_zp), options, [drawn.x])


# ---------------------------------------------------------------------------------- element-wise

_BINARY_OPTIONS = {"ADD": schema.AddOptionsT, "SUB": schema.SubOptionsT, "MUL": schema.MulOptionsT}


@st.composite
def binary(
    draw: DrawFn, op: str, dtypes: Sequence[str] = BOTH, sub_below_one: bool = False, int16: bool = False
) -> Case:
    """ADD, SUB, MUL of two inputs, or of an input and a constant, with broadcasting.

    sub_below_one: SUB's output multiplier stays below 1, as ADD's must (TFLite Micro).
    int16: results stay within int16, beyond which the vectors of LiteRT's optimized ADD and MUL wrap.
    """
    source = Source(draw, op)
    dtype = source.pick("dtype", dtypes)
    rank = source.integer("rank", 1, 4)
    full = (source.first, *(source.integer(f"d{i}", 1, 9) for i in range(1, rank)))
    relation = source.pick("second", ["input", "input broadcast", "constant", "constant broadcast"])
    first, second = list(full), list(full)
    if "broadcast" in relation:
        # Each dimension may be 1 in one of the two; a constant may leave leading ones out.
        for i in range(rank):
            chance = source.rng.random()
            if chance < 0.35:
                second[i] = 1
            elif chance < 0.45:
                first[i] = 1
        if relation == "constant broadcast":
            left_out = int(source.rng.integers(0, rank))
            second = second[left_out:]
            first[:left_out] = full[:left_out]
    activation = source.pick("activation", list(ACTIVATIONS))
    z1, z2 = source.zero_point("zero_point_1", dtype), source.zero_point("zero_point_2", dtype)
    a = source.activations(first, dtype, z1)
    if "constant" in relation:
        b = source.codes(second, dtype, z2)
    else:
        b = source.activations(second, dtype, z2)
    source.note("shapes", (tuple(first), tuple(second)))

    mode = source.pick("scales", ["typical", "typical", "dyadic", "dyadic", "equal", "far apart", "extreme"])
    if mode == "dyadic" and op == "MUL":
        if source.rng.random() < 0.5:
            a, b = close(a, z1, 12), close(b, z2, 12)
        else:
            bits = int(source.rng.integers(1, 4))
            a, b = coarse(a, z1, bits), coarse(b, z2, bits)
    # The first run stands for all where the spread of results is estimated.
    ra, rb = a[: first[0]].astype(np.float64) - z1, b.astype(np.float64) - z2
    if "constant" not in relation:
        rb = rb[: second[0]]
    s1 = source.log2(-12, 4)
    s2 = np.float32(s1 * source.log2(-3, 3))
    if mode == "equal":
        s2 = s1
    elif mode == "dyadic":
        # Sums tie when the two scales are powers of two apart, products whatever they are.
        s2 = source.log2(-8, 2) if op == "MUL" else np.ldexp(s1, int(source.rng.integers(-4, 5)))
    elif mode == "far apart":
        s2 = np.float32(s1 * source.log2(-30, 30))
    real = {
        "ADD": lambda: ra * float(s1) + rb * float(s2),
        "SUB": lambda: ra * float(s1) - rb * float(s2),
        "MUL": lambda: ra * float(s1) * rb * float(s2),
    }[op]()
    unit = np.float32(s1 * s2) if op == "MUL" else max(s1, s2)
    about = max(float(real.std()), float(unit)) / source.rng.uniform(15, 60) / (256 if dtype == "int16" else 1)
    if mode == "dyadic":
        ratio = min(math.log2(float(unit) / about), -1.0 if op == "MUL" else 30.0)
        out_scale = np.float32(unit / np.float32(dyadic(source, ratio)))
    elif mode == "extreme":
        out_scale = np.float32(about * 2.0 ** source.rng.uniform(-14, 14))
    else:
        out_scale = np.float32(about)
    # 2 max(s1, s2) / (2^20 out) must stay below 1 in ADD, and in TFLite Micro's SUB. LiteRT's SUB
    # may exceed 1, but exactly 1 aborts it.
    if op == "MUL":
        floor = float(s1 * s2) / 2.0**20
    else:
        below_one = op == "ADD" or sub_below_one
        floor = float(max(s1, s2)) * (
            (2.0**-13 if below_one else 2.0**-22) if dtype == "int16" else 2.0**-18 if below_one else 2.0**-27
        )
    if int16:
        floor = max(floor, (255 * 255 * float(s1 * s2) if op == "MUL" else 255 * float(s1 + s2)) / 31000)
    # RELU6's 6 / out must be an int32.
    out_scale = np.float32(max(float(out_scale), floor, 2.0**-26))
    if op == "SUB" and 2 * float(max(s1, s2)) == 2.0 ** (15 if dtype == "int16" else 20) * float(out_scale):
        out_scale = np.float32(2 * out_scale)
    source.note("scale_1", s1)
    source.note("scale_2", s2)
    source.note("out_scale", out_scale)
    out_zp = centred_zero_point(source, real, out_scale, dtype)

    first_def = TensorDef(tuple(first), dtype, s1, z1)
    second_def = TensorDef(tuple(second), dtype, s2, z2, data=b if "constant" in relation else None)
    arrays = [a] if "constant" in relation else [a, b]
    inputs = [first_def, second_def]
    if source.flag("swapped"):
        # The result keeps its shape; the constant or the smaller operand comes first.
        inputs.reverse()
        arrays.reverse()
    options = _BINARY_OPTIONS[op](fusedActivationFunction=ACTIVATIONS[activation])
    if op != "MUL":
        # As the converter writes it; true asks for another rule where all scales are powers of two.
        options.potScaleInt16 = False
    return source.case(inputs, TensorDef(full, dtype, out_scale, out_zp), options, arrays)


@st.composite
def relu(draw: DrawFn, op: str, dtypes: Sequence[str] = BOTH) -> Case:
    source = Source(draw, op)
    dtype = source.pick("dtype", dtypes)
    zero_point = source.zero_point("in_zero_point", dtype)
    sample, x = code_by_code(source, dtype, zero_point)
    in_scale, out_scale, out_zp = rescaling(source, x, zero_point, dtype)
    return source.case(
        [TensorDef(sample, dtype, in_scale, zero_point)],
        TensorDef(sample, dtype, out_scale, out_zp),
        None,
        [x],
    )


def probability(dtype: str) -> tuple[float, int]:
    """Scale and zero point of a tensor from 0 to 1."""
    return (1 / 32768, 0) if dtype == "int16" else (1 / 256, int(np.iinfo(dtype).min))


@st.composite
def logistic(draw: DrawFn, dtypes: Sequence[str] = BOTH) -> Case:
    source = Source(draw, "LOGISTIC")
    dtype = source.pick("dtype", dtypes)
    zero_point = source.zero_point("in_zero_point", dtype)
    in_scale = source.note("in_scale", source.log2(*((-20, 2) if dtype == "int16" else (-14, 2))))
    if dtype == "int16" and source.flag("power"):
        in_scale = source.note("in_scale", np.float32(2.0**-12))
    sample, x = code_by_code(source, dtype, zero_point)
    return source.case(
        [TensorDef(sample, dtype, in_scale, zero_point)],
        TensorDef(sample, dtype, *probability(dtype)),
        None,
        [x],
    )


@st.composite
def softmax(draw: DrawFn, dtypes: Sequence[str] = BOTH) -> Case:
    source = Source(draw, "SOFTMAX")
    dtype = source.pick("dtype", dtypes)
    leading = source.pick("leading", [(source.first,), (source.first, 3), (source.first, 2, 2)])
    depth = source.draw("depth", st.one_of(st.integers(1, 30), st.integers(1, 400), st.just(1001)))
    sample = (*leading, depth)
    # beta * scale * 2^26 must exceed 1; around 0.05 many outputs are neither 0 nor 1.
    beta = source.note("beta", source.pick("beta_mode", [1.0, None]) or source.log2(-3, 3))
    spread = source.pick("scale_mode", ["typical", "any"])
    in_scale = source.note(
        "in_scale",
        np.float32(
            (source.log2(-8, -3) if spread == "typical" else source.log2(-16, 6))
            / beta
            / (256 if dtype == "int16" else 1)
        ),
    )
    zero_point = source.zero_point("in_zero_point", dtype)
    x = source.activations(sample, dtype, zero_point)
    # The kernel aborts the process when a row's sum of exp(x - max) reaches 512: flat rows must be
    # short.
    below_max = x.max(axis=-1, keepdims=True) - x.astype(np.float64)
    if dtype != "int16" and np.exp(-below_max * float(in_scale) * float(beta)).sum(axis=-1).max() > 500:
        x = x[..., :500]
        sample = (*leading, x.shape[-1])
        source.note("cut_to", x.shape[-1])
    return source.case(
        [TensorDef(sample, dtype, in_scale, zero_point)],
        TensorDef(sample, dtype, *probability(dtype)),
        schema.SoftmaxOptionsT(beta=float(beta)),
        [x],
    )


def shape(source: Source, largest: int = 12) -> tuple[int, ...]:
    """A shape of rank 1 to 4, as the file gives it."""
    rank = source.integer("rank", 1, 4)
    return (source.first, *(source.integer(f"d{i}", 1, largest) for i in range(1, rank)))


def code_by_code(source: Source, dtype: str, near: int | None = None) -> tuple[tuple[int, ...], np.ndarray]:
    """Shape and input of an operator that maps each code by itself: often all 256 of them."""
    if source.flag("every_code"):
        info = np.iinfo(dtype)
        codes = np.arange(info.min, info.max + 1)
        if dtype == "int16":  # 256 of them
            codes = source.rng.choice(codes, 256, replace=False)
        runs = [source.rng.permutation(codes) for _ in range(source.runs * source.first)]
        return (source.first, 256), np.stack(runs).astype(dtype)
    sample = shape(source)
    return sample, source.activations(sample, dtype, near)


# ------------------------------------------------------------------------------- pools and means


@st.composite
def pool(draw: DrawFn, op: str, dtypes: Sequence[str] = BOTH) -> Case:
    source = Source(draw, op)
    dtype = source.pick("dtype", dtypes)
    window = windows(source, dilate=False)
    channels = source.integer("channels", 1, 40)
    activation = source.pick("activation", list(ACTIVATIONS))
    scale = source.note("scale", source.log2(-10, 2))
    zero_point = source.zero_point("zero_point", dtype)
    sample = (source.first, window["h"], window["w"], channels)
    x = source.activations(sample, dtype, zero_point)
    options = schema.Pool2DOptionsT(
        padding=PADDINGS[window["padding"]],
        strideH=window["stride_h"],
        strideW=window["stride_w"],
        filterHeight=window["kh"],
        filterWidth=window["kw"],
        fusedActivationFunction=ACTIVATIONS[activation],
    )
    return source.case(
        [TensorDef(sample, dtype, scale, zero_point)],
        TensorDef((source.first, window["out_h"], window["out_w"], channels), dtype, scale, zero_point),
        options,
        [x],
    )


@st.composite
def mean(draw: DrawFn, dtypes: Sequence[str] = BOTH) -> Case:
    source = Source(draw, "MEAN")
    dtype = source.pick("dtype", dtypes)
    rank = source.integer("rank", 2, 4)
    sample = (source.first, *(source.integer(f"d{i}", 1, 17) for i in range(1, rank)))
    axes = source.draw("axes", st.sets(st.integers(0, rank - 1), min_size=1).map(sorted))
    keep_dims = source.flag("keep_dims")
    if not keep_dims and len(axes) == rank:
        axes = axes[1:]  # a scalar has no dimension to stack runs along
    zero_point = source.zero_point("in_zero_point", dtype)
    x = source.activations(sample, dtype, zero_point)
    means = x.mean(axis=tuple(axis for axis in axes if axis > 0))
    in_scale, out_scale, out_zp = rescaling(source, means, zero_point, dtype)
    spelled = [axis - rank if source.rng.random() < 0.3 else axis for axis in axes]
    source.rng.shuffle(spelled)
    out_shape = tuple(1 if i in axes else d for i, d in enumerate(sample) if keep_dims or i not in axes)
    return source.case(
        [
            TensorDef(sample, dtype, in_scale, zero_point),
            constant(source.note("spelled", spelled)),
        ],
        TensorDef(out_shape, dtype, out_scale, out_zp),
        schema.ReducerOptionsT(keepDims=keep_dims),
        [x],
    )


# ------------------------------------------------------------------------ conversions of numbers


@st.composite
def quantize_float(draw: DrawFn, dtypes: Sequence[str] = BOTH) -> Case:
    """float32 to codes: ordinary values, exact ties, denormals, zeros, values up to 2^31 steps."""
    source = Source(draw, "QUANTIZE")
    dtype = source.pick("dtype", dtypes)
    sample = shape(source)
    power_of_two = source.flag("power_of_two")
    scale = source.log2(-12, 5)
    if power_of_two:
        scale = np.float32(2.0 ** np.rint(np.log2(scale)))
    source.note("scale", scale)
    zero_point = source.zero_point("zero_point", dtype)
    size = (source.runs * sample[0], *sample[1:])
    steps = source.rng.integers(-300, 300, size)
    # Beyond int32 the conversion is undefined, and so is adding the zero point to what is left.
    kinds = [
        source.rng.normal(0, 100, size) * float(scale),
        (steps + 0.5) * float(scale),
        steps * float(scale),
        np.ldexp(source.rng.choice([-1.0, 1.0], size), source.rng.integers(-149, -120, size)),
        np.where(source.rng.random(size) < 0.5, -0.0, 0.0),
        source.rng.choice([-1.0, 1.0], size) * float(scale) * 2.0 ** source.rng.uniform(8, 30.9, size),
    ]
    x = np.choose(source.rng.choice(6, size, p=[0.3, 0.4, 0.1, 0.05, 0.05, 0.1]), kinds).astype(np.float32)
    if not power_of_two and x.size:
        # Values one float32 step around a tie.
        x = np.where(source.rng.random(size) < 0.1, np.nextafter(x, np.float32(0)), x)
    return source.case(
        [TensorDef(sample, np.float32)],
        TensorDef(sample, dtype, scale, zero_point),
        schema.QuantizeOptionsT(),
        [x],
    )


@st.composite
def requantize(draw: DrawFn, pairs: Sequence[tuple[str, str]] = tuple((a, b) for a in BOTH for b in BOTH)) -> Case:
    source = Source(draw, "QUANTIZE")
    in_dtype, out_dtype = source.pick("dtypes", pairs)
    zero_point = source.zero_point("in_zero_point", in_dtype)
    sample, x = code_by_code(source, in_dtype, zero_point)
    in_scale, out_scale, out_zp = rescaling(source, x, zero_point, out_dtype)
    if {in_dtype, out_dtype} == {"int8", "uint8"} and source.flag("flip_sign_bit"):
        # The runtimes' fast path: equal scales, zero points 128 apart.
        out_scale, out_zp = in_scale, zero_point + (128 if out_dtype == "uint8" else -128)
    return source.case(
        [TensorDef(sample, in_dtype, in_scale, zero_point)],
        TensorDef(sample, out_dtype, out_scale, out_zp),
        schema.QuantizeOptionsT(),
        [x],
    )


@st.composite
def dequantize(draw: DrawFn, dtypes: Sequence[str] = BOTH) -> Case:
    source = Source(draw, "DEQUANTIZE")
    dtype = source.pick("dtype", dtypes)
    scale = source.note("scale", source.log2(-30, 20))
    zero_point = source.zero_point("zero_point", dtype)
    sample, x = code_by_code(source, dtype)
    return source.case(
        [TensorDef(sample, dtype, scale, zero_point)],
        TensorDef(sample, np.float32),
        schema.DequantizeOptionsT(),
        [x],
    )


# ------------------------------------------------------------------------------ moves and resizes


@st.composite
def pad(draw: DrawFn, dtypes: Sequence[str] = BOTH) -> Case:
    source = Source(draw, "PAD")
    dtype = source.pick("dtype", dtypes)
    sample = shape(source, 7)
    pads = [source.draw(f"pad{i}", st.tuples(st.integers(0, 3), st.integers(0, 3))) for i in range(len(sample))]
    # TFLite Micro reads int32 only.
    index_dtype = source.pick("paddings", ["int32", "int64"]) if dtypes == BOTH else "int32"
    scale = source.note("scale", source.log2(-10, 2))
    zero_point = source.zero_point("zero_point", dtype)
    out_shape = tuple(d + sum(p) for d, p in zip(sample, pads, strict=True))
    return source.case(
        [
            TensorDef(sample, dtype, scale, zero_point),
            constant(pads, index_dtype),
        ],
        TensorDef(out_shape, dtype, scale, zero_point),
        schema.PadOptionsT(),
        [source.activations(sample, dtype)],
    )


@st.composite
def concatenation(draw: DrawFn, dtypes: Sequence[str] = BOTH) -> Case:
    source = Source(draw, "CONCATENATION")
    dtype = source.pick("dtype", dtypes)
    rank = source.integer("rank", 2, 4)
    sample = [source.first] + [source.integer(f"d{i}", 1, 7) for i in range(1, rank)]
    axis = source.integer("axis", 0, rank - 1)
    lengths = source.draw("lengths", st.lists(st.integers(1, 6), min_size=1, max_size=5))
    # int8 must not rescale; uint8 may, input by input.
    rescale = dtype == "uint8" and source.flag("rescale")
    out_scale, out_zp = source.log2(-10, 2), source.zero_point("out_zero_point", dtype)
    with_constant = len(lengths) > 1 and source.flag("constant")
    inputs: list[TensorDef | None] = []
    arrays = []
    for i, length in enumerate(lengths):
        part = (*sample[:axis], length, *sample[axis + 1 :])
        scale, zero_point = out_scale, out_zp
        if rescale and source.rng.random() < 0.8:
            usual, extreme = source.rng.uniform(-2, 2), source.rng.uniform(-12, 12)
            ties = dyadic(source, usual - 2)
            ratio = source.rng.choice([2.0**usual, ties, ties, 2.0**extreme])
            scale = np.float32(out_scale * np.float32(ratio))
            zero_point = source.zero_point(f"zero_point_{i}", dtype)
        if dtype == "int16" and source.rng.random() < 0.5:
            scale = source.log2(-10, 2)  # copied all the same
        source.note(f"scale_{i}", scale)
        if with_constant and i == len(lengths) - 1:
            inputs.append(TensorDef(part, dtype, scale, zero_point, data=source.codes(part, dtype)))
        else:
            inputs.append(TensorDef(part, dtype, scale, zero_point))
            arrays.append(source.activations(part, dtype, zero_point))
    out_shape = (*sample[:axis], sum(lengths), *sample[axis + 1 :])
    spelled = axis - rank if source.flag("negative_axis") else axis
    return source.case(
        inputs,
        TensorDef(out_shape, dtype, source.note("out_scale", out_scale), out_zp),
        schema.ConcatenationOptionsT(axis=spelled),
        arrays,
    )


def integer_resize_stays_inside(size: int, out: int, align_corners: bool, half_pixel: bool) -> bool:
    """Whether the int8 bilinear kernel reads only its input along this dimension.

    It walks in steps rounded to 1/1024 pixel; over many steps the error adds up, and the lower
    neighbour is not clamped, so that strong enlargements read past the end.
    """
    step = (1024 * size + out // 2) // out
    if align_corners and out > 1:
        step = (1024 * (size - 1) + (out - 1) // 2) // (out - 1)
    last = (out - 1) * step + (step // 2 - 512 if half_pixel else 0)
    return last // 1024 <= size - 1


@st.composite
def resize(draw: DrawFn, op: str, dtypes: Sequence[str] = BOTH, eightfold: bool = False) -> Case:
    """eightfold: what LiteRT's optimized kernels have one of their own for."""
    source = Source(draw, op)
    dtype = source.pick("dtype", dtypes)
    corners = [(False, False), (True, False), (False, True)]
    if op == "RESIZE_NEAREST_NEIGHBOR":
        corners.append((True, True))
    align_corners, half_pixel = (False, True) if eightfold else source.pick("align_corners_half_pixel", corners)
    sizes, outs = [], []
    for axis in ("h", "w"):
        size = source.integer(axis, 1, 13)
        out = 8 * size if eightfold else source.integer(f"out_{axis}", 1, 30)
        if op == "RESIZE_BILINEAR" and dtype != "uint8":
            # XNNPACK does not need this; what it draws less is not missed.
            while not integer_resize_stays_inside(size, out, align_corners, half_pixel):
                out -= 1
        sizes.append(size)
        outs.append(out)
    channels = 8 * source.integer("blocks", 1, 3) if eightfold else source.integer("channels", 1, 9)
    scale = source.note("scale", source.log2(-10, 2))
    zero_point = source.zero_point("zero_point", dtype)
    sample = (source.first, *sizes, channels)
    options_type = schema.ResizeBilinearOptionsT if op == "RESIZE_BILINEAR" else schema.ResizeNearestNeighborOptionsT
    return source.case(
        [
            TensorDef(sample, dtype, scale, zero_point),
            constant(source.note("size", outs)),
        ],
        TensorDef((source.first, *outs, channels), dtype, scale, zero_point),
        options_type(alignCorners=align_corners, halfPixelCenters=half_pixel),
        [source.activations(sample, dtype)],
    )


@st.composite
def arg_max(draw: DrawFn, dtypes: Sequence[str] = BOTH, out_dtypes: Sequence[str] = ("int32", "int64")) -> Case:
    source = Source(draw, "ARG_MAX")
    dtype = source.pick("dtype", dtypes)
    rank = source.integer("rank", 2, 4)
    sample = (source.first, *(source.integer(f"d{i}", 1, 12) for i in range(1, rank)))
    axis = source.integer("axis", 0, rank - 1)
    out_dtype = source.pick("out_dtype", out_dtypes)
    axis_dtype = source.pick("axis_dtype", out_dtypes)
    scale, zero_point = source.log2(-10, 2), source.zero_point("zero_point", dtype)
    x = source.activations(sample, dtype)
    if source.flag("ties"):
        x = (x // 64 * 64).astype(dtype)
    spelled = axis - rank if source.flag("negative_axis") else axis
    return source.case(
        [TensorDef(sample, dtype, scale, zero_point), constant(spelled, axis_dtype)],
        TensorDef(sample[:axis] + sample[axis + 1 :], out_dtype),
        schema.ArgMaxOptionsT(outputType=schema.TensorType.INT32 if out_dtype == "int32" else schema.TensorType.INT64),
        [x],
    )


@st.composite
def reshape(draw: DrawFn, dtypes: Sequence[str] = BOTH) -> Case:
    """The shape comes as a constant, in the options, or both, maybe with one -1."""
    source = Source(draw, "RESHAPE")
    dtype = source.pick("dtype", dtypes)
    sample = shape(source)
    left = math.prod(sample)
    target = []
    for i in range(source.integer("out_rank", 1, 4) - 1):
        factor = source.pick(f"out_{i}", [d for d in range(1, left + 1) if left % d == 0])
        target.append(factor)
        left //= factor
    target.append(left)
    spelled = list(target)
    if source.flag("infer"):
        spelled[source.integer("at", 0, len(target) - 1)] = -1
    where = source.pick("where", ["constant", "options", "both"])
    scale, zero_point = source.log2(-10, 2), source.zero_point("zero_point", dtype)
    inputs: list[TensorDef | None] = [TensorDef(sample, dtype, scale, zero_point)]
    if where != "options":
        inputs.append(constant(spelled))
    return source.case(
        inputs,
        TensorDef(tuple(target), dtype, scale, zero_point),
        schema.ReshapeOptionsT(newShape=None if where == "constant" else spelled),
        [source.activations(sample, dtype)],
    )


@st.composite
def squeeze(draw: DrawFn, dtypes: Sequence[str] = BOTH) -> Case:
    source = Source(draw, "SQUEEZE")
    dtype = source.pick("dtype", dtypes)
    rank = source.integer("rank", 2, 5)
    # One dimension stays, for runs to be stacked along; no axes mean all dimensions of 1.
    axes = source.draw("axes", st.sets(st.integers(0, rank - 1), max_size=rank - 1).map(sorted))
    sizes = [source.first, *(source.integer(f"d{i}", 1, 6) for i in range(1, rank))]
    sample = tuple(1 if i in axes else d for i, d in enumerate(sizes))
    if not axes:
        sample = (*sample[:-1], sample[-1] + 1)
    gone = axes or [i for i, d in enumerate(sample) if d == 1]
    spelled = [axis - rank if source.rng.random() < 0.3 else axis for axis in axes]
    scale, zero_point = source.log2(-10, 2), source.zero_point("zero_point", dtype)
    return source.case(
        [TensorDef(sample, dtype, scale, zero_point)],
        TensorDef(tuple(d for i, d in enumerate(sample) if i not in gone), dtype, scale, zero_point),
        schema.SqueezeOptionsT(squeezeDims=source.note("spelled", spelled)),
        [source.activations(sample, dtype)],
    )


@st.composite
def expand_dims(draw: DrawFn, dtypes: Sequence[str] = BOTH) -> Case:
    source = Source(draw, "EXPAND_DIMS")
    dtype = source.pick("dtype", dtypes)
    sample = shape(source, 6)
    axis = source.integer("axis", 0, len(sample))
    spelled = axis - len(sample) - 1 if source.flag("negative_axis") else axis
    scale, zero_point = source.log2(-10, 2), source.zero_point("zero_point", dtype)
    return source.case(
        [
            TensorDef(sample, dtype, scale, zero_point),
            constant(spelled, source.pick("axis_dtype", ["int32", "int64"])),
        ],
        TensorDef((*sample[:axis], 1, *sample[axis:]), dtype, scale, zero_point),
        schema.ExpandDimsOptionsT(),
        [source.activations(sample, dtype)],
    )
