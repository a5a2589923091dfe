"""TRANSPOSE_CONV: every input pixel, times the kernel, is added to the output image around its place.

    acc[n, i * stride - pad + kh, j * stride - pad + kw, o] += (x[n,i,j,c] - zp_x) * (w[o,kh,kw,c] - zp_w)
    y = clamp(zp_y + requant(acc + b[o]))

Layouts: x NHWC, w OHWI, b (O,), y NHWC; what falls outside the output image is dropped.
LiteRT's optimized kernels requantize int8 in blocks of 8 channels, uint8 in blocks of 16 elements of the whole output.
Sources: LiteRT tflite/kernels/transpose_conv.cc, internal/reference/{transpose_conv.h,integer_ops/transpose_conv.h},
internal/optimized/{optimized_ops.h (TransposeConvV2, Quantize),integer_ops/transpose_conv.h}.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Rounding, Rule
from gpuq.ops.conv2d import check_convolution_quants, check_weights, finish
from gpuq.ops.spec import INT8, INT16, INT32, UINT8, Shape, Spec, run_shape
from gpuq.ops.window import Window2d
from gpuq.quant import Quant


@dataclass(frozen=True, kw_only=True)
class TransposeConvSpec(Spec):
    """A quantized transposed 2-D convolution.

    Args:
        in_h, in_w, in_c: input image and channels C.
        out_h, out_w, out_c: output image and channels O.
        window: kernel, strides, and the pads of the convolution from the output image to the input's; no dilation.
        x_quant, out_quant: per tensor, int8, uint8 or int16 (zero point 0), the same dtype.
        w_quant: int8 (zero point 0; per tensor or one scale per output channel, axis 0), or uint8 (per tensor).
        activation: None, "relu", "relu6" or "relu_n1_to_1", fused.
        padding: "same" or "valid", as the file says: XNNPACK decides by it what it takes.
        images: those of one run, over which the blocks of elements go on.
        bias_dtype: of the bias, and of the sums; int32, or int64 for int16 activations.
    """

    op: ClassVar[str] = "TRANSPOSE_CONV"
    has_weights: ClassVar[bool] = True

    in_h: int
    in_w: int
    in_c: int
    out_h: int
    out_w: int
    out_c: int
    window: Window2d
    x_quant: Quant
    w_quant: Quant
    out_quant: Quant
    activation: str | None = None
    padding: str = "same"
    images: int = 1
    bias_dtype: np.dtype[Any] = INT32

    def __post_init__(self) -> None:
        self.require_positive(
            in_h=self.in_h, in_w=self.in_w, in_c=self.in_c, out_h=self.out_h, out_w=self.out_w, out_c=self.out_c
        )
        self.require_positive(images=self.images)
        self.require(self.padding in ("same", "valid"), f"padding {self.padding!r} must be 'same' or 'valid'")
        self.require(self.window.dilation_h == self.window.dilation_w == 1, "dilation is not defined")
        self.require_dtype("input", self.x_quant.dtype, INT8, UINT8, INT16)
        check_convolution_quants(self, self.x_quant, self.w_quant, self.out_quant, self.out_c, axis=0)
        numerics.activation_range(self.activation, self.out_quant)

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.x_quant.dtype

    @property
    def output_shape(self) -> Shape:
        return self.out_h, self.out_w, self.out_c

    @property
    def weights_shape(self) -> Shape:
        """OHWI."""
        return self.out_c, self.window.kernel_h, self.window.kernel_w, self.in_c

    @property
    def run_elements(self) -> int:
        """Elements that one run makes."""
        return self.images * self.out_h * self.out_w * self.out_c

    @property
    def macs(self) -> int:
        return self.in_h * self.in_w * self.in_c * self.window.taps * self.out_c

    def taps(self) -> Iterator[tuple[int, int, tuple[slice, slice], tuple[slice, slice]]]:
        """See transposed_taps."""
        return transposed_taps(self.window, (self.in_h, self.in_w), (self.out_h, self.out_w))


def transposed_taps(
    window: Window2d, in_hw: tuple[int, int], out_hw: tuple[int, int]
) -> Iterator[tuple[int, int, tuple[slice, slice], tuple[slice, slice]]]:
    """(kh, kw, output pixels, input pixels) of each tap that meets the output image at all; slices of (H, W)."""
    rows = [_meeting(in_hw[0], out_hw[0], window.stride_h, kh - window.pad_top) for kh in range(window.kernel_h)]
    columns = [_meeting(in_hw[1], out_hw[1], window.stride_w, kw - window.pad_left) for kw in range(window.kernel_w)]
    for kh, row in enumerate(rows):
        for kw, column in enumerate(columns):
            if row and column:
                yield kh, kw, (row[0], column[0]), (row[1], column[1])


def _meeting(inputs: int, outputs: int, stride: int, offset: int) -> tuple[slice, slice] | None:
    """(outputs, inputs) of one dimension: those i in [0, inputs) for which i * stride + offset is in [0, outputs)."""
    first = max(0, -(offset // stride))
    stop = min(inputs, (outputs - 1 - offset) // stride + 1)
    if first >= stop:
        return None
    start = first * stride + offset
    return slice(start, start + (stop - first - 1) * stride + 1, stride), slice(first, stop)


def reference(
    spec: TransposeConvSpec,
    rule: Rule,
    x: npt.NDArray[Any],
    weights: npt.NDArray[Any],
    bias: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """Exact output, the plain way: one int64 matrix product per tap.

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
    acc = np.zeros((centred.shape[0], *spec.output_shape), np.int64)
    for kh, kw, outs, ins in spec.taps():
        acc[:, outs[0], outs[1]] += centred[:, ins[0], ins[1]] @ kernel[:, kh, kw, :].T
    if rule.rounding is not Rounding.V1U_BLOCK16:
        return finish(spec, rule, acc, bias)
    # Blocks of elements, not of channels; one scale for all.
    if bias is not None:
        acc += bias.reshape(-1)
    return finish(spec, rule, acc.reshape(-1, spec.run_elements), None).reshape(acc.shape)
