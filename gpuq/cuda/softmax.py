"""SOFTMAX in fixed point or float32: a table of exponentials by difference, one warp for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.cuda.kernel import Kernel, Launch, Slot, int32s
from gpuq.cuda.layer import Contiguous, OnlyChoice, OnlyWayLayer
from gpuq.cuda.layout import ImageLayout, alignment
from gpuq.numerics import Rounding, Rule
from gpuq.ops import fixed_point
from gpuq.ops.softmax import DIFF_INTEGER_BITS, SUM_INTEGER_BITS, SoftmaxSpec, exp_table, input_scaling
from gpuq.ops.spec import UINT8

THREADS = 128
ROWS = THREADS // 32
"""Of a block: a warp each."""


def softmax_kernel(*, table_f32: bool = False, unsigned: bool = False, vec: int = 4) -> Kernel:
    """softmax.cu; its head says what the arguments mean."""
    return Kernel(
        name=f"softmax_{'f32_' if table_f32 else ''}warp_u{8 * vec}",
        source="softmax.cu",
        entry="softmax",
        defines=(("TABLE_F32", int(table_f32)), ("X_UNSIGNED", int(unsigned)), ("VEC", vec), ("THREADS", THREADS)),
        threads=(THREADS, 1, 1),
    )


KERNELS = tuple(softmax_kernel(table_f32=table_f32, vec=vec) for table_f32 in (False, True) for vec in (4, 1))


@dataclass(frozen=True, eq=False)
class SoftmaxLayer(Contiguous, OnlyWayLayer):
    """A packed layer.

    Attributes:
        tables: int32 (2, 256), by the largest code minus the code: exp in Q0.31, and its part of the sum in Q12.19;
            in float32, twice the bits of exp.
        table_f32: the layer computes in float32.
    """

    spec: SoftmaxSpec
    tables: npt.NDArray[np.int32]
    table_f32: bool = False

    @property
    def constants(self) -> Mapping[str, npt.NDArray[Any]]:
        return {"tables": self.tables}

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return ((1, 1, self.spec.depth),)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return 1, 1, self.spec.depth

    @property
    def name(self) -> str:
        return "softmax_f32_warp" if self.table_f32 else "softmax_warp"

    def launches(self, choice: OnlyChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        spec, x = self.spec, inputs[0]
        distances = [
            distance for layout in (x, output) for distance in (layout.misalignment + layout.offset, layout.image_pitch)
        ]
        vec = 4 if alignment(spec.depth, *distances, largest=4) == 4 else 1
        return [
            Launch(
                softmax_kernel(table_f32=self.table_f32, unsigned=spec.activation_dtype == UINT8, vec=vec),
                (-(-x.images // ROWS), 1, 1),
                (
                    x.slot("x"),
                    np.int64(x.image_pitch),
                    Slot("tables"),
                    output.slot("y"),
                    np.int64(output.image_pitch),
                    *int32s(x.images, spec.depth),
                    np.float32(spec.out_quant.scalar_scale()),
                ),
            )
        ]


def pack(spec: SoftmaxSpec, rule: Rule) -> SoftmaxLayer:
    """The tables of a layer, by the steps of ops/softmax.py."""
    if rule.rounding is Rounding.TABLE_F32:
        bits = exp_table(spec).view(np.int32)
        return SoftmaxLayer(spec, np.stack([bits, bits]), table_f32=True)
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
