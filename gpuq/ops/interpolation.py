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
