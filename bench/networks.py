"""Whole int8 and int16x8 networks, built in memory as gpuq's Graph: what the benches run where no file can be shipped.

| name               | structure                                                                                   |
|--------------------|---------------------------------------------------------------------------------------------|
| resnet50           | version 1.5 (stride in the 3x3): He et al. 2015; PADs and ADD + RELU as Keras converts them    |
| mobilenet_v1       | Howard et al. 2017, table 1; pool, 1x1 convolution and 1001 classes as TF-slim converts it     |
| mobilenet_v2       | Sandler et al. 2018, table 2; mean, 1x1 convolution and 1001 classes as the public int8 file   |
| efficientnet_lite0 | EfficientNet-B0 (Tan & Le 2019, table 1) with RELU6, no squeeze-and-excitation; 1000 classes   |

Batch normalization is folded, activations are fused, padding is TFLite's SAME. Weights are random, per channel, from a
fixed seed. Scales are chosen from the expected power of each tensor, so that random images spread over the codes in
every layer: neither do all saturate, nor do they all vanish. As classifiers the networks are worth nothing.
With int16 activations (names that end in _int16x8) weights stay int8, and biases and sums are int64.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.layers import W_SPREAD
from gpuq.model.graph import Graph, Node, Tensor
from gpuq.ops.add import AddSpec
from gpuq.ops.average_pool_2d import AveragePool2dSpec
from gpuq.ops.conv2d import Conv2dSpec
from gpuq.ops.depthwise_conv2d import DepthwiseConv2dSpec
from gpuq.ops.fully_connected import FullyConnectedSpec
from gpuq.ops.max_pool_2d import MaxPool2dSpec
from gpuq.ops.mean import MeanSpec
from gpuq.ops.pad import PadSpec
from gpuq.ops.reshape import ReshapeSpec
from gpuq.ops.softmax import SoftmaxSpec
from gpuq.ops.spec import Shape, Spec
from gpuq.ops.window import Window2d
from gpuq.quant import Quant

# Real values: a convolution's sums have this deviation before its activation; RELU6 then clips few of them, and a
# tensor's scale reaches to this many deviations.
SPREAD, REACH = 2.0, 4.0


class Builder:
    """A network in the making. Tensors are their numbers; each method adds an operator and returns its output.

    Args:
        resolution: the image is resolution x resolution x 3, real values of -1 to 1.
        int16: activations are int16, not int8.
    """

    def __init__(self, description: str, resolution: int, int16: bool = False, seed: int = 0) -> None:
        self._description = description
        self._int16 = int16
        self._bias_dtype = np.dtype(np.int64 if int16 else np.int32)
        self._rng = np.random.default_rng(seed)
        self._tensors: list[Tensor] = []
        self._nodes: list[Node] = []
        # The expected mean square of each activation's real values.
        self._power: dict[int, float] = {}
        self._positive: set[int] = set()
        image_quant = Quant(1 / 32767, 0, dtype=np.int16) if int16 else Quant(1 / 127.5, -1)
        self.image = self._tensor("image", (1, resolution, resolution, 3), image_quant, power=1 / 3)

    def conv(
        self, x: int, out_c: int, kernel: int, stride: int = 1, activation: str | None = None, padding: str = "same"
    ) -> int:
        """CONV_2D, a square kernel."""
        _, in_h, in_w, in_c = self._tensors[x].shape
        w_quant, out_quant, power = self._scales(x, kernel * kernel * in_c, out_c, activation, axis=0)
        spec = Conv2dSpec(
            in_h=in_h,
            in_w=in_w,
            in_c=in_c,
            out_c=out_c,
            window=_square(padding, in_h, in_w, kernel, stride),
            x_quant=self._quant(x),
            w_quant=w_quant,
            out_quant=out_quant,
            activation=activation,
            bias_dtype=self._bias_dtype,
        )
        return self._weighted(spec, x, power)

    def depthwise(self, x: int, kernel: int, stride: int = 1, activation: str | None = None) -> int:
        """DEPTHWISE_CONV_2D, a square kernel, one output of each channel."""
        _, in_h, in_w, in_c = self._tensors[x].shape
        w_quant, out_quant, power = self._scales(x, kernel * kernel, in_c, activation, axis=3)
        spec = DepthwiseConv2dSpec(
            in_h=in_h,
            in_w=in_w,
            in_c=in_c,
            window=_square("same", in_h, in_w, kernel, stride),
            x_quant=self._quant(x),
            w_quant=w_quant,
            out_quant=out_quant,
            activation=activation,
            bias_dtype=self._bias_dtype,
        )
        return self._weighted(spec, x, power)

    def dense(self, x: int, out_c: int) -> int:
        """FULLY_CONNECTED."""
        in_c = self._tensors[x].shape[-1]
        w_quant, out_quant, power = self._scales(x, in_c, out_c, None, axis=0)
        spec = FullyConnectedSpec(
            in_c=in_c,
            out_c=out_c,
            x_quant=self._quant(x),
            w_quant=w_quant,
            out_quant=out_quant,
            bias_dtype=self._bias_dtype,
        )
        return self._weighted(spec, x, power)

    def add(self, a: int, b: int, activation: str | None = None) -> int:
        """ADD of two tensors of one shape."""
        shape, power = self._tensors[a].shape, self._power[a] + self._power[b]
        # Where a residual is positive already, RELU takes little away.
        out_quant, power = self._activated(activation, 2 * power if a in self._positive and activation else power)
        spec = AddSpec(
            a_shape=shape,
            b_shape=shape,
            a_quant=self._quant(a),
            b_quant=self._quant(b),
            out_quant=out_quant,
            activation=activation,
        )
        return self._node(spec, (a, b), shape, out_quant, power)

    def pad(self, x: int, pixels: int) -> int:
        """PAD of the image on all four sides."""
        shape, quant = self._tensors[x].shape, self._quant(x)
        spec = PadSpec(x_shape=shape, pads=((0, 0), (pixels, pixels), (pixels, pixels), (0, 0)), out_quant=quant)
        return self._node(spec, (x,), spec.output_shape, quant, self._power[x])

    def max_pool(self, x: int, kernel: int, stride: int) -> int:
        """MAX_POOL_2D without padding."""
        _, in_h, in_w, in_c = self._tensors[x].shape
        quant, window = self._quant(x), _square("valid", in_h, in_w, kernel, stride)
        spec = MaxPool2dSpec(in_h=in_h, in_w=in_w, in_c=in_c, window=window, x_quant=quant, out_quant=quant)
        # The square of the largest of nine is about five times their mean square.
        return self._node(spec, (x,), (1, *spec.output_shape), quant, 5 * self._power[x])

    def average_pool(self, x: int) -> int:
        """AVERAGE_POOL_2D of the whole image: (1, 1, 1, C)."""
        _, in_h, in_w, in_c = self._tensors[x].shape
        quant, window = self._quant(x), Window2d(kernel_h=in_h, kernel_w=in_w)
        spec = AveragePool2dSpec(in_h=in_h, in_w=in_w, in_c=in_c, window=window, x_quant=quant, out_quant=quant)
        return self._node(spec, (x,), (1, *spec.output_shape), quant, self._power[x] / 2)

    def mean(self, x: int, *, keep_dims: bool) -> int:
        """MEAN of the whole image: (1, C), or (1, 1, 1, C) with its dimensions kept."""
        shape, power = self._tensors[x].shape, self._power[x] / 2
        out_quant = self._codes(REACH * math.sqrt(power), positive=True)
        spec = MeanSpec(x_shape=shape, axes=(1, 2), keep_dims=keep_dims, x_quant=self._quant(x), out_quant=out_quant)
        return self._node(spec, (x,), spec.output_shape, out_quant, power)

    def flatten(self, x: int) -> int:
        """RESHAPE to (1, elements)."""
        shape, quant = self._tensors[x].shape, self._quant(x)
        flat = (1, math.prod(shape))
        spec = ReshapeSpec(x_shape=shape, out_shape=flat, dtype=quant.dtype)
        return self._node(spec, (x,), flat, quant, self._power[x])

    def classified(self, x: int) -> Graph:
        """SOFTMAX, and the network is finished."""
        shape = self._tensors[x].shape
        out_quant = Quant(1 / 32768, 0, dtype=np.int16) if self._int16 else Quant(1 / 256, -128)
        spec = SoftmaxSpec(depth=shape[-1], x_quant=self._quant(x), out_quant=out_quant)
        out = self._node(spec, (x,), shape, out_quant, 1.0)
        return Graph(self._description, tuple(self._tensors), tuple(self._nodes), (self.image,), (out,))

    def _quant(self, x: int) -> Quant:
        quant = self._tensors[x].quant
        assert quant is not None
        return quant

    def _scales(
        self, x: int, taps: int, out_c: int, activation: str | None, *, axis: int
    ) -> tuple[Quant, Quant, float]:
        """Quantization of weights and output such that sums have the deviation SPREAD; the output's power."""
        scale = SPREAD / (W_SPREAD * math.sqrt(taps * self._power[x]))
        # Channels differ, as trained ones do.
        w_quant = Quant(scale * self._rng.uniform(0.7, 1.3, out_c), 0, axis)
        return w_quant, *self._activated(activation, SPREAD**2)

    def _activated(self, activation: str | None, power: float) -> tuple[Quant, float]:
        """The quantization of sums of this power after their activation, and what is left of the power."""
        reach = REACH * math.sqrt(power)
        if activation is None:
            return self._codes(reach, positive=False), power
        return self._codes(min(reach, 6.0) if activation == "relu6" else reach, positive=True), power / 2

    def _codes(self, reach: float, *, positive: bool) -> Quant:
        """The quantization of 0 to reach, or of -reach to reach."""
        if self._int16:
            return Quant(reach / 32767, 0, dtype=np.int16)
        return Quant(reach / 255, -128) if positive else Quant(2 * reach / 255, 0)

    def _weighted(self, spec: Any, x: int, power: float) -> int:
        """A node with random weights, normal as trained ones are, and biases of a part of the sums' spread."""
        codes = np.rint(W_SPREAD * self._rng.standard_normal(spec.weights_shape, np.float32))
        weights = np.clip(codes, -127, 127).astype(np.int8)
        b_scales = spec.x_quant.scalar_scale() * spec.w_quant.scales.astype(np.float64)
        bias = np.rint(self._rng.normal(0, SPREAD / 4, spec.out_c) / b_scales).astype(self._bias_dtype)
        shape = (1, *spec.output_shape)
        name = f"{spec.op.lower()}_{len(self._nodes)}"
        w = self._tensor(f"{name}/weights", weights.shape, spec.w_quant, weights)
        b = self._tensor(f"{name}/bias", bias.shape, Quant(b_scales, 0, 0, self._bias_dtype), bias)
        return self._node(spec, (x, w, b), shape, spec.out_quant, power)

    def _node(self, spec: Spec, inputs: tuple[int, ...], shape: Shape, quant: Quant, power: float) -> int:
        out = self._tensor(f"{spec.op.lower()}_{len(self._nodes)}", shape, quant, power=power)
        if getattr(spec, "activation", None):
            self._positive.add(out)
        self._nodes.append(Node(len(self._nodes), spec, inputs, (out,)))
        return out

    def _tensor(
        self, name: str, shape: Shape, quant: Quant, data: npt.NDArray[Any] | None = None, power: float | None = None
    ) -> int:
        number = len(self._tensors)
        if data is not None:
            data.flags.writeable = False
        if power is not None:
            self._power[number] = power
        signature = (-1, *shape[1:]) if data is None else shape
        self._tensors.append(Tensor(number, name, shape, signature, quant.dtype, quant, data))
        return number


def _square(padding: str, in_h: int, in_w: int, kernel: int, stride: int) -> Window2d:
    return Window2d.padded(padding, in_h, in_w, kernel_h=kernel, kernel_w=kernel, stride_h=stride, stride_w=stride)


# ------------------------------------------------------------------------------------------------ networks


def resnet50(resolution: int = 224, width: float = 1.0, *, int16: bool = False) -> Graph:
    net = Builder("resnet50 v1.5", resolution, int16)
    x = net.conv(net.pad(net.image, 3), int(64 * width), 7, 2, "relu", padding="valid")
    x = net.max_pool(net.pad(x, 1), 3, 2)
    for blocks, channels, first_stride in ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2)):
        narrow = int(channels * width)
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            shortcut = net.conv(x, 4 * narrow, 1, stride) if block == 0 else x
            x = net.conv(x, narrow, 1, 1, "relu")
            x = net.conv(x, narrow, 3, stride, "relu")
            x = net.add(shortcut, net.conv(x, 4 * narrow, 1), "relu")
    return net.classified(net.dense(net.mean(x, keep_dims=False), 1000))


def mobilenet_v1(resolution: int = 224, width: float = 1.0, *, int16: bool = False) -> Graph:
    net = Builder("mobilenet_v1", resolution, int16)
    x = net.conv(net.image, int(32 * width), 3, 2, "relu6")
    for channels, stride in (
        *((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2)),
        *((512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1)),
    ):
        x = net.depthwise(x, 3, stride, "relu6")
        x = net.conv(x, int(channels * width), 1, 1, "relu6")
    return net.classified(net.flatten(net.conv(net.average_pool(x), 1001, 1)))


def mobilenet_v2(resolution: int = 224, width: float = 1.0, *, int16: bool = False) -> Graph:
    net = Builder("mobilenet_v2", resolution, int16)
    x = net.conv(net.image, rounded(32 * width), 3, 2, "relu6")
    # expansion, channels, blocks, stride, kernel
    stages = (
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 32, 3, 2, 3),
        (6, 64, 4, 2, 3),
        (6, 96, 3, 1, 3),
        (6, 160, 3, 2, 3),
        (6, 320, 1, 1, 3),
    )
    x = net.conv(inverted_residuals(net, x, rounded(32 * width), stages, width), 1280, 1, 1, "relu6")
    return net.classified(net.flatten(net.conv(net.mean(x, keep_dims=True), 1001, 1)))


def efficientnet_lite0(resolution: int = 224, width: float = 1.0, *, int16: bool = False) -> Graph:
    net = Builder("efficientnet_lite0", resolution, int16)
    # The stem and the head are the same for every width of the Lite family.
    x = net.conv(net.image, 32, 3, 2, "relu6")
    stages = (
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 40, 2, 2, 5),
        (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    )
    x = net.conv(inverted_residuals(net, x, 32, stages, width), 1280, 1, 1, "relu6")
    return net.classified(net.dense(net.flatten(net.average_pool(x)), 1000))


def inverted_residuals(
    net: Builder, x: int, in_c: int, stages: tuple[tuple[int, int, int, int, int], ...], width: float
) -> int:
    """Bottlenecks: expand by 1x1, depthwise, project by 1x1 without an activation, add where shapes are equal.

    Args:
        stages: (expansion, channels, blocks, stride of the first block, kernel) of each.
    """
    for expansion, channels, blocks, first_stride, kernel in stages:
        out_c = rounded(channels * width)
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            hidden = net.conv(x, expansion * in_c, 1, 1, "relu6") if expansion > 1 else x
            projected = net.conv(net.depthwise(hidden, kernel, stride, "relu6"), out_c, 1)
            x = net.add(x, projected) if stride == 1 and in_c == out_c else projected
            in_c = out_c
    return x


def rounded(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of the divisor, but at least nine tenths of the channels (MobileNetV2's make_divisible)."""
    nearest = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return nearest + divisor if nearest < 0.9 * channels else nearest


NETWORKS: Mapping[str, Callable[..., Graph]] = MappingProxyType(
    {
        "resnet50": resnet50,
        "mobilenet_v1": mobilenet_v1,
        "mobilenet_v2": mobilenet_v2,
        "efficientnet_lite0": efficientnet_lite0,
        "resnet50_int16x8": functools.partial(resnet50, int16=True),
        "mobilenet_v2_int16x8": functools.partial(mobilenet_v2, int16=True),
    }
)
"""By name; each takes the image's resolution and the width multiplier."""


def parameters(graph: Graph) -> int:
    """Weights and biases of a network."""
    return sum(tensor.data.size for tensor in graph.tensors if tensor.data is not None)
