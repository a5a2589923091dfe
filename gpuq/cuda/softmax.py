"""SOFTMAX in fixed point: a table of exponentials by difference, one warp for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.cuda.kernel import Kernel, Launch, Slot, int32s
from gpuq.cuda.layer import OnlyChoice, Traits
from gpuq.cuda.layout import ImageLayout, alignment
from gpuq.numerics import Rounding, Rule
from gpuq.ops import fixed_point
from gpuq.ops.softmax import DIFF_INTEGER_BITS, SUM_INTEGER_BITS, SoftmaxSpec, input_scaling
from gpuq.ops.spec import UINT8

THREADS = 128
ROWS = THREADS // 32
"""Of a block: a warp each."""


def softmax_kernel(*, unsigned: bool = False, vec: int = 4) -> Kernel:
    """softmax.cu; its head says what the arguments mean."""
    return Kernel(
        name=f"softmax_warp_u{8 * vec}",
        source="softmax.cu",
        entry="softmax",
        defines=(("X_UNSIGNED", int(unsigned)), ("VEC", vec), ("THREADS", THREADS)),
        threads=(THREADS, 1, 1),
    )


KERNELS = tuple(softmax_kernel(vec=vec) for vec in (4, 1))


@dataclass(frozen=True, eq=False)
class SoftmaxLayer:
    """A packed layer.

    Attributes:
        tables: int32 (2, 256), by the largest code minus the code: exp in Q0.31, and its part of the sum in Q12.19.
    """

    spec: SoftmaxSpec
    tables: npt.NDArray[np.int32]

    @property
    def constants(self) -> Mapping[str, npt.NDArray[Any]]:
        return {"tables": self.tables}

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return ((1, 1, self.spec.depth),)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return 1, 1, self.spec.depth

    def choices(self, runs: int, traits: Traits) -> Sequence[OnlyChoice]:
        return (OnlyChoice("softmax_warp"),)

    def workspace_bytes(self, runs: int, choice: OnlyChoice) -> int:
        return 0

    def launches(self, choice: OnlyChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        spec, x = self.spec, inputs[0]
        distances = [
            distance for layout in (x, output) for distance in (layout.misalignment + layout.offset, layout.image_pitch)
        ]
        vec = 4 if alignment(spec.depth, *distances, largest=4) == 4 else 1
        return [
            Launch(
                softmax_kernel(unsigned=spec.activation_dtype == UINT8, vec=vec),
                (-(-x.images // ROWS), 1, 1),
                (
                    x.slot("x"),
                    np.int64(x.image_pitch),
                    Slot("tables"),
                    output.slot("y"),
                    np.int64(output.image_pitch),
                    *int32s(x.images, spec.depth),
                ),
            )
        ]


def pack(spec: SoftmaxSpec, rule: Rule) -> SoftmaxLayer:
    """The tables of a layer, by the steps of ops/softmax.py."""
    if rule.rounding not in (Rounding.FIXED_POINT, Rounding.FIXED_POINT_SINGLE):
        raise spec.fail(f"there is no CUDA kernel for rule {rule.rounding.value}")
    multiplier, left_shift, diff_min = input_scaling(spec, rounds_once=rule.rounding is Rounding.FIXED_POINT_SINGLE)
    diff = -np.arange(256, dtype=np.int64)
    counts = diff >= diff_min
    scaled = numerics.saturating_rounding_doubling_high_mul(
        numerics.wrap_int32(np.where(counts, diff, 0) << left_shift), multiplier
    )
    exps = np.where(counts, fixed_point.exp_on_negative_values(scaled, DIFF_INTEGER_BITS), 0)
    in_sum = numerics.rounding_divide_by_pot(exps, SUM_INTEGER_BITS)
    return SoftmaxLayer(spec, np.stack([exps, in_sum]).astype(np.int32))
