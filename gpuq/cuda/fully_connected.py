"""FULLY_CONNECTED on dp4a and dp2a: the convolution of one pixel by one tap.

A vector or a few of them go to the direct convolution, which reads each weight once and in order; more rows to the
implicit GEMM, whose "pixels" they are. Both read cuda/conv2d.py's packed layout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from gpuq.numerics import Rule
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
        return self.conv2d.x_shapes

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return 1, 1, self.spec.out_c

    def choices(self, runs: int, traits: Traits) -> Sequence[Any]:
        return self.conv2d.choices(runs, traits)

    def workspace_bytes(self, runs: int, choice: Any) -> int:
        return self.conv2d.workspace_bytes(runs, choice)

    def launches(self, choice: Any, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        return self.conv2d.launches(choice, inputs, output)


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
    spec_of_one_pixel = Conv2dSpec(
        in_h=1,
        in_w=1,
        in_c=spec.in_c,
        out_c=spec.out_c,
        window=Window2d(kernel_h=1, kernel_w=1),
        x_quant=spec.x_quant,
        w_quant=w_quant,
        out_quant=spec.out_quant,
        activation=spec.activation,
        bias_dtype=spec.bias_dtype,
    )
    rows = weights.reshape(spec.out_c, 1, 1, spec.in_c)
    if spec.activation_dtype == INT16:
        return FullyConnectedLayer(spec, conv2d_int16.pack(spec_of_one_pixel, rule, rows, bias, w_zero_point))
    return FullyConnectedLayer(spec, conv2d.pack(spec_of_one_pixel, rule, rows, bias, fusion, w_zero_point))
