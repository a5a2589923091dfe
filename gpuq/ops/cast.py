"""CAST: numbers of one integer type as another, by C's conversions.

Source: LiteRT tflite/kernels/cast.cc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops.spec import BOOL, INT8, INT16, INT32, INT64, UINT8, Shape, Spec

KINDS = (INT8, UINT8, INT16, INT32, INT64, BOOL)


@dataclass(frozen=True, kw_only=True)
class CastSpec(Spec):
    """A conversion of raw numbers: modulo 2^bits to integers, anything but 0 is true.

    Args:
        shape: shape of one run.
        dtype, out_dtype: int8, uint8, int16, int32, int64 or bool; quantization is ignored.
    """

    op: ClassVar[str] = "CAST"

    shape: Shape
    dtype: np.dtype[Any]
    out_dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        self.require_dtype("input", self.dtype, *KINDS)
        self.require_dtype("output", self.out_dtype, *KINDS)

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.dtype

    @property
    def output_shape(self) -> Shape:
        return self.shape


def reference(spec: CastSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Converted numbers of any shape."""
    return x.astype(spec.out_dtype)
