"""SELECT and SELECT_V2: elements of one tensor where a condition holds, of another where it does not.

Source: LiteRT tflite/kernels/select.cc.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops.spec import BOOL, FLOAT32, INT8, INT16, INT32, INT64, UINT8, Shape, Spec, run_shape, shape_text


@dataclass(frozen=True, kw_only=True)
class SelectV2Spec(Spec):
    """A choice between two tensors, element by element.

    Args:
        condition_shape, a_shape, b_shape: shapes of one run; they broadcast by NumPy's rules. a is taken where the
            condition holds.
        dtype: int8, uint8, int16, int32, int64 or bool, of a, b and the output. Codes are copied.
    """

    op: ClassVar[str] = "SELECT_V2"

    condition_shape: Shape
    a_shape: Shape
    b_shape: Shape
    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        self.require_dtype("input", self.dtype, INT8, UINT8, INT16, INT32, INT64, BOOL, FLOAT32)
        shapes = (self.condition_shape, self.a_shape, self.b_shape)
        try:
            np.broadcast_shapes(*shapes)
        except ValueError:
            raise self.fail(f"shapes {', '.join(map(shape_text, shapes))} do not broadcast") from None

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.dtype

    @property
    def output_shape(self) -> Shape:
        return tuple(np.broadcast_shapes(self.condition_shape, self.a_shape, self.b_shape))


@dataclass(frozen=True, kw_only=True)
class SelectSpec(SelectV2Spec):
    """A choice whose condition has the shape of both tensors, or one element for each of their first dimension.

    See SelectV2Spec for the fields; a condition of rank 1 counts along the first dimension.
    """

    op: ClassVar[str] = "SELECT"

    def __post_init__(self) -> None:
        self.require(
            self.a_shape == self.b_shape
            and self.condition_shape in (self.a_shape, self.a_shape[:1] + (1,) * (len(self.a_shape) - 1), ()),
            f"condition {shape_text(self.condition_shape)} does not fit {shape_text(self.a_shape)} and "
            f"{shape_text(self.b_shape)}",
        )
        super().__post_init__()


def reference(
    spec: SelectV2Spec,
    rule: Rule,
    condition: npt.NDArray[np.bool_],
    a: npt.NDArray[Any],
    b: npt.NDArray[Any],
) -> npt.NDArray[Any]:
    """Chosen elements of (N, *shape) each, every N may be 1: (N, *output_shape)."""
    rank = len(spec.output_shape)
    shapes = (spec.condition_shape, spec.a_shape, spec.b_shape)
    operands = [
        run_shape(x, (1,) * (rank - len(shape)) + shape) for x, shape in zip((condition, a, b), shapes, strict=True)
    ]
    return np.where(*operands)
