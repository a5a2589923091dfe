"""TRANSPOSE_CONV: one exact product gives what every pixel adds at every tap; the sums are formed by views."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.cpu.epilogue import Epilogue
from gpuq.cpu.gemm import ExactGemm
from gpuq.cpu.scratch import Scratch, aligned
from gpuq.numerics import Rule
from gpuq.ops.conv2d import check_weights
from gpuq.ops.transpose_conv import TransposeConvSpec


class TransposeConvPlan:
    """A packed transposed convolution, image by image."""

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
        act_min, act_max = numerics.activation_range(spec.activation, spec.out_quant)
        self._epilogue = Epilogue(
            rule=rule,
            reals=numerics.real_multipliers(
                spec.x_quant.scalar_scale(), spec.w_quant.scales, spec.out_quant.scalar_scale(), rule.product
            ),
            bias=np.zeros(spec.out_c, np.int64) if bias is None else bias.reshape(-1).astype(np.int64),
            bounds=np.abs(taps).sum(axis=(1, 2, 3)) * x_max,
            out_quant=spec.out_quant,
            act_min=act_min,
            act_max=act_max,
        )
        self._zero_point = np.float32(zero_point)
        self._meetings = list(spec.taps())
        self._products = spec.window.taps * spec.out_c
        self.constant_bytes = self._gemm.constant_bytes

    def workspace_bytes(self, runs: int) -> int:
        spec = self.spec
        pixels, outputs = spec.in_h * spec.in_w, spec.out_h * spec.out_w * spec.out_c
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
        pixels = spec.in_h * spec.in_w
        scratch = Scratch(workspace)
        rows = scratch.take((pixels, spec.in_c), np.float32)
        part = scratch.take((pixels, self._products), np.float32)
        total = scratch.take((pixels, self._products), np.float64)
        sums = scratch.take(spec.output_shape, np.float64)
        y = outputs[0].reshape(-1, spec.out_h * spec.out_w, spec.out_c)
        for image, codes in zip(inputs[0].reshape(-1, pixels, spec.in_c), y, strict=True):
            np.subtract(image, self._zero_point, out=rows)
            products = self._gemm(rows, part, total).reshape(
                spec.in_h, spec.in_w, spec.window.kernel_h, spec.window.kernel_w, spec.out_c
            )
            sums[...] = 0
            for kh, kw, outs, ins in self._meetings:
                # Integers below 2^53: no order of additions rounds.
                sums[outs] += products[(*ins, kh, kw)]
            flat = sums.reshape(-1, spec.out_c)
            self._epilogue(flat, codes, flat)
