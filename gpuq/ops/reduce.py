"""SUM, REDUCE_MAX, REDUCE_MIN, and what MEAN shares with them.

    SUM: y = clamp(zp_y + V1(sum(q) - zp_x * n, s_x / s_y))

LiteRT's reference kernel reads and writes int8 codes of SUM as the unsigned bytes that hold them (with zero points as
they are), and int16 codes too: half of their output stays unwritten. Its optimized kernels and XNNPACK compute in
float32, with k = s_x / s_y:

    y = clamp(zp_y + round(sum(q) * k - zp_x * k * n)), ties away from zero
    y = clamp(round(sum(q) * k + (zp_y - zp_x * n * k))), ties to even

REDUCE_MAX and REDUCE_MIN compare raw codes or plain integers.
Sources: LiteRT tflite/kernels/reduce.cc, internal/{reference,optimized}/reduce.h (QuantizedMeanOrSum); XNNPACK
75db3c093, src/operators/reduce-nd.c; tflite-micro 90b983c2, tensorflow/lite/micro/kernels/reduce_common.cc.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Rounding, Rule
from gpuq.ops.spec import FLOAT32, INT8, INT16, INT32, INT64, UINT8, Shape, Spec, clamp_to, run_shape
from gpuq.quant import Quant, round_half_away


@dataclass(frozen=True, kw_only=True)
class ReduceSpec(Spec):
    """An operator that makes one element of all along some dimensions.

    Args:
        x_shape: shape of one run.
        axes: dimensions of x_shape to reduce, each in [0, rank), sorted, without repeats.
        keep_dims: keep reduced dimensions as 1.
    """

    x_shape: Shape
    axes: tuple[int, ...]
    keep_dims: bool

    def __post_init__(self) -> None:
        self.require(
            self.axes == tuple(sorted(set(self.axes))) and all(0 <= axis < len(self.x_shape) for axis in self.axes),
            f"axes {self.axes} must be distinct, sorted dimensions of a tensor of rank {len(self.x_shape)}",
        )

    @property
    def count(self) -> int:
        """Elements that become one, n."""
        return math.prod(self.x_shape[axis] for axis in self.axes)

    @property
    def run_axes(self) -> tuple[int, ...]:
        """The reduced axes of an array (N, *x_shape)."""
        return tuple(axis + 1 for axis in self.axes)

    @property
    def output_shape(self) -> Shape:
        if self.keep_dims:
            return tuple(1 if i in self.axes else size for i, size in enumerate(self.x_shape))
        return tuple(size for i, size in enumerate(self.x_shape) if i not in self.axes)


@dataclass(frozen=True, kw_only=True)
class ReduceCodesSpec(ReduceSpec):
    """A reduction that rescales.

    Args:
        x_quant, out_quant: per tensor, the same dtype out of `dtypes`; int16 has zero point 0.

    Attributes:
        dtypes: what its runtimes have it for.
    """

    dtypes: ClassVar[tuple[np.dtype[Any], ...]] = (INT8, UINT8)

    x_quant: Quant
    out_quant: Quant

    def __post_init__(self) -> None:
        self.require_dtype("input", self.x_quant.dtype, *self.dtypes)
        self.require_dtype("output", self.out_quant.dtype, self.x_quant.dtype)
        self.require_per_tensor(x_quant=self.x_quant, out_quant=self.out_quant)
        self.require_symmetric_int16(x_quant=self.x_quant, out_quant=self.out_quant)
        super().__post_init__()

    @property
    def share(self) -> np.float32:
        """What the sum is multiplied by in float32, beside the scales: 1, or 1 / n."""
        return np.float32(1)

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.x_quant.dtype


@dataclass(frozen=True, kw_only=True)
class SumSpec(ReduceCodesSpec):
    """The sum over some dimensions. See ReduceSpec and ReduceCodesSpec for the fields."""

    op: ClassVar[str] = "SUM"
    dtypes: ClassVar[tuple[np.dtype[Any], ...]] = (INT8, UINT8, INT16)

    def __post_init__(self) -> None:
        super().__post_init__()
        numerics.quantize_multiplier(self.factor)

    @property
    def factor(self) -> float:
        """s_x / s_y."""
        return self.x_quant.scalar_scale() / self.out_quant.scalar_scale()


@dataclass(frozen=True, kw_only=True)
class ReduceMaxSpec(ReduceSpec):
    """The largest element over some dimensions. See ReduceSpec for the other fields.

    Args:
        dtype: int8, uint8, int16, int32, int64 or float32.
    """

    op: ClassVar[str] = "REDUCE_MAX"

    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        self.require_dtype("input", self.dtype, INT8, UINT8, INT16, INT32, INT64, FLOAT32)
        super().__post_init__()

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.dtype


@dataclass(frozen=True, kw_only=True)
class ReduceMinSpec(ReduceMaxSpec):
    """The smallest element over some dimensions. See ReduceMaxSpec for the fields."""

    op: ClassVar[str] = "REDUCE_MIN"


def sum_reference(spec: SumSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact sums of (N, *x_shape) codes: (N, *output_shape) codes."""
    codes = run_shape(x, spec.x_shape)
    qmin, qmax, dtype = spec.out_quant.qmin, spec.out_quant.qmax, spec.out_quant.dtype
    if rule.rounding is Rounding.V1_BYTES:
        # The kernel takes the memory for uint8, and its results are bytes that are read as int8 afterwards.
        codes, qmin, qmax, dtype = codes.view(np.uint8), 0, 255, UINT8
    total = codes.sum(axis=spec.run_axes, dtype=np.int64)
    sums: npt.NDArray[Any]
    if rule.rounding is Rounding.RECIPROCAL_F32:
        sums = scaled_to_even(spec, total)
    elif rule.rounding is Rounding.AFFINE_F32:
        sums = _scaled_away(spec, total)
    else:
        rounding = Rounding.V1 if rule.rounding is Rounding.V1_BYTES else rule.rounding
        centred = numerics.wrap_int32(total - spec.x_quant.scalar_zero_point() * spec.count)
        sums = numerics.requantize(centred, rounding, np.array(spec.factor)) + spec.out_quant.scalar_zero_point()
    return clamp_to(sums, qmin, qmax, dtype).view(spec.out_quant.dtype).reshape(-1, *spec.output_shape)


def affine_factor_and_offset(spec: SumSpec) -> tuple[np.float32, np.float32]:
    """(factor of the sum of codes, offset) of rule affine_f32, float32."""
    with np.errstate(over="ignore"):
        factor = np.float32(spec.x_quant.scalar_scale()) / np.float32(spec.out_quant.scalar_scale())
        return factor, np.float32(-spec.x_quant.scalar_zero_point()) * factor * np.float32(spec.count)


def _scaled_away(spec: SumSpec, total: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Codes before the clamp, from sums of codes, by LiteRT's optimized kernels."""
    factor, offset = affine_factor_and_offset(spec)
    with np.errstate(over="ignore"):
        scaled = numerics.wrap_int32(total).astype(np.float32) * factor + offset
    # Beyond int32 the C++ conversion is undefined (x86 gives -2^31); here it saturates, as ARM does.
    return round_half_away(scaled).astype(np.float64) + spec.out_quant.scalar_zero_point()


def float_factor_and_offset(spec: ReduceCodesSpec) -> tuple[np.float32, np.float32]:
    """(factor of the sum of codes, offset) of rule reciprocal_f32, float32."""
    with np.errstate(over="ignore"):
        factor = np.float32(spec.x_quant.scalar_scale()) / np.float32(spec.out_quant.scalar_scale()) * spec.share
        moved = np.float32(numerics.wrap_int32(np.array(spec.count * spec.x_quant.scalar_zero_point())))
        return factor, np.float32(spec.out_quant.scalar_zero_point()) - moved * factor


def scaled_to_even(spec: ReduceCodesSpec, total: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Codes before the clamp, from sums of codes, by rule reciprocal_f32."""
    factor, offset = float_factor_and_offset(spec)
    return np.asarray(np.rint(numerics.wrap_int32(total).astype(np.float32) * factor + offset))


def extreme_reference(spec: ReduceMaxSpec, rule: Rule, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The chosen elements of (N, *x_shape): (N, *output_shape)."""
    choose = np.min if isinstance(spec, ReduceMinSpec) else np.max
    return np.asarray(choose(run_shape(x, spec.x_shape), axis=spec.run_axes)).reshape(-1, *spec.output_shape)
