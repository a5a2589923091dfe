"""PAD and CONCATENATION on plain numbers, whose kin on codes frame by a zero point or rescale.

Sources: LiteRT f67457790, tflite/kernels/{pad,concatenation}.cc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops.movement import MovementSpec
from gpuq.ops.pad import FrameSpec
from gpuq.ops.spec import Shape, run_shape, shape_text


@dataclass(frozen=True, kw_only=True)
class PlainPadSpec(FrameSpec):
    """A frame of zeros. See FrameSpec for the fields."""

    op: ClassVar[str] = "PAD"


@dataclass(frozen=True, kw_only=True)
class PlainConcatenationSpec(MovementSpec):
    """Tensors joined along one dimension.

    Args:
        x_shape, dtype: of one run of the first input; see MovementSpec.
        x_shapes: of all inputs, equal but along the axis.
        axis: in [0, rank).
    """

    op: ClassVar[str] = "CONCATENATION"

    x_shapes: tuple[Shape, ...]
    axis: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_axis(self.axis)
        first = self.x_shapes[0]
        for shape in self.x_shapes:
            same = shape[: self.axis] + shape[self.axis + 1 :] == first[: self.axis] + first[self.axis + 1 :]
            self.require(
                same and len(shape) == len(first),
                f"inputs {shape_text(first)} and {shape_text(shape)} differ beside axis {self.axis}",
            )

    @property
    def output_shape(self) -> Shape:
        joined = list(self.x_shapes[0])
        joined[self.axis] = sum(shape[self.axis] for shape in self.x_shapes)
        return tuple(joined)


def pad(spec: PlainPadSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N, *x_shape) framed: (N, *output_shape)."""
    return np.pad(run_shape(x, spec.x_shape), ((0, 0), *spec.pads))


def concatenation(spec: PlainConcatenationSpec, rule: Rule, *inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Inputs (N, *shape), any N may be 1: (N, *output_shape)."""
    parts = [run_shape(x, shape) for x, shape in zip(inputs, spec.x_shapes, strict=True)]
    runs = max(part.shape[0] for part in parts)
    return np.concatenate([np.broadcast_to(part, (runs, *part.shape[1:])) for part in parts], axis=spec.axis + 1)
