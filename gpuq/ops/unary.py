"""What operators on one quantized tensor share whose result for a code depends on that code alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.ops.spec import INT8, UINT8, Shape, Spec, clamp_to
from gpuq.quant import Quant, round_half_away


@dataclass(frozen=True, kw_only=True)
class UnarySpec(Spec):
    """A function of one code.

    Args:
        shape: shape of one run.
        x_quant, out_quant: per tensor, the same dtype out of `dtypes`; int16 has zero point 0.

    Attributes:
        dtypes: what its runtimes have it for.
    """

    dtypes: ClassVar[tuple[np.dtype[Any], ...]] = (INT8, UINT8)

    shape: Shape
    x_quant: Quant
    out_quant: Quant

    def __post_init__(self) -> None:
        self.require_dtype("input", self.x_quant.dtype, *self.dtypes)
        self.require_dtype("output", self.out_quant.dtype, self.x_quant.dtype)
        self.require_per_tensor(x_quant=self.x_quant, out_quant=self.out_quant)
        self.require_symmetric_int16(x_quant=self.x_quant, out_quant=self.out_quant)

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.x_quant.dtype

    @property
    def output_shape(self) -> Shape:
        return self.shape


def input_codes(spec: UnarySpec) -> npt.NDArray[np.int64]:
    """q - zp_x for all codes, from the dtype's minimum to its maximum."""
    codes = np.arange(spec.x_quant.qmin, spec.x_quant.qmax + 1, dtype=np.int64)
    return codes - spec.x_quant.scalar_zero_point()


def real_inputs(spec: UnarySpec) -> npt.NDArray[np.float32]:
    """The real value of every code, as LUTPopulateInt8 takes it: one float32 product."""
    with np.errstate(over="ignore"):
        return np.asarray(np.float32(spec.x_quant.scalar_scale()) * input_codes(spec).astype(np.float32))


def rounded_once(function: Callable[[float], float], values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A function of the C library in double precision, rounded once to float32.

    NumPy's float32 functions are approximations that differ from CPU to CPU, and the C library's differ from version
    to version in the last bit. The correctly rounded result, which this is but for one value in 10^8, is what they
    approximate; a code differs only where that last bit decides a tie.
    """

    def finite(value: float) -> float:
        try:
            return function(value)
        except OverflowError:
            return math.inf

    with np.errstate(over="ignore"):
        return np.array([finite(float(value)) for value in values], np.float64).astype(np.float32)


def float_table(spec: UnarySpec, transformed: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """The output code of every input code from its real result: round(y * (1 / s_y)) + zp_y in float32, clamped.

    Source: LUTPopulateInt8, LiteRT tflite/kernels/internal/common.h.
    """
    with np.errstate(over="ignore"):
        rescaled = round_half_away(transformed * (np.float32(1) / np.float32(spec.out_quant.scalar_scale())))
    codes = rescaled + np.float32(spec.out_quant.scalar_zero_point())
    return clamp_to(codes, spec.out_quant.qmin, spec.out_quant.qmax, spec.out_quant.dtype)


def float_table_to_even(spec: UnarySpec, transformed: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """The output code of every input code from its real result: round(y * (1 / s_y) + zp_y) in float32, ties to even.

    Source: xnnpack::quantize, XNNPACK 75db3c093, src/xnnpack/reference-utils.h.
    """
    inverse_scale = np.float32(1) / np.float32(spec.out_quant.scalar_scale())
    with np.errstate(over="ignore"):
        codes = np.rint(transformed * inverse_scale + np.float32(spec.out_quant.scalar_zero_point()))
    return clamp_to(codes, spec.out_quant.qmin, spec.out_quant.qmax, spec.out_quant.dtype)


def require_finite_inverse(spec: UnarySpec) -> None:
    """Raises unless 1 / s_y is a float32 number."""
    with np.errstate(over="ignore"):
        inverse = np.float32(1) / np.float32(spec.out_quant.scalar_scale())
    spec.require(bool(np.isfinite(inverse)), f"output scale {spec.out_quant.scale} is too small: 1 / it is infinite")


def look_up(spec: UnarySpec, table: npt.NDArray[Any], x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The table's entry, from the dtype's minimum on, for codes of any shape."""
    return np.asarray(table[x.astype(np.int64) - spec.x_quant.qmin])
