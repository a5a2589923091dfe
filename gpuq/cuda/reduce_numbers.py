"""Reductions of plain numbers: MEAN and SUM of float32, REDUCE_MAX and REDUCE_MIN of float32 and integers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cuda.kernel import Kernel, Launch, int32s
from gpuq.cuda.layer import Contiguous, OnlyChoice, OnlyWayLayer
from gpuq.cuda.layout import ImageLayout
from gpuq.cuda.strides import Dimension, contiguous_strides, folded
from gpuq.numerics import Rule
from gpuq.ops.float32.reduction import FloatMeanSpec, FloatReduceSpec
from gpuq.ops.reduce import ReduceMaxSpec, ReduceMinSpec, ReduceSpec
from gpuq.ops.spec import FLOAT32, INT32, INT64, Spec

THREADS = 256
KEPT_LOOPS, REDUCED_LOOPS = 5, 4
_C_TYPES: Mapping[np.dtype[Any], str] = {FLOAT32: "float", INT32: "int32_t", INT64: "int64_t"}


def reduce_kernel(kind: str, dtype: np.dtype[Any]) -> Kernel:
    """reduce_numbers.cu; its head says what the arguments mean."""
    return Kernel(
        name=f"reduce_numbers_{kind.lower()}_{dtype}",
        source="reduce_numbers.cu",
        entry="reduce_numbers",
        defines=(("KIND", f"KIND_{kind}"), ("NUMBER", _C_TYPES[dtype]), ("THREADS", THREADS)),
        threads=(THREADS, 1, 1),
    )


KERNELS = (
    reduce_kernel("TOTAL", FLOAT32),
    *(reduce_kernel(kind, dtype) for kind in ("MAX", "MIN") for dtype in _C_TYPES),
)


@dataclass(frozen=True, eq=False)
class ReduceNumbersLayer(Contiguous, OnlyWayLayer):
    """A reduction; it has no constants."""

    spec: FloatReduceSpec | ReduceMaxSpec
    kernel: Kernel

    @property
    def name(self) -> str:
        return self.kernel.name

    @property
    def constants(self) -> Mapping[str, npt.NDArray[Any]]:
        return {}

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return ((1, 1, math.prod(self.spec.x_shape)),)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return 1, 1, math.prod(self.spec.output_shape)

    def launches(self, choice: OnlyChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        (x,), spec = inputs, self.spec
        sizes = (x.images, *spec.x_shape)
        strides = contiguous_strides(sizes)
        kept_axes = [axis for axis in range(len(sizes)) if axis not in spec.run_axes]
        kept = folded([sizes[axis] for axis in kept_axes], [strides[axis] for axis in kept_axes])
        reduced = folded([sizes[axis] for axis in spec.run_axes], [strides[axis] for axis in spec.run_axes])
        spec.require(
            len(kept) <= KEPT_LOOPS and len(reduced) <= REDUCED_LOOPS, f"{len(sizes)} dimensions are too many on a GPU"
        )
        outputs = math.prod(sizes[axis] for axis in kept_axes)
        if outputs >= 1 << 31:
            raise spec.fail(f"{outputs} outputs in one launch; the limit is 2^31 - 1, use a smaller batch")
        if 0 in sizes:
            raise spec.fail(f"nothing can be made of a tensor of shape {spec.x_shape}")
        one = Dimension(1, (0,))
        kept_loops = [*reversed(kept), *[one] * (KEPT_LOOPS - len(kept))]
        reduced_loops = [*reversed(reduced), *[one] * (REDUCED_LOOPS - len(reduced))]
        return [
            Launch(
                self.kernel,
                (-(-outputs // THREADS), 1, 1),
                (
                    *(x.slot("x"), output.slot("y"), np.int64(outputs)),
                    *int32s(*(loop.size for loop in kept_loops[: KEPT_LOOPS - 1])),
                    *(np.int64(loop.strides[0]) for loop in kept_loops),
                    *int32s(*(loop.size for loop in reduced_loops)),
                    *(np.int64(loop.strides[0]) for loop in reduced_loops),
                    np.float32(spec.count if isinstance(spec, FloatMeanSpec) else 1),
                ),
            )
        ]


def pack(spec: Spec, rule: Rule, constants: Sequence[npt.NDArray[Any] | None]) -> ReduceNumbersLayer | None:
    """The layer of a reduction of plain numbers; None if it is no such operator.

    Args:
        constants: None, for the activation.
    """
    if not isinstance(spec, ReduceSpec) or spec.activation_dtype not in _C_TYPES or constants[0] is not None:
        return None
    if isinstance(spec, ReduceMaxSpec):
        kind = "MIN" if isinstance(spec, ReduceMinSpec) else "MAX"
        return ReduceNumbersLayer(spec, reduce_kernel(kind, spec.activation_dtype))
    if isinstance(spec, FloatReduceSpec):
        return ReduceNumbersLayer(spec, reduce_kernel("TOTAL", FLOAT32))
    return None
