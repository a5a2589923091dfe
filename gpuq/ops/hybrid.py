"""CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED of dynamic range ("hybrid"): float32 in and out, int8 weights.

    y[r,o] = clamp(acc * scale_r * w_scale_o + b[o]),  acc = sum (q[r,i] - zp_r) * w[o,i]  exact, wrapping to int32

with q of row r by `dynamic_range`. The order of the float32 products is the rule's:

    HYBRID          acc * (w_scale * scale) + b
    HYBRID_STEPS    (acc * w_scale) * scale + b
    HYBRID_BLOCK4   as HYBRID_STEPS in whole blocks of 4 channels, (acc * scale) * w_scale + b in the rest
    QD8             fma(acc * scale, w_scale, b)

Layouts as those of the quantized operators; taps outside the image are skipped.
Sources: LiteRT f67457790, tflite/kernels/{conv,depthwise_conv,fully_connected}.cc, internal/reference/conv.h
(HybridConvPerChannel), internal/optimized/optimized_ops.h (HybridConv, HybridConvPerChannel),
internal/reference/integer_ops/depthwise_conv.h, internal/optimized/integer_ops/depthwise_conv_hybrid.h,
internal/optimized/sse_tensor_utils.cc; XNNPACK 75db3c093,
src/qd8-f32-qc8w-gemm (avx512vnni).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Rounding, Rule
from gpuq.ops.dynamic_range import FloatArray, QuantizedRows, quantize_asymmetric, quantize_qd8, quantize_symmetric
from gpuq.ops.float32.activation import check_activation, clamp
from gpuq.ops.spec import FLOAT32, INT8, Shape, Spec, run_shape
from gpuq.ops.window import Window2d
from gpuq.quant import Quant


@dataclass(frozen=True, kw_only=True)
class HybridSpec(Spec):
    """What the three operators share.

    Args:
        w_quant: int8, zero point 0, per tensor or one scale per output channel.
        activation: None, "relu", "relu6" or "relu_n1_to_1", fused.
    """

    has_weights: ClassVar[bool] = True

    w_quant: Quant
    activation: str | None = None

    def check_weights_quant(self, out_c: int, axis: int) -> None:
        """The rules of the weights' quantization and of the activation."""
        quant = self.w_quant
        self.require_dtype("weights", quant.dtype, INT8)
        self.require(not quant.zero_points.any(), "int8 weights must have zero point 0")
        if quant.is_per_channel:
            self.require(
                quant.axis == axis and quant.scales.size == out_c,
                f"{quant.scales.size} weight scales along axis {quant.axis} must be O={out_c} along axis {axis}",
            )
        check_activation(self, self.activation)

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return FLOAT32

    @property
    def asymmetric(self) -> bool:
        """LiteRT quantizes rows with a zero point."""
        return True


@dataclass(frozen=True, kw_only=True)
class HybridConv2dSpec(HybridSpec):
    """A 2-D convolution of dynamic range; see Conv2dSpec for the geometry, HybridSpec for the rest."""

    op: ClassVar[str] = "CONV_2D"

    in_h: int
    in_w: int
    in_c: int
    out_c: int
    window: Window2d
    groups: int = 1

    def __post_init__(self) -> None:
        self.require_positive(in_h=self.in_h, in_w=self.in_w, in_c=self.in_c, out_c=self.out_c, groups=self.groups)
        self.require(self.in_c % self.groups == 0, f"input C={self.in_c} must be a multiple of groups={self.groups}")
        self.require(self.out_c % self.groups == 0, f"output O={self.out_c} must be a multiple of groups={self.groups}")
        self.check_weights_quant(self.out_c, axis=0)
        _check_window(self, self.window, self.in_h, self.in_w)

    @property
    def asymmetric(self) -> bool:
        """One scale for all channels, and no groups: symmetric."""
        return self.groups > 1 or bool((self.w_quant.scales != self.w_quant.scales[0]).any())

    @property
    def output_shape(self) -> Shape:
        return (*self.window.output_hw(self.in_h, self.in_w), self.out_c)

    @property
    def weights_shape(self) -> Shape:
        """OHWI."""
        return (self.out_c, self.window.kernel_h, self.window.kernel_w, self.in_c // self.groups)

    @property
    def macs(self) -> int:
        out_h, out_w, out_c = self.output_shape
        return out_h * out_w * out_c * self.window.taps * self.in_c // self.groups


@dataclass(frozen=True, kw_only=True)
class HybridDepthwiseConv2dSpec(HybridSpec):
    """A depthwise convolution of dynamic range; see DepthwiseConv2dSpec and HybridSpec."""

    op: ClassVar[str] = "DEPTHWISE_CONV_2D"

    in_h: int
    in_w: int
    in_c: int
    multiplier: int = 1
    window: Window2d

    def __post_init__(self) -> None:
        self.require_positive(in_h=self.in_h, in_w=self.in_w, in_c=self.in_c, multiplier=self.multiplier)
        self.check_weights_quant(self.in_c * self.multiplier, axis=3)
        # The runtimes read one scale per output channel, whatever the file has.
        self.require(
            self.w_quant.is_per_channel or self.in_c * self.multiplier == 1,
            "weights with one scale for all channels are not run by LiteRT's dynamic range kernels",
        )
        _check_window(self, self.window, self.in_h, self.in_w)

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
class HybridFullyConnectedSpec(HybridSpec):
    """A dense layer of dynamic range; see HybridSpec.

    Args:
        in_c, out_c: elements of an input row and of an output row.
        asymmetric_inputs: the file's asymmetric_quantize_inputs, which XNNPACK ignores.
    """

    op: ClassVar[str] = "FULLY_CONNECTED"

    in_c: int
    out_c: int
    asymmetric_inputs: bool = False

    def __post_init__(self) -> None:
        self.require_positive(in_c=self.in_c, out_c=self.out_c)
        self.check_weights_quant(self.out_c, axis=0)

    @property
    def asymmetric(self) -> bool:
        return self.asymmetric_inputs

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


def _check_window(spec: Spec, window: Window2d, in_h: int, in_w: int) -> None:
    out_h, out_w = window.output_hw(in_h, in_w)
    spec.require(
        out_h >= 1 and out_w >= 1,
        f"window {window.kernel_h}x{window.kernel_w} (dilated) does not fit into {in_h}x{in_w}",
    )


def quantized_rows(spec: HybridSpec, rule: Rule, rows: FloatArray) -> QuantizedRows:
    """Rows quantized as the rule and the Spec say."""
    if rule.rounding is Rounding.QD8:
        return quantize_qd8(rows)
    return quantize_asymmetric(rows) if spec.asymmetric else quantize_symmetric(rows)


def finish(
    spec: HybridSpec, rule: Rule, acc: npt.NDArray[Any], scales: FloatArray, bias: FloatArray | None
) -> FloatArray:
    """Sums (R, ..., O) times both scales, bias, clamp.

    Args:
        acc: exact integers, of any dtype.
        scales: one a row, shaped to broadcast over acc.
    """
    sums = numerics.wrap_int32(acc).astype(np.float32)
    w_scales = spec.w_quant.scales
    added = np.zeros(1, np.float32) if bias is None else bias.reshape(-1)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if rule.rounding is Rounding.QD8:
            # float64 holds the product exactly: all but one in 2^29 fused sums round as the hardware's do.
            product = (sums * scales).astype(np.float64) * w_scales.astype(np.float64)
            return clamp(spec.activation, (product + added.astype(np.float64)).astype(np.float32))
        if rule.rounding is Rounding.HYBRID_STEPS:
            return clamp(spec.activation, sums * w_scales * scales + added)
        if rule.rounding is Rounding.HYBRID_BLOCK4:
            whole = np.arange(acc.shape[-1]) < acc.shape[-1] // 4 * 4
            return clamp(spec.activation, np.where(whole, sums * w_scales * scales, sums * scales * w_scales) + added)
        return clamp(spec.activation, sums * (w_scales * scales) + added)


def centred_images(
    spec: HybridConv2dSpec | HybridDepthwiseConv2dSpec, rule: Rule, x: FloatArray
) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """(q - zero point of each row, padded by 0; the rows' scales).

    A row is an image. XNNPACK runs a pointwise convolution as a dense layer, and there a row is a pixel.
    """
    images = run_shape(x, (spec.in_h, spec.in_w, spec.in_c))
    by_pixel = rule.rounding is Rounding.QD8 and spec.window.is_pointwise
    rows = quantized_rows(spec, rule, images.reshape(-1, spec.in_c) if by_pixel else images.reshape(len(images), -1))
    centred = rows.codes - rows.zero_points[:, None]
    scales = rows.scales.reshape(*images.shape[:3], 1) if by_pixel else rows.scales.reshape(-1, 1, 1, 1)
    return spec.window.pad(centred.reshape(images.shape), 0), scales


def check_weights(spec: Spec, weights: npt.NDArray[Any], bias: npt.NDArray[Any] | None, shape: Shape) -> None:
    """Shapes and dtypes of the constants."""
    spec.require(weights.shape == shape, f"weights of shape {weights.shape} must have shape {shape}")
    if bias is not None:
        spec.require_dtype("bias", bias.dtype, FLOAT32)
        out_c = spec.output_shape[-1]
        spec.require(bias.size == out_c, f"bias of shape {bias.shape} must have O={out_c} elements")


def conv2d(
    spec: HybridConv2dSpec, rule: Rule, x: FloatArray, weights: npt.NDArray[np.int8], bias: FloatArray | None = None
) -> FloatArray:
    """(..., H, W, C) to (N, OH, OW, O)."""
    check_weights(spec, weights, bias, spec.weights_shape)
    padded, scales = centred_images(spec, rule, x)
    out_h, out_w, _ = spec.output_shape
    kernel = weights.astype(np.int64)
    acc = np.zeros((padded.shape[0], out_h, out_w, spec.out_c), np.int64)
    group_in, group_out = spec.in_c // spec.groups, spec.out_c // spec.groups
    for kh, kw, pixels in spec.window.views(padded, out_h, out_w):
        for group in range(spec.groups):
            ins = slice(group * group_in, (group + 1) * group_in)
            outs = slice(group * group_out, (group + 1) * group_out)
            acc[..., outs] += pixels[..., ins] @ kernel[outs, kh, kw, :].T
    return finish(spec, rule, acc, scales, bias)


def depthwise_conv2d(
    spec: HybridDepthwiseConv2dSpec,
    rule: Rule,
    x: FloatArray,
    weights: npt.NDArray[np.int8],
    bias: FloatArray | None = None,
) -> FloatArray:
    """(..., H, W, C) to (N, OH, OW, O)."""
    check_weights(spec, weights, bias, spec.weights_shape)
    padded, scales = centred_images(spec, rule, x)
    out_h, out_w, out_c = spec.output_shape
    acc = np.zeros((padded.shape[0], out_h, out_w, out_c), np.int64)
    for kh, kw, pixels in spec.window.views(padded, out_h, out_w):
        acc += np.repeat(pixels, spec.multiplier, axis=-1) * weights[0, kh, kw, :].astype(np.int64)
    return finish(spec, rule, acc, scales, bias)


def fully_connected(
    spec: HybridFullyConnectedSpec,
    rule: Rule,
    x: FloatArray,
    weights: npt.NDArray[np.int8],
    bias: FloatArray | None = None,
) -> FloatArray:
    """Rows of I to (rows, O)."""
    check_weights(spec, weights, bias, spec.weights_shape)
    rows = quantized_rows(spec, rule, run_shape(x, (spec.in_c,)))
    centred = rows.codes - rows.zero_points[:, None]
    return finish(spec, rule, centred @ weights.T.astype(np.int64), rows.scales[:, None], bias)
