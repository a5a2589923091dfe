"""Operators on codes as tables: every possible result is computed once, by reference().

One input has 256 codes (65,536 of int16), two have 65,536 pairs; looking up is exact by construction, for every
rule. Where a rule of blocks has two answers, each has its table.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops.broadcast import BroadcastSpec
from gpuq.ops.registry import reference
from gpuq.ops.spec import Spec


def all_codes(dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """All 256 or 65,536 codes in the order of their unsigned values."""
    bits = 8 * dtype.itemsize
    return np.arange(1 << bits, dtype=f"uint{bits}").view(dtype)


def unary_table(spec: Spec, rule: Rule) -> npt.NDArray[Any]:
    """(256,) or (65536,) the result for each code, by the code's unsigned value."""
    # The reference takes arrays of any shape; 256 elements are 256 runs of a scalar.
    return np.ascontiguousarray(reference(spec, rule, all_codes(spec.activation_dtype)))


def binary_table(spec: BroadcastSpec, rule: Rule) -> npt.NDArray[Any]:
    """(65536,) the result for each pair, the first code's byte being the upper one."""
    codes = all_codes(spec.activation_dtype)
    pairs = replace(spec, a_shape=(256, 1), b_shape=(1, 256))
    return np.ascontiguousarray(reference(pairs, rule, codes, codes).reshape(-1))
