"""SUB: ADD's arithmetic with the second input negated.

Sources: LiteRT tflite/kernels/sub.cc, internal/reference/sub.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops.add import scaled_sum, sum_factors
from gpuq.ops.broadcast import BinarySpec
from gpuq.ops.spec import INT16


@dataclass(frozen=True, kw_only=True)
class SubSpec(BinarySpec):
    """y = a - b. See BinarySpec for the fields."""

    op: ClassVar[str] = "SUB"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require(
            self.a_quant.dtype != INT16 or sum_factors(self)[2] < 1,
            f"int16 output scale {self.out_quant.scale} is more than 2^14 times smaller than the larger input's",
        )


def reference(spec: SubSpec, rule: Rule, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact difference of (N, *a_shape) and (N, *b_shape) codes, either N may be 1: (N, *output_shape) codes."""
    return scaled_sum(spec, rule, a, b, sign=-1)
