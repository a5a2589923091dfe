"""GATHER and GATHER_ND by indices that the network computes; those by constant ones are in movement.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cuda.kernel import Kernel, Launch, Slot, int32s
from gpuq.cuda.layer import Contiguous, OnlyChoice
from gpuq.cuda.layout import ImageLayout, alignment
from gpuq.cuda.status import CheckingLayer
from gpuq.cuda.strides import contiguous_strides
from gpuq.errors import InputValueError
from gpuq.numerics import Rule
from gpuq.ops.gather import GatherNdSpec, GatherSpec
from gpuq.ops.spec import INT16, INT32, INT64

THREADS = 256


def slices_kernel(item: int = 4, index: np.dtype[Any] = INT32) -> Kernel:
    """gather_slices.cu; its head says what the arguments mean."""
    return Kernel(
        name=f"gather_slices_u{8 * item}_{index}",
        source="gather_slices.cu",
        entry="gather_slices",
        defines=(("INDEX", f"{index}_t"), ("ITEM", item), ("THREADS", THREADS)),
        threads=(THREADS, 1, 1),
    )


KERNELS = (slices_kernel(16), slices_kernel(4), slices_kernel(1, INT16), slices_kernel(4, INT64))
"""A selection: items of 1, 2, 4, 8 or 16 bytes, indices of any type."""


@dataclass(frozen=True, eq=False)
class GatherLayer(Contiguous, CheckingLayer):
    """A packed operator.

    Attributes:
        x: the input, if it is constant; None of an activation.
        first_axis, depth: dimensions that an index chooses in.
        batch, outer, picked: what gather_slices.cu calls so.
    """

    spec: GatherSpec | GatherNdSpec
    x: npt.NDArray[Any] | None
    first_axis: int
    depth: int
    batch: int
    outer: int
    picked: int

    @property
    def constants(self) -> Mapping[str, npt.NDArray[Any]]:
        spec, behind = self.spec, self.first_axis + self.depth
        strides = contiguous_strides(spec.x_shape)
        axes = [(spec.x_shape[d], strides[d] * spec.dtype.itemsize) for d in range(self.first_axis, behind)]
        found = {"axes": np.array(axes, np.int64)}
        return found if self.x is None else found | {"c0": self.x}

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        indices = (1, 1, math.prod(self.spec.indices_shape))
        return (indices,) if self.x is not None else ((1, 1, math.prod(self.spec.x_shape)), indices)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return 1, 1, math.prod(self.spec.output_shape)

    @property
    def name(self) -> str:
        return "gather_slices"

    def refusal(self, reason: int) -> InputValueError:
        axis = self.first_axis + self.depth - reason
        return self.spec.fail(f"an index outside of dimension {axis}, which has {self.spec.x_shape[axis]} elements")

    def launches(self, choice: OnlyChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        spec, size = self.spec, self.spec.dtype.itemsize
        *given, indices = inputs
        x_bytes = math.prod(spec.x_shape) * size
        x, slot = ImageLayout.contiguous(1, 1, 1, x_bytes), Slot("c0")
        if given:
            x, slot = given[0], given[0].slot("x")
        x_pitch = x_bytes if x.images > 1 else 0
        slice_bytes = math.prod(spec.x_shape[self.first_axis + self.depth :]) * size
        item = alignment(
            *(layout.misalignment + layout.offset for layout in (x, output)), x_pitch, slice_bytes, largest=16
        )
        threads = output.images * math.prod(spec.output_shape) * size // item
        blocks = -(-threads // THREADS)
        if blocks >= 1 << 31:
            raise spec.fail(f"{threads} items in one launch; use a smaller batch")
        return [
            Launch(
                slices_kernel(item, spec.indices_dtype),
                (blocks, 1, 1),
                (
                    slot,
                    indices.slot("x1" if given else "x"),
                    *(Slot("axes"), output.slot("y"), Slot("status")),
                    np.int64(threads),
                    *int32s(slice_bytes // item, self.picked, self.outer, self.batch, self.depth),
                    np.int64(x_pitch),
                    np.int64(x_bytes // (self.batch * self.outer)),
                    np.int64(math.prod(spec.indices_shape) if indices.images > 1 else 0),
                ),
            )
        ]


def pack(spec: GatherSpec | GatherNdSpec, rule: Rule, constants: Sequence[npt.NDArray[Any] | None]) -> GatherLayer:
    """Packs an operator whose indices are an activation.

    Args:
        constants: (the input, if it is constant, None).
    """
    x = None if constants[0] is None else np.ascontiguousarray(constants[0])
    for shape in (spec.x_shape, spec.indices_shape):
        spec.require(0 not in shape, f"there is nothing in a tensor of shape {shape}")
    if isinstance(spec, GatherNdSpec):
        *rows, depth = spec.indices_shape
        return GatherLayer(spec, x, 0, depth, 1, 1, math.prod(rows))
    return GatherLayer(
        spec,
        x,
        spec.axis,
        1,
        math.prod(spec.x_shape[: spec.batch_dims]),
        math.prod(spec.x_shape[spec.batch_dims : spec.axis]),
        math.prod(spec.indices_shape[spec.batch_dims :]),
    )
