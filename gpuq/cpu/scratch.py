"""Carves typed arrays out of the caller's workspace."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

ALIGNMENT = 64


def aligned(size: int) -> int:
    """size rounded up to a cache line."""
    return -(-size // ALIGNMENT) * ALIGNMENT


class Scratch:
    """Hands out consecutive pieces of a byte buffer, each aligned to a cache line (relative to its start)."""

    def __init__(self, workspace: npt.NDArray[np.uint8]) -> None:
        self._workspace = workspace
        self._used = 0

    def take(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """An uninitialised array of this shape."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        piece = self._workspace[self._used : self._used + size]
        self._used += aligned(size)
        return piece.view(dtype).reshape(shape)
