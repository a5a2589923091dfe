"""Observers: they see a tensor's values batch by batch, and choose the range that its codes will cover.

Each is streaming (one pass, bounded memory), mergeable, and picklable. Arrays on a GPU (CuPy's, torch tensors, ...) are
reduced where they are, by kernels_cuda/observe.cu, with the same integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from gpuq.cuda.arrays import is_device_array
from gpuq.cuda.observe import extremes, histogram
from gpuq.errors import InputTypeError, InputValueError
from gpuq.quant import Quant

if TYPE_CHECKING:
    from typing import Self  # Python 3.11

Range = tuple[float, float]

AVERAGING = 0.01
"""The weight of a new batch in a moving average, as in PyTorch's observer of this name."""

BINS = 2048
"""The most bins that a histogram has on either side of its middle bit; see Histogram."""

LEVELS = 256
"""Codes that MSE and Entropy choose a range for."""

CANDIDATES = 128
"""Ranges that MSE and Entropy try for each end."""


class Observer(Protocol):
    """What quantization asks of an observer of one tensor."""

    def update(self, values: Any) -> None:
        """Sees a batch of floating-point values of any shape."""
        ...

    def range(self) -> Range:
        """(minimum, maximum) to be covered by codes."""
        ...


class MinMax:
    """The lowest and the highest value seen."""

    def __init__(self) -> None:
        self.count = 0
        self.minimum = math.inf
        self.maximum = -math.inf

    def update(self, values: Any) -> None:
        low, high, size = _extremes(values)
        if size:
            self.count += size
            self.minimum, self.maximum = min(self.minimum, low), max(self.maximum, high)

    def merge(self, other: Self) -> Self:
        """Takes in what another has seen; self."""
        self.count += other.count
        self.minimum, self.maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        return self

    def range(self) -> Range:
        _require_values(self.count)
        return self.minimum, self.maximum

    def quant(self, dtype: npt.DTypeLike = "int8", *, symmetric: bool = False) -> Quant:
        """The Quant that covers the range; see Quant.from_range."""
        low, high = self.range()
        return Quant.from_range(low, high, dtype=dtype, symmetric=symmetric)


class MovingAverageMinMax(MinMax):
    """Exponential moving averages of the batches' minima and maxima: later batches count more.

    Merging weighs both averages by the batches that they stand for, which no order of updates gives exactly.
    """

    def __init__(self, averaging: float = AVERAGING) -> None:
        super().__init__()
        if not 0 < averaging <= 1:
            raise InputValueError(f"moving average: weight {averaging} must lie in (0, 1]")
        self.averaging = averaging
        self.batches = 0

    def update(self, values: Any) -> None:
        low, high, size = _extremes(values)
        if size:
            self.average(low, high, size)

    def average(self, low: float, high: float, size: int) -> None:
        """Takes in a batch of this many values by its extremes."""
        first = self.batches == 0
        self.count += size
        self.batches += 1
        self.minimum = low if first else self.minimum + self.averaging * (low - self.minimum)
        self.maximum = high if first else self.maximum + self.averaging * (high - self.maximum)

    def merge(self, other: Self) -> Self:
        if other.batches:
            share = other.batches / (self.batches + other.batches)
            self.minimum = other.minimum if not self.batches else (1 - share) * self.minimum + share * other.minimum
            self.maximum = other.maximum if not self.batches else (1 - share) * self.maximum + share * other.maximum
        self.count += other.count
        self.batches += other.batches
        return self


class Histogram:
    """Counts of values in bins [k * 2^e, (k + 1) * 2^e), k integer; the base of the observers that look at counts.

    e is the smallest exponent for which all values so far fall into at most 2 * BINS bins (and float32 still tells
    neighbouring bins apart), so it follows from the extremes alone, and doubling a bin joins whole bins: the counts do
    not depend on how the data was cut into batches or merged.
    """

    def __init__(self) -> None:
        self.extremes = MinMax()
        self.exponent = -149
        self.first = 0
        self.counts: npt.NDArray[np.int64] = np.zeros(0, np.int64)

    def update(self, values: Any) -> None:
        low, high, size = _extremes(values)
        if not size:
            return
        self.extremes.update(values)
        exponent = _exponent(self.extremes.minimum, self.extremes.maximum)
        self._coarsen(exponent)
        start, counts = _counted(values, exponent, low, high)
        self._add(start, counts)

    def merge(self, other: Self) -> Self:
        """Takes in what another has seen; self. The result is the same as of one observer that saw both."""
        if other.extremes.count:
            self.extremes.merge(other.extremes)
            exponent = _exponent(self.extremes.minimum, self.extremes.maximum)
            self._coarsen(exponent)
            first, counts = _coarser(other.first, other.counts, exponent - other.exponent)
            self._add(first, counts)
        return self

    def range(self) -> Range:
        """The extremes; derived classes choose."""
        return self.extremes.range()

    def quant(self, dtype: npt.DTypeLike = "int8", *, symmetric: bool = False) -> Quant:
        """The Quant that covers the range; see Quant.from_range."""
        low, high = self.range()
        return Quant.from_range(low, high, dtype=dtype, symmetric=symmetric)

    @property
    def edges(self) -> npt.NDArray[np.float64]:
        """The bins' lower edges, and the upper edge of the last."""
        return np.ldexp(np.arange(self.first, self.first + self.counts.size + 1, dtype=np.float64), self.exponent)

    def _coarsen(self, exponent: int) -> None:
        if exponent > self.exponent:
            self.first, self.counts = _coarser(self.first, self.counts, exponent - self.exponent)
        self.exponent = max(self.exponent, exponent)

    def _add(self, start: int, counts: npt.NDArray[np.int64]) -> None:
        if not self.counts.size:
            self.first, self.counts = start, counts.copy()
            return
        first = min(self.first, start)
        last = max(self.first + self.counts.size, start + counts.size)
        total = np.zeros(last - first, np.int64)
        total[self.first - first :][: self.counts.size] += self.counts
        total[start - first :][: counts.size] += counts
        self.first, self.counts = first, total


class Percentile(Histogram):
    """Leaves out (100 - percent) % of all values, half of them at either end, inside bins by interpolation."""

    def __init__(self, percent: float = 99.99) -> None:
        super().__init__()
        if not 50 < percent <= 100:
            raise InputValueError(f"percentile {percent} must lie in (50, 100]")
        self.percent = percent

    def range(self) -> Range:
        low, high = self.extremes.range()
        reached = np.concatenate([[0], np.cumsum(self.counts)]).astype(np.float64)
        tail = (100 - self.percent) / 200 * reached[-1]
        # np.interp needs growing positions: an empty bin leaves a step, whose nearer edge counts.
        edges = self.edges
        below = float(np.interp(tail, reached, edges)) if tail else low
        above = float(np.interp(reached[-1] - tail, reached, edges)) if tail else high
        return max(low, min(below, high)), min(high, max(above, low))


class Mse(Histogram):
    """The range with the least mean squared error of LEVELS codes, values taken for their bins' middles."""

    def range(self) -> Range:
        return _best_range(self, _squared_error)


class Entropy(Histogram):
    """The range with the least Kullback-Leibler divergence between the values, those outside moved to its ends, and
    what LEVELS codes leave of them.

    Source: Migacz, "8-bit Inference with TensorRT", GTC 2017, there for |x|.
    """

    def range(self) -> Range:
        return _best_range(self, _divergence)


class PerChannel:
    """One observer for each slice along an axis."""

    def __init__(self, axis: int, make: Callable[[], Any] = MinMax) -> None:
        self.axis = axis
        self.make = make
        self.observers: list[Any] = []

    def update(self, values: Any) -> None:
        if not -values.ndim <= self.axis < values.ndim:
            raise InputValueError(f"observer: axis {self.axis} of values of shape {values.shape}")
        channels = values.shape[self.axis]
        if not self.observers:
            self.observers = [self.make() for _ in range(channels)]
        if channels != len(self.observers):
            raise InputValueError(f"observer: {channels} channels, after {len(self.observers)} before")
        for channel, one in enumerate(self.observers):
            one.update(values.take(channel, axis=self.axis))

    def merge(self, other: Self) -> Self:
        """Takes in what another has seen; self."""
        if not self.observers:
            self.observers = [self.make() for _ in other.observers]
        for one, more in zip(self.observers, other.observers, strict=True):
            one.merge(more)
        return self

    def ranges(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(minima, maxima), one for each channel."""
        _require_values(len(self.observers))
        pairs = np.array([one.range() for one in self.observers])
        return pairs[:, 0], pairs[:, 1]

    def quant(self, dtype: npt.DTypeLike = "int8", *, symmetric: bool = True, narrow_range: bool = True) -> Quant:
        """The Quant that covers the ranges; see Quant.from_range."""
        low, high = self.ranges()
        return Quant.from_range(low, high, dtype=dtype, symmetric=symmetric, narrow_range=narrow_range, axis=self.axis)


OBSERVERS: dict[str, Callable[[], Observer]] = {
    "minmax": MinMax,
    "moving-average": MovingAverageMinMax,
    "percentile": Percentile,
    "mse": Mse,
    "entropy": Entropy,
}


def observer(name: str) -> Observer:
    """A new observer by its name: minmax, moving-average, percentile (or percentile:99.9), mse, entropy.

    Raises:
        InputValueError: another name, or a percentile out of (50, 100].
    """
    kind, _, parameter = name.partition(":")
    if kind not in OBSERVERS or (parameter and kind != "percentile"):
        raise InputValueError(f"observer {name!r} must be one of {', '.join(OBSERVERS)}, or percentile:P")
    if not parameter:
        return OBSERVERS[kind]()
    try:
        percent = float(parameter)
    except ValueError:
        raise InputValueError(f"observer {name!r}: {parameter!r} must be a number") from None
    return Percentile(percent)


def _extremes(values: Any) -> tuple[float, float, int]:
    """(lowest, highest, number of values); zeros for none."""
    if getattr(values, "dtype", None) is None or values.dtype.kind != "f":
        raise InputTypeError(f"observer: values must be a floating-point array, got {_kind(values)}")
    size = math.prod(values.shape)
    if size == 0:
        return 0.0, 0.0, 0
    low, high = extremes(values) if is_device_array(values) else (float(values.min()), float(values.max()))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputValueError(f"observer: the values hold NaN or Inf (minimum {low}, maximum {high})")
    return low, high, size


def _kind(values: Any) -> str:
    return str(getattr(values, "dtype", type(values).__name__))


def _require_values(count: int) -> None:
    if count == 0:
        raise InputValueError("observer: no values seen; a range needs at least one")


def _exponent(low: float, high: float) -> int:
    """The smallest e for which [low, high] touches at most 2 * BINS bins of 2^e, none finer than float32 resolves."""
    reach = max(abs(low), abs(high))
    if reach == 0:
        return -149
    exponent = max(-149, math.frexp(reach)[1] - 24)
    while math.floor(math.ldexp(high, -exponent)) - math.floor(math.ldexp(low, -exponent)) >= 2 * BINS:
        exponent += 1
    return exponent


def _counted(values: Any, exponent: int, low: float, high: float) -> tuple[int, npt.NDArray[np.int64]]:
    """(the number of the first bin, counts up to the last): products by powers of two are exact in float64."""
    first = math.floor(math.ldexp(low, -exponent))
    bins = math.floor(math.ldexp(high, -exponent)) - first + 1
    if is_device_array(values):
        return first, histogram(values, exponent, first, bins)
    scaled = values.reshape(-1).astype(np.float64)
    scaled *= math.ldexp(1.0, -exponent)
    numbers = (scaled // 1).astype(np.int64) - first
    return first, np.bincount(numbers, minlength=bins).astype(np.int64)


def _coarser(first: int, counts: npt.NDArray[np.int64], steps: int) -> tuple[int, npt.NDArray[np.int64]]:
    """The counts in bins 2^steps as wide."""
    if steps <= 0 or not counts.size:
        return first >> max(steps, 0), counts
    start = first >> steps
    numbers = (np.arange(first, first + counts.size) >> steps) - start
    total = np.zeros(int(numbers[-1]) + 1, np.int64)
    np.add.at(total, numbers, counts)
    return start, total


Cost = Callable[[npt.NDArray[np.float64], npt.NDArray[np.float64], float, float], float]


def _best_range(histogram: Histogram, cost: Cost) -> Range:
    """The cheapest of ranges within the extremes: both ends drawn in together, then each by itself."""
    low, high = histogram.extremes.range()
    low, high = min(low, 0.0), max(high, 0.0)
    middles = (histogram.edges[:-1] + histogram.edges[1:]) / 2
    weights = histogram.counts.astype(np.float64)
    zero = -histogram.first
    if 0 <= zero < weights.size:
        # What RELU leaves: zeros, which have a code of their own in any range, and must not outweigh all others.
        middles[zero] = 0.0
        neighbours = weights[max(zero - 1, 0) : zero + 2]
        weights[zero] = min(weights[zero], float(np.delete(neighbours, min(zero, 1)).max(initial=0.0)))
    shrunk = np.arange(CANDIDATES, 0, -1) / CANDIDATES

    def cheapest(candidates: list[Range]) -> Range:
        # The first of equals: the widest.
        return min(candidates, key=lambda pair: cost(middles, weights, *pair))

    low, high = cheapest([(low * part, high * part) for part in shrunk])
    low, high = cheapest([(low * part, high) for part in shrunk])
    low, high = cheapest([(low, high * part) for part in shrunk])
    return float(low), float(high)


def _squared_error(
    middles: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], low: float, high: float
) -> float:
    step = (high - low) / (LEVELS - 1)
    if step == 0:
        return float((weights * middles**2).sum())
    rounded = np.clip(np.rint((middles - low) / step), 0, LEVELS - 1) * step + low
    return float((weights * (middles - rounded) ** 2).sum())


def _divergence(middles: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], low: float, high: float) -> float:
    step = (high - low) / (LEVELS - 1)
    if step == 0:
        return math.inf
    inside = (middles >= low - step / 2) & (middles <= high + step / 2)
    if not inside.any():
        return math.inf
    kept = weights[inside]
    exact = kept.copy()
    exact[0] += weights[: int(np.argmax(inside))].sum()
    exact[-1] += weights[len(inside) - int(np.argmax(inside[::-1])) :].sum()
    codes = np.clip(np.rint((middles[inside] - low) / step), 0, LEVELS - 1).astype(np.int64)
    filled = kept > 0
    sums = np.bincount(codes, kept, LEVELS)
    counts = np.bincount(codes, filled, LEVELS)
    spread = np.where(filled, sums[codes] / np.maximum(counts[codes], 1), 0.0)
    p, q = exact / exact.sum(), spread / max(float(spread.sum()), 1e-300)
    both = p > 0
    # A bin that only outsiders fill has no share in q: a tiny one stands for it.
    return float((p[both] * np.log(p[both] / np.maximum(q[both], 1e-12))).sum())
