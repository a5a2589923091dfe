"""Operators on two tensors of codes with broadcasting.

ADD, SUB and MUL are a function of one code for each operand, a sum or product, and a requantization. Every other one on
8-bit codes is a table of all 65,536 pairs, made by reference(); of int16 there are MAXIMUM, MINIMUM, PRELU and
SQUARED_DIFFERENCE.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.cuda.codes import type_name
from gpuq.cuda.elementwise import MapLayer
from gpuq.cuda.epilogue import epilogue_defines, pack_factors
from gpuq.cuda.kernel import Kernel, Launch, Pointer, Slot, int32s, renamed
from gpuq.cuda.layer import Contiguous, OnlyChoice, OnlyWayLayer, slot_name
from gpuq.cuda.layout import ImageLayout, alignment
from gpuq.cuda.strides import Dimension, broadcast_strides, folded, image_shape, run_strides
from gpuq.numerics import Bounds, Int64Array, Rounding, Rule
from gpuq.ops.add import SUM_BLOCKS, of_sums, one_rule, q20_multipliers, scaled_input, sum_factors
from gpuq.ops.broadcast import BinarySpec, BroadcastSpec
from gpuq.ops.div import DivSpec
from gpuq.ops.float32.elementwise import PlainBinarySpec
from gpuq.ops.leaky_relu import ONE, PreluSpec
from gpuq.ops.maximum_minimum import MaximumSpec, MinimumSpec
from gpuq.ops.mul import MulSpec
from gpuq.ops.quantize import QuantizeSpec
from gpuq.ops.spec import INT8, INT16, UINT8, Shape, Spec
from gpuq.ops.squared_difference import SquaredDifferenceSpec, scaled_inputs
from gpuq.ops.squared_difference import factors as squared_factors
from gpuq.ops.sub import SubSpec
from gpuq.ops.tables import all_codes, binary_table
from gpuq.quant import Quant

THREADS = 256
OUTER_DIMENSIONS = 6
# Compiled for these numbers of outer dimensions; a layer takes the next one.
_COMPILED_DIMENSIONS = (0, 2, OUTER_DIMENSIONS)


def binary_kernel(
    *,
    operation: str = "SUM",
    tables: tuple[bool, bool] = (False, False),
    steps: tuple[int, int] = (1, 1),
    dimensions: int = 0,
    vec: int = 16,
    dtype: np.dtype[Any] = INT8,
    rule: str = "RULE_V1_RIGHT",
    clamps: bool = False,
) -> Kernel:
    """binary_codes.cu; its head says what the arguments mean."""
    way = "" if dimensions == 0 else "_rows"
    return Kernel(
        name=f"{operation.lower()}_codes{way}_u{8 * vec}{type_name(dtype)}",
        source="binary_codes.cu",
        entry="binary_codes",
        defines=(
            ("OPERATION", f"OPERATION_{operation}"),
            ("A_TABLE", int(tables[0])),
            ("B_TABLE", int(tables[1])),
            ("A_STEP", steps[0]),
            ("B_STEP", steps[1]),
            ("DIMENSIONS", dimensions),
            ("VEC", vec),
            ("THREADS", THREADS),
            *epilogue_defines(rule, dtype, clamps),
        ),
        threads=(THREADS, 1, 1),
    )


KERNELS = (
    *(binary_kernel(tables=(False, True), vec=vec) for vec in (16, 4)),
    *(binary_kernel(tables=(False, True), dimensions=2, vec=vec) for vec in (16, 4)),
    binary_kernel(tables=(True, False), steps=(1, 0), dimensions=OUTER_DIMENSIONS, vec=1),
    *(binary_kernel(operation="PRODUCT", vec=vec) for vec in (16, 4)),
    *(binary_kernel(operation="PRODUCT", steps=(1, 1), dimensions=2, vec=vec) for vec in (16, 4)),
    binary_kernel(operation="PRODUCT", steps=(1, 0), dimensions=OUTER_DIMENSIONS, vec=1),
    *(binary_kernel(operation="PAIR", vec=vec) for vec in (16, 4)),
    binary_kernel(operation="PAIR", steps=(1, 0), dimensions=OUTER_DIMENSIONS, vec=1),
    *(binary_kernel(tables=(False, True), vec=vec, dtype=INT16) for vec in (8, 4)),
    binary_kernel(tables=(True, False), steps=(1, 0), dimensions=OUTER_DIMENSIONS, vec=1, dtype=INT16),
    *(binary_kernel(operation=operation, vec=8, dtype=INT16) for operation in ("PRODUCT", "MAX", "MIN")),
    binary_kernel(operation="SQUARE", tables=(True, True), vec=8, dtype=INT16),
    binary_kernel(operation="PRELU", steps=(1, 1), dimensions=2, vec=8, dtype=INT16, rule="RULE_V1"),
)
"""Two residual branches, an operand for every pixel's channels, and anything else code by code."""


@dataclass(frozen=True, eq=False)
class BinaryLayer(OnlyWayLayer):
    """A packed layer.

    Attributes:
        values: of each operand, int32 (256,) or (65536,) by the code's bits; see kernels_cuda/binary_codes.cu.
        factors: one factor as the rule reads it.
        rule: the macro of kernels_cuda/requantize.cuh.
        bounds: how the fused activation's bounds become codes.
        operands: codes (*shape) of each operand that is constant, None of an activation.
        pairs: (65536,) the result for each pair of bytes, the first code's being the upper one; the other values say
            nothing then. None of sums and products.
    """

    spec: BroadcastSpec
    values: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]
    factors: npt.NDArray[Any]
    rule: str
    bounds: Bounds
    operands: tuple[npt.NDArray[Any] | None, npt.NDArray[Any] | None]
    pairs: npt.NDArray[Any] | None = None
    constants: Mapping[str, npt.NDArray[Any]] = field(init=False)
    affine: tuple[tuple[int, int] | None, tuple[int, int] | None] = field(init=False)

    def __post_init__(self) -> None:
        first, second = (affine(values, self.spec.activation_dtype) for values in self.values)
        constants: dict[str, npt.NDArray[Any]] = {"factors": self.factors}
        if self.pairs is not None:
            constants["pairs"] = self.pairs
        for name, values, line, codes in zip("ab", self.values, (first, second), self.operands, strict=True):
            if line is None:
                constants[f"{name}_table"] = values
            if codes is not None:
                constants[name] = codes
        object.__setattr__(self, "constants", constants)
        object.__setattr__(self, "affine", (first, second))

    @property
    def shapes(self) -> tuple[Shape, Shape]:
        """Of one run of each operand."""
        return self.spec.a_shape, self.spec.b_shape

    @property
    def operation(self) -> str:
        """OPERATION of kernels_cuda/binary_codes.cu."""
        if self.pairs is not None:
            return "PAIR"
        if isinstance(self.spec, MaximumSpec):
            return "MIN" if isinstance(self.spec, MinimumSpec) else "MAX"
        if isinstance(self.spec, PreluSpec):
            return "PRELU"
        if isinstance(self.spec, SquaredDifferenceSpec):
            return "SQUARE"
        return "PRODUCT" if isinstance(self.spec, MulSpec) else "SUM"

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return tuple(
            image_shape(shape) for shape, codes in zip(self.shapes, self.operands, strict=True) if codes is None
        )

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return image_shape(self.spec.output_shape)

    @property
    def name(self) -> str:
        return f"{self.operation.lower()}_codes"

    def launches(self, choice: OnlyChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        spec = self.spec
        if len(spec.output_shape) > OUTER_DIMENSIONS:
            raise spec.fail(f"{len(spec.output_shape)} dimensions; the CUDA kernel has up to {OUTER_DIMENSIONS}")
        memory, layouts = self._operands(inputs)
        sizes = (output.images, *spec.output_shape)
        strides = [
            broadcast_strides(layout, shape, spec.output_shape)
            for layout, shape in zip(layouts, self.shapes, strict=True)
        ]
        dimensions = folded(sizes, *strides, run_strides(output, spec.output_shape))
        if 0 in sizes:
            return []
        size = spec.activation_dtype.itemsize
        row = Dimension(1, (size, size, size))
        if dimensions and dimensions[-1].strides[2] == max(dimensions[-1].strides) == size:
            row = dimensions.pop()
        steps = row.strides[0] // size, row.strides[1] // size
        vec = self._vec(row, dimensions, (*layouts, output), steps)
        chunks = -(-row.size // max(vec, 4))
        threads = chunks
        for dimension in dimensions:
            threads *= dimension.size
        if threads >= 1 << 31:
            raise spec.fail(f"{threads} words in one launch; the limit is 2^31 - 1, use a smaller batch")
        walked = next(count for count in _COMPILED_DIMENSIONS if count >= len(dimensions))
        outer = [*reversed(dimensions), *[Dimension(1, (0, 0, 0))] * (OUTER_DIMENSIONS - len(dimensions))]
        lines = [line or (0, 0) for line in self.affine]
        tables: list[Pointer | Slot] = [
            Pointer(None) if line else Slot(f"{name}_table") for name, line in zip("ab", self.affine, strict=True)
        ]
        zero_point, act_min, act_max, clamps = 0, 0, 0, False
        if isinstance(spec, BinarySpec) and self.pairs is None:
            zero_point = spec.out_quant.scalar_zero_point()
            act_min, act_max = numerics.activation_range(spec.activation, spec.out_quant, self.bounds)
            clamps = (act_min, act_max) != (spec.out_quant.qmin, spec.out_quant.qmax)
        if self.pairs is not None:
            tables[0] = Slot("pairs")
        kernel = binary_kernel(
            operation=self.operation,
            tables=(self.affine[0] is None, self.affine[1] is None),
            steps=steps,
            dimensions=walked,
            vec=vec,
            dtype=spec.activation_dtype,
            rule=self.rule,
            clamps=clamps,
        )
        return [
            Launch(
                kernel,
                (-(-threads // THREADS), 1, 1),
                (
                    *(memory[0], tables[0], *int32s(*lines[0])),
                    *(memory[1], tables[1], *int32s(*lines[1])),
                    Slot("factors"),
                    output.slot("y"),
                    *int32s(threads, row.size, chunks),
                    *int32s(*(dimension.size for dimension in outer[: OUTER_DIMENSIONS - 1])),
                    *(np.int64(dimension.strides[tensor]) for tensor in range(3) for dimension in outer),
                    *int32s(zero_point, act_min, act_max),
                ),
            )
        ]

    def _operands(self, inputs: Sequence[ImageLayout]) -> tuple[list[Slot], list[ImageLayout]]:
        """Memory and layout of both operands: constants are one contiguous run."""
        memory, layouts = [], []
        given = iter(zip(("x", "x1"), inputs, strict=False))
        for name, shape, codes in zip("ab", self.shapes, self.operands, strict=True):
            constant = ImageLayout.contiguous(1, *image_shape(shape), itemsize=self.spec.activation_dtype.itemsize)
            slot, layout = next(given) if codes is None else (name, constant)
            memory.append(layout.slot(slot))
            layouts.append(layout)
        return memory, layouts

    def _vec(
        self,
        row: Dimension,
        dimensions: Sequence[Dimension],
        layouts: Sequence[ImageLayout],
        steps: tuple[int, int],
    ) -> int:
        """Codes that every address is a multiple of; a tensor with one code for the whole row is loaded by itself."""
        size = self.spec.activation_dtype.itemsize
        distances = []
        for tensor, (layout, step) in enumerate(zip(layouts, (*steps, 1), strict=True)):
            if step == 1:
                distances += [layout.misalignment + layout.offset, *(each.strides[tensor] for each in dimensions)]
        most = 16 // size
        found = alignment(*distances, largest=16 if row.size >= most or not dimensions else 4 * size) // size
        return found if found == most else 4 if found >= 4 else 1


@dataclass(frozen=True, eq=False)
class BlockwiseLayer(Contiguous, OnlyWayLayer):
    """A sum by a rule of blocks: of each row the elements in whole blocks are one layer, those behind another.

    Attributes:
        parts: (first element of a row, layer of the elements from there on), two.
        rows: the operands' shapes, whose last dimensions are rows, or 1 for a single element.
    """

    spec: BinarySpec
    parts: tuple[tuple[int, BinaryLayer], ...]
    rows: tuple[Shape, Shape]

    @property
    def constants(self) -> Mapping[str, npt.NDArray[Any]]:
        return {f"part{first}_{name}": each for first, part in self.parts for name, each in part.constants.items()}

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return tuple((1, 1, math.prod(shape)) for shape in self._given)

    @property
    def _given(self) -> list[Shape]:
        """Shapes of the operands that are no constants."""
        operands = self.parts[0][1].operands
        return [shape for shape, codes in zip(self.rows, operands, strict=True) if codes is None]

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return 1, 1, math.prod(self.spec.output_shape)

    @property
    def name(self) -> str:
        return self.parts[0][1].name

    def launches(self, choice: OnlyChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        found: list[Launch] = []
        shapes = [*self._given, tuple(np.broadcast_shapes(*self.rows))]
        for first, part in self.parts:
            *xs, y = (
                _from_element(first, shape, layout) for shape, layout in zip(shapes, (*inputs, output), strict=True)
            )
            launches = part.launches(choice, xs, y)
            there = {name: Slot(f"part{first}_{name}") for name in part.constants}
            found += [renamed(launch, there) for launch in launches]
        return found


def _from_element(first: int, shape: Shape, layout: ImageLayout) -> ImageLayout:
    """Contiguous memory of this shape, of each row the elements from `first` on; rows of one element stay."""
    whole = ImageLayout.contiguous(layout.images, *image_shape(shape), layout.misalignment, layout.itemsize)
    return replace(whole, offset=layout.offset + (first * layout.itemsize if shape[-1] > 1 else 0))


@dataclass(frozen=True, eq=False)
class WidenedPreluLayer(Contiguous, OnlyWayLayer):
    """A PRELU of int16 by slopes that are computed: in scratch they become int16, their zero point taken off.

    Attributes:
        prelu: of such slopes.
        widened: the slopes.
    """

    spec: PreluSpec
    prelu: BinaryLayer
    widened: MapLayer

    @property
    def constants(self) -> Mapping[str, npt.NDArray[Any]]:
        return {"widened": self.widened.table, **self.prelu.constants}

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return self.prelu.x_shapes

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return self.prelu.y_shape

    @property
    def name(self) -> str:
        return self.prelu.name

    def workspace_bytes(self, runs: int, choice: OnlyChoice) -> int:
        return 2 * runs * math.prod(self.spec.b_shape)

    def launches(self, choice: OnlyChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        *given, slopes = inputs
        wide = ImageLayout.contiguous(slopes.images, *image_shape(self.spec.b_shape), itemsize=2)
        own = slot_name("x", len(given))
        there = {"x": Slot(own), "y": Slot("workspace"), "table": Slot("widened")}
        return [
            *(renamed(launch, there) for launch in self.widened.launches(choice, [slopes], wide)),
            *(
                renamed(launch, {own: Slot("workspace")})
                for launch in self.prelu.launches(choice, [*given, wide], output)
            ),
        ]


def affine(values: npt.NDArray[np.int32], dtype: np.dtype[Any]) -> tuple[int, int] | None:
    """(scale, offset) if each value is scale * code + offset, modulo 2^32; None if a table must say it."""
    codes = all_codes(dtype).astype(np.int64)
    offset = int(values[0])  # all_codes begins with code 0
    scale = int(numerics.wrap_int32(np.array(int(values[1]) - offset)))
    return (scale, offset) if np.array_equal(numerics.wrap_int32(codes * scale + offset), values) else None


def pack(
    spec: BinarySpec,
    rule: Rule,
    a: npt.NDArray[Any] | None = None,
    b: npt.NDArray[Any] | None = None,
) -> BinaryLayer | BlockwiseLayer:
    """Packs an ADD, SUB or MUL.

    Args:
        a, b: codes of an operand that is constant; None of an activation.
    """
    rounding = one_rule(spec, rule.rounding)
    if rounding is not None:
        return pack_sum_or_product(spec, replace(rule, rounding=rounding), a, b)
    assert spec.rows is not None
    row, block = spec.row[0], SUM_BLOCKS[rule.rounding]
    whole = row // block * block
    parts = []
    for first, stop, rounding in ((0, whole, rule.rounding), (whole, row, Rounding.V1)):
        shapes = [(*shape[:-1], min(shape[-1], stop - first)) for shape in spec.rows]
        operands = [
            None if each is None else each.reshape(shape)[..., first:stop] if shape[-1] > 1 else each.reshape(shape)
            for each, shape in zip((a, b), spec.rows, strict=True)
        ]
        part = replace(spec, a_shape=shapes[0], b_shape=shapes[1])
        parts.append((first, pack_sum_or_product(part, replace(rule, rounding=rounding), *operands)))
    return BlockwiseLayer(spec, tuple(parts), spec.rows)


def pack_sum_or_product(
    spec: BinarySpec, rule: Rule, a: npt.NDArray[Any] | None = None, b: npt.NDArray[Any] | None = None
) -> BinaryLayer:
    """Packs an ADD, SUB or MUL by a rule that is one for all elements (or all of them lie in whole blocks)."""
    codes = all_codes(spec.activation_dtype).astype(np.int64)
    rounding = rule.rounding
    a_codes, b_codes = codes - spec.a_quant.scalar_zero_point(), codes - spec.b_quant.scalar_zero_point()
    if isinstance(spec, MulSpec):
        values = [a_codes, b_codes]
        real = numerics.real_multipliers(
            spec.a_quant.scalar_scale(), spec.b_quant.scales, spec.out_quant.scalar_scale(), rule.product
        )
        bound = np.abs(a_codes).max() * np.abs(b_codes).max()
    elif rounding is Rounding.Q20:
        *multipliers, shift = q20_multipliers(spec)
        values = [a_codes * multipliers[0], b_codes * multipliers[1]]
        # V2 with the multiplier 2^30: (sum * 2^30 + 2^(29 + shift)) >> (30 + shift) is Q20's shift by itself.
        rounding, real, bound = Rounding.V2, np.array([math.ldexp(1.0, -shift)]), 1 << 30
    else:
        *factors, out_factor = sum_factors(spec, rounding)
        values = [
            scaled_input(spec, rounding, centred, factor)
            for centred, factor in zip((a_codes, b_codes), factors, strict=True)
        ]
        rounding = of_sums(rounding)
        real = np.array([out_factor])
        bound = np.abs(values[0]).max() + np.abs(values[1]).max()
    if isinstance(spec, SubSpec):
        values[1] = -values[1]
    packed, macro, _ = pack_factors(
        rounding,
        real,
        np.zeros(1, np.int64),
        np.array([bound], np.int64),
        spec.out_quant.scalar_zero_point(),
        can_clear=False,
    )
    return BinaryLayer(
        spec,
        (_int32(values[0]), _int32(values[1])),
        packed,
        macro,
        rule.bounds,
        (None if a is None else np.ascontiguousarray(a), None if b is None else np.ascontiguousarray(b)),
    )


def pack_prelu_int16(
    spec: PreluSpec, rule: Rule, x: npt.NDArray[Any] | None, alpha: npt.NDArray[Any] | None
) -> BinaryLayer | WidenedPreluLayer:
    """Packs a PRELU of int16, whose slopes are int8.

    Args:
        x, alpha: codes of an operand that is constant; None of an activation.
    """
    scales = spec.a_quant.scalar_scale(), spec.out_quant.scalar_scale()
    reals = [
        numerics.real_multipliers(scales[0], slope_scale, scales[1], rule.product)
        for slope_scale in (ONE, spec.b_quant.scales)
    ]
    multipliers = numerics.quantize_multipliers(np.concatenate(reals))
    codes = all_codes(INT16).astype(np.int64)
    zero_point = np.int16(spec.b_quant.scalar_zero_point())
    layer = BinaryLayer(
        spec,
        (_int32(codes), _int32(codes)),
        np.stack(multipliers, axis=1).astype(np.int32),
        {Rounding.V1: "RULE_V1", Rounding.V2: "RULE_V2"}[rule.rounding],
        rule.bounds,
        (
            None if x is None else np.ascontiguousarray(x),
            None if alpha is None else np.ascontiguousarray(alpha.astype(np.int16) - zero_point),
        ),
    )
    if alpha is not None:
        return layer
    slopes = QuantizeSpec(
        shape=spec.b_shape, x_quant=spec.b_quant, out_quant=Quant(spec.b_quant.scalar_scale(), dtype="int16")
    )
    return WidenedPreluLayer(spec, layer, MapLayer(slopes, all_codes(INT8).astype(np.int16) - zero_point))


def pack_squared_difference_int16(
    spec: SquaredDifferenceSpec, rule: Rule, a: npt.NDArray[Any] | None, b: npt.NDArray[Any] | None
) -> BinaryLayer:
    """Packs a SQUARED_DIFFERENCE of int16.

    Args:
        a, b: codes of an operand that is constant; None of an activation.
    """
    codes = all_codes(INT16)
    a_values, b_values = scaled_inputs(spec, rule, codes, codes)
    largest = int(np.abs(a_values).max() + np.abs(b_values).max())
    packed, macro, _ = pack_factors(
        rule.rounding,
        np.array([squared_factors(spec)[2]]),
        np.zeros(1, np.int64),
        np.array([largest * largest], np.int64),
        0,
        can_clear=False,
    )
    operands = (None if a is None else np.ascontiguousarray(a), None if b is None else np.ascontiguousarray(b))
    return BinaryLayer(spec, (_int32(a_values), _int32(-b_values)), packed, macro, rule.bounds, operands)


def _int32(values: Int64Array) -> npt.NDArray[np.int32]:
    return values.astype(np.int32)


def is_pair(spec: Spec) -> TypeGuard[BroadcastSpec]:
    """Whether an operator's result is a function of two 8-bit codes, or the larger or smaller of two of int16."""
    if isinstance(spec, MaximumSpec) and spec.dtype == INT16:
        return True
    is_code = isinstance(spec, BroadcastSpec) and spec.activation_dtype in (INT8, UINT8)
    # Divisors of 0 are refused while running.
    return is_code and not isinstance(spec, DivSpec | PlainBinarySpec)


def pack_pairs(
    spec: BroadcastSpec,
    rule: Rule,
    a: npt.NDArray[Any] | None = None,
    b: npt.NDArray[Any] | None = None,
) -> BinaryLayer:
    """Packs an operator for which is_pair holds.

    Args:
        a, b: codes of an operand that is constant; None of an activation.
    """
    pairs = None if spec.activation_dtype == INT16 else binary_table(spec, rule).view(np.uint8)
    codes = _int32(all_codes(spec.activation_dtype).astype(np.int64))
    return BinaryLayer(
        spec,
        (codes, codes),
        np.zeros((1, 4), np.int32),
        "RULE_V1_RIGHT",
        rule.bounds,
        (None if a is None else np.ascontiguousarray(a), None if b is None else np.ascontiguousarray(b)),
        pairs,
    )
