"""MEAN, SUM and L2_NORMALIZATION on float32.

Sums run in float32, element by element in memory's order, as in the reference kernels. The optimized ones have orders
of their own: for n elements of absolute sum s their results lie within 2 * n * s * 2^-24 of ours.

Sources: LiteRT f67457790, tflite/kernels/reduce.cc, internal/reference/{reduce,l2normalization}.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops.reduce import ReduceSpec
from gpuq.ops.spec import FLOAT32, Shape, Spec, run_shape

FloatArray = npt.NDArray[np.float32]

# The kernel's, so that a row of zeros stays one.
_L2_EPSILON = np.float32(1e-6)


@dataclass(frozen=True, kw_only=True)
class FloatReduceSpec(ReduceSpec):
    """A reduction of float32 elements. See ReduceSpec for the fields."""

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return FLOAT32


@dataclass(frozen=True, kw_only=True)
class FloatMeanSpec(FloatReduceSpec):
    """The mean over some dimensions. See ReduceSpec for the fields."""

    op: ClassVar[str] = "MEAN"


@dataclass(frozen=True, kw_only=True)
class FloatSumSpec(FloatReduceSpec):
    """The sum over some dimensions. See ReduceSpec for the fields."""

    op: ClassVar[str] = "SUM"


@dataclass(frozen=True, kw_only=True)
class FloatL2NormalizationSpec(Spec):
    """Rows divided by their length.

    Args:
        depth: elements of a row.
    """

    op: ClassVar[str] = "L2_NORMALIZATION"

    depth: int

    def __post_init__(self) -> None:
        self.require_positive(depth=self.depth)

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return FLOAT32

    @property
    def output_shape(self) -> Shape:
        return (self.depth,)


def reduce(spec: FloatReduceSpec, rule: Rule, x: FloatArray) -> FloatArray:
    """(N, *x_shape) to (N, *output_shape)."""
    values = run_shape(x, spec.x_shape)
    kept = [axis for axis in range(values.ndim) if axis not in spec.run_axes]
    parts = values.transpose(*spec.run_axes, *kept).reshape(spec.count, *(values.shape[axis] for axis in kept))
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        total = np.zeros(parts.shape[1:], np.float32)
        for part in parts:
            total += part
        if isinstance(spec, FloatMeanSpec):
            total = total / np.float32(spec.count)
    return total.reshape(-1, *spec.output_shape)


def l2_normalization(spec: FloatL2NormalizationSpec, rule: Rule, x: FloatArray) -> FloatArray:
    """(..., depth) values of the same shape."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        # cumsum adds one element after the other; sum would add pairs.
        squares = np.cumsum(x * x, axis=-1, dtype=np.float32)[..., -1:]
        return np.asarray(x / np.maximum(np.sqrt(squares), _L2_EPSILON))
