"""ARG_MAX: the index of the largest element along one dimension; the first one wins.

Source: LiteRT tflite/kernels/arg_min_max.cc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops.spec import FLOAT32, INT8, INT32, INT64, UINT8, Shape, Spec, run_shape


@dataclass(frozen=True, kw_only=True)
class ArgMaxSpec(Spec):
    """Index of the maximum.

    Args:
        x_shape: shape of one run.
        axis: in [0, rank).
        dtype: int8, uint8 or float32.
        out_dtype: int32 or int64.
    """

    op: ClassVar[str] = "ARG_MAX"

    x_shape: Shape
    axis: int
    dtype: np.dtype[Any]
    out_dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        self.require_dtype("input", self.dtype, INT8, UINT8, FLOAT32)
        self.require_dtype("output", self.out_dtype, INT32, INT64)
        self.require(0 <= self.axis < len(self.x_shape), f"axis {self.axis} of a tensor of rank {len(self.x_shape)}")

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.dtype

    @property
    def output_shape(self) -> Shape:
        return self.x_shape[: self.axis] + self.x_shape[self.axis + 1 :]


def reference(spec: ArgMaxSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N, *x_shape): (N, *output_shape) indices."""
    indices = np.asarray(np.argmax(run_shape(x, spec.x_shape), axis=spec.axis + 1), spec.out_dtype)
    return indices.reshape(-1, *spec.output_shape)
