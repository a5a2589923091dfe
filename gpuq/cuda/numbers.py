"""Operators on plain numbers, element by element with broadcasting: float32, integers, bool, and SELECT and CAST."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.cuda.kernel import Kernel, Launch, Pointer, Slot, int32s
from gpuq.cuda.layer import OnlyChoice, OnlyWayLayer, slot_name
from gpuq.cuda.layout import ImageLayout
from gpuq.cuda.status import CheckingLayer
from gpuq.cuda.strides import Dimension, broadcast_strides, folded, image_shape, run_strides
from gpuq.errors import InputValueError
from gpuq.numerics import ACTIVATION_BOUNDS, Rounding, Rule
from gpuq.ops import fixed_point
from gpuq.ops.abs_neg import NegSpec
from gpuq.ops.broadcast import BroadcastSpec
from gpuq.ops.cast import CastSpec
from gpuq.ops.comparison import ComparisonSpec, compared
from gpuq.ops.div import DivSpec, factor
from gpuq.ops.float32.elementwise import FloatLeakyReluSpec, FloatUnarySpec, PlainBinarySpec
from gpuq.ops.maximum_minimum import MaximumSpec
from gpuq.ops.select import SelectV2Spec
from gpuq.ops.spec import BOOL, FLOAT32, INT16, Shape, Spec
from gpuq.ops.tables import all_codes

THREADS = 256
DIMENSIONS = 6

# Operators of one float32 tensor: the function, and the bounds of the activation that it is.
_UNARY: Mapping[str, tuple[str, tuple[float, float] | None]] = MappingProxyType(
    {
        "ABS": ("Abs", None),
        "ELU": ("Elu", None),
        "HARD_SWISH": ("HardSwish", None),
        "LEAKY_RELU": ("LeakyRelu", None),
        "RELU": ("Same", (0.0, math.inf)),
        "RELU6": ("Same", (0.0, 6.0)),
        "RELU_0_TO_1": ("Same", (0.0, 1.0)),
        "RELU_N1_TO_1": ("Same", (-1.0, 1.0)),
        "RSQRT": ("Rsqrt", None),
        "SQRT": ("Sqrt", None),
        "TANH": ("Tanh", None),
    }
)
_C_TYPES: Mapping[str, str] = MappingProxyType({"bool": "uint8_t", "float32": "float"})


def _title(op: str) -> str:
    """The name of an operator's function: SQUARED_DIFFERENCE is SquaredDifference."""
    return "".join(word.capitalize() for word in op.lower().split("_"))


class Function(NamedTuple):
    """What a kernel is compiled for.

    Attributes:
        name: FUNCTION of kernels_cuda/numbers.cu.
        dtypes: of the operands.
        bounds: of the activation that follows.
        parameter: alpha of LEAKY_RELU.
        checks: the second operand is a divisor that may be 0.
        tables: TABLES of kernels_cuda/numbers.cu: "COMPARED", "DIVIDED" or "".
    """

    name: str
    dtypes: tuple[np.dtype[Any], ...]
    out_dtype: np.dtype[Any]
    bounds: tuple[float, float] | None = None
    parameter: float = 0.0
    checks: bool = False
    tables: str = ""


def numbers_kernel(function: Function) -> Kernel:
    """numbers.cu; its head says what the arguments mean."""
    types = [_C_TYPES.get(dtype.name, f"{dtype.name}_t") for dtype in function.dtypes]
    types += ["uint8_t"] * (3 - len(types))
    variant = "_checked" * function.checks + "_tables" * (function.tables == "COMPARED")
    return Kernel(
        name=f"numbers_{function.name}_{function.dtypes[-1]}{variant}",
        source="numbers.cu",
        entry="numbers",
        defines=(
            ("FUNCTION", function.name),
            ("OPERANDS", len(function.dtypes)),
            ("TABLES", f"TABLES_{function.tables}" if function.tables else 0),
            *zip("ABC", types, strict=True),
            ("Y", _C_TYPES.get(function.out_dtype.name, f"{function.out_dtype.name}_t")),
            ("CLAMP", int(function.bounds is not None)),
            ("CHECKS", int(function.checks)),
            ("THREADS", THREADS),
        ),
        threads=(THREADS, 1, 1),
    )


_INT32, _INT64 = np.dtype(np.int32), np.dtype(np.int64)
KERNELS = (
    *(
        numbers_kernel(Function(_title(op), (FLOAT32,), FLOAT32))
        for op in ("ABS", "ELU", "HARD_SWISH", "RSQRT", "SQRT", "TANH")
    ),
    *(
        numbers_kernel(Function(_title(op), (dtype, dtype), dtype))
        for op in ("ADD", "MUL", "SQUARED_DIFFERENCE", "MAXIMUM")
        for dtype in (FLOAT32, _INT32, _INT64)
    ),
    *(numbers_kernel(Function(_title(op), (_INT32, _INT32), _INT32)) for op in ("DIV", "FLOOR_DIV")),
    numbers_kernel(Function("Div", (_INT32, _INT32), _INT32, checks=True)),
    numbers_kernel(Function("DivCodes", (INT16, INT16), INT16, checks=True, tables="DIVIDED")),
    numbers_kernel(Function("LessEqual", (_INT64, _INT64), BOOL)),
    numbers_kernel(Function("Equal", (INT16, INT16), BOOL, tables="COMPARED")),
    numbers_kernel(Function("Select", (BOOL, _INT32, _INT32), _INT32)),
    numbers_kernel(Function("Cast", (_INT32,), np.dtype(np.int8))),
    numbers_kernel(Function("CastToBool", (_INT32,), BOOL)),
    numbers_kernel(Function("Neg", (_INT64,), _INT64)),
    numbers_kernel(Function("Same", (FLOAT32,), FLOAT32, (0.0, 6.0))),
)
"""A selection: functions of one, two and three operands, of every kind of number."""


@dataclass(frozen=True, eq=False)
class NumbersLayer(OnlyWayLayer):
    """An operator.

    Attributes:
        shapes: of one run of each operand.
        operands: each operand that is constant, None of an activation.
        tables: int32, what the function's TABLES say; None of others.
    """

    spec: Spec
    function: Function
    shapes: tuple[Shape, ...]
    operands: tuple[npt.NDArray[Any] | None, ...]
    tables: npt.NDArray[np.int32] | None = None

    @property
    def constants(self) -> Mapping[str, npt.NDArray[Any]]:
        given = {f"c{i}": operand for i, operand in enumerate(self.operands) if operand is not None}
        return given if self.tables is None else given | {"tables": self.tables}

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        given = zip(self.shapes, self.operands, strict=True)
        return tuple(image_shape(shape) for shape, operand in given if operand is None)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return image_shape(self.spec.output_shape)

    @property
    def name(self) -> str:
        return f"numbers_{self.function.name}"

    def launches(self, choice: OnlyChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        spec, function = self.spec, self.function
        sizes = (output.images, *spec.output_shape)
        if 0 in sizes:
            return []
        memory, strides = [], []
        given = iter(enumerate(inputs))
        for index, (shape, operand, dtype) in enumerate(zip(self.shapes, self.operands, function.dtypes, strict=True)):
            name, layout = f"c{index}", ImageLayout.contiguous(1, *image_shape(shape), itemsize=dtype.itemsize)
            if operand is None:
                number, layout = next(given)
                name = slot_name("x", number)
            memory.append(layout.slot(name))
            strides.append(broadcast_strides(layout, shape, spec.output_shape))
        while len(memory) < 3:
            memory.append(output.slot("y") if self.tables is None else Slot("tables"))
            strides.append((0,) * len(sizes))
        dimensions = folded(sizes, *strides, run_strides(output, spec.output_shape))
        if len(dimensions) > DIMENSIONS:
            raise spec.fail(f"{len(dimensions)} dimensions; the CUDA kernel has up to {DIMENSIONS}")
        loops = [*reversed(dimensions), *[Dimension(1, (0, 0, 0, 0))] * (DIMENSIONS - len(dimensions))]
        elements = math.prod(sizes)
        blocks = -(-elements // THREADS)
        if blocks >= 1 << 31:
            raise spec.fail(f"{elements} elements in one launch; use a smaller batch")
        low, high = function.bounds or (0.0, 0.0)
        return [
            Launch(
                numbers_kernel(function),
                (blocks, 1, 1),
                (
                    *memory,
                    output.slot("y"),
                    np.int64(elements),
                    *int32s(*(loop.size for loop in loops[: DIMENSIONS - 1])),
                    *(np.int64(loop.strides[tensor]) for tensor in range(4) for loop in loops),
                    *(np.float32(value) for value in (function.parameter, low, high)),
                    Slot("status") if function.checks else Pointer(None),
                ),
            )
        ]


class DivisionLayer(NumbersLayer, CheckingLayer):
    """DIV or FLOOR_DIV by divisors of which one may be 0."""

    def refusal(self, reason: int) -> InputValueError:
        return self.spec.fail("division by 0, as the runtimes refuse it for integers")


def pack(spec: Spec, rule: Rule, constants: Sequence[npt.NDArray[Any] | None]) -> NumbersLayer | None:
    """The layer of an operator on plain numbers; None if it is no such operator.

    Args:
        constants: one entry per operand; None of an activation.
    """
    found = _function_and_shapes(spec, constants)
    if found is None:
        return None
    function, shapes = found
    operands = tuple(None if each is None else np.ascontiguousarray(each) for each in constants)
    if isinstance(spec, ComparisonSpec) and spec.a_quant is not None and rule.rounding is not Rounding.EXACT:
        codes = all_codes(spec.dtype)
        values = [compared(codes, quant, rule).astype(np.int32) for quant in (spec.a_quant, spec.b_quant)]
        return NumbersLayer(spec, function._replace(tables="COMPARED"), shapes, operands, np.concatenate(values))
    return (DivisionLayer if function.checks else NumbersLayer)(spec, function, shapes, operands)


def pack_div(spec: DivSpec, rule: Rule, a: npt.NDArray[Any] | None, b: npt.NDArray[Any] | None) -> NumbersLayer:
    """Packs a DIV of codes.

    Args:
        a, b: codes of an operand that is constant; None of an activation.
    """
    dtype, zero = spec.activation_dtype, spec.b_quant.scalar_zero_point()
    checks = b is None or bool((b == zero).any())
    divisors = all_codes(dtype).astype(np.int64) - zero
    inverses, bits = fixed_point.reciprocal(np.maximum(np.abs(divisors), 1), 31)
    head = [
        *(quant.scalar_zero_point() for quant in (spec.a_quant, spec.b_quant, spec.out_quant)),
        *numerics.quantize_multiplier(factor(spec)),
        *numerics.activation_range(spec.activation, spec.out_quant, rule.bounds),
        0,
    ]
    words = np.concatenate([np.array(head), np.stack([inverses, bits], axis=1).reshape(-1)]).astype(np.int32)
    function = Function("DivCodes", (dtype, dtype), dtype, checks=checks, tables="DIVIDED")
    operands = tuple(None if each is None else np.ascontiguousarray(each) for each in (a, b))
    kind = DivisionLayer if checks else NumbersLayer
    return kind(spec, function, (spec.a_shape, spec.b_shape), operands, words)


def _function_and_shapes(
    spec: Spec, constants: Sequence[npt.NDArray[Any] | None]
) -> tuple[Function, tuple[Shape, ...]] | None:
    dtype = spec.activation_dtype
    if isinstance(spec, CastSpec):
        name = "CastToBool" if spec.out_dtype == BOOL else "Cast"
        return Function(name, (dtype,), spec.out_dtype), (spec.shape,)
    if isinstance(spec, NegSpec):
        return Function("Neg", (dtype,), dtype), (spec.shape,)
    if isinstance(spec, SelectV2Spec):
        return Function("Select", (BOOL, dtype, dtype), dtype), (spec.condition_shape, spec.a_shape, spec.b_shape)
    if isinstance(spec, FloatUnarySpec) and spec.op in _UNARY:
        name, bounds = _UNARY[spec.op]
        alpha = spec.alpha if isinstance(spec, FloatLeakyReluSpec) else 0.0
        return Function(name, (FLOAT32,), FLOAT32, bounds, alpha), (spec.shape,)
    if not isinstance(spec, BroadcastSpec):
        return None
    shapes = (spec.a_shape, spec.b_shape)
    if isinstance(spec, ComparisonSpec):
        return Function(_title(spec.op), (dtype, dtype), BOOL), shapes
    if isinstance(spec, MaximumSpec):
        return Function(_title(spec.op), (dtype, dtype), dtype), shapes
    if isinstance(spec, PlainBinarySpec):
        divisor = constants[1]
        divides = spec.op in ("DIV", "FLOOR_DIV") and dtype != FLOAT32
        checks = divides and (divisor is None or not np.all(divisor))
        bounds = None
        if spec.activation is not None:
            low, high = ACTIVATION_BOUNDS[spec.activation]
            bounds = (-math.inf if low is None else low, math.inf if high is None else high)
        return Function(_title(spec.op), (dtype, dtype), dtype, bounds, checks=checks), shapes
    return None
