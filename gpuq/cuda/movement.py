"""Operators that move elements: TRANSPOSE, slices, TILE, SPACE_TO_DEPTH, GATHER and their kin; PACK.

Which element goes where is what the operator's own reference() does to element numbers, so there is one implementation
for all of them. Where few strides say the same and neighbours stay together, boxes are copied (copy_rows.cu); the rest
goes by a table of element numbers (gather_elements.cu).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cuda.copy import OUTER_DIMENSIONS, Span, copy_launch
from gpuq.cuda.kernel import Kernel, Launch, Slot, int32s
from gpuq.cuda.layer import Contiguous, OnlyChoice, OnlyWayLayer, slot_name
from gpuq.cuda.layout import ImageLayout, alignment
from gpuq.numerics import Int64Array, Rule
from gpuq.ops.movement import MovementSpec
from gpuq.ops.pack import PackSpec
from gpuq.ops.pad import PadV2Spec
from gpuq.ops.registry import reference
from gpuq.ops.space import SpaceToBatchNdSpec
from gpuq.ops.spec import INT64
from gpuq.ops.variable import AssignVariableSpec

THREADS = 256
ITEMS = (16, 8, 4, 2, 1)
# Neighbouring bytes that must stay together for rows to be copied and not looked up.
MIN_ROW_BYTES = 4


def gather_kernel(item: int = 4) -> Kernel:
    """gather_elements.cu; its head says what the arguments mean."""
    return Kernel(
        name=f"gather_elements_u{8 * item}",
        source="gather_elements.cu",
        entry="gather_elements",
        defines=(("ITEM", item), ("THREADS", THREADS)),
        threads=(THREADS, 1, 1),
    )


KERNELS = tuple(gather_kernel(item) for item in ITEMS)


@dataclass(frozen=True)
class Stride:
    """One dimension of an output.

    Attributes:
        step: from one element to the next, in elements of the input; 0 repeats, negative steps go back.
    """

    size: int
    step: int


@dataclass(frozen=True, eq=False)
class MovementLayer(Contiguous, OnlyWayLayer):
    """A packed operator with one activation: boxes by strides, or a table.

    Attributes:
        elements: of one run of the output.
        first: the input element that the output begins with, where strides say the rest.
        strides: the steps from there on, outermost first; None where the table must say it.
        item: bytes that stay together in the table.
        constants: the table and the fill; nothing of strides.
    """

    spec: MovementSpec
    elements: int
    first: int = 0
    strides: tuple[Stride, ...] | None = None
    item: int = 1
    constants: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return ((1, 1, math.prod(self.spec.x_shape)),)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return 1, 1, self.elements

    @property
    def name(self) -> str:
        return "gather_elements" if self.strides is None else "copy_rows"

    def launches(self, choice: OnlyChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        (x,), spec, size = inputs, self.spec, self.spec.dtype.itemsize
        if self.elements == 0:
            return []
        x_pitch, y_pitch = math.prod(spec.x_shape) * size, self.elements * size
        if self.strides is not None:
            first = self.first * size
            spans = [Span(output.images, 0, output.images, x_pitch if x.images > 1 else 0, y_pitch)]
            inner = self.elements
            for stride in self.strides:
                inner //= stride.size
                spans.append(Span(stride.size, 0, stride.size, stride.step * size, inner * size))
            spans.append(Span(size, 0, size, 1, 1))
            x_slot, y_slot = Slot("x", x.offset + first), output.slot("y")
            return [
                copy_launch(
                    spec,
                    spans,
                    (x_slot, x.misalignment + x.offset + first),
                    (y_slot, output.misalignment + output.offset),
                    frame=False,
                )
            ]
        item = alignment(
            *(layout.misalignment + layout.offset for layout in (x, output)), x_pitch, y_pitch, largest=self.item
        )
        spec.require(item == self.item, f"operands must begin at multiples of {self.item} bytes")
        items = y_pitch // item
        threads = items * output.images
        if threads >= 1 << 31:
            raise spec.fail(f"{threads} items in one launch; the limit is 2^31 - 1, use a smaller batch")
        return [
            Launch(
                gather_kernel(item),
                (-(-threads // THREADS), 1, 1),
                (
                    *(x.slot("x"), Slot("map"), Slot("fill"), output.slot("y")),
                    *int32s(threads, items),
                    *(np.int64(x_pitch // item if x.images > 1 else 0), np.int64(y_pitch // item)),
                ),
            )
        ]


@dataclass(frozen=True, eq=False)
class PackLayer(Contiguous, OnlyWayLayer):
    """PACK: one box for each input.

    Attributes:
        operands: each input that is constant, None of an activation.
    """

    spec: PackSpec
    operands: tuple[npt.NDArray[Any] | None, ...]

    @property
    def constants(self) -> Mapping[str, npt.NDArray[Any]]:
        return {f"c{i}": operand for i, operand in enumerate(self.operands) if operand is not None}

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return ((1, 1, math.prod(self.spec.x_shape)),) * sum(operand is None for operand in self.operands)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return 1, 1, math.prod(self.spec.output_shape)

    @property
    def name(self) -> str:
        return "copy_rows"

    def launches(self, choice: OnlyChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        spec = self.spec
        outer = math.prod(spec.x_shape[: spec.axis])
        inner = math.prod(spec.x_shape[spec.axis :]) * spec.dtype.itemsize
        if 0 in (outer, inner):
            return []
        given = iter(enumerate(inputs))
        launches = []
        for position, operand in enumerate(self.operands):
            x = ImageLayout.contiguous(1, 1, 1, outer * inner)
            name, runs_pitch = f"c{position}", 0
            if operand is None:
                number, x = next(given)
                name, runs_pitch = slot_name("x", number), outer * inner if x.images > 1 else 0
            start = position * inner
            launches.append(
                copy_launch(
                    spec,
                    [
                        Span(output.images, 0, output.images, runs_pitch, outer * inner * spec.count),
                        Span(outer, 0, outer, inner, inner * spec.count),
                        Span(inner, 0, inner, 1, 1),
                    ],
                    (x.slot(name), x.misalignment + x.offset),
                    (Slot("y", output.offset + start), output.misalignment + output.offset + start),
                    frame=False,
                )
            )
        return launches


def pack(
    spec: MovementSpec, rule: Rule, constants: Sequence[npt.NDArray[Any] | None] = (None,)
) -> MovementLayer | PackLayer:
    """Packs an operator.

    Args:
        constants: one entry per operand, None of an activation. Only the first may be one, and all of PACK's.
    """
    if isinstance(spec, PackSpec):
        return PackLayer(spec, tuple(None if each is None else np.ascontiguousarray(each) for each in constants))
    if isinstance(spec, AssignVariableSpec) and constants[0] is not None:
        return pack(PackSpec(x_shape=spec.x_shape, dtype=spec.dtype, count=1, axis=0), rule, constants)
    spec.require(
        constants[0] is None and all(each is not None for each in constants[1:]),
        "on a GPU all inputs but the first must be constant",
    )
    index, fill = element_map(spec, rule, constants[1:])
    size, strides = spec.dtype.itemsize, strides_of(index)
    if strides is not None:
        row = strides[-1].size * size if strides and strides[-1].step == 1 else size
        if len(strides) < OUTER_DIMENSIONS and (not strides or row >= MIN_ROW_BYTES):
            return MovementLayer(spec, index.size, int(index[0]), strides)
    together = _together(index, math.prod(spec.x_shape), 16 // size)
    items = index[::together]
    table = np.where(items < 0, -1, items // together).astype(np.int32)
    constants_of_table = {"map": table, "fill": np.repeat(fill.reshape(1), together)}
    return MovementLayer(spec, index.size, item=together * size, constants=constants_of_table)


def element_map(
    spec: MovementSpec, rule: Rule, constants: Sequence[npt.NDArray[Any] | None] = ()
) -> tuple[Int64Array, npt.NDArray[Any]]:
    """(for each element of the output the number of the input's element, -1 where there is none; what is there).

    Both are found by running reference(): on the input's element numbers, and on others.
    """
    elements = math.prod(spec.x_shape)
    spec.require(elements < 1 << 31, f"{elements} elements; the limit on a GPU is 2^31 - 1")
    numbers = np.arange(elements, dtype=np.int64).reshape(1, *spec.x_shape)
    wide = _with_fill(replace(spec, dtype=INT64), -1)
    given = [None if each is None else each[None] for each in constants]
    index = reference(wide, rule, numbers, *given).reshape(-1)
    fill = np.zeros((), spec.dtype)
    if (index < 0).any():
        own = reference(spec, rule, np.zeros((1, *spec.x_shape), spec.dtype), *given).reshape(-1)
        fill = own[np.argmax(index < 0)]
    return index, np.asarray(fill)


def _with_fill(spec: MovementSpec, value: int) -> MovementSpec:
    """The operator with this value where it puts no element."""
    if isinstance(spec, PadV2Spec):
        return replace(spec, value=value)
    if isinstance(spec, SpaceToBatchNdSpec):
        return replace(spec, fill=value)
    return spec


def strides_of(index: Int64Array) -> tuple[Stride, ...] | None:
    """Dimensions, outermost first, whose steps from index[0] on give the whole index; None where there are none.

    Greedy from the inside: as many elements as follow one another by one step are the innermost dimension, then their
    first elements by themselves are what is left.
    """
    if index.size == 0 or (index < 0).any():
        return None
    found: list[Stride] = []
    while index.size > 1:
        step = int(index[1] - index[0])
        breaks = np.flatnonzero(np.diff(index) != step)
        size = int(breaks[0]) + 1 if breaks.size else index.size
        if index.size % size:
            return None
        blocks = index.reshape(-1, size)
        if (blocks != blocks[:, :1] + step * np.arange(size)).any():
            return None
        found.append(Stride(size, step))
        index = np.ascontiguousarray(blocks[:, 0])
    return tuple(reversed(found))


def _together(index: Int64Array, elements: int, most: int) -> int:
    """Neighbouring elements, a power of two of them, that stay together everywhere, at multiples of their number.

    Args:
        elements: of one run of the input; behind it the next run's begin.
    """
    count = max(1, most)
    while count > 1:
        if index.size % count == 0 and elements % count == 0:
            blocks = index.reshape(-1, count)
            moved = (blocks[:, 0] >= 0) & (blocks[:, 0] % count == 0)
            same = (blocks == blocks[:, :1] + np.arange(count)).all(axis=1) & moved
            if (same | (blocks < 0).all(axis=1)).all():
                return count
        count //= 2
    return 1
