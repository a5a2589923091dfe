"""UNIDIRECTIONAL_SEQUENCE_LSTM of int8 codes with int16 cells ("8x8_16"), LiteRT's.

Of every step t, for each gate g of input, forget, cell and output, in Q3.12:

    z_g = sat16( V1(b_g + sum (x_t - zp_x) * w_g) + ... )      sat16 after each addend
    z_g = sat16( z_g + V1(sum (h - zp_h) * r_g) )

    c = sat16( RDBP(sigmoid(z_f) * c, 15) + RDBP(sigmoid(z_i) * tanh(z_c), 30 + log2 of the cell's scale) ), clipped
    h = clamp( V1(sigmoid(z_o) * tanh(c)) + zp )

with scale and zero point zp of h as `hidden_quant` has them. Without input gate weights (CIFG) sigmoid(z_i) is 32767 -
sigmoid(z_f). Factors are products and quotients in float32; sigmoid and tanh are gemmlowp's in 16 bits.

TFLite Micro (rule interpolated) takes h's scale and zero point from the output, all factors in float64, products of
gates by V1, and sigmoid and tanh from the interpolated tables of LOGISTIC. It has no CIFG.

Sources: LiteRT f67457790, tflite/kernels/{lstm_eval,unidirectional_sequence_lstm}.cc,
internal/reference/portable_tensor_utils.cc; tflite-micro 90b983c2, tensorflow/lite/micro/kernels/{lstm_eval,
lstm_eval_common}.cc, lite/kernels/internal/reference/integer_ops/tanh.h.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Int64Array, Rounding, Rule, rounding_divide_by_pot
from gpuq.ops.fixed_point_int16 import all_numbers, logistic_table, tanh_table
from gpuq.ops.interpolation import interpolated_sigmoid, interpolated_tanh
from gpuq.ops.spec import INT8, INT16, Shape, Spec, clamp_to, run_shape
from gpuq.quant import Quant

GATES = ("input", "forget", "cell", "output")
GATE_SCALE = np.float32(2.0**-12)
TANH_BITS = 6
"""Integer bits of tanh's argument at most."""


@dataclass(frozen=True, kw_only=True)
class UnidirectionalSequenceLstmSpec(Spec):
    """A sequence through one LSTM layer, without peepholes, projection and layer normalization.

    Args:
        batch, steps: of one run.
        in_c: elements of an input row.
        units: elements of an output row, and cells.
        x_quant: int8 per tensor.
        out_quant: int8 per tensor, of the output and of the output state.
        hidden_quant: int8 per tensor: the file's fifth intermediate.
        cell_quant: int16, a power of two from 2^-15 to 2^-9, zero point 0.
        w_quants, r_quants: int8 per tensor, zero point 0, of the four gates; None of the input gate, for CIFG.
        cell_clip: in real units; 0 for none.
    """

    op: ClassVar[str] = "UNIDIRECTIONAL_SEQUENCE_LSTM"
    has_weights: ClassVar[bool] = True

    batch: int
    steps: int
    in_c: int
    units: int
    x_quant: Quant
    out_quant: Quant
    hidden_quant: Quant
    cell_quant: Quant
    w_quants: tuple[Quant | None, Quant, Quant, Quant]
    r_quants: tuple[Quant | None, Quant, Quant, Quant]
    cell_clip: float = 0.0

    def __post_init__(self) -> None:
        self.require_positive(batch=self.batch, steps=self.steps, in_c=self.in_c, units=self.units)
        for what, quant in (("input", self.x_quant), ("output", self.out_quant), ("hidden", self.hidden_quant)):
            self.require_dtype(what, quant.dtype, INT8)
            self.require_per_tensor(quant=quant)
        self.require_dtype("cell state", self.cell_quant.dtype, INT16)
        self.require_per_tensor(cell_quant=self.cell_quant)
        fraction, exponent = math.frexp(self.cell_quant.scalar_scale())
        self.require(
            fraction == 0.5 and 0 <= 14 + exponent <= TANH_BITS and self.cell_quant.zero_point == 0,
            f"cell state must have a scale of 2^-15 to 2^-9 and zero point 0, got {self.cell_quant.scale} "
            f"and {self.cell_quant.zero_point}",
        )
        self.require((self.w_quants[0] is None) == (self.r_quants[0] is None), "half an input gate")
        for quant_or_none in (*self.w_quants, *self.r_quants):
            if quant_or_none is not None:
                self.require_dtype("weights", quant_or_none.dtype, INT8)
                self.require_per_tensor(weights=quant_or_none)
                self.require(quant_or_none.zero_point == 0, "weights must have zero point 0")

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.x_quant.dtype

    @property
    def cell_shift(self) -> int:
        """log2 of the cell state's scale."""
        return math.frexp(self.cell_quant.scalar_scale())[1] - 1

    @property
    def output_shapes(self) -> tuple[Shape, ...]:
        """Of the output, the output state and the cell state."""
        state = (self.batch, self.units)
        return (self.batch, self.steps, self.units), state, state

    @property
    def output_shape(self) -> Shape:
        return self.output_shapes[0]

    @property
    def macs(self) -> int:
        gates = sum(quant is not None for quant in self.w_quants)
        return gates * self.batch * self.steps * self.units * (self.in_c + self.units)


def reference(
    spec: UnidirectionalSequenceLstmSpec,
    rule: Rule,
    x: npt.NDArray[np.int8],
    hidden: npt.NDArray[np.int8],
    cell: npt.NDArray[np.int16],
    *constants: npt.NDArray[Any] | None,
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8], npt.NDArray[np.int16]]:
    """All steps of a sequence.

    Args:
        x: (N, batch, steps, in_c) codes.
        hidden, cell: (N, batch, units), the states.
        constants: four input weights (1, units, in_c), four recurrent weights (1, units, units), four biases
            (1, units); None what is not there.

    Returns:
        (N, batch, steps, units) codes; both new states.
    """
    w, r, biases = constants[:4], constants[4:8], constants[8:]
    frames = run_shape(x, (spec.batch, spec.steps, spec.in_c)).astype(np.int64) - spec.x_quant.scalar_zero_point()
    shape = (frames.shape[0], spec.batch, spec.units)
    h = np.broadcast_to(run_shape(hidden, shape[1:]), shape).astype(np.int64)
    c = np.broadcast_to(run_shape(cell, shape[1:]), shape).astype(np.int64)
    sigmoid, tanh = _gate_tables(rule)
    seen = [
        None if each is None else _gate_part(spec, rule, frames, each, spec.w_quants[gate], spec.x_quant, biases[gate])
        for gate, each in enumerate(w)
    ]
    rows = []
    for step in range(spec.steps):
        centred = h - spec.out_quant.scalar_zero_point()
        gates: list[Int64Array | None] = []
        for gate, (part, weights) in enumerate(zip(seen, r, strict=True)):
            if part is None or weights is None:
                gates.append(None)
                continue
            back = _gate_part(spec, rule, centred, weights, spec.r_quants[gate], spec.out_quant, None)
            if rule.rounding is Rounding.INTERPOLATED:
                back = _sat16(back)
            total = _sat16(_sat16(part[:, :, step]) + back)
            gates.append((tanh if GATES[gate] == "cell" else sigmoid)[total & 0xFFFF])
        c = _cell(spec, rule, gates, c)
        h = _output(spec, rule, gates, c)
        rows.append(h)
    y = np.stack(rows, axis=2).astype(np.int8)
    return y, h.astype(np.int8), c.astype(np.int16)


def _gate_tables(rule: Rule) -> tuple[Int64Array, Int64Array]:
    """sigmoid and tanh of Q3.12 in Q0.15, by the number's bits."""
    if rule.rounding is Rounding.INTERPOLATED:
        return interpolated_sigmoid(all_numbers(), 3, 0), interpolated_tanh(all_numbers(), 3, 0)
    return logistic_table(), tanh_table(3)


def _gate_part(
    spec: UnidirectionalSequenceLstmSpec,
    rule: Rule,
    centred: Int64Array,
    weights: npt.NDArray[Any],
    w_quant: Quant | None,
    quant: Quant,
    bias: npt.NDArray[Any] | None,
) -> Int64Array:
    """One addend of a gate in Q3.12, before it saturates: rows (..., I) times weights (units, I)."""
    assert w_quant is not None
    acc = centred @ weights.reshape(spec.units, -1).astype(np.int64).T
    if bias is not None:
        acc = acc + bias.reshape(-1)
    reals = numerics.real_multipliers(quant.scalar_scale(), w_quant.scales, float(GATE_SCALE), rule.product)
    return numerics.requantize_v1(numerics.wrap_int32(acc), *numerics.quantize_multipliers(reals))


def _cell(
    spec: UnidirectionalSequenceLstmSpec, rule: Rule, gates: list[Int64Array | None], c: Int64Array
) -> Int64Array:
    """The cell state behind a step."""
    i, f, g, _ = gates
    # CIFG leaves out the input gate alone.
    assert f is not None
    assert g is not None
    i = 32767 - f if i is None else i
    if rule.rounding is Rounding.INTERPOLATED:
        kept, added = _by_factor(f * c, 2.0**-15), _by_factor(i * g, 2.0**-30 / spec.cell_quant.scalar_scale())
        c = _sat16(_sat16(kept) + _sat16(added))
    else:
        c = _sat16(rounding_divide_by_pot(f * c, 15) + rounding_divide_by_pot(i * g, 30 + spec.cell_shift))
    if spec.cell_clip > 0:
        clip = int(min(np.float32(spec.cell_clip) / np.float32(spec.cell_quant.scalar_scale()), np.float32(32767)))
        c = np.clip(c, -clip, clip)
    return c


def _output(
    spec: UnidirectionalSequenceLstmSpec, rule: Rule, gates: list[Int64Array | None], c: Int64Array
) -> Int64Array:
    """The output state behind a step."""
    o = gates[3]
    assert o is not None
    if rule.rounding is Rounding.INTERPOLATED:
        left = 12 + spec.cell_shift
        products = o * (interpolated_tanh(c, 3 << left, 0) if left >= 0 else interpolated_tanh(c, 3, -left))
        codes = _by_factor(products, 2.0**-30 / spec.out_quant.scalar_scale()) + spec.out_quant.scalar_zero_point()
    else:
        products = o * tanh_table(15 + spec.cell_shift)[c & 0xFFFF]
        factor = np.float32(2.0**-15 / float(np.float32(spec.hidden_quant.scalar_scale())) * 2.0**-15)
        codes = _by_factor(products, float(factor)) + spec.hidden_quant.scalar_zero_point()
    return clamp_to(codes, -128, 127, INT8).astype(np.int64)


def _by_factor(products: Int64Array, factor: float) -> Int64Array:
    return numerics.requantize_v1(products, *numerics.quantize_multiplier(factor))


def _sat16(values: Int64Array) -> Int64Array:
    return np.asarray(np.clip(values, -(1 << 15), (1 << 15) - 1))
