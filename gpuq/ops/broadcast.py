"""Broadcasting of two runs' tensors, shared by all operators on two of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.ops.spec import INT8, INT16, UINT8, Shape, Spec, run_shape, shape_text
from gpuq.quant import Quant


@dataclass(frozen=True, kw_only=True)
class BroadcastSpec(Spec):
    """An elementwise operator on two tensors.

    Args:
        a_shape, b_shape: shapes of one run; they broadcast by NumPy's rules.
    """

    a_shape: Shape
    b_shape: Shape

    def __post_init__(self) -> None:
        try:
            np.broadcast_shapes(self.a_shape, self.b_shape)
        except ValueError:
            raise self.fail(
                f"shapes {shape_text(self.a_shape)} and {shape_text(self.b_shape)} do not broadcast"
            ) from None

    @property
    def output_shape(self) -> Shape:
        return tuple(np.broadcast_shapes(self.a_shape, self.b_shape))

    @property
    def rows(self) -> tuple[Shape, Shape] | None:
        """Both shapes as LiteRT's optimized kernels walk them: up to five nested loops, the last one over a row.

        From the back they take dimensions that both operands have, that only the second has, both, only the first,
        both. None for other patterns, which go element by element.
        Source: LiteRT tflite/kernels/internal/reference/process_broadcast_shapes.h.
        """
        rank = len(self.output_shape)
        a, b = ((1,) * (rank - len(shape)) + shape for shape in (self.a_shape, self.b_shape))
        if a == b:
            return (math.prod(a),), (math.prod(a),)
        pairs = list(zip(a, b, strict=True))
        # The second is the one that has the last dimension that is not in both.
        swapped = next(first for first, second in reversed(pairs) if first != second) != 1
        if swapped:
            pairs = [(second, first) for first, second in pairs]
        loops: list[int] = []
        for holds in (_equal, _first_is_1, _equal, _second_is_1, _equal):
            size = 1
            while pairs and holds(*pairs[-1]):
                size *= max(pairs.pop())
            loops.insert(0, size)
        if pairs:
            return None
        both, of_first, between, of_second, row = loops
        end = () if row == 1 else (row,)
        first, second = (both, of_first, between, 1, *end), (both, 1, between, of_second, *end)
        return (second, first) if swapped else (first, second)

    @property
    def row(self) -> tuple[int, bool]:
        """(elements of a row, whether one operand is a single element there); (1, False) where there are no rows."""
        if self.rows is None:
            return 1, False
        a, b = (shape[-1] for shape in self.rows)
        return max(a, b), a != b

    def aligned(self, *operands: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Both operands with their run axis in front and ranks made equal, so that NumPy broadcasts them."""
        rank = len(self.output_shape)

        def widen(x: npt.NDArray[Any], shape: Shape) -> npt.NDArray[Any]:
            return run_shape(x, (1,) * (rank - len(shape)) + shape)

        a, b = operands
        return widen(a, self.a_shape), widen(b, self.b_shape)


def _equal(first: int, second: int) -> bool:
    return first == second


def _first_is_1(first: int, second: int) -> bool:
    return first == 1


def _second_is_1(first: int, second: int) -> bool:
    return second == 1


@dataclass(frozen=True, kw_only=True)
class BinaryCodesSpec(BroadcastSpec):
    """An elementwise operator on two tensors of codes.

    Args:
        a_quant, b_quant, out_quant: per tensor, all of one dtype out of `dtypes`; int16 has zero point 0.

    Attributes:
        dtypes: what its runtimes have it for.
        dtype_beside_int16: of the second operand where the first has int16.
    """

    dtypes: ClassVar[tuple[np.dtype[Any], ...]] = (INT8, UINT8)
    dtype_beside_int16: ClassVar[np.dtype[Any]] = INT16

    a_quant: Quant
    b_quant: Quant
    out_quant: Quant

    def __post_init__(self) -> None:
        self.require_dtype("input", self.a_quant.dtype, *self.dtypes)
        second = self.dtype_beside_int16 if self.a_quant.dtype == INT16 else self.a_quant.dtype
        self.require_dtype("second input", self.b_quant.dtype, second)
        self.require_dtype("output", self.out_quant.dtype, self.a_quant.dtype)
        self.require_per_tensor(a_quant=self.a_quant, b_quant=self.b_quant, out_quant=self.out_quant)
        self.require_symmetric_int16(a_quant=self.a_quant, b_quant=self.b_quant, out_quant=self.out_quant)
        super().__post_init__()

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.a_quant.dtype


@dataclass(frozen=True, kw_only=True)
class BinarySpec(BinaryCodesSpec):
    """ADD, SUB, MUL.

    Args:
        activation: None, "relu", "relu6" or "relu_n1_to_1", fused.
        pot_scale_int16: the file's option that lets ADD and SUB of int16 look for scales that are powers of two.
    """

    dtypes: ClassVar[tuple[np.dtype[Any], ...]] = (INT8, UINT8, INT16)

    activation: str | None = None
    pot_scale_int16: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        numerics.activation_range(self.activation, self.out_quant)
