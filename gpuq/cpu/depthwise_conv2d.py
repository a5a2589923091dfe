"""DEPTHWISE_CONV_2D tap by tap: a multiply and an add over a block of output pixels per tap, in float32.

Sums are exact as in cpu/gemm.py: no partial sum exceeds 128 * sum |w'| of its channel. Zero points are folded as in
cpu/conv2d.py. Where that bound reaches 2^24 the block is summed in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cpu.conv2d import ImageBlocks, PaddedBand, centre, packed_epilogue
from gpuq.cpu.gemm import EXACT_FLOAT32
from gpuq.cpu.scratch import Scratch, aligned
from gpuq.numerics import Rule
from gpuq.ops.conv2d import Conv2dSpec, check_weights
from gpuq.ops.depthwise_conv2d import DepthwiseConv2dSpec
from gpuq.quant import Quant


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
    )


class DepthwiseConv2dPlan:
    """A packed depthwise convolution; see the module."""

    def __init__(
        self, spec: DepthwiseConv2dSpec, rule: Rule, weights: npt.NDArray[Any], bias: npt.NDArray[np.int32] | None
    ) -> None:
        check_weights(spec, weights, bias, spec.weights_shape, spec.out_c)
        self.spec = spec
        self.name = "depthwise_conv2d_taps_float"
        kernel = (weights.astype(np.int64) - spec.w_quant.zero_points)[0]
        bound = int(np.abs(kernel).sum(axis=(0, 1)).max()) * centre(spec.x_quant)[1]
        self._sum_dtype = np.dtype(np.float32 if bound <= EXACT_FLOAT32 else np.float64)
        self._kernel = kernel.reshape(*kernel.shape[:2], spec.in_c, spec.multiplier).astype(np.float32)
        self.constant_bytes = self._kernel.nbytes
        self._epilogue = packed_epilogue(spec, rule, kernel.sum(axis=(0, 1)), bias, bound, slice(None))
        self._band = PaddedBand(spec.window, spec.in_h, spec.in_w, spec.in_c, spec.x_quant)
        out_h, out_w, out_c = spec.output_shape
        row_bytes = out_w * out_c * (2 * self._sum_dtype.itemsize + 8)
        row_bytes += 4 * self._band.width * spec.in_c * spec.window.stride_h
        self._blocks = ImageBlocks(out_h, row_bytes)

    def workspace_bytes(self, runs: int) -> int:
        _, out_w, out_c = self.spec.output_shape
        elements = self._blocks.images * self._blocks.rows * out_w * out_c
        band = self._blocks.images * self._band.height(self._blocks.rows) * self._band.width * self.spec.in_c
        size = self._sum_dtype.itemsize
        return aligned(4 * band) + 2 * aligned(size * elements) + 2 * aligned(8 * elements)

    def launch(
        self,
        inputs: Sequence[npt.NDArray[Any]],
        outputs: Sequence[npt.NDArray[Any]],
        workspace: npt.NDArray[np.uint8],
        stream: object = None,
    ) -> None:
        spec = self.spec
        out_h, out_w, out_c = spec.output_shape
        x = inputs[0].reshape(-1, spec.in_h, spec.in_w, spec.in_c)
        y = outputs[0].reshape(-1, out_h, out_w, out_c)
        for images, first, last in self._blocks(x.shape[0]):
            scratch = Scratch(workspace)
            count, rows = images.stop - images.start, last - first
            band = scratch.take((count, self._band.height(rows), self._band.width, spec.in_c), np.float32)
            self._band.fill(band, x[images], first)
            shape = (count, rows, out_w, spec.in_c, spec.multiplier)
            sums, product = scratch.take(shape, self._sum_dtype), scratch.take(shape, self._sum_dtype)
            for kh, kw, pixels in spec.window.views(band, rows, out_w):
                tap = self._kernel[kh, kw]
                if kh == kw == 0:
                    np.multiply(pixels[..., None], tap, out=sums)
                else:
                    np.multiply(pixels[..., None], tap, out=product)
                    sums += product
            flat = (count * rows * out_w, out_c)
            codes = y[images, first:last].reshape(flat)
            self._epilogue(sums.reshape(flat), codes, scratch.take(flat, np.float64))
