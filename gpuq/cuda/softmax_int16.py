"""SOFTMAX of int16: exponentials of every difference by a table, one warp for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cuda.kernel import Kernel, Launch, Slot, int32s
from gpuq.cuda.layer import Contiguous, OnlyChoice, OnlyWayLayer
from gpuq.cuda.layout import ImageLayout, alignment
from gpuq.numerics import Rule
from gpuq.ops.softmax import SoftmaxSpec, int16_tables

THREADS = 128
ROWS = THREADS // 32
"""Of a block: a warp each."""

MOST_CODES = 1 << 16
"""Of a row, whose sum must be an int32."""


def softmax_int16_kernel(vec: int = 4) -> Kernel:
    """softmax_int16.cu; its head says what the arguments mean."""
    return Kernel(
        name=f"softmax_int16_warp_u{16 * vec}",
        source="softmax_int16.cu",
        entry="softmax_int16",
        defines=(("VEC", vec), ("THREADS", THREADS)),
        threads=(THREADS, 1, 1),
    )


KERNELS = (softmax_int16_kernel(4), softmax_int16_kernel(1))


@dataclass(frozen=True, eq=False)
class SoftmaxInt16Layer(Contiguous, OnlyWayLayer):
    """A packed layer.

    Attributes:
        exps: int16 (65536,), by the largest code minus the code.
        inverses: int16 (513,) of 1 / (1 + r).
    """

    spec: SoftmaxSpec
    exps: npt.NDArray[np.int16]
    inverses: npt.NDArray[np.int16]

    @property
    def constants(self) -> Mapping[str, npt.NDArray[Any]]:
        return {"exps": self.exps, "inverses": self.inverses}

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return ((1, 1, self.spec.depth),)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return 1, 1, self.spec.depth

    @property
    def name(self) -> str:
        return "softmax_int16_warp"

    def launches(self, choice: OnlyChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        (x,), depth = inputs, self.spec.depth
        distances = [
            distance for layout in (x, output) for distance in (layout.misalignment + layout.offset, layout.image_pitch)
        ]
        vec = 4 if depth % 4 == 0 and alignment(*distances, largest=8) == 8 else 1
        return [
            Launch(
                softmax_int16_kernel(vec),
                (-(-x.images // ROWS), 1, 1),
                (
                    *(x.slot("x"), np.int64(x.image_pitch), Slot("exps"), Slot("inverses")),
                    *(output.slot("y"), np.int64(output.image_pitch)),
                    *int32s(x.images, depth),
                ),
            )
        ]


def pack(spec: SoftmaxSpec, rule: Rule) -> SoftmaxInt16Layer:
    """The tables of a layer, by the steps of ops/softmax.py."""
    spec.require(spec.depth <= MOST_CODES, f"{spec.depth} codes in a row; the CUDA kernel has up to {MOST_CODES}")
    exps, inverses = int16_tables(spec, rule)
    return SoftmaxInt16Layer(spec, exps.astype(np.int16), inverses.astype(np.int16))
