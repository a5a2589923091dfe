"""Compares a result with what it must be, every byte, and says where and how they first differ."""

from __future__ import annotations

import numpy as np


def assert_equal_bits(got: np.ndarray, want: np.ndarray, context: object) -> None:
    """Fails unless both arrays have one dtype, one shape and the same bytes.

    got      our result
    want     what it must be
    context  what led here (operator, configuration, seed, sample, tensor); printed on failure
    """
    got, want = np.asarray(got), np.asarray(want)
    if got.dtype != want.dtype or got.shape != want.shape:
        raise AssertionError(f"got {got.dtype}{list(got.shape)}, expected {want.dtype}{list(want.shape)}\n{context}")
    # As raw words: -0.0 differs from 0.0, and NaN equals itself.
    words = np.dtype(f"u{want.dtype.itemsize}")
    different = np.ascontiguousarray(got).view(words) != np.ascontiguousarray(want).view(words)
    count = int(np.count_nonzero(different))
    if count == 0:
        return
    # argwhere and not unravel_index: it also serves a scalar, whose coordinate is ().
    first = tuple(int(i) for i in np.argwhere(different)[0])
    raise AssertionError(
        f"{count} of {want.size} elements differ; first at {list(first)}: "
        f"got {_show(got[first])}, expected {_show(want[first])}{_largest(got, want)}\n{context}"
    )


def _show(value: np.generic) -> str:
    """A value, floats with all their bits."""
    if isinstance(value, np.floating):
        return f"{value!r} ({float(value).hex()})"
    return str(value)


def _largest(got: np.ndarray, want: np.ndarray) -> str:
    """The largest difference of integers: 1 hints at a rounding rule, more at something else."""
    if got.dtype.kind not in "iu":
        return ""
    return f"; largest difference {int(np.abs(got.astype(np.int64) - want.astype(np.int64)).max())}"
