"""EQUAL, NOT_EQUAL, GREATER, GREATER_EQUAL, LESS, LESS_EQUAL: of integers, or of codes as real numbers.

8-bit codes are brought to 8 fraction bits first: v_i = V1((q_i - zp_i) * 2^8, s_i). Small scales so make unlike codes
equal. So are int16 codes in EQUAL and NOT_EQUAL; the others compare them as they are, whatever their scales say.
Source: LiteRT tflite/kernels/comparisons.cc, internal/reference/comparisons.h (ComparisonWithScaling).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Rounding, Rule
from gpuq.ops.broadcast import BroadcastSpec
from gpuq.ops.spec import BOOL, FLOAT32, INT8, INT16, INT32, INT64, UINT8
from gpuq.quant import Quant

EXTRA_BITS = 8


@dataclass(frozen=True, kw_only=True)
class ComparisonSpec(BroadcastSpec):
    """A comparison; the output is bool. See BroadcastSpec for the other fields.

    Args:
        dtype: int8, uint8, int16, int32, int64 or float32, of both inputs; EQUAL and NOT_EQUAL also take bool.
        a_quant, b_quant: per tensor, of scales below 1, where dtype has 8 bits; of any scale or both None where it is
            int16, with zero point 0; None elsewhere.
    """

    compare: ClassVar[np.ufunc]

    dtype: np.dtype[Any]
    a_quant: Quant | None = None
    b_quant: Quant | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_dtype(
            "input", self.dtype, INT8, UINT8, INT16, INT32, INT64, FLOAT32, *([BOOL] if self.takes_bool else [])
        )
        if self.dtype not in (INT8, UINT8) and (self.dtype != INT16 or not (self.a_quant or self.b_quant)):
            return
        for name, quant in (("a_quant", self.a_quant), ("b_quant", self.b_quant)):
            if quant is None:
                raise self.fail(f"{name} is missing")
            self.require_dtype(name, quant.dtype, self.dtype)
            self.require_per_tensor(**{name: quant})
            self.require_symmetric_int16(**{name: quant})
            self.require(self.dtype == INT16 or quant.scalar_scale() < 1, f"{name} scale {quant.scale} must be below 1")

    @property
    def takes_bool(self) -> bool:
        return self.compare in (np.equal, np.not_equal)

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.dtype


@dataclass(frozen=True, kw_only=True)
class EqualSpec(ComparisonSpec):
    """a = b. See ComparisonSpec for the fields."""

    op: ClassVar[str] = "EQUAL"
    compare: ClassVar[np.ufunc] = np.equal


@dataclass(frozen=True, kw_only=True)
class NotEqualSpec(ComparisonSpec):
    """a != b. See ComparisonSpec for the fields."""

    op: ClassVar[str] = "NOT_EQUAL"
    compare: ClassVar[np.ufunc] = np.not_equal


@dataclass(frozen=True, kw_only=True)
class GreaterSpec(ComparisonSpec):
    """a > b. See ComparisonSpec for the fields."""

    op: ClassVar[str] = "GREATER"
    compare: ClassVar[np.ufunc] = np.greater


@dataclass(frozen=True, kw_only=True)
class GreaterEqualSpec(ComparisonSpec):
    """a >= b. See ComparisonSpec for the fields."""

    op: ClassVar[str] = "GREATER_EQUAL"
    compare: ClassVar[np.ufunc] = np.greater_equal


@dataclass(frozen=True, kw_only=True)
class LessSpec(ComparisonSpec):
    """a < b. See ComparisonSpec for the fields."""

    op: ClassVar[str] = "LESS"
    compare: ClassVar[np.ufunc] = np.less


@dataclass(frozen=True, kw_only=True)
class LessEqualSpec(ComparisonSpec):
    """a <= b. See ComparisonSpec for the fields."""

    op: ClassVar[str] = "LESS_EQUAL"
    compare: ClassVar[np.ufunc] = np.less_equal


COMPARISONS = (EqualSpec, NotEqualSpec, GreaterSpec, GreaterEqualSpec, LessSpec, LessEqualSpec)


def compared(codes: npt.NDArray[Any], quant: Quant | None, rule: Rule) -> npt.NDArray[Any]:
    """What is compared: numbers as they are, codes as reals with 8 fraction bits."""
    if quant is None or rule.rounding is Rounding.EXACT:
        return codes
    raised = (codes.astype(np.int64) - quant.scalar_zero_point()) << EXTRA_BITS
    return numerics.requantize(raised, rule.rounding, np.array(quant.scalar_scale()))


def reference(spec: ComparisonSpec, rule: Rule, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Compares (N, *a_shape) and (N, *b_shape), either N may be 1: (N, *output_shape) bools."""
    a, b = spec.aligned(compared(a, spec.a_quant, rule), compared(b, spec.b_quant, rule))
    return np.asarray(spec.compare(a, b))
