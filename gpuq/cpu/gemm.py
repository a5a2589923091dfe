"""Exact integer matrix products by float32 or float64 BLAS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

EXACT_FLOAT32 = 1 << 24
EXACT_FLOAT64 = 1 << 53


def exact_up_to(dtype: np.dtype[Any]) -> int:
    """Up to here the float type holds every integer."""
    return EXACT_FLOAT32 if dtype == np.float32 else EXACT_FLOAT64


def matmul(a: npt.NDArray[Any], b: npt.NDArray[Any], out: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
    """np.matmul of finite numbers, without its warnings: BLAS kernels compute on unused vector lanes too, and what
    these hold may set the floating-point flags that NumPy reports (numpy/numpy#24067)."""
    with np.errstate(all="ignore"):
        return np.asarray(np.matmul(a, b, out=out))


@dataclass(frozen=True)
class ExactGemm:
    """x (M, K) @ weights (K, N) for integer-valued float32 x with |x| <= x_max.

    float32 holds every integer up to 2^24, and a sum of integers is exact in any order while no partial sum leaves
    that range. Any partial sum over the taps of a chunk is at most x_max * (largest sum over an output channel of
    |w|), so K is cut into chunks for which this stays within 2^24 (FMA or not makes no difference: nothing is
    rounded). Chunks are added in float64, exact up to 2^53, which x_max * sum |w| < 2^53 guarantees for every K
    that memory can hold. Worst cases: 1,040 taps of int8 weights within +-126, 258 of centred uint8. int16 codes
    leave 2^24 after a few taps: they are multiplied in float64 throughout, up to 2^53 in one chunk.

    Attributes:
        chunks: (first row, last row + 1, weights of these rows in the float type of x).
        bounds: int64 (N,); no element of a column of the product exceeds its bound in magnitude.
    """

    chunks: tuple[tuple[int, int, npt.NDArray[Any]], ...]
    bounds: npt.NDArray[np.int64]

    @classmethod
    def pack(cls, weights: npt.NDArray[np.int64], x_max: int, dtype: npt.DTypeLike = np.float32) -> ExactGemm:
        """Cuts integer weights (K, N) into exact chunks."""
        magnitudes = np.abs(weights)
        chunks = []
        first = 0
        while first < weights.shape[0]:
            # Running sums over a stretch that is doubled until the chunk ends inside it.
            stretch, fits = 1024, 1024
            while fits == stretch:
                stretch *= 2
                running = np.cumsum(magnitudes[first : first + stretch], axis=0).max(axis=1)
                fits = int(np.searchsorted(running * x_max, exact_up_to(np.dtype(dtype)), side="right"))
            last = first + max(1, fits)
            chunks.append((first, last, np.ascontiguousarray(weights[first:last], dtype)))
            first = last
        return cls(tuple(chunks), magnitudes.sum(axis=0) * x_max)

    @property
    def constant_bytes(self) -> int:
        """Bytes of packed weights."""
        return sum(weights.nbytes for _, _, weights in self.chunks)

    @property
    def sum_dtype(self) -> np.dtype[Any]:
        """The weights' type when one chunk suffices, else float64."""
        return np.dtype(self.chunks[0][2].dtype if len(self.chunks) == 1 else np.float64)

    def __call__(self, x: npt.NDArray[Any], part: npt.NDArray[Any], total: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The product, in `part` (M, N) when one chunk suffices, else summed in `total` (M, N) float64."""
        for index, (first, last, weights) in enumerate(self.chunks):
            matmul(x[:, first:last], weights, out=part)
            if len(self.chunks) == 1:
                return part
            if index == 0:
                np.copyto(total, part)
            else:
                total += part
        return total
