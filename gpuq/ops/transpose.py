"""TRANSPOSE: dimensions in another order.

Source: LiteRT tflite/kernels/transpose.cc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops.movement import MovementSpec
from gpuq.ops.spec import Shape, run_shape


@dataclass(frozen=True, kw_only=True)
class TransposeSpec(MovementSpec):
    """A permutation of dimensions. See MovementSpec for the other fields.

    Args:
        perm: output dimension i is input dimension perm[i].
    """

    op: ClassVar[str] = "TRANSPOSE"

    perm: tuple[int, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            sorted(self.perm) == list(range(self.rank)),
            f"perm {self.perm} must name each of {self.rank} dimensions once",
        )

    @property
    def output_shape(self) -> Shape:
        return tuple(self.x_shape[axis] for axis in self.perm)


def reference(spec: TransposeSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N, *x_shape) as a view (N, *output_shape)."""
    return run_shape(x, spec.x_shape).transpose(0, *(axis + 1 for axis in spec.perm))
