"""UNIDIRECTIONAL_SEQUENCE_LSTM by floating-point BLAS: one product for all gates, the input's for all steps at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.cpu.gemm import ExactGemm
from gpuq.numerics import Int64Array, Rule
from gpuq.ops.unidirectional_sequence_lstm import (
    GATES,
    Constants,
    Factor,
    UnidirectionalSequenceLstmSpec,
    behind_step,
    check_factors,
    gate_sums,
    input_factor,
    projected_codes,
    recurrent_factor,
    rescaled,
    sat16,
)
from gpuq.quant import Quant

# Elements of the gates of all steps that are made together.
BLOCK = 1 << 20


class LstmPlan:
    """Runs in blocks, all steps of one before the next."""

    def __init__(
        self, spec: UnidirectionalSequenceLstmSpec, rule: Rule, constants: Sequence[npt.NDArray[Any] | None]
    ) -> None:
        self.spec = spec
        self.name = "unidirectional_sequence_lstm_gemm"
        self._rule = rule
        self._given = given = Constants.of(spec, constants[3:])
        check_factors(spec, rule)
        self._first = 0 if spec.has_input_gate else 1
        gates = range(self._first, len(GATES))
        self._pairs = len(gates) * spec.units
        self._input = _packed(given.w, spec.x_quant)
        self._recurrent = _packed(given.r, spec.state_quant)
        self._bias = np.zeros(self._pairs, np.int64)
        if not spec.norm_quants:
            self._bias = np.concatenate([bias for bias in given.biases if bias is not None]).astype(np.int64)
        self._input_factors = _of_pairs([input_factor(spec, rule, gate) for gate in gates], spec.units)
        self._recurrent_factors = _of_pairs([recurrent_factor(spec, rule, gate) for gate in gates], spec.units)
        self._projection: ExactGemm | None = None
        if given.projection is not None:
            # int8 codes with the zero point's opposite, and that again.
            reach = 128 + abs(spec.hidden_quant.scalar_zero_point())
            self._projection = ExactGemm.pack(given.projection.astype(np.int64).T, reach)
        gemms = (self._input, self._recurrent, self._projection)
        self.constant_bytes = sum(gemm.constant_bytes for gemm in gemms if gemm is not None)

    def workspace_bytes(self, runs: int) -> int:
        return 0

    def launch(
        self,
        inputs: Sequence[npt.NDArray[Any]],
        outputs: Sequence[npt.NDArray[Any]],
        workspace: npt.NDArray[np.uint8],
        stream: object = None,
    ) -> None:
        runs = len(outputs[0])
        block = max(1, BLOCK // (self.spec.steps * self.spec.batch * self._pairs))
        for start in range(0, runs, block):
            part = slice(start, start + block)
            self._walk(*(array[part] for array in (*inputs[:3], *outputs)))

    def _walk(
        self,
        x: npt.NDArray[Any],
        hidden: npt.NDArray[Any],
        cells: npt.NDArray[Any],
        y: npt.NDArray[Any],
        new_hidden: npt.NDArray[Any],
        new_cells: npt.NDArray[Any],
    ) -> None:
        """All steps of some runs; new states may be the memory of the old ones."""
        spec, rule = self.spec, self._rule
        sums = _product(self._input, x.astype(np.float32) - np.float32(spec.x_quant.scalar_zero_point()))
        parts = sat16(rescaled(rule, numerics.wrap_int32(sums + self._bias), self._input_factors))
        h, c = hidden.astype(np.int64), cells.astype(np.int64)
        missing: list[Int64Array | None] = [None] * self._first
        for step in range(spec.steps):
            centred = (h - spec.state_quant.scalar_zero_point()).astype(np.float32)
            back = rescaled(rule, numerics.wrap_int32(_product(self._recurrent, centred)), self._recurrent_factors)
            part = parts[:, step] if spec.time_major else parts[:, :, step]
            totals = gate_sums(rule, part, back)
            gates = np.split(totals, len(GATES) - self._first, axis=-1)
            h, c = behind_step(spec, rule, self._given, [*missing, *gates], c)
            if self._projection is not None:
                projected = _product(self._projection, h.astype(np.float32))
                if self._given.projection_bias is not None:
                    projected = projected + self._given.projection_bias
                h = projected_codes(spec, rule, numerics.wrap_int32(projected))
            np.copyto(y[:, step] if spec.time_major else y[:, :, step], h, casting="unsafe")
        np.copyto(new_hidden, h, casting="unsafe")
        np.copyto(new_cells, c, casting="unsafe")


def _of_pairs(factors: Sequence[Factor], units: int) -> tuple[Int64Array, Int64Array]:
    """Multipliers and shifts of each gate and cell."""
    multipliers, shifts = np.repeat(np.array(factors, np.int64), units, axis=0).T
    return multipliers, shifts


def _packed(weights: Sequence[npt.NDArray[Any] | None], quant: Quant) -> ExactGemm:
    """Of all gates that there are, side by side."""
    zero_point = quant.scalar_zero_point()
    reach = max(zero_point - quant.qmin, quant.qmax - zero_point)
    stacked = np.concatenate([each for each in weights if each is not None])
    return ExactGemm.pack(stacked.astype(np.int64).T, reach)


def _product(gemm: ExactGemm, rows: npt.NDArray[np.float32]) -> Int64Array:
    """(..., K) times (K, N), exact."""
    flat = rows.reshape(-1, rows.shape[-1])
    columns = len(gemm.bounds)
    part, total = np.empty((len(flat), columns), np.float32), np.empty((0, 0))
    if len(gemm.chunks) > 1:
        total = np.empty(part.shape)
    return np.asarray(gemm(flat, part, total), np.int64).reshape(*rows.shape[:-1], columns)
