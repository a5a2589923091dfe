"""UNIDIRECTIONAL_SEQUENCE_LSTM of int8 codes with int16 cells ("8x8_16"), LiteRT's.

Of every step t, for each gate g of input, forget, cell and output:

    z_g = sat16( V1(b_g + sum (x_t - zp_x) * w_g) )
    z_g = sat16( z_g + V1(sum (h - zp_h) * r_g) )
    z_g = sat16( z_g + V1u(p_g * c) )                          peepholes: all but the cell gate; see below
    z_g = layer_norm(z_g) * n_g + b_g                          layer normalization; b_g is here and not above

    c = sat16( RDBP(sigmoid(z_f) * c, 15) + RDBP(sigmoid(z_i) * tanh(z_c), 30 + log2 of the cell's scale) ), clipped
    m = clamp( V1(sigmoid(z_o) * tanh(c)) + zp_m )             scale and zero point as `hidden_quant` has them
    h = m, or clamp( V1(b + sum (m - zp_m) * w) + zp_h )       with a projection, clipped as a code

z_g is in Q3.12, before layer normalization in the scale of the gate's intermediate. The output gate sees the new cells,
the others those of the step before. Without input gate weights (CIFG) sigmoid(z_i) is 32767 - sigmoid(z_f). Factors are
products and quotients in float32; sigmoid and tanh are gemmlowp's in 16 bits.

A peephole's sums run over as many elements as the *output* has, in whole blocks of 16 by V1u (vectors), in the rest by
V1: with a projection the last cells are left out, and where all of a batch makes a step together (time-major data) its
cells count as one row.

TFLite Micro (rule interpolated) has no peepholes, projections, layer normalization or CIFG. It takes h's scale and zero
point from the state, all factors in float64, products of gates by V1, and sigmoid and tanh from the interpolated tables
of LOGISTIC. Built to round once (interpolated_single) it has V2 for V1.

Sources: LiteRT f67457790, tflite/kernels/{lstm_eval,unidirectional_sequence_lstm}.cc,
internal/reference/portable_tensor_utils.cc, internal/optimized/{sse_tensor_utils.h,neon_tensor_utils.cc}; tflite-micro
90b983c2, tensorflow/lite/micro/kernels/{lstm_eval,lstm_eval_common}.cc, lite/kernels/internal/reference/integer_ops/
{fully_connected,mul,tanh}.h.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Int64Array, Product, Rounding, Rule, rounding_divide_by_pot
from gpuq.ops.fixed_point import inverse_square_root
from gpuq.ops.fixed_point_int16 import all_numbers, logistic_table, tanh_table
from gpuq.ops.interpolation import interpolated_sigmoid, interpolated_tanh
from gpuq.ops.spec import INT8, INT16, INT32, Shape, Spec, run_shape
from gpuq.quant import Quant

GATES = ("input", "forget", "cell", "output")
CELL_GATE, OUTPUT_GATE = GATES.index("cell"), GATES.index("output")
PEEPHOLES = (0, 1, None, 2)
"""Which peephole each gate has, if any."""
PEEPHOLE_BLOCK = 16
GATE_SCALE = np.float32(2.0**-12)
TANH_BITS = 6
"""Integer bits of tanh's argument at most."""

FourQuants = tuple[Quant | None, Quant, Quant, Quant]
Factor = tuple[int, int]
"""(multiplier, shift)."""


@dataclass(frozen=True, kw_only=True)
class LstmShapes(Spec):
    """Sizes of a sequence through one LSTM layer, and what the layer has.

    Args:
        batch, steps: of one run.
        in_c: elements of an input row.
        units: cells.
        out_c: elements of an output row; as many as units without a projection.
        time_major: rows lie by step and then by item of the batch, not by item first.
    """

    op: ClassVar[str] = "UNIDIRECTIONAL_SEQUENCE_LSTM"
    has_weights: ClassVar[bool] = True
    dtypes: ClassVar[tuple[np.dtype[Any], np.dtype[Any], np.dtype[Any]]]
    """Of weights, biases, and what is multiplied element by element: peepholes and layer normalization."""

    batch: int
    steps: int
    in_c: int
    units: int
    out_c: int
    time_major: bool = False

    @property
    def has_input_gate(self) -> bool:
        raise NotImplementedError

    @property
    def has_peepholes(self) -> bool:
        raise NotImplementedError

    @property
    def has_projection(self) -> bool:
        raise NotImplementedError

    @property
    def has_norms(self) -> bool:
        raise NotImplementedError

    def check_shapes(self) -> None:
        """Raises unless the sizes go together."""
        self.require_positive(batch=self.batch, steps=self.steps, in_c=self.in_c, units=self.units, out_c=self.out_c)
        if not self.has_projection:
            self.require(self.out_c == self.units, f"{self.out_c} outputs of {self.units} cells need a projection")

    @property
    def x_shape(self) -> tuple[int, int, int]:
        return (*self._outer, self.in_c)

    @property
    def output_shapes(self) -> tuple[Shape, ...]:
        """Of the output, the output state and the cell state."""
        return (*self._outer, self.out_c), (self.batch, self.out_c), (self.batch, self.units)

    @property
    def output_shape(self) -> Shape:
        return self.output_shapes[0]

    @property
    def _outer(self) -> tuple[int, int]:
        return (self.steps, self.batch) if self.time_major else (self.batch, self.steps)

    @property
    def macs(self) -> int:
        gates = 4 if self.has_input_gate else 3
        projection = self.out_c * self.units if self.has_projection else 0
        return self.batch * self.steps * (gates * self.units * (self.in_c + self.out_c) + projection)


@dataclass(frozen=True, kw_only=True)
class UnidirectionalSequenceLstmSpec(LstmShapes):
    """A sequence through one LSTM layer of int8; see LstmShapes for the sizes.

    Args:
        x_quant: int8 per tensor.
        state_quant: int8 per tensor, of the output state; the output has the same codes.
        out_quant: int8 per tensor; only the projection's clip looks at it.
        hidden_quant: int8 per tensor: the file's fifth intermediate.
        cell_quant: int16, a power of two from 2^-15 to 2^-9, zero point 0.
        w_quants, r_quants: int8 per tensor, zero point 0, of the four gates; None of the input gate, for CIFG.
        peephole_quants: int16 per tensor, zero point 0, of the input, forget and output gates; None without.
        projection_quant: int8 per tensor, zero point 0; None without.
        norm_quants: int16 per tensor, zero point 0, of the layer normalization's coefficients; None without.
        norm_x_quants: per tensor, of what it normalizes: the file's first four intermediates; None without.
        cell_clip, projection_clip: in real units; 0 for none.
        fuses_tanh: what the file says is fused; LiteRT has tanh whatever it says.
    """

    dtypes: ClassVar[tuple[np.dtype[Any], np.dtype[Any], np.dtype[Any]]] = (INT8, INT32, INT16)

    x_quant: Quant
    state_quant: Quant
    out_quant: Quant
    hidden_quant: Quant
    cell_quant: Quant
    w_quants: FourQuants
    r_quants: FourQuants
    peephole_quants: tuple[Quant | None, Quant, Quant] | None = None
    projection_quant: Quant | None = None
    norm_quants: FourQuants | None = None
    norm_x_quants: FourQuants | None = None
    cell_clip: float = 0.0
    projection_clip: float = 0.0
    fuses_tanh: bool = True

    def __post_init__(self) -> None:
        self.check_shapes()
        for what, quant in (
            ("input", self.x_quant),
            ("output", self.out_quant),
            ("output state", self.state_quant),
            ("hidden", self.hidden_quant),
        ):
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
        for clip in (self.cell_clip, self.projection_clip):
            self.require(clip >= 0, f"a clip of {clip} must be at least 0")
        no_input_gate = self.w_quants[0] is None
        for what, quants, dtype in (
            ("input weights", self.w_quants, INT8),
            ("recurrent weights", self.r_quants, INT8),
            ("peepholes", self.peephole_quants, INT16),
            ("projection weights", None if self.projection_quant is None else (self.projection_quant,), INT8),
            ("layer normalization", self.norm_quants, INT16),
        ):
            if quants is None:
                continue
            if what != "projection weights":
                self.require((quants[0] is None) == no_input_gate, f"{what} have half an input gate")
            for quant_or_none in quants:
                if quant_or_none is not None:
                    self.require_dtype(what, quant_or_none.dtype, dtype)
                    self.require_per_tensor(weights=quant_or_none)
                    self.require(quant_or_none.zero_point == 0, f"{what} must have zero point 0")
        self.require(
            (self.norm_quants is None) == (self.norm_x_quants is None),
            "layer normalization needs the scales of what it normalizes",
        )
        for quant_or_none in self.norm_x_quants or ():
            if quant_or_none is not None:
                self.require_per_tensor(intermediate=quant_or_none)
        self.require(
            self.peephole_quants is None or self.out_c <= self.units,
            f"peepholes with more outputs ({self.out_c}) than cells ({self.units})",
        )

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.x_quant.dtype

    @property
    def cell_shift(self) -> int:
        """log2 of the cell state's scale."""
        return math.frexp(self.cell_quant.scalar_scale())[1] - 1

    @property
    def has_input_gate(self) -> bool:
        return self.w_quants[0] is not None

    @property
    def has_peepholes(self) -> bool:
        return self.peephole_quants is not None

    @property
    def has_projection(self) -> bool:
        return self.projection_quant is not None

    @property
    def has_norms(self) -> bool:
        return self.norm_quants is not None


@dataclass(frozen=True)
class Constants:
    """The constant operands by name; None what is not there.

    Attributes:
        w, r: (units, in_c), (units, out_c) of each gate.
        biases: (units,) of each gate.
        peepholes: (units,) of the input, forget and output gates.
        projection, projection_bias: (out_c, units), (out_c,).
        norms: (units,) of each gate.
    """

    w: tuple[npt.NDArray[Any] | None, ...]
    r: tuple[npt.NDArray[Any] | None, ...]
    biases: tuple[npt.NDArray[Any] | None, ...]
    peepholes: tuple[npt.NDArray[Any] | None, ...]
    projection: npt.NDArray[Any] | None
    projection_bias: npt.NDArray[Any] | None
    norms: tuple[npt.NDArray[Any] | None, ...]

    @classmethod
    def of(cls, spec: LstmShapes, operands: Sequence[npt.NDArray[Any] | None]) -> Constants:
        """From what follows x and the states: w, r, biases, peepholes, projection and its bias, norms; checked."""
        given = (*operands, *[None] * (21 - len(operands)))
        found = cls(given[:4], given[4:8], given[8:12], given[12:15], given[15], given[16], given[17:21])
        gates = (spec.has_input_gate, True, True, True)
        holes = [spec.has_peepholes and gates[gate] for gate, hole in enumerate(PEEPHOLES) if hole is not None]
        has_bias = spec.has_projection and found.projection_bias is not None
        weight, bias, number = spec.dtypes
        cells, outputs = (spec.units,), (spec.out_c,)
        for what, arrays, there, dtype, shape in (
            ("input weights", found.w, gates, weight, (spec.units, spec.in_c)),
            ("recurrent weights", found.r, gates, weight, (spec.units, spec.out_c)),
            ("biases", found.biases, gates, bias, cells),
            ("peepholes", found.peepholes, holes, number, cells),
            ("projection weights", (found.projection,), (spec.has_projection,), weight, (spec.out_c, spec.units)),
            ("projection bias", (found.projection_bias,), (has_bias,), bias, outputs),
            ("layer normalization", found.norms, [spec.has_norms and gate for gate in gates], number, cells),
        ):
            for array, is_there in zip(arrays, there, strict=True):
                spec.require((array is not None) == is_there, f"{what} must be there for all gates, or for none")
                if array is not None:
                    spec.require_dtype(what, array.dtype, dtype)
                    spec.require(array.shape == shape, f"{what} of shape {array.shape} must have shape {shape}")
        return found


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
        x: (N, batch, steps, in_c) codes; (N, steps, batch, in_c) of time-major data.
        hidden, cell: (N, batch, out_c), (N, batch, units), the states.
        constants: as Constants.of() takes them.

    Returns:
        (N, batch, steps, out_c) codes, or (N, steps, batch, out_c); both new states.
    """
    given = Constants.of(spec, constants)
    frames = run_shape(x, spec.x_shape).astype(np.int64) - spec.x_quant.scalar_zero_point()
    if not spec.time_major:
        frames = frames.swapaxes(1, 2)
    runs = frames.shape[0]
    h = np.broadcast_to(run_shape(hidden, (spec.batch, spec.out_c)), (runs, spec.batch, spec.out_c)).astype(np.int64)
    c = np.broadcast_to(run_shape(cell, (spec.batch, spec.units)), (runs, spec.batch, spec.units)).astype(np.int64)
    seen: list[Int64Array | None] = []
    for gate, weights in enumerate(given.w):
        bias = None if spec.norm_quants else given.biases[gate]
        factor = input_factor(spec, rule, gate)
        seen.append(None if weights is None else sat16(rescaled(rule, _sums(frames, weights, bias), factor)))
    rows = []
    for step in range(spec.steps):
        centred = h - spec.state_quant.scalar_zero_point()
        totals: list[Int64Array | None] = []
        for gate, (part, weights) in enumerate(zip(seen, given.r, strict=True)):
            if part is None or weights is None:
                totals.append(None)
                continue
            back = rescaled(rule, _sums(centred, weights), recurrent_factor(spec, rule, gate))
            totals.append(gate_sums(rule, part[:, step], back))
        h, c = behind_step(spec, rule, given, totals, c)
        if given.projection is not None:
            h = projected_codes(spec, rule, _sums(h, given.projection, given.projection_bias))
        rows.append(h)
    y = np.stack(rows, axis=1 if spec.time_major else 2).astype(np.int8)
    return y, h.astype(np.int8), c.astype(np.int16)


def gate_sums(rule: Rule, part: Int64Array, back: Int64Array) -> Int64Array:
    """What a gate sees of the input and of the output state, rescaled."""
    return sat16(part + (sat16(back) if is_micro(rule) else back))


def behind_step(
    spec: UnidirectionalSequenceLstmSpec,
    rule: Rule,
    given: Constants,
    totals: Sequence[Int64Array | None],
    c: Int64Array,
) -> tuple[Int64Array, Int64Array]:
    """(output state, with a projection what it takes; cells) behind a step.

    Args:
        totals: gate_sums() of each gate, (N, batch, units); None of a missing input gate.
        c: cells before the step.
    """
    sigmoid, tanh = gate_tables(rule)

    def activated(gate: int, cells: Int64Array) -> Int64Array:
        total, hole = totals[gate], PEEPHOLES[gate]
        assert total is not None
        if spec.peephole_quants is not None and hole is not None:
            total = with_peephole(spec, total, given.peepholes[hole], cells, peephole_factor(spec, gate))
        if spec.norm_quants is not None:
            total = normalized(total, given.norms[gate], given.biases[gate], *norm_factor(spec, gate))
        return np.asarray((tanh if gate == CELL_GATE else sigmoid)[total & 0xFFFF])

    f, g = activated(1, c), activated(CELL_GATE, c)
    i = activated(0, c) if spec.has_input_gate else 32767 - f
    c = next_cells(spec, rule, i, f, g, c)
    return hidden_codes(spec, rule, activated(OUTPUT_GATE, c), c), c


def is_micro(rule: Rule) -> bool:
    """The steps of TFLite Micro, and not of LiteRT."""
    return rule.rounding in (Rounding.INTERPOLATED, Rounding.INTERPOLATED_SINGLE)


def gate_tables(rule: Rule) -> tuple[Int64Array, Int64Array]:
    """sigmoid and tanh of Q3.12 in Q0.15, by the number's bits."""
    return (_sigmoid_table(), _tanh_table(12)) if is_micro(rule) else (logistic_table(), tanh_table(3))


def cell_table(spec: UnidirectionalSequenceLstmSpec, rule: Rule) -> Int64Array:
    """tanh of cells in Q0.15, by the number's bits."""
    return _tanh_table(-spec.cell_shift) if is_micro(rule) else tanh_table(15 + spec.cell_shift)


@lru_cache
def _sigmoid_table() -> Int64Array:
    return interpolated_sigmoid(all_numbers(), 3, 0)


@lru_cache
def _tanh_table(fraction_bits: int) -> Int64Array:
    left = 12 - fraction_bits
    return interpolated_tanh(all_numbers(), *((3 << left, 0) if left >= 0 else (3, -left)))


def input_factor(spec: UnidirectionalSequenceLstmSpec, rule: Rule, gate: int) -> Factor:
    """Of a gate's products with the input."""
    return _gate_factor(spec, rule, spec.x_quant, spec.w_quants[gate], gate)


def recurrent_factor(spec: UnidirectionalSequenceLstmSpec, rule: Rule, gate: int) -> Factor:
    """Of a gate's products with the output state."""
    return _gate_factor(spec, rule, spec.state_quant, spec.r_quants[gate], gate)


def _gate_factor(
    spec: UnidirectionalSequenceLstmSpec, rule: Rule, quant: Quant, weights: Quant | None, gate: int
) -> Factor:
    if weights is None:
        return 0, 0
    scales = quant.scalar_scale(), weights.scales, _gate_scale(spec, gate)
    return numerics.quantize_multiplier(float(numerics.real_multipliers(*scales, rule.product)[0]))


def _gate_scale(spec: UnidirectionalSequenceLstmSpec, gate: int) -> float:
    quant = None if spec.norm_x_quants is None else spec.norm_x_quants[gate]
    return float(GATE_SCALE) if quant is None else quant.scalar_scale()


def peephole_factor(spec: UnidirectionalSequenceLstmSpec, gate: int) -> Factor:
    """Of a gate's products with the cells; (0, 0) where there is no peephole."""
    hole = PEEPHOLES[gate]
    quant = None if spec.peephole_quants is None or hole is None else spec.peephole_quants[hole]
    if quant is None:
        return 0, 0
    scales = spec.cell_quant.scalar_scale(), quant.scales, _gate_scale(spec, gate)
    return numerics.quantize_multiplier(float(numerics.real_multipliers(*scales, Product.ALL_F32)[0]))


def norm_factor(spec: UnidirectionalSequenceLstmSpec, gate: int) -> tuple[Factor, int]:
    """(factor to Q3.12, what a variance below 1 counts as) of a gate's layer normalization."""
    quant = None if spec.norm_quants is None else spec.norm_quants[gate]
    if quant is None:
        return (0, 0), 1
    multiplier, shift = numerics.quantize_multiplier(quant.scalar_scale())
    spec.require(shift + 12 <= numerics.MAX_LEFT_SHIFT, f"a layer normalization scale of {quant.scale} is too large")
    return (multiplier, shift + 12), max(1, int(np.float32(10000) * np.float32(quant.scalar_scale())))


def cell_factors(spec: UnidirectionalSequenceLstmSpec) -> tuple[Factor, Factor]:
    """Of forget gate and cells, of input gate and cell gate, in TFLite Micro."""
    scales = 2.0**-15, 2.0**-30 / spec.cell_quant.scalar_scale()
    return numerics.quantize_multiplier(scales[0]), numerics.quantize_multiplier(scales[1])


def hidden_factor(spec: UnidirectionalSequenceLstmSpec, rule: Rule) -> tuple[Factor, int]:
    """(factor, zero point) of output gate and tanh of the cells."""
    if is_micro(rule):
        quant = spec.state_quant
        return numerics.quantize_multiplier(2.0**-30 / quant.scalar_scale()), quant.scalar_zero_point()
    quant = spec.hidden_quant
    real = np.float32(2.0**-15 / float(np.float32(quant.scalar_scale())) * 2.0**-15)
    return numerics.quantize_multiplier(float(real)), quant.scalar_zero_point()


def projection_factor(spec: UnidirectionalSequenceLstmSpec) -> Factor:
    """(0, 0) without a projection."""
    if spec.projection_quant is None:
        return 0, 0
    scales = spec.hidden_quant.scalar_scale(), spec.projection_quant.scales, spec.state_quant.scalar_scale()
    return numerics.quantize_multiplier(float(numerics.real_multipliers(*scales, Product.ALL_F32)[0]))


def check_factors(spec: UnidirectionalSequenceLstmSpec, rule: Rule) -> None:
    """Raises InputValueError unless the runtimes' multipliers can hold every factor."""
    for gate in range(len(GATES)):
        input_factor(spec, rule, gate)
        recurrent_factor(spec, rule, gate)
        peephole_factor(spec, gate)
        norm_factor(spec, gate)
    hidden_factor(spec, rule)
    projection_factor(spec)


def cell_bound(spec: UnidirectionalSequenceLstmSpec, rule: Rule) -> int | None:
    """What the magnitude of a cell is clipped to, if at all: LiteRT takes a bound that rounds to 0 for none."""
    bound = _bound(spec.cell_clip, spec.cell_quant, 32767)
    return bound if bound or (is_micro(rule) and spec.cell_clip > 0) else None


def projection_bound(spec: UnidirectionalSequenceLstmSpec) -> int | None:
    """The same of the codes that a projection gives."""
    return _bound(spec.projection_clip, spec.out_quant, 127) or None if spec.has_projection else None


def _bound(clip: float, quant: Quant, most: int) -> int:
    with np.errstate(over="ignore"):
        return int(min(np.float32(clip) / np.float32(quant.scalar_scale()), np.float32(most)))


def _sums(centred: Int64Array, weights: npt.NDArray[Any], bias: npt.NDArray[Any] | None = None) -> Int64Array:
    """Rows (..., I) times weights (O, I), modulo 2^32."""
    acc = centred @ weights.astype(np.int64).T
    return numerics.wrap_int32(acc if bias is None else acc + bias)


def rescaled(rule: Rule, acc: Int64Array, factor: tuple[Any, Any]) -> Int64Array:
    """Sums modulo 2^32 by a factor, or by one for each element of the last axis."""
    once = rule.rounding is Rounding.INTERPOLATED_SINGLE
    return (numerics.requantize_v2 if once else numerics.requantize_v1)(acc, *factor)


def with_peephole(
    spec: UnidirectionalSequenceLstmSpec,
    total: Int64Array,
    weights: npt.NDArray[Any] | None,
    cells: Int64Array,
    factor: Factor,
) -> Int64Array:
    """What a gate sees of the cells, added: (N, batch, units). As many elements as there are outputs, in one row for
    each item of the batch, or for all that make a step together.
    """
    assert weights is not None
    together = spec.batch if spec.time_major else 1
    rows = total.reshape(-1, together * spec.units).copy()
    part = together * spec.out_c
    products = cells.reshape(rows.shape)[:, :part].reshape(-1, together, spec.out_c) * weights[: spec.out_c]
    seen = numerics.requantize_blocks(products, PEEPHOLE_BLOCK, *factor)
    rows[:, :part] = sat16(rows[:, :part] + seen.reshape(-1, part))
    return rows.reshape(total.shape)


def normalized(
    total: Int64Array,
    weights: npt.NDArray[Any] | None,
    bias: npt.NDArray[Any] | None,
    factor: Factor,
    least_variance: int,
) -> Int64Array:
    """Layer normalization over the cells of an item: (N, batch, units) to Q3.12.

    Mean and deviations have 10 more bits. The variance takes 2^20 / units as an integer, and so may be far from it, or
    negative. Divisions truncate.
    """
    assert weights is not None
    assert bias is not None
    units = total.shape[-1]
    mean = _truncated(total.sum(axis=-1, keepdims=True) * 1024, units)
    variance = (total * total).sum(axis=-1, keepdims=True) * ((1 << 20) // units) - mean * mean
    variance = _truncated(variance, 1 << 20)
    inverse = inverse_square_root(np.where(variance < 1, least_variance, variance))
    rescaled = numerics.requantize_v1(1024 * total - mean, *inverse)
    weighted = rescaled * weights.astype(np.int64) + bias
    tenth = _truncated(weighted + np.where(weighted > 0, 512, -512), 1024)
    return sat16(numerics.requantize_v1(tenth, *factor))


def _truncated(values: Int64Array, divisor: int) -> Int64Array:
    """values / divisor as C has it: towards 0."""
    return np.asarray(np.sign(values) * (np.abs(values) // divisor))


def next_cells(
    spec: UnidirectionalSequenceLstmSpec, rule: Rule, i: Int64Array, f: Int64Array, g: Int64Array, c: Int64Array
) -> Int64Array:
    """The cell state behind a step."""
    if is_micro(rule):
        keep, add = cell_factors(spec)
        c = sat16(sat16(rescaled(rule, f * c, keep)) + sat16(rescaled(rule, i * g, add)))
    else:
        c = sat16(rounding_divide_by_pot(f * c, 15) + rounding_divide_by_pot(i * g, 30 + spec.cell_shift))
    bound = cell_bound(spec, rule)
    return c if bound is None else np.asarray(np.clip(c, -bound, bound))


def hidden_codes(spec: UnidirectionalSequenceLstmSpec, rule: Rule, o: Int64Array, c: Int64Array) -> Int64Array:
    """The output state behind a step; with a projection what it takes, less the zero point."""
    factor, zero_point = hidden_factor(spec, rule)
    steps = rescaled(rule, o * cell_table(spec, rule)[c & 0xFFFF], factor)
    if spec.projection_quant is None:
        return np.asarray(np.clip(steps + zero_point, -128, 127))
    # The runtime's own codes have the zero point's opposite, which saturates elsewhere.
    return np.asarray(np.clip(steps - zero_point, -128, 127)) + zero_point


def projected_codes(spec: UnidirectionalSequenceLstmSpec, rule: Rule, sums: Int64Array) -> Int64Array:
    """The output state of a projection's sums, modulo 2^32."""
    steps = rescaled(rule, sums, projection_factor(spec))
    codes = np.asarray(np.clip(steps + spec.state_quant.scalar_zero_point(), -128, 127))
    bound = projection_bound(spec)
    return codes if bound is None else np.asarray(np.clip(codes, -bound, bound))


def sat16(values: Int64Array) -> Int64Array:
    return np.asarray(np.clip(values, -(1 << 15), (1 << 15) - 1))
