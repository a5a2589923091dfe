"""PAD: the input framed by codes of real 0 (the output's zero point).

Source: LiteRT tflite/kernels/pad.cc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops.spec import INT8, UINT8, Shape, Spec, run_shape
from gpuq.quant import Quant


@dataclass(frozen=True, kw_only=True)
class PadSpec(Spec):
    """Elements before and after each dimension.

    Args:
        x_shape: shape of one run.
        pads: (before, after) of each dimension of x_shape.
        out_quant: int8 or uint8, per tensor; its zero point is the value of the frame. Codes are copied.
    """

    op: ClassVar[str] = "PAD"

    x_shape: Shape
    pads: tuple[tuple[int, int], ...]
    out_quant: Quant

    def __post_init__(self) -> None:
        self.require_dtype("input", self.out_quant.dtype, INT8, UINT8)
        self.require(not self.out_quant.is_per_channel, "the output must be quantized per tensor")
        self.require(
            len(self.pads) == len(self.x_shape), f"{len(self.pads)} pairs of pads for {len(self.x_shape)} dimensions"
        )
        self.require(all(pad >= 0 for pair in self.pads for pad in pair), f"pads {self.pads} must not be negative")

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.out_quant.dtype

    @property
    def output_shape(self) -> Shape:
        return tuple(before + size + after for size, (before, after) in zip(self.x_shape, self.pads, strict=True))


def reference(spec: PadSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N, *x_shape) codes framed: (N, *output_shape) codes."""
    codes = run_shape(x, spec.x_shape)
    return np.pad(codes, ((0, 0), *spec.pads), constant_values=spec.out_quant.scalar_zero_point())
