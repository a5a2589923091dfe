"""Quantization at run time: float32 rows become int8 codes with a scale (and a zero point) of their own.

A row is what is quantized together: an item of the file's batch for convolutions, I elements for FULLY_CONNECTED. Rows
never mix, so neither do runs. x = scale * (q - zero_point).

Sources: LiteRT f67457790, tflite/kernels/internal/optimized/neon_tensor_utils.cc (NeonSymmetricQuantizeFloats,
NeonAsymmetricQuantizeFloats: what every resolver of the x86 wheel runs, by way of SSE); XNNPACK 75db3c093,
src/xnnpack/quantization.h (xnn_f32_qd8_asymmetric_quantization_params), src/f32-qs8-vcvt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpuq.quant import round_half_away

FloatArray = npt.NDArray[np.float32]

VECTOR = 8
"""Elements of a vector in LiteRT's kernels: whole vectors of a row round by adding a half, the rest by C round."""


@dataclass(frozen=True)
class QuantizedRows:
    """Rows of codes.

    Attributes:
        codes: int64 (R, L), within int8.
        scales: float32 (R,).
        zero_points: int64 (R,).
    """

    codes: npt.NDArray[np.int64]
    scales: FloatArray
    zero_points: npt.NDArray[np.int64]


def quantize_symmetric(rows: FloatArray) -> QuantizedRows:
    """Codes -127..127 around zero point 0, scale = max |x| / 127; a row of zeros has scale 1.

    Args:
        rows: float32 (R, L), finite.
    """
    reach = np.abs(rows).max(axis=1)
    zero = reach == 0
    safe = np.where(zero, np.float32(1), reach)
    with np.errstate(over="ignore", under="ignore"):
        scales = np.where(zero, np.float32(1), reach / np.float32(127))
        steps = _round_in_vectors(np.asarray(rows * (np.float32(127) / safe)[:, None], np.float32))
    return QuantizedRows(_codes(steps, -127), scales, np.zeros(len(rows), np.int64))


def quantize_asymmetric(rows: FloatArray) -> QuantizedRows:
    """Codes -128..127 over [min(0, min x), max(0, max x)]; the zero point from the end with the smaller error.

    The range is a float32 difference, the scale a float64 quotient stored as float32.

    Args:
        rows: float32 (R, L), finite.
    """
    low, high = np.minimum(rows.min(axis=1), np.float32(0)), np.maximum(rows.max(axis=1), np.float32(0))
    zero = low == high
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        exact = np.where(zero, 1.0, (high - low).astype(np.float64) / 255.0)
        below, above = low.astype(np.float64) / exact, high.astype(np.float64) / exact
        chosen = np.where(128.0 + np.abs(below) < 127.0 + np.abs(above), -128.0 - below, 127.0 - above)
        zero_points = np.where(zero, 0.0, round_half_away(np.clip(chosen, -128.0, 127.0))).astype(np.int64)
        scales = exact.astype(np.float32)
        reciprocals = np.where(scales == 0, np.float32(0), np.float32(1) / scales)
        steps = _round_in_vectors(rows * reciprocals[:, None])
    return QuantizedRows(_codes(steps + zero_points[:, None], -128), scales, zero_points)


def quantize_qd8(rows: FloatArray) -> QuantizedRows:
    """XNNPACK's rule: as asymmetric, all in float32, ties to even, and scale = 1 / (255 / range).

    Args:
        rows: float32 (R, L), finite.
    """
    low, high = np.minimum(rows.min(axis=1), np.float32(0)), np.maximum(rows.max(axis=1), np.float32(0))
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        factors = np.where(low == high, np.float32(1), np.float32(255) / (high - low))
        below, above = low * factors, high * factors
        from_low = (np.float32(-128) + below) + (np.float32(127) + above) > 0
        chosen = np.where(from_low, np.float32(-128) - below, np.float32(127) - above)
        zero_points = np.rint(np.clip(chosen, -128, 127)).astype(np.int64)
        steps = np.rint(rows * factors[:, None]).astype(np.float64)
        scales = np.float32(1) / factors
    return QuantizedRows(_codes(steps + zero_points[:, None], -128), np.asarray(scales, np.float32), zero_points)


def _round_in_vectors(scaled: FloatArray) -> npt.NDArray[np.float64]:
    """Nearest integers: float32(x +- 0.5) truncated in whole vectors of a row, C round behind the last."""
    whole = scaled.shape[1] // VECTOR * VECTOR
    halves = np.where(scaled < 0, np.float32(-0.5), np.float32(0.5))
    rounded = np.trunc(scaled + halves)
    rounded[:, whole:] = round_half_away(scaled[:, whole:])
    return rounded.astype(np.float64)


def _codes(steps: npt.NDArray[np.float64], lowest: int) -> npt.NDArray[np.int64]:
    return np.clip(steps, lowest, 127).astype(np.int64)
