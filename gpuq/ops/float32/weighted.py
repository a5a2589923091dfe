"""DEPTHWISE_CONV_2D and FULLY_CONNECTED on float32: sums tap by tap in the reference kernels' order, then the bias.

Sources: LiteRT f67457790, tflite/kernels/internal/reference/{depthwiseconv_float.h,fully_connected.h}.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.numerics import Rounding, Rule
from gpuq.ops.float32.activation import check_activation, clamp
from gpuq.ops.spec import FLOAT32, Shape, Spec, run_shape
from gpuq.ops.window import Window2d

FloatArray = npt.NDArray[np.float32]


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
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for kh, kw, pixels in spec.window.views(padded, out_h, out_w):
            seen, tap = np.repeat(pixels, spec.multiplier, axis=-1), weights[0, kh, kw, :]
            if rule.rounding is Rounding.FLOAT32_FUSED:
                # float64 holds the product exactly: all but one in 2^29 fused sums round as the hardware's do.
                total = (seen.astype(np.float64) * tap + total).astype(np.float32)
            else:
                total += seen * tap
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
