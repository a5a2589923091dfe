"""kernels_cuda/observe.cu, run thread by thread on the CPU: extremes and counts are NumPy's."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpuq.cuda.kernel import Pointer
from gpuq.cuda.observe import BINS, KERNELS, extremes_launch, histogram_launch, value_of
from gpuq.ptq import observers
from gpuq.ptq.observers import Histogram

from .compare import assert_equal_bits
from .cuda_layers import launcher, scaled
from .host_cuda.runner import HostLauncher

__all__ = ["launcher"]


def random_values(rng: np.random.Generator) -> np.ndarray:
    """Sizes around a block's, magnitudes from the smallest to the largest float32."""
    size = int(rng.integers(1, 9000))
    values = rng.normal(size=size) * 2.0 ** rng.integers(-149, 100)
    values[rng.random(size) < 0.3] = 0
    if rng.random() < 0.3:
        values *= 2.0 ** rng.integers(-60, 20, size)
    if rng.random() < 0.3:
        values = np.abs(values)
    return values.astype(np.float32)


def test_random_arrays(launcher: HostLauncher, seed: int) -> None:
    for case in range(scaled(40)):
        x = random_values(np.random.default_rng([seed, case]))
        where = f"{x.size} values, case {case}, seed {seed}"
        ends = np.array([0xFFFFFFFF, 0], np.uint32)
        launcher.launch(extremes_launch(x.size).bound({"x": Pointer(x), "result": Pointer(ends)}))
        low, high = (value_of(int(key)) for key in ends)
        assert (low, high) == (float(x.min()), float(x.max())), where
        want = Histogram()
        want.update(x)
        counts = np.zeros(want.counts.size, np.uint64)
        memory = {"x": Pointer(x), "counts": Pointer(counts)}
        launcher.launch(histogram_launch(x.size, want.exponent, want.first, counts.size).bound(memory))
        assert_equal_bits(counts.astype(np.int64), want.counts, where)


def test_counts_are_added(launcher: HostLauncher) -> None:
    x, counts = np.array([0.0, 1.5, -0.25], np.float32), np.array([7, 0, 1], np.uint64)
    memory = {"x": Pointer(x), "counts": Pointer(counts)}
    launcher.launch(histogram_launch(3, 0, -1, 3).bound(memory))
    assert counts.tolist() == [8, 1, 2]


def test_negative_values_that_vanish_as_they_are_scaled(launcher: HostLauncher) -> None:
    x, counts = np.array([1e30, -1e-44], np.float32), np.zeros(2, np.uint64)
    memory = {"x": Pointer(x), "counts": Pointer(counts)}
    launcher.launch(histogram_launch(2, 100, -1, 2).bound(memory))
    assert counts.tolist() == [1, 1]


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_not_finite_shows(launcher: HostLauncher, value: float) -> None:
    x = np.array([1, value, -1], np.float32)
    ends = np.array([0xFFFFFFFF, 0], np.uint32)
    launcher.launch(extremes_launch(3).bound({"x": Pointer(x), "result": Pointer(ends)}))
    assert not all(math.isfinite(value_of(int(key))) for key in ends)


def test_histograms_fit_the_kernel() -> None:
    assert 2 * observers.BINS == BINS
    assert {kernel.source for kernel in KERNELS} == {"observe.cu"}
