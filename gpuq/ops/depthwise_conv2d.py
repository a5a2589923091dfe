"""DEPTHWISE_CONV_2D: output channel oc = ic * multiplier + k sees input channel ic only.

Layouts: x NHWC, w 1HWO with O = C * multiplier, b (O,), y NHWC. Taps outside the image are skipped.
Sources: LiteRT tflite/kernels/internal/reference/{depthwiseconv_uint8.h,integer_ops/depthwise_conv.h}.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Rule
from gpuq.ops.conv2d import Conv2dSpec, check_convolution_quants, check_weights, finish
from gpuq.ops.spec import INT16, INT32, INT64, Shape, Spec, run_shape
from gpuq.ops.window import Window2d
from gpuq.quant import Quant


@dataclass(frozen=True, kw_only=True)
class DepthwiseConv2dSpec(Spec):
    """A quantized depthwise convolution.

    Args:
        in_h, in_w, in_c: input image and channels C.
        multiplier: output channels per input channel.
        window: kernel, strides, dilation, pads.
        x_quant, out_quant: per tensor, int8, uint8 or int16 (zero point 0), the same dtype.
        w_quant: int8 (zero point 0; per tensor or one scale per output channel, axis 3), or uint8 (per tensor) for
            uint8 activations.
        activation: None, "relu", "relu6" or "relu_n1_to_1", fused.
        weight_bits: 4 where the file packs two weights into a byte; they are codes of w_quant all the same.
        has_bias: LiteRT's optimized kernels cannot run without one; sums do not depend on it.
        bias_dtype: of the bias, and of the sums: int32, or int64 for int16 activations.
    """

    op: ClassVar[str] = "DEPTHWISE_CONV_2D"
    has_weights: ClassVar[bool] = True

    in_h: int
    in_w: int
    in_c: int
    multiplier: int = 1
    window: Window2d
    x_quant: Quant
    w_quant: Quant
    out_quant: Quant
    activation: str | None = None
    has_bias: bool = True
    weight_bits: int = 8
    bias_dtype: np.dtype[Any] = INT32

    def __post_init__(self) -> None:
        self.require_positive(in_h=self.in_h, in_w=self.in_w, in_c=self.in_c, multiplier=self.multiplier)
        check_convolution_quants(self, self.x_quant, self.w_quant, self.out_quant, self.out_c, axis=3)
        if self.x_quant.dtype == INT16:
            self.require_dtype("bias", self.bias_dtype, INT64)
        out_h, out_w, _ = self.output_shape
        self.require(
            out_h >= 1 and out_w >= 1,
            f"window {self.window.kernel_h}x{self.window.kernel_w} (dilated) does not fit into {self.in_h}x{self.in_w}",
        )
        numerics.activation_range(self.activation, self.out_quant)

    @property
    def out_c(self) -> int:
        """O = C * multiplier."""
        return self.in_c * self.multiplier

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.x_quant.dtype

    @property
    def output_shape(self) -> Shape:
        return (*self.window.output_hw(self.in_h, self.in_w), self.out_c)

    @property
    def weights_shape(self) -> Shape:
        """1HWO."""
        return (1, self.window.kernel_h, self.window.kernel_w, self.out_c)

    @property
    def macs(self) -> int:
        out_h, out_w, out_c = self.output_shape
        return out_h * out_w * out_c * self.window.taps


def one_channel_as_conv2d(spec: DepthwiseConv2dSpec) -> Conv2dSpec:
    """The CONV_2D that equals a depthwise convolution of one input channel; weights 1HWO become OHW1."""
    w_quant = spec.w_quant
    if w_quant.is_per_channel:
        w_quant = Quant(w_quant.scales, w_quant.zero_points, 0, w_quant.dtype)
    return Conv2dSpec(
        in_h=spec.in_h,
        in_w=spec.in_w,
        in_c=1,
        out_c=spec.out_c,
        window=spec.window,
        x_quant=spec.x_quant,
        w_quant=w_quant,
        out_quant=spec.out_quant,
        activation=spec.activation,
        bias_dtype=spec.bias_dtype,
    )


def reference(
    spec: DepthwiseConv2dSpec,
    rule: Rule,
    x: npt.NDArray[Any],
    weights: npt.NDArray[Any],
    bias: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """Exact output, the plain way: int64 sums tap by tap.

    Args:
        x: (..., H, W, C) codes.
        weights: 1HWO codes.
        bias: (O,) of bias_dtype, or None.

    Returns:
        (N, OH, OW, O) codes.
    """
    check_weights(spec, weights, bias, spec.weights_shape, spec.out_c)
    centred = run_shape(x, (spec.in_h, spec.in_w, spec.in_c)).astype(np.int64) - spec.x_quant.scalar_zero_point()
    kernel = weights.astype(np.int64) - spec.w_quant.zero_points
    out_h, out_w, out_c = spec.output_shape
    acc = np.zeros((centred.shape[0], out_h, out_w, out_c), np.int64)
    for kh, kw, pixels in spec.window.views(spec.window.pad(centred, 0), out_h, out_w):
        acc += np.repeat(pixels, spec.multiplier, axis=-1) * kernel[0, kh, kw, :]
    return finish(spec, rule, acc, bias)
