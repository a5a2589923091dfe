"""BATCH_MATMUL of int8 codes (dp4a), int16 or float32: each operand an activation or a constant, or transposed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.cuda.epilogue import epilogue_defines, pack_factors
from gpuq.cuda.kernel import Argument, Kernel, Launch, Slot, int32s
from gpuq.cuda.layer import Contiguous, OnlyChoice, OnlyWayLayer, slot_name
from gpuq.cuda.layout import ImageLayout
from gpuq.cuda.strides import Dimension, contiguous_strides, folded
from gpuq.numerics import Rule
from gpuq.ops.batch_matmul import BatchMatmulShapes, BatchMatmulSpec
from gpuq.ops.float32.weighted import FloatBatchMatmulSpec
from gpuq.ops.spec import INT8, INT16, Shape

THREADS = 256
TILE = 64
BATCH_LOOPS = 4


def batch_matmul_kernel(rule: str = "RULE_V1_RIGHT") -> Kernel:
    """batch_matmul_dp4a.cu; its head says what the arguments mean."""
    return Kernel(
        name="batch_matmul_dp4a_64x64",
        source="batch_matmul_dp4a.cu",
        entry="batch_matmul_dp4a",
        defines=epilogue_defines(rule),
        threads=(THREADS, 1, 1),
    )


def int16_kernel(b_dtype: np.dtype[Any] = INT16) -> Kernel:
    """batch_matmul_int16.cu; its head says what the arguments mean."""
    return Kernel(
        name=f"batch_matmul_int16_{b_dtype}_64x64",
        source="batch_matmul_int16.cu",
        entry="batch_matmul_int16",
        defines=(("B", f"{b_dtype}_t"), *epilogue_defines("RULE_V3", INT16)),
        threads=(THREADS, 1, 1),
    )


def float_kernel() -> Kernel:
    """batch_matmul_float32.cu; its head says what the arguments mean."""
    return Kernel("batch_matmul_float32", "batch_matmul_float32.cu", "batch_matmul_float32", (), (THREADS, 1, 1))


KERNELS = (batch_matmul_kernel(), int16_kernel(), int16_kernel(INT8), float_kernel())


@dataclass(frozen=True, eq=False)
class FloatBatchMatmulLayer(Contiguous, OnlyWayLayer):
    """A product of two float32 tensors; the base of that of codes.

    Attributes:
        operands: each operand that is constant, None of an activation.
    """

    spec: BatchMatmulShapes
    operands: tuple[npt.NDArray[Any] | None, npt.NDArray[Any] | None]

    @property
    def kernel(self) -> Kernel:
        return float_kernel()

    @property
    def constants(self) -> Mapping[str, npt.NDArray[Any]]:
        return {f"c{i}": operand for i, operand in enumerate(self.operands) if operand is not None}

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        given = zip((self.spec.a_shape, self.spec.b_shape), self.operands, strict=True)
        return tuple((1, 1, math.prod(shape)) for shape, operand in given if operand is None)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return 1, 1, math.prod(self.spec.output_shape)

    @property
    def name(self) -> str:
        return self.kernel.name

    @property
    def memory_behind(self) -> tuple[Argument, ...]:
        """Arguments between the operands and the output."""
        return ()

    @property
    def numbers_behind(self) -> tuple[Argument, ...]:
        """Arguments behind the shapes."""
        return ()

    def launches(self, choice: OnlyChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        spec = self.spec
        *batch, rows, columns = spec.output_shape
        depth = spec.a_shape[-2] if spec.adj_x else spec.a_shape[-1]
        sizes = (output.images, *batch)
        if 0 in (*sizes, rows, columns):
            return []
        memory, strides, steps = [], [], []
        given = iter(enumerate(inputs))
        for index, (shape, operand) in enumerate(zip((spec.a_shape, spec.b_shape), self.operands, strict=True)):
            slot, runs = Slot(f"c{index}"), 1
            if operand is None:
                number, layout = next(given)
                slot, runs = layout.slot(slot_name("x", number)), layout.images
            memory.append(slot)
            strides.append((0 if runs == 1 else math.prod(shape), *_batch_strides(shape, len(batch))))
            steps.append((shape[-1], 1))
        (a_row, a_step), (b_step, b_column) = (
            pair[::-1] if flipped else pair for pair, flipped in zip(steps, (spec.adj_x, spec.adj_y), strict=True)
        )
        loops = folded(sizes, *strides)
        spec.require(len(loops) <= BATCH_LOOPS, f"{len(batch)} batch dimensions are too many on a GPU")
        loops = [*reversed(loops), *[Dimension(1, (0, 0))] * (BATCH_LOOPS - len(loops))]
        row_tiles, column_tiles = -(-rows // TILE), -(-columns // TILE)
        blocks = math.prod(sizes) * row_tiles * column_tiles
        if blocks >= 1 << 31:
            raise spec.fail(f"{blocks} blocks in one launch; the limit is 2^31 - 1, use a smaller batch")
        return [
            Launch(
                self.kernel,
                (blocks, 1, 1),
                (
                    *(*memory, *self.memory_behind, output.slot("y")),
                    *int32s(rows, columns, depth, row_tiles, column_tiles, a_row, a_step, b_step, b_column),
                    *int32s(*(loop.size for loop in loops[: BATCH_LOOPS - 1])),
                    *(np.int64(loop.strides[tensor]) for tensor in range(2) for loop in loops),
                    *self.numbers_behind,
                ),
            )
        ]


@dataclass(frozen=True, eq=False)
class BatchMatmulLayer(FloatBatchMatmulLayer):
    """A packed layer of codes.

    Attributes:
        factors: one factor as the rule reads it.
        rule: the macro of kernels_cuda/requantize.cuh.
    """

    spec: BatchMatmulSpec
    factors: npt.NDArray[Any]
    rule: str

    @property
    def kernel(self) -> Kernel:
        if self.spec.activation_dtype == INT16:
            return int16_kernel(self.spec.b_quant.dtype)
        return batch_matmul_kernel(self.rule)

    @property
    def constants(self) -> Mapping[str, npt.NDArray[Any]]:
        return {"factors": self.factors, **super().constants}

    @property
    def memory_behind(self) -> tuple[Argument, ...]:
        return (Slot("factors"),)

    @property
    def numbers_behind(self) -> tuple[Argument, ...]:
        spec, out = self.spec, self.spec.out_quant
        if spec.activation_dtype == INT16:
            # Zero points are 0, and the range is whole.
            return ()
        zero_points = (quant.scalar_zero_point() for quant in (spec.a_quant, spec.b_quant, out))
        return int32s(*zero_points, out.qmin, out.qmax)


def _batch_strides(shape: Shape, rank: int) -> tuple[int, ...]:
    """Strides in elements of the dimensions before the matrices', 0 where they are broadcast."""
    own = zip(shape[:-2], contiguous_strides(shape)[:-2], strict=True)
    return (*(0,) * (rank - len(shape) + 2), *(0 if size == 1 else stride for size, stride in own))


def pack(
    spec: BatchMatmulSpec | FloatBatchMatmulSpec, rule: Rule, constants: Sequence[npt.NDArray[Any] | None]
) -> FloatBatchMatmulLayer:
    """Packs a layer.

    Args:
        constants: each operand that is constant; None of an activation.
    """
    a, b = (None if each is None else np.ascontiguousarray(each) for each in constants)
    if isinstance(spec, FloatBatchMatmulSpec):
        return FloatBatchMatmulLayer(spec, (a, b))
    depth = spec.a_shape[-2] if spec.adj_x else spec.a_shape[-1]
    reach = [
        max(quant.scalar_zero_point() - quant.qmin, quant.qmax - quant.scalar_zero_point())
        for quant in (spec.a_quant, spec.b_quant)
    ]
    reals = numerics.real_multipliers(
        spec.a_quant.scalar_scale(), spec.b_quant.scales, spec.out_quant.scalar_scale(), rule.product
    )
    factors, macro, _ = pack_factors(
        rule.rounding,
        reals,
        np.zeros(1, np.int64),
        np.array([depth * reach[0] * reach[1]], np.int64),
        spec.out_quant.scalar_zero_point(),
        can_clear=False,
    )
    return BatchMatmulLayer(spec, (a, b), factors, macro)
