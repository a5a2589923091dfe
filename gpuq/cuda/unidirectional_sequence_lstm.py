"""UNIDIRECTIONAL_SEQUENCE_LSTM of int8 on dp4a: one GEMM for what all steps see of the input, then the steps.

Small layers take all steps in one launch, in blocks that walk through them with a few items each. A large layer's
weights are more than one multiprocessor can read in time: the blocks of all of them make one step, launch after launch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.cuda.epilogue import epilogue_defines, round_up
from gpuq.cuda.kernel import Argument, Kernel, Launch, Pointer, Slot, int32s
from gpuq.cuda.layer import SeveralOutputs, Traits
from gpuq.cuda.layout import ImageLayout, alignment
from gpuq.numerics import Rounding, Rule
from gpuq.ops.unidirectional_sequence_lstm import (
    GATES,
    PEEPHOLES,
    Constants,
    UnidirectionalSequenceLstmSpec,
    cell_bound,
    cell_factors,
    cell_table,
    gate_tables,
    hidden_factor,
    input_factor,
    is_micro,
    norm_factor,
    peephole_factor,
    projection_bound,
    projection_factor,
    recurrent_factor,
)

INPUT_THREADS = 256
TILE = 64
STEP_THREADS, WIDE_THREADS = 512, 64
SHARED_BYTES = 47 << 10
"""Of a block's states at most: what every GPU has, less the kernel's own."""

# Bits of lstm_steps_dp4a.cu.
LOAD, GATES_PHASE, NORMS, CELLS, LAST_NORM, OUTPUTS, PROJECTION, STORE = (1 << bit for bit in range(8))
ALL_PHASES = 255

# What a multiprocessor reads of weights in a cycle, and what a launch or the phases of a step cost beside that, in
# cycles: rough, from data sheets.
BYTES_PER_CYCLE = 64
LAUNCH_CYCLES, STEP_CYCLES = 3500, 2000
MOST_BLOCKS = 65535
"""Of a group: the limit of a grid's second dimension."""


def inputs_kernel(rule: str = "RULE_V1") -> Kernel:
    """lstm_inputs_dp4a.cu; its head says what the arguments mean."""
    return Kernel(
        name="lstm_inputs_dp4a_64x64",
        source="lstm_inputs_dp4a.cu",
        entry="lstm_inputs_dp4a",
        defines=(("THREADS", INPUT_THREADS), *epilogue_defines(rule)),
        threads=(INPUT_THREADS, 1, 1),
    )


@dataclass(frozen=True)
class LstmChoice:
    """So many items share the weights that are read; one block for them and all steps, or as many as a step fills."""

    items: int
    wide: bool = False

    @property
    def name(self) -> str:
        """Of the kernel that takes the time."""
        return f"lstm_steps_dp4a_{self.items}{'_wide' if self.wide else ''}"

    @property
    def threads(self) -> int:
        return WIDE_THREADS if self.wide else STEP_THREADS

    def kernel(self, rule: str = "RULE_V1", micro: bool = False, dynamic_shared_bytes: int = 0) -> Kernel:
        """lstm_steps_dp4a.cu; its head says what the arguments mean."""
        return Kernel(
            name=f"{self.name}{'_micro' if micro else ''}",
            source="lstm_steps_dp4a.cu",
            entry="lstm_steps_dp4a",
            defines=(
                *(("ITEMS", self.items), ("WIDE", int(self.wide)), ("MICRO", int(micro))),
                *(("THREADS", self.threads), *epilogue_defines(rule)),
            ),
            threads=(self.threads, 1, 1),
            dynamic_shared_bytes=dynamic_shared_bytes,
        )


FOUR, ONE, WIDE = CHOICES = (LstmChoice(4), LstmChoice(1), LstmChoice(4, wide=True))
KERNELS = (inputs_kernel(), *(choice.kernel() for choice in CHOICES), FOUR.kernel("RULE_V2", micro=True))


@dataclass(frozen=True, eq=False)
class LstmLayer(SeveralOutputs):
    """A packed layer: input, hidden state and cells in; output and both states out.

    Attributes:
        rule: the macro of kernels_cuda/requantize.cuh.
        micro: TFLite Micro's steps.
        numbers: of the steps kernel's arguments those from cell_bound to state_zero_point.
        constants: as the kernels' heads have them; peepholes, layer normalization and projection only where they are.
    """

    spec: UnidirectionalSequenceLstmSpec
    rule: str
    micro: bool
    numbers: tuple[int, ...]
    constants: Mapping[str, npt.NDArray[Any]]

    @property
    def gates(self) -> int:
        return 4 if self.spec.has_input_gate else 3

    @property
    def pairs(self) -> int:
        """Gates and cells."""
        return self.gates * self.spec.units

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        spec = self.spec
        return (*spec.x_shape[:2], spec.in_c), *self.y_shapes[1:]

    @property
    def y_shapes(self) -> tuple[tuple[int, int, int], ...]:
        spec = self.spec
        return (*spec.x_shape[:2], spec.out_c), (1, spec.batch, spec.out_c), (1, spec.batch, spec.units)

    def state_bytes(self, items: int) -> int:
        """Of a block: codes of output and cells in sixteens, gates and cells of 16 bits."""
        spec = self.spec
        codes = round_up(spec.out_c, 16) + (round_up(spec.units, 16) if spec.projection_quant else 0)
        return round_up(items * (codes + 2 * (self.pairs + spec.units)), 16)

    def choices(self, runs: int, traits: Traits) -> Sequence[LstmChoice]:
        items = runs * self.spec.batch
        weights = sum(self.constants[name].nbytes for name in ("r", "projection") if name in self.constants)

        def cycles(choice: LstmChoice) -> float:
            """Of a step."""
            groups = -(-items // choice.items)
            # Sums of several items take longer than reading their weights.
            sums = weights / BYTES_PER_CYCLE * (1 + choice.items) / 2
            if choice.wide:
                return len(self._phases()) * LAUNCH_CYCLES + groups * sums / traits.multiprocessors
            return (STEP_CYCLES + sums) * -(-groups // traits.multiprocessors)

        fitting = [choice for choice in CHOICES if choice.wide or self.state_bytes(choice.items) <= SHARED_BYTES]
        return sorted(fitting, key=cycles)

    def workspace_bytes(self, runs: int, choice: LstmChoice) -> int:
        groups = -(-runs * self.spec.batch // choice.items)
        return self._part_bytes(runs) + (groups * self.state_bytes(choice.items) if choice.wide else 0)

    def _part_bytes(self, runs: int) -> int:
        return round_up(2 * runs * self.spec.batch * self.spec.steps * self.pairs, 16)

    def _phases(self) -> list[tuple[int, int]]:
        """Of a step in launches of its own: (bits, what there is to do in threads for each item)."""
        spec, cells = self.spec, [(CELLS | OUTPUTS, self.spec.units)]
        if spec.norm_quants:
            # A warp normalizes a gate.
            normalized = [(NORMS, 32 * (self.gates - 1)), (CELLS, spec.units), (LAST_NORM, 32)]
            cells = [*normalized, (OUTPUTS, spec.units)]
        projection = [(PROJECTION, spec.out_c)] if spec.projection_quant else []
        return [(GATES_PHASE, self.pairs), *cells, *projection]

    def _launches_of_steps(self, choice: LstmChoice) -> list[tuple[int, int, int, int]]:
        """(first step, last step + 1, bits, blocks of a group) of each launch."""
        spec, each = self.spec, self._phases()
        if not choice.wide:
            return [(0, spec.steps, ALL_PHASES, 1)]

        def blocks(threads: int) -> int:
            return min(-(-threads // WIDE_THREADS), MOST_BLOCKS)

        states = blocks(max(spec.out_c, spec.units))
        # Gates and projections share weights among items, which the others have side by side.
        of_step = [
            (bits, blocks(threads if bits in (GATES_PHASE, PROJECTION) else threads * choice.items))
            for bits, threads in each
        ]
        return [
            (0, 0, LOAD, states),
            *((step, step + 1, bits, count) for step in range(spec.steps) for bits, count in of_step),
            (0, 0, STORE, states),
        ]

    def launches(self, choice: LstmChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        (x, hidden, cells), spec = inputs, self.spec
        items = output.images * spec.batch
        rows, pair_tiles = items * spec.steps, -(-self.pairs // TILE)
        tiles, groups = -(-rows // TILE) * pair_tiles, -(-items // choice.items)
        if max(tiles, groups) >= 1 << 31:
            raise spec.fail(f"{max(tiles, groups)} blocks in one launch; the limit is 2^31 - 1, use a smaller batch")
        words = self.constants["w"].shape[0]
        aligned = alignment(x.misalignment + x.offset, spec.in_c, largest=4) == 4
        kernel = choice.kernel(self.rule, self.micro, 0 if choice.wide else self.state_bytes(choice.items))
        scratch = Slot("workspace", self._part_bytes(output.images)) if choice.wide else Pointer(None)
        optional = ("holes", "norms", "norm_bias", "projection", "projection_offsets")
        constants: list[Argument] = [
            Slot(name) if name in self.constants or name not in optional else Pointer(None)
            for name in ("r", "offsets", "gates", *optional, "tables")
        ]
        see_input = Launch(
            inputs_kernel(self.rule),
            (tiles, 1, 1),
            (
                *(x.slot("x"), Slot("w"), Slot("input_offsets"), Slot("input_factors"), Slot("workspace")),
                np.int64(rows),
                *int32s(self.pairs, pair_tiles, spec.units, spec.in_c, words, aligned),
            ),
        )
        arguments: tuple[Argument, ...] = (
            *(Slot("workspace"), *constants),
            *(hidden.slot("x1"), cells.slot("x2"), Slot("y1"), Slot("y2"), output.slot("y")),
            scratch,
            np.int64(items),
            *int32s(spec.batch, spec.steps, spec.units, spec.out_c, self.gates, spec.time_major),
            *int32s(*self.numbers),
        )
        return [
            see_input,
            *(
                Launch(kernel, (groups, blocks, 1), (*arguments, *int32s(first, last, phases)))
                for first, last, phases, blocks in self._launches_of_steps(choice)
            ),
        ]


def pack(spec: UnidirectionalSequenceLstmSpec, rule: Rule, operands: Sequence[npt.NDArray[Any] | None]) -> LstmLayer:
    """Packs a layer.

    Args:
        operands: x, hidden state and cells (None), then what Constants.of() takes.
    """
    spec.require(operands[0] is None, "on a GPU the input must be an activation")
    given = Constants.of(spec, operands[3:])
    first = 0 if spec.has_input_gate else 1
    gates = range(first, len(GATES))
    spec.require(spec.batch * max(spec.units, spec.out_c) * len(GATES) < 1 << 31, "too large for the CUDA kernels")
    biases = np.zeros((len(gates), spec.units), np.int64)
    if not spec.norm_quants:
        biases = _stacked(given.biases[first:]).astype(np.int64)
    w, r = (_stacked(each[first:]).reshape(len(gates) * spec.units, -1) for each in (given.w, given.r))
    table = np.zeros((len(gates), 7), np.int32)
    for row, gate in enumerate(gates):
        norm, least = norm_factor(spec, gate)
        table[row] = (*recurrent_factor(spec, rule, gate), *peephole_factor(spec, gate), *norm, least)
    constants: dict[str, npt.NDArray[Any]] = {
        "w": np.ascontiguousarray(_padded(w, 4).view(np.int32).T),
        "input_offsets": _offsets(biases.reshape(-1), spec.x_quant.scalar_zero_point(), w),
        "input_factors": np.array([input_factor(spec, rule, gate) for gate in gates], np.int32),
        "r": _quads(r),
        "offsets": _offsets(np.zeros(len(r), np.int64), spec.state_quant.scalar_zero_point(), r),
        "gates": table,
        "tables": np.stack([*gate_tables(rule), cell_table(spec, rule)]).astype(np.int16),
    }
    if spec.peephole_quants:
        none = np.zeros(spec.units, np.int16)
        holes = [none if hole is None else given.peepholes[hole] for hole in PEEPHOLES]
        constants["holes"] = _stacked(holes[first:])
    if spec.norm_quants:
        constants["norms"] = _stacked(given.norms[first:])
        constants["norm_bias"] = _stacked(given.biases[first:])
    hidden, hidden_zero_point = hidden_factor(spec, rule)
    if given.projection is not None:
        constants["projection"] = _quads(given.projection)
        bias = np.zeros(spec.out_c, np.int64) if given.projection_bias is None else given.projection_bias
        # The kernel's codes have the zero point's opposite, as the runtime's have.
        hidden_zero_point = -hidden_zero_point
        constants["projection_offsets"] = _offsets(bias, hidden_zero_point, given.projection)
    keep, add = cell_factors(spec) if is_micro(rule) else ((0, 0), (0, 30 + spec.cell_shift))
    bounds = [-1 if bound is None else bound for bound in (cell_bound(spec, rule), projection_bound(spec))]
    return LstmLayer(
        spec,
        "RULE_V2" if rule.rounding is Rounding.INTERPOLATED_SINGLE else "RULE_V1",
        is_micro(rule),
        (
            *(bounds[0], *keep, *add, *hidden, hidden_zero_point),
            *(*projection_factor(spec), bounds[1], spec.state_quant.scalar_zero_point()),
        ),
        constants,
    )


def _stacked(arrays: Sequence[npt.NDArray[Any] | None]) -> npt.NDArray[Any]:
    """Arrays that are all there."""
    return np.stack([array for array in arrays if array is not None])


def _padded(weights: npt.NDArray[Any], multiple: int) -> npt.NDArray[np.int8]:
    """(rows, K) with zeros behind K."""
    rows, depth = weights.shape
    padded = np.zeros((rows, round_up(depth, multiple)), np.int8)
    padded[:, :depth] = weights
    return padded


def _quads(weights: npt.NDArray[Any]) -> npt.NDArray[np.int8]:
    """(rows, K) as (K / 16, rows, 16), zeros behind K."""
    padded = _padded(weights, 16)
    return np.ascontiguousarray(padded.reshape(len(padded), -1, 16).transpose(1, 0, 2))


def _offsets(bias: npt.NDArray[Any], zero_point: int, weights: npt.NDArray[Any]) -> npt.NDArray[np.int32]:
    """bias - zero_point * sums of the weights' rows, modulo 2^32."""
    sums = weights.astype(np.int64).sum(axis=1)
    return numerics.wrap_int32(bias.astype(np.int64) - zero_point * sums).astype(np.int32)
