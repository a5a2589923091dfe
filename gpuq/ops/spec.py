"""What all operator Specs share, and the checks they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.errors import InputTypeError, InputValueError
from gpuq.quant import Quant

Shape = tuple[int, ...]
INT8 = np.dtype(np.int8)
UINT8 = np.dtype(np.uint8)
INT16 = np.dtype(np.int16)
FLOAT32 = np.dtype(np.float32)
INT32 = np.dtype(np.int32)
INT64 = np.dtype(np.int64)
BOOL = np.dtype(np.bool_)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One operator, checked: everything that its result depends on but the data. Frozen and hashable.

    Attributes:
        op: the TFLite name.
        is_view: the output holds the input's bytes in the same order, so that it can share its memory.
        has_weights: the operands after the first are weights and bias, which have no run axis.
    """

    op: ClassVar[str]
    is_view: ClassVar[bool] = False
    has_weights: ClassVar[bool] = False

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        """The dtype of the first input, which profiles decide by."""
        raise TypeError(f"{type(self).__name__} does not say its activation dtype")

    @property
    def output_shape(self) -> Shape:
        """The shape of the output of one run; operators on images leave out the batch dimension."""
        raise TypeError(f"{type(self).__name__} does not say its output shape")

    @property
    def macs(self) -> int:
        """Multiply-accumulates of ``output_shape``, 0 for operators that have none."""
        return 0

    def fail(self, rule: str) -> InputValueError:
        """The error for a broken rule, headed by the operator's name."""
        return InputValueError(f"{self.op}: {rule}")

    def require(self, holds: bool, rule: str) -> None:
        """Raises `fail(rule)` unless the rule holds."""
        if not holds:
            raise self.fail(rule)

    def require_dtype(self, what: str, dtype: np.dtype[Any], *allowed: np.dtype[Any]) -> None:
        """Raises InputTypeError unless the dtype is among those allowed."""
        if dtype not in allowed:
            names = " or ".join(str(one) for one in allowed)
            raise InputTypeError(f"{self.op}: {what} of {dtype} is not supported; it must be {names}")

    def require_per_tensor(self, **quants: Quant) -> None:
        """Raises unless each Quant is per tensor with a positive scale."""
        for name, quant in quants.items():
            self.require(not quant.is_per_channel, f"{name} must be per tensor, it has {quant.scales.size} scales")
            self.require(quant.scales[0] > 0, f"{name} scale must be positive, it is 0")

    def require_symmetric_int16(self, **quants: Quant) -> None:
        """Raises unless int16 activations have zero point 0, as all runtimes demand."""
        for name, quant in quants.items():
            if quant.dtype == INT16:
                self.require(quant.zero_point == 0, f"{name} of int16 must have zero point 0, got {quant.zero_point}")

    def require_positive(self, **values: int) -> None:
        """Raises unless each value is at least 1."""
        for name, value in values.items():
            self.require(value >= 1, f"{name}={value} must be at least 1")


def run_shape(x: npt.NDArray[Any], shape: Shape) -> npt.NDArray[Any]:
    """An array of N runs, any layout of leading axes, as (N, *shape)."""
    return x.reshape(-1, *shape)


def clamp_to(codes: npt.NDArray[Any], low: int, high: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Codes clamped to [low, high] as this dtype."""
    return np.asarray(np.clip(codes, low, high), dtype)


def shape_text(shape: Sequence[int]) -> str:
    """A shape as error messages write it: 1x56x56x32."""
    return "x".join(map(str, shape)) if shape else "scalar"
