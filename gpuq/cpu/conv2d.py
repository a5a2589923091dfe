"""CONV_2D and FULLY_CONNECTED as exact float32 matrix products (float64 for int16 codes) over blocks of output rows.

A block of output pixels is gathered into rows of taps (im2col), multiplied, and requantized while its sums are
still in the cache. Zero points leave the product: with a constant c subtracted from the input codes (128 for uint8,
0 for int8) and w' = w - zp_w,

    sum (x - zp_x) * w' = sum (x - c) * w' + (c - zp_x) * sum w',

whose last term goes to the bias; borders are filled with zp_x - c.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.cpu.epilogue import Epilogue
from gpuq.cpu.gemm import ExactGemm
from gpuq.cpu.scratch import Scratch, aligned
from gpuq.numerics import Rule
from gpuq.ops.conv2d import Conv2dSpec, check_weights
from gpuq.ops.depthwise_conv2d import DepthwiseConv2dSpec
from gpuq.ops.fully_connected import FullyConnectedSpec
from gpuq.ops.spec import INT16, UINT8
from gpuq.ops.transpose_conv import TransposeConvSpec
from gpuq.ops.window import Window2d
from gpuq.quant import Quant

# Bytes of float32 taps and float64 sums per block: smaller ones would fit a core's own cache, but NumPy's cost per call
# weighs more (measured 512 KiB to 8 MiB on MobileNetV2: flat from 4 MiB on, a third slower at 1 MiB).
BLOCK_BYTES = 1 << 22
# Elements of a row from which NumPy's cost per inner loop no longer counts.
LONG_ROW = 4096


def centre(x_quant: Quant) -> tuple[int, int]:
    """(c, largest |x - c|) for input codes x: uint8 codes are centred around 128."""
    return (128, 128) if x_quant.dtype == UINT8 else (0, -x_quant.qmin)


def float_type(x_quant: Quant) -> np.dtype[Any]:
    """The type that taps are multiplied in: float32 for bytes, float64 for int16."""
    return np.dtype(np.float64 if x_quant.dtype == INT16 else np.float32)


def packed_epilogue(
    spec: Conv2dSpec | DepthwiseConv2dSpec | FullyConnectedSpec | TransposeConvSpec,
    rule: Rule,
    weight_sums: npt.NDArray[np.int64],
    bias: npt.NDArray[Any] | None,
    bounds: npt.NDArray[np.int64],
    *,
    channels: slice = slice(None),
    repeat: int = 1,
) -> Epilogue:
    """The epilogue of some output channels: zero points folded into the bias."""
    folded = (centre(spec.x_quant)[0] - spec.x_quant.scalar_zero_point()) * weight_sums
    if bias is not None:
        folded = folded + bias.reshape(-1)[channels]
    reals = numerics.real_multipliers(
        spec.x_quant.scalar_scale(), spec.w_quant.scales, spec.out_quant.scalar_scale(), rule.product
    )
    act_min, act_max = numerics.activation_range(spec.activation, spec.out_quant, rule.bounds)
    return Epilogue(
        rule=rule,
        reals=reals[channels] if reals.size > 1 else reals,
        bias=folded,
        bounds=bounds,
        out_quant=spec.out_quant,
        act_min=act_min,
        act_max=act_max,
        repeat=repeat,
        wraps=numerics.sums_wrap(rule.rounding, spec.bias_dtype),
    )


def row_repeat(out_w: int, channels: int) -> int:
    """How many pixels to treat as one long row: a divisor of the width, as many as LONG_ROW elements allow."""
    return max(k for k in range(1, out_w + 1) if out_w % k == 0 and (k == 1 or k * channels <= LONG_ROW))


class ImageBlocks:
    """Cuts (images, output rows) into blocks of bounded size: whole images while they fit, else bands of rows."""

    def __init__(self, out_h: int, row_bytes: int, window: Window2d, band: PaddedBand) -> None:
        """row_bytes: scratch of each output row; the band's input rows come on top."""
        self._out_h = out_h
        row_bytes += band.dtype.itemsize * math.prod(band.shape(1, 1)[2:]) * window.stride_h
        halo_bytes = band.dtype.itemsize * math.prod(band.shape(1, 1))
        self.images = max(1, BLOCK_BYTES // (row_bytes * out_h + halo_bytes))
        self.rows = out_h if self.images > 1 else max(1, min(out_h, (BLOCK_BYTES - halo_bytes) // row_bytes))

    def __call__(self, images: int) -> Iterator[tuple[slice, int, int]]:
        """(images, first output row, last output row + 1) of each block."""
        for first in range(0, images, self.images):
            for row in range(0, self._out_h, self.rows):
                yield slice(first, min(first + self.images, images)), row, min(row + self.rows, self._out_h)


class PaddedBand:
    """The input rows that a band of output rows sees, centred, as floats, borders filled.

    Layout (images, rows, phases, columns, channels): padded column c lies in phase c % phases at c // phases, so that
    with as many phases as the stride the pixels that one tap sees are contiguous. Each channel may be repeated.
    """

    def __init__(
        self, window: Window2d, in_h: int, in_w: int, in_c: int, x_quant: Quant, *, phases: int = 1, repeat: int = 1
    ) -> None:
        self._window = window
        self._in_h, self._in_w, self._in_c = in_h, in_w, in_c
        self.dtype = float_type(x_quant)
        self._centre = self.dtype.type(centre(x_quant)[0])
        self._border = self.dtype.type(x_quant.scalar_zero_point()) - self._centre
        self._phases, self._repeat = phases, repeat
        self._columns = -(-(in_w + window.pad_left + window.pad_right) // phases)

    def shape(self, images: int, out_rows: int) -> tuple[int, int, int, int, int]:
        """The shape under this many output rows."""
        window = self._window
        height = (out_rows - 1) * window.stride_h + (window.kernel_h - 1) * window.dilation_h + 1
        return images, height, self._phases, self._columns, self._in_c * self._repeat

    def fill(self, band: npt.NDArray[Any], x: npt.NDArray[Any], first: int) -> None:
        """Writes the band for output rows from `first` on."""
        window, phases = self._window, self._phases
        top = first * window.stride_h - window.pad_top
        inside_top, inside_bottom = max(top, 0), min(top + band.shape[1], self._in_h)
        if inside_bottom <= inside_top:
            band[...] = self._border
            return
        above, below = inside_top - top, inside_bottom - top
        band[:, :above] = self._border
        band[:, below:] = self._border
        rows = x[:, inside_top:inside_bottom]
        for phase in range(phases):
            # The first column of this phase inside the image, and the image's column that lies there.
            left = max(0, -(-(window.pad_left - phase) // phases))
            start = left * phases + phase - window.pad_left
            pixels = rows[:, :, start::phases]
            right = left + pixels.shape[2]
            band[:, above:below, phase, :left] = self._border
            band[:, above:below, phase, right:] = self._border
            inside = band[:, above:below, phase, left:right]
            if self._repeat > 1:
                inside = inside.reshape(*pixels.shape, self._repeat)
                pixels = pixels[..., None]
            if self._centre:
                np.subtract(pixels, self._centre, out=inside)
            else:
                np.copyto(inside, pixels)


class Conv2dPlan:
    """A packed convolution; see the module."""

    def __init__(self, spec: Conv2dSpec, rule: Rule, weights: npt.NDArray[Any], bias: npt.NDArray[Any] | None) -> None:
        check_weights(spec, weights, bias, spec.weights_shape, spec.out_c)
        self.spec = spec
        self._float = float_type(spec.x_quant)
        self.name = "conv2d_im2col_sgemm" if self._float == np.float32 else "conv2d_im2col_dgemm"
        kernel = weights.astype(np.int64) - spec.w_quant.zero_points.reshape(-1, 1, 1, 1)
        self._group_in, self._group_out = spec.in_c // spec.groups, spec.out_c // spec.groups
        out_h, out_w, _ = spec.output_shape
        repeat = row_repeat(out_w, spec.out_c) if spec.groups == 1 else 1
        self._gemms: list[ExactGemm] = []
        self._epilogues: list[Epilogue] = []
        for group in range(spec.groups):
            channels = slice(group * self._group_out, (group + 1) * self._group_out)
            taps = kernel[channels].reshape(self._group_out, -1).T
            gemm = ExactGemm.pack(taps, centre(spec.x_quant)[1], self._float)
            self._gemms.append(gemm)
            self._epilogues.append(
                packed_epilogue(spec, rule, taps.sum(axis=0), bias, gemm.bounds, channels=channels, repeat=repeat)
            )
        self.constant_bytes = sum(gemm.constant_bytes for gemm in self._gemms)
        self._band = PaddedBand(spec.window, spec.in_h, spec.in_w, spec.in_c, spec.x_quant)
        self._taps = spec.window.taps * self._group_in
        self._gathers = spec.groups > 1 or spec.window.taps > 1 or spec.window.stride_h > 1 or spec.window.stride_w > 1
        item = self._float.itemsize
        row_bytes = out_w * (item * self._taps * self._gathers + (12 + 2 * item) * self._group_out)
        self._blocks = ImageBlocks(out_h, row_bytes, spec.window, self._band)

    def workspace_bytes(self, runs: int) -> int:
        spec = self.spec
        _, out_w, _ = spec.output_shape
        pixels = self._blocks.images * self._blocks.rows * out_w
        band = math.prod(self._band.shape(self._blocks.images, self._blocks.rows))
        taps = pixels * self._taps if self._gathers else 0
        item = self._float.itemsize
        sizes = (item * band, item * taps, item * pixels * self._group_out, 8 * pixels * self._group_out)
        return sum(aligned(size) for size in sizes)

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
            band = scratch.take(self._band.shape(count, rows), self._float)
            self._band.fill(band, x[images], first)
            pixels = count * rows * out_w
            taps = scratch.take((pixels, self._taps), self._float) if self._gathers else band.reshape(pixels, -1)
            part = scratch.take((pixels, self._group_out), self._float)
            total = scratch.take((pixels, self._group_out), np.float64)
            codes = y[images, first:last].reshape(pixels, out_c)
            for group, (gemm, epilogue) in enumerate(zip(self._gemms, self._epilogues, strict=True)):
                if self._gathers:
                    self._gather(band[:, :, 0], taps.reshape(count, rows, out_w, -1), group)
                sums = gemm(taps, part, total)
                channels = slice(group * self._group_out, (group + 1) * self._group_out)
                epilogue(sums, codes[:, channels], total)

    def _gather(self, band: npt.NDArray[Any], taps: npt.NDArray[Any], group: int) -> None:
        """Copies the window of each output pixel into a row: (images, rows, OW, KH * KW * I)."""
        window = self.spec.window
        images, rows, out_w, _ = taps.shape
        image, row, column, channel = band.strides
        shape = (images, rows, out_w, window.kernel_h, window.kernel_w, self._group_in)
        strides = (
            image,
            row * window.stride_h,
            column * window.stride_w,
            row * window.dilation_h,
            column * window.dilation_w,
            channel,
        )
        start = band[..., group * self._group_in :]
        windows = np.lib.stride_tricks.as_strided(start, shape, strides, writeable=False)
        target = taps.reshape(shape)
        if window.dilation_w == 1 and self.spec.groups == 1:
            # A row of the window is contiguous in the band: longer copies.
            merged = (*shape[:4], window.kernel_w * self._group_in)
            windows = np.lib.stride_tricks.as_strided(start, merged, (*strides[:4], channel), writeable=False)
            target = taps.reshape(merged)
        for kh in range(window.kernel_h):
            np.copyto(target[:, :, :, kh], windows[:, :, :, kh])


class FullyConnectedPlan:
    """A packed dense layer: one exact product over blocks of rows."""

    def __init__(
        self, spec: FullyConnectedSpec, rule: Rule, weights: npt.NDArray[Any], bias: npt.NDArray[Any] | None
    ) -> None:
        check_weights(spec, weights, bias, spec.weights_shape, spec.out_c)
        self.spec = spec
        self._float = float_type(spec.x_quant)
        self.name = "fully_connected_sgemm" if self._float == np.float32 else "fully_connected_dgemm"
        taps = (weights.astype(np.int64) - spec.w_quant.zero_points.reshape(-1, 1)).T
        self._gemm = ExactGemm.pack(taps, centre(spec.x_quant)[1], self._float)
        self._epilogue = packed_epilogue(spec, rule, taps.sum(axis=0), bias, self._gemm.bounds)
        self._centre = self._float.type(centre(spec.x_quant)[0])
        item = self._float.itemsize
        self._block = max(1, BLOCK_BYTES // (item * spec.in_c + (12 + 2 * item) * spec.out_c))
        self.constant_bytes = self._gemm.constant_bytes

    def workspace_bytes(self, runs: int) -> int:
        item = self._float.itemsize
        sizes = (item * self.spec.in_c, item * self.spec.out_c, 8 * self.spec.out_c)
        return sum(aligned(self._block * size) for size in sizes)

    def launch(
        self,
        inputs: Sequence[npt.NDArray[Any]],
        outputs: Sequence[npt.NDArray[Any]],
        workspace: npt.NDArray[np.uint8],
        stream: object = None,
    ) -> None:
        x = inputs[0].reshape(-1, self.spec.in_c)
        y = outputs[0].reshape(-1, self.spec.out_c)
        for first in range(0, x.shape[0], self._block):
            scratch = Scratch(workspace)
            block = x[first : first + self._block]
            rows = scratch.take(block.shape, self._float)
            np.subtract(block, self._centre, out=rows)
            part = scratch.take((block.shape[0], self.spec.out_c), self._float)
            total = scratch.take((block.shape[0], self.spec.out_c), np.float64)
            sums = self._gemm(rows, part, total)
            self._epilogue(sums, y[first : first + self._block], total)
