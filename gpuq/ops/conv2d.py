"""CONV_2D: y[n,oh,ow,o] = clamp(zp_y + requant(b[o] + sum (x[n,h,w,i] - zp_x) * (w[o,kh,kw,i] - zp_w))).

Layouts: x NHWC, w OHWI (I = C / groups), b (O,), y NHWC. Taps outside the image are skipped.
Sources: LiteRT tflite/kernels/internal/reference/{conv.h,integer_ops/conv.h}.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Rule
from gpuq.ops.spec import INT8, INT16, INT32, INT64, UINT8, Shape, Spec, clamp_to, run_shape
from gpuq.ops.window import Window2d
from gpuq.quant import Quant


@dataclass(frozen=True, kw_only=True)
class Conv2dSpec(Spec):
    """A quantized 2-D convolution.

    Args:
        in_h, in_w, in_c: input image and channels C.
        out_c: output channels O.
        window: kernel, strides, dilation, pads.
        groups: C and O are divided into this many groups; each sees in_c // groups input channels.
        x_quant, out_quant: per tensor, int8, uint8 or int16 (zero point 0), the same dtype.
        w_quant: int8 (zero point 0; per tensor or one scale per output channel, axis 0), or uint8 (per tensor) for
            uint8 activations.
        activation: None, "relu", "relu6" or "relu_n1_to_1", fused.
        weight_bits: 4 where the file packs two weights into a byte; they are codes of w_quant all the same.
        bias_dtype: of the bias, and of the sums, which wrap; int32, or int64 for int16 activations.
    """

    op: ClassVar[str] = "CONV_2D"
    has_weights: ClassVar[bool] = True

    in_h: int
    in_w: int
    in_c: int
    out_c: int
    window: Window2d
    groups: int = 1
    x_quant: Quant
    w_quant: Quant
    out_quant: Quant
    activation: str | None = None
    weight_bits: int = 8
    bias_dtype: np.dtype[Any] = INT32

    def __post_init__(self) -> None:
        self.require_positive(in_h=self.in_h, in_w=self.in_w, in_c=self.in_c, out_c=self.out_c, groups=self.groups)
        self.require(self.in_c % self.groups == 0, f"input C={self.in_c} must be a multiple of groups={self.groups}")
        self.require(self.out_c % self.groups == 0, f"output O={self.out_c} must be a multiple of groups={self.groups}")
        check_convolution_quants(self, self.x_quant, self.w_quant, self.out_quant, self.out_c, axis=0)
        out_h, out_w, _ = self.output_shape
        self.require(
            out_h >= 1 and out_w >= 1,
            f"window {self.window.kernel_h}x{self.window.kernel_w} (dilated) does not fit into {self.in_h}x{self.in_w}",
        )
        numerics.activation_range(self.activation, self.out_quant)

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.x_quant.dtype

    @property
    def output_shape(self) -> Shape:
        return (*self.window.output_hw(self.in_h, self.in_w), self.out_c)

    @property
    def weights_shape(self) -> Shape:
        """OHWI."""
        return (self.out_c, self.window.kernel_h, self.window.kernel_w, self.in_c // self.groups)

    @property
    def gemm_mnk(self) -> tuple[int, int, int]:
        """(M, N, K) per image and group: output pixels, output channels, taps."""
        out_h, out_w, _ = self.output_shape
        return out_h * out_w, self.out_c // self.groups, self.window.taps * self.in_c // self.groups

    @property
    def macs(self) -> int:
        m, n, k = self.gemm_mnk
        return m * n * k * self.groups


def check_convolution_quants(
    spec: Any, x_quant: Quant, w_quant: Quant, out_quant: Quant, out_c: int, *, axis: int
) -> None:
    """The quantization rules that CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED share."""
    spec.require_dtype("input", x_quant.dtype, INT8, UINT8, INT16)
    spec.require_dtype("output", out_quant.dtype, x_quant.dtype)
    spec.require_dtype("weights", w_quant.dtype, INT8 if x_quant.dtype == INT16 else x_quant.dtype)
    spec.require_dtype("bias", spec.bias_dtype, *([INT64, INT32] if x_quant.dtype == INT16 else [INT32]))
    spec.require_per_tensor(x_quant=x_quant, out_quant=out_quant)
    spec.require_symmetric_int16(x_quant=x_quant, out_quant=out_quant)
    if w_quant.is_per_channel:
        spec.require(x_quant.dtype != UINT8, "per-channel weights need int8 or int16 activations, these are uint8")
        spec.require(
            w_quant.axis == axis and w_quant.scales.size == out_c,
            f"{w_quant.scales.size} weight scales along axis {w_quant.axis} must be O={out_c} along axis {axis}",
        )
    if w_quant.dtype == INT8 and (w_quant.is_per_channel or spec.op != "FULLY_CONNECTED"):
        nonzero = w_quant.zero_points[w_quant.zero_points != 0]
        spec.require(nonzero.size == 0, f"int8 weights must have zero point 0, got {nonzero[:1].tolist()}")


def check_weights(
    spec: Any, weights: npt.NDArray[Any], bias: npt.NDArray[Any] | None, shape: Shape, out_c: int
) -> None:
    """Shapes and dtypes of the constants that a convolution is packed from."""
    spec.require(weights.shape == shape, f"weights of shape {weights.shape} must have shape {shape}")
    if bias is not None:
        spec.require_dtype("bias", bias.dtype, spec.bias_dtype)
        spec.require(bias.size == out_c, f"bias of shape {bias.shape} must have O={out_c} elements")


def reference(
    spec: Conv2dSpec,
    rule: Rule,
    x: npt.NDArray[Any],
    weights: npt.NDArray[Any],
    bias: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """Exact output, the plain way: one int64 matrix product per tap and group.

    Args:
        x: (..., H, W, C) codes.
        weights: OHWI codes.
        bias: (O,) of bias_dtype, or None.

    Returns:
        (N, OH, OW, O) codes.
    """
    check_weights(spec, weights, bias, spec.weights_shape, spec.out_c)
    centred = run_shape(x, (spec.in_h, spec.in_w, spec.in_c)).astype(np.int64) - spec.x_quant.scalar_zero_point()
    kernel = weights.astype(np.int64) - spec.w_quant.zero_points.reshape(-1, 1, 1, 1)
    out_h, out_w, _ = spec.output_shape
    acc = np.zeros((centred.shape[0], out_h, out_w, spec.out_c), np.int64)
    group_in, group_out = spec.in_c // spec.groups, spec.out_c // spec.groups
    for kh, kw, pixels in spec.window.views(spec.window.pad(centred, 0), out_h, out_w):
        for group in range(spec.groups):
            ins = slice(group * group_in, (group + 1) * group_in)
            outs = slice(group * group_out, (group + 1) * group_out)
            acc[..., outs] += pixels[..., ins] @ kernel[outs, kh, kw, :].T
    return finish(spec, rule, acc, bias)


def finish(spec: Any, rule: Rule, acc: npt.NDArray[np.int64], bias: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    """Bias, requantization, zero point and clamp of a sum whose last axis is the output channel."""
    if bias is not None:
        acc = acc + bias.reshape(-1)
    reals = numerics.real_multipliers(
        spec.x_quant.scalar_scale(), spec.w_quant.scales, spec.out_quant.scalar_scale(), rule.product
    )
    if numerics.sums_wrap(rule.rounding, spec.bias_dtype):
        acc = numerics.wrap_int32(acc)
    codes = numerics.requantize(acc, rule.rounding, reals)
    act_min, act_max = numerics.activation_range(spec.activation, spec.out_quant, rule.bounds)
    return clamp_to(codes + spec.out_quant.scalar_zero_point(), act_min, act_max, spec.out_quant.dtype)
