"""GATHER and GATHER_ND: elements or slices at indices that are data.

Sources: LiteRT tflite/kernels/{gather,gather_nd}.cc, internal/reference/gather.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops.movement import MovementSpec
from gpuq.ops.spec import INT16, INT32, INT64, Shape, run_shape, shape_text


@dataclass(frozen=True, kw_only=True)
class GatherSpec(MovementSpec):
    """Slices along one dimension. See MovementSpec for the other fields.

    Args:
        indices_shape: shape of one run of the indices.
        indices_dtype: int16, int32 or int64. An index outside the dimension is an error while running.
        axis: in [0, rank); its place is taken by the dimensions of the indices.
        batch_dims: leading dimensions that input and indices share, at most axis.
    """

    op: ClassVar[str] = "GATHER"

    indices_shape: Shape
    indices_dtype: np.dtype[Any]
    axis: int
    batch_dims: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_dtype("indices", self.indices_dtype, INT16, INT32, INT64)
        self.require_axis(self.axis)
        self.require(
            0 <= self.batch_dims <= min(self.axis, len(self.indices_shape)),
            f"batch_dims {self.batch_dims} must be at most axis {self.axis} and the indices' rank "
            f"{len(self.indices_shape)}",
        )
        self.require(
            self.x_shape[: self.batch_dims] == self.indices_shape[: self.batch_dims],
            f"the first {self.batch_dims} dimensions of input {shape_text(self.x_shape)} and indices "
            f"{shape_text(self.indices_shape)} must be equal",
        )

    def check_indices(self, indices: npt.NDArray[Any]) -> None:
        """Raises unless all indices lie inside the dimension."""
        _require_inside(self, indices, self.axis)

    @property
    def output_shape(self) -> Shape:
        return self.x_shape[: self.axis] + self.indices_shape[self.batch_dims :] + self.x_shape[self.axis + 1 :]


@dataclass(frozen=True, kw_only=True)
class GatherNdSpec(MovementSpec):
    """Elements, or slices of trailing dimensions. See MovementSpec for the other fields.

    Args:
        indices_shape: shape of one run of the indices; each row of the last dimension is one coordinate.
        indices_dtype: int16, int32 or int64. A coordinate outside the input is an error while running.
    """

    op: ClassVar[str] = "GATHER_ND"

    indices_shape: Shape
    indices_dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_dtype("indices", self.indices_dtype, INT16, INT32, INT64)
        self.require(len(self.indices_shape) >= 1, "indices must have rank 1 or more")
        self.require(
            self.indices_shape[-1] <= self.rank,
            f"coordinates of {self.indices_shape[-1]} dimensions in a tensor of rank {self.rank}",
        )

    def check_indices(self, indices: npt.NDArray[Any]) -> None:
        """Raises unless all coordinates lie inside the input."""
        for axis in range(self.indices_shape[-1]):
            _require_inside(self, indices[..., axis], axis)

    @property
    def output_shape(self) -> Shape:
        return self.indices_shape[:-1] + self.x_shape[self.indices_shape[-1] :]


def _require_inside(spec: MovementSpec, indices: npt.NDArray[Any], axis: int) -> None:
    outside = (indices < 0) | (indices >= spec.x_shape[axis])
    if np.any(outside):
        bad = indices[outside][0]
        raise spec.fail(f"index {bad} of dimension {axis}, which has {spec.x_shape[axis]} elements")


def reference(spec: GatherSpec, rule: Rule, x: npt.NDArray[Any], indices: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N, *x_shape) and (N, *indices_shape), either N may be 1: (N, *output_shape)."""
    spec.check_indices(indices)
    x, indices = run_shape(x, spec.x_shape), run_shape(indices, spec.indices_shape)
    if spec.batch_dims == 0 and indices.shape[0] == 1:
        return np.asarray(np.take(x, indices[0], axis=spec.axis + 1))
    runs = max(x.shape[0], indices.shape[0])
    batch, outer = spec.x_shape[: spec.batch_dims], spec.x_shape[spec.batch_dims : spec.axis]
    inner, picked = spec.x_shape[spec.axis + 1 :], spec.indices_shape[spec.batch_dims :]
    # Runs and batch dimensions become one, pairs of which with an index choose (outer, inner).
    rows = np.broadcast_to(x, (runs, *spec.x_shape)).reshape(-1, *outer, spec.x_shape[spec.axis], *inner)
    chosen = np.broadcast_to(indices, (runs, *spec.indices_shape)).reshape(rows.shape[0], -1)
    rows = np.moveaxis(rows, 1 + len(outer), 1)
    found = rows[np.arange(rows.shape[0])[:, None], chosen]
    found = np.moveaxis(found, 1, 1 + len(outer))
    return np.asarray(found).reshape(runs, *batch, *outer, *picked, *inner)


def nd_reference(spec: GatherNdSpec, rule: Rule, x: npt.NDArray[Any], indices: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N, *x_shape) and (N, *indices_shape), either N may be 1: (N, *output_shape)."""
    x, indices = run_shape(x, spec.x_shape), run_shape(indices, spec.indices_shape)
    spec.check_indices(indices)
    coordinates = [indices[..., axis] for axis in range(spec.indices_shape[-1])]
    runs = np.arange(max(x.shape[0], indices.shape[0])).reshape(-1, *(1,) * (indices.ndim - 2))
    return np.asarray(np.broadcast_to(x, (runs.shape[0], *spec.x_shape))[(runs, *coordinates)])
