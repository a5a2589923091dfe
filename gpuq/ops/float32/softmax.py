"""SOFTMAX on float32: y = exp((x - max) * beta) / sum, each step in float32, the sum from the first element on.

Sources: LiteRT f67457790, tflite/kernels/internal/reference/softmax.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops.float32.exponential import expf
from gpuq.ops.spec import FLOAT32, Shape, Spec


@dataclass(frozen=True, kw_only=True)
class FloatSoftmaxSpec(Spec):
    """Softmax along the last axis.

    Args:
        depth: elements of a row.
        beta: factor of the exponent, above 0.
    """

    op: ClassVar[str] = "SOFTMAX"

    depth: int
    beta: float = 1.0

    def __post_init__(self) -> None:
        self.require_positive(depth=self.depth)
        self.require(self.beta > 0, f"beta={self.beta} must be positive")

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return FLOAT32

    @property
    def output_shape(self) -> Shape:
        return (self.depth,)


def softmax(spec: FloatSoftmaxSpec, rule: Rule, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(..., depth) values of the same shape."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        exponents = (x - x.max(axis=-1, keepdims=True)) * np.float32(spec.beta)
        terms = expf(exponents)
        # cumsum adds one element after the other; sum would add pairs.
        total = np.cumsum(terms, axis=-1, dtype=np.float32)[..., -1:]
        return np.asarray(terms / total, np.float32)
