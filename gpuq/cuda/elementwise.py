"""Element by element: quantize, dequantize, and every function of one code by a table made on the host."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cuda.kernel import Argument, Kernel, Launch, Slot, int32s
from gpuq.cuda.layer import Contiguous, OnlyChoice, OnlyWayLayer
from gpuq.cuda.layout import ImageLayout
from gpuq.errors import InputTypeError
from gpuq.numerics import V1U_BLOCKS, Rounding, Rule, uniform
from gpuq.ops.dequantize import DequantizeSpec
from gpuq.ops.quantize import QuantizeSpec
from gpuq.ops.spec import Spec
from gpuq.ops.tables import unary_table
from gpuq.ops.unary import UnarySpec
from gpuq.quant import Quant

THREADS = 256
# Elements of a whole block of the rules of blocks.
BLOCK = 8

CODE_DTYPES = ("int8", "uint8", "int16", "int32")


def affine_kernel(op: str, dtype: str, *, per_channel: bool = False, vector: bool = True, blocks: int = 0) -> Kernel:
    """quantize.cu or dequantize.cu for codes of this dtype; blocks: RECIPROCAL or BLOCKS."""
    return Kernel(
        name=f"{op}_f32_{dtype}" + ("" if not blocks else "_reciprocal" if op == "quantize" else "_blocks"),
        source=f"{op}.cu",
        entry=op,
        defines=(
            ("CODE", f"{dtype}_t"),
            ("PER_CHANNEL", int(per_channel)),
            ("RECIPROCAL" if op == "quantize" else "BLOCKS", blocks),
            ("VECTOR", int(vector)),
            ("THREADS", THREADS),
        ),
        threads=(THREADS, 1, 1),
    )


def map_kernel(*, rest: bool = False, vector: bool = True) -> Kernel:
    """map_codes.cu."""
    return Kernel(
        name="map_codes_rest_u8" if rest else "map_codes_u8",
        source="map_codes.cu",
        entry="map_codes",
        defines=(("REST", int(rest)), ("VECTOR", int(vector)), ("THREADS", THREADS)),
        threads=(THREADS, 1, 1),
    )


def wide_map_kernel(x_bits: int, y_bits: int, *, rest: bool = False, vector: bool = True) -> Kernel:
    """map_codes_wide.cu, for codes of 8 or 16 bits."""
    return Kernel(
        name=f"map_codes{'_rest' * rest}_u{x_bits}_u{y_bits}",
        source="map_codes_wide.cu",
        entry="map_codes_wide",
        defines=(
            ("X", f"uint{x_bits}_t"),
            ("Y", f"uint{y_bits}_t"),
            ("REST", int(rest)),
            ("VECTOR", int(vector)),
            ("THREADS", THREADS),
        ),
        threads=(THREADS, 1, 1),
    )


KERNELS = (
    *(affine_kernel(op, dtype) for op in ("quantize", "dequantize") for dtype in CODE_DTYPES),
    *(affine_kernel("quantize", "int8", blocks=blocks) for blocks in (1, 2)),
    affine_kernel("dequantize", "int8", blocks=1),
    map_kernel(),
    map_kernel(rest=True),
    *(wide_map_kernel(*bits) for bits in ((8, 16), (16, 8), (16, 16))),
    wide_map_kernel(16, 16, rest=True),
)


@dataclass(frozen=True, eq=False)
class AffineMap:
    """quantize() or dequantize() of an array, per tensor or per channel.

    Attributes:
        op: "quantize" or "dequantize".
        inner: elements between neighbouring channels: the product of the dimensions behind the axis.
        rounding: AFFINE_F32 or its rules of reciprocals and blocks, per tensor.
        run: elements of a run, which such rules count in.
    """

    op: str
    quant: Quant
    inner: int = 1
    narrow_range: bool = False
    rounding: Rounding = Rounding.AFFINE_F32
    run: int = 1
    constants: Mapping[str, npt.NDArray[Any]] = field(init=False)

    def __post_init__(self) -> None:
        if self.quant.dtype.name not in CODE_DTYPES:
            raise InputTypeError(f"{self.op}: codes of {self.quant.dtype} are not supported on a GPU")
        zero_points = np.broadcast_to(self.quant.zero_points, self.quant.scales.shape).astype(np.int32)
        object.__setattr__(self, "constants", {"scales": self.quant.scales, "zero_points": zero_points})

    @classmethod
    def of(cls, op: str, quant: Quant, shape: Sequence[int], *, narrow_range: bool = False) -> AffineMap:
        """For an array of this shape, which the quant's axis must fit."""
        quant._along(quant.scales, tuple(shape))
        inner = 1 if quant.axis is None else math.prod(tuple(shape)[quant.axis % len(shape) + 1 :])
        return cls(op, quant, inner, narrow_range)

    def launch(self, elements: int, x_misalignment: int, y_misalignment: int) -> Launch:
        """The launch over this many elements, memory as Slots "x", "y" and the constants' names."""
        four_codes = 4 * self.quant.dtype.itemsize
        codes, values = (y_misalignment, x_misalignment) if self.op == "quantize" else (x_misalignment, y_misalignment)
        vector = codes % four_codes == 0 and values % 16 == 0
        whole = self.run // BLOCK * BLOCK
        if self.op == "quantize":
            more: tuple[Argument, ...] = int32s(self.quant.qmin + self.narrow_range, self.quant.qmax, self.run, whole)
            blocks = 0 if self.rounding is Rounding.AFFINE_F32 else 1
            if self.rounding is Rounding.RECIPROCAL_F32_BLOCK8 and whole < self.run:
                blocks = 2
        else:
            moved = 0.0 if self.quant.is_per_channel else -self.quant.scalar_zero_point() * self.quant.scalar_scale()
            more = (*int32s(self.run, whole), np.float32(moved))
            blocks = int(self.rounding is Rounding.AFFINE_F32_BLOCK8)
        kernel = affine_kernel(
            self.op, self.quant.dtype.name, per_channel=self.quant.is_per_channel, vector=vector, blocks=blocks
        )
        return Launch(
            kernel,
            (-(-elements // (4 * THREADS)), 1, 1),
            (
                Slot("x"),
                Slot("scales"),
                Slot("zero_points"),
                Slot("y"),
                np.int64(elements),
                np.int64(self.inner),
                np.int32(self.quant.scales.size),
                *more,
            ),
        )


@dataclass(frozen=True, eq=False)
class AffineLayer(Contiguous, OnlyWayLayer):
    """QUANTIZE from float32 or DEQUANTIZE to it, as a layer of a network."""

    spec: QuantizeSpec | DequantizeSpec
    map: AffineMap

    @property
    def constants(self) -> Mapping[str, npt.NDArray[Any]]:
        return self.map.constants

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return (self.y_shape,)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return 1, 1, math.prod(self.spec.shape)

    @property
    def name(self) -> str:
        return f"{self.map.op}_f32_{self.map.quant.dtype}"

    def launches(self, choice: OnlyChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        (x,), y = inputs, output
        elements = x.images * math.prod(self.spec.shape)
        return [self.map.launch(elements, x.misalignment + x.offset, y.misalignment + y.offset)]


@dataclass(frozen=True, eq=False)
class MapLayer(Contiguous, OnlyWayLayer):
    """A function of one code.

    Attributes:
        table: (256,) or (65536,) results by the code's bits; with a rest, those behind the last whole block follow.
        whole: elements of a run in whole blocks; None where there is no rest.
    """

    spec: Spec
    table: npt.NDArray[Any]
    whole: int | None = None

    @property
    def constants(self) -> Mapping[str, npt.NDArray[Any]]:
        return {"table": self.table}

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return (self.y_shape,)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return 1, 1, math.prod(self.spec.output_shape)

    @property
    def name(self) -> str:
        return "map_codes"

    @property
    def itemsizes(self) -> tuple[int, int]:
        """Bytes of a code of the input and of the output."""
        codes = len(self.table) // (1 if self.whole is None else 2)
        return 1 if codes == 256 else 2, self.table.dtype.itemsize

    def launches(self, choice: OnlyChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        (x,), y = inputs, output
        run = math.prod(self.spec.output_shape)
        elements = x.images * run
        sizes, rest = self.itemsizes, self.whole is not None
        vector = (x.misalignment + x.offset) % 16 == 0 and (y.misalignment + y.offset) % 16 == 0
        kernel, per_thread = map_kernel(rest=rest, vector=vector), 16
        if sizes != (1, 1):
            kernel, per_thread = wide_map_kernel(8 * sizes[0], 8 * sizes[1], rest=rest, vector=vector), 8
        return [
            Launch(
                kernel,
                (-(-elements // (per_thread * THREADS)), 1, 1),
                (x.slot("x"), Slot("table"), y.slot("y"), np.int64(elements), *int32s(run, self.whole or 0)),
            )
        ]


def is_map(spec: Spec) -> bool:
    """Whether an operator is a function of one code, element by element."""
    return isinstance(spec, UnarySpec) or (isinstance(spec, QuantizeSpec) and spec.x_quant is not None)


def pack_map(spec: Spec, rule: Rule) -> MapLayer:
    """A function of one code, for which is_map holds."""
    rule = replace(rule, rounding=uniform(rule.rounding, math.prod(spec.output_shape)))
    if rule.rounding in V1U_BLOCKS:
        # Whole blocks are rounded by V1U, what is left by V1.
        tables = [unary_table(spec, replace(rule, rounding=each)) for each in (Rounding.V1U, Rounding.V1)]
        block, run = V1U_BLOCKS[rule.rounding], math.prod(spec.output_shape)
        return MapLayer(spec, np.concatenate(tables), run // block * block)
    return MapLayer(spec, unary_table(spec, rule))


def pack(spec: Spec, rule: Rule) -> AffineLayer | MapLayer:
    """QUANTIZE, DEQUANTIZE, or an operator on one code whose output has its input's shape."""
    run = math.prod(spec.output_shape)
    allowed: tuple[Rounding, ...] | None = None
    if isinstance(spec, DequantizeSpec):
        allowed = (Rounding.AFFINE_F32, Rounding.AFFINE_F32_BLOCK8)
    elif isinstance(spec, QuantizeSpec) and spec.x_quant is None:
        allowed = (Rounding.AFFINE_F32, Rounding.RECIPROCAL_F32, Rounding.RECIPROCAL_F32_BLOCK8)
    if allowed is not None and rule.rounding not in allowed:
        raise spec.fail(f"there is no CUDA kernel for rule {rule.rounding.value}")
    if isinstance(spec, QuantizeSpec) and spec.x_quant is None:
        return AffineLayer(spec, AffineMap("quantize", spec.out_quant, rounding=rule.rounding, run=run))
    if isinstance(spec, DequantizeSpec):
        return AffineLayer(spec, AffineMap("dequantize", spec.x_quant, rounding=rule.rounding, run=run))
    return pack_map(spec, rule)
