"""Types of codes, as kernels are compiled for them: the macros of kernels_cuda/codes.cuh."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpuq.ops.spec import INT8, UINT8


def code_defines(dtype: np.dtype[Any] = INT8) -> tuple[tuple[str, int], ...]:
    """Macros for int8, uint8 or int16 codes."""
    return (("X_BITS", 8 * dtype.itemsize), ("X_UNSIGNED", int(dtype == UINT8)))


def type_name(dtype: np.dtype[Any]) -> str:
    """What a kernel's name ends in for codes of this type: nothing for bytes, whose name says how many go together."""
    return "" if dtype.itemsize == 1 else "_s16"
