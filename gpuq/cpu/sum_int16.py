"""ADD and SUB of int16: each input's scaled value is looked up, their sum is requantized block by block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Rounding, Rule
from gpuq.ops.add import of_sums, scaled_input, sum_factors
from gpuq.ops.broadcast import BinarySpec

# Sums that are requantized at once: few enough that the passes of numerics.requantize stay in the cache.
BLOCK = 1 << 13


def fits(spec: BinarySpec, rule: Rule) -> bool:
    """True where every element of a run has one rule."""
    return rule.rounding is not Rounding.V1_EARLY_SHIFT_BLOCK16 or math.prod(spec.output_shape) % 16 == 0


class Int16SumPlan:
    """y = clamp(requant(table_a[a] +- table_b[b])), with broadcasting and constant operands."""

    def __init__(self, spec: BinarySpec, rule: Rule, a: npt.NDArray[Any] | None, b: npt.NDArray[Any] | None) -> None:
        self.spec = spec
        self.name = f"{spec.op.lower()}_int16_tables"
        self._constants = (a, b)
        a_factor, b_factor, out_factor = sum_factors(spec, rule.rounding)
        sign = -1 if spec.op == "SUB" else 1
        self._tables = (_table(spec, rule, a_factor), sign * _table(spec, rule, b_factor))
        self._rounding = of_sums(rule.rounding)
        self._factor = np.array(out_factor)
        self._range = numerics.activation_range(spec.activation, spec.out_quant, rule.bounds)
        self.constant_bytes = sum(table.nbytes for table in self._tables)

    def workspace_bytes(self, runs: int) -> int:
        return 0

    def launch(
        self,
        inputs: Sequence[npt.NDArray[Any]],
        outputs: Sequence[npt.NDArray[Any]],
        workspace: npt.NDArray[np.uint8],
        stream: object = None,
    ) -> None:
        activations = iter(inputs)
        a, b = (next(activations) if constant is None else constant for constant in self._constants)
        a, b = self.spec.aligned(a.view(np.uint16), b.view(np.uint16))
        runs = outputs[0].shape[0]
        out = outputs[0].reshape(runs, -1)
        for run in range(runs):
            left = self._tables[0][a[run if a.shape[0] > 1 else 0]]
            right = self._tables[1][b[run if b.shape[0] > 1 else 0]]
            total = (left + right).reshape(-1)
            for first in range(0, total.size, BLOCK):
                block = slice(first, first + BLOCK)
                codes = numerics.requantize(total[block].astype(np.int64), self._rounding, self._factor)
                np.clip(codes, *self._range, out=out[run, block], casting="unsafe")


def _table(spec: BinarySpec, rule: Rule, factor: float) -> npt.NDArray[np.int32]:
    """The scaled value of every code, by the code's bits as an unsigned number; below 2^29 in magnitude."""
    codes = np.arange(1 << 16, dtype=np.uint16).view(np.int16).astype(np.int64)
    return scaled_input(spec, rule.rounding, codes, factor).astype(np.int32)
