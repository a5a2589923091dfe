"""FULLY_CONNECTED: y[n,o] = clamp(zp_y + requant(b[o] + sum_i (x[n,i] - zp_x) * (w[o,i] - zp_w))).

Layouts: x flattened to rows of I, w (O, I), b (O,), y rows of O.
Sources: LiteRT tflite/kernels/fully_connected.cc, internal/reference/{fully_connected.h,integer_ops/fully_connected.h}.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Rule
from gpuq.ops.conv2d import check_convolution_quants, check_weights, finish
from gpuq.ops.spec import INT32, Shape, Spec, run_shape
from gpuq.quant import Quant


@dataclass(frozen=True, kw_only=True)
class FullyConnectedSpec(Spec):
    """A quantized dense layer.

    Args:
        in_c: elements of one input row, I.
        out_c: elements of one output row, O.
        x_quant, out_quant: per tensor, int8, uint8 or int16 (zero point 0), the same dtype.
        w_quant: int8 or uint8 per tensor (its zero point counts), or int8 with one scale per output, axis 0.
        activation: None, "relu", "relu6" or "relu_n1_to_1", fused.
        weight_bits: 4 or 2 where the file packs weights into a byte; they are codes of w_quant all the same.
        has_bias: without one LiteRT's optimized kernels take another rule for int16.
        bias_dtype: of the bias, and of the sums, which wrap; int32, or int64 for int16 activations.
    """

    op: ClassVar[str] = "FULLY_CONNECTED"
    has_weights: ClassVar[bool] = True

    in_c: int
    out_c: int
    x_quant: Quant
    w_quant: Quant
    out_quant: Quant
    activation: str | None = None
    weight_bits: int = 8
    has_bias: bool = True
    bias_dtype: np.dtype[Any] = INT32

    def __post_init__(self) -> None:
        self.require_positive(in_c=self.in_c, out_c=self.out_c)
        check_convolution_quants(self, self.x_quant, self.w_quant, self.out_quant, self.out_c, axis=0)
        numerics.activation_range(self.activation, self.out_quant)

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.x_quant.dtype

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


def reference(
    spec: FullyConnectedSpec,
    rule: Rule,
    x: npt.NDArray[Any],
    weights: npt.NDArray[Any],
    bias: npt.NDArray[Any] | None = None,
) -> npt.NDArray[Any]:
    """Exact output, the plain way: one int64 matrix product.

    Args:
        x: codes, any shape whose elements are rows of I.
        weights: (O, I) codes.
        bias: (O,) of bias_dtype, or None.

    Returns:
        (rows, O) codes.
    """
    check_weights(spec, weights, bias, spec.weights_shape, spec.out_c)
    centred = run_shape(x, (spec.in_c,)).astype(np.int64) - spec.x_quant.scalar_zero_point()
    kernel = weights.astype(np.int64) - spec.w_quant.zero_points.reshape(-1, 1)
    return finish(spec, rule, centred @ kernel.T, bias)
