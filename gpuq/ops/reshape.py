"""RESHAPE, SQUEEZE, EXPAND_DIMS: the same elements in the same order under another shape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops.spec import Shape, Spec, run_shape, shape_text


@dataclass(frozen=True, kw_only=True)
class ReshapeSpec(Spec):
    """A new shape for the same elements.

    Args:
        x_shape, out_shape: shapes of one run, with the same number of elements.
        dtype: any.
    """

    op: ClassVar[str] = "RESHAPE"
    is_view: ClassVar[bool] = True

    x_shape: Shape
    out_shape: Shape
    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        self.require(
            math.prod(self.x_shape) == math.prod(self.out_shape),
            f"input {shape_text(self.x_shape)} has {math.prod(self.x_shape)} elements, "
            f"output {shape_text(self.out_shape)} has {math.prod(self.out_shape)}",
        )

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.dtype

    @property
    def output_shape(self) -> Shape:
        return self.out_shape


@dataclass(frozen=True, kw_only=True)
class SqueezeSpec(ReshapeSpec):
    """Dimensions of 1 taken out. See ReshapeSpec for the fields."""

    op: ClassVar[str] = "SQUEEZE"


@dataclass(frozen=True, kw_only=True)
class ExpandDimsSpec(ReshapeSpec):
    """A dimension of 1 put in. See ReshapeSpec for the fields."""

    op: ClassVar[str] = "EXPAND_DIMS"


def reference(spec: ReshapeSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N, *x_shape) as (N, *out_shape)."""
    return run_shape(x, spec.out_shape)
