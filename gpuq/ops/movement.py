"""What operators share that only move elements: codes and numbers alike, whatever their quantization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuq.ops.spec import BOOL, FLOAT32, INT8, INT16, INT32, INT64, UINT8, Shape, Spec, shape_text


@dataclass(frozen=True, kw_only=True)
class MovementSpec(Spec):
    """An operator whose output holds elements of its first input.

    Args:
        x_shape: shape of one run.
        dtype: int8, uint8, int16, int32, int64, bool or float32, of input and output.
    """

    x_shape: Shape
    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        self.require_dtype("input", self.dtype, INT8, UINT8, INT16, INT32, INT64, BOOL, FLOAT32)

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.dtype

    @property
    def rank(self) -> int:
        """Dimensions of one run."""
        return len(self.x_shape)

    def require_axis(self, axis: int) -> None:
        """Raises unless the axis lies in [0, rank)."""
        self.require(0 <= axis < self.rank, f"axis {axis} of a tensor of rank {self.rank}")

    def require_rank(self, rank: int) -> None:
        """Raises unless the input has this rank."""
        self.require(self.rank == rank, f"input {shape_text(self.x_shape)} must have rank {rank}")
