"""SUB: ADD's arithmetic with the second input negated.

Sources: LiteRT tflite/kernels/sub.cc, internal/reference/sub.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy.typing as npt

from gpuq.numerics import Rule
from gpuq.ops.add import scaled_sum
from gpuq.ops.broadcast import BinarySpec


@dataclass(frozen=True, kw_only=True)
class SubSpec(BinarySpec):
    """y = a - b. See BinarySpec for the fields."""

    op: ClassVar[str] = "SUB"


def reference(spec: SubSpec, rule: Rule, a: npt.NDArray[Any], b: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Exact difference of (N, *a_shape) and (N, *b_shape) codes, either N may be 1: (N, *output_shape) codes."""
    return scaled_sum(spec, rule, a, b, sign=-1)
