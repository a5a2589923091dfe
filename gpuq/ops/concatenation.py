"""CONCATENATION: copies; uint8 inputs whose parameters differ from the output's are rescaled in float32.

    y = clamp(round(float32(q * k + c)) + zp_y), k = s_x * (1 / s_y), c = -zp_x * k, each rounded to float32.

Source: LiteRT tflite/kernels/concatenation.cc, internal/reference/concatenation.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops.spec import INT8, INT16, UINT8, Shape, Spec, clamp_to, run_shape, shape_text
from gpuq.quant import Quant, round_half_away


@dataclass(frozen=True, kw_only=True)
class ConcatenationSpec(Spec):
    """Tensors joined along one dimension.

    Args:
        x_shapes: shapes of one run of each input, equal but along the axis.
        axis: in [0, rank).
        x_quants: one per input, per tensor; int8 inputs must have the output's parameters; int16 codes are
            copied, whatever their scale.
        out_quant: per tensor, int8, uint8 or int16, the inputs' dtype.
    """

    op: ClassVar[str] = "CONCATENATION"

    x_shapes: tuple[Shape, ...]
    axis: int
    x_quants: tuple[Quant, ...]
    out_quant: Quant

    def __post_init__(self) -> None:
        self.require(len(self.x_shapes) >= 1 and len(self.x_shapes) == len(self.x_quants), "needs at least one input")
        self.require_dtype("output", self.out_quant.dtype, INT8, UINT8, INT16)
        self.require_per_tensor(out_quant=self.out_quant)
        first = self.x_shapes[0]
        self.require(0 <= self.axis < len(first), f"axis {self.axis} of a tensor of rank {len(first)}")
        for shape, quant in zip(self.x_shapes, self.x_quants, strict=True):
            self.require_dtype("input", quant.dtype, self.out_quant.dtype)
            self.require_per_tensor(x_quant=quant)
            self.require_symmetric_int16(x_quant=quant, out_quant=self.out_quant)
            same = len(shape) == len(first) and all(
                a == b for i, (a, b) in enumerate(zip(shape, first, strict=True)) if i != self.axis
            )
            self.require(same, f"inputs {shape_text(first)} and {shape_text(shape)} differ beside axis {self.axis}")
            if quant.dtype == INT8:
                self.require(quant == self.out_quant, "int8 inputs must have the output's scale and zero point")
            self.require(
                bool(np.isfinite(255 * rescaling_factor(quant, self.out_quant))),
                f"input scale {quant.scale} over output scale {self.out_quant.scale} is beyond float32",
            )

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.out_quant.dtype

    @property
    def output_shape(self) -> Shape:
        joined = list(self.x_shapes[0])
        joined[self.axis] = sum(shape[self.axis] for shape in self.x_shapes)
        return tuple(joined)


def rescaling_factor(x_quant: Quant, out_quant: Quant) -> np.float32:
    """s_x * (1 / s_y), each step in float32."""
    with np.errstate(over="ignore"):
        return np.float32(x_quant.scalar_scale()) * (np.float32(1) / np.float32(out_quant.scalar_scale()))


def rescaled(x: npt.NDArray[Any], x_quant: Quant, out_quant: Quant) -> npt.NDArray[Any]:
    """uint8 codes in the output's quantization, by float32 arithmetic; other codes as they are."""
    if x_quant == out_quant or x_quant.dtype != UINT8:
        return x
    factor = rescaling_factor(x_quant, out_quant)
    offset = np.float32(-x_quant.scalar_zero_point()) * factor
    codes = round_half_away(x.astype(np.float32) * factor + offset)
    return clamp_to(codes + out_quant.scalar_zero_point(), out_quant.qmin, out_quant.qmax, out_quant.dtype)


def reference(spec: ConcatenationSpec, rule: Rule, *inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Each input (N, *x_shape) codes, N may be 1 for constants: (N, *output_shape) codes."""
    parts = [run_shape(x, shape) for x, shape in zip(inputs, spec.x_shapes, strict=True)]
    runs = max(part.shape[0] for part in parts)
    pieces = [
        np.broadcast_to(rescaled(part, quant, spec.out_quant), (runs, *part.shape[1:]))
        for part, quant in zip(parts, spec.x_quants, strict=True)
    ]
    return np.concatenate(pieces, axis=spec.axis + 1)
