"""PAD and CONCATENATION: bytes copied into boxes of the output, sixteen at a time where addresses allow."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cuda.kernel import Kernel, Launch, Pointer, Slot, int32s
from gpuq.cuda.layer import OnlyChoice, OnlyWayLayer
from gpuq.cuda.layout import ImageLayout, alignment
from gpuq.cuda.strides import image_shape, run_strides
from gpuq.numerics import Rule
from gpuq.ops.concatenation import ConcatenationSpec, rescaled
from gpuq.ops.float32.movement import PlainConcatenationSpec, PlainPadSpec
from gpuq.ops.pad import PadSpec
from gpuq.ops.spec import INT16, Shape, Spec
from gpuq.ops.tables import all_codes

THREADS = 256
OUTER_DIMENSIONS = 6
# Compiled for these numbers of outer dimensions; a layer takes the next one.
_COMPILED_DIMENSIONS = (0, 2, OUTER_DIMENSIONS)


def copy_kernel(
    *,
    frame: bool = False,
    inside: bool = True,
    table: bool = False,
    dimensions: int = 2,
    vec: int = 16,
    x_vec: int = 16,
) -> Kernel:
    """copy_rows.cu; its head says what the arguments mean."""
    what = ("pad" if inside else "frame") if frame else "copy_table" if table else "copy"
    return Kernel(
        name=f"{what}_rows_u{8 * vec}" + ("" if x_vec == vec else "_u8"),
        source="copy_rows.cu",
        entry="copy_rows",
        defines=(
            ("FRAME", int(frame)),
            ("INSIDE", int(inside)),
            ("TABLE", int(table)),
            ("DIMENSIONS", dimensions),
            ("VEC", vec),
            ("X_VEC", x_vec),
            ("THREADS", THREADS),
        ),
        threads=(THREADS, 1, 1),
    )


KERNELS = (
    *(
        copy_kernel(frame=what == "pad", table=what == "table", vec=vec, x_vec=x_vec)
        for what in ("pad", "copy", "table")
        for vec, x_vec in ((16, 16), (16, 1), (4, 4), (4, 1), (1, 1))
    ),
    *(copy_kernel(frame=True, inside=False, vec=vec, x_vec=vec) for vec in (16, 4, 1)),
)
"""Stores and loads of sixteen, four and one; loads byte by byte where only the output is aligned."""


@dataclass(frozen=True)
class Span:
    """One dimension of the box: output indices before ... before + inside - 1 come from the input, others are filled.

    Attributes:
        size: of the output.
        x_stride, y_stride: in bytes.
    """

    size: int
    before: int
    inside: int
    x_stride: int
    y_stride: int

    @property
    def is_framed(self) -> bool:
        return (self.before, self.inside) != (0, self.size)


def folded_spans(spans: Sequence[Span]) -> list[Span]:
    """The spans, outermost first, without those of one element; one without a frame is joined to the one around it."""
    found: list[Span] = []
    for inner in spans:
        if inner.size == 1 and not inner.is_framed:
            continue
        outer = found[-1] if found else None
        if (
            outer is not None
            and not inner.is_framed
            and outer.x_stride == inner.x_stride * inner.size
            and outer.y_stride == inner.y_stride * inner.size
        ):
            sizes = (outer.size * inner.size, outer.before * inner.size, outer.inside * inner.size)
            found[-1] = Span(*sizes, inner.x_stride, inner.y_stride)
        else:
            found.append(inner)
    return found


def copy_launch(
    spec: Spec,
    spans: Sequence[Span],
    x: tuple[Slot, int],
    y: tuple[Slot, int],
    *,
    frame: bool,
    inside: bool = True,
    fill: int = 0,
    table: Slot | None = None,
) -> Launch:
    """One launch that writes one box.

    Args:
        spans: outermost first: the runs, then a run's dimensions.
        x, y: memory, and its address modulo 16.
        table: 256 bytes that codes go through.
    """
    outer = folded_spans(spans)
    row = Span(1, 0, 1, 1, 1)
    if outer and (outer[-1].x_stride, outer[-1].y_stride) == (1, 1):
        row = outer.pop()
    y_alignment = alignment(y[1], *(span.y_stride for span in outer))
    x_alignment = alignment(x[1], row.before, *(span.x_stride for span in outer))
    vec = 16 if y_alignment == 16 and row.size >= 16 else 4 if y_alignment >= 4 and row.size >= 4 else 1
    chunks = -(-row.size // max(vec, 4))
    threads = chunks * math.prod(span.size for span in outer)
    if threads >= 1 << 31:
        raise spec.fail(f"{threads} words in one launch; the limit is 2^31 - 1, use a smaller batch")
    if len(outer) > OUTER_DIMENSIONS:
        raise spec.fail(f"{len(outer) + 1} dimensions; the CUDA kernel has up to {OUTER_DIMENSIONS + 1}")
    loops = [*reversed(outer), *[Span(1, 0, 1, 0, 0)] * (OUTER_DIMENSIONS - len(outer))]
    return Launch(
        copy_kernel(
            frame=frame,
            inside=inside,
            table=table is not None,
            dimensions=next(count for count in _COMPILED_DIMENSIONS if count >= len(outer)),
            vec=vec,
            x_vec=vec if x_alignment >= vec or not inside else 1,
        ),
        (-(-threads // THREADS), 1, 1),
        (
            x[0],
            table or Pointer(None),
            y[0],
            *int32s(threads, row.size, chunks, row.before, row.inside),
            *int32s(*(span.size for span in loops[: OUTER_DIMENSIONS - 1])),
            *int32s(*(span.before for span in loops)),
            *int32s(*(span.inside for span in loops)),
            *(np.int64(span.x_stride) for span in loops),
            *(np.int64(span.y_stride) for span in loops),
            np.int32(fill),
        ),
    )


def element_bytes(spec: Spec) -> Span:
    """The innermost dimension: an element's bytes stay together."""
    size = spec.activation_dtype.itemsize
    return Span(size, 0, size, 1, 1)


def contiguous_layout(spec: Spec, shape: Shape) -> ImageLayout:
    """Where a constant operand's elements lie."""
    return ImageLayout.contiguous(1, *image_shape(shape), itemsize=spec.activation_dtype.itemsize)


@dataclass(frozen=True, eq=False)
class PadLayer(OnlyWayLayer):
    """A PAD; it has no constants.

    Attributes:
        in_place: the input is written into the output by whoever makes it: only the frame is left to do.
    """

    spec: PadSpec | PlainPadSpec
    in_place: bool = False

    @property
    def fill(self) -> int:
        """Every byte of the frame: the zero point, which is 0 for elements of more than a byte."""
        return self.spec.out_quant.scalar_zero_point() if isinstance(self.spec, PadSpec) else 0

    @property
    def constants(self) -> Mapping[str, npt.NDArray[Any]]:
        return {}

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return () if self.in_place else (image_shape(self.spec.x_shape),)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return image_shape(self.spec.output_shape)

    @property
    def name(self) -> str:
        return "frame_rows" if self.in_place else "pad_rows"

    def launches(self, choice: OnlyChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        spec = self.spec
        name, x = ("y", output) if self.in_place else ("x", inputs[0])
        sizes = (output.images, *spec.output_shape)
        if 0 in sizes:
            return []
        befores = (0, *(before for before, _ in spec.pads))
        insides = (output.images, *spec.x_shape)
        strides = zip(run_strides(x, spec.x_shape), run_strides(output, spec.output_shape), strict=True)
        spans = [
            Span(size, before, inside, *steps)
            for size, before, inside, steps in zip(sizes, befores, insides, strides, strict=True)
        ]
        spans.append(element_bytes(spec))
        return [
            copy_launch(
                spec,
                spans,
                (x.slot(name), x.misalignment + x.offset),
                (output.slot("y"), output.misalignment + output.offset),
                frame=True,
                inside=not self.in_place,
                fill=self.fill,
            )
        ]


@dataclass(frozen=True, eq=False)
class ConcatenationLayer(OnlyWayLayer):
    """A concatenation: one launch for each input.

    Attributes:
        operands: codes (*shape) of each input that is constant, None of an activation.
        tables: 256 codes by the input's byte, for each input that is quantized otherwise; else None.
        in_place: inputs that are written into the output by whoever makes them: nothing is left to do.
    """

    spec: ConcatenationSpec | PlainConcatenationSpec
    operands: tuple[npt.NDArray[Any] | None, ...]
    tables: tuple[npt.NDArray[Any] | None, ...]
    in_place: frozenset[int] = frozenset()
    constants: Mapping[str, npt.NDArray[Any]] = field(init=False)

    def __post_init__(self) -> None:
        constants = {f"c{i}": codes for i, codes in enumerate(self.operands) if codes is not None}
        constants |= {f"table{i}": table for i, table in enumerate(self.tables) if table is not None}
        object.__setattr__(self, "constants", constants)

    def copied_parts(self) -> Mapping[int, Shape]:
        """Where each input that is copied unchanged begins in the output, by dimension."""
        spec, found, start = self.spec, {}, 0
        for index, (shape, table) in enumerate(zip(spec.x_shapes, self.tables, strict=True)):
            if table is None:
                found[index] = tuple(start if i == spec.axis else 0 for i in range(len(shape)))
            start += shape[spec.axis]
        return found

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        given = enumerate(zip(self.spec.x_shapes, self.operands, strict=True))
        return tuple(image_shape(shape) for i, (shape, codes) in given if codes is None and i not in self.in_place)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return image_shape(self.spec.output_shape)

    @property
    def name(self) -> str:
        return "copy_rows"

    def launches(self, choice: OnlyChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        spec = self.spec
        y_strides = run_strides(output, spec.output_shape)
        given = iter(zip(itertools.chain(["x"], (f"x{i}" for i in itertools.count(1))), inputs, strict=False))
        launches = []
        start = 0
        for index, (shape, codes, table) in enumerate(zip(spec.x_shapes, self.operands, self.tables, strict=True)):
            offset = output.offset + start * y_strides[spec.axis + 1]
            start += shape[spec.axis]
            if index in self.in_place:
                continue
            name, x = next(given) if codes is None else (f"c{index}", contiguous_layout(spec, shape))
            sizes = (output.images, *shape)
            if 0 in sizes:
                continue
            strides = zip(run_strides(x, shape), y_strides, strict=True)
            launches.append(
                copy_launch(
                    spec,
                    [
                        *(Span(size, 0, size, *steps) for size, steps in zip(sizes, strides, strict=True)),
                        element_bytes(spec),
                    ],
                    (x.slot(name), x.misalignment + x.offset),
                    (Slot("y", offset), output.misalignment + offset),
                    frame=False,
                    table=None if table is None else Slot(f"table{index}"),
                )
            )
        return launches


def pack_pad(spec: PadSpec | PlainPadSpec, rule: Rule) -> PadLayer:
    """A PAD; there is nothing to pack."""
    return PadLayer(spec)


def pack_concatenation(
    spec: ConcatenationSpec | PlainConcatenationSpec, rule: Rule, constants: Sequence[npt.NDArray[Any] | None] = ()
) -> ConcatenationLayer:
    """Packs a concatenation.

    Args:
        constants: codes of each input that is constant; None of an activation. Nothing: all are activations.
    """
    tables: list[npt.NDArray[Any] | None] = [None] * len(spec.x_shapes)
    # int16 codes are copied, whatever the scales say.
    if isinstance(spec, ConcatenationSpec) and spec.activation_dtype != INT16:
        codes = all_codes(spec.activation_dtype)
        tables = [
            None if quant == spec.out_quant else rescaled(codes, quant, spec.out_quant).view(np.uint8)
            for quant in spec.x_quants
        ]
    given = constants or [None] * len(spec.x_shapes)
    operands = [None if operand is None else np.ascontiguousarray(operand) for operand in given]
    return ConcatenationLayer(spec, tuple(operands), tuple(tables))
