"""FULLY_CONNECTED on dp4a and dp2a: the convolution of one pixel by one tap.

Weights of int16 layers that leave int8 when their zero point is taken off are a sum of several int8: as many taps, of
pixels that are all the same one.

A vector or a few of them go to the direct convolution, which reads each weight once and in order; more rows to the
implicit GEMM, whose "pixels" they are. Both read cuda/conv2d.py's packed layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cuda import conv2d, conv2d_int16
from gpuq.cuda.conv2d import Conv2dLayer
from gpuq.cuda.conv2d_int16 import Conv2dInt16Layer
from gpuq.cuda.epilogue import Fusion
from gpuq.cuda.kernel import Launch
from gpuq.cuda.layer import Traits
from gpuq.cuda.layout import ImageLayout
from gpuq.numerics import Int64Array, Rule
from gpuq.ops.conv2d import Conv2dSpec, check_weights
from gpuq.ops.fully_connected import FullyConnectedSpec
from gpuq.ops.spec import INT16
from gpuq.ops.window import Window2d
from gpuq.quant import Quant


@dataclass(frozen=True, eq=False)
class FullyConnectedLayer:
    """A packed dense layer."""

    spec: FullyConnectedSpec
    conv2d: Conv2dLayer | Conv2dInt16Layer

    @property
    def constants(self) -> Mapping[str, npt.NDArray[Any]]:
        return self.conv2d.constants

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return ((1, 1, self.spec.in_c), *self.conv2d.x_shapes[1:])

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return 1, 1, self.spec.out_c

    def choices(self, runs: int, traits: Traits) -> Sequence[Any]:
        return self.conv2d.choices(runs, traits)

    def workspace_bytes(self, runs: int, choice: Any) -> int:
        return self.conv2d.workspace_bytes(runs, choice)

    def launches(self, choice: Any, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        # Where the convolution has several rows, all of them are this one.
        x, *residual = inputs
        return self.conv2d.launches(choice, [replace(x, row_pitch=0), *residual], output)


def pack(
    spec: FullyConnectedSpec,
    rule: Rule,
    weights: npt.NDArray[Any],
    bias: npt.NDArray[Any] | None,
    fusion: Fusion | None = None,
) -> FullyConnectedLayer:
    """Packs a layer's constants.

    Args:
        weights: (O, I) codes.
        bias: (O,) of the spec's bias_dtype, or None.
        fusion: what follows in the same kernel.
    """
    check_weights(spec, weights, bias, spec.weights_shape, spec.out_c)
    w_quant, w_zero_point = spec.w_quant, int(spec.w_quant.zero_points[0])
    if not w_quant.is_per_channel and w_quant.dtype == np.int8:
        # int8 weights with a zero point are FULLY_CONNECTED's alone.
        w_quant = Quant(w_quant.scalar_scale(), 0)
    rows = [weights]
    if spec.activation_dtype == INT16:
        rows = int8_parts(weights.astype(np.int64) - w_zero_point)
    as_conv2d = Conv2dSpec(
        in_h=len(rows),
        in_w=1,
        in_c=spec.in_c,
        out_c=spec.out_c,
        window=Window2d(kernel_h=len(rows), kernel_w=1),
        x_quant=spec.x_quant,
        w_quant=w_quant,
        out_quant=spec.out_quant,
        activation=spec.activation,
        bias_dtype=spec.bias_dtype,
    )
    codes = np.stack(rows, axis=1).reshape(as_conv2d.weights_shape)
    if spec.activation_dtype == INT16:
        return FullyConnectedLayer(spec, conv2d_int16.pack(as_conv2d, rule, codes, bias))
    return FullyConnectedLayer(spec, conv2d.pack(as_conv2d, rule, codes, bias, fusion, w_zero_point))


def int8_parts(values: Int64Array) -> list[npt.NDArray[np.int8]]:
    """Arrays of int8 whose sum this is, as few as can be: weights minus their zero point may need three."""
    parts = [np.clip(values, -128, 127)]
    while (values != sum(parts)).any():
        parts.append(np.clip(values - sum(parts), -128, 127))
    return [part.astype(np.int8) for part in parts]
