"""The layers of real networks as data, and the layer classes that decide how fast a GPU kernel is.

Networks, as their .tflite files have them (SAME padding throughout, the classifier included, pools and additions not):

| network           | source of the shapes                                                                   |
|-------------------|----------------------------------------------------------------------------------------|
| resnet50          | version 1.5, 224 x 224: the stride of a block is in its 3x3 convolution                  |
| mobilenet_v1      | 1.0, 224 x 224, 1001 classes                                                           |
| mobilenet_v2      | 1.0, 224 x 224, 1001 classes                                                           |
| efficientnet_lite0| 224 x 224, 1000 classes                                                                |
| resnet8           | MLPerf Tiny, CIFAR-10 (tiny/benchmark/training/image_classification/keras_model.py)     |
| ds_cnn            | MLPerf Tiny, keyword spotting, 49 x 10 (keyword_spotting/keras_model.py)               |
| vww               | MLPerf Tiny, visual wake words, MobileNetV1 0.25 at 96 x 96                            |
| ad                | MLPerf Tiny, anomaly detection, the autoencoder of 640 inputs                          |

`CLASSES` holds shapes that stand for many: large 3x3 and 1x1 layers that arithmetic bounds, small 1x1 and depthwise
layers that memory bounds, the first layer of a network, and odd shapes, each beside the shape it would be padded to.
"""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import profiles
from gpuq.numerics import Rule
from gpuq.ops.conv2d import Conv2dSpec
from gpuq.ops.depthwise_conv2d import DepthwiseConv2dSpec
from gpuq.ops.fully_connected import FullyConnectedSpec
from gpuq.ops.window import Window2d
from gpuq.quant import Quant

CONV, DEPTHWISE, DENSE = "conv2d", "depthwise_conv2d", "fully_connected"
LayerSpec = Conv2dSpec | DepthwiseConv2dSpec | FullyConnectedSpec

# The standard deviations of what the layers are measured on: codes of x, uniform; codes of w, normal; codes of y.
X_SPREAD, W_SPREAD, Y_SPREAD = 74.0, 40.0, 40.0


@dataclass(frozen=True)
class Layer:
    """One shape.

    Attributes:
        kind: "conv2d", "depthwise_conv2d" or "fully_connected"; the last has in_h = in_w = 1.
        kernel_h, kernel_w: of the window.
        stride, dilation: the same along both axes.
        groups: of a conv2d; a depthwise layer has its own kind.
    """

    kind: str
    in_h: int
    in_w: int
    in_c: int
    out_c: int
    kernel_h: int = 1
    kernel_w: int = 1
    stride: int = 1
    dilation: int = 1
    groups: int = 1

    @property
    def name(self) -> str:
        """The shape, readable: conv2d_56x56x64-256_1x1, depthwise_conv2d_14x14x512_3x3_s2."""
        if self.kind == DENSE:
            return f"{self.kind}_{self.in_c}-{self.out_c}"
        channels = f"{self.in_c}" if self.kind == DEPTHWISE else f"{self.in_c}-{self.out_c}"
        name = f"{self.kind}_{self.in_h}x{self.in_w}x{channels}_{self.kernel_h}x{self.kernel_w}"
        for letter, value in (("s", self.stride), ("d", self.dilation), ("g", self.groups)):
            name += f"_{letter}{value}" if value > 1 else ""
        return name

    @property
    def window(self) -> Window2d:
        return Window2d.padded(
            "same",
            self.in_h,
            self.in_w,
            kernel_h=self.kernel_h,
            kernel_w=self.kernel_w,
            stride_h=self.stride,
            stride_w=self.stride,
            dilation_h=self.dilation,
            dilation_w=self.dilation,
        )

    def spec(self, dtype: str = "int8") -> LayerSpec:
        """The layer with scales that spread its outputs over the codes: `Y_SPREAD` of them are one deviation.

        Args:
            dtype: "int8": weights per channel; "uint8": weights per tensor, with a zero point that is not the middle.
        """
        middle = 128 if dtype == "uint8" else 0
        taps = self.kernel_h * self.kernel_w * (1 if self.kind == DEPTHWISE else self.in_c // self.groups)
        factor = Y_SPREAD / (X_SPREAD * W_SPREAD * np.sqrt(taps))
        x_scale, y_scale = 0.05, 0.1
        w_scale = factor * y_scale / x_scale
        if dtype == "uint8":
            w_quant = Quant(w_scale, middle + 3, dtype=dtype)
        else:
            # Channels differ, as trained ones do.
            scales = w_scale * np.random.default_rng(self.out_c).uniform(0.7, 1.3, self.out_c)
            w_quant = Quant(scales, 0, axis=3 if self.kind == DEPTHWISE else 0, dtype=dtype)
        quants: dict[str, Any] = {
            "x_quant": Quant(x_scale, middle - 5, dtype=dtype),
            "w_quant": w_quant,
            "out_quant": Quant(y_scale, middle + 4, dtype=dtype),
        }
        if self.kind == DENSE:
            return FullyConnectedSpec(in_c=self.in_c, out_c=self.out_c, **quants)
        shape: dict[str, Any] = {"in_h": self.in_h, "in_w": self.in_w, "in_c": self.in_c, "window": self.window}
        if self.kind == DEPTHWISE:
            return DepthwiseConv2dSpec(**shape, multiplier=self.out_c // self.in_c, **quants)
        return Conv2dSpec(**shape, out_c=self.out_c, groups=self.groups, **quants)

    @property
    def x_shape(self) -> tuple[int, ...]:
        """Of one run."""
        return (self.in_c,) if self.kind == DENSE else (self.in_h, self.in_w, self.in_c)

    @property
    def y_shape(self) -> tuple[int, ...]:
        """Of one run."""
        if self.kind == DENSE:
            return (self.out_c,)
        return (*self.window.output_hw(self.in_h, self.in_w), self.out_c)

    @property
    def weights_shape(self) -> tuple[int, ...]:
        if self.kind == DENSE:
            return (self.out_c, self.in_c)
        if self.kind == DEPTHWISE:
            return (1, self.kernel_h, self.kernel_w, self.out_c)
        return (self.out_c, self.kernel_h, self.kernel_w, self.in_c // self.groups)

    @property
    def weight_bytes(self) -> int:
        return int(np.prod(self.weights_shape))

    def bytes(self, runs: int) -> int:
        """What a batch must move at least: inputs, outputs and weights, each once."""
        return runs * (int(np.prod(self.x_shape)) + int(np.prod(self.y_shape))) + self.weight_bytes

    @property
    def macs(self) -> int:
        """Multiplications of one run, those of the borders included."""
        outputs = int(np.prod(self.y_shape))
        return outputs * self.kernel_h * self.kernel_w * (1 if self.kind == DEPTHWISE else self.in_c // self.groups)

    @property
    def padded(self) -> Layer:
        """The shape that a kernel for whole vectors alone would need: channels in multiples of 16, no groups."""
        if self.kind != CONV:
            return self
        return replace(self, in_c=-(-self.in_c // 16) * 16, out_c=-(-self.out_c // 16) * 16, groups=1)

    def constants(self, dtype: str = "int8", seed: int = 0) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
        """Random weights, normal as trained ones are, and biases that move outputs by a part of their spread."""
        rng = np.random.default_rng(seed)
        info = np.iinfo(dtype)
        codes = np.rint(rng.normal(0, W_SPREAD, self.weights_shape)) + (131 if dtype == "uint8" else 0)
        taps = self.weight_bytes // self.out_c
        bias = rng.normal(0, X_SPREAD * W_SPREAD * np.sqrt(taps) / 4, self.out_c)
        return np.clip(codes, max(info.min, -127), info.max).astype(dtype), np.rint(bias).astype(np.int32)

    def images(self, count: int, dtype: str = "int8", seed: int = 1) -> npt.NDArray[Any]:
        """Uniform random codes (count, *x_shape); zeros would flatter a GPU's clocks."""
        info = np.iinfo(dtype)
        return np.random.default_rng(seed).integers(info.min, info.max + 1, (count, *self.x_shape)).astype(dtype)

    def rule(self, dtype: str = "int8", profile: str = "litert_ref") -> Rule:
        """How the profile requantizes this layer."""
        return profiles.resolve(profile, self.spec(dtype))


@dataclass(frozen=True)
class Row:
    """A shape and where it is found.

    Attributes:
        classes: names of CLASSES.
        networks: (network, how many of its layers have this shape).
    """

    layer: Layer
    classes: tuple[str, ...]
    networks: tuple[tuple[str, int], ...]

    @property
    def name(self) -> str:
        return self.layer.name


# ------------------------------------------------------------------------------------------------ networks


def conv(size: int, in_c: int, out_c: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1) -> Layer:
    return Layer(CONV, size, size, in_c, out_c, kernel, kernel, stride, dilation, groups)


def depthwise(size: int, channels: int, kernel: int, stride: int = 1) -> Layer:
    return Layer(DEPTHWISE, size, size, channels, channels, kernel, kernel, stride)


def dense(in_c: int, out_c: int) -> Layer:
    return Layer(DENSE, 1, 1, in_c, out_c)


def resnet50() -> Iterator[Layer]:
    yield conv(224, 3, 64, 7, 2)
    size, in_c = 56, 64
    for blocks, width, stride in ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2)):
        for block in range(blocks):
            step = stride if block == 0 else 1
            if block == 0:
                yield conv(size, in_c, 4 * width, 1, step)
            yield conv(size, in_c, width, 1)
            yield conv(size, width, width, 3, step)
            size //= step
            yield conv(size, width, 4 * width, 1)
            in_c = 4 * width
    yield dense(2048, 1000)


def mobilenet_v1(size: int = 224, width: float = 1.0) -> Iterator[Layer]:
    """The body, without the classifier."""

    def wide(channels: int) -> int:
        return int(channels * width)

    yield conv(size, 3, wide(32), 3, 2)
    size //= 2
    in_c = 32
    outs = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    for number, out_c in enumerate(outs):
        stride = 2 if number in (1, 3, 5, 11) else 1
        yield depthwise(size, wide(in_c), 3, stride)
        size //= stride
        yield conv(size, wide(in_c), wide(out_c), 1)
        in_c = out_c


def inverted_residuals(
    size: int, in_c: int, stages: tuple[tuple[int, int, int, int, int], ...]
) -> Iterator[tuple[Layer, int, int]]:
    """(layer, size after it, channels after it); stages are (expansion, channels, blocks, stride, kernel)."""
    for expansion, out_c, blocks, stride, kernel in stages:
        for block in range(blocks):
            step = stride if block == 0 else 1
            hidden = expansion * in_c
            if expansion > 1:
                yield conv(size, in_c, hidden, 1), size, hidden
            yield depthwise(size, hidden, kernel, step), size // step, hidden
            size //= step
            yield conv(size, hidden, out_c, 1), size, out_c
            in_c = out_c


def mobilenet_v2() -> Iterator[Layer]:
    yield conv(224, 3, 32, 3, 2)
    stages = (
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 32, 3, 2, 3),
        (6, 64, 4, 2, 3),
        (6, 96, 3, 1, 3),
        (6, 160, 3, 2, 3),
        (6, 320, 1, 1, 3),
    )
    for layer, _, _ in inverted_residuals(112, 32, stages):
        yield layer
    yield conv(7, 320, 1280, 1)
    yield conv(1, 1280, 1001, 1)


def efficientnet_lite0() -> Iterator[Layer]:
    yield conv(224, 3, 32, 3, 2)
    stages = (
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 40, 2, 2, 5),
        (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    )
    for layer, _, _ in inverted_residuals(112, 32, stages):
        yield layer
    yield conv(7, 320, 1280, 1)
    yield dense(1280, 1000)


def resnet8() -> Iterator[Layer]:
    yield conv(32, 3, 16, 3)
    size, in_c = 32, 16
    for width, stride in ((16, 1), (32, 2), (64, 2)):
        yield conv(size, in_c, width, 3, stride)
        yield conv(size // stride, width, width, 3)
        if stride > 1:
            yield conv(size, in_c, width, 1, stride)
        size, in_c = size // stride, width
    yield dense(64, 10)


def ds_cnn() -> Iterator[Layer]:
    yield Layer(CONV, 49, 10, 1, 64, 10, 4, 2)
    for _ in range(4):
        yield Layer(DEPTHWISE, 25, 5, 64, 64, 3, 3)
        yield Layer(CONV, 25, 5, 64, 64)
    yield dense(64, 12)


def ad() -> Iterator[Layer]:
    widths = (640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640)
    for in_c, out_c in itertools.pairwise(widths):
        yield dense(in_c, out_c)


NETWORKS: dict[str, tuple[Layer, ...]] = {
    "resnet50": tuple(resnet50()),
    "mobilenet_v2": tuple(mobilenet_v2()),
    "mobilenet_v1": (*mobilenet_v1(), conv(1, 1024, 1001, 1)),
    "efficientnet_lite0": tuple(efficientnet_lite0()),
    "resnet8": tuple(resnet8()),
    "ds_cnn": tuple(ds_cnn()),
    "vww": (*mobilenet_v1(96, 0.25), dense(256, 2)),
    "ad": tuple(ad()),
}
"""Every layer with weights, in order, repeated ones too."""

_ODD = (
    *(conv(28, in_c, 64, 3) for in_c in (3, 5, 18, 36, 40, 112)),
    *(conv(14, 256, out_c, 1) for out_c in (10, 12, 1000, 1001)),
    conv(28, 128, 128, 3, groups=2),
    conv(56, 128, 128, 3, groups=32),
    conv(28, 128, 128, 3, dilation=2),
)

CLASSES: dict[str, tuple[Layer, ...]] = {
    "big 3x3": (conv(56, 64, 64, 3), conv(28, 128, 128, 3), conv(14, 256, 256, 3), conv(7, 512, 512, 3)),
    "1x1 wide": (conv(14, 1024, 256, 1), conv(7, 512, 2048, 1), conv(14, 512, 512, 1)),
    "1x1 narrow": (conv(56, 64, 64, 1), conv(56, 64, 256, 1), conv(112, 32, 64, 1), conv(56, 128, 128, 1)),
    "depthwise": (
        depthwise(112, 32, 3),
        depthwise(56, 128, 3),
        depthwise(56, 128, 3, 2),
        depthwise(14, 512, 3),
        depthwise(7, 1024, 3),
        depthwise(28, 240, 5),
        depthwise(14, 672, 5),
    ),
    "stem": (conv(224, 3, 64, 7, 2), conv(224, 3, 32, 3, 2)),
    "odd": _ODD,
    # What the odd shapes are compared with, per MAC.
    "padded": tuple(dict.fromkeys(layer.padded for layer in _ODD if layer.padded != layer)),
}


@lru_cache(maxsize=1)
def rows() -> tuple[Row, ...]:
    """Every shape once: those of CLASSES first, then the networks', in order."""
    classes: dict[Layer, list[str]] = {}
    networks: dict[Layer, dict[str, int]] = {}
    for name, found in CLASSES.items():
        for layer in found:
            classes.setdefault(layer, []).append(name)
    for name, found in NETWORKS.items():
        for layer in found:
            counts = networks.setdefault(layer, {})
            counts[name] = counts.get(name, 0) + 1
    return tuple(
        Row(layer, tuple(classes.get(layer, ())), tuple(networks.get(layer, {}).items()))
        for layer in dict.fromkeys((*classes, *networks))
    )


def layers(pattern: str = "*") -> tuple[Row, ...]:
    """Shapes whose name, class or network matches one of these globs, which commas separate.

    >>> [row.name for row in layers("stem")]
    ['conv2d_224x224x3-64_7x7_s2', 'conv2d_224x224x3-32_3x3_s2']
    """
    patterns = [each.strip() for each in pattern.split(",")]

    def matches(row: Row) -> bool:
        names = (row.name, *row.classes, *(name for name, _ in row.networks))
        return any(fnmatch.fnmatchcase(name, each) for name in names for each in patterns)

    return tuple(row for row in rows() if matches(row))
