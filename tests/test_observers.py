"""Observers: what they choose, and that neither the cutting of the data nor merging changes it."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuq.errors import InputTypeError, InputValueError
from gpuq.ptq.observers import (
    BINS,
    Entropy,
    Histogram,
    MinMax,
    MovingAverageMinMax,
    Mse,
    Percentile,
    PerChannel,
    observer,
)
from gpuq.quant import Quant

NAMES = ("minmax", "moving-average", "percentile:99.9", "mse", "entropy")
STREAMING = (MinMax, Histogram, Percentile, Mse, Entropy)

values = st.lists(
    st.floats(-(2.0**100), 2.0**100, width=32, allow_nan=False, allow_subnormal=False), min_size=1, max_size=60
)


def seen(make: type, *batches: np.ndarray) -> Histogram:
    one = make()
    for batch in batches:
        one.update(batch)
    return one


@given(values, st.integers(0, 60), st.integers(0, 60))
def test_histograms_do_not_depend_on_how_data_is_cut(numbers: list[float], a: int, b: int) -> None:
    x = np.array(numbers, np.float32)
    whole = seen(Histogram, x)
    cut = seen(Histogram, x[: min(a, b)], x[min(a, b) : max(a, b)], x[max(a, b) :])
    merged = seen(Histogram, x[a:]).merge(seen(Histogram, x[:a]))
    for other in (cut, merged):
        assert (other.exponent, other.first, other.counts.tolist()) == (
            whole.exponent,
            whole.first,
            whole.counts.tolist(),
        )
        assert other.range() == whole.range() == (float(x.min()), float(x.max()))
    assert whole.counts.sum() == x.size
    assert whole.counts.size <= 2 * BINS


@given(values)
def test_counts_are_those_of_exact_arithmetic(numbers: list[float]) -> None:
    x = np.array(numbers, np.float32)
    histogram = seen(Histogram, x)
    bins = [math.floor(math.ldexp(float(value), -histogram.exponent)) - histogram.first for value in x]
    assert histogram.counts.tolist() == np.bincount(bins, minlength=histogram.counts.size).tolist()


@pytest.mark.parametrize("make", STREAMING)
def test_merging_and_pickling(make: type, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=5000).astype(np.float32)
    whole = seen(make, x).range()
    assert seen(make, x[:1000]).merge(seen(make, x[1000:])).range() == whole
    assert seen(make).merge(seen(make, x)).range() == whole
    assert pickle.loads(pickle.dumps(seen(make, x))).range() == whole
    assert seen(make, x, x[:0]).range() == whole


def test_percentiles_by_sorting(seed: int) -> None:
    """Within a bin of what sorting gives."""
    x = np.random.default_rng(seed).normal(size=100_000).astype(np.float32)
    chosen = seen(Percentile, x)
    chosen.percent = 99.0
    want = np.percentile(x.astype(np.float64), [0.5, 99.5])
    width = math.ldexp(1.0, chosen.exponent)
    assert np.abs(np.array(chosen.range()) - want).max() <= width
    chosen.percent = 100
    assert chosen.range() == (float(x.min()), float(x.max()))


@pytest.mark.parametrize("make", [Percentile, Mse, Entropy])
def test_an_outlier_is_cut_off(make: type, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=1_000_000).astype(np.float32)
    x[0] = 60.0
    low, high = seen(make, x).range()
    assert -7 < low < -2
    assert 2 < high < 30


def test_mse_has_the_least_error_of_neighbouring_ranges(seed: int) -> None:
    x = np.random.default_rng(seed).laplace(size=200_000).astype(np.float32)

    def error(low: float, high: float) -> float:
        quant = Quant.from_range(low, high)
        return float(((quant.dequantize(quant.quantize(x)) - x) ** 2).mean())

    low, high = seen(Mse, x).range()
    best = error(low, high)
    assert best < error(float(x.min()), float(x.max()))
    for part in (0.8, 1.25):
        assert best <= error(low * part, high * part) * 1.01


def test_zeros_of_relu_do_not_outweigh_the_rest(seed: int) -> None:
    x = np.maximum(np.random.default_rng(seed).normal(size=200_000), 0).astype(np.float32)
    low, high = seen(Entropy, x).range()
    assert low == 0
    assert high > 2.5


def test_moving_average_by_hand() -> None:
    one = MovingAverageMinMax(0.25)
    one.update(np.array([0.0, 4.0], np.float32))
    one.update(np.array([-4.0, 8.0], np.float32))
    assert one.range() == (-1.0, 5.0)
    other = MovingAverageMinMax(0.25)
    other.update(np.array([-2.0, 2.0], np.float32))
    one.merge(other)
    assert one.range() == pytest.approx((-4 / 3, 4.0))
    assert one.count == 6


def test_per_channel_ranges_and_quant(seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(7, 5, 3)).astype(np.float32)
    one = PerChannel(-1)
    one.update(x[:4])
    one.update(x[4:])
    low, high = one.ranges()
    assert low.tolist() == x.min(axis=(0, 1)).tolist()
    assert high.tolist() == x.max(axis=(0, 1)).tolist()
    scales = one.quant().scales
    want = (np.maximum(-low, high) / 127).astype(np.float32)
    assert np.array_equal(scales, want)
    with pytest.raises(InputValueError, match="4 channels, after 3"):
        one.update(np.zeros((1, 4), np.float32))


def test_constants_and_zeros() -> None:
    for value in (0.0, 3.0, -1e-30, 1e30):
        for name in NAMES:
            one = observer(name)
            one.update(np.full(10, value, np.float32))
            low, high = one.range()
            assert min(low, 0) <= value <= max(high, 0) or name in ("mse", "entropy")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("median", "must be one of minmax"),
        ("mse:3", "must be one of"),
        ("percentile:x", "must be a number"),
        ("percentile:40", "must lie in"),
    ],
)
def test_names_that_are_refused(name: str, message: str) -> None:
    with pytest.raises(InputValueError, match=message):
        observer(name)


@pytest.mark.parametrize("name", NAMES)
def test_values_that_are_refused(name: str) -> None:
    with pytest.raises(InputValueError, match="no values seen"):
        observer(name).range()
    with pytest.raises(InputTypeError, match="floating-point"):
        observer(name).update(np.zeros(3, np.int8))
    for bad in (np.nan, np.inf):
        with pytest.raises(InputValueError, match="NaN or Inf"):
            observer(name).update(np.array([0, bad], np.float32))
