"""DEPTHWISE_CONV_2D tap by tap: a multiply and an add over a block of output pixels per tap, in float32.

Sums are exact as in cpu/gemm.py: no partial sum exceeds 128 * sum |w'| of its channel. Zero points are folded as in
cpu/conv2d.py. Where that bound reaches 2^24, as it does with int16 codes, the block is summed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cpu.conv2d import ImageBlocks, PaddedBand, centre, float_type, packed_epilogue, row_repeat
from gpuq.cpu.gemm import EXACT_FLOAT32
from gpuq.cpu.scratch import Scratch, aligned
from gpuq.numerics import Rule
from gpuq.ops.conv2d import check_weights
from gpuq.ops.depthwise_conv2d import DepthwiseConv2dSpec


class DepthwiseConv2dPlan:
    """A packed depthwise convolution; see the module."""

    def __init__(
        self, spec: DepthwiseConv2dSpec, rule: Rule, weights: npt.NDArray[Any], bias: npt.NDArray[Any] | None
    ) -> None:
        check_weights(spec, weights, bias, spec.weights_shape, spec.out_c)
        self.spec = spec
        self.name = "depthwise_conv2d_taps_float"
        kernel = (weights.astype(np.int64) - spec.w_quant.zero_points)[0]
        bounds = np.abs(kernel).sum(axis=(0, 1)) * centre(spec.x_quant)[1]
        self._sum_dtype = np.dtype(np.float32 if bounds.max() <= EXACT_FLOAT32 else np.float64)
        out_h, out_w, out_c = spec.output_shape
        self._repeat = row_repeat(out_w, out_c)
        # Weights of each tap, repeated over a long row of pixels.
        self._taps = np.tile(kernel.astype(float_type(spec.x_quant)), (1, 1, self._repeat))
        self.constant_bytes = self._taps.nbytes
        self._epilogue = packed_epilogue(spec, rule, kernel.sum(axis=(0, 1)), bias, bounds, repeat=self._repeat)
        # With one output column every view is one column wide, and any layout is contiguous.
        self._phases = spec.window.stride_w if out_w > 1 else 1
        self._band = PaddedBand(
            spec.window,
            spec.in_h,
            spec.in_w,
            spec.in_c,
            spec.x_quant,
            phases=self._phases,
            repeat=spec.multiplier,
        )
        row_bytes = out_w * out_c * (2 * self._sum_dtype.itemsize + 8)
        self._blocks = ImageBlocks(out_h, row_bytes, spec.window, self._band)

    def workspace_bytes(self, runs: int) -> int:
        _, out_w, out_c = self.spec.output_shape
        elements = self._blocks.images * self._blocks.rows * out_w * out_c
        band = math.prod(self._band.shape(self._blocks.images, self._blocks.rows))
        return (
            aligned(self._band.dtype.itemsize * band)
            + 2 * aligned(self._sum_dtype.itemsize * elements)
            + aligned(8 * elements)
        )

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
            band = scratch.take(self._band.shape(count, rows), self._band.dtype)
            self._band.fill(band, x[images], first)
            long_rows = (count, rows, out_w // self._repeat, self._repeat * out_c)
            sums, product = scratch.take(long_rows, self._sum_dtype), scratch.take(long_rows, self._sum_dtype)
            for kh, kw, pixels in self._views(band, rows, out_w):
                tap = self._taps[kh, kw]
                if kh == kw == 0:
                    np.multiply(pixels.reshape(long_rows), tap, out=sums)
                else:
                    np.multiply(pixels.reshape(long_rows), tap, out=product)
                    sums += product
            flat = (count * rows * out_w, out_c)
            self._epilogue(sums.reshape(flat), y[images, first:last].reshape(flat), scratch.take(flat, np.float64))

    def _views(self, band: npt.NDArray[Any], rows: int, out_w: int) -> Iterator[tuple[int, int, npt.NDArray[Any]]]:
        """(kh, kw, the pixels (images, rows, OW, O) that the tap sees); pixels of a row are contiguous."""
        window = self.spec.window
        for kh in range(window.kernel_h):
            top = kh * window.dilation_h
            for kw in range(window.kernel_w):
                left, phase = divmod(kw * window.dilation_w, self._phases)
                seen = slice(top, top + (rows - 1) * window.stride_h + 1, window.stride_h)
                yield kh, kw, band[:, seen, phase, left : left + out_w]
