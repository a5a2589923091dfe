"""UNIDIRECTIONAL_SEQUENCE_LSTM of float32.

Of every step, for each gate g of input, forget, cell and output:

    z_g = b_g + sum x_t * w_g + sum h * r_g + p_g * c          peepholes: all but the cell gate
    z_g = (z_g - mean) / sqrt(variance + 1e-8) * n_g + b_g     layer normalization; b_g is here and not above

    c = sigmoid(z_f) * c + sigmoid(z_i) * tanh(z_c), clipped
    h = sigmoid(z_o) * tanh(c), or its projection b + sum h * w, clipped

The output gate sees the new cells. Without an input gate (CIFG) its value is 1 less the forget gate's. LiteRT leaves
the order of sums to its vectors, and has polynomials of its own for sigmoid and tanh: here sums are float64's, term
by term, and what stands left of an equals sign is rounded to float32 once.

Source: LiteRT f67457790, tflite/kernels/lstm_eval.cc (EvalFloat).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops.float32.elementwise import UNARY
from gpuq.ops.spec import FLOAT32, run_shape
from gpuq.ops.unidirectional_sequence_lstm import CELL_GATE, OUTPUT_GATE, PEEPHOLES, Constants, LstmShapes

FloatArray = npt.NDArray[np.float32]
NORMALIZATION = 1e-8


@dataclass(frozen=True, kw_only=True)
class FloatUnidirectionalSequenceLstmSpec(LstmShapes):
    """A sequence through one LSTM layer of float32; see LstmShapes for the sizes.

    Args:
        input_gate, peepholes, projection, norms: what it has.
        cell_clip, projection_clip: magnitudes; 0 for none.
    """

    dtypes: ClassVar[tuple[np.dtype[Any], np.dtype[Any], np.dtype[Any]]] = (FLOAT32, FLOAT32, FLOAT32)

    input_gate: bool = True
    peepholes: bool = False
    projection: bool = False
    norms: bool = False
    cell_clip: float = 0.0
    projection_clip: float = 0.0

    def __post_init__(self) -> None:
        self.check_shapes()
        for clip in (self.cell_clip, self.projection_clip):
            self.require(clip >= 0, f"a clip of {clip} must be at least 0")

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return FLOAT32

    @property
    def has_input_gate(self) -> bool:
        return self.input_gate

    @property
    def has_peepholes(self) -> bool:
        return self.peepholes

    @property
    def has_projection(self) -> bool:
        return self.projection

    @property
    def has_norms(self) -> bool:
        return self.norms


def reference(
    spec: FloatUnidirectionalSequenceLstmSpec,
    rule: Rule,
    x: FloatArray,
    hidden: FloatArray,
    cell: FloatArray,
    *constants: npt.NDArray[Any] | None,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """All steps of a sequence; arguments and results as of the operator on int8, in float32."""
    given = Constants.of(spec, constants)
    frames = run_shape(x, spec.x_shape)
    if not spec.time_major:
        frames = frames.swapaxes(1, 2)
    runs = frames.shape[0]
    h, c = (
        np.broadcast_to(run_shape(state, shape), (runs, *shape))
        for state, shape in zip((hidden, cell), spec.output_shapes[1:], strict=True)
    )
    gates = [gate for gate, weights in enumerate(given.w) if weights is not None]
    w, r = (np.concatenate([each for each in weights if each is not None]) for weights in (given.w, given.r))
    seen = _sums(frames, w)
    rows = []
    for step in range(spec.steps):
        totals = dict(zip(gates, np.split(seen[:, step] + _sums(h, r), len(gates), axis=-1), strict=True))

        def gate_value(gate: int, cells: FloatArray, totals: Mapping[int, Any] = totals) -> FloatArray:
            total, bias, hole = totals[gate], given.biases[gate], PEEPHOLES[gate]
            if bias is not None and not spec.norms:
                total = total + bias
            peephole = None if hole is None else given.peepholes[hole]
            if peephole is not None:
                total = total + peephole.astype(np.float64) * cells
            if spec.norms:
                total = _normalized(total, given.norms[gate], bias)
            return UNARY["TANH" if gate == CELL_GATE else "LOGISTIC"](total.astype(np.float32))

        f, g = gate_value(1, c), gate_value(CELL_GATE, c)
        i = gate_value(0, c) if spec.input_gate else np.float32(1) - f
        c = _clipped(f.astype(np.float64) * c + i.astype(np.float64) * g, spec.cell_clip)
        h = gate_value(OUTPUT_GATE, c) * UNARY["TANH"](c)
        if given.projection is not None:
            projected = _sums(h, given.projection)
            if given.projection_bias is not None:
                projected = projected + given.projection_bias
            h = _clipped(projected, spec.projection_clip)
        rows.append(h)
    return np.stack(rows, axis=1 if spec.time_major else 2), np.asarray(h), np.asarray(c)


def _sums(rows: npt.NDArray[Any], weights: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Rows (..., I) times weights (O, I), term by term: BLAS would have other bits for other batches."""
    total = np.zeros((*rows.shape[:-1], len(weights)))
    for column, factors in enumerate(weights.T.astype(np.float64)):
        total += rows[..., column, None].astype(np.float64) * factors
    return total


def _normalized(
    total: npt.NDArray[np.float64], weights: npt.NDArray[Any] | None, bias: npt.NDArray[Any] | None
) -> npt.NDArray[np.float64]:
    assert weights is not None
    deviations = total - total.mean(axis=-1, keepdims=True)
    variance = (deviations * deviations).mean(axis=-1, keepdims=True)
    return np.asarray(deviations / np.sqrt(variance + NORMALIZATION) * weights + bias)


def _clipped(values: npt.NDArray[np.float64], bound: float) -> FloatArray:
    rounded = values.astype(np.float32)
    return rounded if bound <= 0 else np.clip(rounded, np.float32(-bound), np.float32(bound))
