"""BATCH_MATMUL: y[..., m, n] = clamp(zp_y + requant(sum_k (a[..., m, k] - zp_a) * (b[..., k, n] - zp_b))).

int16 codes have zero point 0 and sums of 64 bits (V3); b may be int8 there.
Batch dimensions broadcast; adj_x and adj_y say that a and b are stored with their last two dimensions exchanged.
Sources: LiteRT tflite/kernels/batch_matmul.cc, internal/reference/batch_matmul.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.numerics import Rounding, Rule
from gpuq.ops.spec import INT8, INT16, Shape, Spec, clamp_to, run_shape, shape_text
from gpuq.quant import Quant


@dataclass(frozen=True, kw_only=True)
class BatchMatmulShapes(Spec):
    """Products of matrices of any numbers.

    Args:
        a_shape, b_shape: shapes of one run as they are stored, rank 2 or more.
        adj_x, adj_y: a is (..., K, M) instead of (..., M, K), b is (..., N, K) instead of (..., K, N).
    """

    op: ClassVar[str] = "BATCH_MATMUL"

    a_shape: Shape
    b_shape: Shape
    adj_x: bool = False
    adj_y: bool = False

    def __post_init__(self) -> None:
        shapes = f"shapes {shape_text(self.a_shape)} and {shape_text(self.b_shape)}"
        self.require(min(len(self.a_shape), len(self.b_shape)) >= 2, f"{shapes} must have rank 2 or more")
        (_, a_depth), (b_depth, _) = self._matrices
        self.require(a_depth == b_depth, f"{shapes}: {a_depth} columns meet {b_depth} rows")
        try:
            np.broadcast_shapes(self.a_shape[:-2], self.b_shape[:-2])
        except ValueError:
            raise self.fail(f"batch dimensions of {shapes} do not broadcast") from None

    @property
    def _matrices(self) -> tuple[Shape, Shape]:
        """(M, K) and (K, N)."""
        a, b = self.a_shape[-2:], self.b_shape[-2:]
        return (a[::-1] if self.adj_x else a), (b[::-1] if self.adj_y else b)

    @property
    def output_shape(self) -> Shape:
        (m, _), (_, n) = self._matrices
        return (*np.broadcast_shapes(self.a_shape[:-2], self.b_shape[:-2]), m, n)

    @property
    def macs(self) -> int:
        return int(np.prod(self.output_shape, dtype=np.int64)) * self._matrices[0][1]

    def operands(self, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Both operands as (N, batch dimensions, M, K) and (N, batch dimensions, K, N), views of equal rank."""
        rank = len(self.output_shape)
        a = run_shape(a, (1,) * (rank - len(self.a_shape)) + self.a_shape)
        b = run_shape(b, (1,) * (rank - len(self.b_shape)) + self.b_shape)
        return (a.swapaxes(-1, -2) if self.adj_x else a), (b.swapaxes(-1, -2) if self.adj_y else b)


@dataclass(frozen=True, kw_only=True)
class BatchMatmulSpec(BatchMatmulShapes):
    """Products of matrices of codes. See BatchMatmulShapes for the other fields.

    Args:
        a_quant, b_quant, out_quant: per tensor. int8; or int16 of zero point 0, where b may be int8, of zero point 0.
    """

    a_quant: Quant
    b_quant: Quant
    out_quant: Quant

    def __post_init__(self) -> None:
        dtype = self.a_quant.dtype
        self.require_dtype("input", dtype, INT8, INT16)
        self.require_dtype("second input", self.b_quant.dtype, *{dtype: None, INT8: None})
        self.require_dtype("output", self.out_quant.dtype, dtype)
        self.require_per_tensor(a_quant=self.a_quant, b_quant=self.b_quant, out_quant=self.out_quant)
        self.require_symmetric_int16(a_quant=self.a_quant, b_quant=self.b_quant, out_quant=self.out_quant)
        self.require(
            dtype == INT8 or self.b_quant.zero_point == 0,
            f"b_quant must have zero point 0 beside int16, got {self.b_quant.zero_point}",
        )
        super().__post_init__()

    @property
    def activation_dtype(self) -> np.dtype[Any]:
        return self.a_quant.dtype


def finish(spec: BatchMatmulSpec, rule: Rule, acc: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Requantization, zero point and clamp of sums of any shape."""
    reals = numerics.real_multipliers(
        spec.a_quant.scalar_scale(), spec.b_quant.scales, spec.out_quant.scalar_scale(), rule.product
    )
    sums = acc if rule.rounding is Rounding.V3 else numerics.wrap_int32(acc)
    codes = numerics.requantize(sums, rule.rounding, reals) + spec.out_quant.scalar_zero_point()
    return clamp_to(codes, spec.out_quant.qmin, spec.out_quant.qmax, spec.out_quant.dtype)


def reference(spec: BatchMatmulSpec, rule: Rule, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact products of (N, *a_shape) and (N, *b_shape) codes, either N may be 1: (N, *output_shape) codes."""
    a, b = spec.operands(a, b)
    a_centred = a.astype(np.int64) - spec.a_quant.scalar_zero_point()
    b_centred = b.astype(np.int64) - spec.b_quant.scalar_zero_point()
    return finish(spec, rule, a_centred @ b_centred)
