"""BATCH_MATMUL by floating-point BLAS, exact because no sum leaves the integers that the type holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq import numerics
from gpuq.cpu.epilogue import Epilogue
from gpuq.cpu.gemm import EXACT_FLOAT32, matmul
from gpuq.numerics import Rounding, Rule
from gpuq.ops.batch_matmul import BatchMatmulSpec
from gpuq.quant import Quant


class BatchMatmulPlan:
    """Products run by run; each operand may be constant."""

    def __init__(self, spec: BatchMatmulSpec, rule: Rule, constants: Sequence[npt.NDArray[Any] | None]) -> None:
        self.spec = spec
        self.name = "batch_matmul_gemm"
        self._constants = [None if codes is None else codes[None] for codes in constants]
        self.constant_bytes = sum(codes.nbytes for codes in self._constants if codes is not None)
        n = spec.output_shape[-1]
        depth = spec.macs // max(1, int(np.prod(spec.output_shape, dtype=np.int64)))
        bound = depth * _largest(spec.a_quant) * _largest(spec.b_quant)
        self._dtype = np.dtype(np.float32 if bound <= EXACT_FLOAT32 else np.float64)
        self._epilogue = Epilogue(
            rule=rule,
            reals=numerics.real_multipliers(
                spec.a_quant.scalar_scale(), spec.b_quant.scales, spec.out_quant.scalar_scale(), rule.product
            ),
            bias=np.zeros(n, np.int64),
            bounds=np.full(n, bound, np.int64),
            out_quant=spec.out_quant,
            act_min=spec.out_quant.qmin,
            act_max=spec.out_quant.qmax,
            wraps=rule.rounding is not Rounding.V3,
        )

    def workspace_bytes(self, runs: int) -> int:
        return 0

    def launch(
        self,
        inputs: Sequence[npt.NDArray[Any]],
        outputs: Sequence[npt.NDArray[Any]],
        workspace: npt.NDArray[np.uint8],
        stream: object = None,
    ) -> None:
        activations = iter(inputs)
        a, b = (next(activations) if codes is None else codes for codes in self._constants)
        a, b = self.spec.operands(a, b)
        n = self.spec.output_shape[-1]
        for run, codes in enumerate(outputs[0]):
            left = _centred(a[run if a.shape[0] > 1 else 0], self.spec.a_quant, self._dtype)
            right = _centred(b[run if b.shape[0] > 1 else 0], self.spec.b_quant, self._dtype)
            sums = matmul(left, right).reshape(-1, n)
            self._epilogue(sums, codes.reshape(-1, n), np.empty(sums.shape, np.float64))


def _largest(quant: Quant) -> int:
    """The largest distance of a code from the zero point."""
    return max(quant.qmax - quant.scalar_zero_point(), quant.scalar_zero_point() - quant.qmin)


def _centred(codes: npt.NDArray[Any], quant: Quant, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    return np.asarray(codes.astype(dtype) - dtype.type(quant.scalar_zero_point()))
