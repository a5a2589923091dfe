"""MEAN, SUM, REDUCE_MAX, REDUCE_MIN over any dimensions: by columns where the last dimension is kept, or by outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.cuda.codes import type_name
from gpuq.cuda.epilogue import epilogue_defines
from gpuq.cuda.kernel import Kernel, Launch, int32s
from gpuq.cuda.layer import Traits
from gpuq.cuda.layout import ImageLayout, alignment
from gpuq.cuda.strides import Dimension, folded, image_shape, run_strides
from gpuq.numerics import Rounding, Rule, uniform
from gpuq.ops.mean import MeanSpec, divided_multiplier, image_factor_and_bias
from gpuq.ops.reduce import (
    ReduceMaxSpec,
    ReduceMinSpec,
    ReduceSpec,
    SumSpec,
    affine_factor_and_offset,
    float_factor_and_offset,
)
from gpuq.ops.spec import INT8, INT16, UINT8

THREADS = 128
# Loops of a kernel over kept and over reduced dimensions. Of six dimensions and the runs no more are left after
# neighbours are joined: those before the last two have no gaps between them.
KEPT_LOOPS, REDUCED_LOOPS, COLUMN_REDUCED_LOOPS = 5, 4, 2


def reduce_kernel(
    quads: int, *, reduction: str = "SUM", vec: int = 4, dtype: np.dtype[Any] = INT8, rule: str = "RULE_V1"
) -> Kernel:
    """reduce.cu by columns, with this many fours of columns a block; 0: one thread for each output."""
    what = f"reduce_{reduction.lower()}"
    return Kernel(
        name=(f"{what}_columns_u{8 * vec}_{4 * quads}" if quads else f"{what}_any_u8") + type_name(dtype),
        source="reduce.cu",
        entry="reduce",
        defines=(
            ("COLUMNS", int(quads > 0)),
            ("REDUCTION", f"REDUCTION_{reduction}"),
            ("VEC", vec),
            ("QUADS", max(quads, 1)),
            ("THREADS", THREADS),
            *epilogue_defines(rule, dtype),
        ),
        threads=(THREADS, 1, 1),
    )


QUADS = (8, 32)
"""Fours of columns of a block: 32 bytes of a row are one memory transaction, 128 a cache line."""

KERNELS = (
    *(reduce_kernel(quads, vec=vec) for quads in QUADS for vec in (4, 1)),
    reduce_kernel(0, vec=1),
    reduce_kernel(QUADS[0], rule="RULE_V1_BLOCKS"),
    reduce_kernel(QUADS[0], reduction="MAX"),
    reduce_kernel(0, reduction="MIN", vec=1),
    reduce_kernel(QUADS[0], dtype=INT16),
    reduce_kernel(0, vec=1, dtype=INT16),
)


@dataclass(frozen=True)
class ReduceChoice:
    """Fours of columns of a block, where the layer allows columns."""

    quads: int

    @property
    def name(self) -> str:
        return f"reduce_columns_{4 * self.quads}"


@dataclass(frozen=True, eq=False)
class ReduceLayer:
    """A reduction; it has no constants.

    Attributes:
        reduction: REDUCTION of kernels_cuda/reduce.cu.
        dtype: what the codes are summed or compared as.
        rule: the macro of kernels_cuda/requantize.cuh; this and what follows say nothing of maxima and minima.
        factor: (multiplier, shift) of a sum with its bias; of RULE_RECIPROCAL_F32 the bits of factor and offset.
        bias: what joins the sum of codes before, modulo 2^32.
        zero_point: what joins the result behind.
        block: of RULE_V1_BLOCKS, channels of a whole block.
    """

    spec: ReduceSpec
    reduction: str
    dtype: np.dtype[Any]
    rule: str = "RULE_V1"
    factor: tuple[int, int] = (0, 0)
    bias: int = 0
    zero_point: int = 0
    block: int = 0

    @property
    def constants(self) -> Mapping[str, npt.NDArray[Any]]:
        return {}

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return (image_shape(self.spec.x_shape),)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return image_shape(self.spec.output_shape)

    def choices(self, runs: int, traits: Traits) -> Sequence[ReduceChoice]:
        # Few outputs need blocks that cover few columns, so that there are more of them.
        blocks = runs * -(-math.prod(self.spec.output_shape) // (4 * QUADS[1]))
        return tuple(ReduceChoice(quads) for quads in (QUADS if blocks < 4 * traits.multiprocessors else QUADS[::-1]))

    def workspace_bytes(self, runs: int, choice: ReduceChoice) -> int:
        return 0

    def launches(self, choice: ReduceChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        spec, x = self.spec, inputs[0]
        if len(spec.x_shape) > 6:
            raise spec.fail(f"{len(spec.x_shape)} dimensions; the CUDA kernel has up to 6")
        if 0 in spec.x_shape:
            raise spec.fail(f"nothing can be made of a tensor of shape {spec.x_shape}")
        x_strides, y_strides = run_strides(x, spec.x_shape), self._y_strides(output)
        kept_axes = [0, *(axis + 1 for axis in range(len(spec.x_shape)) if axis not in spec.axes)]
        sizes = (output.images, *spec.x_shape)
        kept = folded(*([values[axis] for axis in kept_axes] for values in (sizes, x_strides, y_strides)))
        reduced = folded([spec.x_shape[axis] for axis in spec.axes], [x_strides[axis + 1] for axis in spec.axes]) or [
            Dimension(1, (0,))
        ]
        quads, size = 0, self.dtype.itemsize
        columns = Dimension(1, (0, 0))
        # Grids have 65,535 blocks along y; tensors with more columns than that are no images.
        if (
            kept
            and kept[-1].strides == (size, size)
            and len(reduced) <= COLUMN_REDUCED_LOOPS
            and kept[-1].size < 1 << 20
        ):
            columns, quads = kept.pop(), choice.quads
        spec.require(not self.block or quads > 0, "rules of blocks have a CUDA kernel for channels of images alone")
        channels = spec.x_shape[-1] if spec.x_shape else 1
        outputs = math.prod(dimension.size for dimension in kept)
        if outputs >= 1 << 31:
            raise spec.fail(f"{outputs} outputs in one launch; the limit is 2^31 - 1, use a smaller batch")
        vec = 1
        if quads:
            x_distances = (x.misalignment + x.offset, *(each.strides[0] for each in (*kept, *reduced)))
            y_distances = (output.misalignment + output.offset, *(each.strides[1] for each in kept))
            four = 4 * size
            vec = 4 if alignment(columns.size * size, *x_distances, *y_distances, largest=four) == four else 1
        kept_loops = [*reversed(kept), *[Dimension(1, (0, 0))] * (KEPT_LOOPS - len(kept))]
        reduced_loops = [*reversed(reduced), *[Dimension(1, (0,))] * (REDUCED_LOOPS - len(reduced))]
        limits = np.iinfo(self.dtype)
        start = {"SUM": 0, "MAX": int(limits.min), "MIN": int(limits.max)}[self.reduction]
        return [
            Launch(
                reduce_kernel(quads, reduction=self.reduction, vec=vec, dtype=self.dtype, rule=self.rule),
                (outputs, -(-columns.size // (4 * quads)), 1) if quads else (-(-outputs // THREADS), 1, 1),
                (
                    x.slot("x"),
                    output.slot("y"),
                    *int32s(outputs, columns.size),
                    *int32s(*(loop.size for loop in kept_loops[: KEPT_LOOPS - 1])),
                    *(np.int64(loop.strides[tensor]) for tensor in range(2) for loop in kept_loops),
                    *int32s(*(loop.size for loop in reduced_loops)),
                    *(np.int64(loop.strides[0]) for loop in reduced_loops),
                    *int32s(*self.factor, self.bias, self.zero_point, limits.min, limits.max, start),
                    *int32s(channels, channels // self.block * self.block if self.block else 0),
                ),
            )
        ]

    def _y_strides(self, output: ImageLayout) -> tuple[int, ...]:
        """Byte strides of the output along (runs, *x_shape), 0 where it is reduced."""
        spec = self.spec
        runs, *within = run_strides(output, spec.output_shape)
        if spec.keep_dims:
            return (runs, *within)
        steps = iter(within)
        return (runs, *(0 if axis in spec.axes else next(steps) for axis in range(len(spec.x_shape))))


# What becomes of rule v1u_block16 with so many channels: the rule, and channels of a block.
_BLOCK_RULES = {
    Rounding.V1: ("RULE_V1", 0),
    Rounding.V1U: ("RULE_V1U", 0),
    Rounding.V1U_BLOCK16: ("RULE_V1_BLOCKS", 16),
}


def pack(spec: ReduceSpec, rule: Rule) -> ReduceLayer:
    """Packs MEAN, SUM, REDUCE_MAX or REDUCE_MIN of codes; sums end in a fixed-point product."""
    if spec.activation_dtype not in (INT8, UINT8, INT16):
        raise spec.fail(f"there is no CUDA kernel for {spec.activation_dtype}")
    dtype = spec.activation_dtype
    if isinstance(spec, ReduceMaxSpec):
        return ReduceLayer(spec, "MIN" if isinstance(spec, ReduceMinSpec) else "MAX", dtype)
    assert isinstance(spec, MeanSpec | SumSpec)
    if rule.rounding is Rounding.V1U_BLOCK16 and isinstance(spec, MeanSpec):
        real, zero_point = image_factor_and_bias(spec)
        macro, block = _BLOCK_RULES[uniform(rule.rounding, spec.x_shape[-1])]
        return ReduceLayer(spec, "SUM", dtype, macro, numerics.quantize_multiplier(real), 0, zero_point, block)
    if rule.rounding is Rounding.RECIPROCAL_F32:
        scale, offset = np.array(float_factor_and_offset(spec)).view(np.int32).tolist()
        return ReduceLayer(spec, "SUM", dtype, "RULE_RECIPROCAL_F32", (scale, offset))
    if rule.rounding is Rounding.AFFINE_F32 and isinstance(spec, SumSpec):
        scale, offset = np.array(affine_factor_and_offset(spec)).view(np.int32).tolist()
        zero_point = spec.out_quant.scalar_zero_point()
        return ReduceLayer(spec, "SUM", dtype, "RULE_AFFINE_F32", (scale, offset), 0, zero_point)
    macros = {Rounding.V1: "RULE_V1", Rounding.V1_BYTES: "RULE_V1", Rounding.V2: "RULE_V2"}
    if rule.rounding not in macros:
        raise spec.fail(f"there is no CUDA kernel for rule {rule.rounding.value}")
    # LiteRT's reference SUM takes int8 codes for the unsigned bytes that hold them.
    dtype = UINT8 if rule.rounding is Rounding.V1_BYTES else dtype
    factor = divided_multiplier(spec) if isinstance(spec, MeanSpec) else numerics.quantize_multiplier(spec.factor)
    bias = int(numerics.wrap_int32(np.array(-spec.count * spec.x_quant.scalar_zero_point())))
    zero_point = spec.out_quant.scalar_zero_point()
    return ReduceLayer(spec, "SUM", dtype, macros[rule.rounding], factor, bias, zero_point)
