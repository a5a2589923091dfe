"""ADD, SUB and MUL of int16: each input's value is looked up, their sum or product is requantized block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Rule
from gpuq.ops.add import of_sums, one_rule, scaled_input, sum_factors
from gpuq.ops.broadcast import BinarySpec
from gpuq.ops.mul import MulSpec

# Sums that are requantized at once: few enough that the passes of numerics.requantize stay in the cache.
BLOCK = 1 << 13


def fits(spec: BinarySpec, rule: Rule) -> bool:
    """True where every element of a run has one rule."""
    return one_rule(spec, rule.rounding) is not None


class Int16BinaryPlan:
    """y = clamp(requant(table_a[a] +- table_b[b])) or clamp(requant(a * b)); operands broadcast or are constant."""

    def __init__(self, spec: BinarySpec, rule: Rule, a: npt.NDArray[Any] | None, b: npt.NDArray[Any] | None) -> None:
        self.spec = spec
        self.name = f"{spec.op.lower()}_int16"
        self._constants = (a, b)
        rule = replace(rule, rounding=one_rule(spec, rule.rounding) or rule.rounding)
        # Of products nothing is looked up: the codes are their own values.
        self._tables: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]] | None = None
        self._rounding, out_factor = rule.rounding, 0.0
        if isinstance(spec, MulSpec):
            scales = spec.a_quant.scalar_scale(), spec.b_quant.scales, spec.out_quant.scalar_scale()
            out_factor = float(numerics.real_multipliers(*scales, rule.product)[0])
        else:
            a_factor, b_factor, out_factor = sum_factors(spec, rule.rounding)
            sign = -1 if spec.op == "SUB" else 1
            self._tables = (_table(spec, rule, a_factor), sign * _table(spec, rule, b_factor))
            self._rounding = of_sums(rule.rounding)
        self._factor = np.array(out_factor)
        self._range = numerics.activation_range(spec.activation, spec.out_quant, rule.bounds)
        self.constant_bytes = sum(table.nbytes for table in self._tables or ())

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
        a, b = self.spec.aligned(a, b)
        runs = outputs[0].shape[0]
        out = outputs[0].reshape(runs, -1)
        for run in range(runs):
            total = self._combined(a[run if a.shape[0] > 1 else 0], b[run if b.shape[0] > 1 else 0]).reshape(-1)
            for first in range(0, total.size, BLOCK):
                block = slice(first, first + BLOCK)
                codes = numerics.requantize(total[block].astype(np.int64), self._rounding, self._factor)
                np.clip(codes, *self._range, out=out[run, block], casting="unsafe")

    def _combined(self, a: npt.NDArray[np.int16], b: npt.NDArray[np.int16]) -> npt.NDArray[np.int32]:
        """Sums, or products of at most 2^30, of one run."""
        if self._tables is None:
            return np.multiply(a, b, dtype=np.int32)
        return np.asarray(self._tables[0][a.view(np.uint16)] + self._tables[1][b.view(np.uint16)])


def _table(spec: BinarySpec, rule: Rule, factor: float) -> npt.NDArray[np.int32]:
    """The scaled value of every code, by the code's bits as an unsigned number; below 2^29 in magnitude."""
    codes = np.arange(1 << 16, dtype=np.uint16).view(np.int16).astype(np.int64)
    return scaled_input(spec, rule.rounding, codes, factor).astype(np.int32)
