"""SVDF of int8 on dp4a: a few lanes for each output, state updated where it lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.cuda.epilogue import epilogue_defines, round_up
from gpuq.cuda.kernel import Kernel, Launch, Slot, int32s
from gpuq.cuda.layer import SeveralOutputs, Traits
from gpuq.cuda.layout import ImageLayout, alignment
from gpuq.numerics import Int64Array, Rounding, Rule
from gpuq.ops.spec import INT8, INT16
from gpuq.ops.svdf import SvdfSpec, check_constants, factor

THREADS = 128
LANES = (32, 8)
# Threads that keep a multiprocessor busy: with fewer, more lanes for each output are for free.
BUSY_THREADS = 1024


@dataclass(frozen=True)
class SvdfChoice:
    """So many lanes for each output."""

    lanes: int

    @property
    def name(self) -> str:
        return f"svdf_dp4a_{self.lanes}"

    def kernel(self, rule: str = "RULE_V1", state: np.dtype[Any] = INT16) -> Kernel:
        """svdf_dp4a.cu; its head says what the arguments mean."""
        return Kernel(
            name=f"{self.name}_s{8 * state.itemsize}",
            source="svdf_dp4a.cu",
            entry="svdf_dp4a",
            defines=(
                *(("LANES", self.lanes), ("STATE_BITS", 8 * state.itemsize), ("THREADS", THREADS)),
                *epilogue_defines(rule),
            ),
            threads=(THREADS, 1, 1),
        )


CHOICES = tuple(SvdfChoice(lanes) for lanes in LANES)
KERNELS = tuple(choice.kernel(state=state) for choice in CHOICES for state in (INT16, INT8))


@dataclass(frozen=True, eq=False)
class SvdfLayer(SeveralOutputs):
    """A packed layer: input and state in, output and state out.

    Attributes:
        rule: the macro of kernels_cuda/requantize.cuh.
        factors: (multiplier, shift) of the state and of the output.
        constants: "features" (filters, words) of four weights each, "offsets" (filters,), "times", "bias" (units,); see
            the kernel.
    """

    spec: SvdfSpec
    rule: str
    factors: tuple[tuple[int, int], tuple[int, int]]
    constants: Mapping[str, npt.NDArray[Any]]

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return (1, self.spec.rows, self.spec.in_c), self.y_shapes[1]

    @property
    def y_shapes(self) -> tuple[tuple[int, int, int], ...]:
        output, state = self.spec.output_shapes
        return (1, *output), (1, *state)  # type: ignore[return-value]

    def choices(self, runs: int, traits: Traits) -> Sequence[SvdfChoice]:
        outputs = runs * self.spec.rows * self.spec.units
        is_wide = max(self.constants["features"].shape[1], self.spec.memory) > LANES[-1]
        wide_first = is_wide and outputs * LANES[0] <= BUSY_THREADS * traits.multiprocessors
        return CHOICES if wide_first else CHOICES[::-1]

    def workspace_bytes(self, runs: int, choice: SvdfChoice) -> int:
        return 0

    def launches(self, choice: SvdfChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        (x, state), spec = inputs, self.spec
        outputs = output.images * spec.rows * spec.units
        blocks = -(-outputs * choice.lanes // THREADS)
        if blocks >= 1 << 31:
            raise spec.fail(f"{blocks} blocks in one launch; the limit is 2^31 - 1, use a smaller batch")
        (state_multiplier, state_shift), (out_multiplier, out_shift) = self.factors
        aligned = alignment(x.misalignment + x.offset, spec.in_c, largest=4) == 4
        return [
            Launch(
                choice.kernel(self.rule, spec.state_quant.dtype),
                (blocks, 1, 1),
                (
                    *(x.slot("x"), Slot("features"), Slot("offsets"), Slot("times"), Slot("bias")),
                    *(state.slot("x1"), Slot("y1"), output.slot("y"), np.int64(outputs)),
                    *int32s(spec.units, spec.rank, spec.in_c, self.constants["features"].shape[1], spec.memory),
                    *int32s(aligned, state_multiplier, state_shift, spec.state_quant.scalar_zero_point()),
                    *int32s(out_multiplier, out_shift, spec.out_quant.scalar_zero_point()),
                ),
            )
        ]


def pack(spec: SvdfSpec, rule: Rule, constants: Sequence[npt.NDArray[Any] | None]) -> SvdfLayer:
    """Packs a layer.

    Args:
        constants: input (None), feature weights, time weights, state (None), bias or None.
    """
    x, features, times, _, bias = constants
    spec.require(x is None, "on a GPU the input must be an activation")
    if features is None or times is None:
        raise spec.fail("weights must be constant")
    check_constants(spec, features, times, bias)
    words = round_up(spec.in_c, 4) // 4
    padded = np.zeros((spec.filters, 4 * words), np.int8)
    padded[:, : spec.in_c] = features
    offsets = -spec.x_quant.scalar_zero_point() * features.astype(np.int64).sum(axis=1)
    of_units = times.astype(np.int64).reshape(spec.units, -1).sum(axis=1)
    sums = np.zeros(spec.units, np.int64) if bias is None else bias.astype(np.int64)
    return SvdfLayer(
        spec,
        {Rounding.V1: "RULE_V1", Rounding.V2: "RULE_V2"}[rule.rounding],
        (
            _factor(factor(spec.x_quant, spec.feature_quant, spec.state_quant, rule)),
            _factor(factor(spec.state_quant, spec.time_quant, spec.out_quant, rule)),
        ),
        {
            "features": padded.view(np.int32),
            "offsets": numerics.wrap_int32(offsets).astype(np.int32),
            "times": np.ascontiguousarray(times),
            "bias": numerics.wrap_int32(sums - spec.state_quant.scalar_zero_point() * of_units).astype(np.int32),
        },
    )


def _factor(reals: npt.NDArray[np.float64]) -> tuple[int, int]:
    multipliers: Int64Array
    multipliers, shifts = numerics.quantize_multipliers(reals)
    return int(multipliers[0]), int(shifts[0])
