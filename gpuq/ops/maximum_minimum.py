"""MAXIMUM and MINIMUM: of raw codes, whose quantizations converters make equal, or of plain integers.

Source: LiteRT tflite/kernels/maximum_minimum.cc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops.broadcast import BroadcastSpec
from gpuq.ops.spec import FLOAT32, INT8, INT16, INT32, INT64, UINT8


@dataclass(frozen=True, kw_only=True)
class MaximumSpec(BroadcastSpec):
    """The larger of two elements. See BroadcastSpec for the other fields.

    Args:
        dtype: int8, uint8, int16, int32, int64 or float32, of all three tensors.
    """

    op: ClassVar[str] = "MAXIMUM"

    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_dtype("input", self.dtype, INT8, UINT8, INT16, INT32, INT64, FLOAT32)

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.dtype


@dataclass(frozen=True, kw_only=True)
class MinimumSpec(MaximumSpec):
    """The smaller of two elements. See MaximumSpec for the fields."""

    op: ClassVar[str] = "MINIMUM"


def reference(spec: MaximumSpec, rule: Rule, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The chosen elements of (N, *a_shape) and (N, *b_shape), either N may be 1: (N, *output_shape)."""
    a, b = spec.aligned(a, b)
    return np.asarray(np.minimum(a, b) if isinstance(spec, MinimumSpec) else np.maximum(a, b))
