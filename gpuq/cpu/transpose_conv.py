"""TRANSPOSE_CONV: an exact product gives what every pixel adds at every tap; the sums are formed by views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cpu.conv2d import packed_epilogue
from gpuq.cpu.gemm import ExactGemm
from gpuq.cpu.scratch import Scratch, aligned
from gpuq.numerics import Rounding, Rule
from gpuq.ops.conv2d import check_weights
from gpuq.ops.transpose_conv import TransposeConvSpec

# Products of a block of input rows.
BLOCK_BYTES = 1 << 22


class TransposeConvPlan:
    """A packed transposed convolution, image by image and by blocks of input rows."""

    def __init__(
        self, spec: TransposeConvSpec, rule: Rule, weights: npt.NDArray[Any], bias: npt.NDArray[np.int32] | None
    ) -> None:
        check_weights(spec, weights, bias, spec.weights_shape, spec.out_c)
        self.spec = spec
        self.name = "transpose_conv_sgemm"
        taps = weights.astype(np.int64) - spec.w_quant.zero_points.reshape(-1, 1, 1, 1)
        zero_point = spec.x_quant.scalar_zero_point()
        x_max = max(spec.x_quant.qmax - zero_point, zero_point - spec.x_quant.qmin)
        # (C, KH * KW * O): a row of products holds all taps of one input pixel.
        self._gemm = ExactGemm.pack(np.ascontiguousarray(taps.transpose(3, 1, 2, 0)).reshape(spec.in_c, -1), x_max)
        # Pixels are centred on their zero point itself: no sum of weights is left for the bias.
        nothing = np.zeros(spec.out_c, np.int64)
        bounds = np.abs(taps).sum(axis=(1, 2, 3)) * x_max
        if rule.rounding is Rounding.V1U_BLOCK16:
            # Elements behind a run's last whole block: fewer than 16, in its last images' last pixels.
            self._blocked = spec.run_elements // 16 * 16
            self._rest = packed_epilogue(spec, replace(rule, rounding=Rounding.V1), nothing, bias, bounds)
            rule = replace(rule, rounding=Rounding.V1U)
        else:
            self._blocked = spec.run_elements
        self._epilogue = packed_epilogue(spec, rule, nothing, bias, bounds)
        self._zero_point = np.float32(zero_point)
        self._products = spec.window.taps * spec.out_c
        self._block = max(1, min(spec.in_h, BLOCK_BYTES // (12 * spec.in_w * self._products)))
        self._meetings = [self._in_block(top) for top in range(0, spec.in_h, self._block)]
        self.constant_bytes = self._gemm.constant_bytes

    def _in_block(self, top: int) -> list[tuple[int, int, tuple[slice, slice], tuple[slice, slice]]]:
        """spec.taps() of the block of input rows from `top` on, input rows counted from there."""
        found = []
        for kh, kw, (out_rows, out_columns), (rows, columns) in self.spec.taps():
            first, stop = max(rows.start, top), min(rows.stop, top + self._block)
            if first < stop:
                start = out_rows.start + (first - rows.start) * out_rows.step
                outs = slice(start, start + (stop - first - 1) * out_rows.step + 1, out_rows.step)
                found.append((kh, kw, (outs, out_columns), (slice(first - top, stop - top), columns)))
        return found

    def workspace_bytes(self, runs: int) -> int:
        spec = self.spec
        pixels, outputs = self._block * spec.in_w, spec.out_h * spec.out_w * spec.out_c
        sizes = (4 * pixels * spec.in_c, 4 * pixels * self._products, 8 * pixels * self._products, 8 * outputs)
        return sum(map(aligned, sizes))

    def launch(
        self,
        inputs: Sequence[npt.NDArray[Any]],
        outputs: Sequence[npt.NDArray[Any]],
        workspace: npt.NDArray[np.uint8],
        stream: object = None,
    ) -> None:
        spec = self.spec
        pixels = self._block * spec.in_w
        scratch = Scratch(workspace)
        rows = scratch.take((pixels, spec.in_c), np.float32)
        part = scratch.take((pixels, self._products), np.float32)
        total = scratch.take((pixels, self._products), np.float64)
        sums = scratch.take(spec.output_shape, np.float64)
        y = outputs[0].reshape(-1, spec.out_h * spec.out_w, spec.out_c)
        elements = spec.out_h * spec.out_w * spec.out_c
        images = inputs[0].reshape(-1, spec.in_h * spec.in_w, spec.in_c)
        for place, (image, codes) in enumerate(zip(images, y, strict=True)):
            sums[...] = 0
            for number, meetings in enumerate(self._meetings):
                block = image[number * pixels : (number + 1) * pixels]
                count = block.shape[0]
                np.subtract(block, self._zero_point, out=rows[:count])
                products = self._gemm(rows[:count], part[:count], total[:count]).reshape(
                    -1, spec.in_w, spec.window.kernel_h, spec.window.kernel_w, spec.out_c
                )
                for kh, kw, outs, ins in meetings:
                    # Integers below 2^53: no order of additions rounds.
                    sums[outs] += products[(*ins, kh, kw)]
            flat = sums.reshape(-1, spec.out_c)
            behind = (place % spec.images + 1) * elements - self._blocked
            if behind <= 0:
                self._epilogue(flat, codes, flat)
                continue
            behind = min(behind, elements)
            pixels_behind = -(-behind // spec.out_c)
            last = flat[-pixels_behind:].copy()
            self._epilogue(flat, codes, flat)
            rest = np.empty(last.shape, codes.dtype)
            self._rest(last, rest, last)
            codes.reshape(-1)[-behind:] = rest.reshape(-1)[-behind:]
