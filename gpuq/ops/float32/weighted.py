"""Layers with float32 weights, and products of two float32 tensors.

Sums run term by term in the reference kernels' order, each step rounded to float32. Rule float32_blas leaves the
order of CONV_2D and BATCH_MATMUL to BLAS, as the optimized kernels leave it to theirs. With K terms of absolute sum s,
any two orders lie within 2 * K * s * 2^-24 of each other.

Sources: LiteRT f67457790, tflite/kernels/internal/reference/{conv,depthwiseconv_float,fully_connected,transpose_conv,
batch_matmul}.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.numerics import Rounding, Rule
from gpuq.ops.batch_matmul import BatchMatmulShapes
from gpuq.ops.float32.activation import check_activation, clamp
from gpuq.ops.spec import FLOAT32, Shape, Spec, run_shape
from gpuq.ops.transpose_conv import transposed_taps
from gpuq.ops.window import Window2d

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class FloatConv2dSpec(Spec):
    """A float32 convolution; see Conv2dSpec for the geometry."""

    op: ClassVar[str] = "CONV_2D"
    has_weights: ClassVar[bool] = True

    in_h: int
    in_w: int
    in_c: int
    out_c: int
    window: Window2d
    groups: int = 1
    activation: str | None = None

    def __post_init__(self) -> None:
        self.require_positive(in_h=self.in_h, in_w=self.in_w, in_c=self.in_c, out_c=self.out_c, groups=self.groups)
        self.require(
            self.in_c % self.groups == 0 and self.out_c % self.groups == 0,
            f"groups={self.groups} must divide C={self.in_c} and O={self.out_c}",
        )
        check_activation(self, self.activation)
        out_h, out_w, _ = self.output_shape
        self.require(
            out_h >= 1 and out_w >= 1,
            f"window {self.window.kernel_h}x{self.window.kernel_w} (dilated) does not fit into {self.in_h}x{self.in_w}",
        )

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return FLOAT32

    @property
    def output_shape(self) -> Shape:
        return (*self.window.output_hw(self.in_h, self.in_w), self.out_c)

    @property
    def weights_shape(self) -> Shape:
        """OHWI, I = in_c / groups."""
        return (self.out_c, self.window.kernel_h, self.window.kernel_w, self.in_c // self.groups)

    @property
    def macs(self) -> int:
        out_h, out_w, out_c = self.output_shape
        return out_h * out_w * out_c * self.window.taps * (self.in_c // self.groups)


@dataclass(frozen=True, kw_only=True)
class FloatTransposeConvSpec(Spec):
    """A float32 transposed convolution; see TransposeConvSpec for the geometry."""

    op: ClassVar[str] = "TRANSPOSE_CONV"
    has_weights: ClassVar[bool] = True

    in_h: int
    in_w: int
    in_c: int
    out_h: int
    out_w: int
    out_c: int
    window: Window2d
    activation: str | None = None

    def __post_init__(self) -> None:
        self.require_positive(in_h=self.in_h, in_w=self.in_w, in_c=self.in_c, out_c=self.out_c)
        self.require_positive(out_h=self.out_h, out_w=self.out_w)
        check_activation(self, self.activation)

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return FLOAT32

    @property
    def output_shape(self) -> Shape:
        return (self.out_h, self.out_w, self.out_c)

    @property
    def weights_shape(self) -> Shape:
        """OHWI."""
        return (self.out_c, self.window.kernel_h, self.window.kernel_w, self.in_c)

    @property
    def macs(self) -> int:
        return self.in_h * self.in_w * self.in_c * self.out_c * self.window.taps


@dataclass(frozen=True, kw_only=True)
class FloatBatchMatmulSpec(BatchMatmulShapes):
    """A product of two float32 tensors; see BatchMatmulShapes."""

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return FLOAT32


@dataclass(frozen=True, kw_only=True)
class FloatDepthwiseConv2dSpec(Spec):
    """A float32 depthwise convolution; see DepthwiseConv2dSpec for the geometry."""

    op: ClassVar[str] = "DEPTHWISE_CONV_2D"
    has_weights: ClassVar[bool] = True

    in_h: int
    in_w: int
    in_c: int
    multiplier: int = 1
    window: Window2d
    activation: str | None = None

    def __post_init__(self) -> None:
        self.require_positive(in_h=self.in_h, in_w=self.in_w, in_c=self.in_c, multiplier=self.multiplier)
        check_activation(self, self.activation)
        out_h, out_w, _ = self.output_shape
        self.require(
            out_h >= 1 and out_w >= 1,
            f"window {self.window.kernel_h}x{self.window.kernel_w} (dilated) does not fit into {self.in_h}x{self.in_w}",
        )

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return FLOAT32

    @property
    def output_shape(self) -> Shape:
        return (*self.window.output_hw(self.in_h, self.in_w), self.in_c * self.multiplier)

    @property
    def weights_shape(self) -> Shape:
        """1HWO."""
        return (1, self.window.kernel_h, self.window.kernel_w, self.in_c * self.multiplier)

    @property
    def macs(self) -> int:
        out_h, out_w, out_c = self.output_shape
        return out_h * out_w * out_c * self.window.taps


@dataclass(frozen=True, kw_only=True)
class FloatFullyConnectedSpec(Spec):
    """A float32 dense layer: rows of in_c elements to rows of out_c."""

    op: ClassVar[str] = "FULLY_CONNECTED"
    has_weights: ClassVar[bool] = True

    in_c: int
    out_c: int
    activation: str | None = None

    def __post_init__(self) -> None:
        self.require_positive(in_c=self.in_c, out_c=self.out_c)
        check_activation(self, self.activation)

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return FLOAT32

    @property
    def output_shape(self) -> Shape:
        return (self.out_c,)

    @property
    def weights_shape(self) -> Shape:
        """(O, I)."""
        return (self.out_c, self.in_c)

    @property
    def macs(self) -> int:
        return self.in_c * self.out_c


def check_weights(spec: Any, weights: npt.NDArray[Any], bias: npt.NDArray[Any] | None) -> None:
    """Shapes and dtypes of the constants."""
    shape, out_c = spec.weights_shape, spec.output_shape[-1]
    spec.require_dtype("weights", weights.dtype, FLOAT32)
    spec.require(weights.shape == shape, f"weights of shape {weights.shape} must have shape {shape}")
    if bias is not None:
        spec.require_dtype("bias", bias.dtype, FLOAT32)
        spec.require(bias.size == out_c, f"bias of shape {bias.shape} must have O={out_c} elements")


def product(a: FloatArray, b: FloatArray) -> FloatArray:
    """a @ b through BLAS, whose kernels may set floating-point flags for lanes that nobody reads (numpy#24067)."""
    with np.errstate(all="ignore"):
        return a @ b


def conv2d(
    spec: FloatConv2dSpec, rule: Rule, x: FloatArray, weights: FloatArray, bias: FloatArray | None = None
) -> FloatArray:
    """(..., H, W, C) to (N, OH, OW, O)."""
    check_weights(spec, weights, bias)
    if rule.rounding is not Rounding.FLOAT32_BLAS:
        return _conv2d_in_order(spec, x, weights, bias)
    out_h, out_w, out_c = spec.output_shape
    padded = spec.window.pad(run_shape(x, (spec.in_h, spec.in_w, spec.in_c)), 0)
    group_in, group_out = spec.in_c // spec.groups, out_c // spec.groups
    rows = padded.shape[0] * out_h * out_w
    parts = []
    for group in range(spec.groups):
        ins = padded[..., group * group_in : (group + 1) * group_in]
        if spec.window.is_pointwise:
            taps = ins.reshape(rows, group_in)
        else:
            taps = gathered(spec.window, ins, out_h, out_w).reshape(rows, spec.window.taps * group_in)
        kernel = weights[group * group_out : (group + 1) * group_out].reshape(group_out, -1)
        parts.append(product(taps, kernel.T))
    total = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
    if bias is not None:
        total += bias.reshape(-1)
    return clamp(spec.activation, total).reshape(-1, out_h, out_w, out_c)


def gathered(window: Window2d, padded: npt.NDArray[Any], out_h: int, out_w: int) -> npt.NDArray[Any]:
    """(N, OH, OW, KH, KW, C): what each output pixel's window sees, a copy."""
    n, _, _, channels = padded.shape
    image, row, column, item = padded.strides
    seen = np.lib.stride_tricks.as_strided(
        padded,
        (n, out_h, out_w, window.kernel_h, window.kernel_w, channels),
        (
            image,
            row * window.stride_h,
            column * window.stride_w,
            row * window.dilation_h,
            column * window.dilation_w,
            item,
        ),
        writeable=False,
    )
    return np.ascontiguousarray(seen)


def _conv2d_in_order(spec: FloatConv2dSpec, x: FloatArray, weights: FloatArray, bias: FloatArray | None) -> FloatArray:
    """As the reference kernel: one product after the other, rows, columns and channels of the window in turn."""
    out_h, out_w, out_c = spec.output_shape
    padded = spec.window.pad(run_shape(x, (spec.in_h, spec.in_w, spec.in_c)), 0)
    total = np.zeros((padded.shape[0], out_h, out_w, out_c), np.float32)
    group_in, group_out = spec.in_c // spec.groups, out_c // spec.groups
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for kh, kw, pixels in spec.window.views(padded, out_h, out_w):
            for channel in range(group_in):
                seen = np.repeat(pixels[..., channel::group_in], group_out, axis=-1)
                total += seen * weights[:, kh, kw, channel]
    return clamp(spec.activation, total if bias is None else total + bias.reshape(-1))


def transpose_conv(
    spec: FloatTransposeConvSpec, rule: Rule, x: FloatArray, weights: FloatArray, bias: FloatArray | None = None
) -> FloatArray:
    """(..., H, W, C) to (N, OH, OW, O): an output pixel's sum goes over input pixels in memory's order."""
    check_weights(spec, weights, bias)
    images = run_shape(x, (spec.in_h, spec.in_w, spec.in_c))
    total = np.zeros((images.shape[0], *spec.output_shape), np.float32)
    taps = list(transposed_taps(spec.window, (spec.in_h, spec.in_w), (spec.out_h, spec.out_w)))
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        # The first input pixel meets an output pixel with the window's last tap.
        for kh, kw, outs, ins in reversed(taps):
            seen, kernel = images[:, ins[0], ins[1]], weights[:, kh, kw, :]
            for channel in range(spec.in_c):
                total[:, outs[0], outs[1]] += seen[..., channel, None] * kernel[:, channel]
    return clamp(spec.activation, total if bias is None else total + bias.reshape(-1))


def batch_matmul(spec: FloatBatchMatmulSpec, rule: Rule, a: FloatArray, b: FloatArray) -> FloatArray:
    """(N, *a_shape) and (N, *b_shape), either N may be 1: (N, *output_shape)."""
    a, b = spec.operands(a, b)
    if rule.rounding is Rounding.FLOAT32_BLAS:
        return product(a, b)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        total = a[..., :, :1] * b[..., :1, :]
        for k in range(1, a.shape[-1]):
            total = total + a[..., :, k : k + 1] * b[..., k : k + 1, :]
    return total


def depthwise_conv2d(
    spec: FloatDepthwiseConv2dSpec, rule: Rule, x: FloatArray, weights: FloatArray, bias: FloatArray | None = None
) -> FloatArray:
    """(..., H, W, C) to (N, OH, OW, O)."""
    check_weights(spec, weights, bias)
    padded = spec.window.pad(run_shape(x, (spec.in_h, spec.in_w, spec.in_c)), 0)
    out_h, out_w, out_c = spec.output_shape
    total = np.zeros((padded.shape[0], out_h, out_w, out_c), np.float32)
    if bias is not None and rule.rounding is not Rounding.FLOAT32:
        total += bias.reshape(-1)
        bias = None
    products = np.empty_like(total)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for kh, kw, pixels in spec.window.views(padded, out_h, out_w):
            seen = pixels if spec.multiplier == 1 else np.repeat(pixels, spec.multiplier, axis=-1)
            tap = weights[0, kh, kw, :]
            if rule.rounding is Rounding.FLOAT32_FUSED:
                # float64 holds the product exactly: all but one in 2^29 fused sums round as the hardware's do.
                total = (seen.astype(np.float64) * tap + total).astype(np.float32)
            else:
                np.multiply(seen, tap, out=products)
                total += products
        return clamp(spec.activation, total if bias is None else total + bias.reshape(-1))


def fully_connected(
    spec: FloatFullyConnectedSpec, rule: Rule, x: FloatArray, weights: FloatArray, bias: FloatArray | None = None
) -> FloatArray:
    """Rows of I to (rows, O)."""
    check_weights(spec, weights, bias)
    rows = run_shape(x, (spec.in_c,))
    total = np.zeros((rows.shape[0], spec.out_c), np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for tap in range(spec.in_c):
            total += rows[:, tap, None] * weights[:, tap]
        return clamp(spec.activation, total if bias is None else total + bias.reshape(-1))
