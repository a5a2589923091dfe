"""Functions of int16 codes by tables with interpolation between the entries.

Sources: LiteRT tflite/kernels/internal/common.h (LUTPopulateInt16, LUTLookup, sigmoid_table_uint16),
internal/reference/integer_ops/logistic.h.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.numerics import wrap_int32
from gpuq.ops.spec import Spec
from gpuq.quant import round_half_away

STEPS = 512


def interpolation_table(
    function: Callable[[Any], Any], in_scale: Any, in_zero_point: int, out_scale: Any
) -> npt.NDArray[np.int64]:
    """(513,) values of a function at every 128th int16 code, moved by half the error at each midpoint.

    Args:
        in_scale, out_scale: of codes of the argument and of the value, of the float type to compute in; the value's
            zero point is 0.
    """
    kind = type(in_scale)
    lowest, highest = in_scale * kind(-32768 - in_zero_point), in_scale * kind(32767 - in_zero_point)
    step = (highest - lowest) / kind(STEPS)
    per_unit = kind(65536) / (out_scale * kind(32767) - out_scale * kind(-32768))

    def value(x: Any) -> Any:
        # In float64 and rounded: the C library's float functions are correctly rounded here, NumPy's are not.
        return kind(function(np.float64(x)))

    entries = []
    for i in range(STEPS):
        start = lowest + kind(i) * step
        sample = _round(value(start) * per_unit)
        middle = _round(value(start + step / kind(2)) * per_unit)
        following = value(lowest + kind(i + 1) * step)
        between = _round((following * per_unit + sample) / kind(2))
        entries.append(sample - _round((between - middle) / kind(2)))
    entries.append(_round(value(highest) * per_unit))
    return np.array([min(max(float(entry), -32768.0), 32767.0) for entry in entries]).astype(np.int64)


def _round(x: Any) -> Any:
    return type(x)(round_half_away(np.asarray(x)))


def interpolated(codes: npt.NDArray[np.int64], table: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The function's value at int16 codes: base and slope of 128 codes each, ties up."""
    index = 256 + (codes >> 7)
    base = table[index]
    slope = table[index + 1] - base
    return np.asarray(base + ((slope * (codes & 127) + 64) >> 7))


def _sigmoids() -> npt.NDArray[np.int64]:
    """Values moved by half the error of the straight line at each midpoint; the last one is 1."""

    def value(i: float) -> float:
        return 65536 / (1 + math.exp(-i / 24))

    entries = [round(value(i) + (value(i + 0.5) - (value(i) + value(i + 1)) / 2) / 2) for i in range(255)]
    return np.array([*entries, 65535], np.int64)


SIGMOIDS = _sigmoids()
"""(256,) sigmoid(i / 24) in 1/65536."""


def step_multiplier(spec: Spec, scale: float) -> tuple[int, int]:
    """(multiplier, right shift) that bring int16 codes of this scale to 1/12288, the 512th of a step of the table."""
    multiplier, shift = scale * 4096.0 * 3.0, 0
    while multiplier <= 32767.0 / 2.0 and shift <= 30:
        shift, multiplier = shift + 1, multiplier * 2
    spec.require(multiplier < 65536, f"input scale {scale} of int16 must be below 16/3, beyond which int32 overflows")
    return int(multiplier), shift


def _between_sigmoids(codes: npt.NDArray[np.int64], multiplier: int, shift: int, bits: int, one: int) -> Any:
    """(positions, sigmoids of their magnitudes); `bits` of a position lie between two entries, beyond them all is 1."""
    position = wrap_int32(codes * multiplier + ((1 << shift) >> 1)) >> shift
    distance = np.abs(position)
    index = np.minimum(distance >> bits, 254)
    between = (SIGMOIDS[index] << bits) + (distance & ((1 << bits) - 1)) * (SIGMOIDS[index + 1] - SIGMOIDS[index])
    return position, np.where(distance >> bits >= 255, one, between)


def interpolated_sigmoid(codes: npt.NDArray[np.int64], multiplier: int, shift: int) -> npt.NDArray[np.int64]:
    """sigmoid of int16 codes in Q0.15; codes * multiplier * 2^-shift are steps of 1/12288."""
    position, value = _between_sigmoids(codes, multiplier, shift, 9, 0x7FFF << 10)
    return np.asarray(np.where(position >= 0, value + (1 << 9), (1 << 25) - value + (1 << 9) - 1) >> 10)


def interpolated_tanh(codes: npt.NDArray[np.int64], multiplier: int, shift: int) -> npt.NDArray[np.int64]:
    """tanh of int16 codes in Q0.15, as 2 * sigmoid(2 x) - 1; multiplier and shift as for interpolated_sigmoid().

    Source: LiteRT tflite/kernels/internal/reference/integer_ops/tanh.h.
    """
    position, value = _between_sigmoids(codes, multiplier, shift, 8, 0xFFFF << 8)
    half = 1 << 23
    return np.asarray(np.where(position >= 0, value - half + 128, half - value + 127) >> 8)
