"""Operators on float32: the kernels of float networks, a vehicle for calibration, bit for bit the reference kernels.

| file in kernels_cuda/ | operators                                             |
|-----------------------|-------------------------------------------------------|
| conv2d_float32.cu     | CONV_2D, FULLY_CONNECTED, TRANSPOSE_CONV (by phases)  |
| window_float32.cu     | DEPTHWISE_CONV_2D, AVERAGE_POOL_2D, MAX_POOL_2D       |
| rows_float32.cu       | SOFTMAX, L2_NORMALIZATION, LOGISTIC                   |

The others are in cuda/numbers.py, reduce_numbers.py, batch_matmul.py, arg_max.py and resize.py. Where a runtime leaves
the order of sums open (FLOAT32_BLAS), it is the reference kernels' here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cuda.kernel import Kernel, Launch, Pointer, Slot, int32s
from gpuq.cuda.layer import Contiguous, OnlyChoice, OnlyWayLayer
from gpuq.cuda.layout import ImageLayout
from gpuq.numerics import ACTIVATION_BOUNDS, Rounding, Rule
from gpuq.ops.float32.elementwise import FloatUnarySpec
from gpuq.ops.float32.pool_2d import FloatAveragePool2dSpec, FloatMaxPool2dSpec, FloatPool2dSpec
from gpuq.ops.float32.reduction import FloatL2NormalizationSpec
from gpuq.ops.float32.softmax import FloatSoftmaxSpec
from gpuq.ops.float32.weighted import (
    FloatConv2dSpec,
    FloatDepthwiseConv2dSpec,
    FloatFullyConnectedSpec,
    check_weights,
)
from gpuq.ops.spec import Shape, Spec
from gpuq.ops.window import Window2d

THREADS = 256
TILE = 64
"""Pixels and channels of a block of conv2d_float32.cu."""


def conv2d_kernel() -> Kernel:
    """conv2d_float32.cu; its head says what the arguments mean, here and below."""
    return Kernel("conv2d_float32", "conv2d_float32.cu", "conv2d_float32", (), (256, 1, 1))


def _of_kind(source: str, kind: str) -> Kernel:
    defines = (("KIND", f"KIND_{kind.upper()}"), ("THREADS", THREADS))
    return Kernel(f"{source}_{kind}", f"{source}.cu", source, defines, (THREADS, 1, 1))


def window_kernel(kind: str) -> Kernel:
    """window_float32.cu."""
    return _of_kind("window_float32", kind)


def rows_kernel(kind: str) -> Kernel:
    """rows_float32.cu."""
    return _of_kind("rows_float32", kind)


KERNELS = (
    conv2d_kernel(),
    *(window_kernel(kind) for kind in ("depthwise", "bias_first", "fused", "average", "max")),
    *(rows_kernel(kind) for kind in ("softmax", "l2", "logistic")),
)


class _FloatLayer(OnlyWayLayer):
    """What the layers below share: one kernel."""

    kernel: Kernel

    @property
    def name(self) -> str:
        return self.kernel.name


def _bounds(activation: str | None) -> tuple[np.float32, np.float32]:
    low, high = ACTIVATION_BOUNDS[activation]
    return np.float32(-math.inf if low is None else low), np.float32(math.inf if high is None else high)


def _blocks(spec: Spec, threads: int) -> tuple[int, int, int]:
    blocks = -(-threads // THREADS)
    if blocks >= 1 << 31:
        raise spec.fail(f"{threads} threads in one launch; use a smaller batch")
    return (blocks, 1, 1)


@dataclass(frozen=True, eq=False)
class FloatConv2dLayer(_FloatLayer):
    """A convolution, or a dense layer as the convolution of one pixel.

    Attributes:
        spec: the operator's.
        geometry: the convolution.
        weights: (O, K).
    """

    spec: FloatConv2dSpec | FloatFullyConnectedSpec
    kernel: Kernel
    geometry: FloatConv2dSpec
    weights: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32] | None

    @cached_property
    def constants(self) -> Mapping[str, npt.NDArray[Any]]:
        spec, window = self.geometry, self.geometry.window
        group_in = spec.in_c // spec.groups
        kh, kw, channel = np.indices((window.kernel_h, window.kernel_w, group_in)).reshape(3, -1)
        table = np.stack([kh * window.dilation_h, kw * window.dilation_w, channel, 0 * channel], axis=1)
        found = {"weights": self.weights, "k_table": table.astype(np.int32)}
        return found if self.bias is None else found | {"bias": self.bias}

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return ((self.geometry.in_h, self.geometry.in_w, self.geometry.in_c),)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return (*self.geometry.window.output_hw(self.geometry.in_h, self.geometry.in_w), self.geometry.out_c)

    def launches(self, choice: OnlyChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        (x,), y, spec, window = inputs, output, self.geometry, self.geometry.window
        out_h, out_w, out_c = self.y_shape
        pixels, group_out = x.images * out_h * out_w, out_c // spec.groups
        if pixels >= 1 << 31:
            raise spec.fail(f"{pixels} output pixels in one launch; the limit is 2^31 - 1, use a smaller batch")
        return [
            Launch(
                self.kernel,
                (-(-pixels // TILE), -(-group_out // TILE), spec.groups),
                (
                    x.slot("x"),
                    np.int64(x.image_pitch),
                    *int32s(x.row_pitch, x.pixel_pitch),
                    *(Slot("weights"), Slot("k_table"), Pointer(None) if self.bias is None else Slot("bias")),
                    y.slot("y"),
                    np.int64(y.image_pitch),
                    *int32s(y.row_pitch, y.pixel_pitch, pixels, spec.in_h, spec.in_w, spec.in_c // spec.groups),
                    *int32s(out_h, out_w, group_out, window.stride_h, window.stride_w),
                    *int32s(window.pad_top, window.pad_left, self.weights.shape[1]),
                    *_bounds(self.spec.activation),
                ),
            )
        ]


@dataclass(frozen=True, eq=False)
class FloatWindowLayer(_FloatLayer):
    """A depthwise convolution or a pool.

    Attributes:
        weights: (taps, O) of the convolution, None of a pool.
    """

    spec: FloatDepthwiseConv2dSpec | FloatPool2dSpec
    kernel: Kernel
    weights: npt.NDArray[np.float32] | None = None
    bias: npt.NDArray[np.float32] | None = None

    @property
    def constants(self) -> Mapping[str, npt.NDArray[Any]]:
        given = {"weights": self.weights, "bias": self.bias}
        return {name: array for name, array in given.items() if array is not None}

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return ((self.spec.in_h, self.spec.in_w, self.spec.in_c),)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        out_h, out_w, out_c = self.spec.output_shape
        return out_h, out_w, out_c

    def launches(self, choice: OnlyChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        (x,), y, spec = inputs, output, self.spec
        window: Window2d = spec.window
        out_h, out_w, out_c = self.y_shape
        elements = x.images * out_h * out_w * out_c
        slots = (Slot(name) if name in self.constants else Pointer(None) for name in ("weights", "bias"))
        return [
            Launch(
                self.kernel,
                _blocks(spec, elements),
                (
                    x.slot("x"),
                    np.int64(x.image_pitch),
                    *int32s(x.row_pitch, x.pixel_pitch),
                    *slots,
                    y.slot("y"),
                    np.int64(y.image_pitch),
                    *int32s(y.row_pitch, y.pixel_pitch),
                    np.int64(elements),
                    *int32s(spec.in_h, spec.in_w, out_c // spec.in_c, out_h, out_w, out_c),
                    *int32s(window.kernel_h, window.kernel_w, window.stride_h, window.stride_w),
                    *int32s(window.dilation_h, window.dilation_w, window.pad_top, window.pad_left),
                    *_bounds(spec.activation),
                ),
            )
        ]


@dataclass(frozen=True, eq=False)
class FloatRowsLayer(Contiguous, _FloatLayer):
    """SOFTMAX, L2_NORMALIZATION or LOGISTIC.

    Attributes:
        shape: of one run.
        depth: elements of a row; 1 of LOGISTIC.
        parameter: beta of SOFTMAX.
    """

    spec: Spec
    kernel: Kernel
    shape: Shape
    depth: int
    parameter: float = 0.0

    @property
    def constants(self) -> Mapping[str, npt.NDArray[Any]]:
        return {"parts": np.exp2(np.arange(32) / 32)}

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return (self.y_shape,)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return 1, 1, math.prod(self.shape)

    def launches(self, choice: OnlyChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        (x,) = inputs
        rows = x.images * math.prod(self.shape) // self.depth
        return [
            Launch(
                self.kernel,
                _blocks(self.spec, rows),
                (
                    *(x.slot("x"), Slot("parts"), output.slot("y"), np.int64(rows)),
                    *(np.int32(self.depth), np.float32(self.parameter)),
                ),
            )
        ]


FloatLayer = FloatConv2dLayer | FloatWindowLayer | FloatRowsLayer

_DEPTHWISE_KINDS = {
    Rounding.FLOAT32: "depthwise",
    Rounding.FLOAT32_BIAS: "bias_first",
    Rounding.FLOAT32_FUSED: "fused",
}


def pack(spec: Spec, rule: Rule, constants: Sequence[npt.NDArray[Any] | None]) -> FloatLayer | None:
    """The layer of an operator on float32; None if there is no kernel for it.

    Args:
        constants: one entry per operand; None of an activation.
    """
    if isinstance(spec, FloatConv2dSpec | FloatDepthwiseConv2dSpec | FloatFullyConnectedSpec):
        return _pack_weighted(spec, rule, constants)
    if any(each is not None for each in constants):
        return None
    if isinstance(spec, FloatPool2dSpec):
        kind = {FloatAveragePool2dSpec: "average", FloatMaxPool2dSpec: "max"}[type(spec)]
        return FloatWindowLayer(spec, window_kernel(kind))
    if isinstance(spec, FloatSoftmaxSpec):
        return FloatRowsLayer(spec, rows_kernel("softmax"), (spec.depth,), spec.depth, spec.beta)
    if isinstance(spec, FloatL2NormalizationSpec):
        return FloatRowsLayer(spec, rows_kernel("l2"), (spec.depth,), spec.depth)
    if isinstance(spec, FloatUnarySpec) and spec.op == "LOGISTIC":
        return FloatRowsLayer(spec, rows_kernel("logistic"), spec.shape, 1)
    return None


def _pack_weighted(
    spec: FloatConv2dSpec | FloatDepthwiseConv2dSpec | FloatFullyConnectedSpec,
    rule: Rule,
    constants: Sequence[npt.NDArray[Any] | None],
) -> FloatLayer:
    weights, bias = constants[1], constants[2] if len(constants) > 2 else None
    if weights is None:
        raise spec.fail("weights must be constant")
    check_weights(spec, weights, bias)
    bias = None if bias is None else np.ascontiguousarray(bias.reshape(-1))
    if isinstance(spec, FloatDepthwiseConv2dSpec):
        taps = np.ascontiguousarray(weights.reshape(spec.window.taps, -1))
        return FloatWindowLayer(spec, window_kernel(_DEPTHWISE_KINDS[rule.rounding]), taps, bias)
    geometry = spec
    if isinstance(geometry, FloatFullyConnectedSpec):
        window = Window2d(kernel_h=1, kernel_w=1)
        geometry = FloatConv2dSpec(in_h=1, in_w=1, in_c=geometry.in_c, out_c=geometry.out_c, window=window)
    return conv2d_layer(spec, geometry, weights, bias)


def conv2d_layer(
    spec: FloatConv2dSpec | FloatFullyConnectedSpec,
    geometry: FloatConv2dSpec,
    weights: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32] | None,
) -> FloatConv2dLayer:
    """A convolution; weights (O, ...) as OHWI, or (O, 0): then nothing is summed but the bias."""
    rows = np.ascontiguousarray(weights.reshape(geometry.out_c, -1 if weights.size else 0))
    return FloatConv2dLayer(spec, conv2d_kernel(), geometry, rows, bias)
