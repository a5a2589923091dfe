"""L2_NORMALIZATION of 8-bit codes: one warp for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from gpuq.cuda.epilogue import epilogue_defines
from gpuq.cuda.kernel import Kernel, Launch, int32s
from gpuq.cuda.layer import Contiguous, OnlyChoice, OnlyWayLayer
from gpuq.cuda.layout import ImageLayout
from gpuq.numerics import Rounding, Rule
from gpuq.ops.l2_normalization import L2NormalizationSpec
from gpuq.ops.spec import INT8

THREADS = 128
ROWS = THREADS // 32
"""Of a block: a warp each."""


def l2_kernel(rule: str = "RULE_V1", dtype: np.dtype[Any] = INT8) -> Kernel:
    """l2_normalization.cu; its head says what the arguments mean."""
    return Kernel(
        name="l2_normalization_warp",
        source="l2_normalization.cu",
        entry="l2_normalization",
        defines=(("THREADS", THREADS), *epilogue_defines(rule, dtype)),
        threads=(THREADS, 1, 1),
    )


KERNELS = (l2_kernel(),)


@dataclass(frozen=True, eq=False)
class L2NormalizationLayer(Contiguous, OnlyWayLayer):
    """A layer; it has no constants.

    Attributes:
        rule: the macro of kernels_cuda/requantize.cuh.
    """

    spec: L2NormalizationSpec
    rule: str

    @property
    def constants(self) -> Mapping[str, npt.NDArray[Any]]:
        return {}

    @property
    def x_shapes(self) -> tuple[tuple[int, int, int], ...]:
        return (self.y_shape,)

    @property
    def y_shape(self) -> tuple[int, int, int]:
        return 1, 1, self.spec.depth

    @property
    def name(self) -> str:
        return l2_kernel().name

    def launches(self, choice: OnlyChoice, inputs: Sequence[ImageLayout], output: ImageLayout) -> Sequence[Launch]:
        (x,), spec, out = inputs, self.spec, self.spec.out_quant
        return [
            Launch(
                l2_kernel(self.rule, spec.activation_dtype),
                (-(-x.images // ROWS), 1, 1),
                (
                    *(x.slot("x"), output.slot("y")),
                    *int32s(x.images, spec.depth, spec.x_quant.scalar_zero_point()),
                    *int32s(out.scalar_zero_point(), out.qmin, out.qmax),
                ),
            )
        ]


def pack(spec: L2NormalizationSpec, rule: Rule) -> L2NormalizationLayer:
    """There is nothing to pack."""
    return L2NormalizationLayer(spec, "RULE_V2" if rule.rounding is Rounding.FIXED_POINT_SINGLE else "RULE_V1")
