"""Elementwise operators on codes: every result is looked up in a table of ops/tables.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.numerics import V1U_BLOCKS, Rounding, Rule, uniform
from gpuq.ops.add import in_blocks, one_rule
from gpuq.ops.broadcast import BroadcastSpec
from gpuq.ops.spec import Spec
from gpuq.ops.tables import binary_table, unary_table


class UnaryTablePlan:
    """y = table[x]; under a rule of blocks, another table for what is behind a run's last whole block."""

    def __init__(self, spec: Spec, rule: Rule) -> None:
        self.spec = spec
        self.name = f"{spec.op.lower()}_table"
        self._elements = math.prod(spec.output_shape)
        rounding = uniform(rule.rounding, self._elements)
        self._blocked = self._elements
        if rounding in V1U_BLOCKS:
            self._blocked -= self._elements % V1U_BLOCKS[rounding]
            self._rest = unary_table(spec, replace(rule, rounding=Rounding.V1))
            rounding = Rounding.V1U
        self._table = unary_table(spec, replace(rule, rounding=rounding))
        self.constant_bytes = self._table.nbytes * (1 if self._blocked == self._elements else 2)

    def workspace_bytes(self, runs: int) -> int:
        return 0

    def launch(
        self,
        inputs: Sequence[npt.NDArray[Any]],
        outputs: Sequence[npt.NDArray[Any]],
        workspace: npt.NDArray[np.uint8],
        stream: object = None,
    ) -> None:
        x, y = inputs[0].view(f"uint{8 * inputs[0].itemsize}"), outputs[0]
        np.take(self._table, x, out=y, mode="wrap")
        if self._blocked < self._elements:
            y.reshape(-1, self._elements)[:, self._blocked :] = self._rest[
                x.reshape(-1, self._elements)[:, self._blocked :]
            ]


class BinaryTablePlan:
    """y = table[a, b], with broadcasting and constant operands."""

    def __init__(self, spec: BroadcastSpec, rule: Rule, a: npt.NDArray[Any] | None, b: npt.NDArray[Any] | None) -> None:
        self.spec = spec
        self.name = f"{spec.op.lower()}_table"
        rounding = one_rule(spec, rule.rounding)
        self._table = binary_table(spec, rule if rounding is None else replace(rule, rounding=rounding))
        self._constants = (a, b)
        # Behind the last whole block of each row, of a rule of blocks.
        self._rest = np.flatnonzero(~in_blocks(spec, rule.rounding)) if rounding is None else np.zeros(0, np.intp)
        self._rest_table = binary_table(spec, replace(rule, rounding=Rounding.V1)) if self._rest.size else None
        self.constant_bytes = self._table.nbytes * (1 if self._rest_table is None else 2) + self._rest.nbytes

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
        spec: Any = self.spec
        a, b = spec.aligned(a.view(np.uint8), b.view(np.uint8))
        runs = outputs[0].shape[0]
        out = outputs[0].reshape(runs, -1)
        # One run at a time keeps the 16-bit indices in the cache.
        for run in range(runs):
            index = a[run if a.shape[0] > 1 else 0].astype(np.uint16) << 8
            pair = index + b[run if b.shape[0] > 1 else 0]
            np.take(self._table, pair.reshape(-1), out=out[run], mode="wrap")
            if self._rest_table is not None:
                out[run, self._rest] = self._rest_table[pair.reshape(-1)[self._rest]]
