"""Affine quantization of arrays: real = scale * (q - zero_point).

Scales are float32 values, as a .tflite file stores them. Rounding is half away from zero (C ``round``), as in
TFLite's reference kernels (LiteRT, tflite/kernels/internal/reference/quantize.h).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.errors import InputTypeError, InputValueError

QUANTIZED_DTYPES = tuple(np.dtype(name) for name in ("int8", "uint8", "int16", "int32", "int64"))

PACKED_BITS = (4, 2)
"""Bits of codes that share bytes in a file; in arrays they are int8."""

# The TensorFlow converter widens ranges up to this wide, so that no scale becomes tiny or zero
# (LiteRT, tflite/converter/quantization/common/quantization_lib/quantization_utils.cc, ExpandVerySmallRange).
NEAR_ZERO_RANGE = 1e-6


@dataclass(frozen=True, init=False)
class Quant:
    """How integer codes of one tensor stand for real numbers: real = scale * (q - zero_point).

    Args:
        scale: one value (per tensor), or one value per slice along ``axis`` (per channel). Rounded to float32.
            0 is allowed (old converters write it for channels that hold only zeros), NaN, Inf and negative are not.
        zero_point: the code of real 0; one value, or as many as scales. Must be representable in ``dtype``.
        axis: the dimension of per-channel scales; None (or a single scale) means per tensor.
        dtype: int8, uint8, int16, int32 or int64.

    Raises:
        InputTypeError: a dtype that is not an integer one.
        InputValueError: a bad scale, zero point or axis.

    >>> Quant(0.5, 3, dtype="int8").dequantize(np.array([3, 5], np.int8))
    array([0., 1.], dtype=float32)
    """

    scale: float | tuple[float, ...]
    zero_point: int | tuple[int, ...]
    axis: int | None
    dtype: np.dtype[Any]

    def __init__(
        self,
        scale: float | Sequence[float] | npt.NDArray[Any],
        zero_point: int | Sequence[int] | npt.NDArray[Any] = 0,
        axis: int | None = None,
        dtype: npt.DTypeLike = "int8",
    ) -> None:
        dtype = np.dtype(dtype)
        if dtype not in QUANTIZED_DTYPES:
            raise InputTypeError(f"Quant: dtype {dtype} must be one of {', '.join(map(str, QUANTIZED_DTYPES))}")
        # Signaling NaNs of a file, too.
        with np.errstate(over="ignore", invalid="ignore"):
            scales = np.atleast_1d(np.asarray(scale, np.float64)).astype(np.float32)
        zero_points = np.atleast_1d(np.asarray(zero_point))
        if scales.ndim != 1 or scales.size == 0 or zero_points.ndim != 1:
            raise InputValueError(f"Quant: scale must be one value or a non-empty list, got shape {scales.shape}")
        if not np.all(np.isfinite(scales)) or np.any(scales < 0):
            bad = scales[~(np.isfinite(scales) & (scales >= 0))][0]
            raise InputValueError(f"Quant: scale {bad} must be finite and not negative (as float32)")
        if zero_points.dtype.kind not in "iu":
            raise InputTypeError(f"Quant: zero_point {zero_point!r} must be an integer")
        info = np.iinfo(dtype)
        if np.any(zero_points < info.min) or np.any(zero_points > info.max):
            bad_point = zero_points[(zero_points < info.min) | (zero_points > info.max)][0]
            raise InputValueError(f"Quant: zero_point {bad_point} must lie in [{info.min}, {info.max}] of {dtype}")
        if zero_points.size not in (1, scales.size):
            raise InputValueError(f"Quant: {zero_points.size} zero points for {scales.size} scales")
        if scales.size == 1:
            axis = None
        elif axis is None:
            raise InputValueError(f"Quant: {scales.size} scales need an axis")
        per_tensor = axis is None
        if not per_tensor:
            zero_points = np.broadcast_to(zero_points, scales.shape)
        object.__setattr__(self, "scale", float(scales[0]) if per_tensor else tuple(scales.tolist()))
        object.__setattr__(self, "zero_point", int(zero_points[0]) if per_tensor else tuple(zero_points.tolist()))
        object.__setattr__(self, "axis", axis)
        object.__setattr__(self, "dtype", dtype)

    @classmethod
    def from_range(
        cls,
        minimum: float | Sequence[float] | npt.NDArray[Any],
        maximum: float | Sequence[float] | npt.NDArray[Any],
        *,
        dtype: npt.DTypeLike = "int8",
        symmetric: bool = False,
        narrow_range: bool = False,
        axis: int | None = None,
        bits: int = 8,
    ) -> Quant:
        """The Quant whose codes cover real values from minimum to maximum.

        The range is widened to hold 0, which always gets a code of its own: the zero point is nudged to an integer
        (TFLite's ChooseQuantizationParams: doubles, taken from the end of the range with the smaller error). A range
        of at most 1e-6 is widened to at least 5e-7 on either side of 0, as the TensorFlow converter does.

        Args:
            minimum, maximum: real values; scalars, or one per channel together with ``axis``.
            symmetric: the zero point is the middle code (0; 128 for uint8) and scale = max(|min|, |max|) / 127
                (for 8 bits).
            narrow_range: leave out the lowest code (-128 for int8), as weights do.
            bits: fewer than 8 for int8 codes that a file packs: 4 has codes -8..7.

        Raises:
            InputValueError: NaN or Inf, minimum > maximum, different lengths.
        """
        dtype = np.dtype(dtype)
        if dtype not in QUANTIZED_DTYPES:
            raise InputTypeError(f"Quant.from_range: dtype {dtype} is not an integer type that gpuq quantizes to")
        low = np.atleast_1d(np.asarray(minimum, np.float64))
        high = np.atleast_1d(np.asarray(maximum, np.float64))
        if low.shape != high.shape or low.ndim != 1 or low.size == 0:
            raise InputValueError(
                f"Quant.from_range: minimum {low.shape} and maximum {high.shape} must have one length, not 0"
            )
        if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high))):
            raise InputValueError("Quant.from_range: the range holds NaN or Inf; it must be finite")
        if np.any(low > high):
            bad = int(np.argmax(low > high))
            raise InputValueError(f"Quant.from_range: minimum {low[bad]} must not exceed maximum {high[bad]}")
        low, high = np.minimum(low, 0.0), np.maximum(high, 0.0)
        with np.errstate(over="ignore"):
            if not np.all(np.isfinite(high - low)):
                raise InputValueError("Quant.from_range: the range is wider than a float64 holds")
        tiny = high - low <= NEAR_ZERO_RANGE
        low = np.where(tiny, np.minimum(low, -NEAR_ZERO_RANGE / 2), low)
        high = np.where(tiny, np.maximum(high, NEAR_ZERO_RANGE / 2), high)
        info = np.iinfo(dtype)
        lowest, highest = int(info.min), int(info.max)
        if bits != 8:
            if dtype != np.int8 or bits not in PACKED_BITS:
                raise InputValueError(f"Quant.from_range: bits={bits} of {dtype} must be 8, or 4 or 2 of int8")
            lowest, highest = -(1 << bits - 1), (1 << bits - 1) - 1
        qmin, qmax = lowest + narrow_range, highest
        if symmetric:
            middle = 0 if info.min < 0 else (qmax + 1) // 2
            scales = np.maximum(-low, high) / (qmax - middle)
            zero_points = np.full(low.shape, middle)
        else:
            scales = (high - low) / (float(qmax) - float(qmin))
            from_min, from_max = qmin - low / scales, qmax - high / scales
            error_min, error_max = abs(qmin) + np.abs(low / scales), abs(qmax) + np.abs(high / scales)
            nudged = round_half_away(np.where(error_min < error_max, from_min, from_max))
            # By way of Python integers: the highest int64 is no float64, and a plain cast would wrap.
            zero_points = np.array([min(max(int(point), qmin), qmax) for point in nudged], np.int64)
        if axis is None and low.size == 1:
            return cls(float(scales[0]), int(zero_points[0]), None, dtype)
        return cls(scales, zero_points, axis, dtype)

    @property
    def is_per_channel(self) -> bool:
        """True when each slice along ``axis`` has a scale of its own."""
        return self.axis is not None

    @property
    def scales(self) -> npt.NDArray[np.float32]:
        """The scales as a float32 vector: one value, or one per channel."""
        return np.atleast_1d(np.asarray(self.scale, np.float32))

    @property
    def zero_points(self) -> npt.NDArray[np.int64]:
        """The zero points as an int64 vector: one value, or one per channel."""
        return np.atleast_1d(np.asarray(self.zero_point, np.int64))

    @property
    def qmin(self) -> int:
        """The lowest code of the dtype."""
        return int(np.iinfo(self.dtype).min)

    @property
    def qmax(self) -> int:
        """The highest code of the dtype."""
        return int(np.iinfo(self.dtype).max)

    def scalar_scale(self) -> float:
        """The scale of a per-tensor Quant, a float32 value."""
        if isinstance(self.scale, tuple):
            raise InputValueError(f"Quant: a per-tensor scale is needed here, this one has {len(self.scale)}")
        return self.scale

    def scalar_zero_point(self) -> int:
        """The zero point of a per-tensor Quant."""
        if isinstance(self.zero_point, tuple):
            raise InputValueError(f"Quant: a per-tensor zero point is needed here, this one has {len(self.zero_point)}")
        return self.zero_point

    def quantize(self, values: npt.NDArray[Any], *, narrow_range: bool = False) -> npt.NDArray[Any]:
        """Same as `gpuq.quantize(values, self)`."""
        return quantize(values, self, narrow_range=narrow_range)

    def dequantize(self, codes: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Same as `gpuq.dequantize(codes, self)`."""
        return dequantize(codes, self)

    def _along(self, vector: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """Shapes a per-channel vector so that it broadcasts over an array of this shape."""
        if self.axis is None:
            return vector.reshape(())
        if not -len(shape) <= self.axis < len(shape) or shape[self.axis] != vector.size:
            raise InputValueError(
                f"Quant: {vector.size} scales along axis {self.axis} do not fit an array of shape {shape}"
            )
        broadcast = [1] * len(shape)
        broadcast[self.axis] = vector.size
        return vector.reshape(broadcast)


def round_half_away(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Rounds floats to the nearest integer, ties away from zero (C ``round``). Exact: no 0.5 is added."""
    whole = np.trunc(values)
    with np.errstate(invalid="ignore"):  # Inf - Inf; an infinity stays one
        half_or_more = np.abs(values - whole) >= 0.5
    return np.asarray(whole + np.copysign(half_or_more.astype(whole.dtype), values))


def quantize(values: npt.NDArray[Any], quant: Quant, *, narrow_range: bool = False) -> npt.NDArray[Any]:
    """Real values to codes: clamp(round(x / scale) + zero_point), the quotient in float32, ties away from zero.

    Args:
        values: float32 or float64 array of any shape; float64 is rounded to float32 first. Inf saturates.
        quant: scales must be positive.
        narrow_range: the lowest code is not used.

    Returns:
        An array of ``quant.dtype``, same shape.

    Raises:
        InputTypeError: values that are not floating point.
        InputValueError: a NaN, a zero scale, per-channel scales that do not fit the shape.

    Source: LiteRT, tflite/kernels/internal/reference/quantize.h (there, codes beyond int32 are undefined; here
    they saturate).
    """
    values = np.asarray(values)
    check_quantizable(values, quant)
    with np.errstate(over="ignore"):
        scaled = values.astype(np.float32) / quant._along(quant.scales, values.shape)
    zero_point = quant._along(quant.zero_points, values.shape)
    # Clamped as float64 before the integer conversion: exact, and huge values cannot wrap.
    codes = round_half_away(scaled).astype(np.float64) + zero_point
    clamped: npt.NDArray[Any] = np.clip(codes, quant.qmin + narrow_range, quant.qmax).astype(quant.dtype)
    return clamped


def check_quantizable(values: npt.NDArray[Any], quant: Quant) -> None:
    """Raises what `quantize` says unless these values have codes."""
    if values.dtype.kind != "f":
        raise InputTypeError(f"quantize: values must be floating point, got {values.dtype}")
    if quant.dtype.itemsize > 4:
        raise InputTypeError(f"quantize: codes of {quant.dtype} are not exact in float64; use int32 or smaller")
    if np.isnan(values).any():
        raise InputValueError(f"quantize: NaN at {first_index(np.isnan(values))}; NaN has no code")
    if np.any(quant.scales == 0):
        raise InputValueError("quantize: scale 0 cannot quantize; it must be positive")


def dequantize(codes: npt.NDArray[Any], quant: Quant) -> npt.NDArray[np.float32]:
    """Codes to real values: float32(scale * (q - zero_point)), the product in float64.

    Args:
        codes: array of ``quant.dtype``.

    Source: LiteRT, tflite/kernels/internal/reference/dequantize.h.
    """
    codes = np.asarray(codes)
    if codes.dtype != quant.dtype:
        raise InputTypeError(f"dequantize: expected {quant.dtype}, got {codes.dtype}")
    zero_point = quant._along(quant.zero_points, codes.shape)
    scale = quant._along(quant.scales.astype(np.float64), codes.shape)
    with np.errstate(over="ignore"):
        return np.asarray((scale * (codes.astype(np.int64) - zero_point)).astype(np.float32))


def quantize_weights(
    weights: npt.NDArray[Any],
    *,
    axis: int | None = 0,
    symmetric: bool = True,
    dtype: npt.DTypeLike = "int8",
    bits: int = 8,
) -> tuple[npt.NDArray[Any], Quant]:
    """Weights to codes by their own minima and maxima.

    Args:
        weights: float array, for example OHWI.
        axis: one scale per slice along this axis (0 for OHWI, 3 for depthwise 1HWC), or None for one scale.
        symmetric: zero point 0 (128 for uint8), codes -127..127 (1..255): what TFLite's int8 kernels expect.
            False gives min/max over the full range of codes: what legacy uint8 models have.
        dtype: int8 or uint8.
        bits: 4 or 2 for int8 codes that a file packs, -7..7 or -1..1.

    Returns:
        (codes, quant).
    """
    weights = np.asarray(weights)
    dtype = np.dtype(dtype)
    if dtype not in (np.dtype("int8"), np.dtype("uint8")):
        raise InputTypeError(f"quantize_weights: dtype must be int8 or uint8, got {dtype}")
    if weights.dtype.kind != "f":
        raise InputTypeError(f"quantize_weights: weights must be floating point, got {weights.dtype}")
    if weights.size == 0:
        raise InputValueError(f"quantize_weights: empty weights of shape {weights.shape}")
    if not np.all(np.isfinite(weights)):
        raise InputValueError(f"quantize_weights: NaN or Inf at {first_index(~np.isfinite(weights))}")
    if axis is None:
        low, high = weights.min(), weights.max()
    else:
        if not -weights.ndim <= axis < weights.ndim:
            raise InputValueError(f"quantize_weights: axis {axis} of weights of shape {weights.shape}")
        axis %= weights.ndim
        others = tuple(i for i in range(weights.ndim) if i != axis)
        low, high = weights.min(axis=others), weights.max(axis=others)
    quant = Quant.from_range(low, high, dtype=dtype, symmetric=symmetric, narrow_range=symmetric, axis=axis, bits=bits)
    return quantize(weights, quant, narrow_range=symmetric), quant


def quantize_bias(
    bias: npt.NDArray[Any], x_quant: Quant, w_quant: Quant, *, dtype: npt.DTypeLike = "int32"
) -> tuple[npt.NDArray[Any], Quant]:
    """A bias to codes of scale x_scale * w_scale[o] and zero point 0, clamped to +-(2^31 - 1).

    Args:
        bias: float array of shape (O,).
        x_quant: per-tensor quantization of the layer's input.
        w_quant: the weights' quantization, per tensor or with O scales.

    Returns:
        (codes, quant); the quotient is taken in float64, ties away from zero.
    """
    bias = np.asarray(bias)
    dtype = np.dtype(dtype)
    if dtype not in (np.dtype("int32"), np.dtype("int64")):
        raise InputTypeError(f"quantize_bias: dtype must be int32 or int64, got {dtype}")
    if bias.dtype.kind != "f" or bias.ndim != 1:
        raise InputTypeError(f"quantize_bias: bias must be a float vector, got {bias.dtype} of shape {bias.shape}")
    if not np.all(np.isfinite(bias)):
        raise InputValueError(f"quantize_bias: NaN or Inf at {first_index(~np.isfinite(bias))}")
    scales = x_quant.scalar_scale() * w_quant.scales.astype(np.float64)
    if scales.size not in (1, bias.size):
        raise InputValueError(f"quantize_bias: {scales.size} weight scales for {bias.size} biases")
    if np.any(scales == 0):
        raise InputValueError("quantize_bias: x scale times w scale is 0 at some channel; it must be positive")
    codes = round_half_away(bias.astype(np.float64) / scales)
    codes = np.clip(codes, -(2.0**31 - 1), 2.0**31 - 1).astype(dtype)
    return codes, Quant(scales, 0, 0 if scales.size > 1 else None, dtype)


def widened_for_bias(w_quant: Quant, bias: npt.NDArray[Any], x_quant: Quant) -> Quant:
    """The weights' Quant, its scales enlarged where the bias would not fit into int32; else as it is.

    A channel whose weights are tiny beside its bias has such small scales that bias / (x scale * w scale) is beyond
    2^31 - 1. Coarser weights lose little there, a clamped bias much.

    Args:
        w_quant: per tensor, or with one scale for each element of the bias.
        bias: float array of shape (O,).
        x_quant: per-tensor quantization of the layer's input.
    """
    largest = np.abs(np.asarray(bias, np.float64))
    # A margin for what rounds on the way: scales are float32, and so is their product in some runtimes.
    needed = largest / x_quant.scalar_scale() / (2.0**31 - 1) * (1 + 2.0**-20)
    scales = w_quant.scales.astype(np.float64)
    wanted = np.maximum(scales, needed if scales.size > 1 else needed.max(initial=0.0))
    if np.array_equal(wanted, scales):
        return w_quant
    return Quant(wanted, w_quant.zero_points, w_quant.axis, w_quant.dtype)


@dataclass(frozen=True)
class RoundTripError:
    """What quantizing and dequantizing an array loses, in real units."""

    max_abs: float
    mean_abs: float
    rms: float
    sqnr_db: float
    saturated: float
    """Share of values, 0 to 1, that lie outside the range of the codes."""


def round_trip_error(values: npt.NDArray[Any], quant: Quant) -> RoundTripError:
    """Statistics of values - dequantize(quantize(values)); an exact round trip has sqnr_db = inf.

    >>> round_trip_error(np.array([0.0, 0.24]), Quant(0.5)).max_abs
    0.24
    """
    values = np.asarray(values)
    codes = quantize(values, quant)
    exact = values.astype(np.float64)
    error = exact - dequantize(codes, quant)
    scale = quant._along(quant.scales.astype(np.float64), values.shape)
    zero_point = quant._along(quant.zero_points, values.shape)
    low = scale * (quant.qmin - zero_point) - scale / 2
    high = scale * (quant.qmax - zero_point) + scale / 2
    if values.size == 0:
        return RoundTripError(0.0, 0.0, 0.0, float("inf"), 0.0)
    signal, noise = float(np.mean(exact**2)), float(np.mean(error**2))
    sqnr_db = float("inf") if noise == 0 else (10 * float(np.log10(signal / noise)) if signal else float("-inf"))
    return RoundTripError(
        max_abs=float(np.abs(error).max()),
        mean_abs=float(np.abs(error).mean()),
        rms=noise**0.5,
        sqnr_db=sqnr_db,
        saturated=float(np.mean((exact < low) | (exact > high))),
    )


def first_index(mask: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    """The coordinate of the first True, for error messages."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(mask)), mask.shape))
