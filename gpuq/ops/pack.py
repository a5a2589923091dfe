"""PACK: tensors of one shape joined along a new dimension.

Source: LiteRT tflite/kernels/pack.cc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops.movement import MovementSpec
from gpuq.ops.spec import Shape, run_shape


@dataclass(frozen=True, kw_only=True)
class PackSpec(MovementSpec):
    """Inputs one after the other. See MovementSpec for the other fields.

    Args:
        count: inputs, each of shape x_shape.
        axis: of the new dimension, in [0, rank].
    """

    op: ClassVar[str] = "PACK"

    count: int
    axis: int

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive(count=self.count)
        self.require(0 <= self.axis <= self.rank, f"axis {self.axis} of a tensor of rank {self.rank + 1}")

    @property
    def output_shape(self) -> Shape:
        return (*self.x_shape[: self.axis], self.count, *self.x_shape[self.axis :])


def reference(spec: PackSpec, rule: Rule, *inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Each input (N, *x_shape), N may be 1 for constants: (N, *output_shape)."""
    parts = [run_shape(x, spec.x_shape) for x in inputs]
    return np.stack(np.broadcast_arrays(*parts), axis=spec.axis + 1)
