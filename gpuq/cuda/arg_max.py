"""ARG_MAX: a warp for each row where rows are long, otherwise a thread for each output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cuda.kernel import Kernel, Launch, int32s
from gpuq.cuda.layer import Contiguous, OnlyChoice, OnlyWayLayer
from gpuq.cuda.layout import ImageLayout, alignment
from gpuq.cuda.strides import Dimension, contiguous_strides, folded, image_shape, run_strides
from gpuq.numerics import Rule
from gpuq.ops.arg_max import ArgMaxSpec
from gpuq.ops.spec import FLOAT32, INT8, INT64, UINT8

THREADS = 128
# From this length on a row is a warp's.
WARP_ELEMENTS = 64
# Loops over the dimensions that are not compared: six and the runs, neighbours joined.
KEPT_LOOPS = 5


def arg_max_kernel(*, warp: bool, index: str = "int64", dtype: np.dtype[Any] = INT8, vec: int = 1) -> Kernel:
    """arg_max.cu; its head says what the arguments mean."""
    loads = "f32" if dtype == FLOAT32 else f"u{8 * vec}"
    return Kernel(
        name=f"arg_max_{'warp' if warp else 'any'}_{loads}_{index}",
        source="arg_max.cu",
        entry="arg_max",
        defines=(
            ("INDEX", "long long" if index == "int64" else "int"),
            ("WARP", int(warp)),
            ("X_FLOAT", int(dtype == FLOAT32)),
            ("X_UNSIGNED", int(dtype == UINT8)),
            ("VEC", vec),
            ("THREADS", THREADS),
        ),
        threads=(THREADS, 1, 1),
    )


KERNELS = (
    *(
        arg_max_kernel(warp=warp, index=index, vec=vec)
        for index in ("int64", "int32")
        for warp, vec in ((True, 4), (True, 1), (False, 1))
    ),
    *(arg_max_kernel(warp=warp, dtype=FLOAT32) for warp in (True, False)),
)


@dataclass(frozen=True, eq=False)
class ArgMaxLayer(Contiguous, OnlyWayLayer):
    """An ARG_MAX; it has no constants. Its output has no gaps."""

    spec: ArgMaxSpec

    @property
    def constants(self) -> Mapping[str, npt.NDArray[Any]]:
        return {}

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return (image_shape(self.spec.x_shape),)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return 1, 1, math.prod(self.spec.output_shape)

    @property
    def name(self) -> str:
        return "arg_max"

    def launches(self, choice: OnlyChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        spec, x = self.spec, inputs[0]
        if len(spec.x_shape) > 6:
            raise spec.fail(f"{len(spec.x_shape)} dimensions; the CUDA kernel has up to 6")
        compared = spec.x_shape[spec.axis]
        x_strides = run_strides(x, spec.x_shape)
        stride = x_strides[spec.axis + 1]
        sizes = (output.images, *spec.output_shape)
        outputs = math.prod(sizes)
        if outputs == 0:
            return []
        if outputs >= 1 << 31:
            raise spec.fail(f"{outputs} outputs in one launch; the limit is 2^31 - 1, use a smaller batch")
        kept_strides = (*x_strides[: spec.axis + 1], *x_strides[spec.axis + 2 :])
        kept = folded(sizes, kept_strides, contiguous_strides(sizes))
        warp = stride == x.itemsize and compared >= WARP_ELEMENTS
        distances = (x.misalignment + x.offset, *(each.strides[0] for each in kept))
        is_words = x.itemsize == 1 and alignment(compared, *distances, largest=4) == 4
        vec = 4 if warp and is_words else 1
        loops = [*reversed(kept), *[Dimension(1, (0, 0))] * (KEPT_LOOPS - len(kept))]
        index = "int64" if spec.out_dtype == INT64 else "int32"
        return [
            Launch(
                arg_max_kernel(warp=warp, index=index, dtype=spec.dtype, vec=vec),
                (-(-outputs * (32 if warp else 1) // THREADS), 1, 1),
                (
                    x.slot("x"),
                    output.slot("y"),
                    *int32s(outputs, *(loop.size for loop in loops[: KEPT_LOOPS - 1])),
                    *(np.int64(loop.strides[0]) for loop in loops),
                    np.int32(compared),
                    np.int64(stride),
                ),
            )
        ]


def pack(spec: ArgMaxSpec, rule: Rule) -> ArgMaxLayer:
    """An ARG_MAX; there is nothing to pack."""
    return ArgMaxLayer(spec)
