"""Dynamic range as float products: the reference's codes and scales, its integer sums through BLAS.

Codes less their zero points lie within 255, weights within 128: products of K taps add up exactly in float32 while
K * 255 * 128 stays within 2^24, and in float64 always.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cpu.gemm import EXACT_FLOAT32, matmul
from gpuq.numerics import Rule
from gpuq.ops.float32.weighted import gathered
from gpuq.ops.hybrid import (
    HybridConv2dSpec,
    HybridDepthwiseConv2dSpec,
    HybridFullyConnectedSpec,
    centred_images,
    check_weights,
    finish,
    quantized_rows,
)
from gpuq.ops.spec import run_shape

LARGEST_PRODUCT = 255 * 128
# As for float32 convolutions; see cpu/float32.py.
BLOCK_BYTES = 1 << 21

HybridLayer = HybridConv2dSpec | HybridDepthwiseConv2dSpec | HybridFullyConnectedSpec


class HybridPlan:
    """A layer with float32 activations and int8 weights; see gpuq.plan.Plan."""

    def __init__(
        self,
        spec: HybridLayer,
        rule: Rule,
        weights: npt.NDArray[np.int8],
        bias: npt.NDArray[np.float32] | None,
    ) -> None:
        check_weights(spec, weights, bias, spec.weights_shape)
        self.spec = spec
        self.name = f"{spec.op.lower()}_hybrid_blas"
        self._rule = rule
        self._bias = bias
        depthwise = isinstance(spec, HybridDepthwiseConv2dSpec)
        taps = math.prod(spec.weights_shape[1:3]) if depthwise else math.prod(spec.weights_shape[1:])
        self._dtype = np.dtype(np.float32 if taps * LARGEST_PRODUCT <= EXACT_FLOAT32 else np.float64)
        self._weights = weights.astype(self._dtype)
        self.constant_bytes = self._weights.nbytes + (0 if bias is None else bias.nbytes)
        out = math.prod(spec.output_shape)
        bytes_per_run = self._dtype.itemsize * (out if depthwise else out // spec.output_shape[-1] * taps + out)
        self._block = max(1, BLOCK_BYTES // bytes_per_run)

    def workspace_bytes(self, runs: int) -> int:
        return 0

    def launch(
        self,
        inputs: Sequence[npt.NDArray[Any]],
        outputs: Sequence[npt.NDArray[Any]],
        workspace: npt.NDArray[np.uint8],
        stream: object = None,
    ) -> None:
        (x,), (y,) = inputs, outputs
        for first in range(0, y.shape[0], self._block):
            part = y[first : first + self._block]
            part[...] = self._computed(x[first : first + self._block]).reshape(part.shape)

    def _computed(self, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if isinstance(self.spec, HybridFullyConnectedSpec):
            rows = quantized_rows(self.spec, self._rule, run_shape(x, (self.spec.in_c,)))
            centred = (rows.codes - rows.zero_points[:, None]).astype(self._dtype)
            sums, scales = matmul(centred, self._weights.T), rows.scales[:, None]
        else:
            padded, scales = centred_images(self.spec, self._rule, x)
            convolve = self._depthwise if isinstance(self.spec, HybridDepthwiseConv2dSpec) else self._dense
            sums = convolve(padded.astype(self._dtype))
        return finish(self.spec, self._rule, sums, scales, self._bias)

    def _dense(self, padded: npt.NDArray[Any]) -> npt.NDArray[Any]:
        spec = self.spec
        assert isinstance(spec, HybridConv2dSpec)
        out_h, out_w, out_c = spec.output_shape
        group_in, group_out = spec.in_c // spec.groups, out_c // spec.groups
        parts = []
        for group in range(spec.groups):
            ins = padded[..., group * group_in : (group + 1) * group_in]
            taps = gathered(spec.window, ins, out_h, out_w).reshape(-1, spec.window.taps * group_in)
            kernel = self._weights[group * group_out : (group + 1) * group_out].reshape(group_out, -1)
            parts.append(matmul(taps, kernel.T))
        sums = parts[0] if spec.groups == 1 else np.concatenate(parts, axis=-1)
        return sums.reshape(-1, out_h, out_w, out_c)

    def _depthwise(self, padded: npt.NDArray[Any]) -> npt.NDArray[Any]:
        spec = self.spec
        assert isinstance(spec, HybridDepthwiseConv2dSpec)
        out_h, out_w, out_c = spec.output_shape
        total = np.zeros((padded.shape[0], out_h, out_w, out_c), self._dtype)
        products = np.empty_like(total)
        for kh, kw, pixels in spec.window.views(padded, out_h, out_w):
            seen = pixels if spec.multiplier == 1 else np.repeat(pixels, spec.multiplier, axis=-1)
            np.multiply(seen, self._weights[0, kh, kw], out=products)
            total += products
        return total
